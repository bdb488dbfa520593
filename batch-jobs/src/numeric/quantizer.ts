/**
 * Quantizers on typed arrays. Each row is cut into groups that share a scale S, rounded to float16; a weight becomes an
 * integer q of its group, and x' when it is read back.
 *
 *   midRise     S = (max|x| + 1e-6) / 2^(bits-1)        q = round(clip(x / S, +-(2^(bits-1) - 0.01)) - 0.5)   x' = (q + 0.5) S
 *   symmetric   S = (max|x| + 1e-6) / (2^(bits-1) - 1)  q = clip(round(x / S), +-(2^(bits-1) - 1))            x' = q S
 *   asymmetric  S = (max - min) / (2^bits - 1)          z = round(-min / S), q = clip(round(x / S) + z, 0, 2^bits - 1)   x' = (q - z) S
 *
 * Rounding is half to even. For the asymmetric levels min is at most and max at least 0, so that z has as many bits as q.
 * Groups are cut from what is left of a row once its cherries are taken out, as published, or keep their columns (`aligned`): a
 * cherry's slot then holds the nearest level, which nobody reads, and does not count for the scale. With column scales s,
 * x' = Q(x s) / s, cherries left as they are.
 *
 * @source Cui & Wang, NeurIPS 2024, appendix C and section 6.4, and their code; the asymmetric levels: GPTQ's and
 * compressed-tensors'; differs: S is rounded to float16 before it is used, in training as well, so that the grid a model is
 * trained on is exactly the grid that is stored
 */
import { float16ToFloat32, float32ToFloat16, roundToFloat16 } from './dtypes.ts';

export type LevelKind = 'midRise' | 'symmetric' | 'asymmetric';

export interface Grid {
  readonly bits: number;
  /** Weights that share a scale; `Infinity` for the whole row. */
  readonly groupSize: number;
  readonly levels: LevelKind;
  /** Whether groups keep their columns; false: they are cut after the cherries are taken out. */
  readonly aligned: boolean;
}

/** The published levels: mid-rise up to 4 bits, restricted symmetric above. */
export function publishedLevels(bits: number): LevelKind {
  return bits <= 4 ? 'midRise' : 'symmetric';
}

/** Columns of the cherries of each row: ascending, `perRow` of them for each of the rows, flattened. */
export interface Cherries {
  readonly perRow: number;
  readonly columns: Uint32Array;
  /** Whether every row has the same, which files then hold once. */
  readonly shared: boolean;
}

export const noCherries: Cherries = { perRow: 0, columns: new Uint32Array(0), shared: false };

/** The cherries of some rows, in memory of their own. */
export function cherriesOfRows({ perRow, columns, shared }: Cherries, fromRow: number, rows: number): Cherries {
  return { perRow, columns: columns.slice(fromRow * perRow, (fromRow + rows) * perRow), shared };
}

/** One matrix in integers; see docs/format.md for how it is stored. */
export interface QuantizedMatrix {
  readonly rows: number;
  readonly columns: number;
  readonly grid: Grid;
  readonly cherries: Cherries;
  /** [columns], each a float16; null where columns are not scaled. */
  readonly columnScales: Float32Array | null;
  /** [rows, stored columns]; `q - qMin`, so unsigned. */
  readonly qweight: Uint8Array;
  /** [rows, groups] float16 bits. */
  readonly scales: Uint16Array;
  /** [rows, groups] zero points of asymmetric levels; empty for others. */
  readonly zeros: Uint8Array;
  /** [rows, perRow] float16 bits. */
  readonly cherryWeight: Uint16Array;
}

/** Smallest positive float16, for groups whose scale would vanish. */
const leastScale = 2 ** -24;

/** Added to a double of magnitude below 2^51 and taken away again, it leaves the nearest integer. */
const roundingConstant = 1.5 * 2 ** 52;

/** Half to even, as torch.round. */
function roundHalfEven(value: number): number {
  return value + roundingConstant - roundingConstant;
}

/**
 * Cherries kept per row: the published rounding down to a multiple of 8 and, where that gives none, the same fraction
 * rounded up, so at least one.  @source the published CherryQ code; the second half is ours, for rows below 2048 columns
 */
export function cherryCount(columns: number, fraction: number): number {
  const wanted = Math.ceil(columns * fraction);
  return Math.floor(wanted / 8) * 8 || wanted;
}

/** Integers in a row: those of its normal weights, or, where groups keep their columns, one for every column. */
export function storedColumns(columns: number, perRow: number, { aligned }: Pick<Grid, 'aligned'>): number {
  return aligned ? columns : columns - perRow;
}

/** Groups in a row; the last one may be short. */
export function groupCount(columns: number, perRow: number, grid: Pick<Grid, 'groupSize' | 'aligned'>): number {
  return grid.groupSize === Infinity ? 1 : Math.ceil(storedColumns(columns, perRow, grid) / grid.groupSize);
}

