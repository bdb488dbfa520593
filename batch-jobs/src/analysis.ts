/**
 * What an `analyze` job computes from the impact of a model's weights: how far a few weights stand out in each matrix, by
 * the three criteria; how much the cherries of several calibration sets, or several draws from one, have in common; and sampled
 * weights with the cut between cherries and the rest. Matrices are gone through one at a time.
 * @source Cui & Wang, NeurIPS 2024, sections 3 and 5: figure 1, equation 4, table 1
 */
import type { Overlap } from 'cherryq/contract';
import { createSampler } from './data/windows.ts';
import { InputError } from './errors.ts';
import type { Analysis, AnalyzedMatrix } from './exporters/analysis-data.ts';
import type { ImpactArtifact, ImpactStatistics } from './impact-artifact.ts';
import type { WeightSource } from './models/decoder.ts';
import type { Cherries } from './numeric/quantizer.ts';
import type { Selection } from './selection.ts';
import { cherriesOf } from './selection.ts';

/** A calibration set and what was measured on each draw from it. */
export interface CalibrationSet {
  readonly name: string;
  /** At least one. */
  readonly draws: readonly ImpactArtifact[];
}

export interface AnalyzeOptions {
  /** The first is the model's own, whose first draw the statistics are of. */
  readonly sets: readonly CalibrationSet[];
  readonly weights: WeightSource;
  readonly selection: Selection;
  /** Called after each matrix. */
  readonly onMatrix?: (done: number, total: number) => Promise<void>;
}

/**
 * Disjoint draws from a set's windows, in the order of training: the first is what a job with the same seed and samples
 * measures on. Where the set has too few windows, each draw has as many fewer.
 * @throws InputError when there is not one window for each draw
 */
export function drawWindows(
  windows: readonly Int32Array[],
  { draws, samples, seed }: { readonly draws: number; readonly samples: number; readonly seed: number },
): Int32Array[][] {
  const each = Math.min(samples, Math.floor(windows.length / draws));
  if (each === 0) {
    throw new InputError(
      'text_too_short',
      `It makes ${windows.length} window${windows.length === 1 ? '' : 's'}; ${draws} disjoint draws need at least one ` +
        'each. Give a longer text, fewer draws (analysis.draws) or a smaller training.sequenceLength.',
      'analysis.draws',
    );
  }
  const sampler = createSampler({ count: windows.length, seed });
  return Array.from({ length: draws }, (_, draw) =>
    Array.from({ length: each }, (_, index) => windows[sampler(draw * each + index)]),
  );
}

/** @returns everything that the result, the report and `analysis.json` say of the model's weights */
export async function analyze({ sets, weights, selection, onMatrix }: AnalyzeOptions): Promise<Analysis> {
  const draws = labelledDraws(sets);
  const own = draws[0].artifact;
  const pairs = draws.flatMap((first, i) => draws.slice(i + 1).map((second) => ({ first, second, common: 0 })));
  const matrices: AnalyzedMatrix[] = [];
  let rowsSoFar = 0;
  let byChance = 0;
  for (const [name, statistics] of own.matrices) {
    const { shape } = statistics;
    const chosen = new Map<ImpactArtifact, Cherries>();
    for (const { artifact } of draws) {
      chosen.set(artifact, await cherriesOf(name, shape, artifact, weights, selection));
    }
    for (const pair of pairs) {
      const [first, second] = [pair.first, pair.second].map(({ artifact }) => chosen.get(artifact) as Cherries);
      pair.common += shape[0] * commonShare(first, second);
    }
    const cherries = chosen.get(own) as Cherries;
    rowsSoFar += shape[0];
    byChance += (shape[0] * cherries.perRow) / shape[1];
    matrices.push(await analyzedMatrix(name, statistics, own, cherries, selection));
    await onMatrix?.(matrices.length, own.matrices.size);
  }
  const { criterion, cherryMode, cherryFraction } = selection;
  return {
    selection: { criterion, cherryMode, cherryFraction },
    sets: sets.map((set) => ({ name: set.name, draws: set.draws.length, windows: set.draws[0].windows })),
    heterogeneity: [...own.matrices].map(([matrix, { byImpact, byWeight, byActivation }]) => ({
      matrix,
      byImpact,
      byWeight,
      byActivation,
    })),
    overlaps: pairs.map(({ first, second, common }): Overlap => ({
      first: first.label,
      second: second.label,
      sameSet: first.set === second.set,
      share: common / rowsSoFar,
      byChance: byChance / rowsSoFar,
    })),
    matrices,
  };
}

