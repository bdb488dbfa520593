/**
 * Our kernels on the WebAssembly engine. tfjs-backend-wasm 4.22 runs a single plain product at full rate, a transposed one at
 * a tenth of it and a batch slower still; it has no fused passes and lacks `UnsortedSegmentSum`. The module
 * batch-jobs/kernels/device.ts is instantiated on the backend's own memory and works on its tensors in place; its matrix
 * product replaces the backend's.
 */
import * as tf from '@tensorflow/tfjs-core';
import { readFileSync } from 'node:fs';
import type { AttentionShape, LossAttributes, SumOfProductsAttributes } from './fused.ts';
import { fusedKernels } from './fused.ts';
import type { WasmBackend } from './wasm-backend.ts';
import { wasmBackend } from './wasm-backend.ts';

type Numbers = (...parameters: number[]) => number;

/** The exports of batch-jobs/kernels/device.ts. */
type DeviceKernels = Readonly<
  Record<
    | 'useWorkspace'
    | 'leastWorkspaceBytes'
    | 'matMul'
    | 'exponential'
    | 'rmsNorm'
    | 'rmsNormBackward'
    | 'swiGlu'
    | 'swiGluBackward'
    | 'geGlu'
    | 'geGluBackward'
    | 'crossEntropy'
    | 'distillationWorkspaceBytes'
    | 'distillation'
    | 'attentionWorkspaceBytes'
    | 'attention'
    | 'attentionBackwardWorkspaceBytes'
    | 'attentionBackward'
    | 'segmentSum',
    Numbers
  >
>;

type Inputs = Record<string, tf.TensorInfo | null>;
type Kernel = (device: Device, inputs: Inputs, attributes: object) => tf.TensorInfo | tf.TensorInfo[];

const floatBytes = 4;
const noTensor = 0;

/** The module on a backend's memory, with memory of its own that lasts between calls and grows when one needs more. */
class Device {
  readonly kernels: DeviceKernels;
  private workspace = 0;
  private workspaceBytes = 0;

  constructor(private readonly backend: WasmBackend) {
    const file = new URL(import.meta.resolve('@cherryq/batch-jobs/kernels/device.wasm'));
    const module = new WebAssembly.Module(readFileSync(file));
    const imports = { env: { memory: backend.wasm.asm.memory }, device: { log: Math.log } };
    this.kernels = new WebAssembly.Instance(module, imports).exports as unknown as DeviceKernels;
    this.ensureWorkspace(this.kernels.leastWorkspaceBytes());
  }

  ensureWorkspace(bytes: number): void {
    if (bytes <= this.workspaceBytes) return;
    this.backend.wasm._free(this.workspace);
    this.workspaceBytes = 0;
    this.workspace = this.backend.wasm._malloc(bytes) >>> 0;
    this.workspaceBytes = bytes;
    this.kernels.useWorkspace(this.workspace);
  }

  /** Byte address of a tensor. */
  at(tensor: tf.TensorInfo): number {
    return this.backend.dataIdMap.get(tensor.dataId).memoryOffset;
  }

  create(...shape: number[]): tf.TensorInfo {
    return this.backend.makeOutput(shape, 'float32');
  }

  dispose(tensor: tf.TensorInfo): void {
    this.backend.disposeData(tensor.dataId);
  }

  copy(from: tf.TensorInfo, to: tf.TensorInfo): void {
    const bytes = new Uint8Array(this.backend.wasm.asm.memory.buffer);
    const start = this.at(from);
    bytes.copyWithin(this.at(to), start, start + floatBytes * tf.util.sizeFromShape(from.shape));
  }
}

let device: Device | null = null;

/** Registers them on the open WebAssembly engine; calling it again changes nothing. */
export function registerWasmKernels(): void {
  if (device !== null) return;
  const opened = new Device(wasmBackend());
  device = opened;
  tf.unregisterKernel(tf.BatchMatMul, 'wasm');
  for (const [kernelName, kernel] of kernels) {
    const kernelFunc: tf.KernelFunc = ({ inputs, attrs }) => kernel(opened, inputs as Inputs, attrs ?? {});
    tf.registerKernel({ kernelName, backendName: 'wasm', kernelFunc });
  }
}

/** y = e^x as the kernels compute it, on a float32 tensor. */
export function exponential(x: tf.Tensor): tf.Tensor {
  return tf.engine().runKernel(exponentialKernel, { x }) as tf.Tensor;
}

const exponentialKernel = 'CherryqExponential';

