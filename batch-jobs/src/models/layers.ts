/**
 * Forward and backward of the layers that decoders share, written out by hand: no tape, so only what a backward pass needs
 * is kept. The passes over activations are the fused operations of engine/fused.ts.
 *
 * Rows are tokens: x is [tokens, hiddenSize] with tokens = windows x length. Every function leaves its arguments alone and
 * returns new tensors that the caller disposes of; call them inside `tf.tidy`.
 */
import * as tf from '@tensorflow/tfjs-core';
import type { Tensor, Tensor1D, Tensor2D, Tensor3D } from '@tensorflow/tfjs-core';
import type { AttentionInputs, AttentionShape, Wanted } from '../engine/fused.ts';
import {
  attention,
  attentionBackward,
  crossEntropy,
  crossEntropyBackward,
  rmsNorm,
  rmsNormBackward,
  sumOfProducts,
  swiGlu,
  swiGluBackward,
} from '../engine/fused.ts';
import type { BlockWeightName, DecoderConfig } from './decoder-config.ts';

/** One block's weights on the device: linears [out, in], norms [hiddenSize]. */
export type BlockWeights = Readonly<Record<BlockWeightName, Tensor>>;

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
  const cos = new Float32Array(width * half);
  const sin = new Float32Array(width * half);
  for (let i = 0; i < half; i++) {
    const frequency = config.ropeTheta ** (-i / half);
    for (let position = 0; position < width; position++) {
      cos[position * half + i] = Math.cos(position * frequency);
      sin[position * half + i] = Math.sin(position * frequency);
    }
  }
  return { windows, length, width, cos: tf.tensor2d(cos, [width, half]), sin: tf.tensor2d(sin, [width, half]) };
}

export function disposePositions(positions: Positions): void {
  tf.dispose([positions.cos, positions.sin]);
}

/** y = x W^T  @param weight [out, in] */
export function linear(x: Tensor2D, weight: Tensor): Tensor2D {
  return tf.matMul(x, weight as Tensor2D, false, true);
}

/** residual + x W^T */
function addLinear(residual: Tensor2D, x: Tensor2D, weight: Tensor): Tensor2D {
  return sumOfProducts(residual, [{ a: x, b: weight as Tensor2D, transposeB: true }]);
}

/** Gradient of layers that share their input, with respect to it: the sum of dy W. */
function inputGradient(...layers: readonly { dy: Tensor2D; weight: Tensor }[]): Tensor2D {
  return sumOfProducts(
    null,
    layers.map(({ dy, weight }) => ({ a: dy, b: weight as Tensor2D })),
  );
}

/** What becomes of a layer's weight gradient, dy^T x of each window: their sum, or the sum of their squares. */
export type GradientReduction = 'sum' | 'sumOfSquares';

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
 * One decoder block: x + attention(norm(x)), then that + SwiGLU(norm(that)).
 *
 * @param x [tokens, hiddenSize]   @param cache keys and values of earlier tokens, when text is generated token by token
 * @returns the block's output, what its backward pass needs, and the cache with this call's tokens added
 */
export function blockForward(
  config: DecoderConfig,
  weights: BlockWeights,
  x: Tensor2D,
  positions: Positions,
  cache: KeyValueCache | null = null,
): { y: Tensor2D; kept: BlockActivations; cache: KeyValueCache } {
  const normed = rmsNorm(x, weights['input_layernorm.weight'], config.rmsNormEps);
  const queries = linear(normed, weights['self_attn.q_proj.weight']);
  const newKeys = linear(normed, weights['self_attn.k_proj.weight']);
  const newValues = linear(normed, weights['self_attn.v_proj.weight']);
  const extended = extendCache(config, cache, newKeys, newValues, positions);
  const keys: Tensor2D = cache ? tf.reshape(extended.keys, [-1, newKeys.shape[1]]) : newKeys;
  const values: Tensor2D = cache ? tf.reshape(extended.values, [-1, newValues.shape[1]]) : newValues;
  const inputs = { queries, keys, values, cos: positions.cos, sin: positions.sin };
  const { attended, saved } = attention(inputs, attentionShape(config, positions));
  const middle = addLinear(x, attended, weights['self_attn.o_proj.weight']);

  const normedMiddle = rmsNorm(middle, weights['post_attention_layernorm.weight'], config.rmsNormEps);
  const gate = linear(normedMiddle, weights['mlp.gate_proj.weight']);
  const up = linear(normedMiddle, weights['mlp.up_proj.weight']);
  const gated = swiGlu(gate, up);
  const y = addLinear(middle, gated, weights['mlp.down_proj.weight']);

  const attentionKept = { normed, queries, keys, values, attended, attentionSaved: saved };
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

function attentionShape(config: DecoderConfig, { windows, length, width }: Positions): AttentionShape {
  const { numAttentionHeads: heads, numKeyValueHeads: keyValueHeads, headDim } = config;
  return { windows, length, width, heads, keyValueHeads, headDim };
}

/**
 * @param dy gradient of the loss with respect to the block's output, [tokens, hiddenSize]
 * @param reduction of the linear layers' gradients; those of the norms are always summed
 * @returns its gradient with respect to the block's input and to each weight
 */
export function blockBackward(
  config: DecoderConfig,
  weights: BlockWeights,
  kept: BlockActivations,
  positions: Positions,
  dy: Tensor2D,
  reduction: GradientReduction = 'sum',
): { dx: Tensor2D; gradients: Record<BlockWeightName, Tensor> } {
  const { normed, normedMiddle } = kept;
  const ofWeight = (x: Tensor2D, dOutput: Tensor2D): Tensor2D =>
    weightGradient(x, dOutput, positions.windows, reduction);

  const dGated = inputGradient({ dy, weight: weights['mlp.down_proj.weight'] });
  const { dGate, dUp } = swiGluBackward(kept.gate, kept.up, dGated);
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

  const inputs: AttentionInputs = { ...kept, cos: positions.cos, sin: positions.sin };
  const { dQueries, dKeys, dValues } = attentionBackward(
    inputs,
    kept.attentionSaved,
    inputGradient({ dy: dMiddle, weight: weights['self_attn.o_proj.weight'] }),
    attentionShape(config, positions),
  );
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

  return {
    dx: upperNorm.dx,
    gradients: {
      'input_layernorm.weight': upperNorm.dWeight,
      'post_attention_layernorm.weight': lowerNorm.dWeight,
      'self_attn.q_proj.weight': ofWeight(normed, dQueries),
      'self_attn.k_proj.weight': ofWeight(normed, dKeys),
      'self_attn.v_proj.weight': ofWeight(normed, dValues),
      'self_attn.o_proj.weight': ofWeight(kept.attended, dMiddle),
      'mlp.gate_proj.weight': ofWeight(normedMiddle, dGate),
      'mlp.up_proj.weight': ofWeight(normedMiddle, dUp),
      'mlp.down_proj.weight': ofWeight(kept.gated, dy),
    },
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
