import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { CherryQ, InputError, IntegrityError, JobFailedError, type JobEvent } from 'cherryq';
import { CherryQ as NodeClient, compress, downloadArtifacts, uploadModelFolder, uploadTextFile } from 'cherryq/node';
import type { Manifest } from 'cherryq/contract';
import { openTestApi } from '../support/api.ts';
import { listen } from '../support/listen.ts';
import { tinyModelFiles } from '../support/tiny-model.ts';
import { address, clientOf, jobId } from './support.ts';

async function makeFolder(contents: Record<string, string | Uint8Array> = {}): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'cherryq-sdk-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  for (const [path, content] of Object.entries(contents)) {
    await mkdir(dirname(join(folder, path)), { recursive: true });
    await writeFile(join(folder, path), content);
  }
  return folder;
}

async function open() {
  const api = await openTestApi({ concurrency: 1 });
  onTestFinished(api.close);
  const requests: string[] = [];
  return {
    api,
    requests,
    client: clientOf(api, ({ method, url }) => requests.push(`${method} ${new URL(url).pathname}`)),
  };
}

const modelContents = await tinyModelFiles();
const plan = (...words: string[]) => ({
  metadata: { plan: JSON.stringify(words) },
  scheme: { method: 'rtn' as const },
});

describe('uploadModelFolder', () => {
  it('takes the files of a model and leaves the rest', async () => {
    const { client } = await open();
    const folder = await makeFolder({
      ...modelContents,
      'model.safetensors.index.json': '{}',
      'generation_config.json': '{}',
      'tokenizer.model': 'sp',
      'chat_template.jinja': '{{ x }}',
      LICENSE: 'free',
      'README.md': 'no',
      'pytorch_model.bin': 'no',
      '.gitattributes': 'no',
      '.hidden.json': 'no',
      'onnx/model.safetensors': 'no',
    });
    await symlink(join(folder, 'model.safetensors'), join(folder, 'model-2.safetensors'));
    const model = await uploadModelFolder(client, folder);
    expect(model.files.map((file) => file.path)).toEqual([
      'LICENSE',
      'chat_template.jinja',
      'config.json',
      'generation_config.json',
      'model-2.safetensors',
      'model.safetensors',
      'model.safetensors.index.json',
      'tokenizer.json',
      'tokenizer.model',
      'tokenizer_config.json',
    ]);
    expect(model.status).toBe('ready');
  });

  it.each([
    ['a folder without config.json', { 'model.safetensors': 'x' }, 'has no config.json'],
    [
      'a folder without safetensors',
      { 'config.json': '{}', 'pytorch_model.bin': 'x' },
      'must be saved as safetensors first',
    ],
  ])('refuses %s before anything is sent', async (_, contents, message) => {
    const { client, requests } = await open();
    const upload = uploadModelFolder(client, await makeFolder(contents));
    await expect(upload).rejects.toThrow(InputError);
    await expect(upload).rejects.toThrow(message);
    expect(requests).toEqual([]);
  });

  it('refuses what is not a folder', async () => {
    const { client } = await open();
    await expect(uploadModelFolder(client, './nowhere')).rejects.toThrow('./nowhere is not a folder that can be read');
  });

  it('reports a file that vanished while it was sent as what it is', async () => {
    const folder = await makeFolder(modelContents);
    const baseUrl = await listen((request, response) => {
      response.setHeader('content-type', 'application/json');
      if (request.method === 'GET') return void response.end('{"object":"list","data":[],"hasMore":false,"next":null}');
      if (request.method === 'PUT') return void request.resume();
      const uploaded = { path: 'config.json', sizeBytes: 2, sha256: '', uploaded: false };
      void rm(join(folder, 'config.json')).then(() => response.end(JSON.stringify({ id: jobId, files: [uploaded] })));
    });
    await expect(uploadModelFolder(new CherryQ({ baseUrl }), folder)).rejects.toThrow(/ENOENT.*config\.json/);
  });
});

