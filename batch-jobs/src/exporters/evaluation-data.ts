/** What an evaluation found: written whole to `evaluation.json`, shown by `evaluation-report.ts`. */
import type { Measurement } from 'cherryq/contract';

export interface EvaluationReportData {
  modelName: string;
  parameters: number;
  engine: string;
  measurement: Measurement & { readonly bitsPerWeight: number | null };
  /** Null where there is nothing to compare with. */
  baseline: (Measurement & { readonly name: string }) | null;
  /** Perplexity over the baseline's. */
  perplexityRatio: number | null;
  evaluatedTokens: number;
}

/** The text of `evaluation.json`: equal data give equal bytes. */
export function evaluationJson(data: EvaluationReportData): string {
  return `${JSON.stringify({ formatVersion: 1, ...data })}\n`;
}
