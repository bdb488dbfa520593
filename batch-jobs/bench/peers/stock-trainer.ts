/**
 * The peer of the suite wasm-step: quantization-aware training as it is written with TensorFlow.js alone, on the WebAssembly
 * backend as shipped. Gradients come from the tape (`variableGrads`, with `customGrad` for the straight-through estimator),
 * updates from `tf.train.adam`. It shares with our trainer its weights, windows and settings, and nothing else.
 *
 * Usage: stock-trainer.js <shape>; for each line of standard input one step, printed as {seconds, tokens, loss}.
 */
import * as tf from '@tensorflow/tfjs-core';
import type { Scalar, Tensor, Tensor1D, Tensor2D, Tensor3D, Tensor4D, Variable } from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-core/dist/register_all_gradients.js';
import { setWasmPaths } from '@tensorflow/tfjs-backend-wasm';
import { createInterface } from 'node:readline';
import type { DecoderConfig } from '../../src/models/decoder-config.ts';
import { embeddingName, finalNormName, headName, isLinear, tensorShapes } from '../../src/models/decoder-config.ts';
import type { BenchShape, BenchShapeName } from '../shapes.ts';
import { benchShapes, seededWeights, seededWindows, windowCount } from '../shapes.ts';

/** Those of our side (worker.ts), or the losses drift apart and the suite fails. */
const training = {
  grid: { bits: 3, groupSize: 128 },
  learningRate: 1e-4,
  beta1: 0.9,
  beta2: 0.999,
  epsilon: 1e-8,
  maxGradNorm: 1,
} as const;

const shape: BenchShape = benchShapes[process.argv[2] as BenchShapeName];
const { config, batchSize } = shape;

const packageFile = new URL(import.meta.resolve('@tensorflow/tfjs-backend-wasm'));
setWasmPaths(decodeURIComponent(new URL('.', packageFile).pathname));
if (!(await tf.setBackend('wasm'))) throw new Error('The WebAssembly backend did not start.');

const step = createTrainer();
const windows = seededWindows(shape, windowCount);
console.log(JSON.stringify({ ready: 'stock wasm' }));
let done = 0;
for await (const line of createInterface({ input: process.stdin })) {
  if (line === '') continue;
  const batch = Array.from({ length: batchSize }, (_, i) => windows[(done * batchSize + i) % windows.length]);
  done++;
  const start = performance.now();
  const loss = step(batch);
  const seconds = (performance.now() - start) / 1000;
  console.log(JSON.stringify({ seconds, tokens: batchSize * shape.length, loss }));
}
console.log(JSON.stringify({ peakMB: process.resourceUsage().maxRSS / 1024 }));
process.exit(0);

/** @returns one optimizer step on a batch, which gives the mean loss before it */
function createTrainer(): (batch: readonly Int32Array[]) => number {
  const values = seededWeights(config);
  const weights = new Map<string, Variable>();
  for (const [name, size] of tensorShapes(config)) {
    weights.set(name, tf.variable(tf.tensor(values.get(name) as Float32Array, size), true, name));
  }
  const { learningRate, beta1, beta2, epsilon, maxGradNorm } = training;
  const optimizer = tf.train.adam(learningRate, beta1, beta2, epsilon);
  return (batch) =>
    tf.tidy(() => {
      const { value, grads } = tf.variableGrads(() => meanLoss(weights, batch), [...weights.values()]);
      const squares = Object.values(grads).map((gradient) => tf.sum(tf.square(gradient)));
      const norm = tf.sqrt(tf.addN(squares)).dataSync()[0];
      const scale = Math.min(1, maxGradNorm / (norm + 1e-6));
      optimizer.applyGradients(
        Object.entries(grads).map(([name, tensor]) => ({ name, tensor: tf.mul(tensor, scale) })),
      );
      return value.dataSync()[0];
    });
}

function meanLoss(weights: ReadonlyMap<string, Variable>, batch: readonly Int32Array[]): Scalar {
  const length = batch[0].length - 1;
  const join = (from: number): Tensor1D =>
    tf.tensor1d(
      batch.flatMap((window) => [...window.subarray(from, from + length)]),
      'int32',
    );
  const oneHot = (ids: Tensor1D): Tensor2D => tf.cast(tf.oneHot(ids, config.vocabSize), 'float32') as Tensor2D;
  const weight = (name: string): Tensor => {
    const latent = weights.get(name) as Variable;
    return isLinear(name) ? straightThrough(latent as Variable & Tensor2D) : latent;
  };
  // The gradient of a gather is the kernel UnsortedSegmentSum, which this backend lacks.
  let x: Tensor2D = tf.matMul(oneHot(join(0)), weight(embeddingName) as Tensor2D);
  const angles = rotaryAngles(config, length);
  for (let block = 0; block < config.numHiddenLayers; block++) {
    x = decoderBlock((name) => weight(`model.layers.${block}.${name}`), x, batch.length, length, angles);
  }
  const head = config.tieWordEmbeddings ? embeddingName : headName;
  const logits: Tensor2D = tf.matMul(rmsNorm(x, weight(finalNormName)), weight(head) as Tensor2D, false, true);
  const likelihoods = tf.sum(tf.mul(oneHot(join(1)), tf.logSoftmax(logits)), 1);
  return tf.neg(tf.mean(likelihoods)) as Scalar;
}