/** Share of the cherries that two choices for one matrix have in common: the mean over the rows of |A and B| / n. */
export function commonShare(first: Cherries, second: Cherries): number {
  const { perRow } = first;
  if (second.perRow !== perRow || second.columns.length !== first.columns.length) {
    throw new Error('choices for different matrices, or of different fractions, have no share in common');
  }
  let common = 0;
  for (let start = 0; start < first.columns.length; start += perRow) {
    // Both are ascending within a row.
    let [a, b] = [start, start];
    while (a < start + perRow && b < start + perRow) {
      const difference = first.columns[a] - second.columns[b];
      if (difference === 0) common++;
      if (difference <= 0) a++;
      if (difference >= 0) b++;
    }
  }
  return common / first.columns.length;
}

/** Every draw with a name of its own: of its set, numbered where the set has several or another has the same name. */
function labelledDraws(
  sets: readonly CalibrationSet[],
): { readonly set: CalibrationSet; readonly label: string; readonly artifact: ImpactArtifact }[] {
  const seen = new Map<string, number>();
  return sets.flatMap((set) => {
    const several = set.draws.length > 1 || sets.some((other) => other !== set && other.name === set.name);
    return set.draws.map((artifact) => {
      const number = (seen.get(set.name) ?? 0) + 1;
      seen.set(set.name, number);
      return { set, label: several ? `${set.name} #${number}` : set.name, artifact };
    });
  });
}

async function analyzedMatrix(
  matrix: string,
  { shape, meanImpact, maxImpact, tail }: ImpactStatistics,
  artifact: ImpactArtifact,
  cherries: Cherries,
  { criterion }: Selection,
): Promise<AnalyzedMatrix> {
  const { index, impact, magnitude } = await artifact.samples(matrix);
  return {
    matrix,
    shape,
    cherriesPerRow: cherries.perRow,
    meanImpact,
    maxImpact,
    tail,
    cut: criterion === 'impact' ? cutOf(tail, cherries.perRow / shape[1]) : null,
    samples: {
      index: [...index],
      impact: Array.from(impact, sixDigits),
      magnitude: Array.from(magnitude, sixDigits),
      cherry: Array.from(index, (place) => isCherry(cherries, place, shape[1])),
    },
  };
}

const sixDigits = (value: number): number => Number(value.toPrecision(6));

/** Whether the weight at a row-major place is a cherry; each row's are ascending. */
export function isCherry({ perRow, columns }: Cherries, place: number, rowLength: number): boolean {
  const wanted = place % rowLength;
  const start = Math.floor(place / rowLength) * perRow;
  let [from, until] = [start, start + perRow];
  while (from < until) {
    const middle = (from + until) >>> 1;
    if (columns[middle] < wanted) from = middle + 1;
    else until = middle;
  }
  return from < start + perRow && columns[from] === wanted;
}

/** The impact that this share of the weights reaches, interpolated between those known, both on logarithmic scales. */
function cutOf(tail: ImpactStatistics['tail'], fraction: number): number | null {
  const above = tail.findLast((known) => known.fraction >= fraction);
  const below = tail.find((known) => known.fraction < fraction) ?? above;
  if (!above || !below || !(below.least > 0) || !(above.least > 0)) return null;
  if (above.fraction === below.fraction) return above.least;
  const share = Math.log(above.fraction / fraction) / Math.log(above.fraction / below.fraction);
  return sixDigits(above.least * (below.least / above.least) ** share);
}
