/**
 * What holds for any job, whatever its settings: drawn at random from a seed, so that a failure can be repeated, and told by
 * its number and settings.
 */
import { createHash } from 'node:crypto';
import { tmpdir } from 'node:os';
import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { JobResult, Scheme, Training } from 'cherryq/contract';
import { jobStateSchema } from 'cherryq/contract';
import { openEngine } from '../../../batch-jobs/src/engine/engine.ts';
import { JobFolder } from '../../../batch-jobs/src/job-folder.ts';
import { openModel } from '../../../batch-jobs/src/model-weights.ts';
import { isLinear, tensorShapes } from '../../../batch-jobs/src/models/decoder-config.ts';
import { Decoder } from '../../../batch-jobs/src/models/decoder.ts';
import { parseModelConfig } from '../../../batch-jobs/src/models/registry.ts';
import { roundToFloat16 } from '../../../batch-jobs/src/numeric/dtypes.ts';
import { closeHostPool, hostPool, setHostThreads } from '../../../batch-jobs/src/numeric/pool.ts';
import type { Cherries, Grid } from '../../../batch-jobs/src/numeric/quantizer.ts';
import {
  cherryCount,
  dequantizeMatrix,
  groupCount,
  noCherries,
  quantizeMatrix,
  storedColumns,
} from '../../../batch-jobs/src/numeric/quantizer.ts';
import { createRandom } from '../../../batch-jobs/src/numeric/random.ts';
import { runJob } from '../../../batch-jobs/src/run-job.ts';
import type { Store } from '../../../batch-jobs/src/storage/index.ts';
import { measureImpact } from '../../../batch-jobs/src/training/impact.ts';
import type { TrainOptions, TrainState } from '../../../batch-jobs/src/training/train.ts';
import { Trainer, createTrainState } from '../../../batch-jobs/src/training/train.ts';
import { topCherries } from '../../support/cherries.ts';
import { testEngine } from '../../support/engine.ts';
import { gridFor } from '../../support/grid.ts';
import { temporaryStore } from '../../support/temporary-store.ts';
import type { TinyJob } from '../../support/tiny-model.ts';
import { tinyConfig, tinyModelPrefix, tinyWeights, writeTinyJob, writeTinyModel } from '../../support/tiny-model.ts';

type Random = () => number;
const pick = <Value>(random: Random, values: readonly Value[]): Value => values[Math.floor(random() * values.length)];
const numbered = (count: number): number[] => Array.from({ length: count }, (_, i) => i + 1);

beforeAll(async () => {
  await openEngine(testEngine);
});

/** A Llama of some tiny shape. */
function drawConfig(random: Random): Record<string, unknown> {
  const keyHeads = pick(random, [1, 2]);
  return {
    ...tinyConfig,
    hidden_size: pick(random, [16, 24, 32]),
    intermediate_size: pick(random, [20, 33, 44]),
    num_hidden_layers: pick(random, [1, 2, 3]),
    num_attention_heads: keyHeads * pick(random, [1, 2]),
    num_key_value_heads: keyHeads,
    head_dim: pick(random, [8, 10, 16]),
    rope_theta: pick(random, [500, 10_000]),
    tie_word_embeddings: random() < 0.5,
  };
}

interface DrawnJob {
  config: Record<string, unknown>;
  scheme: Partial<Scheme>;
  training: Partial<Training>;
}

