/** Jobs: one compression, analysis, evaluation or comparison of one model. */
import { z } from 'zod';
import { idSchema, listQuerySchema, metadataPairSchema, metadataSchema, timestampSchema } from './common.ts';
import { comparisonFault, comparisonSchema } from './comparisons.ts';
import { keptEstimateSchema } from './estimates.ts';
import { schemeSchema, trainingSchema } from './schemes.ts';

export const jobStatuses = ['queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled'] as const;
export const jobStatusSchema = z.enum(jobStatuses);
export const terminalStatuses: ReadonlySet<JobStatus> = new Set(['succeeded', 'failed', 'cancelled']);

export const artifactFormats = ['native', 'hf'] as const;
export type ArtifactFormat = (typeof artifactFormats)[number];

export const taskSchema = z.strictObject({
  datasetId: idSchema,
  /** Questions, from the start; absent: all. */
  maxQuestions: z.int().min(1).optional(),
});

export const evaluationSchema = z.strictObject({
  /** Text that perplexity is measured on; must share nothing with the calibration text. */
  datasetId: idSchema,
  /** Tokens to measure on, from the start of the text; absent: all. */
  maxTokens: z.int().min(16).optional(),
  /** Whether the Kullback-Leibler divergence from the original's distribution is measured as well. */
  divergence: z.boolean().default(false),
  /** Multiple-choice tasks, each a dataset of questions, scored as lm-evaluation-harness does. */
  tasks: z.array(taskSchema).max(20).default([]),
  /** A job whose result misses one of these fails with the code `quality`; what it made is kept apart. */
  limits: z
    .strictObject({
      /** Perplexity of the result over the original's. */
      perplexityRatio: z.number().positive().optional(),
      /** Mean divergence from the original, in nats a token. */
      divergence: z.number().positive().optional(),
    })
    .prefault({}),
});

/**
 * `compress` makes a smaller model; `analyze` shows where its important weights are; `evaluate` measures a model as it is;
 * `compare` tries several schemes.
 */
export const jobKinds = ['compress', 'analyze', 'evaluate', 'compare'] as const;

/** What an `analyze` job compares besides the model's own calibration set. */
export const analysisSchema = z.strictObject({
  /** Further calibration sets, whose cherries are compared with those of `calibrationDatasetId`. */
  datasetIds: z.array(idSchema).max(8).default([]),
  /** Disjoint draws of `training.impactSamples` windows from each set, compared with each other. */
  draws: z.int().min(1).max(8).default(2),
});

/** The result of an earlier `compress` job, as a model. */
export const artifactSourceSchema = z.strictObject({
  jobId: idSchema,
  format: z.enum(artifactFormats).default('native'),
});

/** The settings of all kinds of jobs, defaults filled in; what a kind takes of them, `createJobSchema` says. */
export const jobSettingsSchema = z.strictObject({
  kind: z.enum(jobKinds).default('compress'),
  modelId: idSchema.optional(),
  scheme: schemeSchema.prefault({}),
  /** Text for impact and training. `rtn` needs none. */
  calibrationDatasetId: idSchema.optional(),
  training: trainingSchema.prefault({}),
  evaluation: evaluationSchema.optional(),
  analysis: analysisSchema.prefault({}),
  formats: z.array(z.enum(artifactFormats)).min(1).default(['native', 'hf']),
  /** What an `evaluate` job measures in place of an uploaded model. */
  artifact: artifactSourceSchema.optional(),
  /** Model that an `evaluate` job measures too, and compares with; of the same shape and tokenizer. */
  baselineModelId: idSchema.optional(),
  comparison: comparisonSchema.optional(),
  metadata: metadataSchema.default({}),
  /** Name of a machine, as an estimate lists them; absent: the cheapest that fits. */
  machine: z.string().min(1).max(64).optional(),
});

const { shape } = jobSettingsSchema;
const purposes: Record<JobKind, string> = {
  compress: 'compresses one model by one scheme',
  analyze: 'measures impact and makes no model',
  evaluate: 'measures a model as it is',
  compare: 'measures schemes and keeps no model',
};
/** A field that other kinds have. In documents made of it, nothing fits. */
const notOf = (kind: JobKind) =>
  z
    .never({ error: () => `is not for jobs of kind ${kind}: such a job ${purposes[kind]}. Leave it out` })
    .meta({ type: 'object', not: {} })
    .optional();

