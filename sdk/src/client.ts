/**
 * The transport: every request of the SDK goes through `Transport`, which adds the key, the request id and the idempotency
 * key, watches the time, tries again and makes errors. Resources say what to send, nothing else. Uses only what every
 * runtime with `fetch` has.
 */
import { sha256 } from '@noble/hashes/sha2.js';
import { CherryQError, ConnectionError, errorFromResponse, InputError, TimeoutError } from './errors.ts';
import { delayBeforeRetry, sleep } from './retry.ts';
import { userAgent } from './user-agent.ts';

export const defaultBaseUrl = 'http://127.0.0.1:7433';

export interface ClientOptions {
  /** Default `http://127.0.0.1:7433`, where `cherryq serve` listens. */
  baseUrl?: string;
  /** Sent as a bearer token. */
  apiKey?: string;
  /** Default: the global one. */
  fetch?: typeof fetch;
  /** Longest silence within one try, ms: until the answer, and between parts of a body. Default 60,000. */
  timeoutMs?: number;
  /** Tries after the first, for what can succeed later. Default 2. */
  maxRetries?: number;
  /** Called after each try. Sees neither keys nor bodies. */
  onRequest?: (entry: RequestLogEntry) => void;
}

export interface RequestLogEntry {
  method: string;
  /** Without what an address elsewhere is signed with. */
  url: string;
  requestId: string;
  /** From 0. */
  attempt: number;
  /** Null when no answer came. */
  status: number | null;
  durationMs: number;
  error: CherryQError | null;
  /** Until the next try; null when there is none. */
  retryInMs: number | null;
}

/** The last argument of every method. */
export interface RequestOptions {
  signal?: AbortSignal;
  timeoutMs?: number;
  maxRetries?: number;
}

/** Content of a file: made afresh for each try. A stream's length must be known. */
export interface RequestBody {
  sizeBytes: number;
  open(): ReadableStream<Uint8Array> | Blob | Uint8Array<ArrayBuffer>;
}

export interface Call {
  method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  /** Begins with a slash; its variable parts are encoded already. */
  path: string;
  query?: Record<string, string | number | undefined>;
  json?: unknown;
  body?: RequestBody;
  headers?: Record<string, string>;
  /** In place of the server's own address and `path`: somebody else, who gets none of our headers. */
  url?: string;
  /** For POST; made when absent, so that a second try never does the work twice. */
  idempotencyKey?: string;
}

/** An answer whose body is still to come. Reading it throws the SDK's errors; `cancel` it when it is not read to its end. */
export interface StreamedAnswer {
  status: number;
  headers: Headers;
  body: ReadableStream<Uint8Array>;
}

/** In-memory bodies tell nothing about how far they are; slower than this counts as stalled. */
const slowestBytesPerMs = 10;

export class Transport {
  readonly baseUrl: string;
  readonly timeoutMs: number;
  readonly maxRetries: number;
  readonly #fetch: typeof fetch;
  readonly #apiKey: string | undefined;
  readonly #userAgent = userAgent();
  readonly #onRequest: ((entry: RequestLogEntry) => void) | undefined;

  constructor(options: ClientOptions = {}) {
    this.baseUrl = checkedBaseUrl(options.baseUrl ?? defaultBaseUrl);
    this.timeoutMs = options.timeoutMs ?? 60_000;
    this.maxRetries = options.maxRetries ?? 2;
    this.#apiKey = options.apiKey;
    this.#onRequest = options.onRequest;
    // Looked up at each call, so that a `fetch` patched later (tracing, tests) is the one that is used.
    this.#fetch = options.fetch ?? ((...args) => globalThis.fetch(...args));
  }

