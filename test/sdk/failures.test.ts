/**
 * Each failure that a network and a server have: how often the client tries, and how long it waits in between. What it says it
 * will wait (`retryInMs`) is compared with its rules, and what it waited, measured at the server, with what it said.
 */
import { createHash } from 'node:crypto';
import { delay, http, HttpResponse, type HttpResponseResolver } from 'msw';
import { setupServer } from 'msw/node';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { CherryQ, CherryQError, type ClientOptions, type JobEvent, type RequestLogEntry } from 'cherryq';
import packageJson from '../../sdk/package.json' with { type: 'json' };
import { version } from '../../sdk/src/user-agent.ts';
import { address, asMessage, cancelledEvent, eventId, jobId, logEvent, problem, someJob } from './support.ts';

const server = setupServer();
beforeAll(() => server.listen({ onUnhandledRequest: 'error' }));
afterEach(() => server.resetHandlers());
afterAll(() => server.close());

const jobUrl = `${address}/v1/jobs/${jobId}`;
/** Back-off of the first tries: half to all of 500, 1000 and 2000 ms. */
const backOff = [
  [250, 500],
  [500, 1000],
  [1000, 2000],
] as const;
/** A server's own wish is spread by up to a fifth. */
const asked = (ms: number) => [ms, 1.2 * ms] as const;

const found: HttpResponseResolver = () => HttpResponse.json(someJob());
const refusal =
  (status: number, headers: Record<string, string> = {}): HttpResponseResolver =>
  () =>
    HttpResponse.json(problem({ status, code: 'internal', retryable: true }), {
      status,
      headers: { 'content-type': 'application/problem+json', ...headers },
    });
/** The connection breaks after so much of the answer, as fetch tells it. */
const cutAfter =
  (sent: string, headers: Record<string, string>): HttpResponseResolver =>
  () => {
    let pulls = 0;
    const body = new ReadableStream<Uint8Array>({
      async pull(controller) {
        if (pulls++ === 0) return controller.enqueue(new TextEncoder().encode(sent));
        // An error discards what has not been read yet.
        await delay(50);
        controller.error(new TypeError('terminated'));
      },
    });
    return new HttpResponse(body, { headers });
  };

interface Seen {
  readonly at: number[];
  readonly headers: Headers[];
  readonly log: RequestLogEntry[];
  readonly client: CherryQ;
}

/** Answers with each resolver in turn, the last again and again, and notes when. */
function answerInTurn(url: string, resolvers: readonly HttpResponseResolver[], options: ClientOptions = {}): Seen {
  const seen = { at: [] as number[], headers: [] as Headers[], log: [] as RequestLogEntry[] };
  server.use(
    http.all(url, (info) => {
      seen.at.push(performance.now());
      seen.headers.push(info.request.headers);
      return resolvers[Math.min(seen.at.length, resolvers.length) - 1](info);
    }),
  );
  return { ...seen, client: new CherryQ({ baseUrl: address, onRequest: (entry) => seen.log.push(entry), ...options }) };
}

/** @param waits what each must lie between, ms; there must be one try more */
function expectWaits({ at, log }: Seen, waits: readonly (readonly [number, number])[]): void {
  expect(at).toHaveLength(waits.length + 1);
  expect(log.map(({ attempt }) => attempt)).toEqual(at.map((_, index) => index));
  expect(log.at(-1)?.retryInMs).toBeNull();
  waits.forEach(([least, most], index) => {
    const said = log[index].retryInMs;
    expect(said, `wait ${index}`).toBeGreaterThanOrEqual(least);
    expect(said, `wait ${index}`).toBeLessThanOrEqual(most);
  });
  gaps(at).forEach((gap, index) => {
    // Timers may end a millisecond early; a busy machine ends them late.
    expect(gap, `wait ${index}`).toBeGreaterThanOrEqual((log[index].retryInMs ?? 0) - 2);
    expect(gap, `wait ${index}`).toBeLessThan((log[index].retryInMs ?? 0) + 2000);
  });
}

const gaps = (at: readonly number[]): number[] => at.slice(1).map((time, index) => time - at[index]);

async function refusedWith(work: Promise<unknown>): Promise<CherryQError> {
  const error: unknown = await work.then(
    () => null,
    (reason: unknown) => reason,
  );
  if (error instanceof CherryQError) return error;
  throw new Error(`expected a CherryQError, got ${String(error)}`);
}

