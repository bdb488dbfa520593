/** Quantized rows as they are stored, and how long each part is. */
import { packedBytes } from './bit-packing.ts';
import type { Grid } from './quantizer.ts';
import { groupCount, storedColumns } from './quantizer.ts';

/** What docs/format.md stores of quantized rows. */
export interface PackedRows {
  /** [rows, packed bytes of the stored integers] */
  readonly packed: Uint8Array;
  /** float16[rows, groups] */
  readonly scales: Uint8Array;
  /** [rows, packed bytes of the zero points]; empty unless levels are asymmetric */
  readonly zeros: Uint8Array;
  /** float16[rows, perRow] */
  readonly cherryWeight: Uint8Array;
}

/** Bytes of each part of packed rows. */
export function packedSizes(
  rows: number,
  columns: number,
  grid: Grid,
  perRow: number,
): Record<keyof PackedRows, number> {
  const groups = groupCount(columns, perRow, grid);
  return {
    packed: rows * packedBytes(storedColumns(columns, perRow, grid), grid.bits),
    scales: 2 * rows * groups,
    zeros: grid.levels === 'asymmetric' ? rows * packedBytes(groups, grid.bits) : 0,
    cherryWeight: 2 * rows * perRow,
  };
}
