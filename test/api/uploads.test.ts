import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { datasetSchema, modelSchema, pageOf } from 'cherryq/contract';
import {
  createPlannedJob,
  declarationOf,
  jsonRequest,
  openTestApi,
  read,
  readProblem,
  sha256,
  uploadDataset,
  uploadModel,
  type TestApi,
} from '../support/api.ts';
import { tinyConfig, tinyModelFiles, tinyWeights } from '../support/tiny-model.ts';

let api: TestApi;
beforeAll(async () => (api = await openTestApi()));
afterAll(() => api.close());

const tiny = await tinyModelFiles();
const weights = tiny['model.safetensors'];
const declared = { name: 'tiny', files: declarationOf(tiny) };
const sizeBytes = declared.files.reduce((sum, file) => sum + file.sizeBytes, 0);
const create = async (body: unknown = declared, headers = {}) =>
  api.app.request('/v1/models', jsonRequest('POST', body, headers));
const put = async (id: string, path: string, body: BodyInit, headers = {}) =>
  api.app.request(`/v1/models/${id}/files/${path}`, { method: 'PUT', body, headers, ...{ duplex: 'half' } });

describe('a model', () => {
  it('is created, filled, completed and then ready', async () => {
    const response = await create();
    const model = await read(response, 201, modelSchema);
    expect(response.headers.get('location')).toBe(`/v1/models/${model.id}`);
    expect(model).toMatchObject({ object: 'model', status: 'uploading', sizeBytes });
    expect(model.files.map((file) => file.uploaded)).toEqual([false, false, false, false]);

    for (const path of ['config.json', 'tokenizer.json', 'tokenizer_config.json'])
      expect((await put(model.id, path, tiny[path])).status).toBe(204);
    const early = await api.app.request(`/v1/models/${model.id}/complete`, { method: 'POST' });
    expect((await readProblem(early, 'conflict')).detail).toContain('model.safetensors');

    expect((await put(model.id, 'model.safetensors', weights)).status).toBe(204);
    const ready = await read(
      await api.app.request(`/v1/models/${model.id}/complete`, { method: 'POST' }),
      200,
      modelSchema,
    );
    expect(ready.status).toBe('ready');
    expect(ready.files.every((file) => file.uploaded)).toBe(true);
    const stored = await api.store.get(`tenants/local/models/${model.id}/files/model.safetensors`);
    expect(Buffer.compare(stored ?? new Uint8Array(), weights)).toBe(0);
    expect(await read(await api.app.request(`/v1/models/${model.id}`), 200, modelSchema)).toEqual(ready);
  });

  it('keeps nothing of a file whose length or hash is not as declared', async () => {
    const { id } = await read(await create(), 201, modelSchema);
    const path = 'model.safetensors';
    const damaged = weights.slice();
    damaged[weights.length - 1234] ^= 255;
    for (const [body, headers, reason] of [
      [damaged, {}, 'SHA-256'],
      [weights.slice(0, -1), {}, `${weights.length - 1} were sent`],
      [Buffer.concat([weights, Buffer.of(0)]), {}, 'more were sent'],
      [weights, { 'content-length': '7' }, 'Content-Length says 7'],
    ] as const) {
      const problem = await readProblem(await put(id, path, body, headers), 'content_mismatch');
      expect(problem.detail).toContain(reason);
      expect(problem.param).toBe(path);
    }
    expect(await api.store.list(`tenants/local/models/${id}/files/`)).toEqual([]);
    expect((await put(id, path, weights, { 'content-length': String(weights.length) })).status).toBe(204);
  });

  it('takes a file again without looking at it, and none that it did not declare', async () => {
    const { id } = await read(await create(), 201, modelSchema);
    const config = tiny['config.json'];
    expect((await put(id, 'config.json', config)).status).toBe(204);
    expect((await put(id, 'config.json', '[]')).status).toBe(204);
    expect(await api.store.get(`tenants/local/models/${id}/files/config.json`)).toEqual(config);
    expect((await readProblem(await put(id, 'other.json', '{}'), 'not_found')).detail).toContain('config.json');
    expect((await put(id, '..%2Fmodel.json', '{}')).status).toBe(400);
  });

  it('is not created with unsafe, doubled or nested paths', async () => {
    const file = (path: string) => ({ path, sizeBytes: 1, sha256: '0'.repeat(64) });
    for (const paths of [['../a'], ['/a'], ['a', 'a'], ['a', 'a/b'], []])
      await readProblem(await create({ name: 'm', files: paths.map(file) }), 'invalid_request');
  });

  it('B16: is not begun when the disk has no room for it', async () => {
    const listed = async () => (await read(await api.app.request('/v1/models'), 200, pageOf(modelSchema))).data;
    const before = await listed();
    const free = (await api.store.freeBytes?.()) ?? 0;
    expect(free).toBeGreaterThan(2 ** 20);
    const files = declared.files.map((file) => ({ ...file, sizeBytes: 2 ** 50 }));
    const problem = await readProblem(await create({ name: 'large', files }), 'does_not_fit');
    expect(problem.detail).toMatch(
      new RegExp(`^${4 * 2 ** 50} bytes would be stored, .* has room for \\d+; free some`),
    );
    expect(await listed()).toEqual(before);
  });

  it('is found by the fingerprint of its content, newest first', async () => {
    const own = await tinyModelFiles({ weights: tinyWeights(tinyConfig, 7) });
    const first = await uploadModel(api, 'one', own);
    const second = await uploadModel(api, 'two', own);
    expect(second.fingerprint).toBe(first.fingerprint);
    const page = pageOf(modelSchema);
    const found = await read(await api.app.request(`/v1/models?fingerprint=${first.fingerprint}`), 200, page);
    expect(found.data.map((model) => model.name)).toEqual(['two', 'one']);
    const one = await read(await api.app.request(`/v1/models?limit=1&fingerprint=${first.fingerprint}`), 200, page);
    expect(one).toMatchObject({ data: [{ id: second.id }], hasMore: true });
    const next = await read(
      await api.app.request(`/v1/models?after=${second.id}&limit=1&fingerprint=${first.fingerprint}`),
      200,
      page,
    );
    expect(next).toMatchObject({ data: [{ id: first.id }], hasMore: false });
  });

  it('is deleted with its files, but not while an unfinished job needs it', async () => {
    const job = await createPlannedJob(api, 'succeed');
    const address = `/v1/models/${job.modelId}`;
    const refusal = await readProblem(await api.app.request(address, { method: 'DELETE' }), 'conflict');
    expect(refusal.detail).toContain(job.id);
    await api.app.request(`/v1/jobs/${job.id}/cancel`, { method: 'POST' });
    expect((await api.app.request(address, { method: 'DELETE' })).status).toBe(204);
    await readProblem(await api.app.request(address), 'not_found');
    expect(await api.store.list(`tenants/local/models/${job.modelId}/`)).toEqual([]);
  });
});

