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
  const room = 0.08 * (most - least) || 0.1 * most;
  return draw(
    `Perplexity by size in megabytes: ${points.map(({ method, label, megabytes, perplexity }) => `${method} ${label} ${megabytes.toFixed(2)} MB ${perplexity.toFixed(2)}`).join('; ')}`,
    {
      ...axes,
      height: 300,
      marginLeft: 52,
      marginRight: 14,
      x: { label: 'size of the weights (MB)', labelOffset: 38, ticks: 5, domain: [least - room, most + 2.5 * room] },
      y: {
        label: 'perplexity',
        grid: true,
        ticks: 5,
        tickFormat: '~s',
        ...(isWide ? { type: 'log', domain: [low / 1.1, high * 1.1] } : { domain: padded(low, high) }),
      },
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
        Plot.text(frontier, { x: 'megabytes', y: 'perplexity', text: 'label', textAnchor: 'start', dx: 8, dy: -8 }),
      ],
    },
  );
};

function padded(low: number, high: number): [number, number] {
  const room = 0.08 * (high - low) || 0.1 * high;
  return [low - room, high + room];
}
