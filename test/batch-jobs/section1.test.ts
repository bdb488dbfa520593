/**
 * The method as a whole against an independent one: impact, the choice of cherries, integers and ten steps of training equal
 * what `test/golden/make_section1.py` has, which was written in PyTorch from the published descriptions alone. What departs
 * from them on purpose is listed there.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { openEngine } from '../../batch-jobs/src/engine/engine.ts';
import type { ImpactArtifact } from '../../batch-jobs/src/impact-artifact.ts';
import { impactOf } from '../../batch-jobs/src/impact.ts';
import { tensorShapes } from '../../batch-jobs/src/models/decoder-config.ts';
import { parseModelConfig } from '../../batch-jobs/src/models/registry.ts';
import { packRows, unpackRows } from '../../batch-jobs/src/numeric/bit-packing.ts';
import type { Cherries, Grid, LevelKind } from '../../batch-jobs/src/numeric/quantizer.ts';
import { cherryCount, publishedLevels, quantizeMatrix, storedColumns } from '../../batch-jobs/src/numeric/quantizer.ts';
import { topColumns } from '../../batch-jobs/src/numeric/top-columns.ts';
import type { Selection } from '../../batch-jobs/src/selection.ts';
import { selectCherries } from '../../batch-jobs/src/selection.ts';
import { measureImpact } from '../../batch-jobs/src/training/impact.ts';
import { learningRateAt, publishedFloor } from '../../batch-jobs/src/training/schedule.ts';
import { Trainer, createTrainState } from '../../batch-jobs/src/training/train.ts';
import { testEngine } from '../support/engine.ts';
import { golden, unpack } from '../support/golden.ts';
import { temporaryStore } from '../support/temporary-store.ts';

/** Of a tensor that is too large to keep: `digest` in the script. */
interface Digest {
  largest: number;
  norm: number;
  samples: string;
  projections: number[];
}

type ByName<Value> = Record<string, Value>;
type Mode = Selection['cherryMode'];

interface QuantizedGolden {
  packed: string;
  scales: string;
  cherryWeight: string;
}

interface MethodGolden {
  samples: number;
  projections: number;
  models: ByName<{
    config: Record<string, unknown>;
    shapes: ByName<number[]>;
    seeds: Record<'weights' | 'calibration' | 'training', number>;
    firstTokens: Record<'calibration' | 'training', number[]>;
    impact: ByName<Digest>;
    activations: ByName<string>;
    heterogeneity: ByName<Record<Selection['criterion'], number>>;
    selections: { criterion: Selection['criterion']; mode: Mode; fraction: number; columns: ByName<string> }[];
  }>;
  quantized: {
    model: string;
    bits: number;
    groupSize: number;
    fraction: number;
    matrices: ByName<QuantizedGolden>;
  }[];
  wide: (QuantizedGolden & {
    rows: number;
    columns: number;
    seed: number;
    bits: number;
    groupSize: number;
    cherryColumns: string;
  })[];
  publishedCounts: ByName<number>;
  publishedSchedule: { peak: number; steps: number; warmupFraction: number; rates: ByName<number[]> };
}

interface TrainingGolden {
  runs: {
    model: string;
    bits: number;
    groupSize: number;
    fraction: number;
    mode?: Mode;
    floor: number;
    steps: number;
    batchSize: number;
    peak: number;
    epsilon: number;
    levels: LevelKind;
    distillation: boolean;
    columnScales: ByName<string>;
    records: { loss: number; gradientNorm: number; learningRate: number }[];
    changeOfFirst: ByName<Digest>;
    change: ByName<Digest>;
    largestWeight: ByName<number>;
  }[];
}

const method = golden<MethodGolden>('section1');
const { runs } = golden<TrainingGolden>('section1_training');

/** Park & Miller's generator, as in the script.  @returns uniform numbers in (0, 1) */
function minimalStandard(seed: number): () => number {
  let state = seed;
  return () => (state = (state * 48_271) % 2_147_483_647) / 2_147_483_647;
}

function drawWeights(shapes: ByName<number[]>, seed: number): Map<string, Float32Array> {
  const random = minimalStandard(seed);
  const bell = (): number => random() + random() + random() - 1.5;
  const drawn = Object.entries(shapes).map(([name, shape]): [string, Float32Array] => {
    const length = shape.reduce((product, side) => product * side, 1);
    const draw = shape.length === 1 ? () => 1 + 0.3 * bell() : () => 0.5 * bell();
    return [name, Float32Array.from({ length }, draw)];
  });
  return new Map(drawn);
}

