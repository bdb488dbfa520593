/**
 * What a job does with the model under `model/` of a folder between loading and packing, in a process of its own: it reads the
 * weights, measures their impact, chooses cherries and takes training steps. Prints, as JSON, what each phase took.
 *
 * Usage: memory-worker.js <folder> <windows> <steps> <training, as JSON>
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { schemeSchema, trainingSchema } from 'cherryq/contract';
import { openEngine } from '../src/engine/engine.ts';
import { gridOf, nativeConfig } from '../src/exporters/native-config.ts';
import { impactOf } from '../src/impact.ts';
import { openModel, readAllWeights } from '../src/model-weights.ts';
import { sharedCopy } from '../src/numeric/pool.ts';
import { createRandom } from '../src/numeric/random.ts';
import { selectCherries } from '../src/selection.ts';
import { FolderStore } from '../src/storage/index.ts';
import { BlockWiseTrainer, createBlockWiseState } from '../src/training/block-wise.ts';
import type { CommonTrainOptions } from '../src/training/train.ts';
import { Trainer, createTrainState } from '../src/training/train.ts';

export interface PhaseMeasured {
  readonly seconds: number;
  readonly tokens: number;
  /** Largest resident memory of the process during the phase. */
  readonly peakBytes: number;
}

export interface WorkerResult {
  readonly engine: string;
  readonly impact: PhaseMeasured;
  readonly training: PhaseMeasured;
}

const [, , folder, windowCount, stepCount, trainingJson] = process.argv;
const training = trainingSchema.parse(JSON.parse(trainingJson));
const scheme = schemeSchema.parse({});
const store = new FolderStore(folder);
const engine = await openEngine(process.env.CHERRYQ_ENGINE);
const model = await openModel(store, 'model/');
const weights = await readAllWeights(model);
const originals = { read: (name: string) => weights.get(name) as Float32Array };
const { sequenceLength, batchSize } = training;
const windows = seededWindows(Number(windowCount));

const { artifact, ...impact } = await measured(windows.length, async () =>
  impactOf({
    store,
    tenantPrefix: 'tenant/',
    checkpointPrefix: 'checkpoints/',
    attempt: 1,
    version: 'bench',
    engine: engine.name,
    modelFingerprint: 'bench',
    windows,
    config: model.config,
    weights: originals,
    cherryFraction: scheme.cherryFraction,
    warn: (message) => console.error(message),
    // A checkpoint of its sums would be written in the time between two walks; it takes no memory.
    checkpointGapMs: Infinity,
  }),
);
const cherries = await selectCherries(artifact, originals, model.shapes, scheme);
const steps = await measured(Number(stepCount) * batchSize, async () => {
  const settings = {
    trainedParameters: training.trainedParameters,
    moments: { dtype: training.moments, folder: training.momentsIn === 'file' ? folder : null },
  };
  const common: CommonTrainOptions = {
    config: model.config,
    quantizer: { grid: gridOf(nativeConfig(scheme, true)), cherries, columnScales: new Map() },
    schedule: { peak: training.learningRate, totalSteps: Number(stepCount), warmupFraction: 0, floor: 1 },
    adamW: training,
    maxGradNorm: training.maxGradNorm,
    batchSize,
  };
  const windowAt = (index: number): Int32Array => windows[index % windows.length];
  const isBlockWise = training.mode === 'blockWise';
  const distills = training.loss === 'distillation' && !isBlockWise;
  const own = distills ? new Map([...weights].map(([name, values]) => [name, sharedCopy(values)])) : weights;
  const state = await (isBlockWise
    ? createBlockWiseState(model.config, own, settings)
    : createTrainState(own, settings));
  const trainer = isBlockWise
    ? new BlockWiseTrainer({ ...common, original: model.weights, windowAt }, state)
    : new Trainer({ ...common, teacher: distills ? originals : null, windowAt }, state);
  for (let step = 0; step < Number(stepCount); step++) {
    const { loss, gradientNorm } = await trainer.advance();
    console.error(`step ${step + 1}: loss ${loss.toFixed(4)}, gradient norm ${gradientNorm.toFixed(4)}`);
  }
  await state.close();
  return {};
});
const result: WorkerResult = { engine: engine.name, impact, training: steps };
console.log(JSON.stringify(result));
process.exit(0);

async function measured<Result extends object>(
  count: number,
  work: () => Promise<Result>,
): Promise<PhaseMeasured & Result> {
  // Linux begins the peak of resident memory anew when it is told to.
  writeFileSync('/proc/self/clear_refs', '5');
  const start = performance.now();
  const result = await work();
  const seconds = (performance.now() - start) / 1000;
  const [, kilobytes] = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8')) ?? [];
  return { ...result, seconds, tokens: count * sequenceLength, peakBytes: 1024 * Number(kilobytes) };
}

function seededWindows(count: number): Int32Array[] {
  const random = createRandom(2);
  const draw = (): number => Math.floor(random() * model.config.vocabSize);
  return Array.from({ length: count }, () => Int32Array.from({ length: sequenceLength }, draw));
}
