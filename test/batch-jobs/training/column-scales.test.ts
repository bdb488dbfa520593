import * as tf from '@tensorflow/tfjs-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openEngine } from '../../../batch-jobs/src/engine/engine.ts';
import { isLinear } from '../../../batch-jobs/src/models/decoder-config.ts';
import { parseModelConfig } from '../../../batch-jobs/src/models/registry.ts';
import { roundToFloat16 } from '../../../batch-jobs/src/numeric/dtypes.ts';
import { closeHostPool } from '../../../batch-jobs/src/numeric/pool.ts';
import type { Cherries, Grid } from '../../../batch-jobs/src/numeric/quantizer.ts';
import { noCherries } from '../../../batch-jobs/src/numeric/quantizer.ts';
import { createRandom } from '../../../batch-jobs/src/numeric/random.ts';
import { topColumns } from '../../../batch-jobs/src/numeric/top-columns.ts';
import type { ColumnScaleChoice } from '../../../batch-jobs/src/training/column-scales.ts';
import {
  chooseScales,
  scalesAt,
  searchColumnScales,
  searchWindows,
} from '../../../batch-jobs/src/training/column-scales.ts';
import { tinyConfig, tinyWeights } from '../../support/tiny-model.ts';
import { testEngine } from '../../support/engine.ts';

const grid: Grid = { bits: 2, groupSize: 16, levels: 'asymmetric', aligned: false };
const [rows, columns, tokens] = [24, 40, 30];
const random = createRandom(5);
const normal = (): number => random() + random() + random() - 1.5;
const weight = Float32Array.from({ length: rows * columns }, normal);
/** A few inputs are much larger than the others. */
const inputs = Float32Array.from(
  { length: tokens * columns },
  (_, i) => normal() * ([3, 17, 22].includes(i % columns) ? 12 : 0.5),
);
const perRow = 2;
const rowCherries: Cherries = {
  perRow,
  columns: topColumns(weight, columns, perRow).map((_, i, all) => all[i]),
  shared: false,
};
for (let row = 0; row < rows; row++) rowCherries.columns.subarray(row * perRow, (row + 1) * perRow).sort();
const sharedCherries: Cherries = {
  perRow,
  columns: Uint32Array.from({ length: rows * perRow }, (_, i) => [17, 30][i % perRow]),
  shared: true,
};
const magnitudes = Float32Array.from({ length: columns }, (_, column) => {
  let sum = 0;
  for (let token = 0; token < tokens; token++) sum += Math.abs(inputs[token * columns + column]);
  return sum / tokens;
});

beforeAll(async () => {
  await openEngine(testEngine);
});
afterAll(closeHostPool);

const halfToEven = (value: number): number =>
  Math.abs(value % 1) === 0.5 ? 2 * Math.round(value / 2) : Math.round(value);

/** Asymmetric rounding of the scaled normal weights of each group, to four levels with one at zero, written out plainly. */
function plainRounded(cherries: Cherries, scales: readonly number[]): Float64Array {
  const result = Float64Array.from(weight);
  for (let row = 0; row < rows; row++) {
    const kept = new Set(cherries.columns.subarray(row * cherries.perRow, (row + 1) * cherries.perRow));
    const normals = Array.from({ length: columns }, (_, column) => column).filter((column) => !kept.has(column));
    for (let from = 0; from < normals.length; from += 16) {
      const group = normals.slice(from, from + 16);
      const scaled = group.map((column) => weight[row * columns + column] * scales[column]);
      const [low, high] = [Math.min(0, ...scaled), Math.max(0, ...scaled)];
      const step = roundToFloat16((high - low) / 3);
      const zero = Math.min(3, Math.max(0, halfToEven(-low / step)));
      group.forEach((column, i) => {
        const level = Math.min(3, Math.max(0, halfToEven(scaled[i] / step) + zero));
        result[row * columns + column] = ((level - zero) * step) / scales[column];
      });
    }
  }
  return result;
}

/** Mean of (X W^T - X Q^T)^2 in plain loops. */
function plainError(rounded: Float64Array): number {
  let sum = 0;
  for (let token = 0; token < tokens; token++) {
    for (let row = 0; row < rows; row++) {
      let difference = 0;
      for (let column = 0; column < columns; column++) {
        difference +=
          inputs[token * columns + column] * (rounded[row * columns + column] - weight[row * columns + column]);
      }
      sum += difference ** 2;
    }
  }
  return sum / (tokens * rows);
}

/** AWQ's formula: s = a^r, at least 1e-4, over sqrt(max * min). */
function awqScales(ratio: number): number[] {
  const powers = Array.from(magnitudes, (magnitude) => Math.max(magnitude ** ratio, 1e-4));
  const middle = Math.sqrt(Math.max(...powers) * Math.min(...powers));
  return powers.map((power) => power / middle);
}

