/**
 * Rounding and packing rows that lie in memory as a file has them, as tasks for the host threads (pool.ts). The published grid
 * goes chunk by chunk through the memory of a small WebAssembly module (batch-jobs/kernels/quantize.ts), with results that are
 * bit for bit those of the plain functions in quantizer.ts and dtypes.ts; every other grid goes through those themselves.
 * Results do not depend on how rows are divided.
 */
import { packRows, unpackRows } from './bit-packing.ts';
import type { FloatDtype } from './dtypes.ts';
import { float32ToFloat16, floatBytes, toFloat32 } from './dtypes.ts';
import { isPublishedGrid } from './fake-quantize.ts';
import { loadKernels } from './kernel-module.ts';
import type { Arena } from './kernel-module.ts';
import type { PackedRows } from './packed-rows.ts';
import { packedSizes } from './packed-rows.ts';
import type { Cherries, Grid, QuantizedMatrix } from './quantizer.ts';
import { cherriesOfRows, dequantizeMatrix, groupCount, quantizeMatrix, storedColumns } from './quantizer.ts';

/** In the order of the kernels' numbers for them. */
const floatTypes: readonly FloatDtype[] = ['F32', 'F16', 'BF16'];

/** Rows of a matrix, row-major and little-endian. */
export interface SourceRows {
  /** [rows, columns] */
  readonly source: Uint8Array;
  readonly dtype: FloatDtype;
  readonly rows: number;
  readonly columns: number;
}

export interface RoundedRows extends SourceRows {
  readonly grid: Grid;
  /** Of these rows alone. */
  readonly cherries: Cherries;
  /** [columns], each a float16, or null. */
  readonly columnScales: Float32Array | null;
}

interface QuantizeKernels {
  quantizeRows(...numbers: readonly number[]): number;
  roundRows(...numbers: readonly number[]): number;
  halve(...numbers: readonly number[]): number;
  compareRows(...numbers: readonly number[]): void;
  compareNumbers(...numbers: readonly number[]): void;
}

/** Elements of a chunk: what a kernel reads and writes of it fits into a core's own cache. */
const chunkElements = 32_768;
/** Numbers that the kernels on loose numbers hold as float32 at a time. */
const kernelRow = 2048;
/** Kernels work in whole vectors, up to this far beyond an array's end. */
const slack = 64;

/**
 * Quantizes and packs rows into the arrays given.
 * @returns the largest magnitude of a weight; Infinity or NaN when there is one that is not finite, and then nothing of what
 * was written is meant
 */
export function quantizeRows(args: RoundedRows & { readonly into: PackedRows }): number {
  const { columns, grid, cherries, into } = args;
  const { perRow } = cherries;
  let largest = 0;
  if (!isPublishedGrid(grid, args.columnScales)) {
    for (const chunk of chunksOf(args)) {
      const { weight, ...found } = plainRowsOf(args, chunk);
      largest = Math.max(largest, found.largest);
      const matrix = quantizeMatrix(weight, columns, grid, found.cherries, args.columnScales);
      putPacked(matrix, chunk, args.rows, into);
    }
    return largest;
  }
  for (const chunk of chunksOf(args)) {
    const sizes = packedSizes(chunk.rows, columns, grid, perRow);
    const { kernels, arena } = openArena(chunk, sizes.packed + sizes.scales + sizes.cherryWeight);
    const scratch = placeRows(arena, args, chunk);
    const packed = room(arena, sizes.packed);
    const scales = room(arena, sizes.scales);
    const cherryWeight = room(arena, sizes.cherryWeight);
    const bits = kernels.quantizeRows(...scratch, at(packed), at(scales), at(cherryWeight));
    largest = Math.max(largest, magnitudeOf(bits));
    copyOut(packed, sizes.packed, into.packed, chunk.fromRow, args.rows);
    copyOut(scales, sizes.scales, into.scales, chunk.fromRow, args.rows);
    copyOut(cherryWeight, sizes.cherryWeight, into.cherryWeight, chunk.fromRow, args.rows);
  }
  return largest;
}

