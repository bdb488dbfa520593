/** Errors on the wire: RFC 9457 problem details with a stable `code`. */
import { z } from 'zod';

export const problemCodes = {
  invalid_request: 400,
  unauthorized: 401,
  forbidden: 403,
  not_found: 404,
  method_not_allowed: 405,
  conflict: 409,
  idempotency_in_flight: 409,
  payload_too_large: 413,
  range_not_satisfiable: 416,
  content_mismatch: 422,
  invalid_model: 422,
  idempotency_mismatch: 422,
  does_not_fit: 422,
  too_many_requests: 429,
  quota_exceeded: 429,
  internal: 500,
  unavailable: 503,
  storage_full: 507,
} as const;
export type ProblemCode = keyof typeof problemCodes;

export const problemSchema = z.object({
  type: z.string(),
  title: z.string(),
  status: z.number().int(),
  detail: z.string(),
  code: z.enum(Object.keys(problemCodes) as [ProblemCode, ...ProblemCode[]]),
  /** Field or header that the problem is about. */
  param: z.string().nullable(),
  requestId: z.string(),
  retryable: z.boolean(),
  /** One entry per field that failed validation; pointer as in RFC 6901. */
  errors: z.array(z.object({ pointer: z.string(), detail: z.string() })).optional(),
});
export type Problem = z.infer<typeof problemSchema>;
