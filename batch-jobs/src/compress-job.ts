/**
 * A `compress` job from its spec to its artifacts, top to bottom; read this first.
 *
 *   claim -> load -> [impact -> cherries -> column scales] -> [train] -> export -> read back and evaluate -> report -> manifest -> succeeded
 *
 * Each step is a pure function of the spec and the files before it, so a crash anywhere is mended by running the job again:
 * training goes on from its newest checkpoint, the rest is done over, and the bytes come out the same.
 */
import { artifactFormats } from 'cherryq/contract';
import type { JobResult, JobSpec, Manifest, Scheme } from 'cherryq/contract';
import { isCherry } from './analysis.ts';
import type { CompressionInputs } from './compress-model.ts';
import { checkpointOf, compressModel, phasesOf } from './compress-model.ts';
import { openEngine } from './engine/engine.ts';
import { QualityError } from './errors.ts';
import { missedLimits } from './evaluation/gate.ts';
import type { CompressedModel } from './exporters/exporter.ts';
import { exporters } from './exporters/registry.ts';
import type { StoredRows } from './exporters/relative-errors.ts';
import { relativeErrors } from './exporters/relative-errors.ts';
import { renderReport } from './exporters/report.ts';
import type { ReportData } from './exporters/report.ts';
import type { ImpactArtifact } from './impact-artifact.ts';
import type { JobFolder } from './job-folder.ts';
import { evaluationSegmentsOf, modelFingerprintOf, openOriginal, tasksOf, windowsOf } from './job-inputs.ts';
import type { Measured } from './measure.ts';
import { Measurer, measurementOf } from './measure.ts';
import { methods } from './methods/registry.ts';
import { blockPrefix, isLinear } from './models/decoder-config.ts';
import { measuresDivergence } from './plan-job.ts';
import type { OpenedModel } from './model-weights.ts';
import { checkGroupSize, openModel, readAllWeights, weightsInFiles } from './model-weights.ts';
import type { Cherries } from './numeric/quantizer.ts';
import { noCherries } from './numeric/quantizer.ts';
import type { PhasePlan } from './progress.ts';
import { Reporter } from './progress.ts';
import type { RunOptions } from './run-options.ts';
import { folderFingerprint } from './storage/fingerprint.ts';
import type { Store } from './storage/store.ts';
import { version } from './version.ts';
import { FileWriter, jsonBytes, writeModel } from './write-model.ts';

/** Weights of a matrix that the report shows. */
const shownSamples = 1024;

