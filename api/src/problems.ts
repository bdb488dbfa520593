/**
 * Every answer that is not a success is made here: RFC 9457 problem details with a stable `code`. Code throws a
 * `ProblemError` where it knows what the caller did; `toProblem` turns that, and anything else, into the answer.
 */
import { HTTPException } from 'hono/http-exception';
import type { z } from 'zod';
import { problemCodes, type Problem, type ProblemCode } from 'cherryq/contract';
import { InputError, StorageFullError, TransientError } from '@cherryq/batch-jobs/storage';

export interface ProblemOptions {
  /** Field or header that the problem is about. */
  param?: string | null;
  errors?: Problem['errors'];
  /** Headers to send with it, such as `Allow`. */
  headers?: Record<string, string>;
  cause?: unknown;
}

/** A request that cannot be answered as asked. `detail`: what, value received, values allowed, likely fix. */
export class ProblemError extends Error {
  override readonly name = 'ProblemError';
  readonly param: string | null;
  readonly errors: Problem['errors'];
  readonly headers: Record<string, string>;

  constructor(
    readonly code: ProblemCode,
    detail: string,
    options: ProblemOptions = {},
  ) {
    super(detail, { cause: options.cause });
    this.param = options.param ?? null;
    this.errors = options.errors;
    this.headers = options.headers ?? {};
  }
}

const titles: Record<ProblemCode, string> = {
  invalid_request: 'The request is not valid',
  unauthorized: 'No valid key was given',
  forbidden: 'The request is not allowed',
  not_found: 'There is no such thing',
  method_not_allowed: 'The method is not allowed here',
  conflict: 'The present state does not allow it',
  idempotency_in_flight: 'The same request is still being worked on',
  payload_too_large: 'The body is too large',
  range_not_satisfiable: 'The range lies outside the file',
  content_mismatch: 'The content is not what was declared',
  invalid_model: 'The model cannot be used',
  does_not_fit: 'This needs more than there is',
  idempotency_mismatch: 'The idempotency key was used for another request',
  too_many_requests: 'Too many requests',
  quota_exceeded: 'A limit of the tenant is reached',
  internal: 'Something went wrong on our side',
  unavailable: 'The service cannot take the request now',
  storage_full: 'The storage is full',
};

/** Sending the same request again, later, can succeed. */
const retryable: ReadonlySet<ProblemCode> = new Set([
  'idempotency_in_flight',
  'too_many_requests',
  'internal',
  'unavailable',
]);

/** What was thrown, as an answer. A bug's message stays in the log; the caller gets the request's id to find it by. */
export function toProblem(thrown: unknown, requestId: string): { problem: Problem; headers: Record<string, string> } {
  const error = knownProblem(thrown, requestId);
  const problem: Problem = {
    type: `urn:cherryq:problem:${error.code}`,
    title: titles[error.code],
    status: problemCodes[error.code],
    detail: error.message,
    code: error.code,
    param: error.param,
    requestId,
    retryable: retryable.has(error.code),
  };
  if (error.errors) problem.errors = error.errors;
  return { problem, headers: { 'Content-Type': 'application/problem+json', ...error.headers } };
}

function knownProblem(thrown: unknown, requestId: string): ProblemError {
  if (thrown instanceof ProblemError) return thrown;
  if (thrown instanceof StorageFullError) return new ProblemError('storage_full', thrown.message);
  if (thrown instanceof TransientError) return new ProblemError('unavailable', thrown.message);
  if (thrown instanceof InputError) return new ProblemError('invalid_request', thrown.message, { param: thrown.param });
  if (thrown instanceof HTTPException) {
    if (thrown.status === 413) return new ProblemError('payload_too_large', thrown.message);
    if (thrown.status === 415)
      return new ProblemError('invalid_request', 'the body must be JSON, sent with Content-Type: application/json', {
        param: 'Content-Type',
      });
    return new ProblemError('invalid_request', `${thrown.message}; send one JSON object in UTF-8`);
  }
  return new ProblemError(
    'internal',
    `an error that is not your request's fault; it is in the server's log under request ${requestId}`,
  );
}

type Part = 'json' | 'query' | 'param' | 'header' | 'cookie' | 'form';
const partNames: Record<Part, string> = {
  json: 'the body',
  query: 'the query',
  param: 'the path',
  header: 'a header',
  cookie: 'a cookie',
  form: 'the form',
};

/**
 * A failed validation: one entry per field.
 * @param received what was validated, to quote from   @param schema names the fields that would have been known
 */
export function validationProblem(
  part: Part,
  issues: z.core.$ZodIssue[],
  received: unknown,
  schema?: unknown,
): ProblemError {
  const id = issues.map((issue) => String(issue.path[0])).find((name) => name === 'id' || name.endsWith('Id'));
  if (part === 'param' && id !== undefined) {
    const detail = `nothing has the id ${quote(valueAt(received, [id]))}; ids have 26 characters`;
    return new ProblemError('not_found', detail, { param: id });
  }
  const errors = issues.flatMap((issue) => describeIssue(issue, received, schema));
  const more = errors.length > 1 ? ` (and ${errors.length - 1} more, see errors)` : '';
  const first = errors[0] ?? { pointer: '', detail: 'is not valid' };
  const param = first.pointer.slice(1).replaceAll('/', '.') || null;
  const subject = param ?? 'it';
  return new ProblemError('invalid_request', `${partNames[part]} is not valid: ${subject} ${first.detail}${more}`, {
    param,
    errors,
  });
}