describe('the client tries again, and waits', () => {
  const cases: [string, HttpResponseResolver[], (readonly [number, number])[]][] = [
    ['429 without Retry-After', [refusal(429), refusal(429), found], [backOff[0], backOff[1]]],
    ['429 with Retry-After in seconds', [refusal(429, { 'retry-after': '1' }), found], [asked(1000)]],
    ['500', [refusal(500), found], [backOff[0]]],
    ['503 with a Retry-After in fractions', [refusal(503, { 'retry-after': '0.4' }), found], [asked(400)]],
    ['502 of a proxy', [() => new HttpResponse('<h1>Bad gateway</h1>', { status: 502 }), found], [backOff[0]]],
    ['a connection that is refused', [() => HttpResponse.error(), found], [backOff[0]]],
    [
      'a reset in the middle of the body',
      [cutAfter('{"object": "job", "id":', { 'content-type': 'application/json' }), found],
      [backOff[0]],
    ],
    [
      'JSON that ends in its midst',
      [() => new HttpResponse('{"object": "jo', { headers: { 'content-type': 'application/json' } }), found],
      [backOff[0]],
    ],
  ];
  it.each(cases)('after %s', async (_, resolvers, waits) => {
    const seen = answerInTurn(jobUrl, resolvers);
    expect((await seen.client.jobs.retrieve(jobId)).id).toBe(jobId);
    expectWaits(seen, waits);
  });

  it('after 429 with Retry-After as a date', async () => {
    // Dates have whole seconds: at least one to wait, at most two.
    const date = new Date(Math.ceil(Date.now() / 1000) * 1000 + 1000);
    const seen = answerInTurn(jobUrl, [refusal(429, { 'retry-after': date.toUTCString() }), found]);
    await seen.client.jobs.retrieve(jobId);
    expectWaits(seen, [[900, 2400]]);
    expect(Date.now()).toBeGreaterThanOrEqual(date.getTime() - 2);
  });

  it('after headers that do not come within timeoutMs', async () => {
    const slow: HttpResponseResolver = async () => {
      await delay(1000);
      return HttpResponse.json(someJob());
    };
    const seen = answerInTurn(jobUrl, [slow, found], { timeoutMs: 100 });
    await seen.client.jobs.retrieve(jobId);
    expect(seen.log[0].error).toMatchObject({ name: 'TimeoutError', code: 'timeout' });
    expect(seen.log[0].durationMs).toBeGreaterThanOrEqual(98);
    expect(seen.log[0].retryInMs).toBeGreaterThanOrEqual(250);
    expect(gaps(seen.at)[0]).toBeGreaterThanOrEqual(100 + (seen.log[0].retryInMs ?? 0) - 4);
    expect(seen.at).toHaveLength(2);
  });

  it('as often as maxRetries says, longer each time, then throws the last error', async () => {
    const seen = answerInTurn(jobUrl, [refusal(500)], { maxRetries: 3 });
    expect(await refusedWith(seen.client.jobs.retrieve(jobId))).toMatchObject({ name: 'ServerError', status: 500 });
    expectWaits(seen, backOff);
  });

  it('not at all after a Retry-After of more than a minute, which the error tells', async () => {
    const seen = answerInTurn(jobUrl, [refusal(429, { 'retry-after': '61' })]);
    expect(await refusedWith(seen.client.jobs.retrieve(jobId))).toMatchObject({ retryAfterMs: 61_000, status: 429 });
    expectWaits(seen, []);
  });

  it('with the same idempotency key, on every POST', async () => {
    const seen = answerInTurn(`${address}/v1/*`, [refusal(500), () => HttpResponse.json(someJob(), { status: 202 })]);
    const { jobs, webhooks, keys, models, estimates } = seen.client;
    await jobs.create({ modelId: jobId });
    await jobs.cancel(jobId);
    await jobs.retry(jobId);
    await webhooks.create({ url: 'https://example.com/hook' });
    await keys.create({ name: 'a', scope: 'read' });
    await models.complete(jobId);
    await estimates.create({ modelId: jobId });
    const sent = seen.headers.map((headers) => headers.get('idempotency-key'));
    expect(sent.every((key) => /^[0-9a-f]{32}$/.test(key ?? ''))).toBe(true);
    expect(sent[1]).toBe(sent[0]);
    expect(new Set(sent).size).toBe(sent.length - 1);
  });
});

describe('a download', () => {
  const content = 'the right bytes';
  const sha256 = createHash('sha256').update(content).digest('hex');
  const file =
    (body: string): HttpResponseResolver =>
    () =>
      new HttpResponse(body, { headers: { etag: `"${sha256}"` } });
  const url = `${jobUrl}/artifacts/a.bin`;

  it('is repeated, after a pause, when its SHA-256 is not the announced one', async () => {
    const { client, at } = answerInTurn(url, [file('the wrong bytes'), file(content)]);
    expect(new TextDecoder().decode(await client.artifacts.download(jobId, 'a.bin'))).toBe(content);
    expect(at).toHaveLength(2);
    expect(gaps(at)[0]).toBeGreaterThanOrEqual(248);
  });

  it('is given up after maxRetries, and nothing wrong is returned', async () => {
    const { client, at } = answerInTurn(url, [file('the wrong bytes')]);
    const error = await refusedWith(client.artifacts.download(jobId, 'a.bin'));
    expect(error).toMatchObject({ name: 'IntegrityError', code: 'content_mismatch', param: 'a.bin' });
    expect(at).toHaveLength(3);
    gaps(at).forEach((gap, index) => expect(gap).toBeGreaterThanOrEqual(backOff[index][0] - 2));
  });

  it('is repeated after a reset in its midst', async () => {
    const { client, at } = answerInTurn(url, [cutAfter('the ri', { etag: `"${sha256}"` }), file(content)]);
    expect(new TextDecoder().decode(await client.artifacts.download(jobId, 'a.bin'))).toBe(content);
    expect(at).toHaveLength(2);
    expect(gaps(at)[0]).toBeGreaterThanOrEqual(248);
  });
});

