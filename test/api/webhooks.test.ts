import { describe, expect, it, onTestFinished } from 'vitest';
import { createHmac } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { text } from 'node:stream/consumers';
import { unwrapWebhook } from 'cherryq';
import {
  pageOf,
  webhookDeliverySchema,
  webhookPayloadSchema,
  webhookSchema,
  webhookWithSecretSchema,
  type CreateWebhook,
  type WebhookWithSecret,
} from 'cherryq/contract';
import { jobRef } from '../../api/src/job-log.ts';
import {
  callWebhook,
  everyNetwork,
  guardedLookup,
  parseNetworks,
  whyNotCalled,
  type Networks,
} from '../../api/src/webhook-call.ts';
import {
  abandonedAfterMs,
  announceEnd,
  beginAttempt,
  duePrefix,
  retryDelaysMs,
  type DeliveryRef,
} from '../../api/src/webhook-log.ts';
import { createWebhooks } from '../../api/src/webhooks.ts';
import {
  createPlannedJob,
  jsonRequest,
  openTestApi,
  read,
  readJob,
  readProblem,
  until,
  type TestApi,
  type TestApiOptions,
} from '../support/api.ts';
import { listen } from '../support/listen.ts';

const deliveryPage = pageOf(webhookDeliverySchema);

interface Received {
  headers: IncomingHttpHeaders;
  body: string;
}

/** Takes calls, and answers with these statuses in turn, the last again and again. */
async function openReceiver(...statuses: number[]): Promise<{ url: string; received: Received[] }> {
  const received: Received[] = [];
  const url = await listen((request, response) => {
    void text(request).then((body) => {
      const status = statuses[Math.min(received.length, statuses.length - 1)] ?? 204;
      received.push({ headers: request.headers, body });
      response
        .writeHead(status, status === 301 ? { location: '/elsewhere' } : {})
        .end(status === 204 ? '' : 'so it is');
    });
  });
  return { url: `${url}/hook`, received };
}

async function openApi(options: TestApiOptions = {}) {
  const api = await openTestApi(options);
  onTestFinished(api.close);
  const create = async (request: CreateWebhook): Promise<WebhookWithSecret> =>
    read(await api.app.request('/v1/webhooks', jsonRequest('POST', request)), 201, webhookWithSecretSchema);
  const deliveries = async (id: string) =>
    (await read(await api.app.request(`/v1/webhooks/${id}/deliveries`), 200, deliveryPage)).data;
  return { api, create, deliveries };
}

/** The same webhooks at another time. */
function at(api: TestApi, time: { now: number }) {
  return createWebhooks({ ...api, clock: { now: () => time.now }, networks: everyNetwork });
}

/** A job that was cancelled before it began. */
async function endedJob(api: TestApi): Promise<string> {
  const { id } = await createPlannedJob(api, 'never');
  await api.app.request(`/v1/jobs/${id}/cancel`, jsonRequest('POST', {}));
  return id;
}