/** The constants of the levels; all but `steps` are of the two kinds that are symmetric about zero. */
export interface Levels {
  readonly scaleDivisor: number;
  /** Lowest integer; stored integers are q - qMin. */
  readonly qMin: number;
  /** 0.5 for mid-rise, 0 for levels that include zero. */
  readonly offset: number;
  readonly clip: number;
  /** The largest stored integer. */
  readonly steps: number;
}

export function levelsOf({ bits, levels }: Pick<Grid, 'bits' | 'levels'>): Levels {
  const half = 2 ** (bits - 1);
  return levels === 'midRise'
    ? { scaleDivisor: half, qMin: -half, offset: 0.5, clip: half - 0.01, steps: 2 * half - 1 }
    : { scaleDivisor: half - 1, qMin: -half, offset: 0, clip: half - 1, steps: 2 * half - 1 };
}

/** The scale of a group, a float16, and its zero point, which symmetric levels do not have. */
interface GroupScale {
  readonly scale: number;
  readonly zero: number;
}

/** @param least,most of the group's normal weights; 0 and 0 where it has none */
function groupScale(least: number, most: number, grid: Grid, { scaleDivisor, steps }: Levels): GroupScale {
  if (grid.levels !== 'asymmetric') {
    const largest = Math.max(-least, most);
    return { scale: roundToFloat16((largest + 1e-6) / scaleDivisor) || leastScale, zero: 0 };
  }
  const [low, high] = [Math.min(least, 0), Math.max(most, 0)];
  const scale = roundToFloat16((high - low) / steps) || leastScale;
  return { scale, zero: clamp(roundHalfEven(-low / scale), 0, steps) };
}

function clamp(value: number, least: number, most: number): number {
  return value > most ? most : value < least ? least : value;
}

/** The stored integer of a weight. */
function integerOf(value: number, { scale, zero }: GroupScale, grid: Grid, levels: Levels): number {
  if (grid.levels === 'asymmetric') return clamp(roundHalfEven(value / scale) + zero, 0, levels.steps);
  const clipped = clamp(value / scale, -levels.clip, levels.clip);
  return roundHalfEven(clipped - levels.offset) - levels.qMin;
}

/** What is added to a stored integer before it is scaled.  @param zero of its group; only asymmetric levels have one */
function shiftOf(grid: Grid, { qMin, offset }: Levels, zero: number): number {
  return grid.levels === 'asymmetric' ? -zero : qMin + offset;
}

/** Which columns of a row have an integer, in order, and which of those are cherries' slots. */
class RowLayout {
  /** Column of each stored integer. */
  readonly columns: Uint32Array;
  /** 1 for a slot of a cherry. */
  readonly isSlot: Uint8Array;
  private readonly isCherry: Uint8Array;

  constructor(
    private readonly width: number,
    private readonly cherries: Cherries,
    private readonly grid: Grid,
  ) {
    const stored = storedColumns(width, cherries.perRow, grid);
    this.columns = Uint32Array.from({ length: stored }, (_, column) => column);
    this.isSlot = new Uint8Array(stored);
    this.isCherry = new Uint8Array(width);
  }

  /** Sets both to those of a row. */
  enter(row: number): void {
    const { perRow, columns } = this.cherries;
    if (perRow === 0) return;
    const own = columns.subarray(row * perRow, (row + 1) * perRow);
    for (const column of own) this.isCherry[column] = 1;
    if (this.grid.aligned) this.isSlot.set(this.isCherry);
    else
      for (let column = 0, next = 0; column < this.width; column++)
        if (!this.isCherry[column]) this.columns[next++] = column;
    for (const column of own) this.isCherry[column] = 0;
  }

  /** The values that have an integer, scaled by column.  @param start of the row in `weight`   @param into [stored columns] */
  gather(weight: Float32Array, start: number, columnScales: Float32Array | null, into: Float32Array): void {
    for (let i = 0; i < into.length; i++) {
      const column = this.columns[i];
      const value = weight[start + column];
      into[i] = columnScales === null ? value : value * columnScales[column];
    }
  }
}

/**
 * The integers, scales and 16-bit cherries of a matrix.
 * @param weight [rows, columns] row-major, finite   @param columnScales [columns], each a float16, or null
 */
