/**
 * Operations of a decoder that are worth one pass over memory, as kernels of our own: each engine registers its best
 * implementation under these names (`composed-kernels.ts` from stock operations, `wasm-kernels.ts` in WebAssembly), and
 * the layers call the functions here. They are not differentiable; each has its backward beside it.
 *
 * Rows are tokens: tokens = windows x length. Every function leaves its arguments alone and returns new tensors.
 */
import * as tf from '@tensorflow/tfjs-core';
import type { Tensor, Tensor1D, Tensor2D } from '@tensorflow/tfjs-core';

/** Each kernel's inputs and attributes are those of its function below. */
export const fusedKernels = {
  sumOfProducts: 'CherryqSumOfProducts',
  rmsNorm: 'CherryqRmsNorm',
  rmsNormBackward: 'CherryqRmsNormBackward',
  attention: 'CherryqAttention',
  attentionBackward: 'CherryqAttentionBackward',
  swiGlu: 'CherryqSwiGlu',
  swiGluBackward: 'CherryqSwiGluBackward',
  geGlu: 'CherryqGeGlu',
  geGluBackward: 'CherryqGeGluBackward',
  crossEntropy: 'CherryqCrossEntropy',
  distillation: 'CherryqDistillation',
} as const;

/** One product of a sum: a b, either operand transposed first. */
export interface Product {
  readonly a: Tensor2D;
  readonly b: Tensor2D;
  readonly transposeA?: boolean;
  readonly transposeB?: boolean;
}

/** Attributes of `sumOfProducts`; inputs are `base` (or null), `a0`, `b0`, `a1`, ... */
export type SumOfProductsAttributes = {
  readonly transposes: readonly { readonly transposeA: boolean; readonly transposeB: boolean }[];
};

/** base + a0 b0 + a1 b1 + ...; every term [m, n]. */
export function sumOfProducts(base: Tensor2D | null, products: readonly Product[]): Tensor2D {
  const inputs: Record<string, Tensor | null> = { base };
  products.forEach(({ a, b }, i) => Object.assign(inputs, { [`a${i}`]: a, [`b${i}`]: b }));
  const transposes = products.map(({ transposeA = false, transposeB = false }) => ({ transposeA, transposeB }));
  return run(fusedKernels.sumOfProducts, inputs, { transposes }) as Tensor2D;
}

/** y = x / sqrt(mean(x^2) + eps) * weight, over the last axis.  @param x [tokens, size]   @param weight [size] */
export function rmsNorm(x: Tensor2D, weight: Tensor, eps: number): Tensor2D {
  return run(fusedKernels.rmsNorm, { x, weight }, { eps }) as Tensor2D;
}

/** With r = 1/rms: dx = r (dy w) - x r^3 mean(dy w x), dw = sum(dy x r).  @param residual added to dx */
export function rmsNormBackward(
  x: Tensor2D,
  weight: Tensor,
  eps: number,
  dy: Tensor2D,
  residual: Tensor2D | null,
): { dx: Tensor2D; dWeight: Tensor1D } {
  const [dx, dWeight] = run(fusedKernels.rmsNormBackward, { x, weight, dy, residual }, { eps }) as Tensor[];
  return { dx: dx as Tensor2D, dWeight: dWeight as Tensor1D };
}

/** What attention looks at; the queries are the last `length` of `width` positions, which differ when there is a past. */
export interface AttentionInputs {
  /** [windows * length, heads * headDim], before rotation. */
  readonly queries: Tensor2D;
  /** [windows * width, keyValueHeads * headDim], before rotation. */
  readonly keys: Tensor2D;
  readonly values: Tensor2D;
  /** [width, headDim / 2] of each position's angles. */
  readonly cos: Tensor2D;
  readonly sin: Tensor2D;
}

export type AttentionShape = {
  readonly windows: number;
  readonly length: number;
  readonly width: number;
  readonly heads: number;
  readonly keyValueHeads: number;
  readonly headDim: number;
  /** How many positions a query may look at, its own the last of them; null for all up to its own. */
  readonly slidingWindow: number | null;
};

