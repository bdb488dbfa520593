/**
 * The published CherryQ quantizer on typed arrays: groups cut from each row after its cherries are taken out, full-range
 * mid-rise levels up to 4 bits, restricted symmetric levels above.
 *
 *   bits <= 4:  S = (max|x| + 1e-6) / 2^(bits-1)      q = round(clip(x / S, +-(2^(bits-1) - 0.01)) - 0.5)   x' = (q + 0.5) S
 *   bits  > 4:  S = (max|x| + 1e-6) / (2^(bits-1)-1)  q = clip(round(x / S), +-(2^(bits-1) - 1))            x' = q S
 *
 * @source Cui & Wang, NeurIPS 2024, appendix C and their code; differs: S is rounded to float16 before
 * it is used, in training as well, so that the grid a model is trained on is exactly the grid that is stored.
 */
import { float16ToFloat32, float32ToFloat16, roundToFloat16 } from './dtypes.ts';

export interface Grid {
  readonly bits: number;
  /** Weights that share a scale; `Infinity` for the whole row. */
  readonly groupSize: number;
}

/** Columns of the cherries of each row: ascending, `perRow` of them for each of the rows, flattened. */
export interface Cherries {
  readonly perRow: number;
  readonly columns: Uint32Array;
}

export const noCherries: Cherries = { perRow: 0, columns: new Uint32Array(0) };

/** The cherries of some rows, in memory of their own. */
export function cherriesOfRows({ perRow, columns }: Cherries, fromRow: number, rows: number): Cherries {
  return { perRow, columns: columns.slice(fromRow * perRow, (fromRow + rows) * perRow) };
}

/** One matrix in integers; see docs/format.md for how it is stored. */
export interface QuantizedMatrix {
  readonly rows: number;
  readonly columns: number;
  readonly grid: Grid;
  readonly cherries: Cherries;
  /** [rows, columns - perRow]; `q - qMin`, so unsigned. */
  readonly qweight: Uint8Array;
  /** [rows, groups] float16 bits. */
  readonly scales: Uint16Array;
  /** [rows, perRow] float16 bits. */
  readonly cherryWeight: Uint16Array;
}

/** Smallest positive float16, for groups whose scale would vanish. */
const leastScale = 2 ** -24;

/** Half to even, as torch.round. */
function roundHalfEven(value: number): number {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}

/**
 * Cherries kept per row: the published rounding down to a multiple of 8 and, where that gives none, the same fraction
 * rounded up, so at least one.  @source the published CherryQ code; the second half is ours, for rows below 2048 columns
 */
export function cherryCount(columns: number, fraction: number): number {
  const wanted = Math.ceil(columns * fraction);
  return Math.floor(wanted / 8) * 8 || wanted;
}

/** Groups in a row of `columns - perRow` normal weights; the last one may be short. */
export function groupCount(columns: number, perRow: number, grid: Grid): number {
  return grid.groupSize === Infinity ? 1 : Math.ceil((columns - perRow) / grid.groupSize);
}

export interface Levels {
  readonly scaleDivisor: number;
  /** Lowest integer; stored integers are q - qMin. */
  readonly qMin: number;
  /** 0.5 for mid-rise, 0 for levels that include zero. */
  readonly offset: number;
  readonly clip: number;
}

export function levelsOf(bits: number): Levels {
  const half = 2 ** (bits - 1);
  return bits <= 4
    ? { scaleDivisor: half, qMin: -half, offset: 0.5, clip: half - 0.01 }
    : { scaleDivisor: half - 1, qMin: -half, offset: 0, clip: half - 1 };
}

function scaleOf(maximum: number, levels: Levels): number {
  return roundToFloat16((maximum + 1e-6) / levels.scaleDivisor) || leastScale;
}

/** Copies the row's normal weights, in order, to the front of `normals`. */
function takeNormals(
  weight: Float32Array,
  start: number,
  columns: number,
  cherries: Cherries,
  row: number,
  normals: Float32Array,
): void {
  let from = 0;
  let to = 0;
  for (let c = 0; c <= cherries.perRow; c++) {
    const until = c < cherries.perRow ? cherries.columns[row * cherries.perRow + c] : columns;
    for (let column = from; column < until; column++) normals[to++] = weight[start + column];
    from = until + 1;
  }
}

/** Writes `normals` back to the columns they came from; the cherries' columns are left as they are. */
function putNormals(
  normals: Float32Array,
  start: number,
  columns: number,
  cherries: Cherries,
  row: number,
  weight: Float32Array,
): void {
  let from = 0;
  let next = 0;
  for (let c = 0; c <= cherries.perRow; c++) {
    const until = c < cherries.perRow ? cherries.columns[row * cherries.perRow + c] : columns;
    for (let column = from; column < until; column++) weight[start + column] = normals[next++];
    from = until + 1;
  }
}

