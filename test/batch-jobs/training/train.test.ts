import { beforeAll, describe, expect, it } from 'vitest';
import { openEngine } from '../../../batch-jobs/src/engine/engine.ts';
import { DivergedError } from '../../../batch-jobs/src/errors.ts';
import { isLinear, tensorShapes } from '../../../batch-jobs/src/models/decoder-config.ts';
import { Decoder } from '../../../batch-jobs/src/models/decoder.ts';
import { parseModelConfig } from '../../../batch-jobs/src/models/registry.ts';
import type { Cherries } from '../../../batch-jobs/src/numeric/quantizer.ts';
import { noCherries } from '../../../batch-jobs/src/numeric/quantizer.ts';
import { createRandom } from '../../../batch-jobs/src/numeric/random.ts';
import type { MomentsInMemory } from '../../../batch-jobs/src/numeric/train-tasks.ts';
import { openCheckpoint, saveCheckpoint } from '../../../batch-jobs/src/training/checkpoints.ts';
import { HostWeights } from '../../../batch-jobs/src/training/host-weights.ts';
import { clippingScale } from '../../../batch-jobs/src/training/adamw.ts';
import { learningRateAt } from '../../../batch-jobs/src/training/schedule.ts';
import type { TrainOptions, TrainState, TrainStateOptions } from '../../../batch-jobs/src/training/train.ts';
import { Trainer, createTrainState } from '../../../batch-jobs/src/training/train.ts';
import { topCherries } from '../../support/cherries.ts';
import { plainAdamW, plainFakeQuant, plainMoments, plainNorm } from '../../support/plain.ts';
import { testEngine } from '../../support/engine.ts';
import { temporaryFolder, temporaryStore } from '../../support/temporary-store.ts';
import { tinyConfig, tinyWeights } from '../../support/tiny-model.ts';
import { gridFor } from '../../support/grid.ts';

const config = parseModelConfig(tinyConfig);
const shapes = tensorShapes(config);
const grid = gridFor(3, 16);

function cherriesOf(weights: ReadonlyMap<string, Float32Array>): Map<string, Cherries> {
  const columns = (name: string): number => (shapes.get(name) as number[])[1];
  return new Map(
    [...weights].filter(([name]) => isLinear(name)).map(([name, w]) => [name, topCherries(w, columns(name), 1)]),
  );
}

const random = createRandom(3);
const windows = Array.from({ length: 12 }, () =>
  Int32Array.from({ length: 16 }, (_, i) => (i % 4 === 0 ? 5 : Math.floor(random() * config.vocabSize))),
);

function options(changes: Partial<TrainOptions> = {}): TrainOptions {
  return {
    config,
    quantizer: { grid, cherries: cherriesOf(tinyWeights()), columnScales: new Map() },
    teacher: null,
    schedule: { peak: 5e-3, totalSteps: 10, warmupFraction: 0.1, floor: 0.25 },
    adamW: { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.01 },
    maxGradNorm: 1,
    batchSize: 2,
    windowAt: (index) => windows[index % windows.length],
    ...changes,
  };
}

async function advance(trainer: Trainer, steps: number): Promise<TrainState> {
  for (let i = 0; i < steps; i++) await trainer.advance();
  return trainer.state;
}
const trained = async (
  steps: number,
  changes?: Partial<TrainOptions>,
  stateOptions?: TrainStateOptions,
): Promise<TrainState> =>
  advance(new Trainer(options(changes), await createTrainState(tinyWeights(), stateOptions)), steps);

/** What can be compared of a state. */
const contentOf = ({ latent, moments, records }: TrainState) => structuredClone({ latent, moments, records });

/** All of it, bit for bit: a NaN is that NaN. */
function bitsOf({ latent, moments, changed, records }: TrainState) {
  const bits = (array: ArrayBufferView): string =>
    Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString('hex');
  const inMemory = [...moments].map(([name, own]) => {
    const { first, second } = own as MomentsInMemory;
    return [name, bits(first), bits(second)];
  });
  const weights = [...latent].map(([name, weight]) => [name, bits(weight)]);
  return { weights, inMemory, changed: [...changed], records: structuredClone(records) };
}

beforeAll(async () => {
  await openEngine(testEngine);
});

