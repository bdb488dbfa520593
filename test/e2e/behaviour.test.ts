/**
 * What the SDK and the API promise, against both installs alike: a server on this machine over HTTP, and the Lambda function on S3
 * and Batch. Every request and answer is held against the OpenAPI document that the server itself gives, and every operation is used.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { text } from 'node:stream/consumers';
import { join } from 'node:path';
import { startServer } from '@cherryq/api/serve';
import {
  AuthenticationError,
  BadRequestError,
  CherryQ,
  ConflictError,
  NotFoundError,
  UnprocessableError,
  unwrapWebhook,
  type Job,
  type JobEvent,
  type WebhookPayload,
} from 'cherryq';
import { declarationOf, sha256, until } from '../support/api.ts';
import { listen } from '../support/listen.ts';
import { startMoto } from '../support/moto.ts';
import { openPrivateInstall } from '../support/private-install.ts';
import { recordCalls, type RecordedCalls } from '../support/recorded-calls.ts';
import { tinySources } from '../support/tiny-model.ts';
import { fileFolder } from './folders.ts';

const folder = fileFolder();
const moto = await startMoto();
afterAll(() => moto?.close());

interface Install {
  readonly baseUrl: string;
  readonly fetch: typeof fetch;
  /** Of a caller whom the install does not know. */
  readonly stranger: CherryQ;
  close(): Promise<void>;
}

async function openLocal(): Promise<Install> {
  const server = await startServer({ storeFolder: join(folder, 'store'), port: 0 });
  return {
    baseUrl: server.url,
    fetch,
    stranger: new CherryQ({ baseUrl: server.url, apiKey: 'cq_01ARZ3NDEKTSV4RRFFQ69G5FAV_wrong' }),
    close: server.close,
  };
}

async function openLambda(): Promise<Install> {
  if (moto === null) throw new Error('moto is not there');
  const install = await openPrivateInstall(moto);
  const stop = new AbortController();
  const batch = install.runBatch(stop.signal);
  const baseUrl = 'https://install.example';
  return {
    baseUrl,
    fetch: install.fetch(),
    stranger: new CherryQ({ baseUrl, fetch: install.fetch(false) }),
    async close() {
      stop.abort();
      await batch;
    },
  };
}

const installs = [
  { name: 'a server on this machine', open: openLocal, isThere: true, takesParts: true },
  { name: 'the Lambda function', open: openLambda, isThere: moto !== null, takesParts: false },
];

