import * as tf from '@tensorflow/tfjs-core';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import type { EngineName } from 'cherryq/contract';
import { openEngine } from '../../../batch-jobs/src/engine/engine.ts';
import type { DecoderConfig } from '../../../batch-jobs/src/models/decoder-config.ts';
import { tensorShapes } from '../../../batch-jobs/src/models/decoder-config.ts';
import { Decoder } from '../../../batch-jobs/src/models/decoder.ts';
import type { KeyValueCache } from '../../../batch-jobs/src/models/layers.ts';
import { parseModelConfig } from '../../../batch-jobs/src/models/registry.ts';
import { openModel } from '../../../batch-jobs/src/model-weights.ts';
import { createRandom } from '../../../batch-jobs/src/numeric/random.ts';
import { FolderStore } from '../../../batch-jobs/src/storage/index.ts';
import { golden, unpack } from '../../support/golden.ts';
import { hasSharedData, sharedData } from '../../support/shared-data.ts';

interface DecoderGolden {
  models: Record<
    'tied' | 'untied',
    {
      config: Record<string, unknown>;
      windows: number[][];
      gradientScale: number;
      weights: Record<string, string>;
      losses: number[];
      gradients: Record<string, string>;
      lastLogits: number[];
      distilledLoss: number;
      distilledGradients: Record<string, string>;
    }
  >;
}

const { models } = golden<DecoderGolden>('decoder');
type Weights = Map<string, Float32Array>;

function unpackAll(tensors: Record<string, string>): Weights {
  return new Map(Object.entries(tensors).map(([name, text]) => [name, unpack(Float32Array, text)]));
}

function load(label: keyof typeof models) {
  const model = models[label];
  const config = parseModelConfig(model.config);
  const weights = unpackAll(model.weights);
  const windows = model.windows.map((window) => Int32Array.from(window));
  const [gradients, distilledGradients] = [unpackAll(model.gradients), unpackAll(model.distilledGradients)];
  return { ...model, config, weights, windows, gradients, distilledGradients };
}

const sourceOf = (weights: Weights) => ({ read: (name: string) => weights.get(name) as Float32Array });

async function gradientsOf(decoder: Decoder, windows: Int32Array[], scale: number, teacher: Decoder | null = null) {
  const gradients: Weights = new Map();
  const consume = (name: string, gradient: Float32Array): void => {
    expect(gradients.has(name)).toBe(false);
    gradients.set(name, gradient);
  };
  const loss = await decoder.lossAndGradients([windows], { gradientScale: scale, reduction: 'sum', consume, teacher });
  return { loss, gradients };
}

/** Largest difference over the largest magnitude. */
function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  expect(actual.length).toBe(expected.length);
  let difference = 0;
  let magnitude = 0;
  for (let i = 0; i < expected.length; i++) {
    difference = Math.max(difference, Math.abs(actual[i] - expected[i]));
    magnitude = Math.max(magnitude, Math.abs(expected[i]));
  }
  return difference / magnitude;
}

const sum = (values: ArrayLike<number>): number => Array.from(values).reduce((total, value) => total + value, 0);
const emptyCaches = (config: DecoderConfig): (KeyValueCache | null)[] => new Array(config.numHiddenLayers).fill(null);
/** What is held on the device; `more` is for caches that the caller keeps. */
const held = (more = 0): { tensors: number; data: number } => ({
  tensors: tf.memory().numTensors - more,
  data: tf.backend().numDataIds() - more,
});