describe('when a job ends', () => {
  it('each webhook that wants to know is called, and nobody else', async () => {
    const { api, create, deliveries } = await openApi({ concurrency: 1 });
    const [wants, other] = [await openReceiver(), await openReceiver()];
    const webhook = await create({ url: wants.url });
    await create({ url: other.url, events: ['job.cancelled'] });
    const { id } = await createPlannedJob(api, 'succeed');
    await until(
      () => readJob(api, id),
      ({ status }) => status === 'succeeded',
    );
    await until(api.webhooks.deliverDue, ({ sent }) => sent === 1);
    expect(other.received).toEqual([]);
    const [call] = wants.received;
    expect(webhookPayloadSchema.parse(JSON.parse(call.body))).toMatchObject({
      type: 'job.succeeded',
      data: { object: 'job', id, kind: 'compress', status: 'succeeded', errorCode: null },
    });
    expect(call.headers['webhook-id']).toBe(`msg_${id}`);
    expect(await deliveries(webhook.id)).toMatchObject([
      { id, status: 'delivered', nextAttemptAt: null, attempts: [{ status: 204, error: null, manual: false }] },
    ]);
    expect(await api.webhooks.deliverDue()).toEqual({ sent: 0, delivered: 0 });
    expect(await api.store.list(duePrefix('local'))).toEqual([]);
  });

  it('the call is signed as Standard Webhooks says', async () => {
    const { api, create } = await openApi();
    const { url, received } = await openReceiver();
    const { secret } = await create({ url });
    await endedJob(api);
    await api.webhooks.deliverDue();
    const [{ headers, body }] = received;
    const signed = `${String(headers['webhook-id'])}.${String(headers['webhook-timestamp'])}.${body}`;
    const key = Buffer.from(secret.slice('whsec_'.length), 'base64');
    expect(key).toHaveLength(32);
    expect(headers['webhook-signature']).toBe(`v1,${createHmac('sha256', key).update(signed).digest('base64')}`);
    expect(await unwrapWebhook(body, headers, secret)).toMatchObject({ type: 'job.cancelled' });
  });

  it('B19: what is sent stays below 20 kB, whatever the job holds', async () => {
    const { api, create, deliveries } = await openApi();
    const { id } = await create({ url: (await openReceiver()).url });
    const { id: modelId } = await createPlannedJob(api, 'never');
    expect(modelId).toBeTruthy();
    const metadata = Object.fromEntries(
      Array.from({ length: 16 }, (_, index) => [`${index}`.padEnd(64, 'k'), '"'.repeat(512)]),
    );
    const model = (await readJob(api, modelId)).modelId;
    const request = { modelId: model, scheme: { method: 'rtn' }, metadata };
    const made = await api.app.request('/v1/jobs', jsonRequest('POST', request));
    const job = (await made.json()) as { id: string };
    await api.app.request(`/v1/jobs/${job.id}/cancel`, jsonRequest('POST', {}));
    await until(
      () => deliveries(id),
      (all) => all.length === 1,
    );
    const [{ payload }] = await deliveries(id);
    expect(payload.length).toBeLessThan(20_000);
    expect(webhookPayloadSchema.parse(JSON.parse(payload))).toMatchObject({ data: { metadata } });
  });

  it('however often its end is looked at, there is one delivery and one call', async () => {
    const { api, create, deliveries } = await openApi();
    const { url, received } = await openReceiver();
    const { id } = await create({ url });
    const job = jobRef('local', await endedJob(api));
    const time = { now: Date.now() };
    const clock = { now: () => time.now };
    await announceEnd(api.store, job, clock);
    await Promise.all([at(api, time).deliverDue(), at(api, time).deliverDue()]);
    await announceEnd(api.store, job, clock);
    // Whoever came second waits whether the first is still alive.
    time.now += abandonedAfterMs;
    await at(api, time).deliverDue();
    expect(received).toHaveLength(1);
    expect(await deliveries(id)).toHaveLength(1);
    expect(await api.store.list(duePrefix('local'))).toEqual([]);
  });

  it('a webhook that was made later is not told', async () => {
    const { api, create, deliveries } = await openApi();
    const job = jobRef('local', await endedJob(api));
    const { id } = await create({ url: (await openReceiver()).url });
    await announceEnd(api.store, job, { now: () => Date.now() });
    expect(await deliveries(id)).toEqual([]);
  });
});

