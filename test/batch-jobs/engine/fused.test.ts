import * as tf from '@tensorflow/tfjs-core';
import type { Tensor, Tensor2D } from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it } from 'vitest';
import type { EngineName } from 'cherryq/contract';
import { openEngine } from '../../../batch-jobs/src/engine/engine.ts';
import type { AttentionShape, Wanted } from '../../../batch-jobs/src/engine/fused.ts';
import {
  attention,
  attentionBackward,
  crossEntropy,
  crossEntropyBackward,
  rmsNorm,
  rmsNormBackward,
  sumOfProducts,
  geGlu,
  geGluBackward,
  swiGlu,
  swiGluBackward,
} from '../../../batch-jobs/src/engine/fused.ts';
import { createRandom } from '../../../batch-jobs/src/numeric/random.ts';

type Values = { readonly shape: number[]; readonly values: Float32Array };
type Tensors<Names extends string> = Record<Names, Tensor2D>;

const random = createRandom(11);
const draw = (...shape: number[]): Values => drawWithin(2, ...shape);
function drawWithin(range: number, ...shape: number[]): Values {
  const size = shape.reduce((product, length) => product * length, 1);
  return { shape, values: Float32Array.from({ length: size }, () => (random() - 0.5) * range) };
}

/** Runs an operation on an engine, on tensors of these values, and reads what it returns. */
async function runOn<Names extends string>(
  engine: EngineName,
  inputs: Record<Names, Values>,
  operation: (tensors: Tensors<Names>) => Tensor[],
): Promise<{ shape: number[]; values: Float32Array }[]> {
  await openEngine(engine);
  const before = tf.memory().numTensors;
  const results = tf.tidy(() => {
    const tensors = Object.entries<Values>(inputs).map(([name, { shape, values }]) => [name, tf.tensor(values, shape)]);
    return operation(Object.fromEntries(tensors) as Tensors<Names>).map((result) => ({
      shape: result.shape,
      values: result.dataSync<'float32'>(),
    }));
  });
  expect(tf.memory().numTensors).toBe(before);
  return results;
}

/** Every result is that of the definition on plain JavaScript, to `tolerance` of its largest magnitude. */
async function expectDefinition<Names extends string>(
  engine: EngineName,
  inputs: Record<Names, Values>,
  operation: (tensors: Tensors<Names>) => Tensor[],
  tolerance = 2e-6,
): Promise<void> {
  const expected = await runOn('cpu', inputs, operation);
  const actual = await runOn(engine, inputs, operation);
  expect(actual.map(({ shape }) => shape)).toEqual(expected.map(({ shape }) => shape));
  actual.forEach(({ values }, which) => {
    const wanted = expected[which].values;
    const magnitude = wanted.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-30);
    let worst = 0;
    for (let i = 0; i < wanted.length; i++) {
      const difference = Math.abs(values[i] - wanted[i]);
      worst = difference <= worst ? worst : difference;
    }
    expect(worst / magnitude, `result ${which}`).toBeLessThan(tolerance);
  });
}

/** The numeric gradient of the sum of `result` along `direction` at `at`, from the definition. */
async function slope(
  loss: (values: Float32Array) => Promise<number>,
  at: Float32Array,
  direction: Float32Array,
): Promise<number> {
  const step = 1e-3;
  const moved = (sign: number): Float32Array => at.map((value, i) => value + sign * step * direction[i]);
  return ((await loss(moved(1))) - (await loss(moved(-1)))) / (2 * step);
}

const present: EngineName[] = ['wasm'];
try {
  await openEngine('native');
  present.push('native');
} catch {
  console.log('not tested: the fused operations on the native engine, which is not there (npm run engine)');
}

const eps = 1e-5;
const sizes: [number, number][] = [
  [1, 5],
  [3, 7],
  [5, 16],
  [33, 66],
];