/** The settings of a job on it; every way that the contract offers has its share. */
function drawJob(seed: number): DrawnJob {
  const random = createRandom(seed, 91);
  const mode = pick(random, ['endToEnd', 'endToEnd', 'blockWise'] as const);
  return {
    config: drawConfig(random),
    scheme: {
      method: pick(random, ['cherryq', 'cherryq', 'qat']),
      bits: pick(random, [2, 3, 4, 8]),
      groupSize: pick(random, [5, 8, 'row']),
      cherryFraction: pick(random, [1 / 256, 1 / 20, 1 / 4]),
      criterion: pick(random, ['impact', 'weight', 'activation']),
      cherryMode: pick(random, ['row', 'column']),
      quantizer: pick(random, ['published', 'midRise', 'symmetric', 'asymmetric']),
      groups: pick(random, ['compacted', 'aligned']),
      columnScales: pick(random, ['none', 'none', 'searched']),
    },
    training: {
      tokens: 640,
      sequenceLength: pick(random, [16, 32]),
      batchSize: pick(random, [1, 3, 4]),
      learningRate: 2e-3,
      impactSamples: pick(random, [1, 4]),
      mode,
      loss: mode === 'endToEnd' ? pick(random, ['crossEntropy', 'distillation']) : 'crossEntropy',
      trainedParameters: pick(random, [['embeddings', 'linears', 'norms', 'head'], ['linears', 'norms'], ['linears']]),
      moments: pick(random, ['float32', 'bfloat16']),
      momentsIn: pick(random, ['memory', 'file']),
      seed: Math.floor(random() * 1000),
    },
  };
}

interface FinishedJob {
  store: Store;
  prefix: string;
  artifacts: string;
  hashes: Record<string, string>;
  result: JobResult;
}

/** Runs a job.  @param store where other jobs may have run on the same model before; default: one of its own */
async function run(
  { config, ...job }: TinyJob & { config?: Readonly<Record<string, unknown>> },
  store: Store | null = null,
): Promise<FinishedJob> {
  store ??= await temporaryStore();
  await writeTinyModel(store, tinyModelPrefix, { config });
  const prefix = await writeTinyJob(store, job);
  const claimed = await JobFolder.claim(store, prefix);
  if (!claimed) throw new Error('the job has ended');
  try {
    await runJob({
      store,
      job: claimed,
      forcedEngine: testEngine,
      scratchFolder: tmpdir(),
      stopRequested: () => false,
    });
  } finally {
    await claimed.flush();
  }
  const last = (await store.list(`${prefix}state/`)).at(-1)?.key ?? '';
  const { result } = jobStateSchema.parse(JSON.parse(new TextDecoder().decode((await store.get(last)) ?? undefined)));
  if (result === null) throw new Error('the job has no result');
  const artifacts = `${prefix}artifacts/`;
  const hashes: Record<string, string> = {};
  for (const { key } of await store.list(artifacts)) {
    const bytes = (await store.get(key)) as Uint8Array;
    hashes[key.slice(artifacts.length)] = createHash('sha256').update(bytes).digest('hex');
  }
  return { store, prefix, artifacts, hashes, result };
}

const drawnJobs = numbered(12).map((seed) => {
  const job = drawJob(seed);
  return { seed, settings: JSON.stringify({ ...job.scheme, ...job.training }), job };
});

describe.each(drawnJobs)('job $seed, $settings', ({ job }) => {
  it('ends in the same bytes in two runs, in finite perplexities, and in two formats of the same weights', async () => {
    const [first, second] = [await run(job), await run(job)];
    expect(second.hashes).toEqual(first.hashes);
    const { baseline, rounding, compressed, hf } = first.result;
    for (const measured of [baseline, rounding, compressed, hf]) {
      expect(measured?.perplexity).toBeGreaterThan(1);
      expect(measured?.perplexity).toBeLessThan(1e4);
    }
    expect(first.result.trainedTokens).toBeGreaterThanOrEqual(640);

    const packed = await openModel(first.store, first.artifacts);
    const copy = await openModel(first.store, `${first.artifacts}hf/`);
    for (const name of tensorShapes(parseModelConfig(job.config)).keys()) {
      const [own, other] = [await packed.weights.read(name), await copy.weights.read(name)];
      expect(own.length, name).toBe(other.length);
      const different = own.reduce((count, value, i) => count + Number(roundToFloat16(value) !== other[i]), 0);
      expect(different, name).toBe(0);
    }
  });
});

describe('the seed of a job', () => {
  it.each(['row', 'column'] as const)('decides its weights, cherries in %s mode', async (cherryMode) => {
    const job = { scheme: { cherryMode }, formats: ['native' as const] };
    const weightsOf = async (seed: number): Promise<string> =>
      (await run({ ...job, training: { seed } })).hashes['model.safetensors'];
    const [one, again, other] = [await weightsOf(1), await weightsOf(1), await weightsOf(2)];
    expect(again).toBe(one);
    expect(other).not.toBe(one);
  });
});