/** What `quantizeRows` gives, read back and rounded to float16.  @param args.into [rows, columns]  @returns as there */
export function roundRows(args: RoundedRows & { readonly into: Uint8Array }): number {
  let largest = 0;
  if (!isPublishedGrid(args.grid, args.columnScales)) {
    for (const chunk of chunksOf(args)) {
      const { weight, ...found } = plainRowsOf(args, chunk);
      largest = Math.max(largest, found.largest);
      const matrix = quantizeMatrix(weight, args.columns, args.grid, found.cherries, args.columnScales);
      const halves = float32ToFloat16(dequantizeMatrix(matrix));
      copyOut(new Uint8Array(halves.buffer), halves.byteLength, args.into, chunk.fromRow, args.rows);
    }
    return largest;
  }
  for (const chunk of chunksOf(args)) {
    const bytes = 2 * chunk.rows * args.columns;
    const { kernels, arena } = openArena(chunk, bytes);
    const scratch = placeRows(arena, args, chunk);
    const into = room(arena, bytes);
    largest = Math.max(largest, magnitudeOf(kernels.roundRows(...scratch, at(into))));
    copyOut(into, bytes, args.into, chunk.fromRow, args.rows);
  }
  return largest;
}

/** Numbers as float16, rounded half to even.  @param args.source any count of them  @returns as `quantizeRows` */
export function halveNumbers(args: {
  readonly source: Uint8Array;
  readonly dtype: FloatDtype;
  readonly into: Uint8Array;
}): number {
  const width = floatBytes[args.dtype];
  const count = args.source.length / width;
  let largest = 0;
  for (let from = 0; from < count; from += chunkElements) {
    const length = Math.min(chunkElements, count - from);
    const { kernels, arena } = loadKernels<QuantizeKernels>(
      'quantize',
      (width + 2) * length + 4 * kernelRow + 3 * (slack + 16),
    );
    const source = room(arena, width * length);
    source.set(args.source.subarray(width * from, width * (from + length)));
    const row = room(arena, 4 * kernelRow);
    const into = room(arena, 2 * length);
    const bits = kernels.halve(at(source), floatTypes.indexOf(args.dtype), length, at(row), at(into));
    largest = Math.max(largest, magnitudeOf(bits));
    args.into.set(into.subarray(0, 2 * length), 2 * from);
  }
  return largest;
}

/** Sums of (stored - source)^2 and of source^2, in double precision. */
export interface Difference {
  readonly error: number;
  readonly norm: number;
}

/** How far packed rows are from what they were made of. */
export function compareRows(args: RoundedRows & { readonly stored: PackedRows }): Difference {
  const { columns, grid, cherries, stored } = args;
  let error = 0;
  let norm = 0;
  if (!isPublishedGrid(grid, args.columnScales)) {
    for (const chunk of chunksOf(args)) {
      const { weight, cherries: own } = plainRowsOf(args, chunk);
      const restored = dequantizeMatrix(takePacked(args, own, chunk, stored));
      for (let i = 0; i < weight.length; i++) {
        error += (restored[i] - weight[i]) ** 2;
        norm += weight[i] ** 2;
      }
    }
    return { error, norm };
  }
  for (const chunk of chunksOf(args)) {
    const sizes = packedSizes(chunk.rows, columns, grid, cherries.perRow);
    const { kernels, arena } = openArena(chunk, sizes.packed + sizes.scales + sizes.cherryWeight);
    const scratch = placeRows(arena, args, chunk);
    const packed = room(arena, sizes.packed);
    const scales = room(arena, sizes.scales);
    const cherryWeight = room(arena, sizes.cherryWeight);
    copyIn(stored.packed, sizes.packed, packed, chunk.fromRow, args.rows);
    copyIn(stored.scales, sizes.scales, scales, chunk.fromRow, args.rows);
    copyIn(stored.cherryWeight, sizes.cherryWeight, cherryWeight, chunk.fromRow, args.rows);
    const sums = room(arena, 16);
    sums.fill(0);
    kernels.compareRows(...scratch, at(packed), at(scales), at(cherryWeight), at(sums));
    const [chunkError, chunkNorm] = new Float64Array(sums.buffer, sums.byteOffset, 2);
    error += chunkError;
    norm += chunkNorm;
  }
  return { error, norm };
}

