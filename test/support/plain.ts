/** The arithmetic of training written out plainly: what the host kernels must give, bit for bit. */
import type { AdamWSettings } from '../../batch-jobs/src/training/adamw.ts';
import { adamWConstants } from '../../batch-jobs/src/training/adamw.ts';
import type { Cherries, Grid } from '../../batch-jobs/src/numeric/quantizer.ts';
import { dequantizeMatrix, quantizeMatrix } from '../../batch-jobs/src/numeric/quantizer.ts';

/** What a matrix becomes once quantized, in float32; cherries keep their float32 values. */
export function plainFakeQuant(weight: Float32Array, columns: number, grid: Grid, cherries: Cherries): Float32Array {
  const result = dequantizeMatrix(quantizeMatrix(weight, columns, grid, cherries));
  for (let i = 0; i < cherries.columns.length; i++) {
    const at = Math.floor(i / cherries.perRow) * columns + cherries.columns[i];
    result[at] = weight[at];
  }
  return result;
}

export interface PlainMoments {
  readonly first: Float32Array;
  readonly second: Float32Array;
}

export function plainMoments(length: number): PlainMoments {
  return { first: new Float32Array(length), second: new Float32Array(length) };
}

/** One AdamW step in place.  @param step counted from 1 */
export function plainAdamW(
  weight: Float32Array,
  gradient: Float32Array,
  { first, second }: PlainMoments,
  settings: AdamWSettings,
  learningRate: number,
  gradientScale: number,
  step: number,
): void {
  const { beta1, beta2, epsilon, stepSize, decay, rootCorrection2 } = adamWConstants(
    settings,
    learningRate,
    gradientScale,
    step,
  );
  for (let i = 0; i < weight.length; i++) {
    const g = gradient[i] * gradientScale;
    const m = beta1 * first[i] + (1 - beta1) * g;
    const v = beta2 * second[i] + (1 - beta2) * g * g;
    first[i] = m;
    second[i] = v;
    weight[i] = weight[i] * decay - (stepSize * m) / (Math.sqrt(v) / rootCorrection2 + epsilon);
  }
}

/** Norm of several arrays together. */
export function plainNorm(arrays: readonly Float32Array[]): number {
  return Math.sqrt(arrays.reduce((sum, values) => sum + values.reduce((own, value) => own + value * value, 0), 0));
}