describe('a call that is not taken', () => {
  it('is made again by the schedule, the last time after three days, then never by itself', async () => {
    const { api, create, deliveries } = await openApi();
    const { url, received } = await openReceiver(500);
    const { id } = await create({ url });
    const job = await endedJob(api);
    const time = { now: Date.now() };
    const webhooks = at(api, time);
    for (const delay of retryDelaysMs) {
      expect(await webhooks.deliverDue()).toEqual({ sent: 1, delivered: 0 });
      const [{ nextAttemptAt, status, attempts }] = await deliveries(id);
      expect(status).toBe('pending');
      expect(attempts.at(-1)).toMatchObject({ status: 500, answer: 'so it is', error: 'the answer was 500' });
      const waits = Date.parse(nextAttemptAt ?? '') - time.now;
      expect(waits).toBeGreaterThanOrEqual(delay);
      expect(waits).toBeLessThanOrEqual(delay * 1.1 + 1000);
      time.now += delay - 1;
      expect(await webhooks.deliverDue()).toEqual({ sent: 0, delivered: 0 });
      time.now = Date.parse(nextAttemptAt ?? '');
    }
    expect(await webhooks.deliverDue()).toEqual({ sent: 1, delivered: 0 });
    expect(await deliveries(id)).toMatchObject([{ id: job, status: 'failed', nextAttemptAt: null }]);
    expect(received).toHaveLength(10);
    expect(new Set(received.map(({ headers }) => headers['webhook-id'])).size).toBe(1);
    expect(await api.store.list(duePrefix('local'))).toEqual([]);
  });

  it('can be replayed by hand, also when it was taken', async () => {
    const { api, create } = await openApi();
    const { url, received } = await openReceiver(500, 204);
    const { id } = await create({ url });
    const job = await endedJob(api);
    await api.webhooks.deliverDue();
    for (const count of [2, 3]) {
      const response = await api.app.request(`/v1/webhooks/${id}/deliveries/${job}/replay`, { method: 'POST' });
      const delivery = await read(response, 200, webhookDeliverySchema);
      expect(delivery).toMatchObject({ status: 'delivered', nextAttemptAt: null });
      expect(delivery.attempts.map(({ manual }) => manual)).toEqual([false, true, true].slice(0, count));
    }
    expect(received.map(({ body }) => body)).toEqual(Array.from({ length: 3 }, () => received[0].body));
  });

  it('is made again when the process died while it was made', async () => {
    const { api, create, deliveries } = await openApi();
    const { url, received } = await openReceiver();
    const { id } = await create({ url });
    const job = await endedJob(api);
    const time = { now: Date.now() };
    const delivery: DeliveryRef = { tenant: 'local', webhookId: id, id: job };
    await beginAttempt(api.store, delivery, 1, {
      startedAt: new Date(time.now).toISOString(),
      manual: false,
      status: null,
      durationMs: null,
      error: 'died',
      answer: '',
      nextAttemptAt: null,
      ended: false,
    });
    expect(await at(api, time).deliverDue()).toEqual({ sent: 0, delivered: 0 });
    time.now += abandonedAfterMs;
    expect(await at(api, time).deliverDue()).toEqual({ sent: 1, delivered: 1 });
    expect(received).toHaveLength(1);
    expect((await deliveries(id))[0].attempts).toMatchObject([{ error: 'died' }, { error: null }]);
  });

  it.each([
    [301, 'the answer was 301; redirects are not followed, give the final address'],
    [404, 'the answer was 404'],
  ])('%i: %s', async (status, error) => {
    const { api, create, deliveries } = await openApi();
    const { url, received } = await openReceiver(status);
    const { id } = await create({ url });
    await endedJob(api);
    await api.webhooks.deliverDue();
    expect((await deliveries(id))[0].attempts).toMatchObject([{ status, error }]);
    expect(received).toHaveLength(1);
  });

  it('with 410 disables the webhook; enabled again, what waits is sent', async () => {
    const { api, create } = await openApi();
    const { url, received } = await openReceiver(410, 204);
    const { id } = await create({ url });
    await endedJob(api);
    const time = { now: Date.now() };
    await at(api, time).deliverDue();
    const show = async () => read(await api.app.request(`/v1/webhooks/${id}`), 200, webhookSchema);
    expect(await show()).toMatchObject({ enabled: false, disabledReason: 'it answered 410 (gone)' });
    await endedJob(api);
    time.now += 10_000;
    expect(await at(api, time).deliverDue()).toEqual({ sent: 0, delivered: 0 });
    await api.app.request(`/v1/webhooks/${id}`, jsonRequest('PATCH', { enabled: true }));
    expect(await show()).toMatchObject({ enabled: true, disabledReason: null });
    time.now += 70_000;
    expect(await at(api, time).deliverDue()).toEqual({ sent: 2, delivered: 2 });
    expect(received).toHaveLength(3);
  });

  it('for want of an answer says so', async () => {
    const url = await listen(() => undefined);
    const call = {
      url,
      messageId: 'msg_1',
      payload: '{}',
      secrets: ['whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'],
      time: new Date(),
    };
    expect(await callWebhook(call, everyNetwork, 50)).toEqual({
      status: null,
      answer: '',
      error: 'no whole answer came within 0.05 seconds',
    });
    expect(await callWebhook({ ...call, url: 'http://127.0.0.1:1/' }, everyNetwork)).toMatchObject({
      status: null,
      error: expect.stringContaining('ECONNREFUSED') as string,
    });
  });

  it('of an endless answer only the beginning is read', async () => {
    const url = await listen((_, response) => {
      response.writeHead(500);
      const more = (): boolean => !response.destroyed && response.write('x'.repeat(1000)) && more();
      response.on('drain', more);
      more();
    });
    const call = {
      url,
      messageId: 'msg_1',
      payload: '{}',
      secrets: ['whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'],
      time: new Date(),
    };
    expect(await callWebhook(call, everyNetwork)).toMatchObject({ status: 500, answer: 'x'.repeat(500) });
  });
});

