/**
 * What a matrix becomes once it is quantized and read back, as training needs it at every step, for the host threads (pool.ts).
 * The published grid goes chunk by chunk through a small WebAssembly module (batch-jobs/kernels/round.ts), every other
 * through the plain functions of quantizer.ts; cherries keep their float32 values in both.
 */
import { loadKernels } from './kernel-module.ts';
import type { Cherries, Grid } from './quantizer.ts';
import { cherriesOfRows, fakeQuantizeMatrix, levelsOf, publishedLevels } from './quantizer.ts';

export interface FakeQuantizeArgs {
  /** [rows, columns], row-major, in shared memory. */
  readonly weight: Float32Array;
  readonly columns: number;
  /** Rows to work on; `untilRow` is exclusive. */
  readonly fromRow: number;
  readonly untilRow: number;
  readonly grid: Grid;
  /** Of the whole matrix. */
  readonly cherries: Cherries;
  /** [columns], each a float16, or null. */
  readonly columnScales: Float32Array | null;
  /** Receives the rows; as `weight`. */
  readonly into: Float32Array;
}

interface RoundKernels {
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
}

/** Elements of a chunk: what a kernel reads and writes of it fits into a core's own cache. */
const chunkElements = 16_384;

/** Whether a grid is the published one, which the WebAssembly kernels know. */
export function isPublishedGrid({ bits, levels, aligned }: Grid, columnScales: Float32Array | null): boolean {
  return levels === publishedLevels(bits) && !aligned && columnScales === null;
}

export function fakeQuantizeRows(args: FakeQuantizeArgs): void {
  const { columns, fromRow, untilRow } = args;
  const roundChunk = isPublishedGrid(args.grid, args.columnScales) ? roundByKernel : roundPlainly;
  const rowsAtOnce = Math.max(1, Math.floor(chunkElements / columns));
  for (let row = fromRow; row < untilRow; row += rowsAtOnce) {
    roundChunk(args, row, Math.min(rowsAtOnce, untilRow - row));
  }
}

function roundByKernel({ weight, columns, grid, cherries, into }: FakeQuantizeArgs, row: number, rows: number): void {
  const { perRow } = cherries;
  const length = rows * columns;
  const from = row * columns;
  const bytes = 4 * (2 * (length + 4) + rows * perRow + columns + 8);
  const { kernels, arena } = loadKernels<RoundKernels>('round', bytes);
  const source = arena.float32(length);
  source.set(weight.subarray(from, from + length));
  const target = arena.float32(length);
  const normals = arena.float32(columns + 1);
  const own = arena.uint32(rows * perRow);
  own.set(cherries.columns.subarray(row * perRow, (row + rows) * perRow));
  const levels = levelsOf(grid);
  kernels.fakeQuant(
    source.byteOffset,
    rows,
    columns,
    Math.min(grid.groupSize, columns - perRow),
    own.byteOffset,
    perRow,
    levels.scaleDivisor,
    levels.offset,
    levels.clip,
    normals.byteOffset,
    target.byteOffset,
  );
  into.set(target, from);
}

function roundPlainly(args: FakeQuantizeArgs, row: number, rows: number): void {
  const { weight, columns, grid, cherries, columnScales, into } = args;
  const [from, until] = [row * columns, (row + rows) * columns];
  const own = cherriesOfRows(cherries, row, rows);
  fakeQuantizeMatrix(weight.subarray(from, until), columns, grid, own, columnScales, into.subarray(from, until));
}
