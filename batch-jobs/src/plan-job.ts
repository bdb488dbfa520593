/**
 * What a job needs, known before it runs: memory by the formula of docs/memory.md, the bytes of its result by docs/format.md, and
 * how much there is to compute. Only the model's config is looked at.
 */
import { phaseNames, schemesOf } from 'cherryq/contract';
import type { Comparison, EngineName, JobKind, JobSpec, Phase } from 'cherryq/contract';
import { gridOf, nativeConfig } from './exporters/native-config.ts';
import { methods } from './methods/registry.ts';
import type { DecoderConfig } from './models/decoder-config.ts';
import { isLinear, tensorShapes } from './models/decoder-config.ts';
import { parseModelConfig } from './models/registry.ts';
import { packedSizes } from './numeric/packed-rows.ts';
import { cherryCount } from './numeric/quantizer.ts';
import type { MemoryNeeded } from './training/memory.ts';
import { memoryNeeded, sumOfParts } from './training/memory.ts';

export interface PlannedJob extends Pick<JobSpec, 'kind' | 'scheme' | 'training' | 'formats' | 'evaluation'> {
  readonly baselineModelId?: string;
  readonly comparison?: Comparison;
  /** Value of the model's config.json. */
  readonly configJson: Record<string, unknown>;
  /** Bytes of the texts; null where there is none. */
  readonly calibrationBytes: number | null;
  readonly evaluationBytes: number | null;
  /** Bytes of all tasks' questions; default: none. */
  readonly taskBytes?: number;
  /** Of an analysis: draws from all texts together. */
  readonly draws: number;
  /** What earlier jobs have left that this one needs; default: nothing. */
  readonly known?: KnownFigures;
  readonly engine: EngineName;
}

export interface KnownFigures {
  readonly impact: boolean;
  /** How the original does, or an evaluation's baseline. */
  readonly original: boolean;
  /** How plain rounding in the same groups does. */
  readonly rounding: boolean;
}

export interface JobPlan {
  readonly parameters: number;
  /** Main memory at its peak; on an engine without a device of its own, all memory. */
  readonly hostBytes: number;
  /** Memory of the device at its peak; 0 without one. */
  readonly deviceBytes: number;
  /** In the store, at most: result, copy for comparison, checkpoints, and a file of moments. */
  readonly diskBytes: number;
  /** Bytes of the weights' files. */
  readonly outputBytes: { readonly native: number | null; readonly hf: number | null };
  /** Floating-point operations of the model's matrices. */
  readonly operations: number;
  /** What each phase has to do: operations, or, where the phase computes none, parameters to go through. */
  readonly work: PhaseWork;
  /** Of a comparison, for where its schemes are tried at once. */
  readonly apart?: WorkApart;
}

/** What there is to do where a worker tries each scheme alone, and one more merges. */
export interface WorkApart {
  readonly schemes: readonly PhaseWork[];
  readonly merge: PhaseWork;
}

export type PhaseWork = Readonly<Partial<Record<Phase, number>>>;
/** Those of them that count operations. */
export const computingPhases = ['impact', 'scales', 'train', 'evaluate'] as const satisfies readonly Phase[];

/** What a token is, in bytes of English text, for the usual vocabularies. */
const bytesPerToken = 4;
/** Of the usual tasks, each of which follows the whole question. */
const choicesPerQuestion = 4;
/**
 * What a whole job takes over its impact and its training, as measured on two cores: threads that round and write, the measuring of the
 * result.
 */
const aroundBytes: Readonly<Record<EngineName, number>> = { gpu: 120e6, native: 120e6, wasm: 100e6, cpu: 100e6 };
/** Rounding alone goes through the weights part by part. */
const streamingBytes = 30e6;
const keptCheckpoints = 2;
/** What the search for one block's column scales costs, in tokens through the model. */
export const scalesTokens = 20 * 1024;

/** @throws InputError for a config that the trainer does not read */
export function planJob(job: PlannedJob): JobPlan {
  return plans[job.kind](job, parseModelConfig(job.configJson));
}

const plans = {
  compress: planCompression,
  analyze: planAnalysis,
  evaluate: planEvaluation,
  compare: planComparison,
} satisfies Record<JobKind, (job: PlannedJob, config: DecoderConfig) => JobPlan>;