const compressJobSchema = z.strictObject({
  ...shape,
  kind: z.literal('compress').optional(),
  modelId: idSchema,
  analysis: notOf('compress'),
  artifact: notOf('compress'),
  baselineModelId: notOf('compress'),
  comparison: notOf('compress'),
});

const analyzeJobSchema = z.strictObject({
  ...shape,
  kind: z.literal('analyze'),
  modelId: idSchema,
  evaluation: notOf('analyze'),
  formats: notOf('analyze'),
  artifact: notOf('analyze'),
  baselineModelId: notOf('analyze'),
  comparison: notOf('analyze'),
});

const evaluateJobSchema = z
  .strictObject({
    ...shape,
    kind: z.literal('evaluate'),
    scheme: notOf('evaluate'),
    calibrationDatasetId: notOf('evaluate'),
    training: notOf('evaluate'),
    /** The divergence is measured whenever there is a baseline. */
    evaluation: evaluationSchema.extend({ divergence: notOf('evaluate'), limits: notOf('evaluate') }),
    analysis: notOf('evaluate'),
    formats: notOf('evaluate'),
    comparison: notOf('evaluate'),
  })
  .refine(({ modelId, artifact }) => (modelId === undefined) !== (artifact === undefined), {
    path: ['modelId'],
    error: 'must be given, or artifact in its place, and not both',
  });

const compareJobSchema = z
  .strictObject({
    ...shape,
    kind: z.literal('compare'),
    modelId: idSchema,
    evaluation: evaluationSchema.extend({ limits: notOf('compare') }),
    analysis: notOf('compare'),
    formats: notOf('compare'),
    artifact: notOf('compare'),
    baselineModelId: notOf('compare'),
    comparison: comparisonSchema,
  })
  .superRefine(({ scheme, comparison }, context) => {
    const fault = comparisonFault({ scheme, comparison });
    if (fault) context.addIssue({ code: 'custom', message: fault.message, path: ['comparison', ...fault.path] });
  });

/** A request, by its kind; a field of another kind is refused. What comes out are the settings of all kinds. */
export const createJobSchema = z
  .discriminatedUnion('kind', [compressJobSchema, analyzeJobSchema, evaluateJobSchema, compareJobSchema], {
    error: () => `must be one of ${jobKinds.join(', ')}`,
  })
  .transform((request) => jobSettingsSchema.parse(request));

/** What `spec.json` holds and the trainer reads: the request with its defaults, and where its inputs lie in the store. */
export const jobSpecSchema = jobSettingsSchema.extend({
  id: idSchema,
  /** Of an artifact, the model that it was made from. */
  modelId: idSchema,
  createdAt: timestampSchema,
  modelName: z.string(),
  /** Store prefixes, each ending in a slash; the files lie under them by path. */
  modelPrefix: z.string(),
  calibrationPrefix: z.string().nullable(),
  /** Of the model, as its files were declared; the worker compares them with what it reads. */
  modelFingerprint: z.string().nullable().default(null),
  /** Of the calibration set. */
  calibrationName: z.string().nullable().default(null),
  evaluationPrefix: z.string().nullable(),
  /** In the order of `evaluation.tasks`, with the names of their datasets. */
  tasks: z.array(z.object({ name: z.string(), prefix: z.string() })),
  /** In the order of `analysis.datasetIds`. */
  analysisPrefixes: z.array(z.object({ name: z.string(), prefix: z.string() })),
  baselineName: z.string().nullable().default(null),
  baselinePrefix: z.string().nullable().default(null),
  /** The job that this one repeats, and where its checkpoints lie, if it left any. */
  retryOf: idSchema.nullable().default(null),
  checkpointsFrom: z.string().nullable().default(null),
  /** What was expected when the job was created; null where nothing could be said. */
  estimate: keptEstimateSchema.nullable().default(null),
  /** The machine that it runs on; null where the queue chooses. */
  machine: z.string().nullable().default(null),
});

export const cancelJobSchema = z.strictObject({
  /** Keep what the job could go on from, for a retry; it takes room until the job is deleted. */
  keepCheckpoint: z.boolean().default(false),
});

export const phaseNames = ['load', 'impact', 'scales', 'train', 'export', 'evaluate', 'analyze', 'report'] as const;
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
  /** Which of a comparison's schemes the phase belongs to, from 1 on; null where it belongs to none. */
  variant: z.object({ number: z.number().int(), total: z.number().int() }).nullable().default(null),
});