describe('private networks', () => {
  it.each([
    'https://127.0.0.1/',
    'https://localhost/',
    'https://api.localhost/',
    'https://10.1.2.3/',
    'https://192.168.0.1/',
    'https://172.16.9.9/',
    'https://169.254.169.254/latest/meta-data/',
    'https://100.64.0.1/',
    'https://0.0.0.0/',
    'https://0x7f.1/',
    'https://2130706433/',
    'https://[::1]/',
    'https://[::ffff:10.0.0.1]/',
    'https://[fd00::1]/',
    'https://[fe80::1]/',
    'https://255.255.255.255/',
    'https://224.0.0.1/',
  ])('%s is refused when a webhook is made, and when it is called', async (url) => {
    expect(whyNotCalled(new URL(url), [])).toMatch(/not on the public internet/);
    const call = { url, messageId: 'msg_1', payload: '{}', secrets: ['whsec_AAAA'], time: new Date() };
    expect(await callWebhook(call, [])).toMatchObject({
      status: null,
      error: expect.stringContaining('private') as string,
    });
  });

  it('a name that leads there is refused when it is called', async () => {
    const resolve = (networks: Networks) =>
      new Promise((settle) => {
        const done = (error: Error | null, found: unknown): void => settle(error?.message ?? found);
        guardedLookup(new URL('https://shop.example/hook'), networks)('localhost', { all: true }, done);
      });
    expect(await resolve([])).toMatch(
      /^https:\/\/shop\.example leads to (127\.0\.0\.1|::1), which is not on the public/,
    );
    expect(await resolve(everyNetwork)).toContainEqual({ address: '127.0.0.1', family: 4 });
  });

  it.each([
    ['https://93.184.216.34/hook', null],
    ['https://example.com/hook', null],
    ['http://example.com/hook', 'must begin with https://'],
    ['https://user:secret@example.com/', 'holds a user name or password'],
  ])('%s: %s', (url, refusal) => {
    const said = whyNotCalled(new URL(url), []);
    if (refusal === null) expect(said).toBeNull();
    else expect(said).toContain(refusal);
  });

  it('that the install names are open, and no others', () => {
    const networks = parseNetworks('10.0.0.0/8, fd00::/8', 'CHERRYQ_WEBHOOK_NETWORKS');
    expect(whyNotCalled(new URL('http://10.1.2.3/'), networks)).toBeNull();
    expect(whyNotCalled(new URL('https://[fd00::1]/'), networks)).toBeNull();
    expect(whyNotCalled(new URL('https://192.168.0.1/'), networks)).toMatch(/not on the public/);
    expect(parseNetworks('', 'X')).toEqual([]);
    expect(() => parseNetworks('10.0.0.0', 'CHERRYQ_WEBHOOK_NETWORKS')).toThrow(
      'CHERRYQ_WEBHOOK_NETWORKS names "10.0.0.0"; a network is written as 10.0.0.0/8',
    );
  });
});

