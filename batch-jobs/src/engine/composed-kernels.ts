/**
 * The fused operations from TensorFlow.js's own: what an engine without kernels of its own runs, and the definition that
 * the others are tested against.
 */
import * as tf from '@tensorflow/tfjs-core';
import type { Tensor, Tensor1D, Tensor2D, Tensor3D, Tensor4D } from '@tensorflow/tfjs-core';
import type { AttentionInputs, AttentionShape, LossAttributes, SumOfProductsAttributes } from './fused.ts';
import { fusedKernels } from './fused.ts';

const maskedScore = -1e9;
const geluCubic = 0.044715;
const geluSlope = 2 * Math.sqrt(2 / Math.PI);

/** Registers them for a backend; calling it again changes nothing. */
export function registerComposedKernels(backendName: string): void {
  for (const [kernelName, kernel] of kernels) {
    if (tf.getKernel(kernelName, backendName)) continue;
    // Tensors come in and may go out, where the type says only their descriptions do.
    const kernelFunc: tf.KernelFunc = ({ inputs, attrs }) =>
      tf.tidy(() => kernel(inputs as Record<string, Tensor>, attrs ?? {}) as tf.TensorContainer) as Tensor | Tensor[];
    tf.registerKernel({ kernelName, backendName, kernelFunc });
  }
}

type Kernel = (inputs: Record<string, Tensor>, attributes: object) => Tensor | Tensor[];

const kernels: ReadonlyMap<string, Kernel> = new Map<string, Kernel>([
  [fusedKernels.sumOfProducts, (inputs, attributes) => sumOfProducts(inputs, attributes as SumOfProductsAttributes)],
  [
    fusedKernels.rmsNorm,
    ({ x, weight }, attributes) => tf.mul(tf.mul(x, inverseRms(x, (attributes as { eps: number }).eps)), weight),
  ],
  [fusedKernels.rmsNormBackward, (inputs, attributes) => rmsNormBackward(inputs, (attributes as { eps: number }).eps)],
  [
    fusedKernels.attention,
    (inputs, attributes) => attention(inputs as unknown as AttentionInputs, attributes as AttentionShape),
  ],
  [fusedKernels.attentionBackward, (inputs, attributes) => attentionBackward(inputs, attributes as AttentionShape)],
  [fusedKernels.swiGlu, ({ gate, up }) => tf.mul(tf.mul(gate, tf.sigmoid(gate)), up)],
  [fusedKernels.swiGluBackward, swiGluBackward],
  [fusedKernels.geGlu, ({ gate, up }) => tf.mul(tf.mul(gate, geluSigmoid(gate)), up)],
  [fusedKernels.geGluBackward, geGluBackward],
  [
    fusedKernels.crossEntropy,
    ({ logits, ids }, attributes) => {
      const wanted = tf.cast(tf.oneHot(ids as Tensor1D, (logits as Tensor2D).shape[1]), 'float32');
      return crossEntropy(logits, wanted, attributes as LossAttributes);
    },
  ],
  [
    fusedKernels.distillation,
    ({ logits, wanted }, attributes) => crossEntropy(logits, tf.softmax(wanted), attributes as LossAttributes),
  ],
]);

function sumOfProducts(inputs: Record<string, Tensor>, { transposes }: SumOfProductsAttributes): Tensor {
  return transposes.reduce<Tensor | null>((sum, { transposeA, transposeB }, i) => {
    const product: Tensor = tf.matMul(inputs[`a${i}`] as Tensor2D, inputs[`b${i}`] as Tensor2D, transposeA, transposeB);
    return sum ? tf.add(sum, product) : product;
  }, inputs.base ?? null) as Tensor;
}

/** [tokens, 1] */
function inverseRms(x: Tensor, eps: number): Tensor {
  const meanSquare = tf.mean(tf.square(x), 1, true);
  return tf.rsqrt(tf.add(meanSquare, eps) as Tensor);
}

