/**
 * Forward and backward of the layers that decoders share, written out by hand: no tape, so only what a backward pass needs
 * is kept, and each product is a plain, a transposed or a batched one that the engine runs at full rate.
 *
 * Rows are tokens: x is [tokens, hiddenSize] with tokens = windows x length. Every function leaves its arguments alone and
 * returns new tensors that the caller disposes of; call them inside `tf.tidy`.
 */
import * as tf from '@tensorflow/tfjs-core';
import type { Tensor, Tensor1D, Tensor2D, Tensor3D, Tensor4D } from '@tensorflow/tfjs-core';
import type { BlockWeightName, DecoderConfig } from './decoder-config.ts';

/** One block's weights on the device: linears [out, in], norms [hiddenSize]. */
export type BlockWeights = Readonly<Record<BlockWeightName, Tensor>>;

/** The positions of a batch: what the rotary embedding and the causal mask depend on. */
export interface Positions {
  readonly windows: number;
  readonly length: number;
  /** [length, headDim]; the two halves are equal. */
  readonly cos: Tensor2D;
  readonly sin: Tensor2D;
  /** [length, pastLength + length]: 0 where a query may look, a large negative number elsewhere. */
  readonly mask: Tensor2D;
}

/** Keys and values of earlier tokens, [windows, numKeyValueHeads, pastLength, headDim]. */
export type KeyValueCache = { readonly keys: Tensor4D; readonly values: Tensor4D };

/** What a block's backward pass needs of its forward pass. */
export type BlockActivations = {
  readonly x: Tensor2D;
  readonly normed: Tensor2D;
  readonly queries: Tensor3D;
  readonly keys: Tensor3D;
  readonly values: Tensor3D;
  readonly probabilities: Tensor3D;
  readonly attended: Tensor2D;
  readonly middle: Tensor2D;
  readonly normedMiddle: Tensor2D;
  readonly gate: Tensor2D;
  readonly up: Tensor2D;
  readonly gated: Tensor2D;
};

const maskedScore = -1e9;

/** @param start index of the first token of each window in its text; the past length when a cache is used */
export function createPositions(config: DecoderConfig, windows: number, length: number, start = 0): Positions {
  const half = config.headDim / 2;
  const cos = new Float32Array(length * config.headDim);
  const sin = new Float32Array(length * config.headDim);
  for (let t = 0; t < length; t++) {
    for (let i = 0; i < config.headDim; i++) {
      const angle = (start + t) * config.ropeTheta ** (-(i % half) / half);
      cos[t * config.headDim + i] = Math.cos(angle);
      sin[t * config.headDim + i] = Math.sin(angle);
    }
  }
  const width = start + length;
  const mask = new Float32Array(length * width);
  for (let t = 0; t < length; t++) mask.fill(maskedScore, t * width + start + t + 1, (t + 1) * width);
  return {
    windows,
    length,
    cos: tf.tensor2d(cos, [length, config.headDim]),
    sin: tf.tensor2d(sin, [length, config.headDim]),
    mask: tf.tensor2d(mask, [length, width]),
  };
}

export function disposePositions(positions: Positions): void {
  tf.dispose([positions.cos, positions.sin, positions.mask]);
}

/** y = x W^T  @param weight [out, in] */
export function linear(x: Tensor2D, weight: Tensor): Tensor2D {
  return tf.matMul(x, weight as Tensor2D, false, true);
}

/** The two gradients of `linear`: dx = dy W, dW = dy^T x. */
function linearBackward(x: Tensor2D, weight: Tensor, dy: Tensor2D): { dx: Tensor2D; dWeight: Tensor2D } {
  return { dx: tf.matMul(dy, weight as Tensor2D), dWeight: tf.matMul(dy, x, true, false) };
}

/** y = x / sqrt(mean(x^2) + eps) * weight, over the last axis. */
export function rmsNorm(x: Tensor2D, weight: Tensor, eps: number): Tensor2D {
  return tf.mul(tf.mul(x, inverseRms(x, eps)), weight);
}

/** [tokens, 1] */
function inverseRms(x: Tensor2D, eps: number): Tensor2D {
  const meanSquare: Tensor2D = tf.mean(tf.square(x), 1, true);
  const shifted: Tensor2D = tf.add(meanSquare, eps);
  return tf.rsqrt(shifted);
}

/** With r = 1/rms: dx = r (dy w) - x r^3 mean(dy w x), dw = sum(dy x r). */
export function rmsNormBackward(
  x: Tensor2D,
  weight: Tensor,
  eps: number,
  dy: Tensor2D,
): { dx: Tensor2D; dWeight: Tensor1D } {
  const r = inverseRms(x, eps);
  const normalized: Tensor2D = tf.mul(x, r);
  const scaled: Tensor2D = tf.mul(dy, weight);
  const projection = tf.mean(tf.mul(scaled, normalized), 1, true);
  return {
    dx: tf.mul(tf.sub(scaled, tf.mul(normalized, projection)), r),
    dWeight: tf.sum(tf.mul(dy, normalized), 0),
  };
}

