/**
 * Kernels for TensorFlow's own engine, where TensorFlow.js's choice of operation is not the fastest. On a 2-core AVX-512
 * machine, `MatMul` runs plain products and those with the first operand transposed at 1.1 to 1.5 times the rate of
 * `BatchMatMulV2`, which TensorFlow.js calls for all; with the second transposed it is the other way round.
 */
import * as tf from '@tensorflow/tfjs-core';
import type { Tensor, Tensor1D, Tensor2D } from '@tensorflow/tfjs-core';
import { registerComposedKernels } from './composed-kernels.ts';
import type { LossAttributes } from './fused.ts';
import { fusedKernels } from './fused.ts';

interface OpAttribute {
  readonly name: string;
  readonly type: number;
  readonly value: boolean | number;
}

/** What of the backend's insides is used: stable, as the package is frozen. */
interface NativeBackend {
  readonly binding: { readonly TF_ATTR_BOOL: number; readonly TF_ATTR_TYPE: number };
  executeSingleOutput(operation: string, attributes: OpAttribute[], inputs: tf.TensorInfo[]): Tensor;
}

/** TensorFlow's numbers for the types of a tensor's elements. */
const dataTypes = { float32: 1, int32: 3 } as const;

/** Registers them on the backend `tensorflow`; calling it again changes nothing. */
export function registerNativeKernels(): void {
  if (tf.getKernel(fusedKernels.crossEntropy, 'tensorflow')) return;
  const stock = tf.getKernel(tf.BatchMatMul, 'tensorflow').kernelFunc;
  tf.unregisterKernel(tf.BatchMatMul, 'tensorflow');
  register(tf.BatchMatMul, (call) => matMul(call) ?? stock(call));
  register(fusedKernels.crossEntropy, ({ inputs, attrs }) =>
    tf.tidy(() => crossEntropy(inputs.logits as Tensor2D, inputs.ids as Tensor1D, attrs as LossAttributes)),
  );
  registerComposedKernels('tensorflow');
}

function register(kernelName: string, kernelFunc: tf.KernelFunc): void {
  tf.registerKernel({ kernelName, backendName: 'tensorflow', kernelFunc });
}

function backend(): NativeBackend {
  return tf.backend() as unknown as NativeBackend;
}

function typeAttribute(name: string, dtype: keyof typeof dataTypes): OpAttribute {
  return { name, type: backend().binding.TF_ATTR_TYPE, value: dataTypes[dtype] };
}

/** @returns null for what `BatchMatMulV2` does better: batches, and a transposed second operand */
function matMul(call: { inputs: tf.NamedTensorInfoMap; attrs?: tf.NamedAttrMap }): Tensor | null {
  const { a, b } = call.inputs as { a: tf.TensorInfo; b: tf.TensorInfo };
  const { transposeA, transposeB } = call.attrs as unknown as tf.BatchMatMulAttrs;
  const leading = [...a.shape.slice(0, -2), ...b.shape.slice(0, -2)];
  if (transposeB || a.dtype !== 'float32' || leading.some((size) => size !== 1)) return null;
  const flag = (name: string, value: boolean): OpAttribute => ({
    name,
    type: backend().binding.TF_ATTR_BOOL,
    value,
  });
  const matrixOf = (x: tf.TensorInfo): Tensor2D => tf.reshape(x as Tensor, x.shape.slice(-2) as [number, number]);
  return tf.tidy(() => {
    const attributes = [typeAttribute('T', 'float32'), flag('transpose_a', transposeA), flag('transpose_b', false)];
    const product = backend().executeSingleOutput('MatMul', attributes, [matrixOf(a), matrixOf(b)]);
    const rank = Math.max(a.shape.length, b.shape.length);
    return rank === 2 ? product : tf.reshape(product, [...Array<number>(rank - 2).fill(1), ...product.shape]);
  });
}

/** As the composed kernel, but the one element of each row that is wanted is gathered and scattered, so no pass is made for it. */
function crossEntropy(logits: Tensor2D, ids: Tensor1D, { scale }: LossAttributes): Tensor[] {
  const probabilities = tf.softmax(logits);
  const logSumExp = tf.sub(tf.max(logits, 1), tf.log(tf.max(probabilities, 1)));
  const indices: Tensor2D = tf.stack([tf.range(0, ids.shape[0], 1, 'int32'), ids], 1) as Tensor2D;
  const losses = tf.sub(logSumExp, tf.gatherND(logits, indices));
  if (scale === null) return [losses];
  const attributes = [typeAttribute('T', 'float32'), typeAttribute('Tindices', 'int32')];
  const scaled = tf.mul(probabilities, scale);
  const steps = tf.fill(ids.shape, scale);
  return [losses, backend().executeSingleOutput('TensorScatterSub', attributes, [scaled, indices, steps])];
}
