/** The figure of a comparison, drawn as those of every report (report-charts.ts): size across, perplexity up. */
import * as Plot from '@observablehq/plot';
import type { Scheme } from 'cherryq/contract';
import type { ComparisonReportData } from './comparison-data.ts';
import { axes, draw } from './report-charts.ts';

/** Colour of each method, as CSS. */
export const methodColours: Readonly<Record<Scheme['method'], string>> = {
  rtn: 'var(--plain)',
  qat: 'var(--second)',
  cherryq: 'var(--cherry)',
};

interface Point {
  readonly method: Scheme['method'];
  readonly label: string;
  readonly megabytes: number;
  readonly perplexity: number;
  readonly onFrontier: boolean;
}

/** Perplexities this many times apart are drawn on a logarithmic scale: rounding to two bits may cost a thousandfold. */
const widestLinear = 4;

/** One dot for each scheme, a line through those that no other beats; null where nothing can be drawn. */
export const sizeAgainstPerplexity = ({ rows, baseline }: ComparisonReportData): string | null => {
  const points = rows.flatMap(({ scheme, measurement, onFrontier }): Point[] => {
    const perplexity = measurement?.perplexity ?? Number.NaN;
    if (measurement === null || !Number.isFinite(perplexity)) return [];
    const { method, bits, groupSize } = scheme;
    const label = `${bits} bits, ${groupSize === 'row' ? 'rows' : `g${groupSize}`}`;
    return [{ method, label, megabytes: measurement.sizeBytes / 1e6, perplexity, onFrontier }];
  });
  if (points.length === 0) return null;
  const frontier = points.filter(({ onFrontier }) => onFrontier).sort((a, b) => a.megabytes - b.megabytes);
  const original = baseline.perplexity;
  const heights = [...points.map(({ perplexity }) => perplexity), ...(original === null ? [] : [original])];
  const [low, high] = [Math.min(...heights), Math.max(...heights)];
  const isWide = high / low > widestLinear;
  const sizes = points.map(({ megabytes }) => megabytes);
  const [least, most] = [Math.min(...sizes), Math.max(...sizes)];
  const width = most - least || 0.2 * most;
  const x = (megabytes: number): number => (megabytes - least) / width;
  const y = (perplexity: number): number =>
    isWide ? Math.log(perplexity / low) / Math.log(high / low) : (perplexity - low) / (high - low || 1);
  return draw(
    `Perplexity by size in megabytes: ${points.map(({ method, label, megabytes, perplexity }) => `${method} ${label} ${megabytes.toFixed(2)} MB ${perplexity.toFixed(2)}`).join('; ')}`,
    {
      ...axes,
      height: 300,
      marginLeft: 52,
      marginRight: 14,
      x: {
        label: 'size of the weights (MB)',
        labelOffset: 38,
        ticks: 5,
        domain: [least - 0.3 * width, most + 0.08 * width],
      },
      y: { label: 'perplexity', grid: true, ...(isWide ? logarithmic(low, high) : linear(low, high)) },
      marks: [
        ...(original === null ? [] : [Plot.ruleY([original], { stroke: 'var(--soft)', strokeDasharray: '3 3' })]),
        Plot.line(frontier, { x: 'megabytes', y: 'perplexity', stroke: 'var(--soft)', strokeWidth: 1 }),
        Plot.dot(points, {
          x: 'megabytes',
          y: 'perplexity',
          r: 5,
          fill: ({ method }: Point) => methodColours[method],
          stroke: 'var(--paper)',
          title: ({ method, label }: Point) => `${method}, ${label}`,
        }),
        // Below and to the left of what no other beats there is nothing.
        Plot.text(apart(frontier, x, y), {
          x: 'megabytes',
          y: 'perplexity',
          text: 'label',
          textAnchor: 'end',
          dx: -6,
          dy: 9,
        }),
      ],
    },
  );
};

/** Room of a label, as shares of the figure. */
const [labelWidth, labelHeight] = [0.3, 0.07];

/** Those whose labels do not lie over one another.  @param x,y place in the figure, 0 to 1 */
function apart(points: readonly Point[], x: (size: number) => number, y: (perplexity: number) => number): Point[] {
  const kept: Point[] = [];
  for (const point of points) {
    const isFree = kept.every(
      (other) =>
        Math.abs(x(point.megabytes) - x(other.megabytes)) > labelWidth ||
        Math.abs(y(point.perplexity) - y(other.perplexity)) > labelHeight,
    );
    if (isFree) kept.push(point);
  }
  return kept;
}

/** Room below is for labels. */
function linear(low: number, high: number): Plot.ScaleOptions {
  const room = high - low || 0.1 * high;
  return { domain: [low - 0.14 * room, high + 0.08 * room], ticks: 5 };
}

function logarithmic(low: number, high: number): Plot.ScaleOptions {
  const room = high / low;
  const domain = [low / room ** 0.14, high * room ** 0.08];
  const decades = Array.from({ length: 12 }, (_, power) => 10 ** power);
  const ticks = decades.flatMap((decade) => [decade, 2 * decade, 5 * decade]);
  const within = ticks.filter((tick) => tick >= domain[0] && tick <= domain[1]);
  return { type: 'log', domain, ticks: within, tickFormat: String };
}
