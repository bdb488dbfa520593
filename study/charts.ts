/** The study's pictures, as SVG files that stand on their own: Observable Plot on a document without a browser. */
import * as Plot from '@observablehq/plot';
import { parseHTML } from 'linkedom';
import type { Spread } from './statistics.ts';

export interface Point {
  readonly panel: string;
  readonly series: string;
  readonly x: number | string;
  readonly y: Spread;
}

/** Orange, blue, green, grey: told apart by people who do not see colours alike.  @source Okabe & Ito */
const palette = ['#E69F00', '#0072B2', '#009E73', '#999999'] as const;

interface ChartOptions {
  readonly series: readonly string[];
  readonly xLabel: string;
  readonly yLabel: string;
  readonly logarithmic?: boolean;
  /** Joins the points of a series, whose x are numbers. */
  readonly joined?: boolean;
}

/** Means with a bar of one standard deviation to each side, a panel beside the other. */
export function spreadChart(points: readonly Point[], options: ChartOptions): string {
  const panels = [...new Set(points.map(({ panel }) => panel))];
  const rows = points.map(({ panel, series, x, y }) => ({
    panel,
    series,
    x,
    mean: y.mean,
    low: y.mean - y.deviation,
    high: y.mean + y.deviation,
  }));
  const { document } = parseHTML('<html><body></body></html>');
  const shown = { fx: 'panel', stroke: 'series' } as const;
  const banded = typeof rows[0]?.x === 'string';
  const svg = Plot.plot({
    document,
    width: Math.max(480, 260 * panels.length),
    height: 290,
    marginTop: 36,
    marginBottom: 44,
    marginLeft: 52,
    insetLeft: banded ? 0 : 14,
    insetRight: banded ? 0 : 14,
    fx: { label: null, domain: panels, padding: 0.12 },
    x: banded
      ? { label: options.xLabel, type: 'point', padding: 0.6, domain: [...new Set(rows.map(({ x }) => x))] }
      : {
          label: options.xLabel,
          ticks: [...new Set(rows.map(({ x }) => Number(x)))],
          tickFormat: (value: number) => String(value),
        },
    y: {
      label: options.yLabel,
      grid: true,
      inset: 5,
      type: options.logarithmic ? 'log' : 'linear',
      ...(options.logarithmic ? { tickFormat: '~s' } : {}),
    },
    color: { domain: [...options.series], range: [...palette.slice(0, options.series.length)] },
    marks: [
      Plot.frame({ stroke: '#ccc' }),
      ...(options.joined ? [Plot.lineY(rows, { ...shown, x: 'x', y: 'mean', z: 'series', strokeWidth: 1.5 })] : []),
      Plot.ruleX(rows, { ...shown, x: 'x', y1: 'low', y2: 'high', strokeWidth: 2, strokeOpacity: 0.6 }),
      Plot.dot(rows, { ...shown, x: 'x', y: 'mean', fill: 'series', r: 3.5 }),
    ],
  });
  return standalone(svg.outerHTML, options.series);
}

/** One dot a value, spread at random places beside each other by their order, for values that range widely. */
export function stripChart(
  values: readonly { panel: string; series: string; group: string; value: number }[],
  options: { series: readonly string[]; yLabel: string },
): string {
  const panels = [...new Set(values.map(({ panel }) => panel))];
  const { document } = parseHTML('<html><body></body></html>');
  const svg = Plot.plot({
    document,
    width: Math.max(480, 300 * panels.length),
    height: 300,
    marginBottom: 70,
    marginLeft: 52,
    fx: { label: null, domain: panels, padding: 0.1 },
    x: { label: null, type: 'point', padding: 0.6, tickRotate: -35 },
    y: { label: options.yLabel, grid: true, type: 'log', tickFormat: '~s' },
    color: { domain: [...options.series], range: [...palette.slice(0, options.series.length)] },
    marks: [
      Plot.frame({ stroke: '#ccc' }),
      Plot.ruleY([1], { stroke: '#888', strokeDasharray: '3,3' }),
      Plot.dot(values, { fx: 'panel', x: 'group', y: 'value', stroke: 'series', r: 3, strokeOpacity: 0.8 }),
    ],
  });
  return standalone(svg.outerHTML, options.series);
}

/** With a white ground and a legend of its own, as the picture is shown by itself. */
function standalone(svg: string, series: readonly string[]): string {
  const [, width, height] = /viewBox="0 0 ([\d.]+) ([\d.]+)"/.exec(svg) ?? [];
  if (!width || !height) throw new Error('The plot has no size.');
  const legendHeight = 26;
  const legend = series
    .map((name, index) => {
      const x = 56 + index * 130;
      return `<circle cx="${x}" cy="13" r="4" fill="${palette[index]}"/><text x="${x + 9}" y="17">${escape(name)}</text>`;
    })
    .join('');
  const inner = svg
    .replace(/^<svg [^>]*>/, '')
    .replace(/<style>[^]*?<\/style>/g, '')
    .replace(/<\/svg>$/, '');
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${Number(height) + legendHeight}" width="${width}" font-family="system-ui, sans-serif" font-size="11" fill="#222" text-anchor="start">`,
    `<rect width="100%" height="100%" fill="#fff"/>${legend}`,
    `<g transform="translate(0,${legendHeight})" text-anchor="middle" color="#222" fill="currentColor" font-size="10">${inner}</g></svg>\n`,
  ].join('\n');
}

const escape = (text: string): string => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
