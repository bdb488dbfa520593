import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { openEngine } from '../../../batch-jobs/src/engine/engine.ts';
import type { DecoderConfig } from '../../../batch-jobs/src/models/decoder-config.ts';
import { isLinear, tensorShapes } from '../../../batch-jobs/src/models/decoder-config.ts';
import { Decoder } from '../../../batch-jobs/src/models/decoder.ts';
import type { KeyValueCache } from '../../../batch-jobs/src/models/layers.ts';
import { parseModelConfig, supportedArchitectures } from '../../../batch-jobs/src/models/registry.ts';
import { cacheHolds } from '../../../batch-jobs/src/models/rope.ts';
import { createRandom } from '../../../batch-jobs/src/numeric/random.ts';
import { testEngine } from '../../support/engine.ts';
import { golden, unpack } from '../../support/golden.ts';

interface FamiliesGolden {
  seed: number;
  models: Record<
    string,
    {
      config: Record<string, unknown>;
      savedConfig: Record<string, unknown>;
      windows: number[][];
      /** After each prefix of the first window, [length, vocabSize]. */
      prefixLogits: string;
      meanLoss: number;
      gradients: Record<string, string>;
    }
  >;
}

type Weights = ReadonlyMap<string, Float32Array>;

const { seed, models } = golden<FamiliesGolden>('families');

/** As `drawn_weights` in make_families.py draws them. */
function drawnWeights(config: DecoderConfig): Weights {
  const shapes = tensorShapes(config);
  const names = [...shapes.keys()].sort();
  return new Map(
    names.map((name, stream) => {
      const random = createRandom(seed, stream);
      const centre = name.endsWith('norm.weight') ? 1 - config.normOffset : 0;
      const length = (shapes.get(name) as number[]).reduce((product, size) => product * size, 1);
      const draw = (): number => centre + 0.7 * (random() + random() + random() - 1.5);
      return [name, Float32Array.from({ length }, draw)];
    }),
  );
}

const decoderOf = (config: DecoderConfig, weights: Weights): Decoder =>
  new Decoder(config, { read: (name) => weights.get(name) as Float32Array });

function load(label: string) {
  const model = models[label];
  const config = parseModelConfig(model.config);
  const weights = drawnWeights(config);
  const windows = model.windows.map((window) => Int32Array.from(window));
  const logits = unpack(Float32Array, model.prefixLogits);
  const rows = windows[0].length;
  const prefixLogits = Array.from({ length: rows }, (_, i) =>
    logits.slice(i * config.vocabSize).slice(0, config.vocabSize),
  );
  const gradients = new Map(Object.entries(model.gradients).map(([name, text]) => [name, unpack(Float32Array, text)]));
  return { config, weights, windows, prefixLogits, meanLoss: model.meanLoss, gradients };
}

const emptyCaches = (config: DecoderConfig): (KeyValueCache | null)[] => new Array(config.numHiddenLayers).fill(null);
const disposeCaches = (caches: (KeyValueCache | null)[]): void =>
  tf.dispose(caches.flatMap((cache) => (cache ? [cache.keys, cache.values] : [])));

async function logitsAfter(decoder: Decoder, tokens: Int32Array): Promise<Float32Array> {
  const caches = emptyCaches(decoder.config);
  const logits = await decoder.nextLogits(tokens, caches, 0);
  disposeCaches(caches);
  return logits;
}

function largestDifference(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  expect(actual.length).toBe(expected.length);
  let largest = 0;
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs(actual[i] - expected[i]);
    if (!(difference <= largest)) largest = difference;
  }
  return largest;
}

const magnitude = (values: ArrayLike<number>): number => Math.max(...Array.from(values, (value) => Math.abs(value)));

async function gradientsOf(decoder: Decoder, windows: Int32Array[], reduction: 'sum' | 'sumOfSquares', scale: number) {
  const gradients = new Map<string, Float32Array>();
  const consume = (name: string, gradient: Float32Array): void => {
    expect(gradients.has(name), name).toBe(false);
    gradients.set(name, gradient);
  };
  const loss = await decoder.lossAndGradients([windows], { gradientScale: scale, reduction, consume });
  return { loss, gradients };
}

/** Predicted tokens. */
const predictions = (windows: readonly Int32Array[]): number => windows.length * (windows[0].length - 1);

async function meanLoss(decoder: Decoder, windows: readonly Int32Array[]): Promise<number> {
  const losses = await decoder.losses(windows, windows.length, () => {});
  return losses.reduce((sum, loss) => sum + loss, 0) / losses.length;
}

/** For each model the features that it is there for, as what the config would be without them. */
const withoutFeature: Record<string, Record<string, Partial<DecoderConfig>>> = {
  llama2: {},
  llamaBiases: { biases: { biases: [] } },
  llama3: { 'scaled rotary embedding': { ropeScaling: null } },
  llamaLinear: { 'scaled rotary embedding': { ropeScaling: null } },
  mistral: { 'sliding window': { slidingWindows: [null, null] } },
  qwen2: { 'sliding window': { slidingWindows: [null, null] }, biases: { biases: [] } },
  qwen3: { 'sliding window': { slidingWindows: [null, null] }, 'norms of queries and keys': { qkNorm: false } },
  gemma: {
    activation: { activation: 'silu' },
    'norm offset': { normOffset: 0 },
    'embedding scale': { embeddingScale: 1 },
  },
  phi3: { 'sliding window': { slidingWindows: [null, null] } },
  phi3Long: { 'scaled rotary embedding': { ropeScaling: null }, 'sliding window': { slidingWindows: [null, null] } },
};

