import { describe, expect, it } from 'vitest';
import { createRandom } from '../../../batch-jobs/src/numeric/random.ts';
import { topColumns } from '../../../batch-jobs/src/numeric/top-columns.ts';

/** The same by sorting each row. */
function bySorting(values: Float32Array, columns: number, count: number): number[] {
  return Array.from({ length: values.length / columns }, (_, row) => {
    const own = Array.from(values.subarray(row * columns, (row + 1) * columns), Math.abs);
    const order = own.map((_, column) => column).sort((a, b) => own[b] - own[a] || a - b);
    return order.slice(0, count);
  }).flat();
}

describe('topColumns', () => {
  it.each([
    [1, 1],
    [2, 1],
    [7, 7],
    [44, 3],
    [288, 2],
    [1000, 250],
  ])('gives what sorting each row gives, %i columns, the top %i', (columns, count) => {
    const random = createRandom(columns, count);
    const values = Float32Array.from({ length: 9 * columns }, () => random() - 0.5);
    expect([...topColumns(values, columns, count)]).toEqual(bySorting(values, columns, count));
  });

  it('puts the lower column first where magnitudes are equal', () => {
    const random = createRandom(3);
    const values = Float32Array.from({ length: 50 * 40 }, () => Math.floor(5 * random()) - 2);
    for (const count of [1, 5, 17, 40]) {
      expect([...topColumns(values, 40, count)]).toEqual(bySorting(values, 40, count));
    }
    expect([...topColumns(new Float32Array(6), 6, 4)]).toEqual([0, 1, 2, 3]);
  });

  it('leaves its argument alone', () => {
    const values = Float32Array.of(3, -1, 2);
    topColumns(values, 3, 2);
    expect(values).toEqual(Float32Array.of(3, -1, 2));
  });

  it.each([0, 4, 1.5])('refuses the top %d of three columns', (count) => {
    expect(() => topColumns(new Float32Array(3), 3, count)).toThrow(`The top ${count} of 3 columns`);
  });
});
