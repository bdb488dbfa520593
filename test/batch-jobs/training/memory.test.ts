import { beforeAll, describe, expect, it } from 'vitest';
import type { Training } from 'cherryq/contract';
import { schemeSchema, trainingSchema } from 'cherryq/contract';
import type { EngineName } from 'cherryq/contract';
import { openEngine } from '../../../batch-jobs/src/engine/engine.ts';
import { tensorShapes } from '../../../batch-jobs/src/models/decoder-config.ts';
import { Decoder } from '../../../batch-jobs/src/models/decoder.ts';
import { parseModelConfig } from '../../../batch-jobs/src/models/registry.ts';
import { createRandom } from '../../../batch-jobs/src/numeric/random.ts';
import { isInFile } from '../../../batch-jobs/src/numeric/train-tasks.ts';
import { createBlockWiseState } from '../../../batch-jobs/src/training/block-wise.ts';
import { createImpactSums, sumImpact } from '../../../batch-jobs/src/training/impact.ts';
import type { MemoryNeeded, MemoryPart } from '../../../batch-jobs/src/training/memory.ts';
import { memoryNeeded, sumOfParts } from '../../../batch-jobs/src/training/memory.ts';
import { createTrainState } from '../../../batch-jobs/src/training/train.ts';
import { tokensAtOnce, walkLength } from '../../../batch-jobs/src/models/budgets.ts';
import { partsOf } from '../../../batch-jobs/src/models/parts.ts';
import { testEngine } from '../../support/engine.ts';
import { peakOf } from '../../support/peak.ts';

const shapes = {
  wide: { hidden_size: 256, intermediate_size: 704, num_hidden_layers: 3, num_attention_heads: 8, vocab_size: 1000 },
  deep: { hidden_size: 64, intermediate_size: 172, num_hidden_layers: 12, num_attention_heads: 4, vocab_size: 512 },
  manyHeads: {
    hidden_size: 128,
    intermediate_size: 256,
    num_hidden_layers: 2,
    num_attention_heads: 16,
    num_key_value_heads: 4,
    vocab_size: 300,
  },
};
type Shape = keyof typeof shapes;

const configOf = (shape: Shape) =>
  parseModelConfig({
    architectures: ['LlamaForCausalLM'],
    max_position_embeddings: 4096,
    rms_norm_eps: 1e-5,
    rope_theta: 10_000,
    tie_word_embeddings: false,
    ...shapes[shape],
  });

/** With random weights, and windows of random tokens. */
function modelOf(shape: Shape) {
  const config = configOf(shape);
  const random = createRandom(1);
  const weights = new Map(
    [...tensorShapes(config)].map(([tensor, sizes]) => {
      const size = sizes.reduce((product, value) => product * value, 1);
      return [tensor, Float32Array.from({ length: size }, () => (random() - 0.5) / 8)];
    }),
  );
  const windowsOf = (count: number, length: number): Int32Array[] =>
    Array.from({ length: count }, () => Int32Array.from({ length }, () => Math.floor(random() * config.vocabSize)));
  return { config, weights, source: { read: (tensor: string) => weights.get(tensor) as Float32Array }, windowsOf };
}

const neededBy = (shape: Shape, training: Training): MemoryNeeded => {
  const scheme = schemeSchema.parse({ groupSize: 16 });
  return memoryNeeded({ config: configOf(shape), scheme, training, engine: testEngine as EngineName });
};

/** What tensors take, without the device's libraries and its allocator. */
const ofTensors = (parts: readonly MemoryPart[]): number =>
  sumOfParts(parts.filter(({ part }) => !/libraries|allocator/.test(part)));

const bytesOf = (parts: readonly MemoryPart[], name: string): number | undefined =>
  parts.find(({ part }) => part === name)?.bytes;