/** How far numbers are from others, as many.  @param args.stored float16 */
export function compareNumbers(args: {
  readonly source: Uint8Array;
  readonly dtype: FloatDtype;
  readonly stored: Uint8Array;
}): Difference {
  const width = floatBytes[args.dtype];
  const count = args.source.length / width;
  let error = 0;
  let norm = 0;
  for (let from = 0; from < count; from += chunkElements) {
    const length = Math.min(chunkElements, count - from);
    const bytes = (width + 2) * length + 8 * kernelRow + 5 * (slack + 16);
    const { kernels, arena } = loadKernels<QuantizeKernels>('quantize', bytes);
    const source = room(arena, width * length);
    const stored = room(arena, 2 * length);
    source.set(args.source.subarray(width * from, width * (from + length)));
    stored.set(args.stored.subarray(2 * from, 2 * (from + length)));
    const row = room(arena, 4 * kernelRow);
    const storedRow = room(arena, 4 * kernelRow);
    const sums = room(arena, 16);
    sums.fill(0);
    const types = [floatTypes.indexOf(args.dtype), floatTypes.indexOf('F16')];
    kernels.compareNumbers(at(source), types[0], at(stored), types[1], length, at(row), at(storedRow), at(sums));
    const [chunkError, chunkNorm] = new Float64Array(sums.buffer, sums.byteOffset, 2);
    error += chunkError;
    norm += chunkNorm;
  }
  return { error, norm };
}

/** A chunk's weights as float32, with its cherries and its largest magnitude; Infinity where one is not finite. */
function plainRowsOf(
  { source, dtype, columns, cherries }: RoundedRows,
  { fromRow, rows }: Chunk,
): { weight: Float32Array; cherries: Cherries; largest: number } {
  const rowBytes = floatBytes[dtype] * columns;
  const weight = toFloat32(source.slice(fromRow * rowBytes, (fromRow + rows) * rowBytes), dtype);
  let largest = 0;
  for (const value of weight) {
    const magnitude = Math.abs(value);
    if (!(magnitude <= largest)) largest = Number.isFinite(value) ? magnitude : Infinity;
  }
  return { weight, cherries: cherriesOfRows(cherries, fromRow, rows), largest };
}

/** Packs a chunk's matrix to where its rows belong among all `rows`. */
function putPacked(matrix: QuantizedMatrix, chunk: Chunk, rows: number, into: PackedRows): void {
  const { columns, grid, cherries, qweight, scales, zeros, cherryWeight } = matrix;
  const stored = storedColumns(columns, cherries.perRow, grid);
  const parts: PackedRows = {
    packed: packRows(qweight, chunk.rows, stored, grid.bits),
    scales: bytesOf(scales),
    zeros: zeros.length === 0 ? zeros : packRows(zeros, chunk.rows, zeros.length / chunk.rows, grid.bits),
    cherryWeight: bytesOf(cherryWeight),
  };
  for (const part of ['packed', 'scales', 'zeros', 'cherryWeight'] as const) {
    copyOut(parts[part], parts[part].length, into[part], chunk.fromRow, rows);
  }
}

