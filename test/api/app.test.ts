import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { capabilitiesSchema, healthSchema } from 'cherryq/contract';
import { StorageFullError } from '@cherryq/batch-jobs/storage';
import { createApp } from '../../api/src/app.ts';
import { localKeys, systemClock } from '../../api/src/ports.ts';
import { supportedArchitectures } from '../../batch-jobs/src/models/registry.ts';
import { jsonRequest, openTestApi, read, readProblem, type TestApi } from '../support/api.ts';

let api: TestApi;
beforeAll(async () => (api = await openTestApi()));
afterAll(() => api.close());

describe('every request', () => {
  it('gets back the request id it came with', async () => {
    const response = await api.app.request('/healthz', { headers: { 'X-Request-Id': 'mine-1' } });
    expect(response.headers.get('x-request-id')).toBe('mine-1');
    expect((await api.app.request('/healthz')).headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/);
  });

  it('to an unknown address gets a problem', async () => {
    const problem = await readProblem(await api.app.request('/v1/nothing'), 'not_found');
    expect(problem.detail).toContain('/v1/nothing');
    expect(problem.retryable).toBe(false);
  });

  it('with a wrong method is told the right ones', async () => {
    const response = await api.app.request('/v1/jobs', { method: 'DELETE' });
    expect(response.headers.get('allow')).toBe('POST, GET');
    await readProblem(response, 'method_not_allowed');
  });

  it('with a body over the limit is refused', async () => {
    const body = { name: 'x'.repeat(2 * 1024 * 1024), files: [] };
    await readProblem(await api.app.request('/v1/models', jsonRequest('POST', body)), 'payload_too_large');
  });

  it('with broken JSON or another content type is refused', async () => {
    const broken = await api.app.request('/v1/jobs', { ...jsonRequest('POST', {}), body: '{"modelId":' });
    expect((await readProblem(broken, 'invalid_request')).detail).toMatch(/JSON/);
    const form = await api.app.request('/v1/jobs', {
      method: 'POST',
      body: 'a=b',
      headers: { 'content-type': 'text/plain' },
    });
    expect((await readProblem(form, 'invalid_request')).param).toBe('Content-Type');
  });
});

describe('validation', () => {
  const refusal = async (body: unknown) =>
    readProblem(await api.app.request('/v1/jobs', jsonRequest('POST', body)), 'invalid_request');
  const modelId = '01ARZ3NDEKTSV4RRFFQ69G5FAV';

  it.each([
    ['bits 0', { bits: 0 }, '/scheme/bits', 'must be 2, 3, 4 or 8; got 0'],
    ['bits 5', { bits: 5 }, '/scheme/bits', 'must be 2, 3, 4 or 8; got 5'],
    ['a group size of 0', { groupSize: 0 }, '/scheme/groupSize', 'must be at least 1; got 0'],
    [
      'a group size in words',
      { groupSize: 'col' },
      '/scheme/groupSize',
      'must be a whole number of at least 1, or "row"; got "col"',
    ],
    ['an unknown method', { method: 'gptq' }, '/scheme/method', 'must be one of "rtn", "qat", "cherryq"; got "gptq"'],
    ['too many cherries', { cherryFraction: 2 }, '/scheme/cherryFraction', 'must be at most 0.25; got 2'],
  ])('names %s: field, value and what is allowed', async (_, scheme, pointer, detail) => {
    const problem = await refusal({ modelId, scheme });
    expect(problem.errors).toEqual([{ pointer, detail }]);
    expect(problem.param).toBe(pointer.slice(1).replace('/', '.'));
    expect(problem.detail).toContain(detail);
  });

  it('names every unknown field and those that are known', async () => {
    const problem = await refusal({ modelId, bitz: 3, scheme: { bitz: 3 } });
    expect(problem.errors?.map((error) => error.pointer)).toEqual(['/scheme/bitz', '/bitz']);
    expect(problem.errors?.[0]?.detail).toBe(
      'is an unknown field; known are method, bits, groupSize, cherryFraction, criterion, cherryMode, quantizer, groups, columnScales',
    );
    expect(problem.detail).toContain('and 1 more');
  });

  it('says what is missing', async () => {
    expect((await refusal({})).errors).toEqual([{ pointer: '/modelId', detail: 'is required (string)' }]);
  });

  it('escapes pointers and shortens long values', async () => {
    const problem = await refusal({ modelId: 'x'.repeat(500), metadata: { 'a/b~c': 3 } });
    expect(problem.errors?.map((error) => error.pointer)).toEqual(['/modelId', '/metadata/a~1b~0c']);
    expect(problem.detail.length).toBeLessThan(400);
  });

  it('covers the query, and treats a malformed id in the path as unknown', async () => {
    const query = await readProblem(await api.app.request('/v1/jobs?limit=0&foo=1'), 'invalid_request');
    expect(query.errors).toEqual([
      { pointer: '/limit', detail: 'must be at least 1; got "0"' },
      { pointer: '/foo', detail: 'is an unknown field; known are limit, after, status, kind, modelId, metadata' },
    ]);
    expect((await readProblem(await api.app.request('/v1/jobs/nope'), 'not_found')).detail).toContain('"nope"');
  });
});