describe('an event stream', () => {
  const stream = { 'content-type': 'text/event-stream' };

  it('cut in the middle of an event goes on after the last whole one, after a pause', async () => {
    const second = asMessage(logEvent(2));
    const { client, at, headers } = answerInTurn(`${jobUrl}/events`, [
      cutAfter(`retry: 10\n\n${asMessage(logEvent(1))}${second.slice(0, second.length / 2)}`, stream),
      () => new HttpResponse(second + asMessage(cancelledEvent(3)), { headers: stream }),
    ]);
    const events: JobEvent[] = [];
    for await (const event of client.events.stream(jobId)) events.push(event);
    expect(events.map(({ id }) => id)).toEqual([1, 2, 3].map(eventId));
    expect(headers.map((each) => each.get('last-event-id'))).toEqual([null, eventId(1)]);
    expect(gaps(at)[0]).toBeGreaterThanOrEqual(248);
  });

  it('refused with Retry-After waits that long before it connects again', async () => {
    const { client, at, log } = answerInTurn(`${jobUrl}/events`, [
      () => new HttpResponse(asMessage(logEvent(1)), { headers: stream }),
      refusal(503, { 'retry-after': '1' }),
      () => new HttpResponse(asMessage(cancelledEvent(2)), { headers: stream }),
    ]);
    for await (const event of client.events.stream(jobId)) expect(event.id).toBeTruthy();
    expect(at).toHaveLength(3);
    expect(gaps(at)[1]).toBeGreaterThanOrEqual(998);
    // The stream itself counts and waits, not the transport.
    expect(log.map(({ attempt, retryInMs }) => [attempt, retryInMs])).toEqual(log.map(() => [0, null]));
  });
});

describe('the log hook', () => {
  const apiKey = 'cq_secret';

  it('sees neither the key nor what an address elsewhere is signed with', async () => {
    const seen = answerInTurn(`${address}/v1/jobs`, [refusal(500), () => HttpResponse.json(someJob())], { apiKey });
    await seen.client.jobs.create({ modelId: jobId });
    const signed = 'https://store.example/part?X-Amz-Signature=signature';
    server.use(http.get('https://store.example/part', () => HttpResponse.error()));
    const { log, client } = seen;
    const error = await refusedWith(
      client.artifacts.stream(jobId, 'a.bin', { url: signed, maxRetries: 0 }).then(({ body }) => body.cancel()),
    );
    expect(seen.headers[0].get('authorization')).toBe(`Bearer ${apiKey}`);
    expect(log).toHaveLength(3);
    expect(log[2].url).toBe('https://store.example/part');
    expect(error.message).toContain('GET https://store.example/part: no answer');
    const told = JSON.stringify(log) + log.map((entry) => String(entry.error?.stack)).join() + error.message;
    expect(told).not.toContain(apiKey);
    expect(told).not.toContain('signature');
  });
});

describe('the client', () => {
  it('says who it is, and gives no key to an address elsewhere', async () => {
    const seen = answerInTurn(jobUrl, [found], { apiKey: 'cq_secret' });
    await seen.client.jobs.retrieve(jobId);
    expect(seen.headers[0].get('user-agent')).toMatch(/^cherryq\/\d+\.\d+\.\d+ Node\.js\/\d+/);
    expect(version).toBe(packageJson.version);
    const elsewhere = answerInTurn('https://store.example/file', [() => new HttpResponse('x')], {
      apiKey: 'cq_secret',
    });
    const { body } = await elsewhere.client.artifacts.stream(jobId, 'a.bin', { url: 'https://store.example/file' });
    await body.cancel();
    expect(elsewhere.headers[0].get('authorization')).toBeNull();
  });

  it('refuses a password in baseUrl, and does not repeat it', () => {
    const make = (): CherryQ => new CherryQ({ baseUrl: 'https://me:hunter2@cherryq.example' });
    expect(make).toThrow('give the key as apiKey');
    expect(make).not.toThrow('hunter2');
  });
});