/** @throws InputError, QualityError, InterruptedError, or whatever a bug throws; the caller turns them into states and exit codes */
export async function compressJob(options: RunOptions): Promise<void> {
  const { store, job } = options;
  const { spec } = job;
  const method = methods[spec.scheme.method];

  // 1. Load: everything that can be wrong with the inputs is found here, before any work.
  const engine = await openEngine(options.forcedEngine);
  const model = await openOriginal(store, spec);
  checkGroupSize(model, spec.scheme.groupSize);
  // Rounding alone goes through the weights part by part; it refuses what it finds wrong before anything is to be seen.
  const weights = method.trains ? await readAllWeights(model) : null;
  const text = { prefix: spec.calibrationPrefix, use: 'calibration text', param: 'calibrationDatasetId' };
  const calibration = method.trains ? await windowsOf(options, model, text) : null;
  const evaluation = await evaluationSegmentsOf(store, spec, model);
  const tasks = await tasksOf(store, spec);
  const fingerprints = {
    model: await modelFingerprintOf(store, spec),
    calibration: spec.calibrationPrefix === null ? null : await folderFingerprint(store, spec.calibrationPrefix),
    evaluation: spec.evaluationPrefix === null ? null : await folderFingerprint(store, spec.evaluationPrefix),
  };
  const inputs: CompressionInputs = {
    run: options,
    engine: engine.name,
    model,
    modelFingerprint: fingerprints.model,
    calibration,
    scheme: spec.scheme,
    training: spec.training,
    checkpointPrefix: `${job.prefix}checkpoints/`,
  };
  const progress = new Reporter(job, planOf(inputs, spec, evaluation));
  const checkpoint = await checkpointOf(inputs);
  job.emit({
    type: 'job.started',
    attempt: job.attempt,
    engine: engine.name,
    engineReason: engine.reason,
    resumedFromStep: checkpoint?.step ?? null,
  });

  // 2. Impact, cherries, column scales, training.
  const { compressed, impact, records } = await compressModel({ ...inputs, weights, checkpoint, progress });

  // 3. Export: each format whole, then read back from where it was written.
  progress.start('export');
  const artifacts = `${job.prefix}artifacts/`;
  await job.assertCurrent();
  // An earlier attempt may have died after its manifest; without it, nothing vouches for files that are going.
  await store.delete(`${artifacts}manifest.json`);
  await store.deletePrefix(artifacts);
  const files = new FileWriter(store, artifacts);
  for (const format of artifactFormats) {
    if (spec.formats.includes(format)) await writeModel(store, model, compressed, exporters[format], files);
  }

  // 4. Evaluate what was written, the original and plain rounding.
  progress.start('evaluate');
  const measure = new Measurer(
    store,
    job,
    engine,
    {
      segments: evaluation,
      fingerprints: [
        fingerprints.evaluation,
        ...(await Promise.all(spec.tasks.map(({ prefix }) => folderFingerprint(store, prefix)))),
      ],
      tasks,
      original: spec.evaluation && measuresDivergence(spec.evaluation) ? model : null,
    },
    progress,
  );
  const primary = spec.formats.includes('native') ? exporters.native : exporters.hf;
  const baseline = await measure.known(['original', fingerprints.model], () => openModel(store, spec.modelPrefix), {
    scoresTasks: true,
    isOriginal: true,
  });
  const written = await openModel(store, artifacts + primary.folder);
  const compressedResult = await measure.now(written, { scoresTasks: true });
  let hf: Measured | null = null;
  if (primary === exporters.hf) hf = compressedResult;
  else if (spec.formats.includes('hf')) {
    hf = await measure.now(await openModel(store, artifacts + exporters.hf.folder), { scoresTasks: false });
  }
  const { method: rounds, bits, groupSize, quantizer } = spec.scheme;
  const roundingIdentity = ['rounding', fingerprints.model, bits, groupSize, quantizer];
  const rounding =
    rounds === 'rtn' && primary === exporters.native
      ? await measure.keep(roundingIdentity, compressedResult)
      : await measure.known(roundingIdentity, () => writeRounding(store, job, model, spec.scheme), {
          scoresTasks: true,
        });
  await store.deletePrefix(`${job.prefix}scratch/`);
  const tensors = await tensorTable(compressed, written);

  // 5. Report and manifest: the manifest names every file with its hash and is written last.
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
    impact: impact ? await impactSamples(impact, model, compressed.cherries) : [],
    heterogeneity: [...(impact?.matrices ?? [])].map(([matrix, { byImpact, byWeight }]) => ({
      matrix,
      byImpact,
      byMagnitude: byWeight,
    })),
    tensors,
  };
  await files.put('report.html', utf8(renderReport(report)));
  await files.put('losses.json', utf8(`${JSON.stringify(records)}\n`));
  const manifest: Manifest = {
    formatVersion: 1,
    kind: spec.kind,
    producer: `cherryq ${version}`,
    modelName: spec.modelName,
    modelFingerprint: fingerprints.model,
    calibrationFingerprint: fingerprints.calibration,
    calibrationWindowsSha256: calibration?.sha256 ?? null,
    impactSha256: impact?.sha256 ?? null,
    evaluationFingerprint: fingerprints.evaluation,
    scheme: spec.scheme,
    training: spec.training,
    engine: engine.name,
    formats: spec.formats,
    files: files.files(),
  };
  const missed = missedLimits(spec.evaluation?.limits ?? {}, { original: baseline, result: compressedResult });
  await job.assertCurrent();
  if (missed === null) await store.put(`${artifacts}manifest.json`, jsonBytes(manifest));
  else await setApart(store, artifacts, `${job.prefix}rejected/`, manifest);
  const result: JobResult = {
    engine: engine.name,
    engineReason: engine.reason,
    parameters: model.parameters,
    baseline: measurementOf(baseline),
    rounding: rounding.perplexity === null ? null : measurementOf(rounding),
    compressed: { ...measurementOf(compressedResult), bitsPerWeight: compressedResult.bitsPerWeight ?? 16 },
    hf: hf && measurementOf(hf),
    peakHostBytes: options.peakBytes?.() ?? null,
    trainedTokens,
    evaluatedTokens: report.evaluatedTokens,
    ...progress.times(),
  };
  if (missed === null) await job.succeed({ result });
  else await job.fail({ fault: 'quality', code: 'quality', message: missed, param: 'evaluation.limits' }, result);
  await store.deletePrefix(inputs.checkpointPrefix);
  if (missed !== null) throw new QualityError(missed);
}