describe('scalesAt', () => {
  it('is AWQ’s formula, rounded to float16', () => {
    for (const alpha of [0, 0.05, 0.5, 0.95]) {
      expect([...scalesAt(magnitudes, alpha, noCherries)]).toEqual(awqScales(alpha).map(roundToFloat16));
    }
    expect([...scalesAt(magnitudes, 0, noCherries)]).toEqual(Array(columns).fill(1));
  });

  it('leaves columns that are all cherries out of the scaling, those of single rows in it', () => {
    const scales = scalesAt(magnitudes, 0.5, sharedCherries);
    expect([scales[17], scales[30]]).toEqual([1, 1]);
    const left = magnitudes.filter((_, column) => column !== 17 && column !== 30);
    const [least, largest] = [Math.min(...left), Math.max(...left)];
    expect(scales[3]).toBe(roundToFloat16(Math.sqrt(magnitudes[3]) / Math.sqrt(Math.sqrt(least) * Math.sqrt(largest))));
    expect(scalesAt(magnitudes, 0.5, rowCherries)).toEqual(scalesAt(magnitudes, 0.5, noCherries));
  });

  it('gives a normal float16 for inputs that are always zero, or enormous', () => {
    const scales = scalesAt(Float32Array.of(0, 1, 1e30, 1e-30), 0.95, noCherries);
    scales.forEach((scale) => {
      expect(scale).toBeGreaterThanOrEqual(2 ** -14);
      expect(scale).toBeLessThanOrEqual(65_504);
      expect(roundToFloat16(scale)).toBe(scale);
    });
  });
});

describe('chooseScales', () => {
  it.each([
    ['without cherries', noCherries],
    ['with cherries in each row', rowCherries],
    ['with columns of cherries', sharedCherries],
  ])('takes the alpha whose outputs are nearest to the original’s, %s', async (_, cherries) => {
    const x = tf.tensor2d(inputs, [tokens, columns]);
    const before = tf.memory().numTensors;
    const choice = await chooseScales(weight, x, grid, cherries);
    expect(tf.memory().numTensors).toBe(before);
    x.dispose();

    const errors = Array.from({ length: 20 }, (_, i) =>
      plainError(plainRounded(cherries, [...scalesAt(magnitudes, i / 20, cherries)])),
    );
    const best = Math.min(...errors);
    expect(choice.alpha).toBe(errors.indexOf(best) / 20);
    expect(Math.abs(choice.error / best - 1)).toBeLessThan(1e-4);
    expect(Math.abs(choice.errorUnscaled / errors[0] - 1)).toBeLessThan(1e-4);
    expect(choice.error).toBeLessThan(choice.errorUnscaled);
    expect(choice.scales).toEqual(scalesAt(magnitudes, choice.alpha, cherries));
  });

  it('scales nothing where that is best', async () => {
    const even = tf.ones([4, columns]) as tf.Tensor2D;
    const choice = await chooseScales(weight, even, grid, noCherries);
    expect(choice.alpha).toBe(0);
    expect([...choice.scales]).toEqual(Array(columns).fill(1));
    expect(choice.error).toBe(choice.errorUnscaled);
    even.dispose();
  });
});

describe('searchColumnScales', () => {
  const config = parseModelConfig(tinyConfig);
  const weights = tinyWeights();
  const windows = [0, 1, 2].map((w) => Int32Array.from({ length: 16 }, (_, i) => (7 * w + 5 * i + i * i) % 97));
  const search = {
    config,
    weights: { read: (name: string) => weights.get(name) as Float32Array },
    grid,
    cherries: new Map(),
    windows,
  };

  it('chooses for every linear layer, never worse than none, block after block', async () => {
    const before = tf.memory().numTensors;
    const done: number[] = [];
    const found = await searchColumnScales({
      ...search,
      onBlock: async (soFar, count, blocks) => {
        expect(soFar.size).toBe(7 * count);
        expect(blocks).toBe(2);
        done.push(count);
      },
    });
    expect(tf.memory().numTensors).toBe(before);
    expect(done).toEqual([1, 2]);
    expect([...found.keys()].sort()).toEqual([...weights.keys()].filter(isLinear).sort());
    for (const { error, errorUnscaled } of found.values()) expect(error).toBeLessThanOrEqual(errorUnscaled);
    expect([...found.values()].some(({ alpha }) => alpha > 0)).toBe(true);
  });

  it('goes on after the blocks that are known, with the same result', async () => {
    let first = new Map<string, ColumnScaleChoice>();
    const stopping = searchColumnScales({
      ...search,
      onBlock: async (soFar) => {
        first = new Map(soFar);
        throw new Error('stopped');
      },
    });
    await expect(stopping).rejects.toThrow('stopped');
    expect(first.size).toBe(7);
    const read = (name: string): Float32Array => weights.get(name) as Float32Array;
    expect(await searchColumnScales({ ...search, weights: { read }, known: first })).toEqual(
      await searchColumnScales(search),
    );
  });

  it('looks at 4096 tokens at most, and at one window at least', () => {
    const long = Array.from({ length: 40 }, () => new Int32Array(256));
    expect(searchWindows(long)).toHaveLength(16);
    expect(searchWindows([new Int32Array(8192), new Int32Array(8192)])).toHaveLength(1);
    expect(searchWindows(windows)).toHaveLength(3);
  });
});
