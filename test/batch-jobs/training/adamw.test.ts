import { describe, expect, it } from 'vitest';
import type { AdamWSettings } from '../../../batch-jobs/src/training/adamw.ts';
import { adamWStep, clippingScale, createMoments } from '../../../batch-jobs/src/training/adamw.ts';
import { golden } from '../../support/golden.ts';

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
      const { norm, scale } = clippingScale(own, maxNorm);
      expect(norm).toBeCloseTo(norms[step], 6);
      expect(scale).toBe(norm > maxNorm ? maxNorm / (norm + 1e-6) : 1);
      parameters.forEach((weight, i) => adamWStep(weight, own[i], moments[i], settings, rate, scale, step + 1));
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
    adamWStep(new Float32Array(2), gradient, createMoments(2), runs[0].settings, 0.1, 0.5, 1);
    expect(gradient).toEqual(Float32Array.of(3, 4));
  });
});

describe('clippingScale', () => {
  it('takes the norm over all gradients together', () => {
    expect(clippingScale([Float32Array.of(3), Float32Array.of(0, 4)], 10)).toEqual({ norm: 5, scale: 1 });
  });

  it('is 1 where all gradients are zero', () => {
    expect(clippingScale([new Float32Array(3)], 1)).toEqual({ norm: 0, scale: 1 });
  });

  it('does not hide a gradient that is not finite', () => {
    expect(clippingScale([Float32Array.of(1, NaN)], 1).norm).toBeNaN();
    expect(clippingScale([Float32Array.of(1, Infinity)], 1).norm).toBe(Infinity);
  });
});
