/**
 * The report's figures, drawn as SVG text on the server with Observable Plot. Colours are the page's CSS variables, so a
 * figure follows light, dark and print. Equal data give equal text: coordinates are rounded, and no mark that numbers its
 * ids by a counter of the process (clips, gradients) is used.
 */
import * as Plot from '@observablehq/plot';
import { parseHTML } from 'linkedom';
import type { ReportData, ReportRow } from './report-data.ts';

/** Figures are drawn near the width of a phone and scaled up, so that their labels stay legible on one. */
const width = 430;
const maxLossPoints = 400;
const maxWeightsDrawn = 900;
const base: Plot.PlotOptions = { width, style: { fontSize: '12px', fontFamily: 'inherit' } };

/** Room for tick labels and, on a line of its own, the axis label. */
export const axes: Plot.PlotOptions = { height: 250, marginTop: 28, marginBottom: 42 };

const attributesToRound = ['cx', 'cy', 'x', 'y', 'x1', 'x2', 'y1', 'y2', 'width', 'd', 'transform'];

/** Draws a plot and serializes it. @param title what the figure shows, for readers who do not see it */
export const draw = (title: string, options: Plot.PlotOptions): string => {
  const { document } = parseHTML('<!doctype html><html><body></body></html>');
  const svg = Plot.plot({ ...base, ...options, ariaLabel: title, document });
  svg.setAttribute('role', 'img');
  for (const element of svg.querySelectorAll('*')) {
    for (const name of attributesToRound) {
      const value = element.getAttribute(name);
      if (value !== null)
        element.setAttribute(
          name,
          value.replace(/-?\d+\.\d{3,}/g, (text) => Number(text).toFixed(2)),
        );
    }
  }
  return svg.outerHTML;
};

export const shorten = (text: string, length: number): string =>
  text.length <= length ? text : `…${text.slice(1 - length)}`;

/** One bar or dot per row, its value written beside it; the job's own row in the colour of the method. */
const rowFill = (row: ReportRow): string => (row.role === 'job' ? 'var(--cherry)' : 'var(--plain)');

export const sizeChart = (rows: readonly ReportRow[]): string =>
  draw(`Size of the weights in megabytes: ${rows.map((row) => `${row.label} ${megabytes(row)}`).join(', ')}`, {
    height: 34 * rows.length + 10,
    marginLeft: 122,
    marginRight: 48,
    marginTop: 4,
    marginBottom: 6,
    x: { axis: null, domain: [0, Math.max(...rows.map((row) => row.sizeBytes))] },
    y: {
      label: null,
      domain: rows.map((row) => row.label),
      tickSize: 0,
      tickFormat: (label: string) => shorten(label, 17),
    },
    marks: [
      Plot.barX(rows, { x: 'sizeBytes', y: 'label', fill: rowFill, insetTop: 5, insetBottom: 5 }),
      Plot.text(rows, { x: 'sizeBytes', y: 'label', text: megabytes, textAnchor: 'start', dx: 6 }),
    ],
  });

/** Two decimals while they mean something. */
const short = (value: number): string => value.toFixed(value < 1000 ? 2 : 0);
const megabytes = (row: ReportRow): string => short(row.sizeBytes / 1e6);

type MeasuredRow = ReportRow & { perplexity: number };

/** Dots rather than bars: perplexity has no meaningful zero. The original's value is drawn as a line through all rows. */
export const perplexityChart = (rows: readonly ReportRow[]): string => {
  const measured = rows.filter((row): row is MeasuredRow => row.perplexity !== null && Number.isFinite(row.perplexity));
  const values = measured.map((row) => row.perplexity);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const margin = (high - low) * 0.12 || high * 0.1;
  const original = measured.filter((row) => row.role === 'original');
  return draw(`Perplexity: ${measured.map((row) => `${row.label} ${short(row.perplexity)}`).join(', ')}`, {
    height: 34 * measured.length + 10,
    marginLeft: 122,
    marginRight: 48,
    marginTop: 4,
    marginBottom: 6,
    x: { axis: null, domain: [low - margin, high] },
    y: {
      label: null,
      domain: measured.map((row) => row.label),
      tickSize: 0,
      type: 'band',
      tickFormat: (label: string) => shorten(label, 17),
    },
    marks: [
      Plot.ruleX(original, { x: 'perplexity', stroke: 'var(--soft)', strokeDasharray: '3 3' }),
      ...original.map(({ perplexity }) =>
        Plot.ruleY(measured, { x1: perplexity, x2: 'perplexity', y: 'label', stroke: rowFill, strokeWidth: 2 }),
      ),
      Plot.dot(measured, { x: 'perplexity', y: 'label', fill: rowFill, r: 5 }),
      Plot.text(measured, {
        x: 'perplexity',
        y: 'label',
        text: (row: MeasuredRow) => short(row.perplexity),
        textAnchor: 'start',
        dx: 9,
      }),
    ],
  });
};

