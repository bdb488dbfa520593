/**
 * Forward and backward of the layers that decoders share, written out by hand: no tape, so only what a backward pass needs
 * is kept. The passes over activations are the fused operations of engine/fused.ts.
 *
 * Rows are tokens: x is [tokens, hiddenSize] with tokens = windows x length. Every function leaves its arguments alone and
 * returns new tensors that the caller disposes of; call them inside `tf.tidy`.
 */
import * as tf from '@tensorflow/tfjs-core';
import type { GradientReduction } from './budgets.ts';
import type { Tensor, Tensor1D, Tensor2D, Tensor3D } from '@tensorflow/tfjs-core';
import type { AttentionInputs, AttentionShape, Wanted } from '../engine/fused.ts';
import {
  attention,
  attentionBackward,
  crossEntropy,
  crossEntropyBackward,
  geGlu,
  geGluBackward,
  rmsNorm,
  rmsNormBackward,
  sumOfProducts,
  swiGlu,
  swiGluBackward,
} from '../engine/fused.ts';
import type { CommonWeightName, DecoderConfig, LinearName, OptionalWeightName } from './decoder-config.ts';
import { biasOf } from './decoder-config.ts';
import { rotaryTables } from './rope.ts';

/**
 * One block's weights on the device: linears [out, in], norms [hiddenSize], and, where the family has them, biases [out] and
 * the norms of queries and keys [headDim].
 */
export type BlockWeights = Readonly<Record<CommonWeightName, Tensor> & Partial<Record<OptionalWeightName, Tensor>>>;

/** The gradient of each weight that the block has. */
export type BlockGradients = BlockWeights;

/** The positions of a batch: what the rotary embedding and the causal mask depend on. */
export interface Positions {
  readonly windows: number;
  readonly length: number;
  /** Positions up to the last one of the batch, past ones included. */
  readonly width: number;
  /** [width, headDim / 2] of the angles. */
  readonly cos: Tensor2D;
  readonly sin: Tensor2D;
}

/** Keys, before rotation, and values of earlier tokens, [windows, pastLength, numKeyValueHeads * headDim]. */
export type KeyValueCache = { readonly keys: Tensor3D; readonly values: Tensor3D };

/** What a block's backward pass needs of its forward pass. */
export type BlockActivations = {
  readonly x: Tensor2D;
  readonly normed: Tensor2D;
  /** Queries and keys before their norms, when they have any. */
  readonly beforeNorms: Tensor2D[];
  readonly queries: Tensor2D;
  readonly keys: Tensor2D;
  readonly values: Tensor2D;
  readonly attended: Tensor2D;
  readonly attentionSaved: Tensor[];
  readonly middle: Tensor2D;
  readonly normedMiddle: Tensor2D;
  readonly gate: Tensor2D;
  readonly up: Tensor2D;
  readonly gated: Tensor2D;
};

/** @param start index of the first token of each window in its text; the past length when a cache is used */
export function createPositions(config: DecoderConfig, windows: number, length: number, start = 0): Positions {
  const half = config.headDim / 2;
  const width = start + length;
  const { cos, sin } = rotaryTables(config, width);
  return { windows, length, width, cos: tf.tensor2d(cos, [width, half]), sin: tf.tensor2d(sin, [width, half]) };
}

export function disposePositions(positions: Positions): void {
  tf.dispose([positions.cos, positions.sin]);
}

/** y = x W^T  @param weight [out, in] */
export function linear(x: Tensor2D, weight: Tensor): Tensor2D {
  return tf.matMul(x, weight as Tensor2D, false, true);
}

/** x W^T + bias, or, given a residual, residual + x W^T + bias; without the bias when the layer has none. */
function project(weights: BlockWeights, name: LinearName, x: Tensor2D, residual: Tensor2D | null = null): Tensor2D {
  const weight = weights[name] as Tensor2D;
  const y = residual ? sumOfProducts(residual, [{ a: x, b: weight, transposeB: true }]) : linear(x, weight);
  const bias = weights[biasOf(name)];
  if (!bias) return y;
  const sum: Tensor2D = tf.add(y, bias);
  y.dispose();
  return sum;
}

