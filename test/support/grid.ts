/** Grids for tests. */
import type { Grid } from '../../batch-jobs/src/numeric/quantizer.ts';
import { publishedLevels } from '../../batch-jobs/src/numeric/quantizer.ts';

/** The published one, unless `changes` say otherwise. */
export function gridFor(bits: number, groupSize: number, changes: Partial<Grid> = {}): Grid {
  return { bits, groupSize, levels: publishedLevels(bits), aligned: false, ...changes };
}
