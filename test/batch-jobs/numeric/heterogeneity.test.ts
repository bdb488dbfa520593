import { describe, expect, it } from 'vitest';
import { heterogeneityScore } from '../../../batch-jobs/src/numeric/heterogeneity.ts';

describe('heterogeneityScore', () => {
  it('is the mean of the top hundredth over the largest of the rest', () => {
    const values = Float32Array.from({ length: 400 }, (_, i) => i / 400);
    values.set([10, 20, 30, 40], 100);
    expect(heterogeneityScore(values)).toBeCloseTo(25 / (399 / 400), 5);
  });

  it('takes magnitudes, whatever the order', () => {
    const values = Float32Array.from({ length: 200 }, (_, i) => (i % 2 ? -1 : 1));
    values[7] = -6;
    values[150] = 4;
    expect(heterogeneityScore(values)).toBe(5);
    expect(heterogeneityScore(values.toReversed())).toBe(5);
  });

  it('is 1 where all are equal, and takes at least one weight as the top', () => {
    expect(heterogeneityScore(new Float32Array(1000).fill(0.5))).toBe(1);
    expect(heterogeneityScore(Float32Array.of(1, 2, 8))).toBe(4);
  });

  it('leaves its argument alone', () => {
    const values = Float32Array.of(3, -1, 2);
    heterogeneityScore(values);
    expect(values).toEqual(Float32Array.of(3, -1, 2));
  });

  it('is finite for a matrix without any impact', () => {
    expect(heterogeneityScore(new Float32Array(300))).toBe(0);
  });
});
