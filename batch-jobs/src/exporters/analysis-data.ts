/** What an analysis found: written whole to `analysis.json`, drawn by `analysis-report.ts`. */
import type { Heterogeneity, Overlap, Scheme } from 'cherryq/contract';

/** Sampled weights of a matrix, ascending by place; arrays of one length. */
export interface AnalyzedSamples {
  /** Row-major places in the matrix. */
  index: number[];
  impact: number[];
  magnitude: number[];
  /** Whether the weight is a cherry under the analysis's selection. */
  cherry: boolean[];
}

export interface AnalyzedMatrix {
  matrix: string;
  shape: [number, number];
  cherriesPerRow: number;
  meanImpact: number;
  maxImpact: number;
  /** For shares of the matrix's weights, those of highest impact: the least of it, and what part of the whole they hold. */
  tail: { fraction: number; least: number; share: number }[];
  /**
   * Impact that as many of the matrix's weights reach as there are cherries, interpolated between the entries of `tail`;
   * rows and columns have cuts of their own. Null where cherries are not chosen by impact, or the matrix has none.
   */
  cut: number | null;
  samples: AnalyzedSamples;
}

/** A calibration set, of which `draws` disjoint lots of `windows` windows were taken. */
export interface AnalyzedSet {
  name: string;
  draws: number;
  windows: number;
}

export interface Analysis {
  selection: Pick<Scheme, 'criterion' | 'cherryMode' | 'cherryFraction'>;
  /** The first is the model's own: `heterogeneity` and `matrices` are of its first draw. */
  sets: AnalyzedSet[];
  heterogeneity: Heterogeneity[];
  overlaps: Overlap[];
  matrices: AnalyzedMatrix[];
}

export interface AnalysisReportData extends Analysis {
  modelName: string;
  parameters: number;
  engine: string;
  /** Tokens in one calibration window. */
  sequenceLength: number;
}

/** The text of `analysis.json`: equal data give equal bytes. */
export function analysisJson(data: AnalysisReportData): string {
  return `${JSON.stringify({ formatVersion: 1, ...data })}\n`;
}
