/**
 * From the original to weights that can be written, by one scheme:
 *
 *   [impact -> cherries -> column scales] -> [train]
 *
 * Impact is the tenant's, chosen from and trained on by every scheme that asks for it; checkpoints are this scheme's own.
 */
import type { Scheme, Training } from 'cherryq/contract';
import { columnScalesOf, scalesOf } from './column-scales.ts';
import type { Dataset } from './data/dataset.ts';
import { createSampler } from './data/windows.ts';
import type { CompressedModel } from './exporters/exporter.ts';
import { gridOf, nativeConfig } from './exporters/native-config.ts';
import type { ImpactArtifact } from './impact-artifact.ts';
import { impactOf } from './impact.ts';
import { methods } from './methods/registry.ts';
import { isLinear } from './models/decoder-config.ts';
import type { DecoderConfig } from './models/decoder-config.ts';
import type { OpenedModel } from './model-weights.ts';
import { weightsInFiles, weightsInMemory } from './model-weights.ts';
import type { Cherries } from './numeric/quantizer.ts';
import { scalesTokens } from './plan-job.ts';
import type { PhasePlan, Reporter } from './progress.ts';
import type { RunOptions } from './run-options.ts';
import { shouldStop } from './run-options.ts';
import { needsImpact, selectCherries } from './selection.ts';
import { trainModel, trainSteps } from './train-model.ts';
import type { Checkpoint } from './training/checkpoints.ts';
import { openCheckpoint } from './training/checkpoints.ts';
import type { Identity } from './training/resume.ts';
import { trainingIdentity } from './training/resume.ts';
import type { StepRecord } from './training/train.ts';
import { version } from './version.ts';

/** What a scheme is tried on. */
export interface CompressionInputs {
  readonly run: RunOptions;
  /** Name of the engine. */
  readonly engine: string;
  readonly model: OpenedModel;
  readonly modelFingerprint: string;
  /** Null where no scheme trains. */
  readonly calibration: Dataset | null;
  readonly scheme: Scheme;
  readonly training: Training;
  /** Where checkpoints of this scheme, and of no other, are; ends in a slash. */
  readonly checkpointPrefix: string;
}

export interface CompressModelOptions extends CompressionInputs {
  /** Every tensor of the original, in shared memory; trained in place. Null where the method does not train. */
  readonly weights: ReadonlyMap<string, Float32Array> | null;
  readonly checkpoint: Checkpoint | null;
  /** Largest share of a row that any scheme on this model chooses cherries from; default: this one's. */
  readonly mostCherries?: number;
  readonly progress: Reporter;
}

export interface Compressed {
  readonly compressed: CompressedModel;
  /** Null where the scheme asks for none. */
  readonly impact: ImpactArtifact | null;
  readonly records: readonly StepRecord[];
}

/** What the result depends on. */
export function identityOf(inputs: Omit<CompressionInputs, 'run' | 'model' | 'checkpointPrefix'>): Identity {
  const { engine, modelFingerprint: model, calibration, scheme, training } = inputs;
  const calibrationWindows = calibration?.sha256 ?? 'none';
  return trainingIdentity({ version, engine, model, calibrationWindows, scheme, training });
}

/** The training's checkpoint to go on from; null without one.  @throws InputError as `openCheckpoint` */
export async function checkpointOf(inputs: CompressionInputs): Promise<Checkpoint | null> {
  const { run, scheme, training, checkpointPrefix } = inputs;
  if (!methods[scheme.method].trains) return null;
  const warn = (message: string): void => run.job.emit({ type: 'log', level: 'warning', message });
  return openCheckpoint(run.store, checkpointPrefix, identityOf(inputs), training.resume, warn);
}