describe('a job after others on the same model', () => {
  it('ends in the bytes and figures that it has by itself, whatever is taken from them', async () => {
    const store = await temporaryStore();
    const jobs = [
      { scheme: { bits: 3, quantizer: 'asymmetric', groups: 'aligned' } },
      { scheme: { bits: 3, criterion: 'activation', cherryMode: 'column', columnScales: 'searched' } },
      { scheme: { bits: 3, method: 'rtn', quantizer: 'symmetric' } },
      { scheme: { bits: 3, cherryFraction: 1 / 16 } },
      { scheme: { bits: 3, method: 'rtn' } },
    ] as const;
    for (const job of jobs) {
      const [after, alone] = [await run(job, store), await run(job)];
      const what = JSON.stringify(job);
      const timeless = { seconds: 0, phaseSeconds: {} };
      expect({ ...after.result, ...timeless }, what).toEqual({ ...alone.result, ...timeless });
      expect(after.hashes, what).toEqual(alone.hashes);
      await store.deletePrefix(after.prefix);
    }
  });
});

/** Any matrix, grid and cherries. */
function drawMatrix(seed: number) {
  const random = createRandom(seed, 92);
  const rows = 1 + Math.floor(random() * 6);
  const columns = 9 + Math.floor(random() * 120);
  const size = 10 ** (4 * random() - 2);
  const tail = pick(random, [1, 3]);
  const weight = Float32Array.from({ length: rows * columns }, () => size * (2 * random() - 1) ** tail);
  const bits = pick(random, [2, 3, 4, 8]);
  const grid: Grid = gridFor(bits, pick(random, [1, 5, 16, 64, Infinity]), {
    levels: pick(random, ['midRise', 'symmetric', 'asymmetric']),
    aligned: random() < 0.5,
  });
  const score = Float32Array.from(weight, () => random());
  const cherries = topCherries(score, columns, cherryCount(columns, pick(random, [1 / 256, 1 / 16, 1 / 4])));
  return { rows, columns, weight, grid, cherries };
}

/** Column of each stored integer of a row. */
function storedPlaces(columns: number, grid: Grid, { perRow, columns: all }: Cherries, row: number): number[] {
  const own = all.subarray(row * perRow, (row + 1) * perRow);
  const every = Array.from({ length: columns }, (_, column) => column);
  return grid.aligned ? every : every.filter((column) => !own.includes(column));
}