/**
 * Causal attention with rotary embedding: pairs (i, i + headDim / 2) of queries and keys are turned by their position's
 * angle, then softmax(q k^T / sqrt(headDim)) v for each head, `heads / keyValueHeads` of which share keys.
 * @returns attended [windows * length, heads * headDim], and what this engine's backward pass wants to see again
 */
export function attention(inputs: AttentionInputs, shape: AttentionShape): { attended: Tensor2D; saved: Tensor[] } {
  const [attended, ...saved] = run(fusedKernels.attention, { ...inputs }, shape) as Tensor[];
  return { attended: attended as Tensor2D, saved };
}

/** @param saved as `attention` returned it   @param dAttended gradient of the loss with respect to `attended` */
export function attentionBackward(
  inputs: AttentionInputs,
  saved: readonly Tensor[],
  dAttended: Tensor2D,
  shape: AttentionShape,
): { dQueries: Tensor2D; dKeys: Tensor2D; dValues: Tensor2D } {
  const all: Record<string, Tensor> = { ...inputs, dAttended };
  saved.forEach((tensor, i) => (all[`saved${i}`] = tensor));
  const [dQueries, dKeys, dValues] = run(fusedKernels.attentionBackward, all, shape) as Tensor2D[];
  return { dQueries, dKeys, dValues };
}

/** gate sigmoid(gate) up.  @param gate,up [tokens, intermediateSize] */
export function swiGlu(gate: Tensor2D, up: Tensor2D): Tensor2D {
  return run(fusedKernels.swiGlu, { gate, up }, {}) as Tensor2D;
}

export function swiGluBackward(gate: Tensor2D, up: Tensor2D, dy: Tensor2D): { dGate: Tensor2D; dUp: Tensor2D } {
  const [dGate, dUp] = run(fusedKernels.swiGluBackward, { gate, up, dy }, {}) as Tensor2D[];
  return { dGate, dUp };
}

/** gelu(gate) up, with gelu(x) = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).  @param gate,up [tokens, intermediateSize] */
export function geGlu(gate: Tensor2D, up: Tensor2D): Tensor2D {
  return run(fusedKernels.geGlu, { gate, up }, {}) as Tensor2D;
}

export function geGluBackward(gate: Tensor2D, up: Tensor2D, dy: Tensor2D): { dGate: Tensor2D; dUp: Tensor2D } {
  const [dGate, dUp] = run(fusedKernels.geGluBackward, { gate, up, dy }, {}) as Tensor2D[];
  return { dGate, dUp };
}

/** What each token's distribution should be: int32 ids [tokens], or the logits of a teacher [tokens, vocabSize]. */
export type Wanted = { readonly ids: Tensor1D } | { readonly logits: Tensor2D };

/** Attributes of `crossEntropy` and `distillation`: null when only the losses are wanted. */
export type LossAttributes = { readonly scale: number | null };

/** @param logits [tokens, vocabSize]   @returns -sum(wanted log(softmax(logits))) of each token, [tokens], in nats */
export function crossEntropy(logits: Tensor2D, wanted: Wanted): Tensor1D {
  return loss(logits, wanted, null)[0] as Tensor1D;
}

/** The same with its gradient, (softmax(logits) - wanted) * scale, [tokens, vocabSize]. */
export function crossEntropyBackward(
  logits: Tensor2D,
  wanted: Wanted,
  scale: number,
): { losses: Tensor1D; dLogits: Tensor2D } {
  const [losses, dLogits] = loss(logits, wanted, scale);
  return { losses: losses as Tensor1D, dLogits: dLogits as Tensor2D };
}

function loss(logits: Tensor2D, wanted: Wanted, scale: number | null): Tensor[] {
  return 'ids' in wanted
    ? (run(fusedKernels.crossEntropy, { logits, ids: wanted.ids }, { scale }) as Tensor[])
    : (run(fusedKernels.distillation, { logits, wanted: wanted.logits }, { scale }) as Tensor[]);
}

function run(
  kernel: (typeof fusedKernels)[keyof typeof fusedKernels],
  inputs: Record<string, Tensor | null>,
  attributes: object,
): Tensor | Tensor[] {
  return tf.engine().runKernel(kernel, inputs as tf.NamedTensorMap, attributes as tf.NamedAttrMap);
}