describe('uploadTextFile', () => {
  it('makes a dataset that is found again under another name', async () => {
    const { client } = await open();
    const folder = await makeFolder({ 'a.txt': 'Call me Ishmael.', 'b.txt': 'Call me Ishmael.' });
    const dataset = await uploadTextFile(client, join(folder, 'a.txt'));
    expect(dataset).toMatchObject({ object: 'dataset', name: 'a.txt', status: 'ready', sizeBytes: 16 });
    expect((await uploadTextFile(client, join(folder, 'b.txt'))).id).toBe(dataset.id);
  });

  it('refuses an empty and a missing file', async () => {
    const { client } = await open();
    const folder = await makeFolder({ 'empty.txt': '' });
    await expect(uploadTextFile(client, join(folder, 'empty.txt'))).rejects.toThrow('is empty');
    await expect(uploadTextFile(client, join(folder, 'none.txt'))).rejects.toThrow('is not a file that can be read');
  });
});

describe('compress', () => {
  it('goes the whole way from a folder to a folder', async () => {
    const { client } = await open();
    const [model, out] = [await makeFolder(modelContents), await makeFolder()];
    const events: JobEvent['type'][] = [];
    const done = await compress(client, {
      model,
      out,
      ...plan('succeed'),
      onEvent: (event) => events.push(event.type),
    });
    expect(done.job).toMatchObject({ status: 'succeeded', attempt: 1 });
    expect(done.result.compressed.bitsPerWeight).toBe(3);
    expect(events[0]).toBe('job.queued');
    expect(events.at(-1)).toBe('job.succeeded');
    expect(done.folder).toBe(out);
    expect(await readFile(join(out, 'model/weights.bin'), 'utf8')).toBe('sixteen bytes ..');
    expect(JSON.parse(await readFile(join(out, 'manifest.json'), 'utf8'))).toEqual(done.manifest);
  });

  it('is a method of the client for Node', async () => {
    const { api } = await open();
    const send: typeof fetch = async (input, init) => api.app.fetch(new Request(input, init));
    const client = new NodeClient({ baseUrl: address, fetch: send });
    const done = await client.compress({
      model: await makeFolder(modelContents),
      out: await makeFolder(),
      ...plan('succeed'),
    });
    expect(done.job.status).toBe('succeeded');
    expect((await client.capabilities.retrieve()).methods).toContain('cherryq');
  });

  it('throws the error of a job that failed', async () => {
    const { client } = await open();
    const [model, out] = [await makeFolder(modelContents), await makeFolder()];
    const error: unknown = await compress(client, { model, out, ...plan('exit:2') }).catch((reason: unknown) => reason);
    if (!(error instanceof JobFailedError)) throw error;
    expect(error).toMatchObject({ fault: 'user', code: 'invalid_input', job: { status: 'failed' } });
    expect(error.message).toContain('loss is not a number in block 3');
    expect(await readdir(out)).toEqual([]);
  });

  it('takes a model that is on the server by its id', async () => {
    const { client, requests } = await open();
    const { id } = await uploadModelFolder(client, await makeFolder(modelContents));
    requests.length = 0;
    await compress(client, { model: id, out: await makeFolder(), ...plan('succeed') });
    expect(requests[0]).toBe('POST /v1/jobs');
  });

  it('asks for calibration before anything is sent', async () => {
    const { client, requests } = await open();
    const work = compress(client, { model: await makeFolder(modelContents), out: await makeFolder() });
    await expect(work).rejects.toThrow('method cherryq trains on text: give calibration');
    expect(requests).toEqual([]);
  });

  it("refuses the model's own folder and a file as out", async () => {
    const { client } = await open();
    const model = await makeFolder(modelContents);
    await expect(compress(client, { model, out: `${model}/.`, ...plan('succeed') })).rejects.toThrow(
      "the model's own folder",
    );
    const out = join(model, 'config.json', 'below');
    await expect(compress(client, { model, out, ...plan('succeed') })).rejects.toThrow('config.json is not a folder');
  });

  it('leaves the job alone when its signal is aborted', async () => {
    const { client } = await open();
    const controller = new AbortController();
    const reason = new Error('enough');
    let id = '';
    const work = compress(client, {
      model: await makeFolder(modelContents),
      out: await makeFolder(),
      ...plan('wait'),
      signal: controller.signal,
      onJob: (job) => (id = job.id),
      onEvent: (event) => event.type === 'job.started' && controller.abort(reason),
    });
    await expect(work).rejects.toBe(reason);
    expect((await client.jobs.retrieve(id)).status).toBe('running');
  });
});

