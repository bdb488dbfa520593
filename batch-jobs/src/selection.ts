/**
 * Which weights become cherries: those of highest score in each row, as the published code chooses, or the columns of
 * highest mean score, as the paper's section 6.1 does. Scores are the impact of a weight, its magnitude, or the mean magnitude
 * of the input that it meets; by the last, every row has the same cherries in either mode.
 * @source Cui & Wang, NeurIPS 2024, section 6.1 and table 7, and their code
 */
import type { Scheme } from 'cherryq/contract';
import type { ImpactArtifact } from './impact-artifact.ts';
import { isLinear } from './models/decoder-config.ts';
import type { WeightSource } from './models/decoder.ts';
import type { Cherries } from './numeric/quantizer.ts';
import { cherryCount } from './numeric/quantizer.ts';
import { columnMeans, topColumns } from './numeric/top-columns.ts';

export type Selection = Pick<Scheme, 'criterion' | 'cherryMode' | 'cherryFraction'>;

/** Whether a selection needs an artifact of the impact, which holds the activations too. */
export function needsImpact({ criterion }: Pick<Selection, 'criterion'>): boolean {
  return criterion !== 'weight';
}

/**
 * The cherries of every linear layer, by its full name.
 * @param artifact may be null when `needsImpact` says so   @param weights read only by magnitude
 */
export async function selectCherries(
  artifact: ImpactArtifact | null,
  weights: WeightSource,
  shapes: ReadonlyMap<string, readonly number[]>,
  selection: Selection,
): Promise<Map<string, Cherries>> {
  const cherries = new Map<string, Cherries>();
  for (const [name, shape] of shapes) {
    if (isLinear(name)) cherries.set(name, await cherriesOf(name, shape, artifact, weights, selection));
  }
  return cherries;
}

/** The cherries of one matrix.  @param shape [rows, columns] */
export async function cherriesOf(
  name: string,
  [rows, columns]: readonly number[],
  artifact: ImpactArtifact | null,
  weights: WeightSource,
  { criterion, cherryMode, cherryFraction }: Selection,
): Promise<Cherries> {
  const count = cherryCount(columns, cherryFraction);
  const shared = cherryMode === 'column';
  if (!shared && criterion !== 'activation') {
    const ranked =
      criterion === 'weight'
        ? { perRow: count, columns: topColumns(await weights.read(name), columns, count) }
        : await known(artifact).candidates(name);
    return { perRow: count, columns: firstOfEach(ranked, rows, count), shared };
  }
  const scores =
    criterion === 'weight'
      ? columnMeans(await weights.read(name), columns)
      : criterion === 'impact'
        ? await known(artifact).columnMeans(name)
        : (await known(artifact).activations(name)).magnitudes;
  const own = topColumns(scores, columns, count).sort();
  const all = new Uint32Array(rows * count);
  for (let row = 0; row < rows; row++) all.set(own, row * count);
  return { perRow: count, columns: all, shared };
}

function known(artifact: ImpactArtifact | null): ImpactArtifact {
  if (!artifact) throw new Error('this selection needs the impact of the weights');
  return artifact;
}

/** The first `count` columns of each row, ascending. */
function firstOfEach(
  { perRow, columns }: { readonly perRow: number; readonly columns: Uint16Array | Uint32Array },
  rows: number,
  count: number,
): Uint32Array {
  if (count > perRow) throw new Error(`${count} cherries a row were asked for, but ${perRow} columns are known`);
  const chosen = new Uint32Array(rows * count);
  for (let row = 0; row < rows; row++) {
    const own = chosen.subarray(row * count, (row + 1) * count);
    own.set(columns.subarray(row * perRow, row * perRow + count));
    own.sort();
  }
  return chosen;
}