/** The loss of each step (or the mean of as many steps as keep the figure small) and its moving mean. */
export const lossChart = (losses: ReportData['losses']): string => {
  const finite = losses.filter(({ loss }) => Number.isFinite(loss));
  const perPoint = Math.ceil(finite.length / maxLossPoints);
  const points = Array.from({ length: Math.ceil(finite.length / perPoint) }, (_, index) => {
    const part = finite.slice(index * perPoint, (index + 1) * perPoint);
    return { step: part[part.length - 1].step, loss: part.reduce((sum, { loss }) => sum + loss, 0) / part.length };
  });
  const first = points[0];
  const last = points[points.length - 1];
  return draw(
    `Training loss from ${first.loss.toFixed(3)} at step ${first.step} to ${last.loss.toFixed(3)} at step ${last.step}`,
    {
      ...axes,
      marginLeft: 42,
      x: { label: 'step', labelOffset: 38, ticks: 5, tickFormat: String },
      y: { label: 'loss (nats per token)', grid: true, ticks: 5, nice: true },
      marks: [
        Plot.line(points, { x: 'step', y: 'loss', stroke: 'var(--plain)', strokeOpacity: 0.55, strokeWidth: 1 }),
        Plot.line(
          points,
          Plot.windowY(
            { k: Math.max(1, Math.round(points.length / 16)), reduce: 'mean' },
            { x: 'step', y: 'loss', stroke: 'var(--cherry)', strokeWidth: 2 },
          ),
        ),
      ],
    },
  );
};

/** 0.0005 -> 5e-4 */
const exponential = (value: number): string => (value === 0 ? '0' : Number(value.toPrecision(3)).toExponential());

export const learningRateChart = (losses: ReportData['losses']): string => {
  const every = Math.ceil(losses.length / maxLossPoints);
  const points = losses.filter((_, index) => index % every === 0 || index === losses.length - 1);
  const peak = Math.max(...points.map(({ learningRate }) => learningRate));
  return draw(
    `Learning rate: peak ${peak.toPrecision(3)}, at the end ${points[points.length - 1].learningRate.toPrecision(3)}`,
    {
      ...axes,
      marginLeft: 48,
      x: { label: 'step', labelOffset: 38, ticks: 5, tickFormat: String },
      y: { label: 'learning rate', grid: true, ticks: 5, zero: true, nice: true, tickFormat: exponential },
      marks: [Plot.line(points, { x: 'step', y: 'learningRate', stroke: 'var(--second)', strokeWidth: 2 })],
    },
  );
};

const superscripts = '⁰¹²³⁴⁵⁶⁷⁸⁹';
export const powerOfTen = (value: number): string => {
  const exponent = Math.round(Math.log10(value));
  const digits = [...String(Math.abs(exponent))].map((digit) => superscripts[Number(digit)]).join('');
  return `10${exponent < 0 ? '⁻' : ''}${digits}`;
};

/** Whole powers of ten that enclose the values, and the ticks between them, at most about six. */
export const decades = (values: readonly number[]): { domain: [number, number]; ticks: number[] } => {
  let [smallest, largest] = [Infinity, 0];
  for (const value of values) {
    smallest = Math.min(smallest, value);
    largest = Math.max(largest, value);
  }
  const low = Math.floor(Math.log10(smallest));
  const high = Math.max(low + 1, Math.ceil(Math.log10(largest)));
  const every = Math.ceil((high - low) / 6);
  const ticks = [];
  for (let exponent = low; exponent <= high; exponent += every) ticks.push(10 ** exponent);
  return { domain: [10 ** low, 10 ** high], ticks };
};

export const drawable = (value: number): boolean => Number.isFinite(value) && value > 0;