describe('a dataset', () => {
  it('has the same life under its own name', async () => {
    const dataset = await uploadDataset(api, 'Call me Ishmael.');
    expect(dataset).toMatchObject({ object: 'dataset', status: 'ready' });
    const listed = await read(await api.app.request('/v1/datasets'), 200, pageOf(datasetSchema));
    expect(listed.data).toEqual([dataset]);
    expect(await api.store.head(`tenants/local/datasets/${dataset.id}/dataset.json`)).not.toBeNull();
  });
});

describe('an idempotency key', () => {
  const keyed = (key: string, body: unknown = declared) => create(body, { 'Idempotency-Key': key });

  it('makes a create happen once and replays its answer', async () => {
    const first = await read(await keyed('k1'), 201, modelSchema);
    const again = await keyed('k1');
    expect(again.headers.get('idempotent-replayed')).toBe('true');
    expect(await read(again, 201, modelSchema)).toEqual(first);
    expect((await read(await keyed('k2'), 201, modelSchema)).id).not.toBe(first.id);
  });

  it('is refused with another body, and when it is too long', async () => {
    await keyed('k3');
    await readProblem(await keyed('k3', { ...declared, name: 'other' }), 'idempotency_mismatch');
    await readProblem(await keyed('k'.repeat(256)), 'invalid_request');
  });

  it('is in flight until the first answer, and taken over when the first process died', async () => {
    const key = `tenants/local/idempotency/${sha256('k4')}.json`;
    const { id } = await read(await keyed('k4'), 201, modelSchema);
    const record = JSON.parse(new TextDecoder().decode((await api.store.get(key)) ?? undefined));
    // As one that died before it had made anything.
    await api.store.deletePrefix(`tenants/local/models/${id}/`);
    const write = (startedAt: Date) =>
      api.store.put(key, new TextEncoder().encode(JSON.stringify({ ...record, startedAt: startedAt.toISOString() })));
    await write(new Date());
    const waiting = await keyed('k4');
    expect(waiting.headers.get('retry-after')).toBe('1');
    expect((await readProblem(waiting, 'idempotency_in_flight')).retryable).toBe(true);
    await write(new Date(Date.now() - 60_000));
    expect((await read(await keyed('k4'), 201, modelSchema)).id).toBe(id);
  });
});