export function quantizeMatrix(
  weight: Float32Array,
  columns: number,
  grid: Grid,
  cherries: Cherries,
  columnScales: Float32Array | null = null,
): QuantizedMatrix {
  const rows = weight.length / columns;
  const levels = levelsOf(grid);
  const stored = storedColumns(columns, cherries.perRow, grid);
  const groupSize = Math.min(grid.groupSize, stored);
  const groups = groupCount(columns, cherries.perRow, grid);
  const layout = new RowLayout(columns, cherries, grid);
  const values = new Float32Array(stored);
  const qweight = new Uint8Array(rows * stored);
  const scales = new Float32Array(rows * groups);
  const zeros = new Uint8Array(grid.levels === 'asymmetric' ? rows * groups : 0);
  const cherryWeight = new Float32Array(rows * cherries.perRow);
  for (let row = 0; row < rows; row++) {
    layout.enter(row);
    layout.gather(weight, row * columns, columnScales, values);
    for (let group = 0; group < groups; group++) {
      const from = group * groupSize;
      const until = Math.min(from + groupSize, stored);
      const own = scaleOfGroup(values, layout.isSlot, from, until, grid, levels);
      scales[row * groups + group] = own.scale;
      if (grid.levels === 'asymmetric') zeros[row * groups + group] = own.zero;
      for (let i = from; i < until; i++) qweight[row * stored + i] = integerOf(values[i], own, grid, levels);
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
    columnScales,
    qweight,
    scales: float32ToFloat16(scales),
    zeros,
    cherryWeight: float32ToFloat16(cherryWeight),
  };
}

function scaleOfGroup(
  values: Float32Array,
  isSlot: Uint8Array,
  from: number,
  until: number,
  grid: Grid,
  levels: Levels,
): GroupScale {
  let least = Infinity;
  let most = -Infinity;
  for (let i = from; i < until; i++) {
    if (isSlot[i]) continue;
    const value = values[i];
    if (value < least) least = value;
    if (value > most) most = value;
  }
  return most === -Infinity ? groupScale(0, 0, grid, levels) : groupScale(least, most, grid, levels);
}

/** @returns [rows, columns] float32, row-major */
export function dequantizeMatrix(matrix: QuantizedMatrix): Float32Array {
  const { rows, columns, grid, cherries, columnScales, qweight, zeros } = matrix;
  const levels = levelsOf(grid);
  const stored = storedColumns(columns, cherries.perRow, grid);
  const groupSize = Math.min(grid.groupSize, stored);
  const groups = groupCount(columns, cherries.perRow, grid);
  const scales = float16ToFloat32(matrix.scales);
  const cherryWeight = float16ToFloat32(matrix.cherryWeight);
  const layout = new RowLayout(columns, cherries, grid);
  const weight = new Float32Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    layout.enter(row);
    for (let group = 0; group < groups; group++) {
      const scale = scales[row * groups + group];
      const shift = shiftOf(grid, levels, zeros[row * groups + group]);
      const until = Math.min((group + 1) * groupSize, stored);
      for (let i = group * groupSize; i < until; i++) {
        const column = layout.columns[i];
        const value = Math.fround((qweight[row * stored + i] + shift) * scale);
        weight[row * columns + column] = columnScales === null ? value : value / columnScales[column];
      }
    }
    for (let c = 0; c < cherries.perRow; c++) {
      const at = row * cherries.perRow + c;
      weight[row * columns + cherries.columns[at]] = cherryWeight[at];
    }
  }
  return weight;
}

/**
 * What `dequantizeMatrix(quantizeMatrix(...))` gives, without the stored form between, except that cherries keep their float32 values.
 * @param into receives [rows, columns], as `weight`
 */
export function fakeQuantizeMatrix(
  weight: Float32Array,
  columns: number,
  grid: Grid,
  cherries: Cherries,
  columnScales: Float32Array | null,
  into: Float32Array,
): void {
  const rows = weight.length / columns;
  const levels = levelsOf(grid);
  const stored = storedColumns(columns, cherries.perRow, grid);
  const groupSize = Math.min(grid.groupSize, stored);
  const layout = new RowLayout(columns, cherries, grid);
  const values = new Float32Array(stored);
  into.set(weight);
  for (let row = 0; row < rows; row++) {
    layout.enter(row);
    const start = row * columns;
    layout.gather(weight, start, columnScales, values);
    for (let from = 0; from < stored; from += groupSize) {
      const until = Math.min(from + groupSize, stored);
      const own = scaleOfGroup(values, layout.isSlot, from, until, grid, levels);
      const shift = shiftOf(grid, levels, own.zero);
      for (let i = from; i < until; i++) {
        if (layout.isSlot[i]) continue;
        const column = layout.columns[i];
        const value = Math.fround((integerOf(values[i], own, grid, levels) + shift) * own.scale);
        into[start + column] = columnScales === null ? value : value / columnScales[column];
      }
    }
  }
}

/** Bits that one weight of a matrix costs on disk, everything stored for it counted (16-bit scale, value and index). */
export function storedBits(
  matrix: Pick<QuantizedMatrix, 'rows' | 'columns' | 'grid' | 'cherries'> & {
    readonly columnScales?: Float32Array | null;
  },
): number {
  const { rows, columns, grid, cherries, columnScales = null } = matrix;
  const { perRow, shared } = cherries;
  const groups = groupCount(columns, perRow, grid);
  const integers = 8 * Math.ceil((storedColumns(columns, perRow, grid) * grid.bits) / 8);
  const zeros = grid.levels === 'asymmetric' ? 8 * Math.ceil((groups * grid.bits) / 8) : 0;
  const indices = shared ? (16 * perRow) / rows : 16 * perRow;
  const ofColumns = columnScales === null ? 0 : (16 * columns) / rows;
  return (integers + 16 * groups + zeros + 16 * perRow + indices + ofColumns) / columns;
}