describe.each(installs.filter(({ isThere }) => isThere))('$name', ({ open, takesParts }) => {
  let install: Install;
  let calls: RecordedCalls;
  let client: CherryQ;
  let ended: Job;
  let modelId: string;
  /** How many of the next event streams break off. */
  let cuts = 0;

  beforeAll(async () => {
    install = await open();
    const cutting: typeof fetch = async (input, init) => {
      const answer = await install.fetch(input, init);
      const isStream = answer.headers.get('content-type')?.startsWith('text/event-stream');
      return isStream && cuts-- > 0 ? new Response(cutAfter(answer.body, 250), answer) : answer;
    };
    calls = await recordCalls(cutting, install.baseUrl);
    client = new CherryQ({ baseUrl: install.baseUrl, fetch: calls.fetch });
    const model = await client.models.upload({ name: 'tiny', files: await tinySources() });
    modelId = model.id;
    ended = await client.jobs.wait((await client.jobs.create(rtn())).id);
    expect(ended.status, JSON.stringify(ended.error)).toBe('succeeded');
  }, 120_000);
  afterAll(() => install.close());

  const rtn = (metadata: Record<string, string> = {}) =>
    ({ modelId, scheme: { method: 'rtn', bits: 4, groupSize: 16 }, metadata }) as const;
  /** As the SDK asks, without it. */
  const ask = (path: string, init?: RequestInit): Promise<Response> => calls.fetch(`${install.baseUrl}${path}`, init);

  /** Whether it could be: one that has just ended is still being put away. */
  const deleted = (id: string): Promise<boolean> =>
    client.jobs.delete(id).then(
      () => true,
      (error: unknown) => {
        if (error instanceof ConflictError) return false;
        throw error;
      },
    );

  it('says how it is and what it can do', async () => {
    expect((await client.health.live()).status).toBe('ok');
    expect((await client.health.ready()).status).toBe('ok');
    expect((await client.capabilities.retrieve()).methods.length).toBeGreaterThan(0);
    expect(await client.keys.usage()).toHaveProperty('object', 'usage');
    expect(await client.estimates.create(rtn())).toHaveProperty('object', 'estimate');
  });

  it('finds equal content again, lists newest first, page by page, and deletes', async () => {
    const again = await client.models.upload({ name: 'another', files: (await tinySources()).toReversed() });
    expect(again.id).toBe(modelId);
    expect((await client.models.retrieve(modelId)).status).toBe('ready');
    const ids: string[] = [];
    for (const content of ['one', 'two', 'three'])
      ids.unshift((await client.datasets.upload({ name: content, files: [{ path: 'text.txt', content }] })).id);
    expect((await client.datasets.retrieve(ids[0] ?? '')).name).toBe('three');
    const page = await client.datasets.list({ limit: 2 });
    expect(page).toMatchObject({ hasMore: true, next: ids[1] });
    const seen: string[] = [];
    for await (const { id } of client.datasets.iterate({ limit: 2 })) seen.push(id);
    expect(seen).toEqual(ids);
    for (const id of ids) await client.datasets.delete(id);
    await expect(client.datasets.retrieve(ids[0] ?? '')).rejects.toThrow(NotFoundError);
    const files = [...(await tinySources()), { path: 'LICENSE', content: 'free' }];
    const { id } = await client.models.upload({ name: 'to be deleted', files });
    await client.models.delete(id);
    expect((await client.models.list()).data.map((each) => each.id)).toEqual([modelId]);
  });

  it('takes a large file in parts, checks each, and sends none twice', async () => {
    const content = new Uint8Array(9 * 2 ** 20).map((_, index) => index >> 12);
    const files = declarationOf({ 'a/large.txt': content });
    const [begun, { id: weightsId }] = [
      await client.datasets.create({ name: 'large', files }),
      await client.models.create({ name: 'large', files }),
    ];
    const [one, two] = [content.slice(0, 8 * 2 ** 20), content.slice(8 * 2 ** 20)];
    const asked = [one, two].map((part, index) => ({ number: index + 1, sha256: sha256(part) }));
    const request = { path: 'a/large.txt', parts: asked };
    const [first, second] = (await client.datasets.requestParts(begun.id, request)).parts;
    if (first === undefined || second === undefined) throw new Error('there are two parts');
    await client.datasets.putPart(first, one);
    // S3 checks too, but moto takes any bytes.
    if (takesParts) await expect(client.datasets.putPart(second, one, { maxRetries: 0 })).rejects.toThrow('part 2');
    await expect(client.datasets.complete(begun.id)).rejects.toThrow(ConflictError);
    const done = await client.datasets.upload({ name: 'large', files: [{ path: 'a/large.txt', content }] });
    expect(done).toMatchObject({ id: begun.id, status: 'ready', fingerprint: begun.fingerprint });
    const [part] = (await client.models.requestParts(weightsId, request)).parts;
    if (takesParts) await client.models.putPart(part ?? first, one);
    else {
      const put = await ask(`/v1/models/${weightsId}/parts/1/a/large.txt?sha256=${sha256(one)}`, {
        method: 'PUT',
        headers: { 'content-type': 'application/octet-stream' },
        body: new Uint8Array(1),
      });
      expect(put.status).toBe(409);
    }
    await client.models.delete(weightsId);
    await client.datasets.delete(begun.id);
  });

  it('makes a job once for one idempotency key, and refuses the key for another', async () => {
    const idempotencyKey = 'the same';
    const job = await client.jobs.create(rtn({ try: 'once' }), { idempotencyKey });
    expect((await client.jobs.create(rtn({ try: 'once' }), { idempotencyKey })).id).toBe(job.id);
    await expect(client.jobs.create(rtn({ try: 'twice' }), { idempotencyKey })).rejects.toMatchObject({
      code: 'idempotency_mismatch',
      retryable: false,
    });
    await client.jobs.pause(job.id);
    await client.jobs.resume(job.id);
    expect((await client.jobs.cancel(job.id)).status).toBe('cancelled');
    expect((await client.jobs.cancel(job.id)).status).toBe('cancelled');
    const retried = await client.jobs.retry(job.id);
    expect(retried.id).not.toBe(job.id);
    await client.jobs.cancel(retried.id);
    const seen: string[] = [];
    for await (const { id } of client.jobs.iterate({ limit: 2 })) seen.push(id);
    expect(seen).toEqual([retried.id, job.id, ended.id]);
    expect((await client.jobs.list({ status: 'succeeded' })).data.map(({ id }) => id)).toEqual([ended.id]);
    for (const id of [retried.id, job.id]) await until(() => deleted(id), Boolean);
    await expect(client.jobs.retrieve(job.id)).rejects.toThrow(NotFoundError);
  });

  it('streams events, and goes on without gap or repeat when the line is cut', async () => {
    cuts = 2;
    const events: JobEvent[] = [];
    for await (const event of client.events.stream(ended.id)) events.push(event);
    expect(cuts).toBeLessThanOrEqual(0);
    expect(events.map(({ type }) => type)).toEqual(expect.arrayContaining(['job.queued', 'job.started']));
    expect(events.at(-1)?.type).toBe('job.succeeded');
    const pages: JobEvent[] = [];
    for (let after: string | undefined; ;) {
      const page = await client.events.list(ended.id, { limit: 3, after });
      pages.push(...page.data);
      if (page.next === null) break;
      after = page.next;
    }
    expect(events).toEqual(pages);
  });

  it('gives what a job left: whole, in ranges, and nothing that the client has', async () => {
    const files = await client.artifacts.list(ended.id);
    const [file] = files.toSorted((a, b) => b.sizeBytes - a.sizeBytes);
    if (file === undefined) throw new Error('the job left nothing');
    const whole = await client.artifacts.download(ended.id, file.path);
    expect(sha256(whole)).toBe(file.sha256);
    const rest = await client.artifacts.stream(ended.id, file.path, { start: 10, ifSha256: file.sha256 });
    expect(rest.status).toBe(206);
    expect(rest.headers.get('content-range')).toBe(`bytes 10-${file.sizeBytes - 1}/${file.sizeBytes}`);
    expect(Buffer.compare(await bytesOf(rest.body), whole.subarray(10))).toBe(0);
    const other = await client.artifacts.stream(ended.id, file.path, { start: 10, ifSha256: '0'.repeat(64) });
    expect(other.status).toBe(200);
    expect((await bytesOf(other.body)).length).toBe(file.sizeBytes);
    const path = `/v1/jobs/${ended.id}/artifacts/${file.path}`;
    expect((await ask(path, { headers: { 'if-none-match': `"${file.sha256}"` } })).status).toBe(304);
    expect((await ask(path, { headers: { range: `bytes=${file.sizeBytes}-` } })).status).toBe(416);
    for (const name of ['manifest.json', ...files.map((each) => each.path)])
      await client.artifacts.download(ended.id, name);
  });

  it('has webhooks to make, change, test, look back at and delete', async () => {
    const received: WebhookPayload[] = [];
    let secret = '';
    const url = await listen((request, response) => {
      void text(request)
        .then((body) => unwrapWebhook(body, request.headers, secret))
        .then((payload) => received.push(payload) && response.writeHead(204).end());
    });
    const webhook = await client.webhooks.create({ url, events: ['job.succeeded'] });
    ({ secret } = webhook);
    expect((await client.webhooks.list()).data.map(({ id }) => id)).toEqual([webhook.id]);
    expect((await client.webhooks.test(webhook.id)).status).toBe('delivered');
    ({ secret } = await client.webhooks.rotateSecret(webhook.id));
    const [delivery] = (await client.webhooks.deliveries(webhook.id)).data;
    expect((await client.webhooks.replay(webhook.id, delivery?.id ?? '')).status).toBe('delivered');
    expect(received.map(({ type }) => type)).toEqual(['webhook.test', 'webhook.test']);
    const changed = await client.webhooks.update(webhook.id, { enabled: false });
    expect(changed).toMatchObject({ id: webhook.id, enabled: false });
    expect(await client.webhooks.retrieve(webhook.id)).toEqual(changed);
    await client.webhooks.delete(webhook.id);
    await expect(client.webhooks.retrieve(webhook.id)).rejects.toThrow(NotFoundError);
  });

  it('has keys to make, list and revoke', async () => {
    const { id, secret } = await client.keys.create({ name: 'of a test', scope: 'read' });
    expect(secret.startsWith(`cq_${id}_`)).toBe(true);
    expect((await client.keys.list()).data.map((key) => key.id)).toContain(id);
    expect((await client.keys.revoke(id)).revokedAt).not.toBeNull();
  });

  it('refuses with an error of its class, that names code, request and what to change', async () => {
    const unknown = '01ARZ3NDEKTSV4RRFFQ69G5FAV';
    const refusal = async (asked: Promise<unknown>): Promise<unknown> =>
      asked.then(
        () => null,
        (error: unknown) => error,
      );
    const wrong = { modelId, scheme: { bits: 9 } } as unknown as Parameters<CherryQ['jobs']['create']>[0];
    const cases: [() => Promise<unknown>, new (...args: never[]) => Error, string][] = [
      [() => client.jobs.create(wrong), BadRequestError, 'invalid_request'],
      [() => client.jobs.list({ limit: 1000 }), BadRequestError, 'invalid_request'],
      [() => client.jobs.retrieve(unknown), NotFoundError, 'not_found'],
      [() => client.jobs.create({ ...rtn(), modelId: unknown }), NotFoundError, 'not_found'],
      [() => client.jobs.retry(ended.id), ConflictError, 'conflict'],
      [() => install.stranger.jobs.list(), AuthenticationError, 'unauthorized'],
    ];
    for (const [asked, Class, code] of cases) {
      const error = await refusal(asked());
      expect(error).toBeInstanceOf(Class);
      expect(error).toMatchObject({ code, retryable: false, requestId: expect.stringMatching(/./) as string });
    }
    const content = 'Once upon a time.';
    const { id } = await client.datasets.create({ name: 'text', files: declarationOf({ 'text.txt': content }) });
    const lacking = await refusal(client.datasets.complete(id));
    expect(lacking).toBeInstanceOf(ConflictError);
    const other = new TextEncoder().encode(content.toUpperCase());
    const damaged = await refusal(
      client.datasets.putFile(id, 'text.txt', { sizeBytes: other.length, open: () => other }),
    );
    expect(damaged).toBeInstanceOf(UnprocessableError);
    expect(damaged).toMatchObject({ code: 'content_mismatch', param: 'text.txt' });
    await client.datasets.delete(id);
  });

  it('was as its OpenAPI document says, in every request and answer, of every operation', async () => {
    expect(await calls.faults()).toEqual([]);
    const elsewhere = takesParts ? [] : ['putModelPart', 'putDatasetPart'];
    expect(calls.operations().never).toEqual(elsewhere);
  });
});

/** A body that breaks off. */
function cutAfter(body: ReadableStream<Uint8Array> | null, bytes: number): ReadableStream<Uint8Array> | null {
  let left = bytes;
  const cut = new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      controller.enqueue(chunk.subarray(0, left));
      left -= chunk.length;
      if (left < 0) controller.error(new TypeError('the line is cut'));
    },
  });
  return body?.pipeThrough(cut) ?? null;
}

const bytesOf = async (body: ReadableStream<Uint8Array>): Promise<Uint8Array> =>
  new Uint8Array(await new Response(body).arrayBuffer());