function drawWindows(count: number, length: number, vocabulary: number, seed: number): Int32Array[] {
  const random = minimalStandard(seed);
  const below = (limit: number): number => Math.floor(random() * limit);
  return Array.from({ length: count }, () => {
    const window = new Int32Array(length);
    for (let at = 0; at < length; at++) {
      const repeats = at >= 3 && random() < 0.5;
      window[at] = repeats ? window[at - 1 - below(3)] : below(vocabulary);
    }
    return window;
  });
}

/** How far values are from a digest: at its samples, and by its sums with signs, which see every value. */
function distance(values: ArrayLike<number>, digest: Digest, seed: number): { samples: number; projections: number } {
  const random = minimalStandard(seed);
  const expected = unpack(Float32Array, digest.samples);
  let samples = 0;
  for (let i = 0; i < method.samples; i++) {
    const value = values[Math.floor(random() * values.length)];
    samples = Math.max(samples, Math.abs(value - expected[i]));
  }
  let projections = 0;
  for (const wanted of digest.projections) {
    let sum = 0;
    for (let i = 0; i < values.length; i++) sum += random() < 0.5 ? values[i] : -values[i];
    projections = Math.max(projections, Math.abs(sum - wanted));
  }
  return { samples, projections };
}

/** Scores of a row's columns: their own magnitudes, or, to choose whole columns, the means over all rows. */
function scoresOf(values: ArrayLike<number>, rows: number, row: number, mode: Mode): number[] {
  const columns = values.length / rows;
  const at = (r: number, column: number): number => Math.abs(values[r * columns + column]);
  return Array.from({ length: columns }, (_, column) => {
    if (mode === 'row') return at(row, column);
    return Array.from({ length: rows }, (_, r) => at(r, column)).reduce((sum, value) => sum + value) / rows;
  });
}

/** The digests' own seeds, by the order of the tensors. */
const digestSeed = (index: number): number => 1000 + index;

function load(label: string) {
  const model = method.models[label];
  const config = parseModelConfig(model.config);
  const weights = drawWeights(model.shapes, model.seeds.weights);
  const calibration = drawWindows(6, 12, config.vocabSize, model.seeds.calibration);
  const training = drawWindows(12, 14, config.vocabSize, model.seeds.training);
  const source = { read: (name: string) => weights.get(name) as Float32Array };
  return { ...model, label, config, weights, source, calibration, training };
}

const models = new Map(Object.keys(method.models).map((label) => [label, load(label)]));
type Loaded = ReturnType<typeof load>;
const modelOf = (label: string): Loaded => models.get(label) as Loaded;

/** The impact as jobs have it: measured, written to a store and read back. */
async function artifactOf(
  { label, config, source, calibration }: Loaded,
  cherryFraction: number,
): Promise<ImpactArtifact> {
  const { artifact } = await impactOf({
    store: await temporaryStore(),
    tenantPrefix: 'tenants/local/',
    checkpointPrefix: 'checkpoints/',
    attempt: 1,
    config,
    weights: source,
    windows: calibration,
    cherryFraction,
    version: '1.0.0',
    engine: testEngine,
    modelFingerprint: label,
    warn: (message) => expect.fail(message),
  });
  return artifact;
}

beforeAll(async () => {
  await openEngine(testEngine);
});