// Both engines are held to half of what they may differ by.
describe.each(['wasm', 'cpu'] as const satisfies EngineName[])('a decoder on %s', (engine) => {
  beforeAll(async () => {
    await openEngine(engine);
  });

  describe.each(['tied', 'untied'] as const)('with a head that is %s', (label) => {
    const { config, weights, windows, gradientScale, losses, gradients, lastLogits } = load(label);
    const decoder = new Decoder(config, sourceOf(weights));

    it('has the loss of PyTorch for each token', async () => {
      const actual = await decoder.losses(windows, 2, () => {});
      expect(relativeError(actual, losses)).toBeLessThan(2e-6);
    });

    it('has the loss and the gradient of PyTorch for every parameter', async () => {
      const { loss, gradients: actual } = await gradientsOf(decoder, windows, gradientScale);
      expect(loss).toBeCloseTo(sum(losses), 4);
      expect([...actual.keys()].sort()).toEqual([...tensorShapes(config).keys()].sort());
      for (const [name, gradient] of actual) {
        expect(relativeError(gradient, gradients.get(name) as Float32Array), name).toBeLessThan(5e-6);
      }
    });

    it('has the loss and the gradients of PyTorch against the distribution of a teacher, whole and in chunks', async () => {
      const { distilledLoss, distilledGradients } = load(label);
      const halved = new Map([...weights].map(([name, values]) => [name, values.map((value) => value / 2)]));
      const teacher = new Decoder(config, sourceOf(halved));
      const chunked = new Decoder(config, sourceOf(weights), { logits: 5 * config.vocabSize, keptBytes: 0 });
      for (const student of [decoder, chunked]) {
        const before = held();
        const { loss, gradients: actual } = await gradientsOf(student, windows, gradientScale, teacher);
        expect(held()).toEqual(before);
        expect(loss).toBeCloseTo(distilledLoss, 4);
        for (const [name, gradient] of actual) {
          // The difference of two close distributions keeps fewer digits than either.
          expect(relativeError(gradient, distilledGradients.get(name) as Float32Array), name).toBeLessThan(1e-5);
        }
      }
    });

    it('has the logits of PyTorch after a window', async () => {
      const actual = await decoder.nextLogits(windows[0], emptyCaches(config), 0);
      expect(relativeError(actual, lastLogits)).toBeLessThan(2e-6);
    });

    it('gives the same logits token by token as all at once', async () => {
      const caches = emptyCaches(config);
      const tokens = windows[0];
      let actual = await decoder.nextLogits(tokens.slice(0, 3), caches, 0);
      for (let past = 3; past < tokens.length; past += 2) {
        actual = await decoder.nextLogits(tokens.slice(past, past + 2), caches, past);
      }
      expect(relativeError(actual, lastLogits)).toBeLessThan(2e-6);
      tf.dispose(caches.flatMap((cache) => (cache ? [cache.keys, cache.values] : [])));
    });

    it('leaves no tensor behind', async () => {
      const before = held();
      await decoder.losses(windows, 2, () => {});
      expect(held()).toEqual(before);
      await gradientsOf(decoder, windows, gradientScale);
      expect(held()).toEqual(before);
      const caches = emptyCaches(config);
      await decoder.nextLogits(windows[0], caches, 0);
      expect(held(2 * config.numHiddenLayers)).toEqual(before);
      await decoder.nextLogits(Int32Array.of(1), caches, windows[0].length);
      expect(held(2 * config.numHiddenLayers)).toEqual(before);
      tf.dispose(caches.flatMap((cache) => (cache ? [cache.keys, cache.values] : [])));
    });
  });
});

describe('the gradients', () => {
  beforeAll(async () => {
    await openEngine('wasm');
  });

  it('are handed on in the order in which the backward pass comes to them', async () => {
    const { config, weights, windows } = load('untied');
    const { gradients } = await gradientsOf(new Decoder(config, sourceOf(weights)), windows, 1);
    const inBlock =
      'mlp.down_proj mlp.up_proj mlp.gate_proj post_attention_layernorm ' +
      'self_attn.o_proj self_attn.v_proj self_attn.k_proj self_attn.q_proj input_layernorm';
    const expected = Array.from({ length: config.numHiddenLayers }, (_, block) => {
      return inBlock.split(' ').map((name) => `model.layers.${config.numHiddenLayers - 1 - block}.${name}.weight`);
    });
    const ends = ['model.norm.weight', 'lm_head.weight', ...expected.flat(), 'model.embed_tokens.weight'];
    expect([...gradients.keys()]).toEqual(ends);
  });

  it.each(['tied', 'untied'] as const)('predict how the loss changes along any direction, head %s', async (label) => {
    const { config, weights, windows } = load(label);
    const { gradients } = await gradientsOf(new Decoder(config, sourceOf(weights)), windows, 1);
    const random = createRandom(11);
    for (const [name, weight] of weights) {
      const direction = weight.map(() => random() * 2 - 1);
      const lossAt = async (distance: number): Promise<number> => {
        const moved = new Map(weights).set(
          name,
          weight.map((value, i) => value + distance * direction[i]),
        );
        return sum(await new Decoder(config, sourceOf(moved)).losses(windows, 3, () => {}));
      };
      const step = 2e-3;
      // Richardson's extrapolation: the error of two central differences cancels to the fourth order.
      const near = ((await lossAt(step)) - (await lossAt(-step))) / (2 * step);
      const far = ((await lossAt(2 * step)) - (await lossAt(-2 * step))) / (4 * step);
      const gradient = gradients.get(name) as Float32Array;
      const predicted = sum(gradient.map((value, i) => value * direction[i]));
      const size = Math.sqrt(sum(gradient.map((value) => value ** 2)));
      expect(Math.abs((4 * near - far) / 3 - predicted) / size, name).toBeLessThan(1e-2);
    }
  });

  it('are the same, bit for bit, when blocks are run again as when their activations are kept', async () => {
    const { config, weights, windows, gradientScale } = load('untied');
    const kept = await gradientsOf(new Decoder(config, sourceOf(weights)), windows, gradientScale);
    const limits = { logits: 2 ** 22, keptBytes: 0 };
    const before = held();
    const again = await gradientsOf(new Decoder(config, sourceOf(weights), limits), windows, gradientScale);
    expect(again).toEqual(kept);
    expect(held()).toEqual(before);
  });

  it.each(['tied', 'untied'] as const)('and losses are the same in chunks of the head, %s', async (label) => {
    const { config, weights, windows, gradientScale } = load(label);
    const whole = new Decoder(config, sourceOf(weights));
    const before = held();
    for (const tokens of [1, 4, 26]) {
      const chunked = new Decoder(config, sourceOf(weights), { logits: tokens * config.vocabSize, keptBytes: 2 ** 29 });
      const a = await gradientsOf(whole, windows, gradientScale);
      const b = await gradientsOf(chunked, windows, gradientScale);
      expect(b.loss).toBeCloseTo(a.loss, 4);
      for (const [name, gradient] of b.gradients)
        expect(relativeError(gradient, a.gradients.get(name) as Float32Array), name).toBeLessThan(1e-6);
      expect(
        relativeError(await chunked.losses(windows, 3, () => {}), await whole.losses(windows, 3, () => {})),
      ).toBeLessThan(1e-6);
    }
    expect(held()).toEqual(before);
  });

  it('of a batch are the sum of those of its windows', async () => {
    const { config, weights, windows } = load('tied');
    const decoder = new Decoder(config, sourceOf(weights));
    const { loss, gradients } = await gradientsOf(decoder, windows, 1);
    const sums: Weights = new Map([...weights].map(([name, weight]) => [name, new Float32Array(weight.length)]));
    let total = 0;
    for (const window of windows) {
      const one = await gradientsOf(decoder, [window], 1);
      total += one.loss;
      for (const [name, gradient] of one.gradients) sums.get(name)?.forEach((_, i, all) => (all[i] += gradient[i]));
    }
    expect(loss).toBeCloseTo(total, 4);
    for (const [name, gradient] of gradients)
      expect(relativeError(gradient, sums.get(name) as Float32Array), name).toBeLessThan(1e-5);
  });
});