describe('a matrix that is rounded', () => {
  it('keeps its cherries in 16 bits and no weight further away than half a step, whatever its shape', () => {
    for (const seed of numbered(200)) {
      const { rows, columns, weight, grid, cherries } = drawMatrix(seed);
      const matrix = quantizeMatrix(weight, columns, grid, cherries);
      const values = dequantizeMatrix(matrix);
      const stored = storedColumns(columns, cherries.perRow, grid);
      const groups = groupCount(columns, cherries.perRow, grid);
      expect(matrix.qweight.length, `matrix ${seed}`).toBe(rows * stored);
      expect(matrix.scales.length, `matrix ${seed}`).toBe(rows * groups);
      expect(Math.max(...matrix.qweight), `matrix ${seed}`).toBeLessThan(2 ** grid.bits);
      for (let row = 0; row < rows; row++) {
        const places = storedPlaces(columns, grid, cherries, row);
        const own = cherries.columns.subarray(row * cherries.perRow, (row + 1) * cherries.perRow);
        for (const column of own) {
          expect(values[row * columns + column], `matrix ${seed}`).toBe(roundToFloat16(weight[row * columns + column]));
        }
        for (let from = 0; from < stored; from += Math.min(grid.groupSize, stored)) {
          const group = places.slice(from, from + grid.groupSize).filter((column) => !own.includes(column));
          const inGroup = group.map((column) => weight[row * columns + column]);
          const [least, most] = [Math.min(0, ...inGroup), Math.max(0, ...inGroup)];
          const half = 2 ** (grid.bits - 1);
          const step =
            grid.levels === 'asymmetric'
              ? (most - least) / (2 ** grid.bits - 1)
              : (Math.max(most, -least) + 1e-6) / (grid.levels === 'midRise' ? half : half - 1);
          // Rounding the scale to 16 bits moves the outermost level by up to 2^-11 of it, and a zero point by half a step.
          const slack = step * (2 ** grid.bits * 2 ** -11 + 2 ** -10) + 2 ** -24 * 2 ** grid.bits;
          const bound = (grid.levels === 'asymmetric' ? 1 : 0.5) * step + slack;
          for (const column of group) {
            const at = row * columns + column;
            expect(Math.abs(values[at] - weight[at]), `matrix ${seed}`).toBeLessThanOrEqual(bound);
          }
        }
      }
    }
  });

  it('is rounded as without cherries in every group whose columns and extremes they leave alone', () => {
    let compared = 0;
    for (const seed of numbered(200)) {
      const { rows, columns, weight, grid: drawn, cherries } = drawMatrix(seed);
      const grid = { ...drawn, aligned: true };
      const size = Math.min(grid.groupSize, columns);
      const [mixed, plain] = [cherries, noCherries].map((own) =>
        dequantizeMatrix(quantizeMatrix(weight, columns, grid, own)),
      );
      for (let row = 0; row < rows; row++) {
        const own = cherries.columns.subarray(row * cherries.perRow, (row + 1) * cherries.perRow);
        for (let from = 0; from < columns; from += size) {
          const group = Array.from({ length: Math.min(size, columns - from) }, (_, i) => from + i);
          const at = (column: number): number => weight[row * columns + column];
          const normals = group.filter((column) => !own.includes(column));
          const extremesOf = (some: number[]): number[] => [Math.min(0, ...some.map(at)), Math.max(0, ...some.map(at))];
          if (normals.length === 0 || extremesOf(normals).some((value, i) => value !== extremesOf(group)[i])) continue;
          for (const column of normals) {
            expect(mixed[row * columns + column], `matrix ${seed}`).toBe(plain[row * columns + column]);
          }
          compared += normals.length;
        }
      }
    }
    expect(compared).toBeGreaterThan(10_000);
  });
});

const config = parseModelConfig(tinyConfig);
const shapes = tensorShapes(config);
const drawWindows = (count: number, length: number): Int32Array[] => {
  const random = createRandom(5, 93);
  return Array.from({ length: count }, () =>
    Int32Array.from({ length }, () => Math.floor(random() * config.vocabSize)),
  );
};

async function train(changes: Partial<TrainOptions> = {}, steps = 3): Promise<TrainState> {
  const windows = drawWindows(6, 24);
  const options: TrainOptions = {
    config,
    quantizer: { grid: gridFor(3, 16), cherries: randomCherries(), columnScales: new Map() },
    teacher: null,
    schedule: { peak: 2e-3, totalSteps: 10, warmupFraction: 0.05, floor: 0.25 },
    adamW: { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0 },
    maxGradNorm: 1,
    batchSize: 2,
    windowAt: (index) => windows[index % windows.length],
    ...changes,
  };
  const trainer = new Trainer(options, await createTrainState(tinyWeights()));
  for (let step = 0; step < steps; step++) await trainer.advance();
  return trainer.state;
}

function randomCherries(): Map<string, Cherries> {
  const random = createRandom(6, 94);
  const drawn = [...shapes].filter(([name]) => isLinear(name));
  return new Map(
    drawn.map(([name, [rows, columns]]) => {
      const score = Float32Array.from({ length: rows * columns }, () => random());
      return [name, topCherries(score, columns, cherryCount(columns, 1 / 16))];
    }),
  );
}

/** Largest difference over the largest magnitude. */
function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let difference = 0;
  let largest = 0;
  for (let i = 0; i < expected.length; i++) {
    difference = Math.max(difference, Math.abs(actual[i] - expected[i]));
    largest = Math.max(largest, Math.abs(expected[i]));
  }
  return difference / largest;
}

