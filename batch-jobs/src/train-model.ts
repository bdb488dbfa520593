/** The training of a job: its state made or restored, the steps that are left, and a checkpoint now and then. */
import type { Scheme, Training } from 'cherryq/contract';
import { createSampler } from './data/windows.ts';
import type { OpenedModel } from './model-weights.ts';
import { sharedCopy } from './numeric/pool.ts';
import type { Reporter } from './progress.ts';
import type { RunOptions } from './run-options.ts';
import { shouldStop, stopped } from './run-options.ts';
import { BlockWiseTrainer, createBlockWiseState } from './training/block-wise.ts';
import type { Checkpoint } from './training/checkpoints.ts';
import { saveCheckpoint } from './training/checkpoints.ts';
import type { Quantizer } from './training/quantized-blocks.ts';
import type { Identity } from './training/resume.ts';
import { publishedFloor } from './training/schedule.ts';
import type { CommonTrainOptions, StepRecord, TrainState } from './training/train.ts';
import { Trainer, createTrainState } from './training/train.ts';

export interface TrainModelOptions {
  readonly run: RunOptions;
  readonly scheme: Scheme;
  readonly training: Training;
  /** Where its checkpoints are, ending in a slash. */
  readonly checkpointPrefix: string;
  readonly model: OpenedModel;
  /** Every tensor of the original, in shared memory; trained in place where nothing needs the original any more. */
  readonly weights: ReadonlyMap<string, Float32Array>;
  /** Calibration windows. */
  readonly windows: readonly Int32Array[];
  readonly quantizer: Quantizer;
  /** To go on from; null begins anew. */
  readonly checkpoint: Checkpoint | null;
  readonly identity: Identity;
  readonly progress: Reporter;
}

/** A checkpoint is saved when this much time has passed, or 20 times what the last one took. */
const defaultCheckpointGapMs = 3000;

/** Steps of the whole training; block by block, of all blocks together. */
export function trainSteps(training: Training, blocks: number): number {
  const steps = Math.ceil(training.tokens / (training.batchSize * training.sequenceLength));
  return training.mode === 'blockWise' ? blocks * steps : steps;
}

/** @throws DivergedError, InterruptedError, or as `createTrainState` */
export async function trainModel(
  options: TrainModelOptions,
): Promise<{ latent: ReadonlyMap<string, Float32Array>; records: readonly StepRecord[] }> {
  const { run, training, model, checkpoint, progress } = options;
  const { store, job } = run;
  const state = await createState(options);
  try {
    await checkpoint?.restore(state);
    const trainer = trainerOf(options, state);
    const steps = trainSteps(training, model.config.numHiddenLayers);
    let saveMs = 0;
    let savedAt = performance.now();
    while (trainer.step < steps) {
      const record = await trainer.advance();
      progress.at('train', record.step, record.loss);
      const stopping = await shouldStop(run);
      const gapMs = run.checkpointGapMs ?? Math.max(defaultCheckpointGapMs, 20 * saveMs);
      if (stopping || record.step === steps || performance.now() - savedAt > gapMs) {
        const started = performance.now();
        await job.assertCurrent();
        await saveCheckpoint(store, options.checkpointPrefix, options.identity, job.attempt, state);
        job.emit({ type: 'checkpoint', step: trainer.step });
        savedAt = performance.now();
        saveMs = savedAt - started;
      }
      if (stopping) throw stopped();
    }
    return { latent: state.latent, records: state.records };
  } finally {
    await state.close();
  }
}

function createState({ run, training, model, weights }: TrainModelOptions): Promise<TrainState> {
  const moments = { dtype: training.moments, folder: training.momentsIn === 'file' ? run.scratchFolder : null };
  const settings = { trainedParameters: training.trainedParameters, moments };
  if (training.mode === 'blockWise') return createBlockWiseState(model.config, weights, settings);
  // Training changes its arrays in place, and a teacher must stay as it is.
  const distills = training.loss === 'distillation';
  const own = distills ? new Map([...weights].map(([name, values]) => [name, sharedCopy(values)])) : weights;
  return createTrainState(own, settings);
}

function trainerOf(
  { scheme, training, model, weights, windows, quantizer }: TrainModelOptions,
  state: TrainState,
): Trainer | BlockWiseTrainer {
  const sampler = createSampler({ count: windows.length, seed: training.seed });
  const windowAt = (index: number): Int32Array => windows[sampler(index)];
  const common: CommonTrainOptions = {
    config: model.config,
    quantizer,
    schedule: {
      peak: training.learningRate,
      totalSteps: Math.ceil(training.tokens / (training.batchSize * training.sequenceLength)),
      warmupFraction: training.warmupFraction,
      floor: training.finalLearningRateFraction ?? publishedFloor(scheme.bits),
    },
    adamW: training,
    maxGradNorm: training.maxGradNorm,
    batchSize: training.batchSize,
  };
  // Block by block, the original is read from its files: what is in memory is being trained.
  if (training.mode === 'blockWise')
    return new BlockWiseTrainer({ ...common, original: model.weights, windowAt }, state);
  const teacher =
    training.loss === 'distillation' ? { read: (name: string) => weights.get(name) as Float32Array } : null;
  return new Trainer({ ...common, teacher, windowAt }, state);
}