function rmsNormBackward({ x, weight, dy, residual }: Record<string, Tensor | null>, eps: number): Tensor[] {
  const r = inverseRms(x as Tensor, eps);
  const normalized = tf.mul(x as Tensor, r);
  const scaled = tf.mul(dy as Tensor, weight as Tensor);
  const projection = tf.mean(tf.mul(scaled, normalized), 1, true);
  const dx = tf.mul(tf.sub(scaled, tf.mul(normalized, projection)), r);
  return [residual ? tf.add(residual, dx) : dx, tf.sum(tf.mul(dy as Tensor, normalized), 0)];
}

/** Query heads that share a key head are laid one after another as rows of one product, so keys are never repeated. */
function attention(inputs: AttentionInputs, shape: AttentionShape): Tensor[] {
  const { windows, length, width, heads, keyValueHeads, headDim } = shape;
  const groups = windows * keyValueHeads;
  const shared = heads / keyValueHeads;
  const past = width - length;
  const half = headDim / 2;
  const [cos, sin] = [inputs.cos, inputs.sin].map((table) => tf.slice(table, [past, 0], [length, half]));
  const turnedQueries = rotate(splitHeads(inputs.queries, shape, length, heads), cos, sin, 1);
  const turnedKeys = rotate(splitHeads(inputs.keys, shape, width, keyValueHeads), inputs.cos, inputs.sin, 1);
  const queries: Tensor3D = tf.reshape(turnedQueries, [groups, shared * length, headDim]);
  const keys: Tensor3D = tf.reshape(turnedKeys, [groups, width, headDim]);
  const values: Tensor3D = tf.reshape(splitHeads(inputs.values, shape, width, keyValueHeads), [groups, width, headDim]);
  const products = consumed([tf.matMul(queries, keys, false, true)], ([own]) => tf.mul(own, 1 / Math.sqrt(headDim)));
  const masked = consumed([products], ([own]) => {
    return tf.add(tf.reshape(own, [groups * shared, length, width]), causalMask(shape));
  });
  const softmax = consumed([masked], ([own]) => tf.softmax(own));
  const probabilities: Tensor3D = tf.reshape(softmax, [groups, shared * length, width]);
  const attended = joinHeads(tf.matMul(probabilities, values), shape, length, heads);
  return [attended, queries, keys, values, probabilities];
}

/** What `use` makes of tensors that nobody needs after it: those with a number for each pair of tokens are the largest there are. */
function consumed<Result extends Tensor>(tensors: Tensor[], use: (tensors: Tensor[]) => Result): Result {
  const result = use(tensors);
  tf.dispose(tensors);
  return result;
}

/** [length, width]: 0 where a query may look, a large negative number elsewhere. */
function causalMask({ length, width, slidingWindow }: AttentionShape): Tensor {
  const queries = tf.reshape(tf.range(width - length, width), [length, 1]);
  const keys = tf.reshape(tf.range(0, width), [1, width]);
  const ahead = tf.greater(keys, queries);
  const hidden = hides(slidingWindow, width)
    ? tf.logicalOr(ahead, tf.lessEqual(keys, tf.sub(queries, slidingWindow)))
    : ahead;
  return tf.mul(tf.cast(hidden, 'float32'), maskedScore);
}

function hides(slidingWindow: number | null, width: number): slidingWindow is number {
  return slidingWindow !== null && slidingWindow < width;
}

function attentionBackward(inputs: Record<string, Tensor>, shape: AttentionShape): Tensor[] {
  const { windows, length, width, heads, keyValueHeads, headDim } = shape;
  const [queries, keys, values, probabilities] = [0, 1, 2, 3].map((i) => inputs[`saved${i}`] as Tensor3D);
  const dAttended: Tensor3D = tf.reshape(splitHeads(inputs.dAttended as Tensor2D, shape, length, heads), [
    windows * keyValueHeads,
    (heads / keyValueHeads) * length,
    headDim,
  ]);
  const dValues = tf.matMul(probabilities, dAttended, true, false);
  const weighted = consumed([tf.matMul(dAttended, values, false, true)], ([own]) => tf.mul(own, probabilities));
  const projected = tf.mul(probabilities, tf.sum(weighted, -1, true));
  const dScores = consumed([weighted, projected], ([own, other]) => tf.sub(own, other));
  const dProducts: Tensor3D = consumed([dScores], ([own]) => tf.mul(own, 1 / Math.sqrt(headDim)));
  const turnBack = (gradient: Tensor, rows: number, count: number): Tensor => {
    const [cos, sin] = [inputs.cos, inputs.sin].map((table) => tf.slice(table, [width - rows, 0], [rows, headDim / 2]));
    const split: Tensor4D = tf.reshape(gradient, [windows, count, rows, headDim]);
    return joinHeads(rotate(split, cos, sin, -1), shape, rows, count);
  };
  return [
    turnBack(tf.matMul(dProducts, keys), length, heads),
    turnBack(tf.matMul(dProducts, queries, true, false), width, keyValueHeads),
    joinHeads(dValues, shape, width, keyValueHeads),
  ];
}

