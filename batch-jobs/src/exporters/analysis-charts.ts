/** The figures of an analysis, drawn as those of `report-charts.ts` are. */
import * as Plot from '@observablehq/plot';
import type { Heterogeneity, Overlap } from 'cherryq/contract';
import type { AnalyzedMatrix } from './analysis-data.ts';
import { axes, decades, draw, drawable, kindOf, powerOfTen, shorten } from './report-charts.ts';

/** Weights drawn of one matrix besides its cherries, which all are. */
const weightsDrawn = { large: 900, small: 260 };
/** Blocks shown of each kind of matrix. */
const mostBlocks = 8;
/** Cells of a larger map are drawn without their numbers. */
const mostNumberedSides = 12;

/** Number of the block that a matrix belongs to; 0 where its name has none. */
export const blockOf = (matrix: string): number => Number(/\.(\d+)\./.exec(matrix)?.[1] ?? 0);

export interface ImpactFigures {
  readonly kind: string;
  /** Of the block in the middle. */
  readonly middle: { readonly matrix: AnalyzedMatrix; readonly svg: string };
  /** Smaller ones of blocks from first to last; empty where there is but one. */
  readonly blocks: readonly { readonly matrix: AnalyzedMatrix; readonly svg: string }[];
}

/**
 * For each kind of matrix, sampled weights by rank in magnitude (across) and impact (up, logarithmic), all on one scale;
 * dashed: the impact that as many weights of the matrix reach as there are cherries.
 */
export const impactFigures = (matrices: readonly AnalyzedMatrix[]): ImpactFigures[] => {
  const positive = matrices.flatMap(({ samples }) => samples.impact.filter(drawable));
  if (positive.length === 0) return [];
  const scale = decades(positive);
  const kinds = new Map<string, AnalyzedMatrix[]>();
  for (const matrix of matrices) {
    const kind = kindOf(matrix.matrix);
    kinds.set(kind, [...(kinds.get(kind) ?? []), matrix]);
  }
  return [...kinds].map(([kind, own]) => {
    const byDepth = own.toSorted((a, b) => blockOf(a.matrix) - blockOf(b.matrix));
    const middle = byDepth[Math.floor(byDepth.length / 2)];
    const shown = Math.min(byDepth.length, mostBlocks);
    const spread = Array.from(
      { length: shown },
      (_, i) => byDepth[shown === 1 ? 0 : Math.round((i * (byDepth.length - 1)) / (shown - 1))],
    );
    return {
      kind,
      middle: { matrix: middle, svg: impactFigure(middle, scale, 'large') },
      blocks:
        byDepth.length === 1 ? [] : spread.map((matrix) => ({ matrix, svg: impactFigure(matrix, scale, 'small') })),
    };
  });
};

const impactFigure = (
  { matrix, samples, cut }: AnalyzedMatrix,
  { domain, ticks }: ReturnType<typeof decades>,
  size: 'large' | 'small',
): string => {
  const count = samples.index.length;
  const every = Math.ceil(count / weightsDrawn[size]);
  const points = samples.magnitude
    .map((magnitude, i) => ({ magnitude, impact: samples.impact[i], cherry: samples.cherry[i] }))
    .sort((a, b) => a.magnitude - b.magnitude)
    .map((point, i) => ({ ...point, rank: (100 * (i + 0.5)) / count, drawn: i % every === 0 }))
    .filter((point) => drawable(point.impact) && (point.cherry || point.drawn));
  const cherries = points.filter((point) => point.cherry);
  const large = size === 'large';
  const title = `Impact of ${count} sampled weights of ${matrix}, ${cherries.length} of them cherries, by rank in magnitude`;
  return draw(title, {
    ...axes,
    ...(large ? {} : { width: 250, height: 180 }),
    marginLeft: 42,
    marginRight: 12,
    x: {
      label: 'rank in magnitude (%)',
      labelOffset: 38,
      domain: [0, 100],
      ticks: large ? [0, 25, 50, 75, 100] : [0, 50, 100],
    },
    y: {
      type: 'log',
      domain,
      ticks: large ? ticks : ticks.filter((_, i) => i % 2 === 0),
      tickFormat: powerOfTen,
      label: 'impact',
      grid: true,
    },
    marks: [
      Plot.dot(
        points.filter((point) => !point.cherry),
        { x: 'rank', y: 'impact', r: large ? 1.3 : 1, fill: 'var(--plain)', fillOpacity: 0.6 },
      ),
      ...(cut !== null && cut >= domain[0] && cut <= domain[1]
        ? [Plot.ruleY([cut], { stroke: 'var(--ink)', strokeDasharray: '4 3', strokeOpacity: 0.75 })]
        : []),
      Plot.dot(cherries, {
        x: 'rank',
        y: 'impact',
        r: large ? 3 : 2,
        fill: 'var(--cherry)',
        stroke: 'var(--paper)',
        strokeWidth: 0.5,
      }),
    ],
  });
};

/** The three criteria, in the order in which they are drawn, with their colours. */
export const criteria = [
  { key: 'byImpact', label: 'impact', colour: 'var(--cherry)' },
  { key: 'byWeight', label: 'weight', colour: 'var(--second)' },
  { key: 'byActivation', label: 'activation', colour: 'var(--third)' },
] as const;

interface Score {
  readonly matrix: string;
  readonly kind: string;
  readonly block: number;
  readonly score: number;
}

