import { describe, expect, it } from 'vitest';
import { createRandom, shuffledIndices, xoshiro128 } from '../../../batch-jobs/src/numeric/random.ts';

function draw(count: number, random: () => number): number[] {
  return Array.from({ length: count }, random);
}

describe('xoshiro128', () => {
  it('gives the words of the authors’ C code', () => {
    expect(draw(10, xoshiro128([1, 2, 3, 4]))).toEqual([
      11520, 0, 5927040, 70819200, 2031721883, 1637235492, 1287239034, 3734860849, 3729100597, 4258142804,
    ]);
  });
});

describe('createRandom', () => {
  it('repeats itself for a seed and differs between seeds and streams', () => {
    expect(draw(5, createRandom(42))).toEqual(draw(5, createRandom(42, 0)));
    const firsts = new Set<number>();
    for (let seed = 0; seed < 50; seed++)
      for (let stream = 0; stream < 50; stream++) firsts.add(createRandom(seed, stream)());
    expect(firsts.size).toBe(2500);
  });

  it('is uniform in [0, 1)', () => {
    const values = draw(100_000, createRandom(7));
    expect(Math.min(...values.slice(0, 1000))).toBeGreaterThanOrEqual(0);
    expect(values.every((value) => value < 1)).toBe(true);
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    const square = values.reduce((sum, value) => sum + value * value, 0) / values.length;
    // Four standard errors.
    expect(Math.abs(mean - 1 / 2)).toBeLessThan((4 * Math.sqrt(1 / 12)) / Math.sqrt(values.length));
    expect(Math.abs(square - 1 / 3)).toBeLessThan((4 * Math.sqrt(4 / 45)) / Math.sqrt(values.length));
  });
});

describe('shuffledIndices', () => {
  it('holds every index once', () => {
    expect([...shuffledIndices(1000, createRandom(1))].sort((a, b) => a - b)).toEqual([...Array(1000).keys()]);
    expect(shuffledIndices(1, createRandom(1))).toEqual(Uint32Array.of(0));
    expect(shuffledIndices(0, createRandom(1))).toEqual(new Uint32Array(0));
  });

  it('gives each of the six orders of three about equally often', () => {
    const counts = new Map<string, number>();
    for (let seed = 0; seed < 6000; seed++) {
      const order = shuffledIndices(3, createRandom(seed)).join();
      counts.set(order, (counts.get(order) ?? 0) + 1);
    }
    expect(counts.size).toBe(6);
    for (const count of counts.values()) expect(Math.abs(count - 1000)).toBeLessThan(120);
  });
});
