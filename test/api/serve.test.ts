import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { request, type IncomingMessage } from 'node:http';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { jobSchema, problemSchema, terminalStatuses, type Job } from 'cherryq/contract';
import { startServer, type RunningServer, type ServeOptions } from '@cherryq/api/serve';
import { declarationOf, sha256, storeWorker, until } from '../support/api.ts';
import { tinyModelFiles } from '../support/tiny-model.ts';

let storeFolder: string;
const servers: RunningServer[] = [];
const children: ChildProcess[] = [];
beforeEach(async () => {
  storeFolder = await mkdtemp(join(tmpdir(), 'cherryq-serve-'));
});
afterEach(async () => {
  for (const child of children.splice(0)) if (child.exitCode === null) child.kill('SIGKILL');
  await Promise.all(servers.splice(0).map((server) => server.close()));
  await rm(storeFolder, { recursive: true, force: true, maxRetries: 5 });
});

async function start(options: Partial<ServeOptions> = {}): Promise<RunningServer> {
  const server = await startServer({
    storeFolder,
    port: 0,
    trainerEntry: storeWorker,
    graceMs: 2000,
    logger: () => undefined,
    ...options,
  });
  servers.push(server);
  return server;
}

/** A server in a process of its own. */
async function spawnServer(): Promise<{ url: string; child: ChildProcess }> {
  const script = new URL('../support/serve.ts', import.meta.url).pathname;
  const child = spawn(process.execPath, ['--import', 'tsx', script, storeFolder, storeWorker], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  children.push(child);
  const [line] = (await once(child.stdout ?? child, 'data')) as [Buffer];
  return { url: line.toString().trim(), child };
}

const post = (url: string, body: unknown): Promise<Response> =>
  fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });

async function createJob(url: string, ...plan: string[]): Promise<Job> {
  const tiny = await tinyModelFiles();
  const files = declarationOf(tiny);
  const { id: modelId } = (await (await post(`${url}/v1/models`, { name: 'tiny', files })).json()) as { id: string };
  for (const [path, body] of Object.entries(tiny))
    expect((await fetch(`${url}/v1/models/${modelId}/files/${path}`, { method: 'PUT', body })).status).toBe(204);
  expect((await fetch(`${url}/v1/models/${modelId}/complete`, { method: 'POST' })).status).toBe(200);
  const metadata = { plan: JSON.stringify(plan) };
  return jobSchema.parse(await (await post(`${url}/v1/jobs`, { modelId, scheme: { method: 'rtn' }, metadata })).json());
}

const readJob = async (url: string, id: string): Promise<Job> =>
  jobSchema.parse(await (await fetch(`${url}/v1/jobs/${id}`)).json());

const pidsAlive = async (): Promise<number[]> => {
  const log = await readFile(join(storeFolder, 'worker.log'), 'utf8').catch(() => '');
  const pids = log
    .split('\n')
    .filter(Boolean)
    .map((line) => Number(line.split(' ')[2]));
  return pids.filter((pid) => {
    try {
      return process.kill(pid, 0);
    } catch {
      return false;
    }
  });
};