describe('losses', () => {
  beforeAll(async () => {
    await openEngine('wasm');
  });

  it('are the same however many windows run at once, and are reported block by block', async () => {
    const { config, weights, windows } = load('tied');
    const decoder = new Decoder(config, sourceOf(weights));
    const reports: number[][] = [];
    const one = await decoder.losses(windows, 1, (done, total) => reports.push([done, total]));
    expect(reports).toEqual([
      [1, 3],
      [2, 3],
      [3, 3],
    ]);
    expect(relativeError(await decoder.losses(windows, 3, () => {}), one)).toBeLessThan(1e-6);
  });

  it('read each tensor once for all windows', async () => {
    const { config, weights, windows } = load('untied');
    const read: string[] = [];
    const source = {
      read(name: string) {
        read.push(name);
        return weights.get(name) as Float32Array;
      },
    };
    await new Decoder(config, source).losses(windows, 1, () => {});
    expect(read.sort()).toEqual([...tensorShapes(config).keys()].sort());
  });

  it('do not depend on tokens that come later', async () => {
    const { config, weights, windows } = load('tied');
    const decoder = new Decoder(config, sourceOf(weights));
    const changed = windows[0].slice();
    changed[6] = (changed[6] + 1) % config.vocabSize;
    const [a, b] = [await decoder.losses([windows[0]], 1, () => {}), await decoder.losses([changed], 1, () => {})];
    expect(b.slice(0, 5)).toEqual(a.slice(0, 5));
    expect(b[5]).not.toBe(a[5]);
  });
});

interface Reference {
  ids: number[];
  nll_per_target: number[];
  last_logits: number[];
  greedy32: number[];
}

const references = ['stories260K', 'babyllama-tok105'];
const folder = sharedData('the forward pass of real models against references in float64');

describe.runIf(hasSharedData).each(references)('the real model %s', (name) => {
  const path = join(folder, 'models', name);
  const load = async () => {
    await openEngine('wasm');
    const model = await openModel(new FolderStore(path), '');
    const reference: Reference = JSON.parse(readFileSync(join(path, 'reference.json'), 'utf8'));
    return { decoder: new Decoder(model.config, model.weights), reference, config: model.config };
  };

  it('has the losses and logits of an independent reference in float64', async () => {
    const { decoder, reference, config } = await load();
    const ids = Int32Array.from(reference.ids);
    const losses = await decoder.losses([ids], 1, () => {});
    expect(losses).toHaveLength(reference.nll_per_target.length);
    losses.forEach((loss, i) => expect(Math.abs(loss - reference.nll_per_target[i])).toBeLessThan(1e-5));
    const logits = await decoder.nextLogits(ids, emptyCaches(config), 0);
    expect(relativeError(logits, reference.last_logits)).toBeLessThan(1e-5);
  });

  it('continues the text as the reference does, token by token from its cache', async () => {
    const { decoder, reference, config } = await load();
    const caches = emptyCaches(config);
    const generated: number[] = [];
    let next = Int32Array.from(reference.ids);
    let past = 0;
    while (generated.length < reference.greedy32.length) {
      const logits = await decoder.nextLogits(next, caches, past);
      past += next.length;
      const best = logits.indexOf(Math.max(...logits));
      generated.push(best);
      next = Int32Array.of(best);
    }
    expect(generated).toEqual(reference.greedy32);
  });
});
