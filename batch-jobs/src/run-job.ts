/**
 * One job from its spec to its artifacts, top to bottom; read this first.
 *
 *   claim -> load -> [impact -> cherries] -> [train] -> export -> read back and evaluate -> report -> manifest -> succeeded
 *
 * Each step is a pure function of the spec and the files before it, so a crash anywhere is mended by running the job again:
 * training goes on from its newest checkpoint, the rest is done over, and the bytes come out the same.
 */
import { createHash } from 'node:crypto';
import { artifactFormats } from 'cherryq/contract';
import type { JobSpec, Manifest, Measurement, Phase, Scheme } from 'cherryq/contract';
import { exporters } from './exporters/registry.ts';
import type { CompressedModel, Exporter } from './exporters/exporter.ts';
import { gridOf, nativeConfig } from './exporters/native.ts';
import type { StoredRows } from './exporters/relative-errors.ts';
import { relativeErrors } from './exporters/relative-errors.ts';
import { renderReport } from './exporters/report.ts';
import type { ReportData } from './exporters/report.ts';
import { encodeText, readText } from './data/text.ts';
import { createSampler, packWindows } from './data/windows.ts';
import { openEngine } from './engine/engine.ts';
import type { Engine } from './engine/engine.ts';
import { InputError, InterruptedError } from './errors.ts';
import { measurePerplexity } from './evaluation/perplexity.ts';
import { safetensorsBytes } from './formats/safetensors.ts';
import type { JobFolder } from './job-folder.ts';
import { methods } from './methods/registry.ts';
import { isLinear } from './models/decoder-config.ts';
import type { WeightSource } from './models/decoder.ts';
import type { OpenedModel } from './model-weights.ts';
import {
  checkGroupSize,
  meanStoredBits,
  openModel,
  readAllWeights,
  weightsInFiles,
  weightsInMemory,
} from './model-weights.ts';
import type { PhasePlan } from './progress.ts';
import { ProgressMeter } from './progress.ts';
import { sharedCopy } from './numeric/pool.ts';
import { folderFingerprint } from './storage/fingerprint.ts';
import { compareKeys } from './storage/keys.ts';
import type { Store } from './storage/store.ts';
import { loadCheckpoint, saveCheckpoint } from './training/checkpoints.ts';
import { publishedFloor } from './training/schedule.ts';
import type { StepRecord, TrainState } from './training/train.ts';
import { Trainer, createTrainState } from './training/train.ts';
import type { ImpactStudy } from './impact-study.ts';
import { loadImpactStudy, makeImpactStudy, saveImpactStudy } from './impact-study.ts';
import { version } from './version.ts';

export interface RunOptions {
  readonly store: Store;
  readonly job: JobFolder;
  /** Value of `CHERRYQ_ENGINE`. */
  readonly forcedEngine: string | undefined;
  /** Time between two checkpoints of training; default 3 s, or longer where saving takes long. */
  readonly checkpointGapMs?: number;
  /** True once the job should stop at the next safe point, with a checkpoint. */
  readonly stopRequested: () => boolean;
}

/** A measurement with the mean bits of the quantized layers; null where nothing is quantized. */
type Measured = Measurement & { readonly bitsPerWeight: number | null };

/** Segments that perplexity is measured on are at most this long, as published. */
const longestSegment = 2048;
/** A checkpoint is saved when this much time has passed, or 20 times what the last one took. */
const defaultCheckpointGapMs = 3000;