it('covers every architecture that is supported', () => {
  const covered = new Set(Object.values(models).map(({ config }) => (config.architectures as string[])[0]));
  expect([...covered].sort()).toEqual([...supportedArchitectures].sort());
  expect(Object.keys(withoutFeature).sort()).toEqual(Object.keys(models).sort());
});

describe.each(Object.keys(models))('%s', (label) => {
  const { config, weights, windows, prefixLogits, meanLoss: expectedLoss, gradients } = load(label);
  const decoder = decoderOf(config, weights);

  beforeAll(async () => {
    await openEngine(testEngine);
  });

  it('reads the same from a config.json as checkpoints have it and as transformers writes it', () => {
    expect(parseModelConfig(models[label].savedConfig)).toEqual(config);
  });

  it('has the logits of transformers after every prefix of a text', async () => {
    for (const [last, expected] of prefixLogits.entries()) {
      const logits = await logitsAfter(decoder, windows[0].subarray(0, last + 1));
      expect(largestDifference(logits, expected), `after ${last + 1} tokens`).toBeLessThan(2e-5);
    }
  });

  it('has the same logits with a cache, token by token and in pieces', async () => {
    const tokens = windows[0];
    for (const sizes of [new Array<number>(tokens.length).fill(1), [5, 1, 9, 2, 6]]) {
      const before = tf.memory().numTensors;
      const caches = emptyCaches(config);
      let past = 0;
      for (const size of sizes) {
        if (!cacheHolds(config, past, past + size)) {
          await expect(decoder.nextLogits(tokens.subarray(past, past + size), caches, past)).rejects.toThrow(
            /begin again/,
          );
          disposeCaches(caches);
          caches.fill(null);
          await decoder.nextLogits(tokens.subarray(0, past + size), caches, 0);
          past += size;
          continue;
        }
        const logits = await decoder.nextLogits(tokens.subarray(past, past + size), caches, past);
        past += size;
        expect(largestDifference(logits, prefixLogits[past - 1]), `after ${past} tokens`).toBeLessThan(2e-5);
      }
      disposeCaches(caches);
      expect(past).toBe(tokens.length);
      expect(tf.memory().numTensors).toBe(before);
    }
  });

  it.each(Object.entries(withoutFeature[label]))('would have other logits without its %s', async (_, fields) => {
    const other = decoderOf({ ...config, ...fields }, weights);
    const logits = await logitsAfter(other, windows[0]);
    expect(largestDifference(logits, prefixLogits[windows[0].length - 1])).toBeGreaterThan(1e-2);
  });

  it('has the loss and the gradient of transformers for every tensor', async () => {
    const before = tf.memory().numTensors;
    const { loss, gradients: actual } = await gradientsOf(decoder, windows, 'sum', 1 / predictions(windows));
    expect(tf.memory().numTensors).toBe(before);
    expect(Math.abs(loss / predictions(windows) - expectedLoss)).toBeLessThan(2e-6);
    expect([...actual.keys()].sort()).toEqual([...tensorShapes(config).keys()].sort());
    for (const [name, gradient] of actual) {
      const expected = gradients.get(name) as Float32Array;
      expect(largestDifference(gradient, expected) / magnitude(expected), name).toBeLessThan(2e-5);
    }
  });

  it('has the gradients that finite differences of its loss have', async () => {
    const { gradients: own } = await gradientsOf(decoder, windows, 'sum', 1 / predictions(windows));
    for (const [name, gradient] of own) {
      // Along the gradient itself, where the difference is largest against the rounding of the loss.
      const length = Math.sqrt(gradient.reduce((sum, value) => sum + value * value, 0));
      const lossAt = (step: number): Promise<number> => {
        const moved = (weights.get(name) as Float32Array).map((value, i) => value + (step * gradient[i]) / length);
        return meanLoss(decoderOf(config, new Map([...weights, [name, moved]])), windows);
      };
      const difference = async (step: number): Promise<number> =>
        ((await lossAt(step)) - (await lossAt(-step))) / (2 * step);
      // Of two steps, so that the error of the difference itself is of fourth order (Richardson).
      const slope = (4 * (await difference(5e-3)) - (await difference(1e-2))) / 3;
      expect(Math.abs(slope / length - 1), name).toBeLessThan(1e-3);
    }
  });

  it('sums the squares of each window of its matrices, those that files hold as one included', async () => {
    const { gradients: squares } = await gradientsOf(decoder, windows, 'sumOfSquares', 1);
    expect([...squares.keys()].sort()).toEqual([...weights.keys()].filter(isLinear).sort());
    const sums = new Map([...squares].map(([name, { length }]) => [name, new Float64Array(length)]));
    for (const window of windows) {
      const { gradients: ofWindow } = await gradientsOf(decoder, [window], 'sum', 1);
      for (const [name, total] of sums) ofWindow.get(name)?.forEach((value, i) => (total[i] += value * value));
    }
    for (const [name, total] of sums) {
      const difference = largestDifference(squares.get(name) as Float32Array, total);
      expect(difference / magnitude(total), name).toBeLessThan(1e-5);
    }
  });
});
