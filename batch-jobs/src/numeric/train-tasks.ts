/**
 * What training does to the weights in main memory, as tasks for the host threads (pool.ts): each works on a range of a
 * tensor's rows, chunk by chunk through the memory of a small WebAssembly module (batch-jobs/kernels/host.ts). Results do
 * not depend on how the rows are divided among threads.
 */
import { loadKernels } from './kernel-module.ts';
import type { Cherries, Grid } from './quantizer.ts';
import { levelsOf } from './quantizer.ts';

/** The constants of one AdamW step; the formula is in training/adamw.ts. */
export interface AdamWConstants {
  readonly gradientScale: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly stepSize: number;
  readonly decay: number;
  readonly rootCorrection2: number;
  readonly epsilon: number;
}

/** A tensor that training changes; every array is of its length, row-major, in shared memory. */
export interface TrainedTensor {
  readonly weight: Float32Array;
  readonly gradient: Float32Array;
  readonly first: Float32Array;
  readonly second: Float32Array;
  readonly columns: number;
  /** Receives what the weight becomes once quantized; null for a tensor that is not. */
  readonly quantized: { readonly into: Float32Array; readonly cherries: Cherries } | null;
}

/** Some rows of a tensor. */
export interface RowRange<Tensor> {
  readonly tensor: Tensor;
  readonly fromRow: number;
  readonly untilRow: number;
}

interface HostKernels {
  adamW(
    weight: number,
    gradient: number,
    first: number,
    second: number,
    length: number,
    gradientScale: number,
    beta1: number,
    beta2: number,
    stepSize: number,
    decay: number,
    rootCorrection2: number,
    epsilon: number,
  ): void;
  fakeQuant(
    weight: number,
    rows: number,
    columns: number,
    groupSize: number,
    cherries: number,
    perRow: number,
    scaleDivisor: number,
    offset: number,
    clip: number,
    normals: number,
    into: number,
  ): void;
  squareSum(values: number, length: number): number;
}

/** Elements of a chunk: what a kernel reads and writes of it fits into a core's own cache. */
const chunkElements = 16_384;

/** Updates weights by AdamW, where `adamW` is given, then sets what they become once quantized, where `grid` is. */
export function updateRows(args: {
  readonly ranges: readonly RowRange<TrainedTensor>[];
  readonly adamW: AdamWConstants | null;
  readonly grid: Grid | null;
}): void {
  for (const { tensor, fromRow, untilRow } of args.ranges) {
    const { columns } = tensor;
    const rowsAtOnce = Math.max(1, Math.floor(chunkElements / columns));
    for (let row = fromRow; row < untilRow; row += rowsAtOnce) {
      const rows = Math.min(rowsAtOnce, untilRow - row);
      updateChunk(tensor, row, rows, args.adamW, args.grid);
    }
  }
}

function updateChunk(
  tensor: TrainedTensor,
  row: number,
  rows: number,
  adamW: AdamWConstants | null,
  grid: Grid | null,
): void {
  const { columns, quantized } = tensor;
  const length = rows * columns;
  const from = row * columns;
  const cherryCount = quantized ? rows * quantized.cherries.perRow : 0;
  const { kernels, arena } = loadKernels<HostKernels>('host', 4 * (6 * (length + 4) + cherryCount + columns + 4));
  const part = (values: Float32Array): Float32Array => values.subarray(from, from + length);
  const weight = arena.float32(length);
  weight.set(part(tensor.weight));
  if (adamW) {
    const gradient = arena.float32(length);
    const first = arena.float32(length);
    const second = arena.float32(length);
    gradient.set(part(tensor.gradient));
    first.set(part(tensor.first));
    second.set(part(tensor.second));
    kernels.adamW(
      weight.byteOffset,
      gradient.byteOffset,
      first.byteOffset,
      second.byteOffset,
      length,
      adamW.gradientScale,
      adamW.beta1,
      adamW.beta2,
      adamW.stepSize,
      adamW.decay,
      adamW.rootCorrection2,
      adamW.epsilon,
    );
    tensor.weight.set(weight, from);
    tensor.first.set(first, from);
    tensor.second.set(second, from);
  }
  if (!grid || !quantized) return;
  const { perRow } = quantized.cherries;
  const levels = levelsOf(grid.bits);
  const into = arena.float32(length);
  const normals = arena.float32(columns + 1);
  const cherries = arena.uint32(cherryCount);
  cherries.set(quantized.cherries.columns.subarray(row * perRow, (row + rows) * perRow));
  kernels.fakeQuant(
    weight.byteOffset,
    rows,
    columns,
    Math.min(grid.groupSize, columns - perRow),
    cherries.byteOffset,
    perRow,
    levels.scaleDivisor,
    levels.offset,
    levels.clip,
    normals.byteOffset,
    into.byteOffset,
  );
  quantized.into.set(into, from);
}

/** Sum of the squares of each array, in double precision, added in an order that depends on its length alone. */
export function squareSums(arrays: readonly Float32Array[]): number[] {
  return arrays.map((values) => {
    let sum = 0;
    for (let from = 0; from < values.length; from += chunkElements) {
      const length = Math.min(chunkElements, values.length - from);
      const { kernels, arena } = loadKernels<HostKernels>('host', 4 * (length + 4));
      const chunk = arena.float32(length);
      chunk.set(values.subarray(from, from + length));
      sum += kernels.squareSum(chunk.byteOffset, length);
    }
    return sum;
  });
}