  /** Sends and reads the answer's JSON; undefined for an answer without a body. */
  async json<Result>(call: Call, options: RequestOptions = {}): Promise<Result> {
    return this.#withRetries(call, options, async (response, timer, requestId) => {
      const text = await response.text();
      timer.end();
      if (text === '') return undefined as Result;
      try {
        return JSON.parse(text) as Result;
      } catch (cause) {
        const where = `${this.baseUrl}${call.path}`;
        if (isJson(response))
          throw new ConnectionError(`${where}: the answer ends in its midst, after ${text.length} characters of JSON`, {
            status: response.status,
            code: 'cut_answer',
            requestId,
            retryable: true,
            cause,
          });
        throw new CherryQError(
          `${where} answered ${JSON.stringify(text.slice(0, 80))}, which is not JSON; is baseUrl the address of a CherryQ server?`,
          { status: response.status, code: 'unexpected_answer', requestId, cause },
        );
      }
    });
  }

  /** Sends and hands over the answer as it begins; only what comes before that is tried again. */
  async stream(call: Call, options: RequestOptions = {}): Promise<StreamedAnswer> {
    return this.#withRetries(call, options, (response, timer, requestId) => {
      const body = watched(response.body ?? new Blob().stream(), timer, (cause) =>
        this.#translate(cause, call, options, timer, requestId),
      );
      return Promise.resolve({ status: response.status, headers: response.headers, body });
    });
  }

  /** Sends content to an address that is not the API's, such as a store's: with its own headers, and no key of ours. */
  async putElsewhere(
    url: string,
    headers: Record<string, string>,
    content: Uint8Array<ArrayBuffer>,
    options: RequestOptions = {},
  ): Promise<void> {
    const body: RequestBody = { sizeBytes: content.byteLength, open: () => content };
    await this.#withRetries({ method: 'PUT', path: '', url, headers, body }, options, async (response, timer) => {
      await response.arrayBuffer();
      timer.end();
    });
  }

  async #withRetries<Result>(
    call: Call,
    options: RequestOptions,
    read: (response: Response, timer: IdleTimer, requestId: string) => Promise<Result>,
  ): Promise<Result> {
    const id = randomKey();
    const idempotencyKey = call.method === 'POST' ? (call.idempotencyKey ?? randomKey()) : undefined;
    const maxRetries = options.maxRetries ?? this.maxRetries;
    for (let attempt = 0; ; attempt++) {
      options.signal?.throwIfAborted();
      const requestId = attempt === 0 ? id : `${id}-${attempt}`;
      const started = Date.now();
      const timer = new IdleTimer(options.timeoutMs ?? this.timeoutMs, options.signal);
      let status: number | null = null;
      const log = (error: CherryQError | null, retryInMs: number | null): void =>
        this.#onRequest?.({
          method: call.method,
          url: this.#shownUrl(call),
          requestId,
          attempt,
          status,
          durationMs: Date.now() - started,
          error,
          retryInMs,
        });
      try {
        const response = await this.#send(call, timer, requestId, idempotencyKey);
        status = response.status;
        if (!response.ok) throw await errorFromResponse(response, requestId);
        const result = await read(response, timer, requestId);
        log(null, null);
        return result;
      } catch (cause) {
        timer.end();
        const error = this.#translate(cause, call, options, timer, requestId);
        if (!(error instanceof CherryQError)) throw error;
        const delayMs = delayBeforeRetry(error, attempt, maxRetries);
        log(error, delayMs);
        if (delayMs === null) throw error;
        await sleep(delayMs, options.signal);
      }
    }
  }

  #send(call: Call, timer: IdleTimer, requestId: string, idempotencyKey: string | undefined): Promise<Response> {
    const own: Record<string, string> = {
      Accept: 'application/json',
      'X-Request-Id': requestId,
      ...(this.#userAgent === undefined ? {} : { 'User-Agent': this.#userAgent }),
      ...(this.#apiKey === undefined ? {} : { Authorization: `Bearer ${this.#apiKey}` }),
      ...(idempotencyKey === undefined ? {} : { 'Idempotency-Key': idempotencyKey }),
    };
    const headers: Record<string, string> = { ...(call.url === undefined ? own : {}), ...call.headers };
    const init: RequestInit & { duplex?: 'half' } = { method: call.method, headers, signal: timer.signal };
    if (call.json !== undefined) {
      headers['Content-Type'] = 'application/json';
      init.body = JSON.stringify(call.json);
    } else if (call.body) {
      headers['Content-Type'] = 'application/octet-stream';
      const opened = call.body.open();
      const isLarge = opened instanceof Uint8Array && opened.byteLength >= leastStreamed;
      const content = streamsBodies && isLarge ? sliced(opened) : opened;
      if (content instanceof ReadableStream) {
        headers['Content-Length'] = String(call.body.sizeBytes);
        init.body = watched(content, timer, (cause) => (timer.bodyError = cause), false);
        init.duplex = 'half';
      } else {
        timer.allow(call.body.sizeBytes / slowestBytesPerMs);
        init.body = content;
      }
    }
    return this.#fetch(this.#url(call), init);
  }

  #url({ path, url, query = {} }: Call): string {
    if (url !== undefined) return url;
    const given = Object.entries(query).filter(([, value]) => value !== undefined);
    const search = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
    return `${this.baseUrl}${path}${search && `?${search}`}`;
  }

  /** For logs and messages: an address elsewhere is signed, and its signature is a key. */
  #shownUrl(call: Call): string {
    return call.url === undefined ? this.#url(call) : (call.url.split('?')[0] ?? '');
  }

  /** What a try threw, as the caller gets it: their own abort unchanged, all else as one of our errors. */
  #translate(cause: unknown, call: Call, options: RequestOptions, timer: IdleTimer, requestId: string): unknown {
    if (options.signal?.aborted) return options.signal.reason;
    if (cause instanceof CherryQError) return cause;
    if (timer.bodyError !== undefined) return timer.bodyError;
    const what = `${call.method} ${call.url === undefined ? `${this.baseUrl}${call.path}` : this.#shownUrl(call)}`;
    if (timer.expired)
      return new TimeoutError(
        `${what}: nothing came for ${timer.timeoutMs} ms; the server is busy or cannot be reached`,
        {
          code: 'timeout',
          requestId,
          retryable: true,
          cause,
        },
      );
    // fetch reports every failure of the network as a TypeError.
    if (!(cause instanceof TypeError)) return cause;
    const reason = causeCode(cause) ?? cause.message;
    const advice =
      call.url === undefined ? `Is the server running at ${this.baseUrl}? \`cherryq serve\` starts one` : '';
    return new ConnectionError(`${what}: no answer (${reason}). ${advice}`.trim(), {
      code: 'connection',
      requestId,
      retryable: true,
      cause,
    });
  }
}

