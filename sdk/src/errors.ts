/**
 * Every error that the SDK throws, and the one place that makes them. A class per status, as openai-node and stripe-node
 * have it, so that callers catch what they can act on; the message is the problem's `detail`, written to be shown.
 */
import type { Job, JobError, Problem } from './contract/index.ts';

export interface ErrorDetails {
  /** HTTP status; null when no answer came. */
  status?: number | null;
  /** Stable, for programs: the problem's `code`, or one of the client's own. */
  code: string;
  /** Field, header or file that the error is about. */
  param?: string | null;
  requestId?: string | null;
  /** The same request can succeed later. */
  retryable?: boolean;
  /** What the server asked to wait; null when it did not. */
  retryAfterMs?: number | null;
  /** One entry per field that failed validation. */
  errors?: Problem['errors'];
  cause?: unknown;
}

/** What all errors of this SDK are. */
export class CherryQError extends Error {
  override readonly name: string = 'CherryQError';
  readonly status: number | null;
  readonly code: string;
  readonly param: string | null;
  readonly requestId: string | null;
  readonly retryable: boolean;
  readonly retryAfterMs: number | null;
  readonly errors: Problem['errors'];

  constructor(message: string, details: ErrorDetails) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.status = details.status ?? null;
    this.code = details.code;
    this.param = details.param ?? null;
    this.requestId = details.requestId ?? null;
    this.retryable = details.retryable ?? false;
    this.retryAfterMs = details.retryAfterMs ?? null;
    this.errors = details.errors;
  }
}

/** 400, and every 4xx without a class of its own. */
export class BadRequestError extends CherryQError {
  override readonly name = 'BadRequestError';
}
/** 401 */
export class AuthenticationError extends CherryQError {
  override readonly name = 'AuthenticationError';
}
/** 403 */
export class PermissionError extends CherryQError {
  override readonly name = 'PermissionError';
}
/** 404 */
export class NotFoundError extends CherryQError {
  override readonly name = 'NotFoundError';
}
/** 409 */
export class ConflictError extends CherryQError {
  override readonly name = 'ConflictError';
}
/** 422 */
export class UnprocessableError extends CherryQError {
  override readonly name = 'UnprocessableError';
}
/** 429 */
export class RateLimitError extends CherryQError {
  override readonly name = 'RateLimitError';
}
/** 5xx */
export class ServerError extends CherryQError {
  override readonly name = 'ServerError';
}
/** No answer, or one that broke off. */
export class ConnectionError extends CherryQError {
  override readonly name = 'ConnectionError';
}
/** No answer, or no more of one, for `timeoutMs`; or a wait that ran out. */
export class TimeoutError extends CherryQError {
  override readonly name = 'TimeoutError';
}
/** What arrived is not what was sent: its SHA-256 differs. */
export class IntegrityError extends CherryQError {
  override readonly name = 'IntegrityError';
}
/** A call that says it is of a webhook, and is not, or not now. */
export class SignatureError extends CherryQError {
  override readonly name = 'SignatureError';

  constructor(code: string, message: string, param: string | null) {
    super(message, { code, param });
  }
}
/** Found wrong before anything was sent. */
export class InputError extends CherryQError {
  override readonly name = 'InputError';

  constructor(code: string, message: string, param: string | null = null, options: { cause?: unknown } = {}) {
    super(message, { code, param, ...options });
  }
}
/** A job ended without a result: it failed, or was cancelled. `code` and `param` are those of the job's error. */
export class JobFailedError extends CherryQError {
  override readonly name = 'JobFailedError';
  /** Whose fault: the request or its files (`user`), ours (`service`); `quality`: a limit of the job was missed. */
  readonly fault: JobError['fault'];

  constructor(readonly job: Job) {
    const { error } = job;
    super(error?.message ?? `job ${job.id} was ${job.status}; create it again to get a result`, {
      code: error?.code ?? job.status,
      param: error?.param,
    });
    this.fault = error?.fault ?? 'user';
  }
}

type ErrorClass = new (message: string, details: ErrorDetails) => CherryQError;
const classes: Record<number, ErrorClass> = {
  401: AuthenticationError,
  403: PermissionError,
  404: NotFoundError,
  409: ConflictError,
  422: UnprocessableError,
  429: RateLimitError,
};

/** The error of an answer that is not a success; understands problem details and what a proxy in between may say. */
export async function errorFromResponse(response: Response, sentRequestId: string): Promise<CherryQError> {
  const { status, headers } = response;
  const text = await response.text().catch(() => '');
  const problem = parseProblem(text);
  const Class = classes[status] ?? (status >= 500 ? ServerError : BadRequestError);
  const excerpt = text.trim().slice(0, 200);
  const message = problem?.detail ?? `the server answered ${status} without saying why${excerpt && `: ${excerpt}`}`;
  return new Class(message, {
    status,
    code: problem?.code ?? `http_${status}`,
    param: problem?.param,
    requestId: problem?.requestId ?? headers.get('x-request-id') ?? sentRequestId,
    retryable: problem?.retryable ?? isTransient(status),
    retryAfterMs: parseRetryAfter(headers.get('retry-after'), Date.now()),
    errors: problem?.errors,
  });
}

/** For answers without a problem: 501 and 507 do not go away by waiting. */
function isTransient(status: number): boolean {
  return status === 408 || status === 429 || (status >= 500 && status !== 501 && status !== 507);
}

function parseProblem(text: string): Partial<Problem> | null {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null && 'detail' in value && typeof value.detail === 'string'
      ? (value as Partial<Problem>)
      : null;
  } catch {
    return null;
  }
}

/** `Retry-After` (RFC 9110, 10.2.3): seconds, or a date. @returns milliseconds from `now`; null when absent or unreadable */
export function parseRetryAfter(header: string | null, now: number): number | null {
  if (header === null || header.trim() === '') return null;
  const seconds = Number(header);
  if (Number.isFinite(seconds)) return Math.max(0, seconds * 1000);
  const date = Date.parse(header);
  return Number.isNaN(date) ? null : Math.max(0, date - now);
}
