/** What a job needs and what it costs, before it runs. */
import { z } from 'zod';

/** What computes, the fastest first. */
export const engineNames = ['gpu', 'native', 'wasm', 'cpu'] as const;
export type EngineName = (typeof engineNames)[number];

/** A kind of machine that jobs may run on. */
export const machineSchema = z.strictObject({
  name: z.string(),
  engine: z.enum(engineNames),
  hostBytes: z.number().positive(),
  /** Of the GPU; null without one. */
  deviceBytes: z.number().positive().nullable().default(null),
  dollarsPerHour: z.number().min(0).nullable().default(null),
  /** Until a worker runs: to start an instance and to fetch its image. */
  startSeconds: z.number().min(0).default(60),
  /** Floating-point operations of a model's matrices a second, as long as no job has been measured. */
  operationsPerSecond: z.number().positive(),
});

/** What is kept with a job, to be compared with what it took. */
export const keptEstimateSchema = z.object({
  /** Main memory at its peak. */
  hostBytes: z.number(),
  /** Memory of the GPU at its peak; 0 without one. */
  deviceBytes: z.number(),
  /** In the store, at most, while the job runs. */
  diskBytes: z.number(),
  /** Bytes of the result's weights; null where a format was not asked for. */
  outputBytes: z.object({ native: z.number().nullable(), hf: z.number().nullable() }),
  /** Of the model's matrices. */
  operations: z.number(),
  /** What each phase has to do: operations, or, where the phase computes none, parameters to go through. */
  work: z.record(z.string(), z.number()).default({}),
  seconds: z.number(),
});

export const estimateSchema = keptEstimateSchema.extend({
  object: z.literal('estimate'),
  /** Whether a job like this is taken. */
  allowed: z.boolean(),
  /** Why not, and what would help. */
  reason: z.string().nullable(),
  parameters: z.number().int(),
  /** The machine that the figures are for: the one asked for, or the cheapest that fits. */
  machine: z.string(),
  /** `measured`: by the tenant's last jobs; `assumed`: by the machine's entry in the configuration. */
  secondsBasis: z.enum(['measured', 'assumed']),
  machines: z.array(
    z.object({
      name: z.string(),
      fits: z.boolean(),
      hostBytes: z.number(),
      deviceBytes: z.number().nullable(),
      seconds: z.number(),
      /** For this job; null where the machine has no price. */
      dollars: z.number().nullable(),
    }),
  ),
});

export type Machine = z.infer<typeof machineSchema>;
export type KeptEstimate = z.infer<typeof keptEstimateSchema>;
export type Estimate = z.infer<typeof estimateSchema>;