type Angles = { readonly cos: Tensor2D; readonly sin: Tensor2D; readonly mask: Tensor2D };

function decoderBlock(
  weight: (name: string) => Tensor,
  x: Tensor2D,
  count: number,
  length: number,
  angles: Angles,
): Tensor2D {
  const { numAttentionHeads: heads, numKeyValueHeads: keyHeads, headDim } = config;
  const linear = (input: Tensor2D, name: string): Tensor2D =>
    tf.matMul(input, weight(`${name}.weight`) as Tensor2D, false, true);
  const split = (input: Tensor2D, own: number): Tensor4D =>
    tf.transpose(tf.reshape(input, [count, length, own, headDim]), [0, 2, 1, 3]);
  const repeat = (input: Tensor4D): Tensor3D => {
    const one = tf.reshape(input, [count, keyHeads, 1, length * headDim]);
    return tf.reshape(tf.tile(one, [1, 1, heads / keyHeads, 1]), [count * heads, length, headDim]);
  };

  const normed = rmsNorm(x, weight('input_layernorm.weight'));
  const q = rotate(split(linear(normed, 'self_attn.q_proj'), heads), angles);
  const k = rotate(split(linear(normed, 'self_attn.k_proj'), keyHeads), angles);
  const v = split(linear(normed, 'self_attn.v_proj'), keyHeads);
  const queries: Tensor3D = tf.reshape(q, [count * heads, length, headDim]);
  const scores = tf.mul(tf.matMul(queries, repeat(k), false, true), 1 / Math.sqrt(headDim));
  const attended = tf.matMul(tf.softmax(tf.add(scores, angles.mask) as Tensor3D), repeat(v));
  const joined = tf.transpose(tf.reshape(attended, [count, heads, length, headDim]), [0, 2, 1, 3]);
  const middle: Tensor2D = tf.add(x, linear(tf.reshape(joined, [count * length, heads * headDim]), 'self_attn.o_proj'));

  const normedMiddle = rmsNorm(middle, weight('post_attention_layernorm.weight'));
  const gate = linear(normedMiddle, 'mlp.gate_proj');
  const gated: Tensor2D = tf.mul(tf.mul(gate, tf.sigmoid(gate)), linear(normedMiddle, 'mlp.up_proj'));
  return tf.add(middle, linear(gated, 'mlp.down_proj'));
}

function rmsNorm(x: Tensor2D, weight: Tensor): Tensor2D {
  const meanSquare = tf.mean(tf.square(x), 1, true);
  return tf.mul(tf.mul(x, tf.rsqrt(tf.add(meanSquare, config.rmsNormEps) as Tensor)), weight);
}

function rotaryAngles({ headDim, ropeTheta }: DecoderConfig, length: number): Angles {
  const half = headDim / 2;
  const positions = tf.reshape(tf.range(0, length), [length, 1]);
  const frequencies = Float32Array.from({ length: headDim }, (_, i) => ropeTheta ** (-(i % half) / half));
  const angles: Tensor2D = tf.mul(positions, tf.tensor2d(frequencies, [1, headDim]));
  const ahead = tf.greater(tf.reshape(tf.range(0, length), [1, length]), positions);
  return { cos: tf.cos(angles), sin: tf.sin(angles), mask: tf.mul(tf.cast(ahead, 'float32'), -1e9) };
}

function rotate(x: Tensor4D, { cos, sin }: Angles): Tensor4D {
  const [first, second] = tf.split(x, 2, 3);
  return tf.add(tf.mul(x, cos), tf.mul(tf.concat([tf.neg(second), first], 3), sin));
}

/** The weight on its grid; the gradient passes as if it were the weight itself. */
function straightThrough(weight: Tensor2D): Tensor2D {
  const onGrid = tf.customGrad((x) => ({
    value: fakeQuant(x as Tensor2D),
    gradFunc: (dy) => dy as Tensor,
  }));
  return onGrid(weight) as Tensor2D;
}

/** Mid-rise levels of each group of a row (numeric/quantizer.ts), 4 bits at most. */
function fakeQuant(weight: Tensor2D): Tensor2D {
  const { bits, groupSize } = training.grid;
  const [rows, columns] = weight.shape;
  const half = 2 ** (bits - 1);
  const groups: Tensor2D[] = [];
  for (let from = 0; from < columns; from += groupSize) {
    const group = tf.slice(weight, [0, from], [rows, Math.min(groupSize, columns - from)]);
    const scale = roundToHalf(tf.div(tf.add(tf.max(tf.abs(group), 1, true), 1e-6), half));
    const level = tf.round(tf.sub(tf.clipByValue(tf.div(group, scale), 0.01 - half, half - 0.01), 0.5));
    groups.push(tf.mul(tf.add(level, 0.5), scale));
  }
  return groups.length === 1 ? groups[0] : tf.concat(groups, 1);
}

/** To the 11 bits that a float16 keeps.  @source Veltkamp's splitting */
function roundToHalf(x: Tensor): Tensor {
  const scaled = tf.mul(x, 2 ** 13 + 1);
  return tf.sub(scaled, tf.sub(scaled, x));
}
