import { beforeAll, describe, expect, it } from 'vitest';
import { openEngine } from '../../../batch-jobs/src/engine/engine.ts';
import { DivergedError, InputError } from '../../../batch-jobs/src/errors.ts';
import { blockPrefix, isLinear, parameterKindOf, tensorShapes } from '../../../batch-jobs/src/models/decoder-config.ts';
import { Decoder } from '../../../batch-jobs/src/models/decoder.ts';
import { parseModelConfig } from '../../../batch-jobs/src/models/registry.ts';
import { createRandom } from '../../../batch-jobs/src/numeric/random.ts';
import type { MomentsInMemory } from '../../../batch-jobs/src/numeric/train-tasks.ts';
import { clippingScale } from '../../../batch-jobs/src/training/adamw.ts';
import type { BlockWiseOptions } from '../../../batch-jobs/src/training/block-wise.ts';
import { BlockWiseTrainer, createBlockWiseState } from '../../../batch-jobs/src/training/block-wise.ts';
import { openCheckpoint, saveCheckpoint } from '../../../batch-jobs/src/training/checkpoints.ts';
import { learningRateAt } from '../../../batch-jobs/src/training/schedule.ts';
import type { TrainState, TrainStateOptions } from '../../../batch-jobs/src/training/train.ts';
import { topCherries } from '../../support/cherries.ts';
import { testEngine } from '../../support/engine.ts';
import { plainAdamW, plainFakeQuant, plainMoments, plainNorm } from '../../support/plain.ts';
import { gridFor } from '../../support/grid.ts';
import { temporaryFolder, temporaryStore } from '../../support/temporary-store.ts';
import { tinyConfig, tinyWeights } from '../../support/tiny-model.ts';

const configJson = { ...tinyConfig, num_hidden_layers: 3 };
const config = parseModelConfig(configJson);
const shapes = tensorShapes(config);
const columnsOf = (name: string): number => (shapes.get(name) as number[])[1];
const grid = gridFor(3, 16);
const original = tinyWeights(configJson);
const cherries = new Map(
  [...original].filter(([name]) => isLinear(name)).map(([name, w]) => [name, topCherries(w, columnsOf(name), 1)]),
);
const random = createRandom(3);
const windows = Array.from({ length: 24 }, () =>
  Int32Array.from({ length: 17 }, () => Math.floor(random() * config.vocabSize)),
);
const stepsPerBlock = 6;
const totalSteps = 3 * stepsPerBlock;

function options(changes: Partial<BlockWiseOptions> = {}): BlockWiseOptions {
  return {
    config,
    quantizer: { grid, cherries, columnScales: new Map() },
    original: { read: (name) => original.get(name) as Float32Array },
    schedule: { peak: 3e-3, totalSteps: stepsPerBlock, warmupFraction: 0.1, floor: 0.25 },
    adamW: { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0 },
    maxGradNorm: 1,
    batchSize: 4,
    windowAt: (index) => windows[index % windows.length],
    ...changes,
  };
}

const newState = (stateOptions?: TrainStateOptions): Promise<TrainState> =>
  createBlockWiseState(config, tinyWeights(configJson), stateOptions);

async function advance(state: TrainState, steps: number, changes?: Partial<BlockWiseOptions>): Promise<TrainState> {
  const trainer = new BlockWiseTrainer(options(changes), state);
  for (let i = 0; i < steps; i++) await trainer.advance();
  return state;
}

/** What a model's tensors become once quantized. */
function quantized(weights: ReadonlyMap<string, Float32Array>): Map<string, Float32Array> {
  return new Map(
    [...weights].map(([name, weight]) => {
      const own = cherries.get(name);
      return [name, own ? plainFakeQuant(weight, columnsOf(name), grid, own) : weight];
    }),
  );
}

const decoderOf = (weights: ReadonlyMap<string, Float32Array>): Decoder =>
  new Decoder(config, { read: (name) => weights.get(name) as Float32Array });

