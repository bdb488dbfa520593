/**
 * Large files on their way: whoever is killed, what was sent is not sent again, and neither side ever holds much of it. Sizes are
 * counted between the two, memory by the system: the largest resident set of the whole process, Node.js included.
 */
import { describe, expect, it, onTestFinished } from 'vitest';
import { spawn, type ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createReadStream, readFileSync } from 'node:fs';
import { open, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CherryQ } from 'cherryq';
import type { Dataset, Manifest } from 'cherryq/contract';
import { storeWorker, until } from '../support/api.ts';
import { startCountingRelay, type CountingRelay } from '../support/counting-relay.ts';
import { temporaryFolder } from '../support/temporary-store.ts';
import { tinySources } from '../support/tiny-model.ts';

const mebibyte = 2 ** 20;
const size = 3 * 2 ** 30;
const partBytes = 8 * mebibyte;
const mostMemory = 200e6;
/** With the compiler of its sources in it. */
const mostMemoryOfServer = 250e6;
const path = (name: string): string => new URL(`../support/${name}`, import.meta.url).pathname;

/** Ended with the test. */
function startProcess(args: readonly string[]): ChildProcess {
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  onTestFinished(() => void child.kill('SIGKILL'));
  return child;
}

interface Server {
  readonly child: ChildProcess;
  readonly url: string;
}

async function startServer(folder: string): Promise<Server> {
  const child = startProcess(['--import', 'tsx', path('serve.ts'), folder, storeWorker]);
  const [line] = (await once(child.stdout ?? child, 'data')) as [Buffer];
  return { child, url: line.toString().trim() };
}

async function kill(child: ChildProcess): Promise<void> {
  const exit = once(child, 'exit');
  child.kill('SIGKILL');
  await exit;
}

/** A client's process; `ended` is what it prints. */
function startClient(args: readonly string[]): { child: ChildProcess; ended: Promise<Ended> } {
  const child = startProcess([path('transfer-client.mjs'), ...args]);
  let text = '';
  child.stdout?.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
  const ended = once(child, 'close').then(([code]) => {
    expect(code, text).toBe(0);
    return JSON.parse(text) as Ended;
  });
  return { child, ended };
}
interface Ended {
  readonly result: unknown;
  /** How often it was told. */
  readonly progress: number;
  readonly peakBytes: number;
}

/** A file of holes with a mark in each part, so that no two are equal. */
async function writeSparse(file: string, sizeBytes: number): Promise<void> {
  const handle = await open(file, 'w');
  await handle.truncate(sizeBytes);
  for (let at = 0; at < sizeBytes; at += partBytes) await handle.write(`part at ${at}`, at);
  await handle.close();
}

async function hashOf(file: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(file, { highWaterMark: mebibyte })) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

/** The most that a process has held, which Linux tells. */
const peakOf = ({ pid }: ChildProcess): number =>
  1024 * Number(/VmHWM:\s*(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]);

/** Kills the server each time that so many bytes have passed, and starts another.  @returns the last one, and the most memory of all */
async function killAt(
  relay: CountingRelay,
  folder: string,
  first: Server,
  direction: 'sent' | 'received',
  bytes: readonly number[],
): Promise<{ server: Server; peakBytes: number }> {
  let server = first;
  let peakBytes = 0;
  for (const limit of bytes) {
    await waitFor(() => relay.bytes[direction] >= limit);
    peakBytes = Math.max(peakBytes, peakOf(server.child));
    relay.target(null);
    await kill(server.child);
    server = await startServer(folder);
    relay.target(server.url);
  }
  return { server, peakBytes };
}

function tell(what: string, bytes: number, clientPeak: number, serverPeak: number): void {
  const twice = (100 * (bytes / size - 1)).toFixed(2);
  const [client, server] = [clientPeak, serverPeak].map((each) => `${Math.round(each / 1e6)} MB`);
  console.log(`${what} of 3 GB: ${twice} % sent twice; memory of the client ${client}, of the server ${server}`);
}

async function waitFor(isSo: () => boolean): Promise<void> {
  while (!isSo()) await new Promise((resolve) => setTimeout(resolve, 10));
}