/** A server of one job's files. @param cut bytes after which the first answer of each file breaks off */
async function serveFiles(contents: Record<string, string>, options: { cut?: number; damage?: number } = {}) {
  const sha256 = (body: string): string => createHash('sha256').update(body).digest('hex');
  const files = Object.entries(contents).map(([path, body]) => ({
    path,
    sizeBytes: body.length,
    sha256: sha256(body),
  }));
  const manifest: Partial<Manifest> = { formatVersion: 1, files };
  const bodies: Record<string, string> = { ...contents, 'manifest.json': JSON.stringify(manifest) };
  const requests: string[] = [];
  const seen = new Set<string>();
  let damaged = 0;
  const baseUrl = await listen((request, response) => {
    const path = request.url?.split('/artifacts/')[1] ?? '';
    const start = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
    requests.push(start > 0 ? `${path} from ${start}` : path);
    const whole = bodies[path];
    let body = whole.slice(start);
    if (path !== 'manifest.json' && damaged++ < (options.damage ?? 0)) body = 'X'.repeat(body.length);
    response.writeHead(start > 0 ? 206 : 200, { etag: `"${sha256(whole)}"`, 'content-length': body.length });
    if (path === 'manifest.json' || options.cut === undefined || seen.has(path)) return void response.end(body);
    seen.add(path);
    response.write(body.slice(0, options.cut));
    setTimeout(() => response.destroy(), 50);
  });
  return { client: new CherryQ({ baseUrl }), requests, manifest };
}

describe('downloadArtifacts', () => {
  const contents = { 'model.safetensors': 'abcdefghij'.repeat(1000), 'hf/config.json': '{}', 'empty.txt': '' };

  it('writes all files, the manifest last', async () => {
    const { client, requests, manifest } = await serveFiles(contents);
    const out = await makeFolder();
    const got = await downloadArtifacts(client, jobId, join(out, 'new'));
    expect(got).toEqual({ folder: join(out, 'new'), manifest });
    for (const [path, body] of Object.entries(contents))
      expect(await readFile(join(out, 'new', path), 'utf8')).toBe(body);
    expect((await readdir(join(out, 'new'))).sort()).toEqual(['empty.txt', 'hf', 'manifest.json', 'model.safetensors']);
    expect(requests).toEqual(['manifest.json', 'model.safetensors', 'hf/config.json']);
  });

  it('continues a file that broke off where it broke off', async () => {
    const { client, requests } = await serveFiles(
      { 'model.safetensors': contents['model.safetensors'] },
      { cut: 4096 },
    );
    const out = await makeFolder();
    await downloadArtifacts(client, jobId, out);
    expect(requests).toEqual(['manifest.json', 'model.safetensors', 'model.safetensors from 4096']);
    expect(await readFile(join(out, 'model.safetensors'), 'utf8')).toBe(contents['model.safetensors']);
  });

  it('keeps what is there and right, and replaces what is not', async () => {
    const { client, requests } = await serveFiles(contents);
    const out = await makeFolder({ 'model.safetensors': contents['model.safetensors'], 'hf/config.json': '[]' });
    await writeFile(join(out, 'manifest.json'), 'of an earlier job');
    await downloadArtifacts(client, jobId, out);
    expect(requests).toEqual(['manifest.json', 'hf/config.json']);
    expect(await readFile(join(out, 'hf/config.json'), 'utf8')).toBe('{}');
  });

  it('fetches a damaged file once more', async () => {
    const { client, requests } = await serveFiles({ 'a.bin': 'right' }, { damage: 1 });
    const out = await makeFolder();
    await downloadArtifacts(client, jobId, out);
    expect(requests).toEqual(['manifest.json', 'a.bin', 'a.bin']);
    expect(await readFile(join(out, 'a.bin'), 'utf8')).toBe('right');
  });

  it('leaves neither the file nor the manifest when the damage stays', async () => {
    const { client } = await serveFiles({ 'a.bin': 'right' }, { damage: 99 });
    const out = await makeFolder({ 'manifest.json': 'of an earlier job' });
    const download = downloadArtifacts(client, jobId, out);
    await expect(download).rejects.toThrow(IntegrityError);
    await expect(download).rejects.toThrow(/a\.bin has the SHA-256 [0-9a-f]{64}, but [0-9a-f]{64} was announced/);
    expect(await readdir(out)).toEqual([]);
  });

  it('writes nothing outside its folder', async () => {
    const { client } = await serveFiles({ '../evil.txt': 'x' });
    const out = await makeFolder();
    await expect(downloadArtifacts(client, jobId, join(out, 'in'))).rejects.toThrow('not a path within a folder');
    expect(await readdir(out)).toEqual([]);
  });
});