const mostListed = 20;

/** What makes a model unusable: one entry for each file, tensor or field, as many as can be read. */
export function modelProblem(problems: readonly [InputError, ...InputError[]], advice: string): ProblemError {
  const [first] = problems;
  const more = problems.length > 1 ? ` (and ${problems.length - 1} more problems, see errors)` : '';
  return new ProblemError('invalid_model', `${first.message} ${advice}${more}`, {
    param: first.param,
    cause: first,
    errors: problems
      .slice(0, mostListed)
      .map(({ param, message }) => ({ pointer: pointer(param === null ? [] : [param]), detail: message })),
  });
}

function describeIssue(
  issue: z.core.$ZodIssue,
  received: unknown,
  schema: unknown,
): { pointer: string; detail: string }[] {
  if (issue.code === 'unrecognized_keys') {
    const known = fieldsAt(schema, issue.path);
    const allowed = known.length > 0 ? `; known are ${known.join(', ')}` : '';
    return issue.keys.map((key) => ({
      pointer: pointer([...issue.path, key]),
      detail: `is an unknown field${allowed}`,
    }));
  }
  const value = valueAt(received, issue.path);
  if (issue.code === 'invalid_union' && typeof value === 'object') {
    // The form that was meant is the one that the least is wrong with.
    const weightOf = (issues: z.core.$ZodIssue[]): number =>
      issues.reduce((sum, each) => sum + (each.code === 'unrecognized_keys' ? each.keys.length : 1), 0);
    const [meant] = issue.errors.toSorted((a, b) => weightOf(a) - weightOf(b));
    return (meant ?? []).flatMap((each) =>
      describeIssue({ ...each, path: [...issue.path, ...each.path] }, received, schema),
    );
  }
  return [{ pointer: pointer(issue.path), detail: explain(issue, value) }];
}

function explain(issue: z.core.$ZodIssue, value: unknown): string {
  if (issue.message.includes('; got ')) return issue.message;
  const got = `; got ${quote(value)}`;
  switch (issue.code) {
    case 'invalid_type':
      // Of a field that another kind of job has, the message itself says so.
      if (issue.expected === 'never') return issue.message;
      return value === undefined ? `is required (${issue.expected})` : `must be of type ${issue.expected}${got}`;
    case 'invalid_value':
      return `must be one of ${issue.values.map(quote).join(', ')}${got}`;
    case 'too_small':
      return `${bound(issue.origin, `at least ${issue.minimum}`)}${got}`;
    case 'too_big':
      return `${bound(issue.origin, `at most ${issue.maximum}`)}${got}`;
    default:
      return `${issue.message}${got}`;
  }
}

function bound(origin: string, limit: string): string {
  if (origin === 'string') return `must have ${limit} characters`;
  if (origin === 'array' || origin === 'set') return `must have ${limit} entries`;
  return `must be ${limit}`;
}

/** JSON, shortened, so that a message stays a message. */
function quote(value: unknown): string {
  const text = JSON.stringify(value) ?? 'nothing';
  return text.length > 120 ? `${text.slice(0, 120)}… (${text.length} characters)` : text;
}

/** RFC 6901. */
function pointer(path: PropertyKey[]): string {
  return path.map((part) => `/${String(part).replaceAll('~', '~0').replaceAll('/', '~1')}`).join('');
}

function valueAt(root: unknown, path: PropertyKey[]): unknown {
  let value = root;
  for (const part of path) {
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, part)) return undefined;
    value = Reflect.get(value, part);
  }
  return value;
}

/** Names of the fields that a zod schema knows at a path, of a union's first member that knows some; else none. */
function fieldsAt(schema: unknown, path: PropertyKey[]): string[] {
  const at = unwrapped(schema);
  const members = child(at, 'options');
  if (Array.isArray(members))
    return members.map((member) => fieldsAt(member, path)).find((fields) => fields.length > 0) ?? [];
  const [part, ...rest] = path;
  if (part !== undefined)
    return fieldsAt(typeof part === 'number' ? child(at, 'element') : child(child(at, 'shape'), part), rest);
  const shape = child(at, 'shape');
  return typeof shape === 'object' && shape !== null ? Object.keys(shape) : [];
}

/** The schema inside `.default()`, `.prefault()`, `.optional()`, `.refine()` and `.transform()`. */
function unwrapped(schema: unknown): unknown {
  const definition = child(schema, 'def');
  const inner = child(definition, 'innerType') ?? child(definition, 'in');
  return inner === undefined ? schema : unwrapped(inner);
}

function child(parent: unknown, name: PropertyKey): unknown {
  return typeof parent === 'object' && parent !== null && name in parent ? Reflect.get(parent, name) : undefined;
}
