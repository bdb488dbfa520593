/** Models that the server fetches by itself: from folders, and from a server that answers as the Hub does. */
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { describe, expect, it, onTestFinished } from 'vitest';
import { InputError, type UploadProgress } from 'cherryq';
import { modelSchema, problemSchema, type Model } from 'cherryq/contract';
import type { SourceSettings } from '../../api/src/sources.ts';
import { jsonRequest, openTestApi, read, readProblem, until, uploadModel, type TestApi } from '../support/api.ts';
import { clientOf } from '../sdk/support.ts';
import { commit, openHub } from '../support/hub.ts';
import { temporaryFolder } from '../support/temporary-store.ts';
import { tinyConfig, tinyModelFiles } from '../support/tiny-model.ts';

const tiny = await tinyModelFiles();

async function open(settings: Partial<SourceSettings> = {}, folder?: string): Promise<TestApi> {
  const hub = { endpoint: 'http://127.0.0.1:1', token: () => null };
  const api = await openTestApi({ sources: { allowFolders: true, buckets: [], hub, ...settings }, folder });
  onTestFinished(api.close);
  return api;
}
const create = async ({ app }: TestApi, source: string, more = {}): Promise<Response> =>
  app.request('/v1/models', jsonRequest('POST', { source, ...more }));
const retrieve = async ({ app }: TestApi, id: string): Promise<Model> =>
  read(await app.request(`/v1/models/${id}`), 200, modelSchema);

/** The model when its import has ended. */
async function imported(api: TestApi, source: string): Promise<Model> {
  const { id, status } = await read(await create(api, source), 201, modelSchema);
  expect(status).toBe('importing');
  return until(
    () => retrieve(api, id),
    (model) => model.status !== 'importing',
  );
}

async function folderOf(files: Readonly<Record<string, Uint8Array | string>>): Promise<string> {
  const folder = join(temporaryFolder(), 'tiny');
  await mkdir(folder);
  for (const [name, content] of Object.entries(files)) await writeFile(join(folder, name), content);
  return folder;
}

describe('a folder of the server', () => {
  it('becomes what an upload of it would be', async () => {
    const api = await open();
    const uploaded = await uploadModel(api);
    const folder = await folderOf({ ...tiny, 'pytorch_model.bin': 'a pickle', 'README.md': 'no', '.env': 'no' });
    const model = await imported(api, pathToFileURL(folder).href);
    expect(model).toMatchObject({ status: 'ready', name: 'tiny', error: null, importedBytes: uploaded.sizeBytes });
    expect(model.fingerprint).toBe(uploaded.fingerprint);
    const byPath = (files: Model['files']) => files.toSorted((a, b) => (a.path < b.path ? -1 : 1));
    expect(byPath(model.files)).toEqual(byPath(uploaded.files));
    expect(model.source).toEqual({ url: pathToFileURL(folder).href, revision: null });
    expect(await api.store.list('tenants/local/unfinished/')).toEqual([]);
  });

  it('is not read where callers are not those whose machine it is', async () => {
    const api = await open({ allowFolders: false });
    const problem = await readProblem(await create(api, 'file:///etc'), 'invalid_request');
    expect(problem).toMatchObject({ param: 'source', detail: expect.stringContaining('reads none for its callers') });
  });

  it('is refused with a link that leaves it, without a file that a model needs, and when it is none', async () => {
    const api = await open();
    const secret = join(await folderOf({ secret: '{}' }), 'secret');
    const folder = await folderOf(tiny);
    await symlink(secret, join(folder, 'generation_config.json'));
    const says = async (path: string): Promise<string> =>
      (await readProblem(await create(api, pathToFileURL(path).href), 'invalid_request')).detail;
    expect(await says(folder)).toContain('generation_config.json');
    expect(await says(await folderOf({ 'config.json': '{}' }))).toContain('has no *.safetensors');
    expect(await says('/nowhere/at/all')).toContain('is not a folder that can be read');
  });

  it('that holds no model fails before its weights are copied, and can be deleted', async () => {
    const api = await open();
    const config = JSON.stringify({ ...tinyConfig, architectures: ['MambaForCausalLM'] });
    const model = await imported(api, pathToFileURL(await folderOf({ ...tiny, 'config.json': config })).href);
    expect(model).toMatchObject({ status: 'failed', fingerprint: null, error: { code: 'invalid_model' } });
    expect(model.error?.message).toContain('supported are');
    const job = { modelId: model.id, scheme: { method: 'rtn' } };
    const refusal = await readProblem(await api.app.request('/v1/jobs', jsonRequest('POST', job)), 'conflict');
    expect(refusal.detail).toContain('could not be imported');
    expect((await api.app.request(`/v1/models/${model.id}`, { method: 'DELETE' })).status).toBe(204);
    expect(await api.store.list(`tenants/local/models/${model.id}/`)).toEqual([]);
  });
});