/** Each head's part of every row normalized on its own.  @param x [tokens, heads * headDim]   @param weight [headDim] */
function headNorm(x: Tensor2D, weight: Tensor, { headDim, rmsNormEps }: DecoderConfig): Tensor2D {
  return tf.reshape(rmsNorm(tf.reshape(x, [-1, headDim]), weight, rmsNormEps), x.shape);
}

function headNormBackward(
  x: Tensor2D,
  weight: Tensor,
  { headDim, rmsNormEps }: DecoderConfig,
  dy: Tensor2D,
): { dx: Tensor2D; dWeight: Tensor1D } {
  const rows: [number, number] = [x.size / headDim, headDim];
  const { dx, dWeight } = rmsNormBackward(tf.reshape(x, rows), weight, rmsNormEps, tf.reshape(dy, rows), null);
  return { dx: tf.reshape(dx, x.shape), dWeight };
}

/** Gradient of layers that share their input, with respect to it: the sum of dy W. */
function inputGradient(...layers: readonly { dy: Tensor2D; weight: Tensor }[]): Tensor2D {
  return sumOfProducts(
    null,
    layers.map(({ dy, weight }) => ({ a: dy, b: weight as Tensor2D })),
  );
}

/** @param dy [tokens, out]   @returns [out, in] */
function weightGradient(x: Tensor2D, dy: Tensor2D, windows: number, reduction: GradientReduction): Tensor2D {
  if (reduction === 'sum') return tf.matMul(dy, x, true, false);
  const length = x.shape[0] / windows;
  const squares = (window: number): Tensor2D => {
    const own = (rows: Tensor2D): Tensor2D => tf.slice(rows, [window * length, 0], [length, rows.shape[1]]);
    return tf.tidy(() => {
      const gradient: Tensor2D = tf.matMul(own(dy), own(x), true, false);
      return tf.square(gradient);
    });
  };
  let sum = squares(0);
  for (let window = 1; window < windows; window++) {
    const next = squares(window);
    const both: Tensor2D = tf.add(sum, next);
    tf.dispose([sum, next]);
    sum = both;
  }
  return sum;
}

/**
 * One decoder block: x + attention(norm(x)), then that + gated(norm(that)).
 *
 * @param block which one: layers differ in how far they look
 * @param x [tokens, hiddenSize]   @param cache keys and values of earlier tokens, when text is generated token by token
 * @returns the block's output, what its backward pass needs, and the cache with this call's tokens added
 */
export function blockForward(
  config: DecoderConfig,
  block: number,
  weights: BlockWeights,
  x: Tensor2D,
  positions: Positions,
  cache: KeyValueCache | null = null,
): { y: Tensor2D; kept: BlockActivations; cache: KeyValueCache } {
  const normed = rmsNorm(x, weights['input_layernorm.weight'], config.rmsNormEps);
  const [queryNorm, keyNorm] = [weights['self_attn.q_norm.weight'], weights['self_attn.k_norm.weight']];
  const projectedQueries = project(weights, 'self_attn.q_proj.weight', normed);
  const projectedKeys = project(weights, 'self_attn.k_proj.weight', normed);
  const queries = queryNorm ? headNorm(projectedQueries, queryNorm, config) : projectedQueries;
  const newKeys = keyNorm ? headNorm(projectedKeys, keyNorm, config) : projectedKeys;
  const newValues = project(weights, 'self_attn.v_proj.weight', normed);
  const extended = extendCache(config, cache, newKeys, newValues, positions);
  const keys: Tensor2D = cache ? tf.reshape(extended.keys, [-1, newKeys.shape[1]]) : newKeys;
  const values: Tensor2D = cache ? tf.reshape(extended.values, [-1, newValues.shape[1]]) : newValues;
  const inputs = { queries, keys, values, cos: positions.cos, sin: positions.sin };
  const { attended, saved } = attention(inputs, attentionShape(config, block, positions));
  const middle = project(weights, 'self_attn.o_proj.weight', attended, x);

  const normedMiddle = rmsNorm(middle, weights['post_attention_layernorm.weight'], config.rmsNormEps);
  const gate = project(weights, 'mlp.gate_proj.weight', normedMiddle);
  const up = project(weights, 'mlp.up_proj.weight', normedMiddle);
  const gated = config.activation === 'silu' ? swiGlu(gate, up) : geGlu(gate, up);
  const y = project(weights, 'mlp.down_proj.weight', gated, middle);

  const beforeNorms = config.qkNorm ? [projectedQueries, projectedKeys] : [];
  const attentionKept = { normed, beforeNorms, queries, keys, values, attended, attentionSaved: saved };
  return { y, kept: { x, ...attentionKept, middle, normedMiddle, gate, up, gated }, cache: extended };
}

