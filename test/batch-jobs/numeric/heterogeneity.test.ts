import { describe, expect, it } from 'vitest';
import {
  heterogeneityOfRows,
  heterogeneityScore,
  largestMagnitudes,
} from '../../../batch-jobs/src/numeric/heterogeneity.ts';
import { createRandom } from '../../../batch-jobs/src/numeric/random.ts';

/** Values over many orders of magnitude and of both signs, some of them equal, some zero. */
function wideValues(length: number, seed: number): Float32Array {
  const random = createRandom(seed);
  return Float32Array.from({ length }, () => {
    const kind = random();
    if (kind < 0.1) return kind < 0.05 ? 0 : -0;
    if (kind < 0.2) return 0.125;
    return (random() - 0.5) * 10 ** (60 * random() - 30);
  });
}

describe('largestMagnitudes', () => {
  it.each([1, 2, 100, 4097])('gives the order statistics and sums that sorting gives, %i values', (length) => {
    const values = wideValues(length, length);
    const sorted = Float32Array.from(values, Math.abs).sort().reverse();
    const counts = [...new Set([1, Math.ceil(length / 100), Math.ceil(length / 3), length])];
    largestMagnitudes(values, counts).forEach(({ least, sum }, i) => {
      expect(least).toBe(sorted[counts[i] - 1]);
      const expected = sorted.subarray(0, counts[i]).reduce((total, value) => total + value, 0);
      expect(Math.abs(sum - expected)).toBeLessThanOrEqual(1e-12 * expected);
    });
  });

  it('finds its way among values that differ in their last bit alone', () => {
    const one = 1 + 2 ** -23;
    const values = Float32Array.of(1, one, 1, -one, 1, one);
    expect(largestMagnitudes(values, [2, 3, 4])).toEqual([
      { least: one, sum: 2 * one },
      { least: one, sum: 3 * one },
      { least: 1, sum: 3 * one + 1 },
    ]);
  });

  it('reads a part of a larger array and leaves it alone', () => {
    const all = Float32Array.of(9, 3, -1, 2, 9);
    expect(largestMagnitudes(all.subarray(1, 4), [2])).toEqual([{ least: 2, sum: 5 }]);
    expect(all).toEqual(Float32Array.of(9, 3, -1, 2, 9));
  });

  it.each([NaN, -NaN, Infinity, -Infinity])('refuses %f', (value) => {
    expect(() => largestMagnitudes(Float32Array.of(1, value, 2), [1])).toThrow('1 of 3 values are not finite');
  });

  it.each([0, 4, 1.5])('refuses the largest %d of three', (count) => {
    expect(() => largestMagnitudes(Float32Array.of(1, 2, 3), [count])).toThrow(`The largest ${count} of 3`);
  });
});

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

  it('is finite for a matrix without any impact, and for one where the rest has none', () => {
    expect(heterogeneityScore(new Float32Array(300))).toBe(0);
    const values = new Float32Array(300);
    values[5] = 1e30;
    expect(heterogeneityScore(values)).toBeGreaterThan(1e30);
    expect(Number.isFinite(heterogeneityScore(values))).toBe(true);
  });
});

describe('heterogeneityOfRows', () => {
  it.each([
    [3, 7],
    [50, 20],
    [128, 1],
    [1, 400],
    [250, 64],
  ])('is the score of a matrix of equal rows, %i columns and %i rows', (columns, rows) => {
    const random = createRandom(columns, rows);
    const row = Float32Array.from({ length: columns }, () => random() ** 6 - 0.001);
    const matrix = Float32Array.from({ length: rows * columns }, (_, i) => row[i % columns]);
    expect(heterogeneityOfRows(row, rows)).toBeCloseTo(heterogeneityScore(matrix), 10);
  });
});