/** Rotates pairs (i, i + headDim/2); with `direction` -1 it undoes the rotation, which is also its gradient. */
function rotate(x: Tensor4D, positions: Positions, direction: 1 | -1): Tensor4D {
  const [windows, heads, length, headDim] = x.shape;
  const half = headDim / 2;
  const first = tf.slice(x, [0, 0, 0, 0], [windows, heads, length, half]);
  const second = tf.slice(x, [0, 0, 0, half], [windows, heads, length, half]);
  const turned = direction === 1 ? tf.concat([tf.neg(second), first], 3) : tf.concat([second, tf.neg(first)], 3);
  return tf.add(tf.mul(x, positions.cos), tf.mul(turned, positions.sin));
}

/** [tokens, heads * headDim] -> [windows, heads, length, headDim] */
function splitHeads(x: Tensor2D, positions: Positions, heads: number, headDim: number): Tensor4D {
  return tf.transpose(tf.reshape(x, [positions.windows, positions.length, heads, headDim]), [0, 2, 1, 3]);
}

/** [windows, heads, length, headDim] -> [tokens, heads * headDim] */
function joinHeads(x: Tensor, positions: Positions, heads: number, headDim: number): Tensor2D {
  const split = tf.reshape(x, [positions.windows, heads, positions.length, headDim]);
  return tf.reshape(tf.transpose(split, [0, 2, 1, 3]), [positions.windows * positions.length, heads * headDim]);
}

/**
 * One decoder block: x + attention(norm(x)), then that + SwiGLU(norm(that)).
 * The query heads that share a key head are laid one after another as rows of one product, so keys are never repeated.
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
  const { numAttentionHeads, numKeyValueHeads, headDim, rmsNormEps } = config;
  const { windows, length } = positions;
  const shared = numAttentionHeads / numKeyValueHeads;
  const width = positions.mask.shape[1];

  const normed = rmsNorm(x, weights['input_layernorm.weight'], rmsNormEps);
  const q = splitHeads(linear(normed, weights['self_attn.q_proj.weight']), positions, numAttentionHeads, headDim);
  const k = splitHeads(linear(normed, weights['self_attn.k_proj.weight']), positions, numKeyValueHeads, headDim);
  const v = splitHeads(linear(normed, weights['self_attn.v_proj.weight']), positions, numKeyValueHeads, headDim);
  const rotated = rotate(k, positions, 1);
  const allKeys: Tensor4D = cache ? tf.concat([cache.keys, rotated], 2) : rotated;
  const allValues: Tensor4D = cache ? tf.concat([cache.values, v], 2) : v;

  const groups = windows * numKeyValueHeads;
  const queries: Tensor3D = tf.reshape(rotate(q, positions, 1), [groups, shared * length, headDim]);
  const keys: Tensor3D = tf.reshape(allKeys, [groups, width, headDim]);
  const values: Tensor3D = tf.reshape(allValues, [groups, width, headDim]);
  const products = tf.mul(tf.matMul(queries, keys, false, true), 1 / Math.sqrt(headDim));
  const scores = tf.add(tf.reshape(products, [groups * shared, length, width]), positions.mask);
  const probabilities: Tensor3D = tf.reshape(tf.softmax(scores), [groups, shared * length, width]);
  const attended = joinHeads(tf.matMul(probabilities, values), positions, numAttentionHeads, headDim);
  const middle: Tensor2D = tf.add(x, linear(attended, weights['self_attn.o_proj.weight']));

  const normedMiddle = rmsNorm(middle, weights['post_attention_layernorm.weight'], rmsNormEps);
  const gate = linear(normedMiddle, weights['mlp.gate_proj.weight']);
  const up = linear(normedMiddle, weights['mlp.up_proj.weight']);
  const gated: Tensor2D = tf.mul(tf.mul(gate, tf.sigmoid(gate)), up);
  const y: Tensor2D = tf.add(middle, linear(gated, weights['mlp.down_proj.weight']));

  return {
    y,
    kept: { x, normed, queries, keys, values, probabilities, attended, middle, normedMiddle, gate, up, gated },
    cache: { keys: allKeys, values: allValues },
  };
}

/**
 * @param dy gradient of the loss with respect to the block's output, [tokens, hiddenSize]
 * @returns its gradient with respect to the block's input and to each weight
 */