describe('a webhook', () => {
  it('is made, listed, read, changed and deleted; only creation and rotation show its secret', async () => {
    const { api, create } = await openApi();
    const { secret, ...webhook } = await create({ url: 'https://example.com/a', description: 'the shop' });
    expect(secret).toMatch(/^whsec_/);
    expect(webhook).toMatchObject({ enabled: true, events: ['job.succeeded', 'job.failed', 'job.cancelled'] });
    const path = `/v1/webhooks/${webhook.id}`;
    const list = pageOf(webhookSchema);
    expect((await read(await api.app.request('/v1/webhooks'), 200, list)).data).toEqual([webhook]);
    expect(await read(await api.app.request(path), 200, webhookSchema)).toEqual(webhook);
    const changed = await api.app.request(path, jsonRequest('PATCH', { events: ['job.failed'], enabled: false }));
    expect(await read(changed, 200, webhookSchema)).toEqual({ ...webhook, events: ['job.failed'], enabled: false });
    expect((await api.app.request(path, { method: 'DELETE' })).status).toBe(204);
    await readProblem(await api.app.request(path), 'not_found');
    await readProblem(await api.app.request(path, { method: 'DELETE' }), 'not_found');
    await readProblem(await api.app.request(`${path}/deliveries`), 'not_found');
    expect(await api.store.list('tenants/local/webhooks/')).toEqual([]);
  });

  it('is made once however often it is asked for with one key', async () => {
    const { api } = await openApi();
    const ask = (url = 'https://example.com/') =>
      api.app.request('/v1/webhooks', jsonRequest('POST', { url }, { 'idempotency-key': 'k' }));
    const first = await read(await ask(), 201, webhookWithSecretSchema);
    const again = await ask();
    expect(again.headers.get('idempotent-replayed')).toBe('true');
    expect(await read(again, 201, webhookWithSecretSchema)).toEqual(first);
    await readProblem(await ask('https://example.org/'), 'idempotency_mismatch');
  });

  it('signs with both secrets for a day after a rotation', async () => {
    const { api, create } = await openApi();
    const { url, received } = await openReceiver();
    const old = await create({ url });
    const time = { now: Date.now() };
    const fresh = await at(api, time).rotateSecret('local', old.id);
    expect(fresh.secret).not.toBe(old.secret);
    await at(api, time).test('local', old.id);
    time.now += 24 * 3_600_000;
    await at(api, time).test('local', old.id);
    const [both, one] = received;
    for (const { secret } of [old, fresh])
      expect(await unwrapWebhook(both.body, both.headers, secret)).toMatchObject({ type: 'webhook.test' });
    const later = { now: time.now };
    expect(await unwrapWebhook(one.body, one.headers, fresh.secret, later)).toMatchObject({ type: 'webhook.test' });
    await expect(unwrapWebhook(one.body, one.headers, old.secret, later)).rejects.toMatchObject({
      code: 'wrong_signature',
    });
  });

  it('can be tested, with an answer that says what came of it', async () => {
    const { api, create } = await openApi();
    const { id } = await create({ url: (await openReceiver(503)).url });
    const response = await api.app.request(`/v1/webhooks/${id}/test`, { method: 'POST' });
    expect(await read(response, 200, webhookDeliverySchema)).toMatchObject({
      type: 'webhook.test',
      status: 'failed',
      attempts: [{ manual: true, status: 503, answer: 'so it is' }],
    });
    expect(await api.webhooks.deliverDue()).toEqual({ sent: 0, delivered: 0 });
  });

  it.each([
    [{}, 'url', 'is required'],
    [{ url: 'ftp://example.com' }, 'url', 'ftp'],
    [{ url: 'nonsense' }, 'url', 'nonsense'],
    [{ url: 'https://a:b@example.com' }, 'url', 'holds a user name or password'],
    [{ url: 'https://example.com', events: [] }, 'events', 'at least 1'],
    [{ url: 'https://example.com', events: ['job.born'] }, 'events.0', 'job.succeeded'],
    [{ url: 'https://example.com', events: ['job.failed', 'job.failed'] }, 'events', 'names the same event twice'],
    [{ url: 'https://example.com', secret: 'mine' }, 'secret', 'unknown field'],
  ])('%j is refused, naming %s', async (request, param, said) => {
    const { api } = await openApi();
    const problem = await readProblem(
      await api.app.request('/v1/webhooks', jsonRequest('POST', request)),
      'invalid_request',
    );
    expect(problem.param).toBe(param);
    expect(problem.detail).toContain(said);
  });

  it('cannot be changed to nothing, nor to an address that would be refused', async () => {
    const { api, create } = await openApi();
    const { id } = await create({ url: 'https://example.com' });
    const change = (body: object) => api.app.request(`/v1/webhooks/${id}`, jsonRequest('PATCH', body));
    expect((await readProblem(await change({}), 'invalid_request')).detail).toContain('names nothing to change');
    expect((await readProblem(await change({ url: 'https://a@b.c' }), 'invalid_request')).param).toBe('url');
  });

  it('is one of at most twenty', async () => {
    const { api, create } = await openApi();
    for (let count = 0; count < 20; count++) await create({ url: `https://example.com/${count}` });
    const response = await api.app.request('/v1/webhooks', jsonRequest('POST', { url: 'https://example.com/20' }));
    expect((await readProblem(response, 'quota_exceeded')).detail).toContain('20 is the most');
  });

  it("belongs to its tenant, and needs an admin's key", async () => {
    const { api } = await openApi({ withKeys: true });
    const bearer = async (tenant: string, scope: 'write' | 'admin') => ({
      authorization: `Bearer ${(await api.keyring.create(tenant, { name: scope, scope })).secret}`,
    });
    const [mine, theirs, writer] = [await bearer('a', 'admin'), await bearer('b', 'admin'), await bearer('a', 'write')];
    const body = { url: 'https://example.com' };
    await readProblem(await api.app.request('/v1/webhooks', jsonRequest('POST', body, writer)), 'forbidden');
    await readProblem(await api.app.request('/v1/webhooks', { headers: writer }), 'forbidden');
    const made = await api.app.request('/v1/webhooks', jsonRequest('POST', body, mine));
    const { id } = await read(made, 201, webhookWithSecretSchema);
    for (const path of [`/v1/webhooks/${id}`, `/v1/webhooks/${id}/deliveries`])
      await readProblem(await api.app.request(path, { headers: theirs }), 'not_found');
    const post = { method: 'POST', headers: theirs };
    for (const action of ['test', 'rotate-secret', `deliveries/${id}/replay`])
      await readProblem(await api.app.request(`/v1/webhooks/${id}/${action}`, post), 'not_found');
    const page = await read(await api.app.request('/v1/webhooks', { headers: theirs }), 200, pageOf(webhookSchema));
    expect(page.data).toEqual([]);
  });

  it('loses deliveries that are older than asked, and no others', async () => {
    const { api, create, deliveries } = await openApi();
    const { id } = await create({ url: (await openReceiver()).url });
    await endedJob(api);
    await api.webhooks.forgetBefore(Date.now() - 1000);
    expect(await deliveries(id)).toHaveLength(1);
    await api.webhooks.deliverDue();
    await api.webhooks.forgetBefore(Date.now() + 1000);
    expect(await deliveries(id)).toEqual([]);
    expect(await api.store.list('tenants/local/attempts/')).toEqual([]);
  });

  it('has its deliveries in pages, the newest first', async () => {
    const { api, create } = await openApi();
    const { id } = await create({ url: (await openReceiver()).url });
    const jobs: string[] = [];
    for (let count = 0; count < 3; count++) jobs.unshift(await endedJob(api));
    const page = async (query: string) =>
      read(await api.app.request(`/v1/webhooks/${id}/deliveries?${query}`), 200, deliveryPage);
    const first = await page('limit=2');
    expect(first).toMatchObject({ data: [{ id: jobs[0] }, { id: jobs[1] }], hasMore: true, next: jobs[1] });
    expect(await page(`after=${first.next}`)).toMatchObject({ data: [{ id: jobs[2] }], hasMore: false, next: null });
  });
});