/** Rotates pairs (i, i + headDim/2); with `direction` -1 it undoes the rotation, which is also its gradient. */
function rotate(x: Tensor4D, cos: Tensor, sin: Tensor, direction: 1 | -1): Tensor4D {
  const [first, second] = tf.split(x, 2, 3);
  const turn = direction === 1 ? sin : tf.neg(sin);
  return tf.concat(
    [
      tf.sub(tf.mul(first, cos), tf.mul(second, turn)) as Tensor4D,
      tf.add(tf.mul(second, cos), tf.mul(first, turn)) as Tensor4D,
    ],
    3,
  );
}

/** [windows * rows, heads * headDim] -> [windows, heads, rows, headDim] */
function splitHeads(x: Tensor2D, { windows, headDim }: AttentionShape, rows: number, heads: number): Tensor4D {
  return tf.transpose(tf.reshape(x, [windows, rows, heads, headDim]), [0, 2, 1, 3]);
}

/** [windows, heads, rows, headDim], in any shape -> [windows * rows, heads * headDim] */
function joinHeads(x: Tensor, { windows, headDim }: AttentionShape, rows: number, heads: number): Tensor2D {
  const split = tf.reshape(x, [windows, heads, rows, headDim]);
  return tf.reshape(tf.transpose(split, [0, 2, 1, 3]), [windows * rows, heads * headDim]);
}

function swiGluBackward({ gate, up, dy }: Record<string, Tensor>): Tensor[] {
  const sigmoid = tf.sigmoid(gate);
  const silu = tf.mul(gate, sigmoid);
  const slope = tf.add(sigmoid, tf.mul(silu, tf.sub(1, sigmoid)));
  return [tf.mul(tf.mul(dy, up), slope), tf.mul(dy, silu)];
}

/** gelu(x) = x s with s = sigmoid(2 u), u = sqrt(2/pi) (x + 0.044715 x^3). */
function geluSigmoid(x: Tensor): Tensor {
  return tf.sigmoid(tf.mul(tf.mul(x, tf.add(tf.mul(tf.square(x), geluCubic), 1)), geluSlope));
}

/** Its slope is s + x s (1 - s) 2 u'. */
function geGluBackward({ gate, up, dy }: Record<string, Tensor>): Tensor[] {
  const sigmoid = geluSigmoid(gate);
  const gelu = tf.mul(gate, sigmoid);
  const inner = tf.mul(tf.add(tf.mul(tf.square(gate), 3 * geluCubic), 1), geluSlope);
  const slope = tf.add(sigmoid, tf.mul(tf.mul(gelu, tf.sub(1, sigmoid)), inner));
  return [tf.mul(tf.mul(dy, up), slope), tf.mul(dy, gelu)];
}

/** log-sum-exp comes from the softmax at the largest logit, so it neither overflows nor needs a second exponential. */
function crossEntropy(logits: Tensor, wanted: Tensor, { scale }: LossAttributes): Tensor[] {
  const probabilities = tf.softmax(logits);
  const logSumExp = tf.sub(tf.max(logits, 1), tf.log(tf.max(probabilities, 1)));
  const losses = tf.sub(logSumExp, tf.sum(tf.mul(logits, wanted), 1));
  return scale === null ? [losses] : [losses, tf.mul(tf.sub(probabilities, wanted), scale)];
}
