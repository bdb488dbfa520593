/** Where a value first stops being finite: looked for once a loss is not, so that whoever reads the error knows where to look. */
import * as tf from '@tensorflow/tfjs-core';
import type { Tensor } from '@tensorflow/tfjs-core';
import { rmsNorm } from '../engine/fused.ts';
import type { WeightSource } from './block-weights.ts';
import { uploadBlock, uploadFinalNorm } from './block-weights.ts';
import type { BlockWeightName, DecoderConfig } from './decoder-config.ts';
import { blockPrefix, blockTensors, embeddingName, finalNormName, headName } from './decoder-config.ts';
import { Head } from './head.ts';
import type { BlockWeights, Positions } from './layers.ts';
import { blockForward } from './layers.ts';
import type { Part } from './parts.ts';
import { onDevice } from './parts.ts';

export interface NotFinite {
  /** Null outside the blocks. */
  readonly block: number | null;
  /** Full name of a tensor of the model. */
  readonly tensor: string;
  /** What of it is not finite: its own values, or, these being finite, what it is multiplied with or what that gives. */
  readonly what: 'values' | 'input' | 'output';
}

export function allFinite(values: Float32Array): boolean {
  for (const value of values) if (!Number.isFinite(value)) return false;
  return true;
}

/**
 * Within a block whose output is not finite on finite hidden states: the first of its tensors whose values are not, else the
 * first in the order of the forward pass that makes something of it.
 * @param hidden what goes into the block, [tokens, hiddenSize]
 */
export async function notFiniteInBlock(
  config: DecoderConfig,
  block: number,
  source: WeightSource,
  hidden: Float32Array,
  positions: Positions,
): Promise<NotFinite> {
  const tensors = blockTensors(config).map(({ name, parts }) => ({ name: blockPrefix(block) + name, parts }));
  for (const { name } of tensors) {
    if (!allFinite(await source.read(name))) return { block, tensor: name, what: 'values' };
  }
  const fullName = (weight: BlockWeightName): string =>
    tensors.find(({ parts }) => parts.some(({ name }) => name === weight))?.name ?? blockPrefix(block) + weight;
  const weights = await uploadBlock(config, block, source);
  const steps = tf.tidy(() => forwardSteps(config, block, weights, hidden, positions));
  const last = steps[steps.length - 1];
  const { weight, what } = steps.find(({ values }) => !allFinite(values.dataSync<'float32'>())) ?? last;
  tf.dispose([steps.map(({ values }) => values), Object.values(weights)]);
  return { block, tensor: fullName(weight), what };
}

/** The same after the blocks; null when all losses are finite.  @param hidden of each part   @param logits held at once */
export async function notFiniteInHead(
  config: DecoderConfig,
  source: WeightSource,
  batch: readonly Part[],
  hidden: readonly Float32Array[],
  logits: number,
): Promise<NotFinite | null> {
  const weightName = config.tieWordEmbeddings ? embeddingName : headName;
  const weight = await source.read(weightName);
  for (const name of [finalNormName, weightName]) {
    if (!allFinite(name === weightName ? weight : await source.read(name)))
      return { block: null, tensor: name, what: 'values' };
  }
  const norm = await uploadFinalNorm(config, source);
  const isNormed = hidden.every((rows) =>
    allFinite(tf.tidy(() => rmsNorm(onDevice(config, rows), norm, config.rmsNormEps).dataSync<'float32'>())),
  );
  norm.dispose();
  if (!isNormed) return { block: null, tensor: finalNormName, what: 'output' };
  const head = await Head.upload(config, source, weight, logits);
  let finite = true;
  for (const [part, { targets }] of batch.entries()) finite &&= allFinite(await head.losses(hidden[part], targets));
  head.dispose();
  return finite ? null : { block: null, tensor: weightName, what: 'output' };
}

type ForwardStep = {
  readonly weight: BlockWeightName;
  readonly what: 'input' | 'output';
  readonly values: Tensor;
};

/** What a block computes, in order, each with the weight that gives it or, for what no weight gives, takes it. */
function forwardSteps(
  config: DecoderConfig,
  block: number,
  weights: BlockWeights,
  hidden: Float32Array,
  positions: Positions,
): ForwardStep[] {
  const { y, kept } = blockForward(config, block, weights, onDevice(config, hidden), positions);
  const step = (weight: BlockWeightName, what: ForwardStep['what'], values: Tensor): ForwardStep => ({
    weight,
    what,
    values,
  });
  const [queries, keys] = kept.beforeNorms;
  return [
    step('input_layernorm.weight', 'output', kept.normed),
    step('self_attn.q_proj.weight', 'output', queries ?? kept.queries),
    step('self_attn.k_proj.weight', 'output', keys ?? kept.keys),
    step('self_attn.v_proj.weight', 'output', kept.values),
    ...(config.qkNorm
      ? [step('self_attn.q_norm.weight', 'output', kept.queries), step('self_attn.k_norm.weight', 'output', kept.keys)]
      : []),
    step('self_attn.o_proj.weight', 'input', kept.attended),
    step('self_attn.o_proj.weight', 'output', kept.middle),
    step('post_attention_layernorm.weight', 'output', kept.normedMiddle),
    step('mlp.gate_proj.weight', 'output', kept.gate),
    step('mlp.up_proj.weight', 'output', kept.up),
    step('mlp.down_proj.weight', 'input', kept.gated),
    step('mlp.down_proj.weight', 'output', y),
  ];
}