/** @throws InputError, InterruptedError, or whatever a bug throws; the caller turns them into states and exit codes */
export async function runJob(options: RunOptions): Promise<void> {
  const { store, job } = options;
  const { spec } = job;
  const method = methods[spec.scheme.method];

  // 1. Load: everything that can be wrong with the inputs is found here, before any work.
  const engine = await openEngine(options.forcedEngine);
  const model = await openModel(store, spec.modelPrefix);
  if (model.native) {
    throw new InputError(
      'already_quantized',
      `The model "${spec.modelName}" is in CherryQ's own format already. Compress the original instead.`,
      'modelId',
    );
  }
  checkGroupSize(model, spec.scheme.groupSize);
  // Rounding alone goes through the weights part by part; it refuses what it finds wrong before anything is to be seen.
  const weights = method.trains ? await readAllWeights(model) : null;
  const calibration = method.trains ? await calibrationWindows(store, spec, model) : [];
  const evaluation = await evaluationSegments(store, spec, model);
  const fingerprints = {
    model: await folderFingerprint(store, spec.modelPrefix),
    calibration: spec.calibrationPrefix === null ? null : await folderFingerprint(store, spec.calibrationPrefix),
    evaluation: spec.evaluationPrefix === null ? null : await folderFingerprint(store, spec.evaluationPrefix),
  };
  const identity = sha256(
    JSON.stringify([version, fingerprints.model, fingerprints.calibration, spec.scheme, spec.training, engine.name]),
  );
  const steps = method.trains
    ? Math.ceil(spec.training.tokens / (spec.training.batchSize * spec.training.sequenceLength))
    : 0;
  const impactWindows = method.keepsCherries ? Math.min(spec.training.impactSamples, calibration.length) : 0;
  const progress = new Reporter(job, planOf(spec, steps, impactWindows, evaluation));

  const checkpoints = `${job.prefix}checkpoints/`;
  const warn = (message: string): void => job.emit({ type: 'log', level: 'warning', message });
  const resumed = method.trains ? await loadCheckpoint(store, checkpoints, identity, warn) : null;
  job.emit({
    type: 'job.started',
    attempt: job.attempt,
    engine: engine.name,
    engineReason: engine.reason,
    resumedFromStep: resumed === null ? null : resumed.records.length,
  });

  // 2. Impact and cherries: chosen once, before training.
  let study: ImpactStudy | null = null;
  if (method.keepsCherries && weights !== null) {
    study = await loadImpactStudy(store, checkpoints, identity);
    if (study === null) {
      progress.start('impact');
      const sampler = createSampler({ count: calibration.length, seed: spec.training.seed });
      const windows = Array.from({ length: impactWindows }, (_, index) => calibration[sampler(index)]);
      study = await makeImpactStudy(model.config, weights, windows, spec.scheme.cherryFraction, async (done) => {
        progress.at('impact', done);
        if (await shouldStop(options)) throw stopped();
      });
      await saveImpactStudy(store, checkpoints, identity, study);
    }
  }

  // 3. Train: the latent weights through the quantizer, end to end.
  let records: readonly StepRecord[] = [];
  let trained = weights === null ? weightsInFiles(store, model.folder) : weightsInMemory(weights);
  if (method.trains && weights !== null) {
    progress.start('train');
    const distills = spec.training.loss === 'distillation';
    // Training changes its arrays in place, and a teacher must stay as it is.
    const state =
      resumed ??
      createTrainState(distills ? new Map([...weights].map(([name, values]) => [name, sharedCopy(values)])) : weights);
    const teacher = distills ? { read: (name: string) => weights.get(name) as Float32Array } : null;
    await train(options, model, calibration, study, state, teacher, steps, identity, progress);
    records = state.records;
    trained = weightsInMemory(state.latent);
  }

  // 4. Export: each format whole, then read back from where it was written.
  progress.start('export');
  const compressed: CompressedModel = {
    configJson: model.folder.configJson,
    scheme: spec.scheme,
    keepsCherries: method.keepsCherries,
    shapes: model.shapes,
    weights: trained,
    cherries: study?.cherries ?? new Map(),
    isQuantized: isLinear,
  };
  const artifacts = `${job.prefix}artifacts/`;
  await job.assertCurrent();
  // An earlier attempt may have died after its manifest; without it, nothing vouches for files that are going.
  await store.delete(`${artifacts}manifest.json`);
  await store.deletePrefix(artifacts);
  const files = new FileWriter(store, artifacts);
  for (const format of artifactFormats) {
    if (spec.formats.includes(format)) await writeModel(store, model, compressed, exporters[format], files);
  }

  // 5. Evaluate what was written, the original and plain rounding.
  progress.start('evaluate');
  const measure = measurer(store, job, engine, evaluation, fingerprints.evaluation, progress);
  const primary = spec.formats.includes('native') ? exporters.native : exporters.hf;
  const baseline = await measure.known(['original', fingerprints.model], () => openModel(store, spec.modelPrefix));
  const written = await openModel(store, artifacts + primary.folder);
  const compressedResult = await measure.now(written);
  let hf: Measured | null = null;
  if (primary === exporters.hf) hf = compressedResult;
  else if (spec.formats.includes('hf')) {
    hf = await measure.now(await openModel(store, artifacts + exporters.hf.folder));
  }
  const roundingIdentity = ['rounding', fingerprints.model, spec.scheme.bits, spec.scheme.groupSize];
  const rounding =
    spec.scheme.method === 'rtn' && primary === exporters.native
      ? await measure.keep(roundingIdentity, compressedResult)
      : await measure.known(roundingIdentity, () => writeRounding(store, job, model, spec.scheme));
  await store.deletePrefix(`${job.prefix}scratch/`);
  const tensors = await tensorTable(compressed, written);

  // 6. Report and manifest: the manifest names every file with its hash and is written last.
  progress.start('report');
  const tokensPerSegment = (evaluation[0]?.length ?? 1) - 1;
  const trainedTokens = records.length * spec.training.batchSize * spec.training.sequenceLength;
  const report: ReportData = {
    modelName: spec.modelName,
    parameters: model.parameters,
    scheme: spec.scheme,
    training: method.trains ? spec.training : null,
    engine: engine.name,
    trainedTokens,
    evaluatedTokens: evaluation.length * tokensPerSegment,
    rows: reportRows(spec.scheme, baseline, rounding, compressedResult, hf),
    losses: records.map(({ step, loss, learningRate }) => ({ step, loss, learningRate })),
    impact: study?.samples ?? [],
    heterogeneity: study?.heterogeneity ?? [],
    tensors,
  };
  await files.put('report.html', utf8(renderReport(report)));
  await files.put('losses.json', utf8(`${JSON.stringify(records)}\n`));
  const manifest: Manifest = {
    formatVersion: 1,
    producer: `cherryq ${version}`,
    modelName: spec.modelName,
    modelFingerprint: fingerprints.model,
    calibrationFingerprint: fingerprints.calibration,
    evaluationFingerprint: fingerprints.evaluation,
    scheme: spec.scheme,
    training: spec.training,
    engine: engine.name,
    formats: spec.formats,
    files: files.files(),
  };
  await job.assertCurrent();
  await store.put(`${artifacts}manifest.json`, utf8(`${JSON.stringify(manifest, null, 2)}\n`));
  await job.succeed({
    engine: engine.name,
    engineReason: engine.reason,
    parameters: model.parameters,
    baseline: plain(baseline),
    rounding: rounding.perplexity === null ? null : plain(rounding),
    compressed: { ...plain(compressedResult), bitsPerWeight: compressedResult.bitsPerWeight ?? 16 },
    hf: hf && plain(hf),
    trainedTokens,
    evaluatedTokens: report.evaluatedTokens,
    seconds: (Date.now() - job.firstStart.getTime()) / 1000,
  });
  await store.deletePrefix(checkpoints);
}