const contentOf = ({ latent, moments, records }: TrainState) => structuredClone({ latent, moments, records });
const identity = { job: 'this one' };

beforeAll(async () => {
  await openEngine(testEngine);
});

describe("a block's loss", () => {
  it.each([0, 1, 2])(
    'of block %i is the squared distance, and its gradients are those of finite differences',
    async (block) => {
      const [windowCount, length] = [3, 11];
      const size = windowCount * length * config.hiddenSize;
      const draw = (): Float32Array => Float32Array.from({ length: size }, () => 2 * random() - 1);
      const examples = { hidden: draw(), target: draw(), windows: windowCount, length };
      const gradients = new Map<string, Float32Array>();
      const gradientScale = 1 / 8;
      const loss = await decoderOf(original).blockLossAndGradients(block, examples, {
        gradientScale,
        consume: (name, gradient) => gradients.set(name, gradient),
      });
      const distance = async (weights: ReadonlyMap<string, Float32Array>): Promise<number> => {
        const outputs = await decoderOf(weights).blockOutputs(block, examples.hidden, windowCount, length);
        return outputs.reduce((sum, value, i) => sum + (value - examples.target[i]) ** 2, 0);
      };
      expect(loss / (await distance(original))).toBeCloseTo(1, 6);
      const ofBlock = [...original.keys()].filter((name) => name.startsWith(blockPrefix(block)));
      expect([...gradients.keys()].sort()).toEqual(ofBlock.sort());
      for (const [name, gradient] of gradients) {
        // Along the gradient itself, where the difference is largest against the rounding of the loss.
        const norm = plainNorm([gradient]);
        const at = (step: number): Promise<number> => {
          const moved = original.get(name)?.map((value, i) => value + (step * gradient[i]) / norm) as Float32Array;
          return distance(new Map(original).set(name, moved));
        };
        const slope = async (step: number): Promise<number> => ((await at(step)) - (await at(-step))) / (2 * step);
        // Of two steps, so that the error of the difference itself is of fourth order (Richardson).
        const expected = (4 * (await slope(5e-3)) - (await slope(1e-2))) / 3;
        expect(norm / (gradientScale * expected), name).toBeCloseTo(1, 3);
      }
    },
  );
});