/** The matrix of a chunk of packed rows.  @param cherries of the chunk */
function takePacked(args: RoundedRows, cherries: Cherries, chunk: Chunk, stored: PackedRows): QuantizedMatrix {
  const { columns, grid, columnScales } = args;
  const { rows } = chunk;
  const take = (part: keyof PackedRows): Uint8Array => {
    const rowBytes = stored[part].length / args.rows;
    return stored[part].slice(rowBytes * chunk.fromRow, rowBytes * (chunk.fromRow + rows));
  };
  const groups = groupCount(columns, cherries.perRow, grid);
  return {
    rows,
    columns,
    grid,
    cherries,
    columnScales,
    qweight: unpackRows(take('packed'), rows, storedColumns(columns, cherries.perRow, grid), grid.bits),
    scales: new Uint16Array(take('scales').buffer),
    zeros: grid.levels === 'asymmetric' ? unpackRows(take('zeros'), rows, groups, grid.bits) : new Uint8Array(0),
    cherryWeight: new Uint16Array(take('cherryWeight').buffer),
  };
}

function bytesOf(values: Uint16Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

interface Chunk {
  readonly fromRow: number;
  readonly rows: number;
  readonly columns: number;
  /** Bytes that `placeRows` takes. */
  readonly bytes: number;
}

/** Row ranges of at most `chunkElements` weights, or of one row. */
function* chunksOf({ rows, columns, dtype, cherries }: RoundedRows): Generator<Chunk> {
  const rowsAtOnce = Math.max(1, Math.floor(chunkElements / columns));
  for (let fromRow = 0; fromRow < rows; fromRow += rowsAtOnce) {
    const count = Math.min(rowsAtOnce, rows - fromRow);
    const rowBytes = floatBytes[dtype] * columns + 4 * cherries.perRow;
    // Two rows of float32 and their read-back, and one of bytes.
    yield { fromRow, rows: count, columns, bytes: count * rowBytes + 13 * columns + 8 * (slack + 16) };
  }
}

function openArena(chunk: Chunk, outBytes: number): { kernels: QuantizeKernels; arena: Arena } {
  return loadKernels<QuantizeKernels>('quantize', chunk.bytes + outBytes + 8 * (slack + 16));
}

/** Copies a chunk in.  @returns the first eleven arguments of a kernel on rows */
function placeRows(arena: Arena, args: RoundedRows, { fromRow, rows }: Chunk): number[] {
  const { columns, dtype, grid, cherries } = args;
  const { perRow } = cherries;
  const rowBytes = floatBytes[dtype] * columns;
  const source = room(arena, rows * rowBytes);
  source.set(args.source.subarray(fromRow * rowBytes, (fromRow + rows) * rowBytes));
  const columnsOfCherries = arena.uint32(rows * perRow);
  columnsOfCherries.set(cherries.columns.subarray(fromRow * perRow, (fromRow + rows) * perRow));
  const row = room(arena, 4 * columns);
  const normals = room(arena, 8 * columns + slack);
  const levels = room(arena, columns);
  return [
    at(source),
    floatTypes.indexOf(dtype),
    rows,
    columns,
    grid.bits,
    Math.min(grid.groupSize, columns - perRow),
    columnsOfCherries.byteOffset,
    perRow,
    at(row),
    at(normals),
    at(levels),
  ];
}

const room = (arena: Arena, bytes: number): Uint8Array => arena.bytes(bytes + slack);
const at = (array: Uint8Array): number => array.byteOffset;

/** Copies what a kernel wrote for some rows to where they belong among all `rows`. */
function copyOut(from: Uint8Array, bytes: number, into: Uint8Array, fromRow: number, rows: number): void {
  into.set(from.subarray(0, bytes), (into.length / rows) * fromRow);
}

function copyIn(from: Uint8Array, bytes: number, into: Uint8Array, fromRow: number, rows: number): void {
  const start = (from.length / rows) * fromRow;
  into.set(from.subarray(start, start + bytes));
}

const magnitudeBits = new Int32Array(1);
const magnitude = new Float32Array(magnitudeBits.buffer);

function magnitudeOf(bits: number): number {
  magnitudeBits[0] = bits;
  return magnitude[0];
}
