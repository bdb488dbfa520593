/** How far apart two distributions over the next token are, from their logits. */
import * as tf from '@tensorflow/tfjs-core';
import type { Tensor, Tensor2D } from '@tensorflow/tfjs-core';

/** Where the series of exp(x) - 1 - x is used in place of the difference, which loses digits. */
const seriesUntil = 0.5;
/** 1/n! from the series' first to its last term: what is left out is below a float32's precision up to `seriesUntil`. */
const seriesCoefficients = [2, 6, 24, 120, 720, 5040, 40320].map((factorial) => 1 / factorial);
/** Nats above which the divergence is the plain difference. */
const largeDivergence = 1;

/**
 * KL(original || other) of each row, in nats: sum p (log p - log q), with p and q the softmaxes of two rows of logits.
 *
 * Where p and q are close, the sum is a small difference of large terms. With d = other - original, c = sum p d, e = d - c
 *   KL = log sum(p exp(d)) - c = log1p(sum p (exp(e) - 1 - e)),
 * whose terms are never negative: a divergence of 1e-9 has as many digits as one of 1, and equal logits give 0.
 * @param original,other [rows, vocabSize]   @returns [rows]
 */
export async function klDivergences(original: Tensor2D, other: Tensor2D): Promise<Float32Array> {
  const terms = tf.tidy(() => divergenceTerms(original, other));
  const values = await terms.data<'float32'>();
  terms.dispose();
  const rows = original.shape[0];
  return Float32Array.from({ length: rows }, (_, row) => {
    const plain = values[rows + row];
    return plain > largeDivergence ? plain : Math.log1p(values[row]);
  });
}

/** @returns [2, rows]: the sum within log1p, and the plain difference log sum(p exp(d)) - c */
function divergenceTerms(original: Tensor2D, other: Tensor2D): Tensor {
  const probabilities = tf.softmax(original);
  const normalizer = tf.logSumExp(original, 1, true);
  const total = tf.sum(probabilities, 1, true);
  const differences = tf.sub(other, original);
  const mean = tf.div(tf.sum(tf.mul(probabilities, differences), 1, true), total);
  const e = tf.sub(differences, mean);
  const near = tf.mul(tf.mul(probabilities, tf.square(e)), series(e));
  // p exp(e) as one exponential: p may be 0 where exp(e) is infinite.
  const grown = tf.exp(tf.add(tf.sub(original, normalizer), e));
  const far = tf.sub(grown, tf.mul(probabilities, tf.add(e, 1)));
  const sum = tf.sum(tf.where(tf.less(tf.abs(e), seriesUntil), near, far), 1, true);
  const plain = tf.sub(tf.sub(tf.logSumExp(other, 1, true), normalizer), mean);
  return tf.transpose(tf.concat([tf.div(sum, total), plain], 1));
}

/** (exp(x) - 1 - x) / x^2 = 1/2 + x/6 + x^2/24 + ... */
function series(x: Tensor): Tensor {
  return seriesCoefficients.reduceRight<Tensor>(
    (sum, coefficient) => tf.add(tf.mul(sum, x), coefficient),
    tf.zerosLike(x),
  );
}