/** Runs the remaining steps, with a checkpoint now and then and one at a stop. */
async function train(
  options: RunOptions,
  model: OpenedModel,
  calibration: readonly Int32Array[],
  study: ImpactStudy | null,
  state: TrainState,
  teacher: WeightSource | null,
  steps: number,
  identity: string,
  progress: Reporter,
): Promise<void> {
  const { store, job } = options;
  const { scheme, training } = job.spec;
  const sampler = createSampler({ count: calibration.length, seed: training.seed });
  const floor = training.finalLearningRateFraction ?? publishedFloor(scheme.bits);
  const trainer = new Trainer(
    {
      config: model.config,
      quantizer: { grid: gridOf(nativeConfig(scheme, study !== null)), cherries: study?.cherries ?? new Map() },
      teacher,
      schedule: { peak: training.learningRate, totalSteps: steps, warmupFraction: training.warmupFraction, floor },
      adamW: training,
      maxGradNorm: training.maxGradNorm,
      batchSize: training.batchSize,
      windowAt: (index) => calibration[sampler(index)],
    },
    state,
  );
  const save = async (): Promise<number> => {
    const started = performance.now();
    await job.assertCurrent();
    await saveCheckpoint(store, `${job.prefix}checkpoints/`, identity, job.attempt, state);
    job.emit({ type: 'checkpoint', step: trainer.step });
    return performance.now() - started;
  };
  let saveMs = 0;
  let savedAt = performance.now();
  while (trainer.step < steps) {
    const record = await trainer.advance();
    progress.at('train', record.step, record.loss);
    const stopping = await shouldStop(options);
    const gapMs = options.checkpointGapMs ?? Math.max(defaultCheckpointGapMs, 20 * saveMs);
    if (stopping || record.step === steps || performance.now() - savedAt > gapMs) {
      saveMs = await save();
      savedAt = performance.now();
    }
    if (stopping) throw stopped();
  }
}