function largestMagnitude(values: Float32Array, from: number, until: number): number {
  let largest = 0;
  for (let i = from; i < until; i++) {
    const magnitude = Math.abs(values[i]);
    if (magnitude > largest) largest = magnitude;
  }
  return largest;
}

function integerOf(value: number, scale: number, levels: Levels): number {
  const scaled = value / scale;
  const clipped = scaled > levels.clip ? levels.clip : scaled < -levels.clip ? -levels.clip : scaled;
  return roundHalfEven(clipped - levels.offset);
}

/** The integers, scales and 16-bit cherries of a matrix.  @param weight [rows, columns] row-major, finite */
export function quantizeMatrix(weight: Float32Array, columns: number, grid: Grid, cherries: Cherries): QuantizedMatrix {
  const rows = weight.length / columns;
  const levels = levelsOf(grid.bits);
  const normalCount = columns - cherries.perRow;
  const groupSize = Math.min(grid.groupSize, normalCount);
  const groups = groupCount(columns, cherries.perRow, grid);
  const normals = new Float32Array(normalCount);
  const qweight = new Uint8Array(rows * normalCount);
  const scales = new Float32Array(rows * groups);
  const cherryWeight = new Float32Array(rows * cherries.perRow);
  for (let row = 0; row < rows; row++) {
    takeNormals(weight, row * columns, columns, cherries, row, normals);
    for (let group = 0; group < groups; group++) {
      const from = group * groupSize;
      const until = Math.min(from + groupSize, normalCount);
      const scale = scaleOf(largestMagnitude(normals, from, until), levels);
      scales[row * groups + group] = scale;
      for (let i = from; i < until; i++) {
        qweight[row * normalCount + i] = integerOf(normals[i], scale, levels) - levels.qMin;
      }
    }
    for (let c = 0; c < cherries.perRow; c++) {
      const at = row * cherries.perRow + c;
      cherryWeight[at] = weight[row * columns + cherries.columns[at]];
    }
  }
  return {
    rows,
    columns,
    grid,
    cherries,
    qweight,
    scales: float32ToFloat16(scales),
    cherryWeight: float32ToFloat16(cherryWeight),
  };
}

/** @returns [rows, columns] float32, row-major */
export function dequantizeMatrix(matrix: QuantizedMatrix): Float32Array {
  const { rows, columns, grid, cherries, qweight } = matrix;
  const levels = levelsOf(grid.bits);
  const normalCount = columns - cherries.perRow;
  const groupSize = Math.min(grid.groupSize, normalCount);
  const groups = groupCount(columns, cherries.perRow, grid);
  const scales = float16ToFloat32(matrix.scales);
  const cherryWeight = float16ToFloat32(matrix.cherryWeight);
  const normals = new Float32Array(normalCount);
  const weight = new Float32Array(rows * columns);
  const shift = levels.qMin + levels.offset;
  for (let row = 0; row < rows; row++) {
    for (let group = 0; group < groups; group++) {
      const scale = scales[row * groups + group];
      const until = Math.min((group + 1) * groupSize, normalCount);
      for (let i = group * groupSize; i < until; i++) normals[i] = (qweight[row * normalCount + i] + shift) * scale;
    }
    putNormals(normals, row * columns, columns, cherries, row, weight);
    for (let c = 0; c < cherries.perRow; c++) {
      const at = row * cherries.perRow + c;
      weight[row * columns + cherries.columns[at]] = cherryWeight[at];
    }
  }
  return weight;
}

/**
 * The `perRow` columns of highest score in each row, ascending; ties go to the lower column.
 * @param score [rows, columns] row-major, finite
 */
export function topPerRow(score: Float32Array, columns: number, perRow: number): Cherries {
  const rows = score.length / columns;
  const chosen = new Uint32Array(rows * perRow);
  for (let row = 0; row < rows; row++) {
    const order = Array.from({ length: columns }, (_, column) => column);
    const start = row * columns;
    order.sort((a, b) => score[start + b] - score[start + a] || a - b);
    chosen.set(
      order.slice(0, perRow).sort((a, b) => a - b),
      row * perRow,
    );
  }
  return { perRow, columns: chosen };
}

/** Bits that one weight of a matrix costs on disk, everything stored for it counted (16-bit scale, value and index). */
export function storedBits(matrix: Pick<QuantizedMatrix, 'rows' | 'columns' | 'grid' | 'cherries'>): number {
  const { columns, grid, cherries } = matrix;
  const rowBytes = Math.ceil(((columns - cherries.perRow) * grid.bits) / 8);
  return (8 * rowBytes + 16 * groupCount(columns, cherries.perRow, grid) + 32 * cherries.perRow) / columns;
}
