/** Numbers and tables for people. */
import type { JobResult, Scheme } from 'cherryq/contract';

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
  return renderTable(['', 'size', 'ratio', 'perplexity', 'bits per weight'], rows);
}

/** Share of what rounding loses in perplexity that the job won back; null where it was not measured or nothing was lost. */
export function recoveredShare({ baseline, rounding, compressed }: JobResult): number | null {
  if (baseline.perplexity === null || compressed.perplexity === null) return null;
  const roundingPerplexity = rounding?.perplexity ?? null;
  if (roundingPerplexity === null || roundingPerplexity <= baseline.perplexity) return null;
  return (roundingPerplexity - compressed.perplexity) / (roundingPerplexity - baseline.perplexity);
}
