import { delay, http, HttpResponse } from 'msw';
import { setupServer } from 'msw/node';
import { afterAll, afterEach, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest';
import {
  AuthenticationError,
  BadRequestError,
  CherryQ,
  CherryQError,
  ConflictError,
  ConnectionError,
  NotFoundError,
  PermissionError,
  RateLimitError,
  ServerError,
  TimeoutError,
  UnprocessableError,
  type RequestLogEntry,
} from 'cherryq';
import { parseRetryAfter } from '../../sdk/src/errors.ts';
import { retryDelayMs, sleep } from '../../sdk/src/retry.ts';
import { address, jobId, problem, someJob } from './support.ts';

const server = setupServer();
beforeAll(() => server.listen({ onUnhandledRequest: 'error' }));
afterEach(() => server.resetHandlers());
afterAll(() => server.close());

const jobUrl = `${address}/v1/jobs/${jobId}`;
const found = (): Response => HttpResponse.json(someJob());
const refused = (status: number, fields: Parameters<typeof problem>[0], headers: Record<string, string> = {}) =>
  HttpResponse.json(problem({ status, ...fields }), {
    status,
    headers: { 'content-type': 'application/problem+json', ...headers },
  });

/** Answers each GET of the job with the next one; the last again and again. @returns the requests' times and headers */
function answer(...answers: (() => Response | Promise<Response>)[]): { at: number; headers: Headers }[] {
  const requests: { at: number; headers: Headers }[] = [];
  server.use(
    http.get(jobUrl, ({ request }) => {
      requests.push({ at: Date.now(), headers: request.headers });
      return answers[Math.min(requests.length, answers.length) - 1]();
    }),
  );
  return requests;
}

const thrownBy = async (work: Promise<unknown>): Promise<CherryQError> => {
  const error: unknown = await work.then(
    () => null,
    (reason: unknown) => reason,
  );
  if (error instanceof CherryQError) return error;
  throw new Error(`expected a CherryQError, got ${String(error)}`);
};

describe('errors of the client', () => {
  it.each([
    [400, BadRequestError, 'invalid_request'],
    [401, AuthenticationError, 'unauthorized'],
    [403, PermissionError, 'forbidden'],
    [404, NotFoundError, 'not_found'],
    [409, ConflictError, 'conflict'],
    [413, BadRequestError, 'payload_too_large'],
    [422, UnprocessableError, 'content_mismatch'],
    [429, RateLimitError, 'too_many_requests'],
    [500, ServerError, 'internal'],
    [507, ServerError, 'storage_full'],
  ] as const)('have a class for %i, with what the problem says', async (status, Class, code) => {
    const detail = `the field is wrong (${status})`;
    const errors = [{ pointer: '/scheme/bits', detail: 'must be 2, 3, 4 or 8; got 5' }];
    answer(() => refused(status, { code, detail, param: 'scheme.bits', requestId: 'r-1', errors }));
    const error = await thrownBy(new CherryQ({ baseUrl: address }).jobs.retrieve(jobId));
    expect(error).toBeInstanceOf(Class);
    expect(error.name).toBe(Class.name);
    expect(error.message).toBe(detail);
    expect(error).toMatchObject({ status, code, param: 'scheme.bits', requestId: 'r-1', retryable: false, errors });
  });

  it("have a sentence for a proxy's answer that is no problem", async () => {
    answer(() => HttpResponse.text('<h1>Bad gateway</h1>', { status: 502 }));
    const error = await thrownBy(new CherryQ({ baseUrl: address, maxRetries: 0 }).jobs.retrieve(jobId));
    expect(error).toBeInstanceOf(ServerError);
    expect(error.message).toBe('the server answered 502 without saying why: <h1>Bad gateway</h1>');
    expect(error).toMatchObject({ code: 'http_502', retryable: true });
    expect(error.requestId).toMatch(/^[0-9a-f]{32}$/);
  });

  it('tell an address that is not of a CherryQ server', async () => {
    answer(() => HttpResponse.text('<!doctype html>'));
    const error = await thrownBy(new CherryQ({ baseUrl: address }).jobs.retrieve(jobId));
    expect(error.code).toBe('unexpected_answer');
    expect(error.message).toContain('is baseUrl the address of a CherryQ server?');
  });

  it('tell a server that cannot be reached', async () => {
    answer(() => HttpResponse.error());
    const error = await thrownBy(new CherryQ({ baseUrl: address, maxRetries: 0 }).jobs.retrieve(jobId));
    expect(error).toBeInstanceOf(ConnectionError);
    expect(error.message).toContain(`Is the server running at ${address}?`);
    expect(error).toMatchObject({ status: null, retryable: true });
  });

  it('tell a silence that is longer than timeoutMs', async () => {
    answer(async () => {
      await delay(2000);
      return found();
    });
    const error = await thrownBy(new CherryQ({ baseUrl: address, maxRetries: 0, timeoutMs: 50 }).jobs.retrieve(jobId));
    expect(error).toBeInstanceOf(TimeoutError);
    expect(error.message).toContain('nothing came for 50 ms');
  });

  it('refuse an address without http', () => {
    expect(() => new CherryQ({ baseUrl: 'localhost:7433' })).toThrow('it must begin with http:// or https://');
  });
});

describe('retries of the client', () => {
  it('wait before they try again, longer each time', async () => {
    const requests = answer(
      () => refused(500, { retryable: true }),
      () => refused(500, { retryable: true }),
      found,
    );
    expect((await new CherryQ({ baseUrl: address }).jobs.retrieve(jobId)).id).toBe(jobId);
    const [first, second, third] = requests.map(({ at }) => at);
    expect(second - first).toBeGreaterThanOrEqual(245);
    expect(third - second).toBeGreaterThanOrEqual(495);
  });

  it('wait as long as Retry-After says', async () => {
    const requests = answer(
      () => refused(429, { code: 'too_many_requests', retryable: true }, { 'retry-after': '1' }),
      found,
    );
    await new CherryQ({ baseUrl: address }).jobs.retrieve(jobId);
    expect(requests[1].at - requests[0].at).toBeGreaterThanOrEqual(995);
  });

  it('come after 429 without Retry-After too', async () => {
    const requests = answer(() => refused(429, { code: 'too_many_requests', retryable: true }), found);
    await new CherryQ({ baseUrl: address }).jobs.retrieve(jobId);
    expect(requests[1].at - requests[0].at).toBeGreaterThanOrEqual(245);
  });

  it('do not sleep through a Retry-After of an hour', async () => {
    const requests = answer(() => refused(503, { code: 'unavailable', retryable: true }, { 'retry-after': '3600' }));
    const error = await thrownBy(new CherryQ({ baseUrl: address }).jobs.retrieve(jobId));
    expect(error.retryAfterMs).toBe(3_600_000);
    expect(requests).toHaveLength(1);
  });

  it('come after a connection that broke', async () => {
    const requests = answer(() => HttpResponse.error(), found);
    await new CherryQ({ baseUrl: address }).jobs.retrieve(jobId);
    expect(requests).toHaveLength(2);
  });

  it('end after maxRetries', async () => {
    const requests = answer(() => refused(500, { retryable: true }));
    await thrownBy(new CherryQ({ baseUrl: address, maxRetries: 1 }).jobs.retrieve(jobId));
    expect(requests).toHaveLength(2);
  });

  it('do not come for what the caller must change', async () => {
    const requests = answer(() => refused(404, { code: 'not_found' }));
    await thrownBy(new CherryQ({ baseUrl: address }).jobs.retrieve(jobId));
    expect(requests).toHaveLength(1);
  });

  it('end at once when the signal is aborted while waiting', async () => {
    answer(() => refused(503, { code: 'unavailable', retryable: true }, { 'retry-after': '30' }));
    const reason = new Error('enough');
    const started = Date.now();
    const work = new CherryQ({ baseUrl: address }).jobs.retrieve(jobId, { signal: abortedIn(100, reason) });
    await expect(work).rejects.toBe(reason);
    expect(Date.now() - started).toBeLessThan(5000);
  });

  it('send the same idempotency key, and another request id', async () => {
    const headers: Headers[] = [];
    server.use(
      http.post(`${address}/v1/jobs`, ({ request }) => {
        headers.push(request.headers);
        return headers.length === 1 ? refused(500, { retryable: true }) : HttpResponse.json(someJob(), { status: 202 });
      }),
    );
    const client = new CherryQ({ baseUrl: address, apiKey: 'key-1' });
    await client.jobs.create({ modelId: jobId });
    await client.jobs.create({ modelId: jobId });
    await client.jobs.create({ modelId: jobId }, { idempotencyKey: 'mine' });
    const keys = headers.map((each) => each.get('idempotency-key'));
    expect(keys[0]).toMatch(/^[0-9a-f]{32}$/);
    expect(keys[1]).toBe(keys[0]);
    expect(keys[2]).not.toBe(keys[0]);
    expect(keys[3]).toBe('mine');
    expect(new Set(headers.map((each) => each.get('x-request-id'))).size).toBe(4);
    expect(headers[0].get('authorization')).toBe('Bearer key-1');
  });

  it('are told to the log hook, try by try', async () => {
    answer(() => refused(500, { retryable: true }), found);
    const log: RequestLogEntry[] = [];
    await new CherryQ({ baseUrl: address, onRequest: (entry) => log.push(entry) }).jobs.retrieve(jobId);
    expect(log).toMatchObject([
      { method: 'GET', url: jobUrl, attempt: 0, status: 500, error: { code: 'internal' } },
      { method: 'GET', url: jobUrl, attempt: 1, status: 200, error: null, retryInMs: null },
    ]);
    expect(log[0].retryInMs).toBeGreaterThan(0);
  });
});

describe('a request whose answer comes before its body was read to the end', () => {
  it('leaves no timer behind, which would keep a program from ending', async () => {
    vi.useFakeTimers();
    onTestFinished(() => void vi.useRealTimers());
    let readRest: () => Promise<unknown> = () => Promise.resolve();
    const send: typeof fetch = async (_, init) => {
      const reader = (init?.body as ReadableStream<Uint8Array>).getReader();
      await reader.read();
      readRest = () => reader.read();
      return new Response(null, { status: 204 });
    };
    const body = { sizeBytes: 3, open: () => new Blob(['abc']).stream() };
    await new CherryQ({ baseUrl: address, fetch: send }).models.putFile(jobId, 'config.json', body);
    await readRest();
    expect(vi.getTimerCount()).toBe(0);
  });
});

describe('retryDelayMs', () => {
  it('doubles from half a second to eight seconds, with jitter over the upper half', () => {
    expect([0, 1, 2, 3, 4, 9].map((attempt) => retryDelayMs(attempt, null, 1))).toEqual([
      500, 1000, 2000, 4000, 8000, 8000,
    ]);
    expect(retryDelayMs(2, null, 0)).toBe(1000);
  });

  it('never undercuts what the server asks for', () => {
    expect(retryDelayMs(0, 3000, 0)).toBe(3000);
    expect(retryDelayMs(0, 3000, 0.5)).toBeCloseTo(3300);
  });
});

describe('parseRetryAfter', () => {
  it('reads seconds and dates, and passes over the rest', () => {
    const now = Date.parse('2026-11-23T00:00:00Z');
    expect(parseRetryAfter('2', now)).toBe(2000);
    expect(parseRetryAfter('Mon, 23 Nov 2026 00:00:05 GMT', now)).toBe(5000);
    expect(parseRetryAfter('Sun, 22 Nov 2026 00:00:00 GMT', now)).toBe(0);
    expect(parseRetryAfter('soon', now)).toBeNull();
    expect(parseRetryAfter(null, now)).toBeNull();
  });
});

describe('sleep', () => {
  it('sleeps as long as it is told, fractions included', async () => {
    const started = Date.now();
    await sleep(120.7);
    expect(Date.now() - started).toBeGreaterThanOrEqual(118);
  });
});

function abortedIn(delayMs: number, reason: Error): AbortSignal {
  const controller = new AbortController();
  setTimeout(() => controller.abort(reason), delayMs);
  return controller.signal;
}
