/**
 * What the shared decoder layers need to know of a model, in Hugging Face's names, and the tensors that follow from it.
 * A family (one file each, named in `registry.ts`) reads config.json into it; where families differ, a field says how.
 */
import type { RopeScaling } from './rope.ts';

/** Product of a feed-forward layer: gate sigmoid(gate) up, or the same with GELU in its tanh form. */
export type Activation = 'silu' | 'geluTanh';

export interface DecoderConfig {
  readonly architecture: string;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numHiddenLayers: number;
  readonly numAttentionHeads: number;
  readonly numKeyValueHeads: number;
  readonly headDim: number;
  readonly maxPositionEmbeddings: number;
  readonly ropeTheta: number;
  /** Null for the plain rotary embedding. */
  readonly ropeScaling: RopeScaling | null;
  readonly rmsNormEps: number;
  readonly tieWordEmbeddings: boolean;
  readonly activation: Activation;
  /** For each layer how many tokens, its own included, a query may look at; null for all before it. */
  readonly slidingWindows: readonly (number | null)[];
  /** Linear layers, by their weights' names, that have a bias. */
  readonly biases: readonly LinearName[];
  /** Whether each head's queries and keys pass an RMS norm before they are turned. */
  readonly qkNorm: boolean;
  /** Whether files hold queries, keys and values as one tensor, and gate and up as another. */
  readonly fusedProjections: boolean;
  /** Added to every norm's stored weight. */
  readonly normOffset: number;
  /** Factor on the embedding's rows as they enter the first block. */
  readonly embeddingScale: number;
  /** Whether every text that is evaluated on its own, or as a window, has to start with the BOS token. */
  readonly bosPerSegment: boolean;
}

/** What a Llama has: none of the features that other families add. */
export const plainFeatures = {
  ropeScaling: null,
  activation: 'silu',
  biases: [],
  qkNorm: false,
  fusedProjections: false,
  normOffset: 0,
  embeddingScale: 1,
  bosPerSegment: false,
} as const satisfies Partial<DecoderConfig>;

/** A family of models over the shared layers: how its config.json is read. One file each, named in `registry.ts`. */
export interface ModelFamily {
  /** Name that config.json's `architectures` holds. */
  readonly architecture: string;
  /** @throws InputError naming the field */
  parseConfig(config: Record<string, unknown>): DecoderConfig;
}

export const embeddingName = 'model.embed_tokens.weight';
export const finalNormName = 'model.norm.weight';
export const headName = 'lm_head.weight';

/** The linear layers of a block as the layers use them; a file may hold several as one tensor (`blockTensors`). */
export const linearNames = [
  'self_attn.q_proj.weight',
  'self_attn.k_proj.weight',
  'self_attn.v_proj.weight',
  'self_attn.o_proj.weight',
  'mlp.gate_proj.weight',
  'mlp.up_proj.weight',
  'mlp.down_proj.weight',
] as const;
export type LinearName = (typeof linearNames)[number];
export const attentionLinears = linearNames.slice(0, 4);
export const feedForwardLinears = linearNames.slice(4);

const normNames = ['input_layernorm.weight', 'post_attention_layernorm.weight'] as const;
const headNormNames = ['self_attn.q_norm.weight', 'self_attn.k_norm.weight'] as const;
type NormName = (typeof normNames)[number];
type HeadNormName = (typeof headNormNames)[number];
type BiasOf<Name> = Name extends `${infer Layer}.weight` ? `${Layer}.bias` : never;

/** Weights that every block has, and those that only some families have. */
export type CommonWeightName = LinearName | NormName;
export type OptionalWeightName = HeadNormName | BiasOf<LinearName>;
export type BlockWeightName = CommonWeightName | OptionalWeightName;

export const blockPrefix = (block: number): string => `model.layers.${block}.`;

/** A tensor of a block as files hold it: one of the block's weights, or several, the rows of one under those of another. */
export interface BlockTensor {
  /** Inside the block. */
  readonly name: string;
  readonly shape: readonly number[];
  readonly parts: readonly { readonly name: BlockWeightName; readonly rows: number }[];
}

const fusedNames = ['self_attn.qkv_proj.weight', 'mlp.gate_up_proj.weight'] as const;