describe.each(present)('the fused operations on %s', (engine) => {
  beforeAll(async () => {
    await openEngine(engine);
  });

  it.each(sizes)(
    'normalize %i rows of %i, forward and backward, with and without a residual',
    async (rows, columns) => {
      const inputs = {
        x: draw(rows, columns),
        weight: draw(columns),
        dy: draw(rows, columns),
        residual: draw(rows, columns),
      };
      await expectDefinition(engine, inputs, ({ x, weight, dy, residual }) => {
        const plain = rmsNormBackward(x, weight, eps, dy, null);
        const added = rmsNormBackward(x, weight, eps, dy, residual);
        return [rmsNorm(x, weight, eps), plain.dx, plain.dWeight, added.dx, added.dWeight];
      });
    },
  );

  it('normalize a row of zeros to zeros', async () => {
    const inputs = { x: { shape: [1, 6], values: new Float32Array(6) }, weight: draw(6) };
    const [{ values }] = await runOn(engine, inputs, ({ x, weight }) => [rmsNorm(x, weight, eps)]);
    expect([...values.map(Math.abs)]).toEqual(new Array(6).fill(0));
  });

  it.each([...sizes, [40, 103] as [number, number]])(
    'gate %i rows of %i, forward and backward',
    async (rows, columns) => {
      const inputs = { gate: drawWithin(20, rows, columns), up: draw(rows, columns), dy: draw(rows, columns) };
      await expectDefinition(engine, inputs, ({ gate, up, dy }) => {
        const silu = swiGluBackward(gate, up, dy);
        const gelu = geGluBackward(gate, up, dy);
        return [swiGlu(gate, up), silu.dGate, silu.dUp, geGlu(gate, up), gelu.dGate, gelu.dUp];
      });
    },
  );

  it('gate extremes as the identity and as zero', async () => {
    const gate = { shape: [1, 4], values: Float32Array.of(-1000, -100, 100, 1000) };
    const up = { shape: [1, 4], values: new Float32Array(4).fill(1) };
    const results = await runOn(engine, { gate, up }, (tensors) => [
      swiGlu(tensors.gate, tensors.up),
      geGlu(tensors.gate, tensors.up),
    ]);
    for (const { values } of results) {
      expect(Math.abs(values[0])).toBeLessThan(1e-30);
      expect(Math.abs(values[1])).toBeLessThan(1e-30);
      expect([...values.slice(2)]).toEqual([100, 1000]);
    }
  });

  it('have the values of GELU in its tanh form, and the slope that finite differences have', async () => {
    const at = [-4, -1.5, -0.7, 0, 0.3, 1, 2.5];
    const gelu = (x: number): number => (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
    const ones = { shape: [1, at.length], values: new Float32Array(at.length).fill(1) };
    const gate = { shape: [1, at.length], values: Float32Array.from(at) };
    const [values, slopes] = await runOn(engine, { gate, up: ones, dy: ones }, ({ gate, up, dy }) => [
      geGlu(gate, up),
      geGluBackward(gate, up, dy).dGate,
    ]);
    at.forEach((x, i) => {
      expect(Math.abs(values.values[i] - gelu(x))).toBeLessThan(1e-6);
      expect(Math.abs(slopes.values[i] - (gelu(x + 1e-5) - gelu(x - 1e-5)) / 2e-5)).toBeLessThan(2e-6);
    });
  });

  it.each([2, 5, 8, 19, 2049, 4103])('take the loss of %i columns, by id and by distribution', async (columns) => {
    const ids = [0, columns - 1, columns >> 1];
    const inputs = { logits: drawWithin(12, 3, columns), teacher: drawWithin(12, 3, columns) };
    await expectDefinition(engine, inputs, ({ logits, teacher }) => {
      const wanted: Wanted[] = [{ ids: tf.tensor1d(ids, 'int32') }, { logits: teacher }];
      return wanted.flatMap((each) => {
        const { losses, dLogits } = crossEntropyBackward(logits, each, 0.25);
        return [crossEntropy(logits, each), losses, dLogits];
      });
    });
  });

  it('take the loss of logits that would overflow', async () => {
    const logits = { shape: [2, 3], values: Float32Array.of(1000, 0, -1000, -5000, -5000, -5000) };
    const [losses, gradient] = await runOn(engine, { logits }, (tensors) => {
      const result = crossEntropyBackward(tensors.logits, { ids: tf.tensor1d([1, 2], 'int32') }, 1);
      return [result.losses, result.dLogits];
    });
    expect(losses.values[0]).toBeCloseTo(1000, 3);
    // The sum of logits of this size has no more digits.
    expect(Math.abs(losses.values[1] - Math.log(3))).toBeLessThan(1e-3);
    [1, -1, 0, 1 / 3, 1 / 3, -2 / 3].forEach((value, i) => expect(gradient.values[i]).toBeCloseTo(value, 5));
  });

  it('sum products of either orientation onto a base', async () => {
    const inputs = { base: draw(5, 9), a: draw(5, 6), b: draw(6, 9), c: draw(3, 5), d: draw(9, 3) };
    await expectDefinition(engine, inputs, ({ base, a, b, c, d }) => {
      const products = [
        { a, b },
        { a: c, b: d, transposeA: true, transposeB: true },
      ];
      return [sumOfProducts(base, products), sumOfProducts(null, products), sumOfProducts(null, [{ a, b }])];
    });
  });

  const shape = (
    windows: number,
    length: number,
    width: number,
    heads: number,
    keyValueHeads: number,
    headDim: number,
    slidingWindow: number | null = null,
  ): AttentionShape => ({ windows, length, width, heads, keyValueHeads, headDim, slidingWindow });
  const shapes: [string, AttentionShape][] = [
    ['one token', shape(1, 1, 1, 1, 1, 2)],
    ['a length that is no multiple of a vector', shape(2, 7, 7, 4, 2, 8)],
    ['whole tiles of queries', shape(1, 64, 64, 2, 2, 16)],
    ['a tile of queries and one more', shape(1, 33, 33, 2, 1, 8)],
    ['an odd head width, three queries to a key', shape(2, 13, 13, 3, 1, 6)],
    ['one new token after a past', shape(1, 1, 9, 4, 2, 8)],
    ['a few new tokens after a past', shape(2, 3, 14, 2, 1, 4)],
    ['a sliding window of two tokens', shape(1, 11, 11, 2, 1, 4, 2)],
    ['a sliding window narrower than a vector', shape(2, 21, 21, 2, 1, 8, 3)],
    ['a sliding window over several tiles of queries', shape(1, 101, 101, 3, 1, 6, 37)],
    ['a sliding window narrower than a tile of queries', shape(1, 75, 75, 2, 2, 16, 9)],
    ['a sliding window that reaches the first token', shape(1, 12, 12, 2, 1, 4, 12)],
    ['a sliding window wider than the text', shape(1, 12, 12, 2, 1, 4, 2 ** 31 - 1)],
    ['a sliding window and one new token after a past', shape(1, 1, 40, 4, 2, 8, 7)],
    ['a sliding window and a few new tokens after a past', shape(2, 5, 45, 2, 1, 4, 16)],
  ];

  function attentionInputs({ windows, length, width, heads, keyValueHeads, headDim }: AttentionShape, range: number) {
    const angles = Float32Array.from({ length: (width * headDim) / 2 }, () => random() * 6);
    return {
      queries: drawWithin(range, windows * length, heads * headDim),
      keys: drawWithin(range, windows * width, keyValueHeads * headDim),
      values: draw(windows * width, keyValueHeads * headDim),
      cos: { shape: [width, headDim / 2], values: angles.map(Math.cos) },
      sin: { shape: [width, headDim / 2], values: angles.map(Math.sin) },
      dAttended: draw(windows * length, heads * headDim),
    };
  }

  it.each(shapes)('attend, forward and backward: %s', async (_, shape) => {
    await expectDefinition(
      engine,
      attentionInputs(shape, 4),
      ({ dAttended, ...inputs }) => {
        const { attended, saved } = attention(inputs, shape);
        const { dQueries, dKeys, dValues } = attentionBackward(inputs, saved, dAttended, shape);
        return [attended, dQueries, dKeys, dValues];
      },
      1e-5,
    );
  });

  it('attend to nothing that a sliding window hides, and send no gradient there', async () => {
    const own = shape(1, 20, 20, 1, 1, 4, 6);
    const inputs = attentionInputs(own, 4);
    const attend = ({ dAttended, ...tensors }: Tensors<keyof typeof inputs>): Tensor[] => {
      const { attended, saved } = attention(tensors, own);
      const { dKeys, dValues } = attentionBackward(tensors, saved, dAttended, own);
      return [tf.slice(attended, [19, 0], [1, 4]), tf.slice(dKeys, [0, 0], [1, 4]), tf.slice(dValues, [0, 0], [1, 4])];
    };
    const lastOnly = { shape: [20, 4], values: Float32Array.from({ length: 80 }, (_, i) => (i < 24 ? 0 : 1)) };
    const [last, ...hiddenGradients] = await runOn(engine, { ...inputs, dAttended: lastOnly }, attend);
    const changed = { ...inputs.values, values: inputs.values.values.map((value, i) => (i < 14 * 4 ? 100 : value)) };
    const [unmoved] = await runOn(engine, { ...inputs, values: changed }, attend);
    expect(unmoved.values).toEqual(last.values);
    for (const { values } of hiddenGradients) expect([...values.map(Math.abs)]).toEqual([0, 0, 0, 0]);
  });

  it('attend with scores that leave one key alone', async () => {
    const own = shape(1, 12, 12, 2, 1, 8);
    const results = await runOn(engine, attentionInputs(own, 400), ({ dAttended, ...inputs }) => {
      const { attended, saved } = attention(inputs, own);
      const gradients = attentionBackward(inputs, saved, dAttended, own);
      return [attended, ...Object.values(gradients)];
    });
    for (const { values } of results) expect(values.every(Number.isFinite)).toBe(true);
  });

  it.each([null, 3])(
    'have the gradients of attention that finite differences have, sliding window %s',
    async (seen) => {
      const own = shape(1, 5, 5, 2, 1, 4, seen);
      const inputs = attentionInputs(own, 2);
      const gradients = await runOn(engine, inputs, ({ dAttended, ...tensors }) => {
        const { saved } = attention(tensors, own);
        return Object.values(attentionBackward(tensors, saved, dAttended, own));
      });
      for (const [i, name] of (['queries', 'keys', 'values'] as const).entries()) {
        const direction = draw(...inputs[name].shape).values;
        const loss = async (values: Float32Array): Promise<number> => {
          const moved = { ...inputs, [name]: { shape: inputs[name].shape, values } };
          const [attended] = await runOn(engine, moved, ({ dAttended, ...tensors }) => {
            void dAttended;
            return [attention(tensors, own).attended];
          });
          return attended.values.reduce((sum, value, at) => sum + value * inputs.dAttended.values[at], 0);
        };
        const predicted = gradients[i].values.reduce((sum, value, at) => sum + value * direction[at], 0);
        expect(Math.abs((await slope(loss, inputs[name].values, direction)) - predicted), name).toBeLessThan(2e-3);
      }
    },
  );
});