describe('a repository of the Hub', () => {
  it('is pinned to its commit and taken without its pickles; files sent to it are refused', async () => {
    const { endpoint, requests } = await openHub({ ...tiny, 'pytorch_model.bin': new Uint8Array(20_000) });
    const api = await open({ hub: { endpoint, token: () => null } });
    const model = await imported(api, 'hf://acme/tiny@main');
    expect(model).toMatchObject({ status: 'ready', name: 'tiny' });
    expect(model.source).toEqual({ url: 'hf://acme/tiny@main', revision: commit });
    expect(model.fingerprint).toBe((await uploadModel(api)).fingerprint);
    expect(requests.filter(({ path }) => path.includes('/resolve/')).every(({ path }) => path.includes(commit))).toBe(
      true,
    );
    expect(requests.some(({ path }) => path.includes('.bin'))).toBe(false);
  });

  it('that is gated is read with the token of the server, which nobody is told', async () => {
    const { endpoint, requests } = await openHub(tiny, { token: 'hf_secret' });
    const without = await open({ hub: { endpoint, token: () => null } });
    const refusal = await readProblem(await create(without, 'hf://acme/tiny'), 'invalid_request');
    expect(refusal.detail).toMatch(/gated.*Set HF_TOKEN/);
    const api = await open({ hub: { endpoint, token: () => Promise.resolve('hf_secret') } });
    const model = await imported(api, 'hf://acme/tiny');
    expect(model.status).toBe('ready');
    expect(requests.at(-1)?.authorization).toBe('Bearer hf_secret');
    for await (const key of keysOf(api))
      expect(new TextDecoder().decode((await api.store.get(key)) ?? undefined), key).not.toContain('hf_secret');
    expect(JSON.stringify(api.log)).not.toContain('hf_secret');
  });

  it('that breaks off or is busy is gone on with, from the byte where it was', async () => {
    const weights = tiny['model.safetensors'];
    let faults = 0;
    const { endpoint, requests } = await openHub(tiny, {
      fault(request, response) {
        if (!request.url?.startsWith('/lfs/') || ++faults > 2) return false;
        if (faults === 2) {
          response.writeHead(429, { 'retry-after': '1' }).end();
          return true;
        }
        response.writeHead(200, { 'content-length': weights.length });
        response.write(weights.subarray(0, 30_000));
        setTimeout(() => response.destroy(), 50);
        return true;
      },
    });
    const api = await open({ hub: { endpoint, token: () => null } });
    const model = await imported(api, 'hf://acme/tiny');
    expect(model).toMatchObject({ status: 'ready' });
    expect(requests.flatMap(({ path, range }) => (path.startsWith('/lfs/') ? [range] : []))).toEqual([
      undefined,
      'bytes=30000-',
      'bytes=30000-',
    ]);
  });

  it('whose files are not what it says of them fails', async () => {
    const { endpoint } = await openHub(tiny, {
      fault(request, response) {
        if (!request.url?.startsWith('/lfs/')) return false;
        const damaged = tiny['model.safetensors'].slice();
        damaged[damaged.length - 1] ^= 1;
        response.end(damaged);
        return true;
      },
    });
    const model = await imported(await open({ hub: { endpoint, token: () => null } }), 'hf://acme/tiny');
    expect(model.error).toMatchObject({ code: 'content_mismatch', param: 'model.safetensors' });
  });

  it.each([
    ['hf://acme/other@main', 404, 'invalid_request', /no acme\/other at revision main/],
    ['hf://acme/tiny', 429, 'unavailable', /try again later/],
    ['hf://acme/tiny', 503, 'unavailable', /try again later/],
    ['hf://acme', 200, 'invalid_request', /is not hf:\/\/owner\/name/],
    ['hf://acme/tiny@../../x', 200, 'invalid_request', /is not hf:\/\/owner\/name/],
  ] as const)('%s, answered with %i, is refused', async (source, status, code, says) => {
    const { endpoint } = await openHub(tiny, {
      fault(_, response) {
        response.writeHead(status, { 'retry-after': '7' }).end();
        return true;
      },
    });
    const response = await create(await open({ hub: { endpoint, token: () => null } }), source);
    if (status === 429) expect(response.headers.get('retry-after')).toBe('7');
    expect((await readProblem(response, code)).detail).toMatch(says);
  });
});

