/**
 * The files under a job's prefix that are its database (docs/architecture.md). Written by the API, the queue and
 * the trainer; never sent over the wire. A state file is written once, by exclusive creation, under the next number.
 */
import { z } from 'zod';
import { timestampSchema } from './common.ts';
import { jobErrorSchema, jobOutcomeSchema, jobStatusSchema } from './jobs.ts';

export const jobStateSchema = z.object({
  status: jobStatusSchema,
  time: timestampSchema,
  attempt: z.number().int(),
  by: z.enum(['api', 'queue', 'worker']),
  /** Of a job that was cancelled. */
  keepCheckpoint: z.boolean().default(false),
  error: jobErrorSchema.nullable().default(null),
  ...jobOutcomeSchema.shape,
});
export type JobState = z.infer<typeof jobStateSchema>;

/** Room for a job's last words on a full disk: taken when it is created, given back before its final state is written. */
export const jobReserve = { path: 'reserve', sizeBytes: 32_768 } as const;

/** Exit codes of the trainer; the queue and the Batch retry strategy act on them. */
export const exitCodes = { ok: 0, bug: 1, input: 2, transient: 3, interrupted: 75 } as const;