/**
 * One figure per matrix on one scale of impact: each sampled weight by its rank in magnitude (across) and its impact (up,
 * logarithmic). Had magnitude told which weights matter, the cherries would all lie at the right.
 * Large samples are thinned evenly in rank; cherries are always drawn. Weights of impact zero have no place on the scale.
 */
export const impactCharts = (
  impact: ReportData['impact'],
): { matrix: string; svg: string; cherries: number; sampled: number }[] => {
  const positive = impact.flatMap(({ samples }) => samples.map((sample) => sample.impact).filter(drawable));
  if (positive.length === 0) return [];
  const { domain, ticks } = decades(positive);
  return impact.map(({ matrix, samples }) => {
    const every = Math.ceil(samples.length / maxWeightsDrawn);
    const points = [...samples]
      .sort((a, b) => a.magnitude - b.magnitude)
      .map((sample, index) => ({ ...sample, rank: (100 * (index + 0.5)) / samples.length, drawn: index % every === 0 }))
      .filter((point) => drawable(point.impact) && (point.cherry || point.drawn));
    const cherries = points.filter((point) => point.cherry);
    const title = `Impact of ${samples.length} sampled weights of ${matrix}, ${cherries.length} of them cherries, by rank in magnitude`;
    const svg = draw(title, {
      ...axes,
      marginLeft: 42,
      marginRight: 12,
      x: { label: 'rank in magnitude (%)', labelOffset: 38, domain: [0, 100], ticks: [0, 25, 50, 75, 100] },
      y: { type: 'log', domain, ticks, tickFormat: powerOfTen, label: 'impact', grid: true },
      marks: [
        Plot.dot(
          points.filter((point) => !point.cherry),
          { x: 'rank', y: 'impact', r: 1.3, fill: 'var(--plain)', fillOpacity: 0.6 },
        ),
        Plot.dot(cherries, {
          x: 'rank',
          y: 'impact',
          r: 3,
          fill: 'var(--cherry)',
          stroke: 'var(--paper)',
          strokeWidth: 0.6,
        }),
      ],
    });
    return { matrix, svg, cherries: samples.filter((sample) => sample.cherry).length, sampled: samples.length };
  });
};

/** `model.layers.3.mlp.up_proj` -> `mlp.up_proj`: the same matrix of every block goes into one row. */
export const kindOf = (matrix: string): string => matrix.replace(/^.*\.\d+\./, '').replace(/\.weight$/, '');

/** One row per kind of matrix, two dots per matrix: its score by impact and, half a row lower, by magnitude. */
export const heterogeneityChart = (scores: ReportData['heterogeneity']): string | null => {
  const points = scores.flatMap(({ matrix, byImpact, byMagnitude }) => [
    { kind: kindOf(matrix), matrix, score: byImpact, criterion: 'impact' as const },
    { kind: kindOf(matrix), matrix, score: byMagnitude, criterion: 'magnitude' as const },
  ]);
  const shown = points.filter(({ score }) => drawable(score));
  if (shown.length === 0) return null;
  const kinds = [...new Set(shown.map(({ kind }) => kind))];
  const values = shown.map(({ score }) => score);
  const domain = [Math.min(1, ...values) * 0.9, Math.max(10, ...values) * 1.15];
  const ticks = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].filter(
    (tick) => tick >= domain[0] && tick <= domain[1],
  );
  const dots = (criterion: 'impact' | 'magnitude', dy: number, fill: string) =>
    Plot.dot(
      shown.filter((point) => point.criterion === criterion),
      {
        x: 'score',
        y: 'kind',
        dy,
        r: 3.6,
        fill,
        fillOpacity: 0.75,
        title: (point) => `${point.matrix}: ${point.score.toPrecision(3)}`,
      },
    );
  return draw(`Heterogeneity scores of ${scores.length} matrices, by impact and by magnitude`, {
    height: 30 * kinds.length + 62,
    marginBottom: 40,
    marginLeft: 118,
    marginRight: 12,
    x: { type: 'log', domain, ticks, tickFormat: String, label: 'heterogeneity score', labelOffset: 38, grid: true },
    y: { type: 'band', domain: kinds, label: null, tickSize: 0, tickFormat: (kind: string) => shorten(kind, 16) },
    marks: [dots('impact', -5, 'var(--cherry)'), dots('magnitude', 5, 'var(--second)')],
  });
};
