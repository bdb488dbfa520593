import { describe, expect, it } from 'vitest';
import type { AdamWConstants } from '../../../batch-jobs/src/numeric/train-tasks.ts';
import type { AdamWSettings, Moments } from '../../../batch-jobs/src/training/adamw.ts';
import { squareSums, updateRows } from '../../../batch-jobs/src/numeric/train-tasks.ts';
import { adamWConstants, clippingScale, createMoments } from '../../../batch-jobs/src/training/adamw.ts';
import { golden } from '../../support/golden.ts';

/** One step of the kernel on a tensor of one row. */
function adamWStep(weight: Float32Array, gradient: Float32Array, moments: Moments, adamW: AdamWConstants): void {
  const tensor = { weight, gradient, ...moments, columns: weight.length, quantized: null };
  updateRows({ ranges: [{ tensor, fromRow: 0, untilRow: 1 }], adamW, grid: null });
}

interface AdamWGolden {
  maxNorm: number;
  rates: number[];
  start: number[][];
  gradients: number[][][];
  runs: { settings: AdamWSettings; norms: number[]; weights: number[][][] }[];
}

const { maxNorm, rates, start, gradients, runs } = golden<AdamWGolden>('adamw');

describe('AdamW with clipping', () => {
  it.each(runs)('takes the steps of torch.optim.AdamW with $settings', ({ settings, norms, weights }) => {
    const parameters = start.map((values) => Float32Array.from(values));
    const moments = start.map((values) => createMoments(values.length));
    rates.forEach((rate, step) => {
      const own = gradients[step].map((values) => Float32Array.from(values));
      const norm = Math.sqrt(squareSums(own).reduce((sum, value) => sum + value, 0));
      const scale = clippingScale(norm, maxNorm);
      expect(norm).toBeCloseTo(norms[step], 6);
      expect(scale).toBe(norm > maxNorm ? maxNorm / (norm + 1e-6) : 1);
      const adamW = adamWConstants(settings, rate, scale, step + 1);
      parameters.forEach((weight, i) => adamWStep(weight, own[i], moments[i], adamW));
      parameters.forEach((weight, i) =>
        weight.forEach((value, j) => expect(value).toBeCloseTo(weights[step][i][j], 6)),
      );
    });
  });

  it('is reached by some steps of the golden run and not by others', () => {
    expect(runs[0].norms.some((norm) => norm > maxNorm)).toBe(true);
    expect(runs[0].norms.some((norm) => norm < maxNorm)).toBe(true);
  });

  it('leaves the gradient alone', () => {
    const gradient = Float32Array.of(3, 4);
    adamWStep(new Float32Array(2), gradient, createMoments(2), adamWConstants(runs[0].settings, 0.1, 0.5, 1));
    expect(gradient).toEqual(Float32Array.of(3, 4));
  });
});

describe('clippingScale', () => {
  it('leaves gradients of a smaller norm as they are', () => {
    expect(clippingScale(5, 10)).toBe(1);
    expect(clippingScale(0, 1)).toBe(1);
  });
});

describe('squareSums', () => {
  it('sums each array, whatever its length', () => {
    const arrays = [1, 2, 3, 5, 16_384, 40_001].map((length) => Float32Array.from({ length }, (_, i) => (i % 7) - 3));
    const sums = squareSums(arrays);
    arrays.forEach((values, i) => expect(sums[i]).toBe(values.reduce((sum, value) => sum + value * value, 0)));
  });

  it('does not hide a value that is not finite', () => {
    expect(squareSums([Float32Array.of(1, NaN), Float32Array.of(1, Infinity, 0)])).toEqual([NaN, Infinity]);
  });
});
