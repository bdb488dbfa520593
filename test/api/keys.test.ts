import { afterEach, describe, expect, it } from 'vitest';
import {
  createdKeySchema,
  jobSchema,
  keySchema,
  modelSchema,
  pageOf,
  usageSchema,
  type CreatedKey,
  type KeyScope,
} from 'cherryq/contract';
import { encodeJson } from '../../api/src/job-log.ts';
import { openTenantKeys, startServer } from '../../api/src/serve.ts';
import {
  declarationOf,
  jsonRequest,
  openTestApi,
  read,
  readProblem,
  sha256,
  type TestApi,
  type TestApiOptions,
} from '../support/api.ts';
import { temporaryFolder } from '../support/temporary-store.ts';
import { tinyModelFiles } from '../support/tiny-model.ts';

let api: TestApi;
const open = async (options: TestApiOptions): Promise<void> => void (api = await openTestApi(options));
afterEach(() => api.close());

/** As whoever holds the key. */
const by =
  (key: CreatedKey | null) =>
  (path: string, init: RequestInit = {}): Promise<Response> => {
    const headers = { ...(init.headers as object), ...(key ? { authorization: `Bearer ${key.secret}` } : {}) };
    return Promise.resolve(api.app.request(path, { ...init, headers }));
  };
const keyOf = (tenant: string, scope: KeyScope): Promise<CreatedKey> =>
  api.keyring.create(tenant, { name: scope, scope });

const tiny = await tinyModelFiles();
const files = declarationOf(tiny);
const tinyBytes = files.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);

async function upload(send: ReturnType<typeof by>): Promise<string> {
  const { id } = await read(await send('/v1/models', jsonRequest('POST', { name: 'm', files })), 201, modelSchema);
  for (const [path, body] of Object.entries(tiny))
    await send(`/v1/models/${id}/files/${path}`, { method: 'PUT', body });
  await send(`/v1/models/${id}/complete`, { method: 'POST' });
  return id;
}
const createJob = (send: ReturnType<typeof by>, modelId: string): Promise<Response> =>
  send('/v1/jobs', jsonRequest('POST', { modelId, scheme: { method: 'rtn' } }));