export const jobErrorSchema = z.object({
  /** `user`: the request or its files must change; `service`: ours; `quality`: a limit of the job was missed. */
  fault: z.enum(['user', 'service', 'quality']),
  code: z.string(),
  message: z.string(),
  /** Field, file or tensor that the error is about. */
  param: z.string().nullable(),
});

/** Accuracy in a multiple-choice task.  @source lm-evaluation-harness, `acc` and `acc_norm` */
export const taskScoreSchema = z.object({
  name: z.string(),
  questions: z.number().int(),
  /** Share of questions whose right choice is the likeliest. */
  acc: z.number(),
  /** The same by likelihood per character of the choice. */
  accNorm: z.number(),
  /** Standard error of `acc`. */
  accStderr: z.number(),
});

/** Size and quality of one model on disk; measured on the written files, read back. */
export const measurementSchema = z.object({
  perplexity: z.number().nullable(),
  /** Mean Kullback-Leibler divergence of its distribution from the original's, in nats a token; null where not measured. */
  divergence: z.number().nullable(),
  tasks: z.array(taskScoreSchema),
  /** Bytes of the weights' files. */
  sizeBytes: z.number().int(),
});

const times = {
  /** From the first attempt's start to the end. */
  seconds: z.number(),
  /** By phase, of a job that took one attempt; empty otherwise. Estimates learn from it. */
  phaseSeconds: z.record(z.string(), z.number()).default({}),
};

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
  /** Main memory of the last attempt's process at its peak. */
  peakHostBytes: z.number().nullable().default(null),
  trainedTokens: z.number().int(),
  evaluatedTokens: z.number().int(),
  ...times,
});

/** How far a few weights stand out in one matrix: mean of the top hundredth over the largest of the rest. */
export const heterogeneitySchema = z.object({
  matrix: z.string(),
  byImpact: z.number(),
  byWeight: z.number(),
  byActivation: z.number(),
});

/** Share of the cherries that two calibration sets, or two draws from one, have in common. */
export const overlapSchema = z.object({
  first: z.string(),
  second: z.string(),
  /** Whether both are draws from the same set. */
  sameSet: z.boolean(),
  /** Mean over all rows of all matrices, 0 to 1. */
  share: z.number(),
  /** What two random choices would have in common. */
  byChance: z.number(),
});

/** What an `analyze` job found; its artifact `analysis.json` has it all, `report.html` draws it. */
export const analysisResultSchema = z.object({
  engine: z.string(),
  engineReason: z.string(),
  parameters: z.number().int(),
  heterogeneity: z.array(heterogeneitySchema),
  overlaps: z.array(overlapSchema),
  ...times,
});

/** What an `evaluate` job found; its artifact `evaluation.json` has it too, `report.html` shows it. */
export const evaluationResultSchema = z.object({
  engine: z.string(),
  engineReason: z.string(),
  parameters: z.number().int(),
  measurement: measurementSchema.extend({
    /** Mean over the quantized layers; null where nothing is quantized. */
    bitsPerWeight: z.number().nullable(),
  }),
  /** Null without a baseline. */
  baseline: measurementSchema.nullable(),
  /** Perplexity over the baseline's. */
  perplexityRatio: z.number().nullable(),
  peakHostBytes: z.number().nullable(),
  evaluatedTokens: z.number().int(),
  ...times,
});

/** One scheme of a comparison: what it gave, or why it could not be measured. */
export const comparisonRowSchema = z.object({
  scheme: schemeSchema,
  measurement: measurementSchema.extend({ bitsPerWeight: z.number() }).nullable(),
  /** Perplexity over the original's. */
  perplexityRatio: z.number().nullable(),
  /** Whether no other scheme gives both a smaller model and a lower perplexity. */
  onFrontier: z.boolean(),
  error: jobErrorSchema.nullable(),
  /** Of the attempt that finished it. */
  seconds: z.number(),
});

/** What a `compare` job found, in the order of its schemes; `comparison.json` has it too, `report.html` draws it. */
export const comparisonResultSchema = z.object({
  engine: z.string(),
  engineReason: z.string(),
  parameters: z.number().int(),
  baseline: measurementSchema,
  rows: z.array(comparisonRowSchema),
  peakHostBytes: z.number().nullable(),
  evaluatedTokens: z.number().int(),
  ...times,
});