function extendCache(
  config: DecoderConfig,
  cache: KeyValueCache | null,
  newKeys: Tensor2D,
  newValues: Tensor2D,
  { windows, length }: Positions,
): KeyValueCache {
  const shape: [number, number, number] = [windows, length, config.numKeyValueHeads * config.headDim];
  const keys: Tensor3D = tf.reshape(newKeys, shape);
  const values: Tensor3D = tf.reshape(newValues, shape);
  return cache
    ? { keys: tf.concat([cache.keys, keys], 1), values: tf.concat([cache.values, values], 1) }
    : { keys, values };
}

function attentionShape(config: DecoderConfig, block: number, { windows, length, width }: Positions): AttentionShape {
  const { numAttentionHeads: heads, numKeyValueHeads: keyValueHeads, headDim } = config;
  return { windows, length, width, heads, keyValueHeads, headDim, slidingWindow: config.slidingWindows[block] };
}

/**
 * @param dy gradient of the loss with respect to the block's output, [tokens, hiddenSize]
 * @param reduction of the linear layers' gradients; those of norms and biases are always summed
 * @returns its gradient with respect to the block's input and to each weight
 */
export function blockBackward(
  config: DecoderConfig,
  block: number,
  weights: BlockWeights,
  kept: BlockActivations,
  positions: Positions,
  dy: Tensor2D,
  reduction: GradientReduction = 'sum',
): { dx: Tensor2D; gradients: BlockGradients } {
  const { normed, normedMiddle } = kept;
  const ofWeight = (x: Tensor2D, dOutput: Tensor2D): Tensor2D =>
    weightGradient(x, dOutput, positions.windows, reduction);

  const dGated = inputGradient({ dy, weight: weights['mlp.down_proj.weight'] });
  const gatedBackward = config.activation === 'silu' ? swiGluBackward : geGluBackward;
  const { dGate, dUp } = gatedBackward(kept.gate, kept.up, dGated);
  const lowerNorm = rmsNormBackward(
    kept.middle,
    weights['post_attention_layernorm.weight'],
    config.rmsNormEps,
    inputGradient(
      { dy: dGate, weight: weights['mlp.gate_proj.weight'] },
      { dy: dUp, weight: weights['mlp.up_proj.weight'] },
    ),
    dy,
  );
  const dMiddle = lowerNorm.dx;

  const { queries, keys, values } = kept;
  const inputs: AttentionInputs = { queries, keys, values, cos: positions.cos, sin: positions.sin };
  const attentionGradients = attentionBackward(
    inputs,
    kept.attentionSaved,
    inputGradient({ dy: dMiddle, weight: weights['self_attn.o_proj.weight'] }),
    attentionShape(config, block, positions),
  );
  const { dValues } = attentionGradients;
  const headNorms = headNormsBackward(config, weights, kept, attentionGradients);
  const { dQueries, dKeys } = headNorms;
  const upperNorm = rmsNormBackward(
    kept.x,
    weights['input_layernorm.weight'],
    config.rmsNormEps,
    inputGradient(
      { dy: dQueries, weight: weights['self_attn.q_proj.weight'] },
      { dy: dKeys, weight: weights['self_attn.k_proj.weight'] },
      { dy: dValues, weight: weights['self_attn.v_proj.weight'] },
    ),
    dMiddle,
  );

  const outputs: Record<LinearName, readonly [Tensor2D, Tensor2D]> = {
    'self_attn.q_proj.weight': [normed, dQueries],
    'self_attn.k_proj.weight': [normed, dKeys],
    'self_attn.v_proj.weight': [normed, dValues],
    'self_attn.o_proj.weight': [kept.attended, dMiddle],
    'mlp.gate_proj.weight': [normedMiddle, dGate],
    'mlp.up_proj.weight': [normedMiddle, dUp],
    'mlp.down_proj.weight': [kept.gated, dy],
  };
  const linears = Object.entries(outputs).map(([name, [x, dOutput]]) => [name, ofWeight(x, dOutput)]);
  const biases = config.biases.map((name) => [biasOf(name), tf.sum(outputs[name][1], 0)]);
  return {
    dx: upperNorm.dx,
    gradients: {
      'input_layernorm.weight': upperNorm.dWeight,
      'post_attention_layernorm.weight': lowerNorm.dWeight,
      ...headNorms.gradients,
      ...(Object.fromEntries([...linears, ...biases]) as Record<LinearName, Tensor>),
    },
  };
}

