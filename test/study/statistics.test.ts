import { describe, expect, it } from 'vitest';
import { compare, median, spreadOf } from '../../study/statistics.ts';

describe('spreadOf', () => {
  it('gives the mean and the deviation of a sample', () => {
    expect(spreadOf([2, 4, 4, 4, 5, 5, 7, 9])).toEqual({ mean: 5, deviation: Math.sqrt(32 / 7), count: 8 });
    expect(spreadOf([3])).toEqual({ mean: 3, deviation: 0, count: 1 });
    expect(() => spreadOf([])).toThrow(RangeError);
  });
});

describe('compare', () => {
  it("calls a difference lower or higher only where Student's interval leaves out zero", () => {
    // Differences -1, -1.1, -0.9: mean -1, deviation 0.1, margin 4.303 * 0.1 / sqrt(3).
    const clear = compare([1, 1.9, 3.1], [2, 3, 4]);
    expect(clear.difference).toBeCloseTo(-1);
    expect(clear.margin).toBeCloseTo(0.2484, 3);
    expect(clear.verdict).toBe('lower');
    expect(compare([2, 3, 4], [1, 1.9, 3.1]).verdict).toBe('higher');
    expect(compare([1, 5, 3], [2, 3, 4]).verdict).toBe('unclear');
    expect(() => compare([1], [2])).toThrow('2 to 10 pairs; got 1 and 1');
  });
});

describe('median', () => {
  it('is the value in the middle, whatever the order', () => {
    expect(median([9, 1, 4])).toBe(4);
    expect(median([4, 1, 9, 5])).toBe(5);
    expect(median([])).toBeNaN();
  });
});