describe('a large file', () => {
  const mebibyte = 2 ** 20;
  const content = new Uint8Array(22 * mebibyte + 7).map((_, index) => (index * 2_654_435_761) >>> 13);
  const sha256 = createHash('sha256').update(content).digest('hex');

  /** @param disturb what becomes of the n-th range, from 0 on; the others are sent whole, the later the sooner */
  async function serveLarge(
    disturb: Readonly<Record<number, 'cut' | 'replaced' | 'short'>> = {},
    /** Whether the file is in a store of its own, at addresses that bear so many requests. */
    elsewhere?: { requestsPerAddress: number },
  ) {
    const file = { path: 'model.safetensors', sizeBytes: content.length, sha256 };
    const ranges: string[] = [];
    let [underWay, mostUnderWay] = [0, 0];
    const addresses: number[] = [];
    const baseUrl = await listen((request, response) => {
      if (request.url?.endsWith('/artifacts')) {
        const url = elsewhere ? `${baseUrl}/bucket?signature=${addresses.push(0) - 1}` : null;
        response.writeHead(200, { 'content-type': 'application/json' });
        return void response.end(JSON.stringify({ data: [{ ...file, url }] }));
      }
      if (request.url?.endsWith('/manifest.json')) {
        const body = JSON.stringify({ formatVersion: 1, files: [file] });
        response.writeHead(200, { etag: `"${createHash('sha256').update(body).digest('hex')}"` });
        return void response.end(body);
      }
      const [, first, last] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '') ?? [];
      expect(request.headers['if-range']).toBe(first === undefined || elsewhere ? undefined : `"${sha256}"`);
      const address = Number(/signature=(\d+)/.exec(request.url ?? '')?.[1]);
      if (elsewhere && ++addresses[address] > elsewhere.requestsPerAddress) {
        response.writeHead(403, { 'content-type': 'application/xml' });
        return void response.end('<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>');
      }
      const what = disturb[ranges.length];
      ranges.push(`${first ?? ''}-${last ?? ''}`);
      mostUnderWay = Math.max(mostUnderWay, ++underWay);
      response.once('close', () => underWay--);
      if (first === undefined || what === 'replaced') {
        response.writeHead(200, { etag: `"${sha256}"` });
        return void response.end(content);
      }
      const body = content.subarray(Number(first), last === '' ? undefined : Number(last) + 1);
      const sent = what === undefined ? body : body.subarray(0, mebibyte);
      response.writeHead(206, { 'content-length': what === 'cut' ? body.length : sent.length });
      setTimeout(() => {
        if (what === 'cut') response.write(sent, () => response.destroy());
        else response.end(sent);
      }, 400 / ranges.length);
    });
    return { client: new CherryQ({ baseUrl }), ranges, addresses, most: () => mostUnderWay };
  }
  const first = (part: number): string =>
    `${part * 4 * mebibyte}-${Math.min((part + 1) * 4 * mebibyte, content.length) - 1}`;
  const parts = [0, 1, 2, 3, 4, 5].map(first);

  async function downloadedFrom({ client }: { client: CherryQ }, out?: string) {
    const folder = out ?? (await makeFolder());
    const told: number[] = [];
    const onProgress = ({ receivedBytes }: { receivedBytes: number }): void => void told.push(receivedBytes);
    await downloadArtifacts(client, jobId, folder, { onProgress });
    expect(Buffer.compare(await readFile(join(folder, 'model.safetensors')), content)).toBe(0);
    expect((await readdir(folder)).sort()).toEqual(['manifest.json', 'model.safetensors']);
    return told;
  }

  it('comes in parts, four at once, in whatever order', async () => {
    const server = await serveLarge();
    const told = await downloadedFrom(server);
    expect(server.ranges).toEqual(parts);
    expect(server.most()).toBe(4);
    expect(told).toEqual(told.toSorted((a, b) => a - b));
    expect(told.at(-1)).toBe(content.length);
  });

  it.each(['cut', 'short'] as const)('goes on after its third part came %s, from what is whole', async (how) => {
    const server = await serveLarge({ 2: how });
    await downloadedFrom(server);
    const tried = server.ranges.findIndex((range, index) => index > 2 && !parts.slice(3).includes(range));
    const [from] = (server.ranges[tried] ?? '').split('-').map(Number);
    expect(from).toBeGreaterThan(4 * mebibyte);
    expect(from).toBeLessThanOrEqual(8 * mebibyte);
  });

  it('goes on from what an earlier download has left', async () => {
    const out = await makeFolder();
    await writeFile(join(out, 'model.safetensors.part'), content.subarray(0, 20 * mebibyte));
    const server = await serveLarge();
    await downloadedFrom(server, out);
    expect(server.ranges).toEqual([`${20 * mebibyte}-`]);
  });

  it.each([0, 3])('is taken whole where the server sends it so, be it in place of part %i', async (at) => {
    const server = await serveLarge(
      Object.fromEntries(Array.from({ length: 20 }, (_, index) => [at + index, 'replaced'])),
    );
    await downloadedFrom(server);
  });

  it('goes on at a new address where the store says that the one it had has run out', async () => {
    const server = await serveLarge({}, { requestsPerAddress: 5 });
    await downloadedFrom(server);
    expect(server.ranges).toEqual(parts);
    expect(server.addresses).toEqual([6, 1]);
  });

  it('fails where the store refuses the new address too, and says what it answered', async () => {
    const server = await serveLarge({}, { requestsPerAddress: 0 });
    const out = await makeFolder();
    await expect(downloadArtifacts(server.client, jobId, out)).rejects.toThrow(/403.*Request has expired/s);
    expect(server.addresses).toEqual([1, 1]);
  });

  it('stops with its signal', async () => {
    const server = await serveLarge();
    const stop = new AbortController();
    const out = await makeFolder();
    const onProgress = (): void => stop.abort();
    const work = downloadArtifacts(server.client, jobId, out, { signal: stop.signal, onProgress });
    await expect(work).rejects.toMatchObject({ name: 'AbortError' });
    expect(await readdir(out)).toEqual(['model.safetensors.part']);
  });
});

describe('artifacts.download', () => {
  it('throws for a file whose hash is not the announced one', async () => {
    const { client } = await serveFiles({ 'a.bin': 'right' }, { damage: 99 });
    await expect(client.artifacts.download(jobId, 'a.bin', { maxRetries: 0 })).rejects.toThrow(IntegrityError);
  });
});