describe('training', () => {
  afterEach(closeHostPool);

  it('gives the same bits on one, two and five host threads', async () => {
    const states: TrainState[] = [];
    for (const threads of [1, 2, 5]) {
      await closeHostPool();
      setHostThreads(threads);
      expect(hostPool().threads).toBe(threads);
      states.push(await train());
    }
    for (const state of states.slice(1)) {
      expect(state.records).toEqual(states[0].records);
      expect(state.latent).toEqual(states[0].latent);
    }
  });

  it('without cherries is quantization-aware training, whether they are absent or none', async () => {
    const grid = gridFor(3, 16);
    const none = new Map([...shapes].filter(([name]) => isLinear(name)).map(([name]) => [name, noCherries]));
    const [absent, empty] = [
      await train({ quantizer: { grid, cherries: new Map(), columnScales: new Map() } }),
      await train({ quantizer: { grid, cherries: none, columnScales: new Map() } }),
    ];
    expect(empty.records).toEqual(absent.records);
    expect(empty.latent).toEqual(absent.latent);
    expect(empty.records[0].loss).not.toBe((await train()).records[0].loss);
  });

  it('does not ask in which order a batch has its windows, but for the last bits', async () => {
    const windows = drawWindows(4, 24);
    const [one, reversed] = [
      await train({ batchSize: 4, windowAt: (index) => windows[index % 4] }, 1),
      await train({ batchSize: 4, windowAt: (index) => windows[3 - (index % 4)] }, 1),
    ];
    expect(reversed.records[0].loss / one.records[0].loss).toBeCloseTo(1, 6);
    expect(reversed.records[0].gradientNorm / one.records[0].gradientNorm).toBeCloseTo(1, 5);
  });
});

describe('gradients', () => {
  const weights = tinyWeights();
  const source = { read: (name: string) => weights.get(name) as Float32Array };
  const windows = drawWindows(6, 24);
  const gradientsOf = async (parts: Int32Array[][]): Promise<{ loss: number; all: Map<string, Float32Array> }> => {
    const all = new Map<string, Float32Array>();
    const consume = (name: string, gradient: Float32Array): void => {
      const sum = all.get(name);
      if (sum) gradient.forEach((value, i) => (sum[i] += value));
      else all.set(name, Float32Array.from(gradient));
    };
    const decoder = new Decoder(config, source);
    const loss = await decoder.lossAndGradients(parts, { gradientScale: 1 / 138, reduction: 'sum', consume });
    return { loss, all };
  };

  it.each([1, 2, 4])('of a batch in parts of %i windows are those of the batch in one, to rounding', async (size) => {
    const whole = await gradientsOf([windows]);
    const parts = Array.from({ length: Math.ceil(6 / size) }, (_, i) => windows.slice(size * i, size * (i + 1)));
    const cut = await gradientsOf(parts);
    expect(Math.abs(cut.loss / whole.loss - 1)).toBeLessThan(1e-6);
    for (const [name, gradient] of whole.all) {
      expect(relativeError(cut.all.get(name) ?? [], gradient), name).toBeLessThan(1e-5);
    }
  });

  it('of weights that meet nothing are zero, and so is their impact', async () => {
    const silent = new Map(weights);
    const norm = Float32Array.from(source.read('model.layers.1.input_layernorm.weight'));
    norm[7] = 0;
    silent.set('model.layers.1.input_layernorm.weight', norm);
    const impact = await measureImpact(config, silent, windows);
    for (const layer of ['q', 'k', 'v']) {
      const own = impact.get(`model.layers.1.self_attn.${layer}_proj.weight`) as Float32Array;
      own.forEach((value, i) => (i % 32 === 7 ? expect(value).toBe(0) : expect(value).toBeGreaterThan(0)));
    }
  });

  it('squared and averaged are the impact, in any order of the windows and however often each is there', async () => {
    const once = await measureImpact(config, weights, windows);
    const twice = await measureImpact(config, weights, [...windows, ...windows.toReversed()]);
    for (const [name, own] of once) {
      expect(relativeError(twice.get(name) ?? [], own), name).toBeLessThan(1e-5);
      expect(own.every((value) => value >= 0)).toBe(true);
    }
  });
});
