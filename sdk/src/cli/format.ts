/** Numbers and tables for people. */
import type {
  AnalysisResult,
  ComparisonResult,
  EvaluationResult,
  JobResult,
  Measurement,
  Scheme,
} from 'cherryq/contract';

const sizeUnits = ['B', 'kB', 'MB', 'GB', 'TB'] as const;

/** Decimal units, three digits: 1234567 -> `1.23 MB`. */
export function formatBytes(sizeBytes: number): string {
  const power = Math.min(Math.max(0, Math.floor(Math.log10(Math.max(1, sizeBytes)) / 3)), sizeUnits.length - 1);
  const value = sizeBytes / 1000 ** power;
  return `${power === 0 ? value : value.toPrecision(3)} ${sizeUnits[power]}`;
}

/** 75 -> `1 m 15 s` */
export function formatSeconds(seconds: number): string {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} m ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} m`;
}

/** 12345 -> `12,345` */
export const formatCount = (count: number): string => count.toLocaleString('en-US');

/** `cherryq w3g128`, `rtn w4row` */
export function schemeLabel({ method, bits, groupSize }: Pick<Scheme, 'method' | 'bits' | 'groupSize'>): string {
  return `${method} w${bits}${groupSize === 'row' ? 'row' : `g${groupSize}`}`;
}

/** Columns padded to their widest cell; every column but the first to the right when it holds numbers. */
export function renderTable(header: readonly string[], rows: readonly (readonly string[])[], leftColumns = 1): string {
  const widths = header.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)));
  return [header, ...rows]
    .map((row) =>
      row
        .map((cell, column) => (column < leftColumns ? cell.padEnd(widths[column]) : cell.padStart(widths[column])))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

const none = '-';
const formatPerplexity = (perplexity: number | null): string => perplexity?.toFixed(3) ?? none;

/** What a job gained: original, plain rounding, compressed. */
export function renderResult(result: JobResult, scheme: Scheme): string {
  const { baseline, rounding, compressed, hf, parameters } = result;
  const row = (name: string, { sizeBytes, perplexity }: typeof baseline, bits: string): string[] => [
    name,
    formatBytes(sizeBytes),
    `${(baseline.sizeBytes / sizeBytes).toFixed(2)}x`,
    formatPerplexity(perplexity),
    bits,
  ];
  const rows = [row('original', baseline, ((baseline.sizeBytes * 8) / parameters).toFixed(1))];
  if (rounding && scheme.method !== 'rtn') rows.push(row('rounding', rounding, none));
  rows.push(row(schemeLabel(scheme), compressed, compressed.bitsPerWeight.toFixed(2)));
  if (hf) rows.push(row('float16 copy', hf, none));
  const table = renderTable(['', 'size', 'ratio', 'perplexity', 'bits per weight'], rows);
  const measured: [string, Measurement | null][] = [
    ['original', baseline],
    ['rounding', scheme.method === 'rtn' ? null : rounding],
    [schemeLabel(scheme), compressed],
  ];
  return [table, renderDivergences(measured), renderTasks(measured)].filter((part) => part !== null).join('\n\n');
}

function renderDivergences(measured: readonly [string, Measurement | null][], from = 'the original'): string | null {
  const rows = measured.flatMap(([name, measurement]) =>
    typeof measurement?.divergence === 'number' ? [[name, measurement.divergence.toFixed(4)]] : [],
  );
  return rows.length === 0 ? null : renderTable([`divergence from ${from}`, 'nats a token'], rows);
}

/** Accuracy in each task, by likelihood and by likelihood per character. */
function renderTasks(measured: readonly [string, Measurement | null][]): string | null {
  const rows = measured.flatMap(([name, measurement]) =>
    (measurement?.tasks ?? []).map(({ name: task, questions, acc, accNorm, accStderr }) => [
      task,
      name,
      formatCount(questions),
      `${(100 * acc).toFixed(1)} %`,
      `${(100 * accStderr).toFixed(1)}`,
      `${(100 * accNorm).toFixed(1)} %`,
    ]),
  );
  if (rows.length === 0) return null;
  return renderTable(['task', '', 'questions', 'acc', '+-', 'acc_norm'], rows, 2);
}

/** What was measured of a model, under its baseline where there is one. */
export function renderEvaluation({ measurement, baseline, perplexityRatio }: EvaluationResult): string {
  const row = (name: string, { sizeBytes, perplexity }: Measurement, ratio: number | null): string[] => [
    name,
    formatBytes(sizeBytes),
    formatPerplexity(perplexity),
    ratio?.toFixed(4) ?? none,
  ];
  const rows = [row('model', measurement, perplexityRatio)];
  if (baseline) rows.unshift(row('baseline', baseline, null));
  const measured: [string, Measurement | null][] = [
    ['baseline', baseline],
    ['model', measurement],
  ];
  const table = renderTable(['', 'size', 'perplexity', 'over the baseline'], rows);
  return [table, renderDivergences(measured, 'the baseline'), renderTasks(measured)]
    .filter((part) => part !== null)
    .join('\n\n');
}

/** One line for each scheme; those that no other beats have a star. */
export function renderComparison({ baseline, rows }: ComparisonResult): string {
  const lines = rows.map(({ scheme, measurement, perplexityRatio, onFrontier, seconds }) => [
    `${schemeLabel(scheme)}${onFrontier ? ' *' : ''}`,
    measurement?.bitsPerWeight.toFixed(2) ?? none,
    measurement ? formatBytes(measurement.sizeBytes) : none,
    measurement ? formatPerplexity(measurement.perplexity) : 'failed',
    perplexityRatio?.toFixed(3) ?? none,
    measurement?.divergence?.toFixed(4) ?? none,
    formatSeconds(seconds),
  ]);
  const original = ['original', none, formatBytes(baseline.sizeBytes), formatPerplexity(baseline.perplexity)];
  const header = ['scheme', 'bits per weight', 'size', 'perplexity', 'over the original', 'divergence', 'took'];
  const measured = rows.map(({ scheme, measurement }): [string, Measurement | null] => [
    schemeLabel(scheme),
    measurement,
  ]);
  const table = renderTable(header, [[...original, none, none, none], ...lines]);
  return [table, renderTasks([['original', baseline], ...measured])].filter((part) => part !== null).join('\n\n');
}

/** How far a few weights stand out, by three criteria, and what calibration sets have in common. */
export function renderAnalysis({ heterogeneity, overlaps }: AnalysisResult): string {
  const median = (values: number[]): string => {
    const sorted = [...values].sort((a, b) => a - b);
    return (sorted[Math.floor(sorted.length / 2)] ?? NaN).toFixed(2);
  };
  const kinds = new Map<string, typeof heterogeneity>();
  for (const score of heterogeneity) {
    const kind = score.matrix.replace(/^model\.layers\.\d+\./, '').replace(/\.weight$/, '');
    kinds.set(kind, [...(kinds.get(kind) ?? []), score]);
  }
  const scores = [...kinds].map(([kind, all]) => [
    kind,
    median(all.map(({ byImpact }) => byImpact)),
    median(all.map(({ byWeight }) => byWeight)),
    median(all.map(({ byActivation }) => byActivation)),
  ]);
  const shares = overlaps.map(({ first, second, share, byChance }) => [
    `${first} / ${second}`,
    `${(100 * share).toFixed(1)} %`,
    `${(100 * byChance).toFixed(1)} %`,
  ]);
  const tables = [renderTable(['heterogeneity (median)', 'by impact', 'by weight', 'by activation'], scores)];
  if (shares.length > 0) tables.push(renderTable(['same cherries', 'share', 'by chance'], shares));
  return tables.join('\n\n');
}

/** Share of what rounding loses in perplexity that the job won back; null where it was not measured or nothing was lost. */
export function recoveredShare({ baseline, rounding, compressed }: JobResult): number | null {
  if (baseline.perplexity === null || compressed.perplexity === null) return null;
  const roundingPerplexity = rounding?.perplexity ?? null;
  if (roundingPerplexity === null || roundingPerplexity <= baseline.perplexity) return null;
  return (roundingPerplexity - compressed.perplexity) / (roundingPerplexity - baseline.perplexity);
}