/** Through the norms of queries and keys, when the family has them. */
function headNormsBackward(
  config: DecoderConfig,
  weights: BlockWeights,
  { beforeNorms }: BlockActivations,
  { dQueries, dKeys }: { dQueries: Tensor2D; dKeys: Tensor2D },
): { dQueries: Tensor2D; dKeys: Tensor2D; gradients: Partial<Record<OptionalWeightName, Tensor>> } {
  const [queryNorm, keyNorm] = [weights['self_attn.q_norm.weight'], weights['self_attn.k_norm.weight']];
  if (!queryNorm || !keyNorm) return { dQueries, dKeys, gradients: {} };
  const ofQueries = headNormBackward(beforeNorms[0], queryNorm, config, dQueries);
  const ofKeys = headNormBackward(beforeNorms[1], keyNorm, config, dKeys);
  return {
    dQueries: ofQueries.dx,
    dKeys: ofKeys.dx,
    gradients: { 'self_attn.q_norm.weight': ofQueries.dWeight, 'self_attn.k_norm.weight': ofKeys.dWeight },
  };
}

/**
 * Cross-entropy of each token, from the logits of the head.
 * @param x [tokens, hiddenSize], after the final norm   @param head [vocabSize, hiddenSize]
 * @returns [tokens], in nats
 */
export function headLoss(x: Tensor2D, head: Tensor2D, wanted: Wanted): Tensor1D {
  return tf.tidy(() => crossEntropy(linear(x, head), wanted));
}

/**
 * The same with its gradient.
 * @param scale factor on the sum of the losses before it is differentiated   @param dHeadSoFar added to dHead
 * @returns dHead is undefined unless `wantsHead`
 */
export function headLossBackward(
  x: Tensor2D,
  head: Tensor2D,
  wanted: Wanted,
  scale: number,
  wantsHead: boolean,
  dHeadSoFar?: Tensor2D,
): { losses: Tensor1D; dx: Tensor2D; dHead: Tensor2D | undefined } {
  return tf.tidy(() => {
    const { losses, dLogits } = crossEntropyBackward(linear(x, head), wanted, scale);
    const product = { a: dLogits, b: x, transposeA: true };
    const dHead = wantsHead ? sumOfProducts(dHeadSoFar ?? null, [product]) : undefined;
    return { losses, dx: inputGradient({ dy: dLogits, weight: head }), dHead };
  });
}