/** In the order in which files of ours hold them. */
export function blockTensors(config: DecoderConfig): BlockTensor[] {
  const { hiddenSize, intermediateSize, headDim } = config;
  const queries = config.numAttentionHeads * headDim;
  const keys = config.numKeyValueHeads * headDim;
  const linears: Record<LinearName, readonly [number, number]> = {
    'self_attn.q_proj.weight': [queries, hiddenSize],
    'self_attn.k_proj.weight': [keys, hiddenSize],
    'self_attn.v_proj.weight': [keys, hiddenSize],
    'self_attn.o_proj.weight': [hiddenSize, queries],
    'mlp.gate_proj.weight': [intermediateSize, hiddenSize],
    'mlp.up_proj.weight': [intermediateSize, hiddenSize],
    'mlp.down_proj.weight': [hiddenSize, intermediateSize],
  };
  const vector = (name: BlockWeightName, size: number): BlockTensor => ({
    name,
    shape: [size],
    parts: [{ name, rows: size }],
  });
  const matrix = (name: string, parts: readonly LinearName[]): BlockTensor => {
    const rows = parts.map((part) => ({ name: part, rows: linears[part][0] }));
    return { name, shape: [rows.reduce((sum, part) => sum + part.rows, 0), linears[parts[0]][1]], parts: rows };
  };
  const [q, k, v, o, gate, up, down] = linearNames;
  const groups: [string, readonly LinearName[]][] = config.fusedProjections
    ? [
        [fusedNames[0], [q, k, v]],
        [o, [o]],
        [fusedNames[1], [gate, up]],
        [down, [down]],
      ]
    : linearNames.map((name) => [name, [name]]);
  return [
    ...normNames.map((name) => vector(name, hiddenSize)),
    ...(config.qkNorm ? headNormNames.map((name) => vector(name, headDim)) : []),
    ...groups.map(([name, parts]) => matrix(name, parts)),
    ...config.biases.map((name) => vector(biasOf(name), linears[name][0])),
  ];
}

/** Name of a linear layer's bias, from that of its weight. */
export function biasOf<Name extends LinearName>(name: Name): BiasOf<Name> {
  return name.replace(/weight$/, 'bias') as BiasOf<Name>;
}

/** Shape of every tensor that the model must have, by full name, in the order in which they are written. */
export function tensorShapes(config: DecoderConfig): Map<string, number[]> {
  const shapes = new Map<string, number[]>([[embeddingName, [config.vocabSize, config.hiddenSize]]]);
  const inBlock = blockTensors(config);
  for (let block = 0; block < config.numHiddenLayers; block++) {
    for (const { name, shape } of inBlock) shapes.set(blockPrefix(block) + name, [...shape]);
  }
  shapes.set(finalNormName, [config.hiddenSize]);
  if (!config.tieWordEmbeddings) shapes.set(headName, [config.vocabSize, config.hiddenSize]);
  return shapes;
}

/** Full names of a block's matrices: what is quantized. */
export function linearTensorNames(config: DecoderConfig, block: number): string[] {
  return blockTensors(config)
    .filter(({ shape }) => shape.length === 2)
    .map(({ name }) => blockPrefix(block) + name);
}

const quantizedNames: ReadonlySet<string> = new Set([...linearNames, ...fusedNames]);

/** Whether a tensor is a matrix of one of the blocks, which is what is quantized. */
export function isLinear(name: string): boolean {
  const [, inBlock] = /^model\.layers\.\d+\.(.*)$/.exec(name) ?? [];
  return inBlock !== undefined && quantizedNames.has(inBlock);
}

/** Kinds of parameters that a job may choose to train; the biases of linear layers go with them. */
export type ParameterKind = 'embeddings' | 'linears' | 'norms' | 'head';

/** @param name of a tensor, in full   @throws Error when no family has such a tensor */
export function parameterKindOf(name: string): ParameterKind {
  if (name === embeddingName) return 'embeddings';
  if (name === headName) return 'head';
  if (name.endsWith('norm.weight')) return 'norms';
  if (isLinear(name) || name.endsWith('_proj.bias')) return 'linears';
  throw new Error(`"${name}" is no parameter of a decoder.`);
}
