import * as tf from '@tensorflow/tfjs-core';
import type { BackendWasm } from '@tensorflow/tfjs-backend-wasm';
import { readFileSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import { openEngine } from '../../../batch-jobs/src/engine/engine.ts';
import { exponential, registerWasmKernels } from '../../../batch-jobs/src/engine/wasm-kernels.ts';
import { createRandom } from '../../../batch-jobs/src/numeric/random.ts';

interface Matrices {
  readonly shape: number[];
  readonly values: Float32Array;
}

const random = createRandom(7);
function draw(shape: number[]): Matrices {
  const size = shape.reduce((product, length) => product * length, 1);
  return { shape, values: Float32Array.from({ length: size }, () => random() * 2 - 1) };
}

/** Element of a batch of matrices; `batch` is an index into the broadcast shape. */
function elementAt({ shape, values }: Matrices, batch: readonly number[], row: number, column: number): number {
  const [rows, columns] = shape.slice(-2);
  const own = shape.slice(0, -2);
  let matrix = 0;
  own.forEach((size, axis) => {
    const index = batch[batch.length - own.length + axis];
    matrix = matrix * size + (size === 1 ? 0 : index);
  });
  return values[(matrix * rows + row) * columns + column];
}

/** The product in double precision, by its definition. */
function product(a: Matrices, b: Matrices, batchShape: number[], transposeA: boolean, transposeB: boolean): number[] {
  const [m, k] = transposeA ? a.shape.slice(-2).reverse() : a.shape.slice(-2);
  const n = b.shape[b.shape.length - (transposeB ? 2 : 1)];
  const count = batchShape.reduce((all, size) => all * size, 1);
  const result: number[] = [];
  for (let flat = 0; flat < count; flat++) {
    let rest = flat;
    const batch = batchShape.toReversed().map((size) => {
      const index = rest % size;
      rest = Math.floor(rest / size);
      return index;
    });
    batch.reverse();
    for (let i = 0; i < m; i++) {
      for (let j = 0; j < n; j++) {
        let sum = 0;
        for (let l = 0; l < k; l++) {
          const left = transposeA ? elementAt(a, batch, l, i) : elementAt(a, batch, i, l);
          sum += left * (transposeB ? elementAt(b, batch, j, l) : elementAt(b, batch, l, j));
        }
        result.push(sum);
      }
    }
  }
  return result;
}

const batches: [string, number[], number[], number[]][] = [
  ['plain matrices', [], [], []],
  ['equal batches', [3], [3], [3]],
  ['two batch dimensions', [2, 3], [2, 3], [2, 3]],
  ['one matrix on the left for a batch', [1], [4], [4]],
  ['one matrix on the right for a batch', [4], [1], [4]],
  ['a plain matrix on the right for two batch dimensions', [2, 2], [], [2, 2]],
  ['a batch on the right for each of a larger one', [2, 3], [3], [2, 3]],
  ['batches that are each broadcast along another dimension', [2, 1], [1, 3], [2, 3]],
];
const transposes: [boolean, boolean][] = [
  [false, false],
  [true, false],
  [false, true],
  [true, true],
];
const sizes: [number, number, number][] = [
  [5, 7, 3],
  [1, 9, 6],
  [6, 1, 4],
  [17, 33, 1],
];

beforeAll(async () => {
  await openEngine('wasm');
});

describe('the matrix product', () => {
  describe.each(batches)('of %s', (_, aBatch, bBatch, batchShape) => {
    it.each(transposes)('with transposeA %s and transposeB %s equals its definition', (transposeA, transposeB) => {
      for (const [m, k, n] of sizes) {
        const a = draw([...aBatch, ...(transposeA ? [k, m] : [m, k])]);
        const b = draw([...bBatch, ...(transposeB ? [n, k] : [k, n])]);
        const values = tf.tidy(() => {
          const result = tf.matMul(tf.tensor(a.values, a.shape), tf.tensor(b.values, b.shape), transposeA, transposeB);
          expect(result.shape).toEqual([...batchShape, m, n]);
          return result.dataSync();
        });
        const expected = product(a, b, batchShape, transposeA, transposeB);
        expected.forEach((value, i) => expect(Math.abs(values[i] - value)).toBeLessThan(1e-5));
      }
    });
  });

  it.each(transposes)('crosses its blocks, with transposeA %s and transposeB %s', (transposeA, transposeB) => {
    // One more than a block of rows, of steps and of columns, and a remainder of a tile in each.
    const [m, k, n] = [131, 259, 517];
    const a = draw(transposeA ? [k, m] : [m, k]);
    const b = draw(transposeB ? [n, k] : [k, n]);
    const values = tf.tidy(() =>
      tf.matMul(tf.tensor(a.values, a.shape), tf.tensor(b.values, b.shape), transposeA, transposeB).dataSync(),
    );
    const expected = product(a, b, [], transposeA, transposeB);
    let worst = 0;
    expected.forEach((value, i) => (worst = Math.max(worst, Math.abs(values[i] - value))));
    expect(worst).toBeLessThan(2e-5);
  });

  it('is zero when there is nothing to sum', () => {
    const values = tf.tidy(() => tf.matMul(tf.zeros([3, 0]), tf.zeros([0, 2])).dataSync());
    expect([...values]).toEqual(new Array(6).fill(0));
  });

  it('leaves no memory behind, in the engine or in the backend', () => {
    const backend = tf.backend() as BackendWasm;
    const multiply = (): void => {
      for (const [transposeA, transposeB] of transposes) {
        tf.tidy(() => tf.matMul(tf.ones([3, 8, 8]), tf.ones([1, 8, 8]), transposeA, transposeB).dataSync());
        // A transposition of a single row or column is a view of the same memory.
        tf.tidy(() => tf.matMul(tf.ones([1, 8, 1]), tf.ones([1, 1, 8]), false, false).dataSync());
        tf.tidy(() => tf.matMul(tf.ones([1, 1, 8]), tf.ones([1, 8, 1]), true, true).dataSync());
      }
    };
    multiply();
    const before = { tensors: tf.memory().numTensors, data: backend.numDataIds() };
    for (let i = 0; i < 20; i++) multiply();
    expect({ tensors: tf.memory().numTensors, data: backend.numDataIds() }).toEqual(before);
  });

  it('sees a right operand that was replaced by another at the same place', () => {
    const x = tf.ones([1, 2, 2]);
    for (const value of [1, 2, 3]) {
      const y = tf.tidy(() => tf.matMul(x, tf.fill([1, 2, 2], value)).dataSync());
      expect([...y]).toEqual(new Array(4).fill(2 * value));
    }
    x.dispose();
  });

  it('stays what it is when the kernels are registered again', () => {
    registerWasmKernels();
    const x = tf.tensor2d([1, 2, 3, 4], [2, 2]);
    expect([...tf.tidy(() => tf.matMul(x, x, true).dataSync())]).toEqual([10, 14, 14, 20]);
    x.dispose();
  });
});

describe('the exponential of the kernels', () => {
  const of = (values: Float32Array): Float32Array =>
    tf.tidy(() => exponential(tf.tensor1d(values)).dataSync() as Float32Array);

  it('is within 2e-7 of its value from the smallest to the largest float', () => {
    const count = 200_003;
    const x = Float32Array.from({ length: count }, (_, i) => -86.8 + (175.4 * i) / count);
    const y = of(x);
    let worst = 0;
    x.forEach((value, i) => (worst = Math.max(worst, Math.abs(y[i] / Math.exp(value) - 1))));
    expect(worst).toBeLessThan(2e-7);
  });

  it('is 0 far below, the largest float or so far above, 1 at zero and not a number for none', () => {
    const [minusInfinity, low, zero, minusZero, high, infinity, none] = of(
      Float32Array.of(-Infinity, -1e30, 0, -0, 1e30, Infinity, NaN),
    );
    expect([minusInfinity, low, zero, minusZero]).toEqual([0, 0, 1, 1]);
    expect(high).toBeGreaterThan(3.39e38);
    expect(infinity).toBe(high);
    expect(none).toBeNaN();
  });
});

describe('the sum of rows by segment', () => {
  const sum = (x: number[][], ids: number[], segments: number): Float32Array =>
    tf.tidy(
      () => tf.unsortedSegmentSum(tf.tensor2d(x), tf.tensor1d(ids, 'int32'), segments).dataSync() as Float32Array,
    );

  it('adds rows of one id, leaves out negative ids, and gives zero where there is none', () => {
    const rows = [
      [1, 2, 3, 4, 5],
      [10, 20, 30, 40, 50],
      [7, 7, 7, 7, 7],
      [100, 200, 300, 400, 500],
    ];
    const zeros = new Array(5).fill(0);
    expect([...sum(rows, [2, 0, -1, 2], 4)]).toEqual([...rows[1], ...zeros, 101, 202, 303, 404, 505, ...zeros]);
  });

  it('refuses an id that is no segment, and names where it is', () => {
    const before = tf.memory().numTensors;
    expect(() => sum([[1], [2], [3]], [0, 1, 2], 2)).toThrow(/the id at 2 is not below the number of segments, 2/);
    expect(tf.memory().numTensors).toBe(before);
  });
});

describe('the module of kernels', () => {
  it('has no data of its own, which would lie over what the backend keeps in the memory they share', () => {
    const bytes = readFileSync(new URL(import.meta.resolve('@cherryq/batch-jobs/kernels/device.wasm')));
    const sections: number[] = [];
    for (let at = 8; at < bytes.length;) {
      sections.push(bytes[at++]);
      let size = 0;
      for (let shift = 0, more = true; more; shift += 7) {
        size |= (bytes[at] & 127) << shift;
        more = bytes[at++] > 127;
      }
      at += size;
    }
    const [code, data] = [10, 11];
    expect(sections).toContain(code);
    expect(sections).not.toContain(data);
  });
});
