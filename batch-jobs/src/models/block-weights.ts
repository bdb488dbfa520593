/**
 * The way between a model's tensors as files hold them, by full name, and a block's weights on the device. A tensor that
 * holds several layers, the rows of one under those of another, is split on the way in; its gradient is joined on the way
 * out. A norm's weight that a file holds less a constant (`normOffset`) gets it here; its gradient is the same.
 */
import * as tf from '@tensorflow/tfjs-core';
import type { Tensor, Tensor2D } from '@tensorflow/tfjs-core';
import type { BlockTensor, BlockWeightName, DecoderConfig, LinearName } from './decoder-config.ts';
import { blockPrefix, blockTensors, finalNormName } from './decoder-config.ts';
import type { GradientReduction } from './budgets.ts';
import type { BlockActivations, BlockGradients, BlockWeights } from './layers.ts';

/** Where the walk gets a tensor, by its full name, as float32 in row-major order. */
export interface WeightSource {
  read(name: string): Promise<Float32Array> | Float32Array;
}

/** Takes the gradient of one tensor, or the sum of its squares; the array is the callee's. */
export type GradientConsumer = (name: string, gradient: Float32Array) => void;

/** @returns the block's weights on the device; the caller disposes of each */
export async function uploadBlock(config: DecoderConfig, block: number, source: WeightSource): Promise<BlockWeights> {
  const weights: Partial<Record<BlockWeightName, Tensor>> = {};
  for (const { name, shape, parts } of blockTensors(config)) {
    const values = await source.read(blockPrefix(block) + name);
    const columns = shape[1] ?? 1;
    let row = 0;
    for (const part of parts) {
      const own = parts.length === 1 ? values : values.slice(row * columns, (row + part.rows) * columns);
      weights[part.name] = part.name.endsWith('norm.weight')
        ? uploadNorm(config, own)
        : tf.tensor(own, [part.rows, ...shape.slice(1)]);
      row += part.rows;
    }
  }
  return weights as BlockWeights;
}

export async function uploadFinalNorm(config: DecoderConfig, source: WeightSource): Promise<Tensor> {
  return uploadNorm(config, await source.read(finalNormName));
}

function uploadNorm({ normOffset }: DecoderConfig, stored: Float32Array): Tensor {
  return tf.tensor1d(normOffset === 0 ? stored : stored.map((value) => value + normOffset));
}

/** Their sum; both are disposed of, tensor by tensor, so that a third set never exists whole. */
export function addGradients(sum: BlockGradients, gradients: BlockGradients): BlockGradients {
  const names = Object.keys(sum) as BlockWeightName[];
  const added = names.map((name) => {
    const terms = [sum[name] as Tensor, gradients[name] as Tensor];
    const total = tf.add(terms[0], terms[1]);
    tf.dispose(terms);
    return [name, total];
  });
  return Object.fromEntries(added) as BlockGradients;
}

/** Layers of a block in the order in which the backward pass comes to them. */
const backwardOrder = [
  'mlp.down_proj',
  'mlp.up_proj',
  'mlp.gate_proj',
  'post_attention_layernorm',
  'self_attn.o_proj',
  'self_attn.v_proj',
  'self_attn.k_norm',
  'self_attn.k_proj',
  'self_attn.q_norm',
  'self_attn.q_proj',
  'input_layernorm',
];

/**
 * Reads a block's gradients back and hands each on under its tensor's full name, in the order of the backward pass; of sums
 * of squares the matrices' alone.
 */
export function handOnGradients(
  config: DecoderConfig,
  block: number,
  gradients: BlockGradients,
  reduction: GradientReduction,
  consume: GradientConsumer,
): void {
  const place = ({ parts }: BlockTensor): number =>
    backwardOrder.indexOf(parts[0].name.replace(/\.(weight|bias)$/, ''));
  const tensors = blockTensors(config).sort((a, b) => place(a) - place(b));
  for (const { name, shape, parts } of tensors) {
    if (reduction === 'sumOfSquares' && shape.length !== 2) continue;
    consume(blockPrefix(block) + name, joined(parts.map((part) => gradients[part.name] as Tensor)));
  }
}

function joined(parts: readonly Tensor[]): Float32Array {
  if (parts.length === 1) return parts[0].dataSync<'float32'>();
  const whole = new Float32Array(parts.reduce((size, part) => size + part.size, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part.dataSync<'float32'>(), at);
    at += part.size;
  }
  return whole;
}

const inputsOf: Readonly<Record<LinearName, 'normed' | 'attended' | 'normedMiddle' | 'gated'>> = {
  'self_attn.q_proj.weight': 'normed',
  'self_attn.k_proj.weight': 'normed',
  'self_attn.v_proj.weight': 'normed',
  'self_attn.o_proj.weight': 'attended',
  'mlp.gate_proj.weight': 'normedMiddle',
  'mlp.up_proj.weight': 'normedMiddle',
  'mlp.down_proj.weight': 'gated',
};

/** What each of a block's matrices is multiplied with, [tokens, in]: the activations themselves, one tensor for several. */
export function linearInputs(
  config: DecoderConfig,
  block: number,
  kept: BlockActivations,
): { name: string; inputs: Tensor2D }[] {
  return blockTensors(config)
    .filter(({ shape }) => shape.length === 2)
    .map(({ name, parts }) => ({
      name: blockPrefix(block) + name,
      inputs: kept[inputsOf[parts[0].name as LinearName]],
    }));
}