/** @throws InputError, InterruptedError as the steps do */
export async function compressModel(options: CompressModelOptions): Promise<Compressed> {
  const { run, engine, model, modelFingerprint, calibration, scheme, training, weights, progress } = options;
  const identity = identityOf(options);
  const { store, job } = run;
  const method = methods[scheme.method];
  let impact: ImpactArtifact | null = null;
  let cherries: ReadonlyMap<string, Cherries> = new Map();
  let columnScales: ReadonlyMap<string, Float32Array> = new Map();
  let records: readonly StepRecord[] = [];
  let trained = weights === null ? weightsInFiles(store, model.folder) : weightsInMemory(weights);

  if (calibration !== null && weights !== null) {
    // Impact, cherries and column scales: chosen once, before training.
    const { windows } = calibration;
    const sampler = createSampler({ count: windows.length, seed: training.seed });
    const drawn = (count: number): Int32Array[] => Array.from({ length: count }, (_, index) => windows[sampler(index)]);
    const common = {
      store,
      checkpointPrefix: options.checkpointPrefix,
      attempt: job.attempt,
      config: model.config,
      weights: { read: (name: string) => weights.get(name) as Float32Array },
      warn: (message: string): void => job.emit({ type: 'log', level: 'warning', message }),
      stopRequested: () => shouldStop(run),
      assertCurrent: () => job.assertCurrent(),
      checkpointGapMs: run.checkpointGapMs,
      resume: training.resume,
    };
    const impactWindows = impactWindowsOf(options);
    if (impactWindows > 0) {
      progress.start('impact');
      const { artifact, source } = await impactOf({
        ...common,
        tenantPrefix: job.tenantPrefix,
        version,
        engine,
        modelFingerprint,
        windows: drawn(impactWindows),
        cherryFraction: options.mostCherries ?? scheme.cherryFraction,
        onWindows: (done) => progress.at('impact', done),
      });
      impact = artifact;
      progress.at('impact', impactWindows);
      job.emit({ type: 'impact.ready', source, windows: artifact.windows, sha256: artifact.sha256 });
    }
    if (method.keepsCherries) cherries = await selectCherries(impact, common.weights, model.shapes, scheme);
    const grid = gridOf(nativeConfig(scheme, method.keepsCherries));
    if (scheme.columnScales === 'searched') {
      progress.start('scales');
      const choices = await columnScalesOf({
        ...common,
        grid,
        cherries,
        windows: drawn(Math.min(windows.length, training.impactSamples)),
        identity,
        onBlock: (done) => progress.at('scales', done),
      });
      columnScales = scalesOf(choices);
    }

    // Train: the latent weights through the quantizer.
    progress.start('train');
    const quantizer = { grid, cherries, columnScales };
    const result = await trainModel({ ...options, weights, windows, quantizer, identity });
    records = result.records;
    trained = weightsInMemory(result.latent);
  }

  const compressed: CompressedModel = {
    configJson: model.folder.configJson,
    scheme,
    keepsCherries: method.keepsCherries,
    shapes: model.shapes,
    weights: trained,
    cherries,
    columnScales,
    isQuantized: isLinear,
  };
  return { compressed, impact, records };
}

type Measuring = Pick<CompressionInputs, 'scheme' | 'training' | 'calibration'>;

/** Windows that impact is measured on; 0 where the scheme asks for none. */
function impactWindowsOf({ scheme, training, calibration }: Measuring): number {
  if (!methods[scheme.method].keepsCherries || !needsImpact(scheme)) return 0;
  return Math.min(training.impactSamples, calibration?.windows.length ?? 0);
}

/** Cost of each phase, in tokens run forward once; a backward pass costs two more. */
export function phasesOf(inputs: Measuring, config: DecoderConfig): PhasePlan[] {
  const { scheme, training } = inputs;
  const { trains } = methods[scheme.method];
  const { sequenceLength, batchSize } = training;
  const blocks = config.numHiddenLayers;
  const stepTokens = batchSize * sequenceLength;
  // Block by block, a step runs one block forward and backward, and its hidden states cost about two passes more.
  const passes = training.mode === 'blockWise' ? 5 / blocks : training.loss === 'distillation' ? 4 : 3;
  const searchedBlocks = scheme.columnScales === 'searched' && trains ? blocks : 0;
  const steps = trains ? trainSteps(training, blocks) : 0;
  return [
    { phase: 'impact', units: impactWindowsOf(inputs), unitCost: 3 * sequenceLength, unitTokens: sequenceLength },
    { phase: 'scales', units: searchedBlocks, unitCost: scalesTokens, unitTokens: 0 },
    { phase: 'train', units: steps, unitCost: passes * stepTokens, unitTokens: stepTokens },
  ];
}