/** Lets signals and timers in first: a request to stop can only arrive while the event loop turns. */
async function shouldStop(options: RunOptions): Promise<boolean> {
  await new Promise((resolve) => setImmediate(resolve));
  return options.stopRequested();
}

const stopped = (): InterruptedError => new InterruptedError('stopped on request');

async function calibrationWindows(store: Store, spec: JobSpec, model: OpenedModel): Promise<Int32Array[]> {
  const { sequenceLength } = spec.training;
  if (spec.calibrationPrefix === null) {
    throw new InputError(
      'missing_calibration',
      `The method ${spec.scheme.method} learns from text, but the job has no calibrationDatasetId.`,
      'calibrationDatasetId',
    );
  }
  if (sequenceLength > model.config.maxPositionEmbeddings) {
    throw new InputError(
      'sequence_length',
      `training.sequenceLength is ${sequenceLength}, but the model's context ends at ${model.config.maxPositionEmbeddings} tokens (max_position_embeddings). Use at most that.`,
      'training.sequenceLength',
    );
  }
  const ids = encodeText(await jobText(store, spec.calibrationPrefix, 'calibration'), model.tokenizer);
  return packWindows(ids, sequenceLength, model.tokenizer.bosTokenId);
}

/** The texts of a job may have the same file names, so an error says which of them it is about. */
async function jobText(store: Store, prefix: string, use: 'calibration' | 'evaluation'): Promise<string> {
  try {
    return await readText(store, prefix);
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    throw new InputError(error.code, `The ${use} text: ${error.message}`, error.param, { cause: error });
  }
}

/** Segments of the evaluation text, all of one length; none when the job has no such text. */
async function evaluationSegments(store: Store, spec: JobSpec, model: OpenedModel): Promise<Int32Array[]> {
  if (!spec.evaluation || spec.evaluationPrefix === null) return [];
  return textSegments(model, await jobText(store, spec.evaluationPrefix, 'evaluation'), spec.evaluation.maxTokens);
}

/** The text as the perplexity protocol cuts it: one BOS at the start, whole segments, the rest left out. */
export function textSegments(model: OpenedModel, text: string, maxTokens: number | undefined): Int32Array[] {
  const ids = encodeText(text, model.tokenizer).subarray(0, maxTokens);
  const longest = Math.min(longestSegment, model.config.maxPositionEmbeddings);
  return packWindows(ids, Math.min(longest, Math.max(2, ids.length)), model.tokenizer.bosTokenId);
}

