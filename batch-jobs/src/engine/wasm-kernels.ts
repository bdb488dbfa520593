/**
 * Mends the matrix product of tfjs-backend-wasm 4.22. As shipped, only a single plain product runs on its fast path
 * (17-20 GFLOP/s on one core); a transposed operand runs at 1.5 and a batch at 1.1. Here a transposed operand is
 * transposed first and a batch becomes single products on views of the same memory, so both run near the plain rate.
 */
import * as tf from '@tensorflow/tfjs-core';
import type { BackendWasm } from '@tensorflow/tfjs-backend-wasm';

interface TensorRecord {
  id: number;
  memoryOffset: number;
}

/** What of the backend's insides is used: stable, as the package is frozen. */
interface WasmInsides {
  dataIdMap: { get(dataId: object): TensorRecord };
  dataIdNextNumber: number;
  makeOutput(shape: number[], dtype: 'float32'): tf.TensorInfo;
  disposeData(dataId: object): boolean;
  wasm: {
    cwrap(name: string, returns: null, parameters: string[]): (...parameters: unknown[]) => void;
    tfjs: { registerTensor(id: number, size: number, offset: number): void; disposeData(id: number): void };
  };
}

type Product = (
  a: number,
  aShape: Uint8Array,
  aRank: number,
  b: number,
  bShape: Uint8Array,
  bRank: number,
  ta: boolean,
  tb: boolean,
  out: number,
) => void;

let product: Product | null = null;

/** Replaces the kernel; calling it again changes nothing. */
export function mendWasmKernels(): void {
  if (product !== null) return;
  const backend = tf.backend() as BackendWasm as unknown as WasmInsides;
  product = backend.wasm.cwrap(tf.BatchMatMul, null, [
    'number',
    'array',
    'number',
    'number',
    'array',
    'number',
    'number',
    'number',
    'number',
  ]) as Product;
  tf.unregisterKernel(tf.BatchMatMul, 'wasm');
  tf.registerKernel({
    kernelName: tf.BatchMatMul,
    backendName: 'wasm',
    kernelFunc: batchMatMul as unknown as tf.KernelFunc,
  });
}

/** a [..., m, k] x b [..., k, n] -> [..., m, n]; leading dimensions broadcast as in NumPy; either operand transposed. */
function batchMatMul(call: {
  inputs: { a: tf.TensorInfo; b: tf.TensorInfo };
  backend: WasmInsides;
  attrs: tf.BatchMatMulAttrs;
}): tf.TensorInfo {
  const { backend } = call;
  const a = call.attrs.transposeA ? transposed(call.inputs.a) : call.inputs.a;
  const b = call.attrs.transposeB ? transposed(call.inputs.b) : call.inputs.b;
  const [m, k] = a.shape.slice(-2);
  const n = b.shape[b.shape.length - 1];
  const batchShape = tf.broadcast_util.assertAndGetBroadcastShape(a.shape.slice(0, -2), b.shape.slice(0, -2));
  const aMatrices = matricesOf(a.shape.slice(0, -2), batchShape);
  const bMatrices = matricesOf(b.shape.slice(0, -2), batchShape);

  const out = backend.makeOutput([...batchShape, m, n], 'float32');
  const aData = backend.dataIdMap.get(a.dataId);
  const bData = backend.dataIdMap.get(b.dataId);
  const outData = backend.dataIdMap.get(out.dataId);
  for (let i = 0; i < aMatrices.length; i++) {
    const aView = view(backend, aData, aMatrices[i] * m * k, m * k);
    const bView = view(backend, bData, bMatrices[i] * k * n, k * n);
    const outView = view(backend, outData, i * m * n, m * n);
    product?.(aView, shapeBytes([1, m, k]), 3, bView, shapeBytes([1, k, n]), 3, false, false, outView);
    for (const id of [aView, bView, outView]) backend.wasm.tfjs.disposeData(id);
  }
  if (a !== call.inputs.a) backend.disposeData(a.dataId);
  if (b !== call.inputs.b) backend.disposeData(b.dataId);
  return out;
}

/** For each matrix of the broadcast batch, which one of an operand's it takes.  @param shape the operand's leading dimensions */
function matricesOf(shape: number[], batchShape: number[]): number[] {
  let matrices = [0];
  batchShape.forEach((size, axis) => {
    const own = shape[axis - (batchShape.length - shape.length)] ?? 1;
    matrices = matrices.flatMap((matrix) => Array.from({ length: size }, (_, i) => matrix * own + (own === 1 ? 0 : i)));
  });
  return matrices;
}

/**
 * A second name for part of a tensor's memory. Each gets an id of its own, since the library keeps a packed copy of the
 * second operand by its id until that id is disposed of.
 */
function view(backend: WasmInsides, data: TensorRecord, firstElement: number, length: number): number {
  const id = backend.dataIdNextNumber++;
  backend.wasm.tfjs.registerTensor(id, length, data.memoryOffset + 4 * firstElement);
  return id;
}

function shapeBytes(shape: number[]): Uint8Array {
  return new Uint8Array(new Int32Array(shape).buffer);
}

function transposed(x: tf.TensorInfo): tf.TensorInfo {
  const rank = x.shape.length;
  const perm = Array.from({ length: rank }, (_, axis) => axis);
  perm[rank - 1] = rank - 2;
  perm[rank - 2] = rank - 1;
  const kernel = tf.getKernel(tf.Transpose, 'wasm');
  return kernel.kernelFunc({ inputs: { x }, backend: tf.backend(), attrs: { perm } }) as tf.TensorInfo;
}