/**
 * Whether `fetch` sends a stream with the length that its header states, as Node.js does. Bytes that are handed over as such would be
 * copied as a whole for each try.
 */
const runtime = (globalThis as { process?: { versions?: Record<string, string | undefined> } }).process?.versions;
const streamsBodies = runtime?.['node'] !== undefined && runtime['bun'] === undefined && runtime['deno'] === undefined;
/** Of bytes in memory: those that are worth it. */
const leastStreamed = 2 ** 20;
const sliceBytes = 2 ** 17;

function sliced(bytes: Uint8Array<ArrayBuffer>): ReadableStream<Uint8Array> {
  let at = 0;
  return new ReadableStream<Uint8Array>(
    {
      pull(controller) {
        if (at >= bytes.byteLength) return controller.close();
        controller.enqueue(bytes.subarray(at, (at += sliceBytes)));
      },
    },
    { highWaterMark: 0 },
  );
}

/** Aborts after a silence; anything that happens puts it off. */
class IdleTimer {
  readonly #controller = new AbortController();
  readonly signal: AbortSignal;
  expired = false;
  /** What the body that was to be sent threw, such as a file that cannot be read. */
  bodyError: unknown;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #isOver = false;

  constructor(
    readonly timeoutMs: number,
    outer?: AbortSignal,
  ) {
    this.signal = outer ? AbortSignal.any([outer, this.#controller.signal]) : this.#controller.signal;
    this.allow(0);
  }

  /** Starts the count again, with so much more time. */
  allow(extraMs: number): void {
    clearTimeout(this.#timer);
    if (this.#isOver) return;
    const expire = (): void => {
      this.expired = true;
      this.#controller.abort(new Error('timeout'));
    };
    this.#timer = setTimeout(expire, Math.min(this.timeoutMs + extraMs, 2 ** 31 - 1));
  }

  stop(): void {
    clearTimeout(this.#timer);
  }

  /** For good: an answer may come before the last part of what is sent has been taken, which would start it again. */
  end(): void {
    this.#isOver = true;
    this.stop();
  }

  /** Ends the request under way. */
  abort(): void {
    this.end();
    this.#controller.abort(new Error('cancelled'));
  }
}

/** Passes a stream through, putting the timer off with each part; `last` when the request is over with this stream. */
function watched(
  source: ReadableStream<Uint8Array>,
  timer: IdleTimer,
  translate: (cause: unknown) => unknown,
  last = true,
): ReadableStream<Uint8Array> {
  const reader = source.getReader();
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        try {
          // Once a reader is not waiting, its own pace is no silence of the server.
          timer.allow(0);
          const { done, value } = await reader.read();
          if (last) timer.stop();
          else timer.allow(0);
          if (done) controller.close();
          else controller.enqueue(value);
        } catch (cause) {
          if (last) timer.stop();
          controller.error(translate(cause));
        }
      },
      cancel(reason) {
        // Not awaited: of an answer that was copied on its way (by tracing, by a mock), it ends only with the copy.
        reader.cancel(reason).catch(() => undefined);
        if (last) timer.abort();
      },
    },
    { highWaterMark: 0 },
  );
}

function checkedBaseUrl(baseUrl: string): string {
  const url = URL.canParse(baseUrl) ? new URL(baseUrl) : null;
  if (url?.protocol !== 'http:' && url?.protocol !== 'https:')
    throw new InputError(
      'invalid_base_url',
      `baseUrl is ${JSON.stringify(baseUrl)}; it must begin with http:// or https://, such as ${defaultBaseUrl}`,
      'baseUrl',
    );
  if (url.username !== '' || url.password !== '')
    throw new InputError(
      'invalid_base_url',
      `baseUrl for ${url.host} holds a user or a password, which fetch refuses; give the key as apiKey`,
      'baseUrl',
    );
  return baseUrl.replace(/\/+$/, '');
}

const isJson = ({ headers }: Response): boolean =>
  /^application\/(?:\S+\+)?json\b/.test(headers.get('content-type') ?? '');

function causeCode(error: unknown): string | null {
  for (let at: unknown = error; at instanceof Error; at = at.cause)
    if ('code' in at && typeof at.code === 'string') return at.code;
  return null;
}

/** 128 random bits in hexadecimal; `crypto.randomUUID` is missing on pages without TLS. */
function randomKey(): string {
  return toHex(crypto.getRandomValues(new Uint8Array(16)));
}

export function toHex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** SHA-256 in lower-case hexadecimal. */
export async function sha256Of(content: Uint8Array<ArrayBuffer>): Promise<string> {
  return toHex(new Uint8Array(await crypto.subtle.digest('SHA-256', content)));
}

/** The same of what is never in memory as a whole, which the platform's own cannot do. */
export async function sha256OfStream(content: ReadableStream<Uint8Array>, signal?: AbortSignal): Promise<string> {
  const hash = sha256.create();
  const reader = content.getReader();
  try {
    for (;;) {
      signal?.throwIfAborted();
      const { done, value } = await reader.read();
      if (done) return toHex(hash.digest());
      hash.update(value);
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

/** A path within a URL: each segment encoded, slashes kept. */
export function encodePath(path: string): string {
  return path.split('/').map(encodeURIComponent).join('/');
}