describe.each([...models.keys()])('of the model whose head is %s', (label) => {
  const model = modelOf(label);
  const { config, weights, source, calibration } = model;

  it('tensors and windows are those of the reference', () => {
    const shapes = [...tensorShapes(config)].map(([name, shape]) => [name, [...shape]]);
    expect(Object.fromEntries(shapes)).toEqual(model.shapes);
    expect([...calibration[0]]).toEqual(model.firstTokens.calibration);
    expect([...model.training[0]]).toEqual(model.firstTokens.training);
  });

  it('the impact differs by less than 1e-5 of the matrix’s largest, and 1e-5 of its norm over all values', async () => {
    const impact = await measureImpact(config, weights, calibration);
    expect([...impact.keys()].sort()).toEqual(Object.keys(model.impact).sort());
    Object.entries(model.impact).forEach(([name, digest], index) => {
      const far = distance(impact.get(name) as Float32Array, digest, digestSeed(index));
      expect(far.samples / digest.largest, name).toBeLessThan(1e-5);
      expect(far.projections / digest.norm, name).toBeLessThan(1e-5);
    });
  });

  it('the inputs’ mean magnitudes and all heterogeneity scores differ by less than 1e-5', async () => {
    const artifact = await artifactOf(model, 1 / 4);
    for (const [name, text] of Object.entries(model.activations)) {
      const { magnitudes } = await artifact.activations(name);
      unpack(Float32Array, text).forEach((expected, i) => {
        expect(Math.abs(magnitudes[i] / expected - 1), name).toBeLessThan(1e-5);
      });
      const { byImpact, byWeight, byActivation } = artifact.matrices.get(name) ?? {};
      const { impact, weight, activation } = model.heterogeneity[name];
      const ratios = [(byImpact ?? 0) / impact, (byWeight ?? 0) / weight, (byActivation ?? 0) / activation];
      for (const ratio of ratios) expect(Math.abs(ratio - 1), name).toBeLessThan(1e-5);
    }
  });

  it.each(model.selections)(
    'the cherries by $criterion in $mode mode, fraction $fraction, are the same except for ties',
    async ({ criterion, mode, fraction, columns: expected }) => {
      const artifact = await artifactOf(model, 1 / 4);
      const impact = await measureImpact(config, weights, calibration);
      const selection = { criterion, cherryMode: mode, cherryFraction: fraction };
      const chosen = await selectCherries(artifact, source, tensorShapes(config), selection);
      expect([...chosen.keys()].sort()).toEqual(Object.keys(expected).sort());
      let different = 0;
      let all = 0;
      for (const [name, { columns: own, perRow, shared }] of chosen) {
        const reference = unpack(Uint8Array, expected[name]);
        expect(shared, name).toBe(mode === 'column');
        expect(own.length, name).toBe(reference.length);
        const { magnitudes } = await artifact.activations(name);
        const perWeight = criterion === 'impact' ? impact.get(name) : source.read(name);
        const rows = own.length / perRow;
        for (let row = 0; row < rows; row++) {
          const scores = criterion === 'activation' ? magnitudes : scoresOf(perWeight ?? [], rows, row, mode);
          const [ours, theirs] = [own, reference].map((of) => [...of.subarray(row * perRow, (row + 1) * perRow)]);
          const taken = ours.filter((column) => !theirs.includes(column));
          const left = theirs.filter((column) => !ours.includes(column));
          for (const one of taken) {
            for (const other of left) expect(Math.abs(scores[one] / scores[other] - 1), name).toBeLessThan(1e-5);
          }
          different += taken.length;
          all += ours.length;
        }
      }
      expect(different).toBeLessThanOrEqual(all / 1000);
    },
  );
});

describe('a matrix in integers', () => {
  function expectEqual(
    weight: Float32Array,
    columns: number,
    grid: Grid,
    cherries: Cherries,
    expected: QuantizedGolden,
  ) {
    const matrix = quantizeMatrix(weight, columns, grid, cherries);
    const { rows } = matrix;
    const stored = storedColumns(columns, cherries.perRow, grid);
    expect(matrix.qweight).toEqual(unpackRows(unpack(Uint8Array, expected.packed), rows, stored, grid.bits));
    expect(packRows(matrix.qweight, rows, stored, grid.bits)).toEqual(unpack(Uint8Array, expected.packed));
    expect(matrix.scales).toEqual(unpack(Uint16Array, expected.scales));
    expect(matrix.cherryWeight).toEqual(unpack(Uint16Array, expected.cherryWeight));
  }

  it.each(method.quantized)(
    'has the same integers, scales and 16-bit cherries: head $model, $bits bits, groups of $groupSize, fraction $fraction',
    ({ model: label, bits, groupSize, fraction, matrices }) => {
      const { weights, config, selections } = modelOf(label);
      const reference = selections.find(
        (selection) => selection.criterion === 'impact' && selection.mode === 'row' && selection.fraction === fraction,
      );
      const grid = { bits, groupSize, levels: publishedLevels(bits), aligned: false };
      for (const [name, expected] of Object.entries(matrices)) {
        const [rows, columns] = tensorShapes(config).get(name) as number[];
        const cherryColumns = Uint32Array.from(unpack(Uint8Array, reference?.columns[name] ?? ''));
        const cherries = { perRow: cherryColumns.length / rows, columns: cherryColumns, shared: false };
        expectEqual(weights.get(name) as Float32Array, columns, grid, cherries, expected);
      }
    },
  );

  it.each(method.wide)(
    'has them with rows of Llama-2’s $columns columns, whose last group is short',
    ({ rows, columns, seed, bits, groupSize, cherryColumns, ...expected }) => {
      const weight = drawWeights({ wide: [rows, columns] }, seed).get('wide') as Float32Array;
      const perRow = cherryCount(columns, 1 / 256);
      const chosen = topColumns(weight, columns, perRow);
      for (let row = 0; row < rows; row++) chosen.subarray(row * perRow, (row + 1) * perRow).sort();
      expect(Uint16Array.from(chosen)).toEqual(unpack(Uint16Array, cherryColumns));
      const grid = { bits, groupSize, levels: publishedLevels(bits), aligned: false };
      expectEqual(weight, columns, grid, { perRow, columns: chosen, shared: false }, expected);
    },
  );

  it('has the published count of cherries in rows of 2048 columns and more', () => {
    const columns = Object.keys(method.publishedCounts).map(Number);
    const counts = columns.map((width) => [String(width), cherryCount(width, 1 / 256)]);
    expect(Object.fromEntries(counts)).toEqual(method.publishedCounts);
    expect(method.publishedCounts).toEqual({ 2048: 8, 4096: 16, 5120: 16, 11008: 40, 13824: 48 });
  });
});