describe('failures below the routes', () => {
  const withStore = (fault: Error) =>
    createApp({
      store: {
        ...api.store,
        get: () => Promise.reject(fault),
        put: () => Promise.reject(fault),
        list: () => Promise.reject(fault),
        folders: () => Promise.reject(fault),
      },
      queue: api.queue,
      clock: systemClock,
      keys: localKeys,
      version: '1.2.3',
      logger: (entry) => void api.log.push(entry),
    });
  const upload = jsonRequest('POST', { name: 'm', files: [{ path: 'a', sizeBytes: 1, sha256: '0'.repeat(64) }] });

  it('show a full disk as storage_full', async () => {
    const app = withStore(new StorageFullError('the disk has no room for model.json'));
    const problem = await readProblem(await app.request('/v1/models', upload), 'storage_full');
    expect(problem.detail).toContain('no room');
  });

  it('show a bug without its message, which goes to the log under the request id', async () => {
    const app = withStore(new Error('secret detail'));
    const problem = await readProblem(await app.request('/v1/models', upload), 'internal');
    expect(problem.detail).not.toContain('secret detail');
    expect(problem.retryable).toBe(true);
    expect(api.log.find((entry) => entry.requestId === problem.requestId)?.error).toMatchObject({
      message: 'secret detail',
    });
  });

  it('make /readyz say unavailable while /healthz stays ok', async () => {
    const app = withStore(new Error('gone'));
    expect(await read(await app.request('/readyz'), 503, healthSchema)).toEqual({
      status: 'unavailable',
      version: '1.2.3',
    });
    expect(await read(await app.request('/healthz'), 200, healthSchema)).toEqual({ status: 'ok', version: '1.2.3' });
  });
});

describe('self-description', () => {
  it('is ready, and names methods, widths and formats', async () => {
    expect((await read(await api.app.request('/readyz'), 200, healthSchema)).status).toBe('ok');
    const capabilities = await read(await api.app.request('/v1/capabilities'), 200, capabilitiesSchema);
    expect(capabilities).toMatchObject({ version: '1.2.3', methods: ['rtn', 'qat', 'cherryq'], bits: [2, 3, 4, 8] });
  });

  it('names the architectures that the trainer reads', async () => {
    const capabilities = await read(await api.app.request('/v1/capabilities'), 200, capabilitiesSchema);
    expect(capabilities.architectures).toEqual(supportedArchitectures);
  });

  it('is an OpenAPI 3.1 document whose references resolve and whose paths declare their parameters', async () => {
    const document = await (await api.app.request('/openapi.json')).json();
    expect(document.openapi).toBe('3.1.0');
    expect(Object.keys(document.paths)).toEqual([
      '/healthz',
      '/readyz',
      '/v1/capabilities',
      '/v1/models',
      '/v1/models/{id}',
      '/v1/models/{id}/files/{path}',
      '/v1/models/{id}/parts',
      '/v1/models/{id}/parts/{number}/{path}',
      '/v1/models/{id}/complete',
      '/v1/datasets',
      '/v1/datasets/{id}',
      '/v1/datasets/{id}/files/{path}',
      '/v1/datasets/{id}/parts',
      '/v1/datasets/{id}/parts/{number}/{path}',
      '/v1/datasets/{id}/complete',
      '/v1/jobs',
      '/v1/jobs/{id}',
      '/v1/jobs/{id}/cancel',
      '/v1/jobs/{id}/pause',
      '/v1/jobs/{id}/resume',
      '/v1/jobs/{id}/retry',
      '/v1/jobs/{id}/events',
      '/v1/jobs/{id}/artifacts',
      '/v1/jobs/{id}/artifacts/{path}',
      '/v1/estimates',
      '/v1/keys',
      '/v1/keys/{id}',
      '/v1/usage',
      '/v1/webhooks',
      '/v1/webhooks/{id}',
      '/v1/webhooks/{id}/rotate-secret',
      '/v1/webhooks/{id}/test',
      '/v1/webhooks/{id}/deliveries',
      '/v1/webhooks/{id}/deliveries/{deliveryId}/replay',
    ]);
    const references = [...JSON.stringify(document).matchAll(/"\$ref":"#\/components\/schemas\/(\w+)"/g)].map(
      ([, name]) => name,
    );
    expect(new Set(references)).toEqual(new Set(Object.keys(document.components.schemas)));
    for (const [path, item] of Object.entries<
      Record<string, { parameters?: { in: string; name: string }[]; responses: object }>
    >(document.paths))
      for (const operation of Object.values(item)) {
        const declared = (operation.parameters ?? []).filter((each) => each.in === 'path').map((each) => each.name);
        expect(declared).toEqual([...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name));
        expect(operation.responses).toHaveProperty('500');
      }
    const required = [
      ['modelId'],
      ['kind', 'modelId'],
      ['kind', 'evaluation'],
      ['kind', 'modelId', 'evaluation', 'comparison'],
    ];
    expect(document.components.schemas.CreateJob.oneOf).toMatchObject(
      required.map((names) => ({ required: expect.arrayContaining(names) as string[], additionalProperties: false })),
    );
  });
});