describe('training block by block', () => {
  it("begins each block with the compressed blocks' outputs, against the original's, and takes AdamW's step", async () => {
    // One step of block 0, then the first of block 1, both worked out from the decoder's parts.
    const schedule = { ...options().schedule, totalSteps: 1 };
    const state = await advance(await newState(), 2, { schedule });
    const expected = tinyWeights(configJson);
    const all = windows.slice(0, 4);
    let inputs = await decoderOf(original).embedded(all);
    let targets = inputs;
    const rate = learningRateAt(0, schedule);
    for (const block of [0, 1]) {
      targets = await decoderOf(original).blockOutputs(block, targets, 4, 16);
      const squares = targets.reduce((sum, value) => sum + value * value, 0);
      const gradients = new Map<string, Float32Array>();
      const difference = await decoderOf(quantized(expected)).blockLossAndGradients(
        block,
        { hidden: inputs, target: targets, windows: 4, length: 16 },
        { gradientScale: 1 / squares, consume: (name, gradient) => gradients.set(name, gradient) },
      );
      const { loss, gradientNorm, ...rest } = state.records[block];
      expect(rest).toEqual({ step: block + 1, block, learningRate: rate });
      expect(loss / (difference / squares)).toBeCloseTo(1, 6);
      expect(gradientNorm / plainNorm([...gradients.values()])).toBeCloseTo(1, 5);
      for (const [name, gradient] of gradients) {
        const weight = expected.get(name) as Float32Array;
        const scale = clippingScale(gradientNorm, 1);
        plainAdamW(weight, gradient, plainMoments(weight.length), options().adamW, rate, scale, 1);
        state.latent.get(name)?.forEach((value, i) => expect(value, name).toBeCloseTo(weight[i], 5));
        // From here on, of the same bits: the next block's inputs depend on them.
        weight.set(state.latent.get(name) as Float32Array);
      }
      inputs = await decoderOf(quantized(expected)).blockOutputs(block, inputs, 4, 16);
    }
  });

  it('lowers the loss of every block and numbers the records', async () => {
    const { records } = await advance(await newState(), totalSteps, { windowAt: (index) => windows[index % 4] });
    expect(records.map(({ step }) => step)).toEqual(Array.from({ length: totalSteps }, (_, i) => i + 1));
    for (const block of [0, 1, 2]) {
      const own = records.slice(block * stepsPerBlock, (block + 1) * stepsPerBlock);
      expect(own.every((record) => record.block === block)).toBe(true);
      expect(own[stepsPerBlock - 1].loss).toBeLessThan(own[0].loss * 0.95);
      expect(own.map(({ learningRate }) => learningRate)).toEqual(
        own.map((_, i) => learningRateAt(i, options().schedule)),
      );
    }
  });

  it("brings the model's next tokens closer to the original's than rounding does, on windows that it has not seen", async () => {
    const { latent } = await advance(await newState(), totalSteps);
    const fresh = Array.from({ length: 8 }, () =>
      Int32Array.from({ length: 17 }, () => Math.floor(random() * config.vocabSize)),
    );
    const divergence = async (weights: ReadonlyMap<string, Float32Array>): Promise<number> => {
      const found = await decoderOf(quantized(weights)).divergences(fresh, 8, decoderOf(original), () => undefined);
      return found.divergences.reduce((sum, value) => sum + value, 0);
    };
    expect(await divergence(latent)).toBeLessThan(0.9 * (await divergence(original)));
  });

  it('changes linear layers and norms of the blocks alone', async () => {
    const { latent, changed } = await advance(await newState(), totalSteps);
    const inBlocks = [...original.keys()].filter((name) => name.startsWith('model.layers.'));
    expect([...changed].sort()).toEqual(inBlocks.sort());
    for (const [name, weight] of latent) {
      if (changed.has(name)) expect(weight, name).not.toEqual(original.get(name));
      else expect(weight, name).toEqual(original.get(name));
    }
  });

  it('changes of these only the kinds that are chosen', async () => {
    const state = await advance(await newState({ trainedParameters: ['norms', 'embeddings'] }), 2);
    expect([...state.changed]).toEqual(
      [...original.keys()].filter((name) => name.startsWith(blockPrefix(0)) && parameterKindOf(name) === 'norms'),
    );
    const error: unknown = await newState({ trainedParameters: ['embeddings', 'head'] }).catch((thrown) => thrown);
    expect(error).toBeInstanceOf(InputError);
    expect(error).toMatchObject({ code: 'nothing_to_train', param: 'training.trainedParameters' });
  });

  it('has moments of one block, whatever the depth', async () => {
    const { moments } = await newState();
    const oneBlock = [...original.keys()].filter((name) => name.startsWith(blockPrefix(0)));
    expect([...moments.keys()].sort()).toEqual(oneBlock.map((name) => name.slice(blockPrefix(0).length)).sort());
  });

  it.each([1, stepsPerBlock - 1, stepsPerBlock, stepsPerBlock + 2])(
    'goes on from a checkpoint at step %i to the bytes of an undisturbed run',
    async (step) => {
      const store = await temporaryStore();
      const moments = { dtype: 'bfloat16' as const, folder: null };
      await saveCheckpoint(store, 'checkpoints/', identity, 1, await advance(await newState({ moments }), step));
      const state = await newState({ moments: { ...moments, folder: temporaryFolder() } });
      const checkpoint = await openCheckpoint(store, 'checkpoints/', identity, 'auto', (text) => expect.fail(text));
      await checkpoint?.restore(state);
      expect(state.records).toHaveLength(step);
      await advance(state, stepsPerBlock + 3 - step);
      await state.close();
      const whole = await advance(await newState({ moments }), stepsPerBlock + 3);
      expect(state.latent).toEqual(whole.latent);
      expect(state.records).toEqual(whole.records);
    },
  );

  it('saves in a checkpoint no block that its turn has not come to', async () => {
    const store = await temporaryStore();
    const size = async (steps: number): Promise<number> => {
      await saveCheckpoint(store, 'checkpoints/', identity, 1, await advance(await newState(), steps));
      const name = String(steps).padStart(8, '0');
      return (await store.head(`checkpoints/000001-${name}/state.safetensors`))?.sizeBytes as number;
    };
    const oneBlock = [...original].filter(([name]) => name.startsWith(blockPrefix(0)));
    const blockBytes = oneBlock.reduce((sum, [, { byteLength }]) => sum + byteLength, 0);
    const grown = (await size(stepsPerBlock + 1)) - (await size(1));
    expect(grown).toBeGreaterThanOrEqual(blockBytes);
    expect(grown).toBeLessThan(blockBytes + 2000);
  });

  it('keeps hidden states of no more windows than have room, and goes through them again', async () => {
    const asked = new Set<number>();
    const windowAt = (index: number): Int32Array => {
      asked.add(index);
      return windows[index];
    };
    // Three times 16 tokens of 32 floats for each of five windows; a step takes four.
    const { records } = await advance(await newState(), 3, { windowAt, hiddenBytes: 5 * 3 * 4 * 32 * 17 });
    expect([...asked].sort((a, b) => a - b)).toEqual([0, 1, 2, 3, 4]);
    expect(new Set(records.map(({ loss }) => loss)).size).toBe(3);
  });

  it('on few windows, which its steps go through again and again, takes the steps of a text that repeats itself', async () => {
    const schedule = { ...options().schedule, totalSteps: 5 };
    const steps = 7;
    const bounded = await advance(await newState(), steps, { schedule, hiddenBytes: 5 * 3 * 4 * 32 * 17 });
    const repeated = await advance(await newState(), steps, { schedule, windowAt: (index) => windows[index % 5] });
    // The mean square of the targets, of which the one has four times as many, is summed in another order.
    bounded.records.forEach(({ loss }, i) => expect(loss / repeated.records[i].loss).toBeCloseTo(1, 5));
    const unbounded = await advance(await newState(), steps, { schedule });
    expect(bounded.records[1].loss / unbounded.records[1].loss).not.toBeCloseTo(1, 5);
  });

  it('begins every block with moments of zero, those of a checkpoint at its border included', async () => {
    const schedule = { ...options().schedule, totalSteps: 2 };
    const whole = await advance(await newState(), 3, { schedule });
    const atBorder = await advance(await newState(), 2, { schedule });
    // What the first block has left in them is never seen.
    for (const { first, second } of [...atBorder.moments.values()] as MomentsInMemory[]) {
      expect(first.some((value) => value !== 0)).toBe(true);
      first.fill(1e3);
      second.fill(1e-3);
    }
    await advance(atBorder, 1, { schedule });
    expect(contentOf(atBorder)).toEqual(contentOf(whole));
  });

  it('sums a batch that is larger than what runs at once', async () => {
    const long = Array.from({ length: 4 }, () => Int32Array.from({ length: 1025 }, () => Math.floor(random() * 90)));
    const run = async (batchSize: number, from: number): Promise<number> => {
      const changes = { batchSize, windowAt: (index: number) => long[from + index] };
      const schedule = { ...options().schedule, totalSteps: 1 };
      return (await advance(await newState(), 1, { ...changes, schedule })).records[0].loss;
    };
    const parts = [await run(2, 0), await run(2, 2)];
    const together = await run(4, 0);
    expect(together).toBeGreaterThanOrEqual(Math.min(...parts) * 0.999);
    expect(together).toBeLessThanOrEqual(Math.max(...parts) * 1.001);
  });

  describe('that diverges', () => {
    type Weights = ReadonlyMap<string, Float32Array>;
    const inBlock = (block: number, name: string): string => `model.layers.${block}.${name}.weight`;
    const scale =
      (factor: number, ...names: string[]) =>
      (weights: Weights) =>
        names.forEach((name) => weights.get(name)?.forEach((value, i, own) => (own[i] = factor * value)));
    const set = (name: string, value: number) => (weights: Weights) =>
      (weights.get(name) as Float32Array).fill(value, 5, 6);

    /** Some steps, then something happens to the weights, then a step whose error this is; nothing else may have changed. */
    async function divergence(steps: number, spoil: (weights: Weights) => void, quantizer = options().quantizer) {
      const state = await newState();
      const trainer = new BlockWiseTrainer(options({ quantizer }), state);
      for (let i = 0; i < steps; i++) await trainer.advance();
      spoil(state.latent);
      const before = { ...contentOf(state), changed: [...state.changed] };
      const error = await trainer.advance().catch((thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(DivergedError);
      expect({ ...contentOf(state), changed: [...state.changed] }).toEqual(before);
      return error as DivergedError;
    }

    const cases = [0, 1].flatMap((block): [string, number, string, string, (weights: Weights) => void][] => {
      const [down, up, gate] = ['mlp.down_proj', 'mlp.up_proj', 'mlp.gate_proj'].map((name) => inBlock(block, name));
      const [q, k, o] = 'qko'.split('').map((letter) => inBlock(block, `self_attn.${letter}_proj`));
      const norm = inBlock(block, 'post_attention_layernorm');
      return [
        ['NaN in a matrix', block, 'values', gate, set(gate, NaN)],
        ['NaN in a norm', block, 'values', norm, set(norm, NaN)],
        ['an overflow in a norm', block, 'output', norm, set(norm, 3e38)],
        ['an overflow of attention scores', block, 'input', o, scale(1e20, q, k)],
        ['an overflow between gate and up', block, 'input', down, scale(1e20, gate, up)],
        ['an overflow of the squared error', block, 'squared error', down, scale(1e10, up, down)],
        [
          'a gradient alone',
          block,
          'gradient',
          down,
          (weights) => (scale(1e37, up)(weights), scale(1e-34, down)(weights)),
        ],
      ];
    });

    it.each(cases)('by %s in block %i says so, with tensor and step, and changes nothing', async (...example) => {
      const [, block, what, tensor, spoil] = example;
      const error = await divergence(block * stepsPerBlock + 2, spoil, what === 'values' ? undefined : null);
      expect(error).toMatchObject({ code: 'diverged', step: block * stepsPerBlock + 3, block, tensor });
      expect(error.message).toContain(` in block ${block}: the ${what} of ${tensor} is not finite`);
      if (what === 'gradient') expect(error.message).toMatch(/\(loss [\d.]+, gradient norm (Infinity|NaN)\)/);
    });

    it('in the last step of a block is found as the next begins, and names the former', async () => {
      const tensor = inBlock(0, 'mlp.up_proj');
      const error = await divergence(stepsPerBlock, set(tensor, NaN));
      expect(error).toMatchObject({ code: 'diverged', step: stepsPerBlock + 1, block: 0, tensor });
    });

    it('in the first step of a block leaves the moments of the former and what a checkpoint holds', async () => {
      const tensor = inBlock(1, 'mlp.up_proj');
      const error = await divergence(stepsPerBlock, set(tensor, NaN));
      expect(error).toMatchObject({ code: 'diverged', step: stepsPerBlock + 1, block: 1, tensor });
    });
  });

  it('refuses an original that is not finite, naming the block', async () => {
    const broken = new Map(original);
    broken.set('model.layers.0.mlp.up_proj.weight', new Float32Array(32 * 44).fill(3e38));
    const source = { read: (name: string) => broken.get(name) as Float32Array };
    const error: unknown = await advance(await newState(), 1, { original: source }).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(InputError);
    expect(error).toMatchObject({ code: 'model_not_finite', param: 'model.layers.0' });
  });
});