async function writeModel(
  store: Store,
  model: OpenedModel,
  compressed: CompressedModel,
  exporter: Exporter,
  files: FileWriter,
): Promise<void> {
  const { folder } = exporter;
  await files.put(
    `${folder}model.safetensors`,
    safetensorsBytes(exporter.tensors(compressed), exporter.metadata).chunks,
  );
  for (const path of model.folder.sideFiles) {
    const bytes = await store.get(model.folder.prefix + path);
    if (bytes !== null) await files.put(folder + path, bytes);
  }
  await files.put(`${folder}config.json`, utf8(`${JSON.stringify(exporter.config(compressed), null, 2)}\n`));
}

/** Plain rounding with the job's bits and groups, written to scratch as any result is, so that it is measured alike. */
async function writeRounding(store: Store, job: JobFolder, model: OpenedModel, scheme: Scheme): Promise<OpenedModel> {
  const prefix = `${job.prefix}scratch/rounding/`;
  const rounded: CompressedModel = {
    configJson: model.folder.configJson,
    scheme: { ...scheme, method: 'rtn' },
    keepsCherries: false,
    shapes: model.shapes,
    weights: weightsInFiles(store, model.folder),
    cherries: new Map(),
    isQuantized: isLinear,
  };
  await writeModel(store, model, rounded, exporters.native, new FileWriter(store, prefix));
  return openModel(store, prefix);
}

/**
 * Measures models on the evaluation text. What depends on the inputs alone (the original, plain rounding) is kept under the
 * tenant's `measurements/`, so that the next job on the same model and text does not measure it again.
 */
function measurer(
  store: Store,
  job: JobFolder,
  engine: Engine,
  segments: readonly Int32Array[],
  textFingerprint: string | null,
  progress: Reporter,
) {
  let measured = 0;
  const now = async (model: OpenedModel): Promise<Measured> => {
    const before = measured++;
    const perplexity =
      segments.length === 0
        ? null
        : (
            await measurePerplexity(model.config, model.weights, segments, (share) =>
              progress.at('evaluate', before + share),
            )
          ).perplexity;
    return { perplexity, sizeBytes: model.folder.weightBytes, bitsPerWeight: meanStoredBits(model) };
  };
  const keyOf = (identity: readonly unknown[]): string => {
    const all = [version, engine.name, textFingerprint, segments.length, segments[0]?.length, ...identity];
    return `${job.tenantPrefix}measurements/${sha256(JSON.stringify(all))}.json`;
  };
  const keep = async (identity: readonly unknown[], measurement: Measured): Promise<Measured> => {
    await store.put(keyOf(identity), utf8(JSON.stringify(measurement)));
    return measurement;
  };
  const known = async (identity: readonly unknown[], open: () => Promise<OpenedModel>): Promise<Measured> => {
    const kept = await store.get(keyOf(identity));
    if (kept === null) return keep(identity, await now(await open()));
    measured++;
    return JSON.parse(new TextDecoder().decode(kept)) as Measured;
  };
  return { now, known, keep };
}

function reportRows(
  scheme: Scheme,
  baseline: Measured,
  rounding: Measured,
  compressed: Measured,
  hf: Measured | null,
): ReportData['rows'] {
  const packed = compressed.bitsPerWeight !== null;
  const name = { rtn: 'Plain rounding', qat: 'QAT', cherryq: 'CherryQ' }[scheme.method];
  const rows: ReportData['rows'] = [{ role: 'original', label: 'Original', note: 'as uploaded', ...baseline }];
  if (scheme.method !== 'rtn') {
    rows.push({ role: 'rounding', label: 'Plain rounding', note: `${scheme.bits} bits, no training`, ...rounding });
  }
  rows.push({ role: 'job', label: name, note: packed ? 'packed' : 'float16', ...compressed });
  if (hf && packed) rows.push({ role: 'hf', label: 'Float16 copy', note: 'opens in any loader', ...hf });
  return rows;
}

