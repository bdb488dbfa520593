/** Jobs: one compression of one model. */
import { z } from 'zod';
import { idSchema, metadataSchema, timestampSchema, listQuerySchema } from './common.ts';
import { schemeSchema, trainingSchema } from './schemes.ts';

export const jobStatuses = ['queued', 'running', 'succeeded', 'failed', 'cancelled'] as const;
export const jobStatusSchema = z.enum(jobStatuses);
export const terminalStatuses: ReadonlySet<JobStatus> = new Set(['succeeded', 'failed', 'cancelled']);

export const artifactFormats = ['native', 'hf'] as const;
export type ArtifactFormat = (typeof artifactFormats)[number];

export const evaluationSchema = z.strictObject({
  /** Text that perplexity is measured on; must share nothing with the calibration text. */
  datasetId: idSchema,
  /** Tokens to measure on, from the start of the text; absent: all. */
  maxTokens: z.int().min(16).optional(),
});

export const createJobSchema = z.strictObject({
  modelId: idSchema,
  scheme: schemeSchema.prefault({}),
  /** Text for impact and training. `rtn` needs none. */
  calibrationDatasetId: idSchema.optional(),
  training: trainingSchema.prefault({}),
  evaluation: evaluationSchema.optional(),
  formats: z.array(z.enum(artifactFormats)).min(1).default(['native', 'hf']),
  metadata: metadataSchema.default({}),
});

/** What `spec.json` holds and the trainer reads: the request with its defaults, and where its inputs lie in the store. */
export const jobSpecSchema = createJobSchema.extend({
  id: idSchema,
  createdAt: timestampSchema,
  modelName: z.string(),
  /** Store prefixes, each ending in a slash; the files lie under them by path. */
  modelPrefix: z.string(),
  calibrationPrefix: z.string().nullable(),
  evaluationPrefix: z.string().nullable(),
});

export const phaseNames = ['load', 'impact', 'train', 'export', 'evaluate', 'report'] as const;
export const phaseSchema = z.enum(phaseNames);

export const progressSchema = z.object({
  phase: phaseSchema,
  /** Done and planned units of the phase: windows, steps, tensors or tokens. */
  step: z.number().int(),
  totalSteps: z.number().int(),
  /** Share of the whole job that is done, 0 to 1. */
  fraction: z.number(),
  loss: z.number().nullable(),
  tokensPerSecond: z.number().nullable(),
  /** Of the whole job, by the rate of the present phase; null until it is known. */
  secondsLeft: z.number().nullable(),
});

export const jobErrorSchema = z.object({
  /** `user`: the request or its files must change; `service`: ours. */
  fault: z.enum(['user', 'service']),
  code: z.string(),
  message: z.string(),
  /** Field, file or tensor that the error is about. */
  param: z.string().nullable(),
});

/** Size and quality of one model on disk; measured on the written files, read back. */
export const measurementSchema = z.object({
  perplexity: z.number().nullable(),
  /** Bytes of the weights' files. */
  sizeBytes: z.number().int(),
});

export const jobResultSchema = z.object({
  engine: z.string(),
  engineReason: z.string(),
  parameters: z.number().int(),
  baseline: measurementSchema,
  /** Plain rounding with the same bits and groups, for comparison; null where no evaluation text was given. */
  rounding: measurementSchema.nullable(),
  compressed: measurementSchema.extend({
    /** Mean over the quantized layers, everything that is stored for them counted. */
    bitsPerWeight: z.number(),
  }),
  /** The float16 copy in Hugging Face's format, if it was asked for. */
  hf: measurementSchema.nullable(),
  trainedTokens: z.number().int(),
  evaluatedTokens: z.number().int(),
  /** Seconds from the first attempt's start to the end. */
  seconds: z.number(),
});

export const jobSchema = z.object({
  object: z.literal('job'),
  id: idSchema,
  status: jobStatusSchema,
  modelId: idSchema,
  modelName: z.string(),
  scheme: schemeSchema,
  training: trainingSchema,
  calibrationDatasetId: idSchema.nullable(),
  evaluation: evaluationSchema.nullable(),
  formats: z.array(z.enum(artifactFormats)),
  metadata: metadataSchema,
  createdAt: timestampSchema,
  startedAt: timestampSchema.nullable(),
  finishedAt: timestampSchema.nullable(),
  /** Times that a worker has started on it; more than one after a crash. */
  attempt: z.number().int(),
  progress: progressSchema.nullable(),
  error: jobErrorSchema.nullable(),
  result: jobResultSchema.nullable(),
});

export const listJobsQuerySchema = listQuerySchema.extend({ status: jobStatusSchema.optional() });

export type JobStatus = z.infer<typeof jobStatusSchema>;
export type CreateJob = z.input<typeof createJobSchema>;
export type JobSpec = z.infer<typeof jobSpecSchema>;
export type Job = z.infer<typeof jobSchema>;
export type JobError = z.infer<typeof jobErrorSchema>;
export type JobResult = z.infer<typeof jobResultSchema>;
export type Measurement = z.infer<typeof measurementSchema>;
export type Phase = z.infer<typeof phaseSchema>;
export type Progress = z.infer<typeof progressSchema>;
