/**
 * What training does to the weights in main memory, as tasks for the host threads (pool.ts): each works on ranges of some
 * tensors, chunk by chunk through the memory of a small WebAssembly module (batch-jobs/kernels/host.ts). Results do not depend
 * on how the work is divided among threads.
 */
import { readSync, writeSync } from 'node:fs';
import { fakeQuantizeRows } from './fake-quantize.ts';
import { loadKernels } from './kernel-module.ts';
import type { Cherries, Grid } from './quantizer.ts';

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

export type MomentsDtype = 'float32' | 'bfloat16';

/** First and second moment of a tensor's gradients, of its length, in shared memory; bfloat16 as its bits. */
export interface MomentsInMemory {
  readonly first: Float32Array | Uint16Array;
  readonly second: Float32Array | Uint16Array;
}

/** The same in an open file, each beginning at a byte of it. */
export interface MomentsInFile {
  readonly descriptor: number;
  readonly dtype: MomentsDtype;
  readonly firstAt: number;
  readonly secondAt: number;
}

export type Moments = MomentsInMemory | MomentsInFile;

export function isInFile(moments: Moments): moments is MomentsInFile {
  return 'descriptor' in moments;
}

/** A tensor that training changes; every array is of its length, row-major, in shared memory. */
export interface TrainedTensor {
  readonly weight: Float32Array;
  readonly gradient: Float32Array;
  readonly moments: Moments;
}

/** A matrix, and what receives it quantized; both [rows, columns], row-major, in shared memory. */
export interface RoundedMatrix {
  readonly weight: Float32Array;
  readonly columns: number;
  readonly cherries: Cherries;
  /** One for each column, or null. */
  readonly columnScales: Float32Array | null;
  readonly into: Float32Array;
}

/** Some elements, or some rows, of one tensor; `until` is exclusive. */
export interface Range<Tensor> {
  readonly tensor: Tensor;
  readonly from: number;
  readonly until: number;
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
  widenBfloat16(bits: number, length: number, into: number): void;
  narrowToBfloat16(values: number, length: number, into: number): void;
  squareSum(values: number, length: number): number;
}

/** Elements of a chunk: what a kernel reads and writes of it fits into a core's own cache. */
const chunkElements = 16_384;
/** Elements of moments that are read from their file, or written to it, at once. */
const stretchElements = 16 * chunkElements;

/** Updates weights and moments by AdamW; ranges are of elements. */
export function updateWeights(args: {
  readonly ranges: readonly Range<TrainedTensor>[];
  readonly adamW: AdamWConstants;
}): void {
  for (const { tensor, from, until } of args.ranges) {
    const { moments } = tensor;
    if (!isInFile(moments)) {
      updateElements(tensor, from, until, moments, 0, args.adamW);
      continue;
    }
    for (let start = from; start < until; start += stretchElements) {
      const length = Math.min(stretchElements, until - start);
      const stretch = readMoments(moments, start, length);
      updateElements(tensor, start, start + length, stretch, start, args.adamW);
      writeMoments(moments, start, stretch);
    }
  }
}

/** @param momentsFrom element of the tensor that the moments begin with */
function updateElements(
  tensor: TrainedTensor,
  from: number,
  until: number,
  moments: MomentsInMemory,
  momentsFrom: number,
  adamW: AdamWConstants,
): void {
  for (let start = from; start < until; start += chunkElements) {
    const end = Math.min(start + chunkElements, until);
    const length = end - start;
    const { kernels, arena } = loadKernels<HostKernels>('host', 4 * 6 * (length + 4));
    const weight = arena.float32(length);
    const gradient = arena.float32(length);
    const first = arena.float32(length);
    const second = arena.float32(length);
    weight.set(tensor.weight.subarray(start, end));
    gradient.set(tensor.gradient.subarray(start, end));
    const wide = { first, second };
    const narrow = arena.bytes(2 * length);
    const bits = new Uint16Array(narrow.buffer, narrow.byteOffset, length);
    for (const part of ['first', 'second'] as const) {
      const own = moments[part].subarray(start - momentsFrom, end - momentsFrom);
      if (own instanceof Float32Array) wide[part].set(own);
      else {
        bits.set(own);
        kernels.widenBfloat16(bits.byteOffset, length, wide[part].byteOffset);
      }
    }
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
    tensor.weight.set(weight, start);
    for (const part of ['first', 'second'] as const) {
      const own = moments[part].subarray(start - momentsFrom, end - momentsFrom);
      if (own instanceof Float32Array) own.set(wide[part]);
      else {
        kernels.narrowToBfloat16(wide[part].byteOffset, length, bits.byteOffset);
        own.set(bits);
      }
    }
  }
}

/** Of this thread, for moments that come from a file and go back. */
let buffers: { readonly first: Uint8Array; readonly second: Uint8Array } | undefined;

function readMoments(file: MomentsInFile, start: number, length: number): MomentsInMemory {
  buffers ??= { first: new Uint8Array(4 * stretchElements), second: new Uint8Array(4 * stretchElements) };
  const size = file.dtype === 'float32' ? 4 : 2;
  const readPart = (buffer: Uint8Array, at: number): Float32Array | Uint16Array => {
    const bytes = buffer.subarray(0, length * size);
    for (let done = 0; done < bytes.length;) {
      const count = readSync(file.descriptor, bytes, done, bytes.length - done, at + start * size + done);
      if (count === 0) throw new Error("the file of AdamW's moments has become shorter");
      done += count;
    }
    return size === 4 ? new Float32Array(bytes.buffer, 0, length) : new Uint16Array(bytes.buffer, 0, length);
  };
  return { first: readPart(buffers.first, file.firstAt), second: readPart(buffers.second, file.secondAt) };
}

function writeMoments(file: MomentsInFile, start: number, moments: MomentsInMemory): void {
  for (const [values, at] of [
    [moments.first, file.firstAt],
    [moments.second, file.secondAt],
  ] as const) {
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    const from = at + start * values.BYTES_PER_ELEMENT;
    for (let done = 0; done < bytes.length;) {
      done += writeSync(file.descriptor, bytes, done, bytes.length - done, from + done);
    }
  }
}

/** Sets what matrices become once quantized; ranges are of rows. */
export function roundMatrices(args: { readonly ranges: readonly Range<RoundedMatrix>[]; readonly grid: Grid }): void {
  for (const { tensor, from, until } of args.ranges) {
    fakeQuantizeRows({ ...tensor, fromRow: from, untilRow: until, grid: args.grid });
  }
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