const kernels: ReadonlyMap<string, Kernel> = new Map<string, Kernel>([
  [tf.BatchMatMul, (device, inputs, attributes) => batchMatMul(device, inputs, attributes as tf.BatchMatMulAttrs)],
  [
    tf.UnsortedSegmentSum,
    (device, inputs, attributes) => segmentSum(device, inputs, attributes as tf.UnsortedSegmentSumAttrs),
  ],
  [
    fusedKernels.sumOfProducts,
    (device, inputs, attributes) => sumOfProducts(device, inputs, attributes as SumOfProductsAttributes),
  ],
  [
    fusedKernels.rmsNorm,
    (device, inputs, attributes) => {
      const { x, weight } = required(inputs);
      const [rows, columns] = x.shape;
      const y = device.create(rows, columns);
      const { eps } = attributes as { eps: number };
      device.kernels.rmsNorm(device.at(x), device.at(weight), device.at(y), rows, columns, eps);
      return y;
    },
  ],
  [
    fusedKernels.rmsNormBackward,
    (device, inputs, attributes) => {
      const { x, weight, dy } = required(inputs);
      const residual = inputs.residual ? device.at(inputs.residual) : noTensor;
      const [rows, columns] = x.shape;
      const dx = device.create(rows, columns);
      const dWeight = device.create(columns);
      const { eps } = attributes as { eps: number };
      const [xAt, weightAt, dyAt, dxAt, dWeightAt] = [x, weight, dy, dx, dWeight].map((tensor) => device.at(tensor));
      device.kernels.rmsNormBackward(xAt, weightAt, dyAt, residual, dxAt, dWeightAt, rows, columns, eps);
      return [dx, dWeight];
    },
  ],
  [fusedKernels.attention, (device, inputs, attributes) => attention(device, inputs, attributes as AttentionShape)],
  [
    fusedKernels.attentionBackward,
    (device, inputs, attributes) => attentionBackward(device, inputs, attributes as AttentionShape),
  ],
  [fusedKernels.swiGlu, (device, inputs) => gated(device, device.kernels.swiGlu, inputs)],
  [fusedKernels.swiGluBackward, (device, inputs) => gatedBackward(device, device.kernels.swiGluBackward, inputs)],
  [fusedKernels.geGlu, (device, inputs) => gated(device, device.kernels.geGlu, inputs)],
  [fusedKernels.geGluBackward, (device, inputs) => gatedBackward(device, device.kernels.geGluBackward, inputs)],
  [
    fusedKernels.crossEntropy,
    (device, inputs, attributes) => {
      const { logits, ids } = required(inputs);
      return losses(device, device.kernels.crossEntropy, logits, ids, attributes as LossAttributes);
    },
  ],
  [
    fusedKernels.distillation,
    (device, inputs, attributes) => {
      const { logits, wanted } = required(inputs);
      device.ensureWorkspace(device.kernels.distillationWorkspaceBytes(logits.shape[1]));
      return losses(device, device.kernels.distillation, logits, wanted, attributes as LossAttributes);
    },
  ],
  [
    exponentialKernel,
    (device, inputs) => {
      const { x } = required(inputs);
      const y = device.create(...x.shape);
      device.kernels.exponential(device.at(x), device.at(y), sizeOf(x), 0);
      return y;
    },
  ],
]);

/** a [..., m, k] x b [..., k, n] -> [..., m, n]; leading dimensions broadcast as in NumPy; either operand transposed. */
function batchMatMul(device: Device, inputs: Inputs, attributes: tf.BatchMatMulAttrs): tf.TensorInfo {
  const { a, b } = required(inputs);
  const { transposeA, transposeB } = attributes;
  const batchShape = tf.broadcast_util.assertAndGetBroadcastShape(a.shape.slice(0, -2), b.shape.slice(0, -2));
  const [m, n] = [rowsAndColumns(a, transposeA)[0], rowsAndColumns(b, transposeB)[1]];
  const out = device.create(...batchShape, m, n);
  const aMatrices = matricesOf(a.shape.slice(0, -2), batchShape);
  const bMatrices = matricesOf(b.shape.slice(0, -2), batchShape);
  aMatrices.forEach((aMatrix, i) => {
    multiply(device, { a, b, transposeA, transposeB, aMatrix, bMatrix: bMatrices[i] }, out, i, false);
  });
  return out;
}

interface MatrixProduct {
  readonly a: tf.TensorInfo;
  readonly b: tf.TensorInfo;
  readonly transposeA: boolean;
  readonly transposeB: boolean;
  /** Which matrix of the operand, when it is a batch. */
  readonly aMatrix: number;
  readonly bMatrix: number;
}

function multiply(device: Device, product: MatrixProduct, out: tf.TensorInfo, matrix: number, add: boolean): void {
  const { a, b, transposeA, transposeB } = product;
  const [m, k] = rowsAndColumns(a, transposeA);
  const n = rowsAndColumns(b, transposeB)[1];
  device.kernels.matMul(
    m,
    n,
    k,
    device.at(a) + floatBytes * product.aMatrix * m * k,
    floatBytes * (transposeA ? 1 : k),
    floatBytes * (transposeA ? m : 1),
    device.at(b) + floatBytes * product.bMatrix * k * n,
    floatBytes * (transposeB ? 1 : n),
    floatBytes * (transposeB ? k : 1),
    device.at(out) + floatBytes * matrix * m * n,
    Number(add),
  );
}