const settings: [Shape, Partial<Training>][] = [
  ['wide', { sequenceLength: 128, batchSize: 4 }],
  ['wide', { sequenceLength: 64, batchSize: 2, loss: 'distillation' }],
  ['deep', { sequenceLength: 256, batchSize: 8 }],
  ['manyHeads', { sequenceLength: 1024, batchSize: 1 }],
];

describe.each(settings)('the formula for the device, %s with %j', (shape, changes) => {
  beforeAll(async () => {
    await openEngine(testEngine);
  });
  const { config, source, windowsOf } = modelOf(shape);
  const training = trainingSchema.parse({ impactSamples: 8, ...changes });
  const { sequenceLength: length, batchSize, impactSamples } = training;
  const needed = neededBy(shape, training);

  it('gives the largest bytes of tensors in a step, to a tenth', async () => {
    const parts = partsOf(windowsOf(batchSize, length), Math.max(1, Math.floor(tokensAtOnce / length)));
    const walk = partsOf(parts, walkLength(config, parts[0].length * length))[0];
    const teacher = training.loss === 'distillation' ? new Decoder(config, source) : null;
    const request = { gradientScale: 1, reduction: 'sum' as const, consume: () => {}, teacher };
    const { bytes } = await peakOf(() => new Decoder(config, source).lossAndGradients(walk, request));
    const ratio = bytes / ofTensors(needed.training.device);
    expect(ratio).toBeGreaterThan(0.9);
    expect(ratio).toBeLessThan(1.1);
  });

  it('gives the largest bytes of tensors while impact is measured, to a tenth', async () => {
    const windows = windowsOf(impactSamples, length);
    const { bytes } = await peakOf(() => sumImpact({ config, weights: source, windows }));
    const ratio = bytes / ofTensors(needed.impact.device);
    expect(ratio).toBeGreaterThan(0.9);
    expect(ratio).toBeLessThan(1.1);
  });
});

describe('the formula for main memory', () => {
  const total = (arrays: Iterable<{ byteLength: number }>): number =>
    [...arrays].reduce((sum, { byteLength }) => sum + byteLength, 0);

  it.each<Partial<Training>>([
    {},
    { moments: 'bfloat16' },
    { trainedParameters: ['linears', 'norms'] },
    { mode: 'blockWise', moments: 'bfloat16' },
  ])('gives the bytes of weights, gradients and moments with %j', async (changes) => {
    const { config, weights } = modelOf('deep');
    const training = trainingSchema.parse(changes);
    const own = { trainedParameters: training.trainedParameters, moments: { dtype: training.moments, folder: null } };
    const state =
      training.mode === 'blockWise'
        ? await createBlockWiseState(config, weights, own)
        : await createTrainState(weights, own);
    const { host } = neededBy('deep', training).training;
    expect(bytesOf(host, 'latent weights')).toBe(total(state.latent.values()));
    const moments = [...state.moments.values()].flatMap((own) => (isInFile(own) ? [] : [own.first, own.second]));
    expect(bytesOf(host, 'moments')).toBe(total(moments));
    const numbers = moments.reduce((sum, { length }) => sum + length, 0);
    expect(bytesOf(host, 'gradients')).toBe((4 * numbers) / 2);
    await state.close();
  });

  it('gives the bytes of the sums of squared gradients', () => {
    const { impact } = neededBy('wide', trainingSchema.parse({}));
    expect(bytesOf(impact.host, 'impact sums')).toBe(total(createImpactSums(configOf('wide')).squares.values()));
  });

  it('counts moments on the disk when they are in a file', () => {
    const inMemory = neededBy('wide', trainingSchema.parse({}));
    const inFile = neededBy('wide', trainingSchema.parse({ momentsIn: 'file' }));
    expect(inFile.diskBytes).toBe(bytesOf(inMemory.training.host, 'moments'));
    expect(bytesOf(inFile.training.host, 'moments')).toBe(0);
    expect(inMemory.diskBytes).toBe(0);
  });
});
