/**
 * The event log of a job: typed, ordered, append-only. An event's id is `<object>.<line>` of where it is stored, padded so
 * that ids sort as text; pass the last one seen as `after` (or `Last-Event-ID`) to go on without gap or repeat.
 */
import { z } from 'zod';
import { sha256Schema, timestampSchema } from './common.ts';
import { jobErrorSchema, jobOutcomeSchema, phaseSchema, progressSchema } from './jobs.ts';

export const eventIdSchema = z.string().regex(/^\d{8}\.\d{4}$/, 'is not an event id');

const eventBodies = [
  z.object({ type: z.literal('job.queued') }),
  /** The queue has taken the job but cannot start it yet: no machine is free, a quota is used up, a setting is wrong. */
  z.object({ type: z.literal('job.waiting'), reason: z.string() }),
  z.object({
    type: z.literal('job.started'),
    attempt: z.number().int(),
    engine: z.string(),
    engineReason: z.string(),
    /** Step of training that the attempt goes on from; null for a fresh start. */
    resumedFromStep: z.number().int().nullable(),
  }),
  z.object({ type: z.literal('job.interrupted'), attempt: z.number().int(), reason: z.string() }),
  /** It waits until somebody resumes it, and goes on from its checkpoint then. */
  z.object({ type: z.literal('job.paused') }),
  z.object({ type: z.literal('job.resumed') }),
  z.object({ type: z.literal('job.succeeded'), ...jobOutcomeSchema.shape }),
  z.object({ type: z.literal('job.failed'), error: jobErrorSchema }),
  z.object({ type: z.literal('job.cancelled') }),
  z.object({ type: z.literal('phase.started'), phase: phaseSchema }),
  z.object({ type: z.literal('progress'), progress: progressSchema }),
  /** The impact of the weights is known: measured by this job, or by an earlier one on the same model and text. */
  z.object({
    type: z.literal('impact.ready'),
    source: z.enum(['measured', 'stored']),
    windows: z.number().int(),
    /** Of the artifact that holds it. */
    sha256: sha256Schema,
  }),
  z.object({ type: z.literal('checkpoint'), step: z.number().int() }),
  z.object({ type: z.literal('log'), level: z.enum(['info', 'warning']), message: z.string() }),
] as const;

/** What is stored: one line of `events/<object>.ndjson`. */
export const storedEventSchema = z.intersection(
  z.object({ time: timestampSchema }),
  z.discriminatedUnion('type', eventBodies),
);

/** What is sent: the stored line with its id. */
export const jobEventSchema = z.intersection(
  z.object({ id: eventIdSchema, time: timestampSchema }),
  z.discriminatedUnion('type', eventBodies),
);

export const listEventsQuerySchema = z.strictObject({
  after: eventIdSchema.optional(),
  limit: z.coerce.number().int().min(1).max(1000).default(200),
});

export type JobEventBody = z.infer<(typeof eventBodies)[number]>;
export type StoredEvent = z.infer<typeof storedEventSchema>;
export type JobEvent = z.infer<typeof jobEventSchema>;
