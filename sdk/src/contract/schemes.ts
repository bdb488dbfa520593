/** How the linear layers of a model are compressed: method, integer width, groups and cherries (Cui & Wang, NeurIPS 2024). */
import { z } from 'zod';

export const methodNames = ['rtn', 'qat', 'cherryq'] as const;
export const methodSchema = z.enum(methodNames);

export const bitWidths = [2, 3, 4, 8] as const;
export const bitsSchema = z.union(
  bitWidths.map((bits) => z.literal(bits)),
  { error: (issue) => `must be 2, 3, 4 or 8; got ${JSON.stringify(issue.input)}` },
);

/** Weights of a row that share one scale: a count, or the whole row. */
export const groupSizeSchema = z.union([z.int().min(1), z.literal('row')], {
  error: (issue) => `must be a whole number of at least 1, or "row"; got ${JSON.stringify(issue.input)}`,
});

export const cherryCriteria = ['impact', 'weight', 'activation'] as const;

export const schemeSchema = z.strictObject({
  method: methodSchema.default('cherryq'),
  bits: bitsSchema.default(3),
  groupSize: groupSizeSchema.default(128),
  /** Share of each row kept in 16 bits (`cherryq` only); published: 1/256. */
  cherryFraction: z
    .number()
    .positive()
    .max(0.25)
    .default(1 / 256),
  /** What makes a weight a cherry: the published impact, its own magnitude, or the activations that it meets. */
  criterion: z.enum(cherryCriteria).default('impact'),
  /** Cherries chosen in each row, as the published code does, or whole columns, as the paper's section 6.1 says. */
  cherryMode: z.enum(['row', 'column']).default('row'),
  /** Levels of a group; `published`: for `rtn` `asymmetric`, for the others `midRise` up to 4 bits and `symmetric` above. */
  quantizer: z.enum(['published', 'midRise', 'symmetric', 'asymmetric']).default('published'),
  /**
   * `compacted`, as published: groups are cut from what is left of a row once its cherries are taken out. `aligned`, a
   * deviation that the formats of other engines need: groups keep their columns, and cherries their slots in them.
   */
  groups: z.enum(['compacted', 'aligned']).default('compacted'),
  /** `searched`: each column is scaled before it is rounded, as the paper does at 2 bits, by a search on its outputs. */
  columnScales: z.enum(['none', 'searched']).default('none'),
});

export type CherryCriterion = (typeof cherryCriteria)[number];
export type Method = z.infer<typeof methodSchema>;
export type Bits = z.infer<typeof bitsSchema>;
export type GroupSize = z.infer<typeof groupSizeSchema>;
export type Scheme = z.infer<typeof schemeSchema>;

/** Kinds of parameters: `linears` are the blocks' matrices with their biases; a tied head counts as `embeddings`. */
export const parameterKinds = ['embeddings', 'linears', 'norms', 'head'] as const;

/** The settings of the published code, except what a small model on a small machine needs otherwise; see docs/training.md. */
export const trainingSchema = z.strictObject({
  /** Tokens that the trainer sees; a multiple of the batch is used (rounded up). */
  tokens: z.int().min(1).default(262_144),
  /** Tokens in one window; at most the model's context. */
  sequenceLength: z.int().min(8).max(32_768).default(256),
  /** Windows in one optimizer step. */
  batchSize: z.int().min(1).max(4096).default(4),
  /** Peak rate of AdamW. The paper trains 7B models with 2e-5 and batches of 128; small models bear a little more. */
  learningRate: z.number().positive().max(1).default(1e-4),
  warmupFraction: z.number().min(0).max(1).default(0.05),
  /** Rate at the end over the peak; published: 0.25 for 2 and 3 bits, 0.1 for 4. Absent: by the bits. */
  finalLearningRateFraction: z.number().min(0).max(1).optional(),
  beta1: z.number().min(0).lt(1).default(0.9),
  beta2: z.number().min(0).lt(1).default(0.95),
  epsilon: z.number().positive().default(1e-8),
  weightDecay: z.number().min(0).default(0),
  maxGradNorm: z.number().positive().default(1),
  /**
   * What the trained model learns: `crossEntropy`, the published loss, the text's next tokens; `distillation`, the
   * distribution that the original gives them, which needs far less text (after LLM-QAT; a deviation from the paper).
   */
  loss: z.enum(['crossEntropy', 'distillation']).default('crossEntropy'),
  /**
   * `endToEnd`, as published: all blocks together, by the loss at the end. `blockWise`, a cheaper deviation: one block after
   * another, each taught to give what the original's block gives; it trains linear layers and norms, for `tokens` a block.
   */
  mode: z.enum(['endToEnd', 'blockWise']).default('endToEnd'),
  /** What training changes; published: all. */
  trainedParameters: z
    .array(z.enum(parameterKinds))
    .min(1)
    .default([...parameterKinds]),
  /** Type of AdamW's moments: `bfloat16` takes half the memory. */
  moments: z.enum(['float32', 'bfloat16']).default('float32'),
  /** Where the moments are: `file` takes disk in place of memory. */
  momentsIn: z.enum(['memory', 'file']).default('memory'),
  /**
   * How texts become windows: `packed`, documents one after another, or `documents`, as published, the beginning of each
   * document that is at least one window long.
   */
  windows: z.enum(['packed', 'documents']).default('packed'),
  /**
   * A restart with a checkpoint that does not fit (other data, another engine): `auto` and `required` refuse it and name what
   * differs; `required` also refuses to begin anew where all checkpoints are damaged; `never` always begins anew.
   */
  resume: z.enum(['auto', 'required', 'never']).default('auto'),
  /** Calibration windows whose squared gradients make the impact; published: 128. */
  impactSamples: z.int().min(1).max(4096).default(128),
  seed: z.int().min(0).max(2_147_483_647).default(42),
});
export type Training = z.infer<typeof trainingSchema>;