function planCompression(job: PlannedJob, config: DecoderConfig): JobPlan {
  const { scheme, formats, evaluation, known } = job;
  const native = nativeBytes(config, job);
  const outputBytes = {
    native: formats.includes('native') ? native : null,
    hf: formats.includes('hf') ? 2 * parametersOf(config) : null,
  };
  const roundingApart = scheme.method !== 'rtn' || !formats.includes('native');
  const scored = 1 + (roundingApart && !known?.rounding ? 1 : 0);
  const original = known?.original ? 0 : 1;
  const twice = evaluation && measuresDivergence(evaluation) ? 2 : 1;
  const evaluations = original + twice * (scored + (formats.length === 2 ? 1 : 0));
  const written = 2 * (outputBytes.native ?? 0) + (outputBytes.hf ?? 0);
  return {
    ...planScheme(job, config, { written, evaluations, scorings: original + scored, exports: formats.length }),
    outputBytes,
  };
}

function planAnalysis(job: PlannedJob, config: DecoderConfig): JobPlan {
  return planPhases(job, config, { trains: false, measures: true }, { ...nothingElse, draws: job.draws });
}

/** With a baseline, each token goes through it once for its own perplexity and once for the model's divergence. */
function planEvaluation(job: PlannedJob, config: DecoderConfig): JobPlan {
  const first = job.known?.original ? 0 : 1;
  const [then, thenScored] = job.baselineModelId === undefined ? [0, 0] : [2, 1];
  return planPhases(job, config, nothing, {
    ...nothingElse,
    evaluations: first + then,
    scorings: first + thenScored,
  });
}

/** Schemes follow one another: what one needs at its peak is needed once, what all compute adds up. Impact is measured once. */
function planComparison(job: PlannedJob, config: DecoderConfig): JobPlan {
  const { comparison = { schemes: [{}] }, evaluation } = job;
  const evaluations = evaluation && measuresDivergence(evaluation) ? 2 : 1;
  const own = schemesOf({ scheme: job.scheme, comparison }).map((scheme) => {
    const variant = { ...job, scheme };
    return planScheme(variant, config, { written: nativeBytes(config, variant), evaluations, scorings: 1, exports: 1 });
  });
  const once = job.known?.original ? 0 : 1;
  const original = planPhases(job, config, nothing, { ...nothingElse, evaluations: once, scorings: once });
  const each = own.map(({ work }) => work).reduce(addWork, original.work);
  // What all share is done once.
  const work = {
    ...each,
    impact: Math.max(...own.map((one) => one.work.impact ?? 0)),
    load: original.work.load,
    report: original.work.report,
  };
  const most = (field: 'hostBytes' | 'deviceBytes' | 'diskBytes'): number =>
    Math.max(...own.map((each) => each[field]));
  return {
    parameters: parametersOf(config),
    hostBytes: most('hostBytes'),
    deviceBytes: most('deviceBytes'),
    diskBytes: most('diskBytes'),
    outputBytes: { native: null, hf: null },
    operations: operationsIn(work),
    work,
    apart: { schemes: own.map((one) => one.work), merge: original.work },
  };
}

/** One scheme: its impact, its training, and the measuring of what it gives. */
function planScheme(job: PlannedJob, config: DecoderConfig, extent: Omit<Extent, 'draws'>): JobPlan & Phases {
  const { scheme } = job;
  const method = methods[scheme.method];
  const measures = method.keepsCherries && scheme.criterion !== 'weight' && !job.known?.impact;
  const phases = { trains: method.trains, measures };
  return { ...planPhases(job, config, phases, { ...extent, draws: 1 }), ...phases };
}

/** Whether each model that is measured goes through the text beside the original. */
export function measuresDivergence({ divergence, limits }: NonNullable<JobSpec['evaluation']>): boolean {
  return divergence || limits.divergence !== undefined;
}

/** What a job does besides its training. */
interface Extent {
  /** Bytes of models that it writes. */
  readonly written: number;
  /** Lots of windows that impact is measured on, where it is. */
  readonly draws: number;
  /** Times that the evaluation text goes through a model. */
  readonly evaluations: number;
  /** Times that the tasks do. */
  readonly scorings: number;
  /** Models that it writes. */
  readonly exports: number;
}

const nothing: Phases = { trains: false, measures: false };
const nothingElse: Extent = { written: 0, draws: 0, evaluations: 0, scorings: 0, exports: 0 };

function planPhases(job: PlannedJob, config: DecoderConfig, phases: Phases, extent: Extent): JobPlan {
  const work = workOf(job, config, phases, extent);
  const { scheme, training, engine } = job;
  const shapes = [...tensorShapes(config)];
  const parameters = parametersOf(config);
  const needed = memoryNeeded({ config, scheme, training, engine });
  const { trains, measures } = phases;
  const checkpoint = trains ? 4 * parameters + momentsOf(needed) : measures ? 4 * linearsOf(shapes) : 0;
  return {
    parameters,
    ...peakOf(job, needed, phases),
    diskBytes: extent.written + keptCheckpoints * checkpoint + (trains ? needed.diskBytes : 0),
    outputBytes: { native: null, hf: null },
    operations: operationsIn(work),
    work,
  };
}