describe('training', () => {
  it.each(
    runs.map((run) => ({
      ...run,
      loss: run.distillation ? 'distillation' : 'cross-entropy',
      mode: run.mode ?? ('no' as const),
    })),
  )(
    'has the same losses to 1e-4 and, after one and ten steps, weights: head $model, $bits bits, fraction $fraction, $loss, $levels levels',
    async ({ mode, ...run }) => {
      const { config, weights, source, training, ...model } = modelOf(run.model);
      const grid = { bits: run.bits, groupSize: run.groupSize, levels: run.levels, aligned: false };
      const cherries =
        mode === 'no'
          ? new Map<string, Cherries>()
          : await selectCherries(await artifactOf(modelOf(run.model), run.fraction), source, tensorShapes(config), {
              criterion: 'impact',
              cherryMode: mode,
              cherryFraction: run.fraction,
            });
      const columnScales = new Map(
        Object.entries(run.columnScales).map(([name, text]) => [name, unpack(Float32Array, text)]),
      );
      const state = await createTrainState(weights);
      const trainer = new Trainer(
        {
          config,
          quantizer: { grid, cherries, columnScales },
          teacher: run.distillation ? source : null,
          schedule: { peak: run.peak, totalSteps: run.steps, warmupFraction: 0.05, floor: run.floor },
          adamW: { beta1: 0.9, beta2: 0.95, epsilon: run.epsilon, weightDecay: 0 },
          maxGradNorm: 1,
          batchSize: run.batchSize,
          windowAt: (index) => training[index % training.length],
        },
        state,
      );
      const expectSameWeights = (expected: ByName<Digest>): void => {
        Object.keys(model.shapes).forEach((name, index) => {
          const start = weights.get(name) as Float32Array;
          const change = Float64Array.from(state.latent.get(name) as Float32Array, (value, i) => value - start[i]);
          const far = distance(change, expected[name], digestSeed(index));
          expect(far.samples / run.largestWeight[name], name).toBeLessThan(1e-4);
          expect(far.projections / expected[name].norm, name).toBeLessThan(1e-3);
        });
      };
      for (const expected of run.records) {
        const { step, loss, gradientNorm, learningRate } = await trainer.advance();
        expect(Math.abs(loss / expected.loss - 1), `loss of step ${step}`).toBeLessThan(1e-4);
        expect(Math.abs(gradientNorm / expected.gradientNorm - 1), `norm of step ${step}`).toBeLessThan(1e-3);
        expect(Math.abs(learningRate / expected.learningRate - 1)).toBeLessThan(1e-12);
        if (step === 1) expectSameWeights(run.changeOfFirst);
      }
      expect(state.records).toHaveLength(10);
      expectSameWeights(run.change);
      expect(run.floor).toBe(publishedFloor(run.bits));
    },
  );

  it.each(Object.entries(method.publishedSchedule.rates))(
    'has the published rates after the warm-up, floor %s, and within it is less than one step ahead',
    (floor, rates) => {
      const { peak, steps, warmupFraction } = method.publishedSchedule;
      const settings = { peak, totalSteps: steps, warmupFraction, floor: Number(floor) };
      const warmup = Math.ceil(steps * warmupFraction);
      rates.forEach((rate, i) => {
        const own = learningRateAt(10 * i, settings);
        if (10 * i >= warmup) expect(Math.abs(own / rate - 1)).toBeLessThan(1e-12);
        else {
          expect(own).toBeGreaterThan(rate);
          expect(own - rate).toBeLessThan(peak / warmup);
        }
      });
    },
  );
});