describe('the local server', () => {
  it('serves over HTTP, streams a job to its end and tells others its address', async () => {
    const { url } = await start();
    expect(JSON.parse(await readFile(join(storeFolder, 'server.json'), 'utf8'))).toMatchObject({
      pid: process.pid,
      url,
    });
    const { id } = await createJob(url, 'succeed');
    const stream = await fetch(`${url}/v1/jobs/${id}/events`, { headers: { accept: 'text/event-stream' } });
    expect(await stream.text()).toContain('event: job.succeeded');
    const part = await fetch(`${url}/v1/jobs/${id}/artifacts/model/weights.bin`, { headers: { range: 'bytes=0-6' } });
    expect(await part.text()).toBe('sixteen');
    const head = await fetch(`${url}/v1/jobs/${id}/artifacts/model/weights.bin`, { method: 'HEAD' });
    expect(head.headers.get('content-length')).toBe('16');
  });

  it('takes a large upload and refuses one that breaks off, keeping nothing of it', async () => {
    const { url } = await start();
    const body = new Uint8Array(8_000_000).fill(7);
    const files = [{ path: 'w.bin', sizeBytes: body.length, sha256: sha256(body) }];
    const { id } = (await (await post(`${url}/v1/datasets`, { name: 'big', files })).json()) as { id: string };
    const address = `${url}/v1/datasets/${id}/files/w.bin`;

    const broken = request(address, { method: 'PUT', headers: { 'content-length': body.length } });
    broken.on('error', () => undefined);
    broken.write(body.subarray(0, 1_000_000));
    setTimeout(() => broken.destroy(), 50);
    await new Promise((resolve) => broken.once('close', resolve));
    const dataset = (await (await fetch(`${url}/v1/datasets/${id}`)).json()) as { files: { uploaded: boolean }[] };
    expect(dataset.files[0]?.uploaded).toBe(false);

    expect((await fetch(address, { method: 'PUT', body })).status).toBe(204);
    expect((await fetch(`${url}/v1/datasets/${id}/complete`, { method: 'POST' })).status).toBe(200);
  });

  it('B15: answers weights that no model can have before the rest of them is sent', async () => {
    const { url } = await start();
    const sizeBytes = 2 ** 33;
    const files = [{ path: 'model.safetensors', sizeBytes, sha256: '0'.repeat(64) }];
    const { id } = (await (await post(`${url}/v1/models`, { name: 'bad', files })).json()) as { id: string };
    const address = `${url}/v1/models/${id}/files/model.safetensors`;
    const put = request(address, { method: 'PUT', headers: { 'content-length': sizeBytes } });
    put.on('error', () => undefined);
    put.write(Buffer.alloc(100_000, 0x7b));
    const [response] = (await once(put, 'response')) as [IncomingMessage];
    const answer = problemSchema.parse(JSON.parse((await response.toArray()).join('')));
    put.destroy();
    expect(answer).toMatchObject({ status: 422, code: 'invalid_model', param: 'model.safetensors' });
    expect(answer.detail).toMatch(/claims a header of \d+ bytes/);
    expect(await readdir(join(storeFolder, `tenants/local/models/${id}`))).toEqual(['model.json']);
  });

  it('closes while an event stream is open, and lets the folder go', async () => {
    const server = await start();
    const { id } = await createJob(server.url, 'wait');
    const stream = await fetch(`${server.url}/v1/jobs/${id}/events`, { headers: { accept: 'text/event-stream' } });
    await until(pidsAlive, (pids) => pids.length === 1);
    await server.close();
    await stream.text().catch(() => undefined);
    expect(await pidsAlive()).toEqual([]);
    await expect(readFile(join(storeFolder, 'server.json'))).rejects.toThrow('ENOENT');
  });
});

describe('the local server refuses', () => {
  it('to listen beyond this machine', async () => {
    await expect(start({ host: '0.0.0.0' })).rejects.toMatchObject({
      name: 'InputError',
      code: 'not_loopback',
      param: 'host',
    });
  });

  it('a taken port, naming it and what to do, and lets the folder go', async () => {
    const other = createServer().listen(0, '127.0.0.1');
    await once(other, 'listening');
    const { port } = other.address() as AddressInfo;
    await expect(start({ port })).rejects.toMatchObject({
      code: 'port_taken',
      message: expect.stringContaining(String(port)),
    });
    other.close();
    await start();
  });

  it('a folder that another server works on, naming its process and address', async () => {
    const { url } = await start();
    await expect(start()).rejects.toMatchObject({
      code: 'folder_in_use',
      message: expect.stringMatching(new RegExp(`process ${process.pid}.*${url}`)),
    });
  });

  it('requests under a foreign name or from a foreign page', async () => {
    const { url } = await start();
    const rebound = await new Promise<string>((resolve, reject) => {
      const outgoing = request(`${url}/healthz`, { headers: { host: 'evil.example:80' } }, (incoming) => {
        incoming.setEncoding('utf8').once('data', resolve);
      });
      outgoing.once('error', reject).end();
    });
    expect(problemSchema.parse(JSON.parse(rebound))).toMatchObject({ code: 'forbidden', param: 'Host' });
    const foreign = await fetch(`${url}/healthz`, { headers: { origin: 'https://evil.example' } });
    expect(problemSchema.parse(await foreign.json())).toMatchObject({ code: 'forbidden', param: 'Origin' });
  });
});

describe('after a crash', () => {
  it('takes over the folder of a server that is gone', async () => {
    await writeFile(
      join(storeFolder, 'server.json'),
      JSON.stringify({ pid: 999_999_999, processStart: '1', url: 'http://127.0.0.1:1' }),
    );
    await start();
  });

  it('goes on with every job of a server that was killed, and no worker of it stays', async () => {
    const { url, child } = await spawnServer();
    const running = await createJob(url, 'wait', 'succeed');
    const waiting = await createJob(url, 'succeed');
    await until(pidsAlive, (pids) => pids.length === 1);
    child.kill('SIGKILL');
    await once(child, 'exit');

    const server = await start();
    expect(server.recoveredJobs).toBe(2);
    for (const { id } of [running, waiting])
      await until(
        () => readJob(server.url, id),
        (job) => terminalStatuses.has(job.status),
      );
    expect(await readJob(server.url, running.id)).toMatchObject({ status: 'succeeded', attempt: 2 });
    expect(await readJob(server.url, waiting.id)).toMatchObject({ status: 'succeeded', attempt: 1 });
    await until(pidsAlive, (pids) => pids.length === 0);
  });
});