it('an import that stopped goes on where it was, in another process', async () => {
  let isCut = true;
  const { endpoint, requests } = await openHub(tiny, {
    fault: (request) => isCut && request.url?.startsWith('/lfs/') === true,
  });
  const hub = { endpoint, token: () => null };
  const first = await open({ hub });
  const { id } = await read(await create(first, 'hf://acme/tiny'), 201, modelSchema);
  const begun = await until(
    () => retrieve(first, id),
    ({ files }) => files.length === 3,
  );
  expect(begun).toMatchObject({ status: 'importing', fingerprint: null });
  const upload = await first.app.request(`/v1/models/${id}/complete`, { method: 'POST' });
  expect((await readProblem(upload, 'conflict')).detail).toContain('is imported by the server');
  await until(
    () => Promise.resolve(requests.filter(({ path }) => path.startsWith('/lfs/'))),
    ({ length }) => length > 0,
  );
  await first.services.imports.close();
  isCut = false;
  const resolved = (): number => requests.filter(({ path }) => path.includes('/resolve/')).length;
  const before = resolved();
  const second = await open({ hub }, first.folder);
  expect(await second.services.imports.run()).toBe(1);
  expect((await retrieve(second, id)).status).toBe('ready');
  expect(resolved() - before).toBe(1);
});

it('the client imports and waits, and throws why it failed', async () => {
  const client = clientOf(await open());
  const progress: UploadProgress[] = [];
  const source = pathToFileURL(await folderOf(tiny)).href;
  const model = await client.models.import({ source, name: 'mine' }, { onProgress: (each) => progress.push(each) });
  expect(model).toMatchObject({ status: 'ready', name: 'mine' });
  expect(progress.at(-1)).toEqual({ path: source, sentBytes: model.sizeBytes, totalBytes: model.sizeBytes });
  const bad = pathToFileURL(await folderOf({ ...tiny, 'config.json': '[]' })).href;
  await expect(client.models.import({ source: bad })).rejects.toThrow(InputError);
  await expect(client.models.import({ source: bad })).rejects.toThrow('must hold a JSON object');
});

it('buckets are read only where the settings name them', async () => {
  const api = await open({ buckets: ['ours'] });
  const problem = await readProblem(await create(api, 's3://theirs/tiny/'), 'invalid_request');
  expect(problem.detail).toMatch(/does not read the bucket theirs.*CHERRYQ_SOURCE_BUCKETS/);
});

it.each([
  [{}, /source is required/],
  [{ source: 'ftp://host/model' }, /source is not hf:/],
  [{ source: 'hf://a/b', nama: 'x' }, /nama is an unknown field/],
  [{ source: 'hf://a/b', name: 'x', files: [] }, /is not valid/],
])('a request of neither form is refused: %j', async (body, says) => {
  const api = await open();
  const answer = await api.app.request('/v1/models', jsonRequest('POST', body));
  expect(answer.status).toBe(400);
  expect(problemSchema.parse(await answer.json()).detail).toMatch(says);
});

async function* keysOf({ store }: TestApi): AsyncGenerator<string> {
  for (const { key } of await store.list('', { limit: 1000 })) yield key;
}
