import * as tf from '@tensorflow/tfjs-core';
import type { BackendWasm } from '@tensorflow/tfjs-backend-wasm';
import { beforeAll, describe, expect, it } from 'vitest';
import { openEngine } from '../../../batch-jobs/src/engine/engine.ts';
import { mendWasmKernels } from '../../../batch-jobs/src/engine/wasm-kernels.ts';
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

describe('the mended matrix product', () => {
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

  it('stays what it is when it is mended again', () => {
    mendWasmKernels();
    const x = tf.tensor2d([1, 2, 3, 4], [2, 2]);
    expect([...tf.tidy(() => tf.matMul(x, x, true).dataSync())]).toEqual([10, 14, 14, 20]);
    x.dispose();
  });
});
