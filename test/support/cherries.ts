/** Cherries for tests. */
import type { Cherries } from '../../batch-jobs/src/numeric/quantizer.ts';
import { topColumns } from '../../batch-jobs/src/numeric/top-columns.ts';

/** The `perRow` columns of largest magnitude in each row, at least one.  @param score [rows, columns] row-major */
export function topCherries(score: Float32Array, columns: number, perRow: number): Cherries {
  const chosen = topColumns(score, columns, perRow);
  for (let from = 0; from < chosen.length; from += perRow) chosen.subarray(from, from + perRow).sort();
  return { perRow, columns: chosen, shared: false };
}