export function blockBackward(
  config: DecoderConfig,
  weights: BlockWeights,
  kept: BlockActivations,
  positions: Positions,
  dy: Tensor2D,
): { dx: Tensor2D; gradients: Record<BlockWeightName, Tensor> } {
  const { numAttentionHeads, numKeyValueHeads, headDim, rmsNormEps } = config;
  const { windows, length } = positions;

  // SwiGLU: gated = silu(gate) * up
  const down = linearBackward(kept.gated, weights['mlp.down_proj.weight'], dy);
  const sigmoid = tf.sigmoid(kept.gate);
  const silu = tf.mul(kept.gate, sigmoid);
  const dUp: Tensor2D = tf.mul(down.dx, silu);
  const siluSlope = tf.add(sigmoid, tf.mul(silu, tf.sub(1, sigmoid)));
  const dGate: Tensor2D = tf.mul(tf.mul(down.dx, kept.up), siluSlope);
  const gate = linearBackward(kept.normedMiddle, weights['mlp.gate_proj.weight'], dGate);
  const up = linearBackward(kept.normedMiddle, weights['mlp.up_proj.weight'], dUp);
  const lowerNorm = rmsNormBackward(
    kept.middle,
    weights['post_attention_layernorm.weight'],
    rmsNormEps,
    tf.add(gate.dx, up.dx),
  );
  const dMiddle: Tensor2D = tf.add(dy, lowerNorm.dx);

  // Attention: attended = softmax(q k^T / sqrt(headDim) + mask) v
  const output = linearBackward(kept.attended, weights['self_attn.o_proj.weight'], dMiddle);
  const dAttended: Tensor3D = tf.reshape(splitHeads(output.dx, positions, numAttentionHeads, headDim), [
    windows * numKeyValueHeads,
    (numAttentionHeads / numKeyValueHeads) * length,
    headDim,
  ]);
  const dValues = tf.matMul(kept.probabilities, dAttended, true, false);
  const dProbabilities = tf.matMul(dAttended, kept.values, false, true);
  const weighted = tf.mul(dProbabilities, kept.probabilities);
  const dProducts = tf.mul(
    tf.sub(weighted, tf.mul(kept.probabilities, tf.sum(weighted, -1, true))),
    1 / Math.sqrt(headDim),
  );
  const dQueries = tf.matMul(dProducts, kept.keys);
  const dKeys = tf.matMul(dProducts, kept.queries, true, false);
  const turnBack = (gradient: Tensor, heads: number): Tensor2D =>
    joinHeads(
      rotate(tf.reshape(gradient, [windows, heads, length, headDim]), positions, -1),
      positions,
      heads,
      headDim,
    );
  const query = linearBackward(kept.normed, weights['self_attn.q_proj.weight'], turnBack(dQueries, numAttentionHeads));
  const key = linearBackward(kept.normed, weights['self_attn.k_proj.weight'], turnBack(dKeys, numKeyValueHeads));
  const dV = joinHeads(dValues, positions, numKeyValueHeads, headDim);
  const value = linearBackward(kept.normed, weights['self_attn.v_proj.weight'], dV);
  const dNormed: Tensor2D = tf.add(tf.add(query.dx, key.dx), value.dx);
  const upperNorm = rmsNormBackward(kept.x, weights['input_layernorm.weight'], rmsNormEps, dNormed);

  return {
    dx: tf.add(dMiddle, upperNorm.dx),
    gradients: {
      'input_layernorm.weight': upperNorm.dWeight,
      'post_attention_layernorm.weight': lowerNorm.dWeight,
      'self_attn.q_proj.weight': query.dWeight,
      'self_attn.k_proj.weight': key.dWeight,
      'self_attn.v_proj.weight': value.dWeight,
      'self_attn.o_proj.weight': output.dWeight,
      'mlp.gate_proj.weight': gate.dWeight,
      'mlp.up_proj.weight': up.dWeight,
      'mlp.down_proj.weight': down.dWeight,
    },
  };
}

/**
 * Cross-entropy of each token, from the logits of the head.
 * log-sum-exp comes from the softmax at the largest logit, so it neither overflows nor needs a second exponential.
 *
 * @param x [tokens, hiddenSize], after the final norm   @param head [vocabSize, hiddenSize]
 * @param wanted [tokens, vocabSize], what each token should be: `oneHot` ids, or another model's probabilities
 * @returns sum over the vocabulary of -wanted * log(probability), [tokens], in nats
 */
export function headLoss(x: Tensor2D, head: Tensor2D, wanted: Tensor2D): Tensor1D {
  return tf.tidy(() => {
    const logits = linear(x, head);
    return crossEntropy(logits, tf.softmax(logits), wanted);
  });
}

/** The same with its gradient.  @param scale factor on the sum of the losses before it is differentiated */
export function headLossBackward(
  x: Tensor2D,
  head: Tensor2D,
  wanted: Tensor2D,
  scale: number,
): { losses: Tensor1D; dx: Tensor2D; dHead: Tensor2D } {
  return tf.tidy(() => {
    const logits = linear(x, head);
    const probabilities = tf.softmax(logits);
    const losses = crossEntropy(logits, probabilities, wanted);
    const dLogits: Tensor2D = tf.mul(tf.sub(probabilities, wanted), scale);
    const { dx, dWeight } = linearBackward(x, head, dLogits);
    return { losses, dx, dHead: dWeight };
  });
}

/** [tokens, vocabSize], 1 at each token's id. */
export function oneHot(ids: Int32Array, vocabSize: number): Tensor2D {
  return tf.cast(tf.oneHot(tf.tensor1d(ids, 'int32'), vocabSize), 'float32') as Tensor2D;
}

function crossEntropy(logits: Tensor2D, probabilities: Tensor2D, wanted: Tensor2D): Tensor1D {
  const logSumExp = tf.sub(tf.max(logits, 1), tf.log(tf.max(probabilities, 1)));
  return tf.sub(logSumExp, tf.sum(tf.mul(logits, wanted), 1));
}
