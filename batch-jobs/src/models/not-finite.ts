/** Where a value first stops being finite: looked for once a loss is not, so that whoever reads the error knows where to look. */
import * as tf from '@tensorflow/tfjs-core';
import type { Tensor } from '@tensorflow/tfjs-core';
import type { WeightSource } from './block-weights.ts';
import type { BlockWeightName, DecoderConfig } from './decoder-config.ts';
import { blockPrefix, blockTensors } from './decoder-config.ts';
import type { BlockWeights, Positions } from './layers.ts';
import { blockForward } from './layers.ts';
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
 * @param weights the block's, on the device   @param hidden what goes into the block
 */
export async function notFiniteInBlock(
  config: DecoderConfig,
  block: number,
  source: WeightSource,
  weights: BlockWeights,
  hidden: Float32Array,
  positions: Positions,
): Promise<NotFinite> {
  const tensors = blockTensors(config).map(({ name, parts }) => ({ name: blockPrefix(block) + name, parts }));
  for (const { name } of tensors) {
    if (!allFinite(await source.read(name))) return { block, tensor: name, what: 'values' };
  }
  const fullName = (weight: BlockWeightName): string =>
    tensors.find(({ parts }) => parts.some(({ name }) => name === weight))?.name ?? blockPrefix(block) + weight;
  const steps = tf.tidy(() => forwardSteps(config, block, weights, hidden, positions));
  const last = steps[steps.length - 1];
  const { weight, what } = steps.find(({ values }) => !allFinite(values)) ?? last;
  return { block, tensor: fullName(weight), what };
}

interface ForwardStep {
  readonly weight: BlockWeightName;
  readonly what: 'input' | 'output';
  readonly values: Float32Array;
}

/** What a block computes, in order, each with the weight that gives it or, for what no weight gives, takes it. */
function forwardSteps(
  config: DecoderConfig,
  block: number,
  weights: BlockWeights,
  hidden: Float32Array,
  positions: Positions,
): ForwardStep[] {
  const { y, kept } = blockForward(config, block, weights, onDevice(config, hidden), positions);
  const step = (weight: BlockWeightName, what: ForwardStep['what'], tensor: Tensor): ForwardStep => ({
    weight,
    what,
    values: tensor.dataSync<'float32'>(),
  });
  const [queries, keys] = kept.beforeNorms;
  return [
    step('input_layernorm.weight', 'output', kept.normed),
    step('self_attn.q_proj.weight', 'output', queries ?? kept.queries),
    step('self_attn.k_proj.weight', 'output', keys ?? kept.keys),
    step('self_attn.v_proj.weight', 'output', kept.values),
    ...(config.qkNorm
      ? [
          step('self_attn.q_norm.weight', 'output', kept.queries),
          step('self_attn.k_norm.weight', 'output', kept.keys),
        ]
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
