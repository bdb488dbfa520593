/** What the shared decoder layers need to know of a model, in Hugging Face's names. */
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
  readonly rmsNormEps: number;
  readonly tieWordEmbeddings: boolean;
}

/** A family of models over the shared layers: how its config.json is read. One file each, named in `registry.ts`. */
export interface ModelFamily {
  /** Names that config.json's `architectures` may hold. */
  readonly architectures: readonly string[];
  /** @throws InputError naming the field */
  parseConfig(config: Record<string, unknown>): DecoderConfig;
}

export const embeddingName = 'model.embed_tokens.weight';
export const finalNormName = 'model.norm.weight';
export const headName = 'lm_head.weight';

/** Names, inside one block, of its linear layers: what is quantized. */
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

export const normNames = ['input_layernorm.weight', 'post_attention_layernorm.weight'] as const;
export type NormName = (typeof normNames)[number];
export type BlockWeightName = LinearName | NormName;
export const blockWeightNames: readonly BlockWeightName[] = [...normNames, ...linearNames];

export const blockPrefix = (block: number): string => `model.layers.${block}.`;

/** Shape of every tensor that the model must have, by full name, in the order in which they are written. */
export function tensorShapes(config: DecoderConfig): Map<string, number[]> {
  const { hiddenSize, intermediateSize, headDim } = config;
  const queries = config.numAttentionHeads * headDim;
  const keys = config.numKeyValueHeads * headDim;
  const inBlock: Record<BlockWeightName, number[]> = {
    'input_layernorm.weight': [hiddenSize],
    'post_attention_layernorm.weight': [hiddenSize],
    'self_attn.q_proj.weight': [queries, hiddenSize],
    'self_attn.k_proj.weight': [keys, hiddenSize],
    'self_attn.v_proj.weight': [keys, hiddenSize],
    'self_attn.o_proj.weight': [hiddenSize, queries],
    'mlp.gate_proj.weight': [intermediateSize, hiddenSize],
    'mlp.up_proj.weight': [intermediateSize, hiddenSize],
    'mlp.down_proj.weight': [hiddenSize, intermediateSize],
  };
  const shapes = new Map<string, number[]>([[embeddingName, [config.vocabSize, hiddenSize]]]);
  for (let block = 0; block < config.numHiddenLayers; block++) {
    for (const name of blockWeightNames) shapes.set(blockPrefix(block) + name, inBlock[name]);
  }
  shapes.set(finalNormName, [hiddenSize]);
  if (!config.tieWordEmbeddings) shapes.set(headName, [config.vocabSize, hiddenSize]);
  return shapes;
}

/** Whether a tensor is one of the blocks' linear layers. */
export function isLinear(name: string): boolean {
  return linearNames.some((linear) => name.startsWith('model.layers.') && name.endsWith(`.${linear}`));
}
