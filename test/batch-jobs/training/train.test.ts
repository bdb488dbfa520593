import { beforeAll, describe, expect, it } from 'vitest';
import { openEngine } from '../../../batch-jobs/src/engine/engine.ts';
import { isLinear, tensorShapes } from '../../../batch-jobs/src/models/decoder-config.ts';
import { Decoder } from '../../../batch-jobs/src/models/decoder.ts';
import { parseModelConfig } from '../../../batch-jobs/src/models/registry.ts';
import type { Cherries } from '../../../batch-jobs/src/numeric/quantizer.ts';
import { noCherries, topPerRow } from '../../../batch-jobs/src/numeric/quantizer.ts';
import { createRandom } from '../../../batch-jobs/src/numeric/random.ts';
import { loadCheckpoint, saveCheckpoint } from '../../../batch-jobs/src/training/checkpoints.ts';
import { clippingScale, createMoments } from '../../../batch-jobs/src/training/adamw.ts';
import { learningRateAt } from '../../../batch-jobs/src/training/schedule.ts';
import type { TrainOptions, TrainState } from '../../../batch-jobs/src/training/train.ts';
import { Trainer, createTrainState } from '../../../batch-jobs/src/training/train.ts';
import { plainAdamW, plainFakeQuant, plainNorm } from '../../support/plain.ts';
import { temporaryStore } from '../../support/temporary-store.ts';
import { tinyConfig, tinyWeights } from '../../support/tiny-model.ts';

const config = parseModelConfig(tinyConfig);
const shapes = tensorShapes(config);
const grid = { bits: 3, groupSize: 16 };

function cherriesOf(weights: ReadonlyMap<string, Float32Array>): Map<string, Cherries> {
  const columns = (name: string): number => (shapes.get(name) as number[])[1];
  return new Map(
    [...weights].filter(([name]) => isLinear(name)).map(([name, w]) => [name, topPerRow(w, columns(name), 1)]),
  );
}

const random = createRandom(3);
const windows = Array.from({ length: 12 }, () =>
  Int32Array.from({ length: 16 }, (_, i) => (i % 4 === 0 ? 5 : Math.floor(random() * config.vocabSize))),
);

function options(changes: Partial<TrainOptions> = {}): TrainOptions {
  return {
    config,
    quantizer: { grid, cherries: cherriesOf(tinyWeights()) },
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
const trained = (steps: number, changes?: Partial<TrainOptions>): Promise<TrainState> =>
  advance(new Trainer(options(changes), createTrainState(tinyWeights())), steps);

beforeAll(async () => {
  await openEngine('wasm');
});

describe('Trainer', () => {
  it('ends in the same bytes in two runs', async () => {
    expect(await trained(4)).toEqual(await trained(4));
  });

  it.each([1, 3])('goes on from a checkpoint at step %i to the bytes of an undisturbed run', async (step) => {
    const store = await temporaryStore();
    await saveCheckpoint(store, 'checkpoints/', 'this job', 1, await trained(step));
    const resumed = await loadCheckpoint(store, 'checkpoints/', 'this job', (message) => expect.fail(message));
    expect(resumed?.records).toHaveLength(step);
    const state = await advance(new Trainer(options(), resumed as TrainState), 5 - step);
    expect(state).toEqual(await trained(5));
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

    const trainer = new Trainer(options(), createTrainState(tinyWeights()));
    const { gradientNorm, ...record } = await trainer.advance();
    expect(record).toEqual({ step: 1, loss: loss / 30, learningRate });
    expect(gradientNorm / norm).toBeCloseTo(1, 12);
    const scale = clippingScale(gradientNorm, 1);
    for (const [name, weight] of weights) {
      const gradient = gradients.get(name) as Float32Array;
      plainAdamW(weight, gradient, createMoments(weight.length), adamW, learningRate, scale, 1);
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

  it('that diverges names the step and the tensor, and leaves the state as it was', async () => {
    const trainer = new Trainer(options(), createTrainState(tinyWeights()));
    await advance(trainer, 2);
    (trainer.state.latent.get('model.norm.weight') as Float32Array)[0] = NaN;
    const before = structuredClone(trainer.state);
    await expect(trainer.advance()).rejects.toThrow(/diverged at step 3.*first in model\..*learningRate than 0\.005/s);
    expect(trainer.state).toEqual(before);
  });
});