/** Of one matrix, as the product sees it. */
function rowsAndColumns(tensor: tf.TensorInfo, transposed: boolean): [number, number] {
  const [rows, columns] = tensor.shape.slice(-2);
  return transposed ? [columns, rows] : [rows, columns];
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

function sumOfProducts(device: Device, inputs: Inputs, { transposes }: SumOfProductsAttributes): tf.TensorInfo {
  const all = required(inputs);
  const [rows, columns] = [
    rowsAndColumns(all.a0, transposes[0].transposeA)[0],
    rowsAndColumns(all.b0, transposes[0].transposeB)[1],
  ];
  const out = device.create(rows, columns);
  if (inputs.base) device.copy(inputs.base, out);
  transposes.forEach((transpose, i) => {
    const product = { a: all[`a${i}`], b: all[`b${i}`], ...transpose, aMatrix: 0, bMatrix: 0 };
    multiply(device, product, out, 0, i > 0 || inputs.base !== null);
  });
  return out;
}

/** x [...ids' shape, ...rest], ids int32 -> [numSegments, ...rest]  @throws Error naming an id that is no segment */
function segmentSum(device: Device, inputs: Inputs, attributes: tf.UnsortedSegmentSumAttrs): tf.TensorInfo {
  const { x, segmentIds } = required(inputs);
  const { numSegments } = attributes;
  const rows = sizeOf(segmentIds);
  const rest = x.shape.slice(segmentIds.shape.length);
  const columns = tf.util.sizeFromShape(rest);
  const out = device.create(numSegments, ...rest);
  const [xAt, idsAt, outAt] = [x, segmentIds, out].map((tensor) => device.at(tensor));
  const wrong = device.kernels.segmentSum(xAt, idsAt, outAt, rows, columns, numSegments);
  if (wrong >= 0) {
    device.dispose(out);
    throw new Error(`UnsortedSegmentSum: the id at ${wrong} is not below the number of segments, ${numSegments}.`);
  }
  return out;
}

function gated(device: Device, kernel: Numbers, inputs: Inputs): tf.TensorInfo {
  const { gate, up } = required(inputs);
  const y = device.create(...gate.shape);
  kernel(device.at(gate), device.at(up), device.at(y), sizeOf(y));
  return y;
}

function gatedBackward(device: Device, kernel: Numbers, inputs: Inputs): tf.TensorInfo[] {
  const { gate, up, dy } = required(inputs);
  const gradients = [gate, up].map((tensor) => device.create(...tensor.shape));
  const pointers = [gate, up, dy, ...gradients].map((tensor) => device.at(tensor));
  kernel(...pointers, sizeOf(gate));
  return gradients;
}

function attention(device: Device, inputs: Inputs, shape: AttentionShape): tf.TensorInfo[] {
  const { queries, keys, values, cos, sin } = required(inputs);
  const { windows, length, width, heads, keyValueHeads, headDim } = shape;
  device.ensureWorkspace(device.kernels.attentionWorkspaceBytes(headDim, width));
  const attended = device.create(...queries.shape);
  const stats = device.create(windows, heads, Math.ceil(length / 8), 2, 8);
  const pointers = [queries, keys, values, cos, sin, attended, stats].map((tensor) => device.at(tensor));
  const seen = Math.min(shape.slidingWindow ?? width, width);
  device.kernels.attention(...pointers, windows, heads, keyValueHeads, headDim, length, width, seen);
  return [attended, stats];
}

function attentionBackward(device: Device, inputs: Inputs, shape: AttentionShape): tf.TensorInfo[] {
  const { queries, keys, values, cos, sin, saved0, dAttended } = required(inputs);
  const { windows, length, width, heads, keyValueHeads, headDim } = shape;
  device.ensureWorkspace(device.kernels.attentionBackwardWorkspaceBytes(headDim, width));
  const gradients = [queries, keys, values].map((tensor) => device.create(...tensor.shape));
  const read = [queries, keys, values, cos, sin, saved0, dAttended];
  const pointers = [...read, ...gradients].map((tensor) => device.at(tensor));
  const seen = Math.min(shape.slidingWindow ?? width, width);
  device.kernels.attentionBackward(...pointers, windows, heads, keyValueHeads, headDim, length, width, seen);
  return gradients;
}

function losses(
  device: Device,
  kernel: Numbers,
  logits: tf.TensorInfo,
  wanted: tf.TensorInfo,
  { scale }: LossAttributes,
): tf.TensorInfo[] {
  const [rows, columns] = logits.shape;
  const result = device.create(rows);
  const dLogits = scale === null ? null : device.create(rows, columns);
  const dLogitsAt = dLogits ? device.at(dLogits) : noTensor;
  kernel(device.at(logits), device.at(wanted), device.at(result), dLogitsAt, rows, columns, scale ?? 0);
  return dLogits ? [result, dLogits] : [result];
}

/** Inputs that the functions of fused.ts always give. */
function required(inputs: Inputs): Record<string, tf.TensorInfo> {
  return inputs as Record<string, tf.TensorInfo>;
}

function sizeOf(tensor: tf.TensorInfo): number {
  return tf.util.sizeFromShape(tensor.shape);
}