interface Phases {
  readonly trains: boolean;
  readonly measures: boolean;
}

function peakOf(
  { engine }: PlannedJob,
  needed: MemoryNeeded,
  { trains, measures }: Phases,
): { hostBytes: number; deviceBytes: number } {
  const around = aroundBytes[engine];
  const phases = [measures && needed.impact, trains && needed.training].filter((phase) => phase !== false);
  const host = phases.map((phase) => sumOfParts(phase.host));
  const device = phases.map((phase) => sumOfParts(phase.device));
  if (phases.length === 0) {
    const [process, , largest] = needed.impact.host;
    return { hostBytes: process.bytes + largest.bytes + streamingBytes + around, deviceBytes: 0 };
  }
  if (engine === 'gpu') return { hostBytes: Math.max(...host) + around, deviceBytes: Math.max(...device) };
  return { hostBytes: Math.max(...host.map((bytes, phase) => bytes + device[phase])) + around, deviceBytes: 0 };
}

const momentsOf = ({ training, diskBytes }: MemoryNeeded): number =>
  diskBytes || (training.host.find(({ part }) => part === 'moments')?.bytes ?? 0);

function linearsOf(shapes: readonly (readonly [string, readonly number[]])[]): number {
  return shapes.filter(([name]) => isLinear(name)).reduce((sum, [, shape]) => sum + sizeOf(shape), 0);
}

function nativeBytes(config: DecoderConfig, { scheme }: PlannedJob): number {
  const { keepsCherries } = methods[scheme.method];
  const native = nativeConfig(scheme, keepsCherries);
  const grid = gridOf(native);
  let bytes = 0;
  for (const [name, shape] of tensorShapes(config)) {
    if (!isLinear(name)) {
      bytes += 2 * sizeOf(shape);
      continue;
    }
    const [rows, columns] = shape;
    const perRow = keepsCherries ? cherryCount(columns, native.cherry_fraction) : 0;
    bytes += Object.values(packedSizes(rows, columns, grid, perRow)).reduce((sum, part) => sum + part, 0);
    bytes += 2 * perRow * (native.cherry_mode === 'column' ? 1 : rows) + (native.column_scales ? 2 * columns : 0);
  }
  return bytes;
}

/** A backward pass counts as two more; the passes are those of the progress that a job reports. */
function workOf(job: PlannedJob, config: DecoderConfig, { trains, measures }: Phases, extent: Extent): PhaseWork {
  const { scheme, training, evaluation, kind } = job;
  const calibrationTokens = (job.calibrationBytes ?? 0) / bytesPerToken;
  const drawnTokens = Math.min(training.impactSamples * training.sequenceLength, calibrationTokens);
  const measuredTokens = measures ? extent.draws * drawnTokens : 0;
  const stepTokens = training.batchSize * training.sequenceLength;
  const trainedTokens = trains ? Math.ceil(training.tokens / stepTokens) * stepTokens : 0;
  const trainingPasses = training.mode === 'blockWise' ? 5 : training.loss === 'distillation' ? 4 : 3;
  const evaluatedTokens = Math.min(
    (job.evaluationBytes ?? 0) / bytesPerToken,
    evaluation?.maxTokens ?? Number.POSITIVE_INFINITY,
  );
  const taskTokens = (choicesPerQuestion * (job.taskBytes ?? 0)) / bytesPerToken;
  const searched = trains && scheme.columnScales === 'searched';
  const weights = linearsOf([...tensorShapes(config)]) + config.vocabSize * config.hiddenSize;
  const parameters = parametersOf(config);
  return {
    load: parameters,
    impact: 2 * weights * 3 * measuredTokens,
    scales: searched ? 2 * weights * scalesTokens * config.numHiddenLayers : 0,
    train: 2 * weights * trainingPasses * trainedTokens,
    evaluate: 2 * weights * (extent.evaluations * evaluatedTokens + extent.scorings * taskTokens),
    export: parameters * extent.exports,
    analyze: kind === 'analyze' ? parameters : 0,
    report: parameters,
  };
}

/** Of phases that compute. */
const operationsIn = (work: PhaseWork): number => computingPhases.reduce((sum, phase) => sum + (work[phase] ?? 0), 0);

function addWork(first: PhaseWork, second: PhaseWork): PhaseWork {
  return Object.fromEntries(phaseNames.map((phase) => [phase, (first[phase] ?? 0) + (second[phase] ?? 0)]));
}

const parametersOf = (config: DecoderConfig): number =>
  [...tensorShapes(config)].reduce((sum, [, shape]) => sum + sizeOf(shape), 0);

function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}