describe('a file of 3 GB', () => {
  it('is uploaded although the server is killed twice, with under 5 % sent twice, in under 200 MB of memory', async () => {
    const [folder, store] = [temporaryFolder(), temporaryFolder()];
    const file = join(folder, 'large.txt');
    await writeSparse(file, size);
    const relay = await startCountingRelay();
    const first = await startServer(store);
    relay.target(first.url);
    const client = startClient(['upload', relay.url, '-', file]);
    const { server, peakBytes } = await killAt(relay, store, first, 'sent', [size / 3, (2 * size) / 3]);
    const ended = await client.ended;
    const dataset = ended.result as Dataset;
    expect(dataset).toMatchObject({ status: 'ready', sizeBytes: size });
    expect(ended.progress).toBeGreaterThan(100);
    expect(await hashOf(join(store, `tenants/local/datasets/${dataset.id}/files/text.txt`))).toBe(
      dataset.files[0]?.sha256,
    );
    const serverPeak = Math.max(peakBytes, peakOf(server.child));
    tell('upload', relay.bytes.sent, ended.peakBytes, serverPeak);
    expect(relay.bytes.sent).toBeGreaterThan(size);
    expect(relay.bytes.sent).toBeLessThan(1.05 * size);
    expect(ended.peakBytes).toBeLessThan(mostMemory);
    expect(serverPeak).toBeLessThan(mostMemoryOfServer);
  }, 240_000);

  it('is downloaded although the server is killed twice, in the same bounds', async () => {
    const [folder, store] = [temporaryFolder(), temporaryFolder()];
    const relay = await startCountingRelay();
    const first = await startServer(store);
    relay.target(first.url);
    const { jobId, sha256 } = await leaveLargeArtifact(first.url, store);
    const before = relay.bytes.received;
    const client = startClient(['download', relay.url, jobId, folder]);
    const { server, peakBytes } = await killAt(relay, store, first, 'received', [size / 3, (2 * size) / 3]);
    const ended = await client.ended;
    const received = relay.bytes.received - before;
    expect(await hashOf(join(folder, 'large.bin'))).toBe(sha256);
    expect(ended.progress).toBeGreaterThan(100);
    const serverPeak = Math.max(peakBytes, peakOf(server.child));
    tell('download', received, ended.peakBytes, serverPeak);
    expect(received).toBeGreaterThan(size);
    expect(received).toBeLessThan(1.05 * size);
    expect(ended.peakBytes).toBeLessThan(mostMemory);
    expect(serverPeak).toBeLessThan(mostMemoryOfServer);
  }, 240_000);
});

describe('a Blob of 1 GB, such as a file of a page', () => {
  it('is hashed and sent a part at a time', async () => {
    const [folder, store] = [temporaryFolder(), temporaryFolder()];
    const file = join(folder, 'large.txt');
    await writeSparse(file, 2 ** 30);
    const server = await startServer(store);
    const { result, progress, peakBytes } = await startClient(['upload-blob', server.url, '-', file]).ended;
    expect(result).toMatchObject({ status: 'ready', files: [{ sizeBytes: 2 ** 30, sha256: await hashOf(file) }] });
    expect(progress).toBeGreaterThan(100);
    console.log(`a Blob of 1 GB: memory of the client ${Math.round(peakBytes / 1e6)} MB`);
    expect(peakBytes).toBeLessThan(mostMemory);
  }, 120_000);
});

describe('a client that is killed', () => {
  it('is gone on with by the same command, from what the server has', async () => {
    const [folder, store] = [temporaryFolder(), temporaryFolder()];
    const file = join(folder, 'large.txt');
    const sizeBytes = 32.5 * partBytes;
    await writeSparse(file, sizeBytes);
    const relay = await startCountingRelay();
    const server = await startServer(store);
    relay.target(server.url);
    const args = ['upload', relay.url, '-', file];
    const first = startClient(args);
    first.ended.catch(() => undefined);
    await waitFor(() => relay.bytes.sent >= sizeBytes / 2);
    await kill(first.child);
    const { result } = await startClient(args).ended;
    expect(result).toMatchObject({ status: 'ready', sizeBytes });
    // What was under way, and what was sent besides.
    expect(relay.bytes.sent - sizeBytes).toBeLessThan(5 * partBytes);
    const { data } = await new CherryQ({ baseUrl: server.url }).datasets.list();
    expect(data.map(({ id }) => id)).toEqual([(result as Dataset).id]);
  }, 60_000);
});

/** A job that has left a file of 3 GB, which no worker need make: its place is taken in the store. */
async function leaveLargeArtifact(url: string, store: string): Promise<{ jobId: string; sha256: string }> {
  const client = new CherryQ({ baseUrl: url });
  const model = await client.models.upload({ name: 'tiny', files: await tinySources() });
  const job = await client.jobs.create({
    modelId: model.id,
    scheme: { method: 'rtn' },
    metadata: { plan: '["succeed"]' },
  });
  await until(
    () => client.jobs.retrieve(job.id),
    ({ status }) => status === 'succeeded',
  );
  const artifacts = join(store, `tenants/local/jobs/${job.id}/artifacts`);
  const file = join(artifacts, 'large.bin');
  await writeSparse(file, size);
  const sha256 = await hashOf(file);
  const manifestFile = join(artifacts, 'manifest.json');
  const manifest = JSON.parse(await readFile(manifestFile, 'utf8')) as Manifest;
  const files = [{ path: 'large.bin', sizeBytes: (await stat(file)).size, sha256 }];
  await writeFile(manifestFile, JSON.stringify({ ...manifest, files }));
  return { jobId: job.id, sha256 };
}