/** What a job has found, by its kind; the others are null. */
export const jobOutcomeSchema = z.object({
  /** Of a `compress` job that has succeeded, or that has failed with the code `quality`. */
  result: jobResultSchema.nullable().default(null),
  /** Of an `analyze` job that has succeeded. */
  analysisResult: analysisResultSchema.nullable().default(null),
  /** Of an `evaluate` job that has succeeded. */
  evaluationResult: evaluationResultSchema.nullable().default(null),
  /** Of a `compare` job that has succeeded. */
  comparisonResult: comparisonResultSchema.nullable().default(null),
});
export const noOutcome: JobOutcome = {
  result: null,
  analysisResult: null,
  evaluationResult: null,
  comparisonResult: null,
};

/** The outcome alone, of what holds other fields beside it. */
export function outcomeOf({ result, analysisResult, evaluationResult, comparisonResult }: JobOutcome): JobOutcome {
  return { result, analysisResult, evaluationResult, comparisonResult };
}

/** Whichever result there is; null where there is none. */
export function anyResultOf(
  outcome: JobOutcome,
): { engine: string; seconds: number; phaseSeconds: Record<string, number> } | null {
  return Object.values(outcomeOf(outcome)).find((each) => each !== null) ?? null;
}

export const jobSchema = z.object({
  object: z.literal('job'),
  kind: z.enum(jobKinds),
  id: idSchema,
  status: jobStatusSchema,
  modelId: idSchema,
  modelName: z.string(),
  /** Null of an `evaluate` job; of a `compare` job what its schemes leave open. */
  scheme: schemeSchema.nullable(),
  /** Null of an `evaluate` job. */
  training: trainingSchema.nullable(),
  calibrationDatasetId: idSchema.nullable(),
  evaluation: evaluationSchema.nullable(),
  analysis: analysisSchema,
  formats: z.array(z.enum(artifactFormats)),
  artifact: artifactSourceSchema.nullable(),
  baselineModelId: idSchema.nullable(),
  comparison: comparisonSchema.nullable(),
  metadata: metadataSchema,
  /** The job that this one repeats, from where that one was. */
  retryOf: idSchema.nullable(),
  /** What was expected when it was created, beside what it took, in the result. */
  estimate: keptEstimateSchema.nullable(),
  /** The kind of machine that it runs on; null where nothing could be said of it. */
  machine: z.string().nullable(),
  createdAt: timestampSchema,
  startedAt: timestampSchema.nullable(),
  finishedAt: timestampSchema.nullable(),
  /** Times that a worker has started on it; more than one after a crash. */
  attempt: z.number().int(),
  progress: progressSchema.nullable(),
  error: jobErrorSchema.nullable(),
  ...jobOutcomeSchema.shape,
});

export const listJobsQuerySchema = listQuerySchema.extend({
  status: jobStatusSchema.optional(),
  kind: z.enum(jobKinds).optional(),
  modelId: idSchema.optional(),
  /** A pair that the job's metadata must have, as `key=value`. */
  metadata: metadataPairSchema.optional(),
});

export type JobStatus = z.infer<typeof jobStatusSchema>;
export type CreateJob = z.input<typeof createJobSchema>;
export type JobSettings = z.output<typeof jobSettingsSchema>;
export type JobSpec = z.infer<typeof jobSpecSchema>;
export type Job = z.infer<typeof jobSchema>;
export type JobError = z.infer<typeof jobErrorSchema>;
export type JobResult = z.infer<typeof jobResultSchema>;
export type JobKind = (typeof jobKinds)[number];
export type JobOutcome = z.output<typeof jobOutcomeSchema>;
export type EvaluationResult = z.infer<typeof evaluationResultSchema>;
export type ComparisonResult = z.infer<typeof comparisonResultSchema>;
export type ComparisonRow = z.infer<typeof comparisonRowSchema>;
export type AnalysisResult = z.infer<typeof analysisResultSchema>;
export type Heterogeneity = z.infer<typeof heterogeneitySchema>;
export type Overlap = z.infer<typeof overlapSchema>;
export type TaskScore = z.infer<typeof taskScoreSchema>;
export type Measurement = z.infer<typeof measurementSchema>;
export type Phase = z.infer<typeof phaseSchema>;
export type Progress = z.infer<typeof progressSchema>;