/** Moves what missed the job's limits to where nobody takes it for a result; the manifest comes last. */
async function setApart(store: Store, from: string, to: string, manifest: Manifest): Promise<void> {
  await store.delete(`${to}manifest.json`);
  for (const { path } of manifest.files) {
    const body = await store.stream(from + path);
    if (body === null) throw new Error(`${from + path} was deleted while it was being moved`);
    await store.put(to + path, body);
  }
  await store.put(`${to}manifest.json`, jsonBytes(manifest));
  await store.deletePrefix(from);
}

/** Sampled weights of one matrix of each kind, from the middle of the model. */
async function impactSamples(
  impact: ImpactArtifact,
  model: OpenedModel,
  cherries: ReadonlyMap<string, Cherries>,
): Promise<ReportData['impact']> {
  const middle = blockPrefix(Math.floor(model.config.numHiddenLayers / 2));
  const shown: ReportData['impact'] = [];
  for (const [matrix, { shape }] of impact.matrices) {
    if (!matrix.startsWith(middle)) continue;
    const own = cherries.get(matrix) ?? noCherries;
    const { index, impact: values, magnitude } = await impact.samples(matrix);
    const stride = Math.ceil(index.length / shownSamples);
    const samples = [];
    for (let i = 0; i < index.length; i += stride) {
      samples.push({ impact: values[i], magnitude: magnitude[i], cherry: isCherry(own, index[i], shape[1]) });
    }
    shown.push({ matrix, samples });
  }
  return shown;
}

/** Plain rounding with the job's bits and groups, written to scratch as any result is, so that it is measured alike. */
async function writeRounding(store: Store, job: JobFolder, model: OpenedModel, scheme: Scheme): Promise<OpenedModel> {
  const prefix = `${job.prefix}scratch/rounding/`;
  const rounded: CompressedModel = {
    configJson: model.folder.configJson,
    scheme: { ...scheme, method: 'rtn', columnScales: 'none' },
    keepsCherries: false,
    shapes: model.shapes,
    weights: weightsInFiles(store, model.folder),
    cherries: new Map(),
    columnScales: new Map(),
    isQuantized: isLinear,
  };
  await writeModel(store, model, rounded, exporters.native, new FileWriter(store, prefix));
  return openModel(store, prefix);
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

/** Cost of each phase, in tokens run forward once. */
function planOf(
  inputs: CompressionInputs,
  { scheme, formats }: JobSpec,
  evaluation: readonly Int32Array[],
): PhasePlan[] {
  const evaluationTokens = evaluation.length * (evaluation[0]?.length ?? 0);
  const roundingApart = scheme.method !== 'rtn' || !formats.includes('native');
  const evaluations = 2 + (roundingApart ? 1 : 0) + (formats.length === 2 ? 1 : 0);
  return [
    ...phasesOf(inputs, inputs.model.config),
    { phase: 'export', units: 1, unitCost: 1, unitTokens: 0 },
    { phase: 'evaluate', units: evaluations, unitCost: evaluationTokens, unitTokens: evaluationTokens },
    { phase: 'report', units: 1, unitCost: 1, unitTokens: 0 },
  ];
}

const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text);