/** What each quantized layer costs and how far it is from the weights that it was made from. */
async function tensorTable(compressed: CompressedModel, written: OpenedModel): Promise<ReportData['tensors']> {
  const layers = new Map<string, { shape: number[]; stored: StoredRows }>();
  for (const [name, shape] of compressed.shapes) {
    if (compressed.isQuantized(name)) layers.set(name, { shape, stored: await written.storedRows(name) });
  }
  const errors = await relativeErrors(compressed.weights, layers);
  return [...layers].map(([name, { shape }]) => ({
    name,
    shape,
    bitsPerWeight: written.storedBits(name) ?? 16,
    relativeError: errors.get(name) ?? 0,
  }));
}

/** Writes files under a prefix and keeps the size and hash of each, taken while it is written. */
class FileWriter {
  private readonly written = new Map<string, Manifest['files'][number]>();

  constructor(
    private readonly store: Store,
    private readonly prefix: string,
  ) {}

  /** @param path relative to the prefix */
  async put(path: string, body: Uint8Array | AsyncIterable<Uint8Array>): Promise<void> {
    const hash = createHash('sha256');
    let sizeBytes = 0;
    async function* hashed(): AsyncGenerator<Uint8Array> {
      for await (const part of body instanceof Uint8Array ? [body] : body) {
        hash.update(part);
        sizeBytes += part.length;
        yield part;
      }
    }
    await this.store.put(this.prefix + path, hashed());
    this.written.set(path, { path, sizeBytes, sha256: hash.digest('hex') });
  }

  /** All of them, by path. */
  files(): Manifest['files'] {
    return [...this.written.values()].sort((a, b) => compareKeys(a.path, b.path));
  }
}

/** Cost of each phase, in tokens run forward once; a backward pass costs two more. */
function planOf(spec: JobSpec, steps: number, impactWindows: number, evaluation: readonly Int32Array[]): PhasePlan[] {
  const { batchSize, sequenceLength } = spec.training;
  const distills = spec.training.loss === 'distillation';
  const roundingApart = spec.scheme.method !== 'rtn' || !spec.formats.includes('native');
  const evaluations = 2 + (roundingApart ? 1 : 0) + (spec.formats.length === 2 ? 1 : 0);
  const evaluationTokens = evaluation.length * (evaluation[0]?.length ?? 0);
  return [
    { phase: 'impact', units: impactWindows, unitCost: 3 * sequenceLength, unitTokens: sequenceLength },
    {
      phase: 'train',
      units: steps,
      unitCost: (distills ? 4 : 3) * batchSize * sequenceLength,
      unitTokens: batchSize * sequenceLength,
    },
    { phase: 'export', units: 1, unitCost: 1, unitTokens: 0 },
    { phase: 'evaluate', units: evaluations, unitCost: evaluationTokens, unitTokens: evaluationTokens },
    { phase: 'report', units: 1, unitCost: 1, unitTokens: 0 },
  ];
}

/** Sends progress as events, at most a few a second. */
class Reporter {
  private readonly meter: ProgressMeter;
  private lastSent = 0;

  constructor(
    private readonly job: JobFolder,
    plan: readonly PhasePlan[],
  ) {
    this.meter = new ProgressMeter(plan);
  }

  start(phase: Phase): void {
    this.job.emit({ type: 'phase.started', phase });
    this.at(phase, 0);
  }

  at(phase: Phase, done: number, loss: number | null = null): void {
    const progress = this.meter.at(phase, done, loss);
    const now = performance.now();
    if (now - this.lastSent < 250 && progress.step !== progress.totalSteps) return;
    this.lastSent = now;
    this.job.emit({ type: 'progress', progress });
  }
}

const plain = ({ perplexity, sizeBytes }: Measured): Measurement => ({ perplexity, sizeBytes });
const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text);
const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');
