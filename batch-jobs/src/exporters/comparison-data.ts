/** What a comparison found: written whole to `comparison.json`, drawn by `comparison-report.ts`. */
import type { ComparisonRow, Measurement, Scheme, Training } from 'cherryq/contract';

/** How long a scheme took is left out: equal data give equal bytes. */
export type ComparedScheme = Omit<ComparisonRow, 'seconds'>;

export interface ComparisonReportData {
  modelName: string;
  parameters: number;
  engine: string;
  /** Null where no scheme trains. */
  training: Training | null;
  /** Of the original. */
  baseline: Measurement;
  /** In the order of the request. */
  rows: ComparedScheme[];
  evaluatedTokens: number;
}

/** The text of `comparison.json`: equal data give equal bytes. */
export function comparisonJson(data: ComparisonReportData): string {
  return `${JSON.stringify({ formatVersion: 1, ...data })}\n`;
}

const fields: readonly (readonly [keyof Scheme, (value: string) => string])[] = [
  ['cherryFraction', (value) => `cherries 1/${String(Math.round(1 / Number(value)))}`],
  ['criterion', (value) => `by ${value}`],
  ['cherryMode', (value) => `whole ${value}s`],
  ['quantizer', (value) => `${value} levels`],
  ['groups', (value) => `${value} groups`],
  ['columnScales', (value) => `column scales ${value}`],
];

/** `cherryq, 3 bits, groups of 64`, and of the other fields those in which the schemes differ. */
export function schemeNames(schemes: readonly Scheme[]): string[] {
  const differing = fields.filter(([field]) => new Set(schemes.map((scheme) => scheme[field])).size > 1);
  return schemes.map((scheme) =>
    [
      scheme.method,
      `${scheme.bits} bits`,
      scheme.groupSize === 'row' ? 'whole rows' : `groups of ${scheme.groupSize}`,
      ...differing.map(([field, named]) => named(String(scheme[field]))),
    ].join(', '),
  );
}