describe('Trainer', () => {
  it('ends in the same bytes in two runs', async () => {
    expect(contentOf(await trained(4))).toEqual(contentOf(await trained(4)));
  });

  const identity = { job: 'this one' };

  it.each([1, 3])('goes on from a checkpoint at step %i to the bytes of an undisturbed run', async (step) => {
    const store = await temporaryStore();
    await saveCheckpoint(store, 'checkpoints/', identity, 1, await trained(step));
    const checkpoint = await openCheckpoint(store, 'checkpoints/', identity, 'auto', (message) => expect.fail(message));
    expect(checkpoint?.step).toBe(step);
    const resumed = await createTrainState(tinyWeights());
    await checkpoint?.restore(resumed);
    const state = await advance(new Trainer(options(), resumed), 5 - step);
    expect(contentOf(state)).toEqual(contentOf(await trained(5)));
  });

  it.each(['float32', 'bfloat16'] as const)('takes the same steps with moments of %s in a file', async (dtype) => {
    const inMemory = await trained(4, {}, { moments: { dtype, folder: null } });
    const inFile = await trained(4, {}, { moments: { dtype, folder: temporaryFolder() } });
    expect(inFile.records).toEqual(inMemory.records);
    expect(inFile.latent).toEqual(inMemory.latent);
    await inFile.close();
  });

  it('with moments in bfloat16 stays near the steps with float32, and is not the same', async () => {
    const wide = await trained(8);
    const narrow = await trained(8, {}, { moments: { dtype: 'bfloat16', folder: null } });
    expect(narrow.records[7].loss).not.toBe(wide.records[7].loss);
    expect(Math.abs(narrow.records[7].loss / wide.records[7].loss - 1)).toBeLessThan(0.01);
  });

  it('takes the step of AdamW on the gradient at the quantized weights, the quantizer as the identity', async () => {
    const { quantizer, schedule, adamW } = options();
    const weights = tinyWeights();
    const quantized = new Map(weights);
    for (const [name, weight] of weights) {
      if (!isLinear(name)) continue;
      const cherries = quantizer?.cherries.get(name) ?? noCherries;
      quantized.set(name, plainFakeQuant(weight, (shapes.get(name) as number[])[1], grid, cherries));
    }
    const gradients = new Map<string, Float32Array>();
    const decoder = new Decoder(config, { read: (name) => quantized.get(name) as Float32Array });
    const loss = await decoder.lossAndGradients([windows.slice(0, 2)], {
      gradientScale: 1 / 30,
      reduction: 'sum',
      consume: (name, gradient) => gradients.set(name, gradient),
    });
    const norm = plainNorm([...gradients.values()]);
    const learningRate = learningRateAt(0, schedule);

    const trainer = new Trainer(options(), await createTrainState(tinyWeights()));
    const { gradientNorm, ...record } = await trainer.advance();
    expect(record).toEqual({ step: 1, loss: loss / 30, learningRate });
    expect(gradientNorm / norm).toBeCloseTo(1, 12);
    const scale = clippingScale(gradientNorm, 1);
    for (const [name, weight] of weights) {
      const gradient = gradients.get(name) as Float32Array;
      plainAdamW(weight, gradient, plainMoments(weight.length), adamW, learningRate, scale, 1);
      expect(trainer.state.latent.get(name), name).toEqual(weight);
    }
  });

  it('lowers the loss, with and without rounding', async () => {
    for (const quantizer of [options().quantizer, null]) {
      const { records } = await trained(10, { quantizer });
      expect(records[9].loss).toBeLessThan(records[0].loss * 0.9);
      expect(records.map(({ step }) => step)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    }
  });

  it('comes closer to its teacher, and is as close as can be to itself', async () => {
    const original = tinyWeights();
    const teacher = { read: (name: string) => original.get(name) as Float32Array };
    const sameBatch = { teacher, windowAt: (index: number) => windows[index % 2] };
    const { records } = await trained(10, sameBatch);
    expect(records[9].loss).toBeLessThan(records[0].loss);
    const [own] = (await trained(1, { ...sameBatch, quantizer: null })).records;
    expect(own.gradientNorm).toBeLessThan(1e-5);
    expect(own.loss).toBeLessThan(records[0].loss);
  });

  it('changes every tensor: embedding, norms, cherries and all', async () => {
    const start = tinyWeights();
    for (const [name, weight] of (await trained(1)).latent) expect(weight, name).not.toEqual(start.get(name));
  });

  it('sums a batch that is larger than what runs at once', async () => {
    const long = Array.from({ length: 2 }, (_, i) => Int32Array.from({ length: 1100 }, (_, j) => (j * (7 + i)) % 90));
    const changes = { windowAt: (index: number) => long[index % 2], quantizer: null };
    const together = await trained(1, { ...changes, batchSize: 2 });
    const alone = await Promise.all(
      [0, 1].map((i) => trained(1, { windowAt: () => long[i], quantizer: null, batchSize: 1 })),
    );
    expect(together.records[0].loss).toBeCloseTo((alone[0].records[0].loss + alone[1].records[0].loss) / 2, 5);
  });

  it.each([
    ['embeddings', ['model.embed_tokens.weight']],
    ['norms', ['norm.weight']],
    ['linears', ['_proj.weight']],
  ] as const)(
    'of %s alone changes only them, keeps moments of them alone, and still quantizes',
    async (kind, endings) => {
      const state = await trained(2, {}, { trainedParameters: [kind] });
      const isTrained = (name: string): boolean => endings.some((ending) => name.endsWith(ending));
      const start = tinyWeights();
      for (const [name, weight] of state.latent) {
        if (isTrained(name)) expect(weight, name).not.toEqual(start.get(name));
        else expect(weight, name).toEqual(start.get(name));
      }
      expect([...state.moments.keys()]).toEqual([...start.keys()].filter(isTrained));
      const [first] = (await trained(1)).records;
      expect(state.records[0].loss).toBe(first.loss);
      expect(state.records[0].gradientNorm).toBeLessThan(first.gradientNorm);
    },
  );

  it('takes the same steps whether quantized blocks are kept or made whenever they are read', async () => {
    const weights = tinyWeights();
    const { quantizer } = options();
    const kept = new HostWeights(config, weights, quantizer);
    const made = new HostWeights(config, weights, quantizer, 0);
    const linears = [...weights.keys()].filter(isLinear);
    const oneBlock = linears.filter((name) => name.startsWith('model.layers.0.'));
    const arrays = new Set<Float32Array>();
    for (const name of [...linears, ...linears.slice().reverse()]) {
      const cherries = quantizer?.cherries.get(name) ?? noCherries;
      const expected = plainFakeQuant(
        weights.get(name) as Float32Array,
        (shapes.get(name) as number[])[1],
        grid,
        cherries,
      );
      expect(await kept.read(name), name).toEqual(expected);
      expect(await made.read(name), name).toEqual(expected);
      arrays.add(await made.read(name));
    }
    expect(arrays.size).toBe(oneBlock.length);
  });

  describe('that diverges', () => {
    const untied = parseModelConfig({ ...tinyConfig, tie_word_embeddings: false });
    const untiedWeights = () => tinyWeights({ ...tinyConfig, tie_word_embeddings: false });
    const inBlock = (block: number, name: string): string => `model.layers.${block}.${name}.weight`;
    const original = untiedWeights();
    const teacher = { read: (name: string) => original.get(name) as Float32Array };

    type Weights = ReadonlyMap<string, Float32Array>;
    const set = (name: string, value: number) => (weights: Weights) => void (weights.get(name)![5] = value);
    const scale =
      (factor: number, ...names: string[]) =>
      (weights: Weights) =>
        names.forEach((name) => weights.get(name)?.forEach((value, i, own) => (own[i] = factor * value)));

    /**
     * Two steps, then something happens to the weights, then a step whose error this is; nothing else may have changed.
     * The schedule and the state are those of a model whose head is not its embedding.
     */
    async function divergence(spoil: (weights: Weights) => void, changes: Partial<TrainOptions>) {
      const weights = untiedWeights();
      const quantizer = { grid, cherries: cherriesOf(weights), columnScales: new Map() };
      const trainer = new Trainer(options({ config: untied, quantizer, ...changes }), await createTrainState(weights));
      await advance(trainer, 2);
      spoil(trainer.state.latent);
      const before = bitsOf(trainer.state);
      const error = await trainer.advance().catch((thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(DivergedError);
      expect(bitsOf(trainer.state)).toEqual(before);
      return error as DivergedError;
    }

    const head = 'lm_head.weight';
    const norm = 'model.norm.weight';
    const embedding = 'model.embed_tokens.weight';
    const cases: [string, number | null, string, string, (weights: Weights) => void][] = [
      ['NaN in the embedding', null, 'values', embedding, (weights) => weights.get(embedding)?.fill(NaN)],
      ['NaN in the last norm', null, 'values', norm, set(norm, NaN)],
      ['NaN in the head', null, 'values', head, set(head, NaN)],
      ['an overflow in the last norm', null, 'output', norm, set(norm, 3e38)],
      ['an overflow in the head', null, 'output', head, (weights) => weights.get(head)?.fill(3e38)],
    ];
    for (const block of [0, 1]) {
      const [down, up, gate] = ['mlp.down_proj', 'mlp.up_proj', 'mlp.gate_proj'].map((name) => inBlock(block, name));
      const [q, k, v, o] = 'qkvo'.split('').map((letter) => inBlock(block, `self_attn.${letter}_proj`));
      const norms = ['input_layernorm', 'post_attention_layernorm'].map((name) => inBlock(block, name));
      cases.push(
        [`NaN in a matrix of block ${block}`, block, 'values', down, set(down, NaN)],
        [`infinity in a matrix of block ${block}`, block, 'values', gate, set(gate, -Infinity)],
        [`NaN in a norm of block ${block}`, block, 'values', norms[1], set(norms[1], NaN)],
        [`an overflow in the first norm of block ${block}`, block, 'output', norms[0], set(norms[0], 3e38)],
        [`an overflow of keys in block ${block}`, block, 'output', k, scale(1e20, norms[0], k)],
        [`an overflow of attention scores in block ${block}`, block, 'input', o, scale(1e20, q, k)],
        [`an overflow of values in block ${block}`, block, 'output', v, scale(1e20, norms[0], v)],
        [`an overflow of what is attended in block ${block}`, block, 'output', o, scale(1e20, v, o)],
        [`an overflow between gate and up of block ${block}`, block, 'input', down, scale(1e20, gate, up)],
        [`an overflow in the end of block ${block}`, block, 'output', down, scale(1e20, up, down)],
      );
    }

    it.each(cases)('by %s says so, with block, tensor and step, and changes nothing', async (...example) => {
      const [, block, what, tensor, spoil] = example;
      // The quantizer's scales are half precision: large weights would be infinite by their values.
      const common = what === 'values' ? {} : { quantizer: null };
      for (const changes of [common, { ...common, teacher }]) {
        const error = await divergence(spoil, changes);
        expect(error).toMatchObject({ code: 'diverged', step: 3, block, tensor, param: 'training.learningRate' });
        const place = block === null ? '' : ` in block ${block}`;
        expect(error.message).toContain(`diverged at step 3${place}: the ${what} of ${tensor} is not finite`);
        expect(error.message).toContain('A lower training.learningRate than 0.005');
      }
    });

    // Large where the backward pass alone multiplies: the forward pass has the product of both, which is small.
    const gradientCases = [0, 1].flatMap((block): [number, string, (weights: Weights) => void][] => {
      const of = (name: string): string => inBlock(block, name);
      const [down, up] = [of('mlp.down_proj'), of('mlp.up_proj')];
      const [o, v] = [of('self_attn.o_proj'), of('self_attn.v_proj')];
      return [
        [block, down, (weights) => (scale(1e36, up)(weights), scale(1e-36, down)(weights))],
        [block, o, (weights) => (scale(1e36, v)(weights), scale(1e-36, o)(weights))],
      ];
    });

    it.each(gradientCases)('by a gradient in block %i alone names %s, while the loss is finite', async (...example) => {
      const [block, tensor, spoil] = example;
      for (const changes of [{}, { teacher }]) {
        const steep = (weights: Weights) => (spoil(weights), scale(1e6, head)(weights));
        const error = await divergence(steep, { quantizer: null, ...changes });
        expect(error).toMatchObject({ code: 'diverged', step: 3, block, tensor });
        expect(error.message).toContain(`: the gradient of ${tensor} is not finite`);
        expect(error.message).toMatch(/\(loss \d+\.\d+, gradient norm (Infinity|NaN)\)/);
      }
    });

    it('by a gradient outside the blocks alone names its tensor', async () => {
      // Logits of zero, and a head whose rows, the target's against all others, sum to more than a float32 can hold.
      const target = 6;
      const spoil = (weights: Weights) => {
        weights.get(norm)?.fill(0);
        weights.get(head)?.forEach((_, i, own) => {
          own[i] = Math.floor(i / untied.hiddenSize) === target ? 3e38 : -3e38;
        });
      };
      const error = await divergence(spoil, { quantizer: null, windowAt: () => Int32Array.of(5, target) });
      expect(error).toMatchObject({ code: 'diverged', step: 3, block: null, tensor: norm });
      expect(error.message).toContain(`diverged at step 3: the gradient of ${norm} is not finite (loss `);
    });
  });
});