const scoresBy = (scores: readonly Heterogeneity[], key: (typeof criteria)[number]['key']): Score[] =>
  scores
    .map((score) => ({
      matrix: score.matrix,
      kind: kindOf(score.matrix),
      block: blockOf(score.matrix),
      score: score[key],
    }))
    .filter(({ score }) => drawable(score));

const scoreTicks = [0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 1e5, 1e6];

/** A logarithmic scale over all scores, 1 included. */
const scoreScale = (scores: readonly Heterogeneity[]) => {
  const values = scores.flatMap((score) => criteria.map(({ key }) => score[key])).filter(drawable);
  const domain: [number, number] = [Math.min(1, ...values) * 0.9, Math.max(3, ...values) * 1.15];
  const ticks = scoreTicks.filter((tick) => tick >= domain[0] && tick <= domain[1]);
  // Every 1, 2, 5 over two decades, whole decades beyond.
  const kept = ticks.length <= 9 ? ticks : ticks.filter((tick) => Number.isInteger(Math.log10(tick)));
  return { domain, ticks: kept };
};

/** One row per kind of matrix, one dot per matrix and criterion, a criterion below the other. */
export const heterogeneityByKind = (scores: readonly Heterogeneity[]): string => {
  const kinds = [...new Set(scores.map(({ matrix }) => kindOf(matrix)))];
  return draw(`Heterogeneity scores of ${scores.length} matrices by impact, weight and activation, by kind of matrix`, {
    height: 38 * kinds.length + 62,
    marginBottom: 40,
    marginLeft: 118,
    marginRight: 12,
    x: {
      type: 'log',
      ...scoreScale(scores),
      tickFormat: String,
      label: 'heterogeneity score',
      labelOffset: 38,
      grid: true,
    },
    y: { type: 'band', domain: kinds, label: null, tickSize: 0, tickFormat: (kind: string) => shorten(kind, 16) },
    marks: criteria.map(({ key, label, colour }, i) =>
      Plot.dot(scoresBy(scores, key), {
        x: 'score',
        y: 'kind',
        dy: 9 * (i - 1),
        r: 3.2,
        fill: colour,
        fillOpacity: 0.75,
        title: ({ matrix, score }: Score) => `${matrix} by ${label}: ${score.toPrecision(3)}`,
      }),
    ),
  });
};

/** Each matrix at the depth of its block. */
export const heterogeneityByDepth = (scores: readonly Heterogeneity[]): string => {
  const { domain, ticks } = scoreScale(scores);
  const blocks = Math.max(...scores.map(({ matrix }) => blockOf(matrix))) + 1;
  return draw(`Heterogeneity scores of ${scores.length} matrices by impact, weight and activation, by depth`, {
    ...axes,
    marginLeft: 48,
    x: {
      label: 'block',
      labelOffset: 38,
      domain: [-0.5, blocks - 0.5],
      ticks: Array.from({ length: blocks }, (_, i) => i).filter((block) => block % Math.ceil(blocks / 8) === 0),
      tickFormat: String,
    },
    y: { type: 'log', domain, ticks, tickFormat: String, label: 'heterogeneity score', grid: true },
    marks: criteria.map(({ key, label, colour }, i) =>
      Plot.dot(scoresBy(scores, key), {
        x: 'block',
        y: 'score',
        dx: 5 * (i - 1),
        r: 3,
        fill: colour,
        fillOpacity: 0.7,
        title: ({ matrix, score }: Score) => `${matrix} by ${label}: ${score.toPrecision(3)}`,
      }),
    ),
  });
};

/** A square of all draws: the share of cherries that two have in common, dark for many; the diagonal is 1. */
export const overlapMap = (overlaps: readonly Overlap[]): string => {
  const labels = [...new Set(overlaps.flatMap(({ first, second }) => [first, second]))];
  const cells = [
    ...overlaps,
    ...overlaps.map((overlap) => ({ ...overlap, first: overlap.second, second: overlap.first })),
    ...labels.map((label) => ({ first: label, second: label, share: 1 })),
  ];
  const side = Math.min(52, Math.max(9, 300 / labels.length));
  const numbered = labels.length <= mostNumberedSides;
  const text = (label: string): string => shorten(label, 16);
  return draw(
    `Share of cherries in common: ${overlaps.map(({ first, second, share }) => `${first} and ${second} ${share.toFixed(2)}`).join(', ')}`,
    {
      width: Math.round(130 + side * labels.length),
      height: Math.round(96 + side * labels.length),
      marginLeft: 118,
      marginRight: 10,
      marginTop: 6,
      marginBottom: 90,
      x: { domain: labels, label: null, tickSize: 0, tickRotate: -45, tickFormat: text },
      y: { domain: labels, label: null, tickSize: 0, tickFormat: text },
      marks: [
        Plot.cell(cells, {
          x: 'first',
          y: 'second',
          fill: 'var(--cherry)',
          fillOpacity: 'share',
          inset: 0.5,
          title: ({ first, second, share }: (typeof cells)[number]) => `${first} and ${second}: ${share.toFixed(3)}`,
        }),
        ...(numbered
          ? [
              Plot.text(cells, {
                x: 'first',
                y: 'second',
                text: ({ share }: (typeof cells)[number]) => share.toFixed(2),
                fontSize: 11,
                fill: ({ share }: (typeof cells)[number]) => (share > 0.6 ? 'var(--paper)' : 'var(--ink)'),
              }),
            ]
          : []),
      ],
      opacity: { domain: [0, 1], range: [0.04, 0.85] },
    },
  );
};
