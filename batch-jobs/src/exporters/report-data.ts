/** What a report shows; gathered by the job, drawn by `report.ts` and `report-charts.ts`. */
import type { Scheme, Training } from 'cherryq/contract';

/** One model on disk. */
export interface ReportRow {
  /** `rounding`: the same bits and groups without training; `hf`: the job's result as float16. */
  role: 'original' | 'rounding' | 'job' | 'hf';
  label: string;
  note: string;
  /** Mean over the quantized layers, with scales, cherries and indices; null where nothing is quantized. */
  bitsPerWeight: number | null;
  /** Bytes of the weights' files. */
  sizeBytes: number;
  /** Measured on the files as written; null without evaluation text. */
  perplexity: number | null;
}

export interface ReportData {
  modelName: string;
  parameters: number;
  scheme: Scheme;
  /** Null when the method does not train. */
  training: Training | null;
  engine: string;
  trainedTokens: number;
  evaluatedTokens: number;
  /** In the order of the table. */
  rows: ReportRow[];
  losses: { step: number; loss: number; learningRate: number }[];
  /** Sampled weights of a few matrices; empty for methods without cherries. */
  impact: { matrix: string; samples: { impact: number; magnitude: number; cherry: boolean }[] }[];
  heterogeneity: { matrix: string; byImpact: number; byMagnitude: number }[];
  /** `relativeError`: norm of what rounding changed over norm of the weights that were rounded (trained, if the method trains). */
  tensors: { name: string; shape: number[]; bitsPerWeight: number; relativeError: number }[];
}