describe('a key', () => {
  it.each([
    [null, 'an API key is needed'],
    ['nonsense', 'not known'],
    ['cq_01ARZ3NDEKTSV4RRFFQ69G5FAV_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 'not known'],
  ])('must be there and known: %s', async (secret, said) => {
    await open({ withKeys: true });
    const response = await api.app.request('/v1/jobs', {
      headers: secret ? { authorization: `Bearer ${secret}` } : {},
    });
    expect(response.headers.get('www-authenticate')).toMatch(/^Bearer/);
    const problem = await readProblem(response, 'unauthorized');
    expect(problem.detail).toContain(said);
    if (secret) expect(JSON.stringify(problem)).not.toContain(secret);
  });

  it('is taken by either header; one with another secret is not', async () => {
    await open({ withKeys: true });
    const { secret } = await keyOf('a', 'read');
    const get = (headers: Record<string, string>) => api.app.request('/v1/jobs', { headers });
    expect((await get({ 'x-api-key': secret })).status).toBe(200);
    expect((await get({ authorization: `bearer ${secret}` })).status).toBe(200);
    const wrong = secret.slice(0, -1) + (secret.endsWith('A') ? 'B' : 'A');
    await readProblem(await get({ 'x-api-key': wrong }), 'unauthorized');
  });

  it('may do what its scope says, and what is refused names the scope that is needed', async () => {
    await open({ withKeys: true });
    const [reader, writer, admin] = [
      by(await keyOf('a', 'read')),
      by(await keyOf('a', 'write')),
      by(await keyOf('a', 'admin')),
    ];
    const modelId = await upload(writer);
    const { id } = await read(await createJob(writer, modelId), 202, jobSchema);
    expect((await reader(`/v1/jobs/${id}`)).status).toBe(200);
    expect((await readProblem(await createJob(reader, modelId), 'forbidden')).detail).toMatch(
      /scope write; .* has read/,
    );
    for (const send of [reader, writer]) await readProblem(await send('/v1/keys'), 'forbidden');
    expect((await admin('/v1/keys')).status).toBe(200);
    expect((await createJob(admin, modelId)).status).toBe(202);
  });

  it('is made, listed and revoked by an admin; its secret is shown once and kept nowhere', async () => {
    await open({ withKeys: true });
    const admin = by(await keyOf('a', 'admin'));
    const body = { name: 'ci', scope: 'read' };
    const made = await read(await admin('/v1/keys', jsonRequest('POST', body)), 201, createdKeySchema);
    const random = made.secret.slice(-43);
    for (const { key } of await api.store.list(''))
      expect(new TextDecoder().decode((await api.store.get(key)) ?? undefined)).not.toContain(random);
    const page = await read(await admin('/v1/keys'), 200, pageOf(keySchema));
    expect(page.data.map(({ name, scope, revokedAt }) => [name, scope, revokedAt])).toEqual([
      ['admin', 'admin', null],
      ['ci', 'read', null],
    ]);
    expect(JSON.stringify(page)).not.toContain(random);
    expect((await by(made)('/v1/jobs')).status).toBe(200);
    for (const time of [1, 2]) {
      const revoked = await read(await admin(`/v1/keys/${made.id}`, { method: 'DELETE' }), 200, keySchema);
      expect(revoked.revokedAt, `time ${time}`).not.toBeNull();
    }
    await readProblem(await by(made)('/v1/jobs'), 'unauthorized');
  });
});

describe('tenants', () => {
  it('see and touch nothing of each other', async () => {
    await open({ withKeys: true });
    const ours = by(await keyOf('a', 'admin'));
    const theirKey = await keyOf('b', 'admin');
    const theirs = by(theirKey);
    const modelId = await upload(ours);
    const { id } = await read(await createJob(ours, modelId), 202, jobSchema);
    for (const path of ['/v1/jobs', '/v1/models', '/v1/datasets'])
      expect(await (await theirs(path)).json()).toMatchObject({ data: [], hasMore: false });
    for (const path of [`jobs/${id}`, `jobs/${id}/events`, `jobs/${id}/artifacts`, `models/${modelId}`])
      await readProblem(await theirs(`/v1/${path}`), 'not_found');
    for (const action of ['cancel', 'pause', 'resume', 'retry'])
      await readProblem(await theirs(`/v1/jobs/${id}/${action}`, { method: 'POST' }), 'not_found');
    for (const path of [`jobs/${id}`, `models/${modelId}`, `keys/${(await keyOf('a', 'read')).id}`])
      await readProblem(await theirs(`/v1/${path}`, { method: 'DELETE' }), 'not_found');
    await readProblem(await createJob(theirs, modelId), 'not_found');
    expect((await (await ours('/v1/keys')).text()).includes(theirKey.id)).toBe(false);
    // The same idempotency key is another one with another tenant.
    const twice = { ...jsonRequest('POST', { name: 'x', files: [{ path: 'f', sizeBytes: 0, sha256: sha256('') }] }) };
    const keyed = { ...twice, headers: { ...(twice.headers as object), 'idempotency-key': 'k' } };
    const first = await read(await ours('/v1/models', keyed), 201, modelSchema);
    expect((await read(await theirs('/v1/models', keyed), 201, modelSchema)).id).not.toBe(first.id);
  });
});

describe('limits', () => {
  it('of requests are told with each answer, and the one too many is told when to come again', async () => {
    await open({ withKeys: true, limits: { requestsPerMinute: 3 } });
    const [send, other] = [by(await keyOf('a', 'read')), by(await keyOf('b', 'read'))];
    for (const left of [2, 1, 0]) {
      const response = await send('/v1/jobs');
      expect(response.headers.get('ratelimit-policy')).toBe('"requests";q=3;w=60');
      expect(response.headers.get('ratelimit')).toMatch(new RegExp(`^"requests";r=${left};t=\\d+$`));
    }
    const refused = await send('/v1/jobs');
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0);
    expect((await readProblem(refused, 'too_many_requests')).retryable).toBe(true);
    expect((await other('/v1/jobs')).status).toBe(200);
    expect((await api.app.request('/healthz')).headers.get('ratelimit')).toBeNull();
  });

  it('of open jobs and stored bytes refuse with the figures; a tenant may have its own', async () => {
    await open({ limits: { openJobs: 1, storedBytes: tinyBytes + 3 } });
    const send = by(null);
    const modelId = await upload(send);
    await read(await createJob(send, modelId), 202, jobSchema);
    expect((await readProblem(await createJob(send, modelId), 'quota_exceeded')).detail).toContain('at most 1');
    const more = () => send('/v1/datasets', jsonRequest('POST', { name: 'd', files: declarationOf({ f: 'abcd' }) }));
    const refusal = await readProblem(await more(), 'quota_exceeded');
    expect(refusal.detail).toMatch(`${tinyBytes} bytes are stored, 4 would`);
    expect(await read(await send('/v1/usage'), 200, usageSchema)).toMatchObject({
      openJobs: 1,
      storedBytes: tinyBytes,
      computeHoursThisMonth: 0,
      limits: { openJobs: 1, storedBytes: tinyBytes + 3, requestsPerMinute: null },
    });
    await api.close();
    await open({ limits: { openJobs: 0 } });
    await api.store.put('tenants/local/limits.json', encodeJson({ openJobs: 5 }));
    await read(await createJob(send, await upload(send)), 202, jobSchema);
  });

  it('of compute hours count what has run this month', async () => {
    await open({ limits: { computeHoursPerMonth: 1 } });
    const send = by(null);
    const modelId = await upload(send);
    const day = new Date().toISOString().slice(0, 10);
    await api.store.put('tenants/local/ended/2020-01-01/x', encodeJson({ seconds: 1e9 }));
    await api.store.put(`tenants/local/ended/${day}/x`, encodeJson({ seconds: 1800 }));
    await read(await createJob(send, modelId), 202, jobSchema);
    await api.store.put(`tenants/local/ended/${day}/y`, encodeJson({ seconds: 1801 }));
    expect((await readProblem(await createJob(send, modelId), 'quota_exceeded')).detail).toContain('1.0 hours');
  });
});

describe('a server on another address than loopback', () => {
  it('is refused without keys, and with them asks every request for one', async () => {
    await open({});
    const storeFolder = temporaryFolder();
    const options = { storeFolder, host: '0.0.0.0', port: 0, concurrency: 0 };
    await expect(startServer(options)).rejects.toThrow(/cherryq keys create/);
    const { secret } = await openTenantKeys(storeFolder, 'acme').create({ name: 'first', scope: 'read' });
    const server = await startServer(options);
    const url = server.url.replace('0.0.0.0', '127.0.0.1');
    expect((await fetch(`${url}/v1/jobs`)).status).toBe(401);
    expect((await fetch(`${url}/v1/jobs`, { headers: { authorization: `Bearer ${secret}` } })).status).toBe(200);
    expect((await fetch(`${url}/healthz`)).status).toBe(200);
    await server.close();
    expect(() => openTenantKeys(storeFolder, '../x')).toThrow('lower-case');
  });
});
