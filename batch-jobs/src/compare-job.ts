/**
 * A `compare` job from its spec to its artifacts: several schemes on one model, each measured on what it has written.
 *
 *   load -> for each scheme [ compress-model.ts -> export -> read back and evaluate ] -> original -> report, comparison.json -> manifest -> succeeded
 *
 * The job is two functions over its folder: `runVariant` leaves the result of one scheme, `mergeVariants` makes the report of them all. Both do
 * nothing that is there already, so a job that is run again goes on with the first scheme that has no result, from its checkpoint. Where the
 * queue can, workers try one scheme each, all at once and sharing an attempt (`schemeNumber`), and after them one more, with an attempt of its
 * own, tries what is left and merges. Impact is measured by the first scheme that needs it, for all that come later. Models are not
 * kept: they are large, and a `compress` job with the scheme of a row makes the same one.
 *
 *   checkpoints/variants/<number>/...     what the scheme can go on from
 *   checkpoints/variants/<number>.json    its result, once it has one
 *   scratch/variants/<number>/...         the model that is being measured
 *   scratch/variants/<number>.share       how far its worker is (shared-progress.ts)
 */
import { createHash } from 'node:crypto';
import { comparisonRowSchema, schemesOf } from 'cherryq/contract';
import type { JobError, JobSpec, Scheme } from 'cherryq/contract';
import { z } from 'zod';
import type { CompressionInputs } from './compress-model.ts';
import { checkpointOf, compressModel, identityOf, phasesOf } from './compress-model.ts';
import type { Dataset } from './data/dataset.ts';
import type { Engine } from './engine/engine.ts';
import { openEngine } from './engine/engine.ts';
import { CheckpointError, InputError } from './errors.ts';
import { comparisonJson } from './exporters/comparison-data.ts';
import type { ComparisonReportData } from './exporters/comparison-data.ts';
import { renderComparisonReport } from './exporters/comparison-report.ts';
import { exporters } from './exporters/registry.ts';
import { evaluationSegmentsOf, modelFingerprintOf, openOriginal, tasksOf, windowsOf } from './job-inputs.ts';
import type { MeasureOn } from './measure.ts';
import { Measurer, measurementOf, ratioOf } from './measure.ts';
import { methods } from './methods/registry.ts';
import type { OpenedModel } from './model-weights.ts';
import { checkGroupSize, openModel, readAllWeights } from './model-weights.ts';
import type { PhasePlan } from './progress.ts';
import { Reporter } from './progress.ts';
import { publishReport } from './publish-report.ts';
import type { RunOptions } from './run-options.ts';
import { shouldStop, stopped } from './run-options.ts';
import { schemeFolder, schemeResult, schemeShare } from './scheme-files.ts';
import { needsImpact } from './selection.ts';
import { SharedProgress } from './shared-progress.ts';
import { folderFingerprint } from './storage/fingerprint.ts';
import { FileWriter, writeModel } from './write-model.ts';

/** What is kept of a scheme that has been tried: a row without what only the others tell. */
const variantResultSchema = comparisonRowSchema.omit({ perplexityRatio: true, onFrontier: true });
type VariantResult = z.output<typeof variantResultSchema>;

const keptSchema = z.object({
  identity: z.string(),
  result: variantResultSchema,
  /** Of the worker that has tried it, up to then. */
  peakHostBytes: z.number().nullable(),
});

/** A comparison's inputs, opened and checked. */
interface OpenedComparison {
  readonly run: RunOptions;
  readonly engine: Engine;
  readonly model: OpenedModel;
  readonly schemes: readonly Scheme[];
  /** Null where no scheme trains. */
  readonly calibration: Dataset | null;
  readonly fingerprints: {
    readonly model: string;
    readonly calibration: string | null;
    readonly evaluation: string | null;
  };
  readonly on: MeasureOn;
  readonly progress: Reporter;
}

/** @throws InputError, InterruptedError, or whatever a bug throws; the caller turns them into states and exit codes */
export async function compareJob(options: RunOptions): Promise<void> {
  const { job, schemeNumber } = options;
  const shared = schemeNumber === undefined ? undefined : sharedProgress(options, schemeNumber);
  const comparison = await openComparison(options, shared);
  const { name, reason } = comparison.engine;
  if (job.beganAttempt)
    job.emit({ type: 'job.started', attempt: job.attempt, engine: name, engineReason: reason, resumedFromStep: null });
  if (schemeNumber !== undefined) {
    await runVariant(comparison, schemeNumber - 1);
    await shared?.end();
    return job.flush();
  }
  for (const index of comparison.schemes.keys()) {
    if (await shouldStop(options)) throw stopped();
    await runVariant(comparison, index);
  }
  await mergeVariants(comparison);
}

/** Finds everything that can be wrong with the inputs of all schemes, before any work.  @throws InputError */
async function openComparison(run: RunOptions, shared?: SharedProgress): Promise<OpenedComparison> {
  const { store, job, forcedEngine } = run;
  const { spec } = job;
  const engine = await openEngine(forcedEngine);
  const model = await openOriginal(store, spec);
  const schemes = schemesIn(spec);
  const text = { prefix: spec.calibrationPrefix, use: 'calibration text', param: 'calibrationDatasetId' };
  const trains = schemes.some(({ method }) => methods[method].trains);
  const calibration = trains ? await windowsOf(run, model, text) : null;
  const segments = await evaluationSegmentsOf(store, spec, model);
  const fingerprints = {
    model: await modelFingerprintOf(store, spec),
    calibration: spec.calibrationPrefix === null ? null : await folderFingerprint(store, spec.calibrationPrefix),
    evaluation: spec.evaluationPrefix === null ? null : await folderFingerprint(store, spec.evaluationPrefix),
  };
  const tasks = await Promise.all(spec.tasks.map(({ prefix }) => folderFingerprint(store, prefix)));
  const on: MeasureOn = {
    segments,
    fingerprints: [fingerprints.evaluation, ...tasks],
    tasks: await tasksOf(store, spec),
    original: spec.evaluation?.divergence ? model : null,
  };
  const tokens = segments.length * (segments[0]?.length ?? 0) * (on.original ? 2 : 1);
  const evaluate: PhasePlan = { phase: 'evaluate', units: 1, unitCost: tokens, unitTokens: tokens };
  // What the first that asks for it has measured, the others find.
  const measuring = schemes.findIndex((scheme) => methods[scheme.method].keepsCherries && needsImpact(scheme));
  const plan = schemes.flatMap((scheme, index) =>
    [
      ...phasesOf({ scheme, training: spec.training, calibration }, model.config),
      { phase: 'export' as const, units: 1, unitCost: 1, unitTokens: 0 },
      evaluate,
    ].map((phase) => ({
      ...phase,
      ...(phase.phase === 'impact' && index > measuring ? { unitCost: 0, unitTokens: 0 } : {}),
      variant: index + 1,
    })),
  );
  const report: PhasePlan = { phase: 'report', units: 1, unitCost: 1, unitTokens: 0 };
  const own = plan.filter(({ variant }) => variant === run.schemeNumber);
  const progress = new Reporter(job, shared ? own : [...plan, evaluate, report], shared);
  return { run, engine, model, schemes, calibration, fingerprints, on, progress };
}

function schemesIn({ scheme, comparison = { schemes: [{}] } }: JobSpec): Scheme[] {
  return schemesOf({ scheme, comparison });
}

/** @throws Error when the job has no such scheme */
function sharedProgress({ store, job }: RunOptions, number: number): SharedProgress {
  const keys = schemesIn(job.spec).map((_, index) => `${job.prefix}scratch/${schemeShare(index + 1)}`);
  if (keys[number - 1] === undefined)
    throw new Error(`the job has ${keys.length} schemes, and number ${number} is to be tried`);
  return new SharedProgress(store, keys, number);
}

/**
 * Tries one scheme, unless its result is there. What is wrong with the scheme is a result too.
 * @throws InterruptedError with a checkpoint, or InputError for a checkpoint that does not fit
 */
async function runVariant(comparison: OpenedComparison, index: number): Promise<void> {
  const { run, schemes, progress } = comparison;
  const { store, job } = run;
  if ((await resultOf(comparison, index)) !== null) return;
  const scheme = schemes[index];
  const started = performance.now();
  let measurement: VariantResult['measurement'] = null;
  let error: JobError | null = null;
  progress.enter(index + 1);
  try {
    measurement = await measureVariant(comparison, index);
  } catch (thrown) {
    if (!(thrown instanceof InputError) || thrown instanceof CheckpointError) throw thrown;
    error = { fault: 'user', code: thrown.code, message: thrown.message, param: thrown.param };
  }
  await job.assertCurrent();
  const result: VariantResult = { scheme, measurement, error, seconds: (performance.now() - started) / 1000 };
  const identity = variantIdentity(comparison, index);
  const peakHostBytes = run.peakBytes?.() ?? null;
  await store.put(
    resultKey(comparison, index),
    new TextEncoder().encode(JSON.stringify({ identity, result, peakHostBytes })),
  );
  await store.deletePrefix(checkpointsOf(comparison, index));
  await store.deletePrefix(scratchOf(comparison, index));
  const outcome = error
    ? `failed: ${error.message}`
    : `perplexity ${measurement?.perplexity?.toFixed(3) ?? 'not measured'}`;
  const message = `scheme ${index + 1} of ${schemes.length}, ${labelOf(scheme)}: ${outcome}`;
  job.emit({ type: 'log', level: error ? 'warning' : 'info', message });
}

/** Writes the model that a scheme gives, and measures what was written.  @throws InputError, InterruptedError */
async function measureVariant(
  comparison: OpenedComparison,
  index: number,
): Promise<NonNullable<VariantResult['measurement']>> {
  const { run, engine, model, schemes, on, progress } = comparison;
  const { store, job } = run;
  const scheme = schemes[index];
  checkGroupSize(model, scheme.groupSize);
  const inputs = inputsOf(comparison, index);
  const checkpoint = await checkpointOf(inputs);
  const weights = methods[scheme.method].trains ? await readAllWeights(model) : null;
  const choosing = schemes.filter((each) => methods[each.method].keepsCherries && needsImpact(each));
  const mostCherries = Math.max(scheme.cherryFraction, ...choosing.map(({ cherryFraction }) => cherryFraction));
  const { compressed } = await compressModel({ ...inputs, weights, checkpoint, mostCherries, progress });

  progress.start('export');
  const scratch = scratchOf(comparison, index);
  await job.assertCurrent();
  await store.deletePrefix(scratch);
  await writeModel(store, model, compressed, exporters.native, new FileWriter(store, scratch));
  progress.start('evaluate');
  const written = await openModel(store, scratch);
  const measured = await new Measurer(store, job, engine, on, progress).now(written, { scoresTasks: true });
  return { ...measured, bitsPerWeight: measured.bitsPerWeight ?? 16 };
}

/** Makes the report of all results, and ends the job.  @throws InputError when no scheme could be measured */
async function mergeVariants(comparison: OpenedComparison): Promise<void> {
  const { run, engine, model, schemes, calibration, fingerprints, on, progress } = comparison;
  const { store, job } = run;
  const { spec } = job;
  const results: VariantResult[] = [];
  const peaks: number[] = [];
  for (const index of schemes.keys()) {
    const kept = await resultOf(comparison, index);
    if (kept === null) throw new Error(`scheme ${index + 1} has no result, or one that does not fit`);
    results.push(kept.result);
    peaks.push(kept.peakHostBytes ?? 0);
  }
  const failure = results.find(({ error }) => error !== null)?.error;
  if (failure && results.every(({ error }) => error !== null)) {
    const message = `None of the ${results.length} schemes could be measured. The first: ${failure.message}`;
    throw new InputError(failure.code, message, failure.param);
  }

  progress.enter(null);
  progress.start('evaluate');
  const measure = new Measurer(store, job, engine, on, progress);
  const original = await measure.known(['original', fingerprints.model], () => Promise.resolve(model), {
    scoresTasks: true,
    isOriginal: true,
  });
  progress.start('report');
  const rows = results.map((result) => ({
    ...result,
    perplexityRatio: ratioOf(result.measurement?.perplexity ?? null, original.perplexity),
    onFrontier: isOnFrontier(result, results),
  }));
  const data: ComparisonReportData = {
    modelName: spec.modelName,
    parameters: model.parameters,
    engine: engine.name,
    training: calibration === null ? null : spec.training,
    baseline: measurementOf(original),
    rows: rows.map(({ scheme, measurement, perplexityRatio, onFrontier, error }) => ({
      scheme,
      measurement,
      perplexityRatio,
      onFrontier,
      error,
    })),
    evaluatedTokens: on.segments.length * ((on.segments[0]?.length ?? 1) - 1),
  };
  await publishReport(
    run,
    { 'report.html': renderComparisonReport(data), 'comparison.json': comparisonJson(data) },
    {
      modelFingerprint: fingerprints.model,
      calibrationFingerprint: fingerprints.calibration,
      calibrationWindowsSha256: calibration?.sha256 ?? null,
      impactSha256: null,
      evaluationFingerprint: fingerprints.evaluation,
      scheme: null,
      training: data.training,
      engine: engine.name,
    },
  );
  await job.succeed({
    comparisonResult: {
      engine: engine.name,
      engineReason: engine.reason,
      parameters: model.parameters,
      baseline: data.baseline,
      rows,
      peakHostBytes: run.peakBytes ? Math.max(run.peakBytes(), ...peaks) : null,
      evaluatedTokens: data.evaluatedTokens,
      ...progress.times(),
    },
  });
  for (const folder of ['checkpoints/', 'scratch/']) await store.deletePrefix(job.prefix + folder);
}

/** What was kept of a scheme; null where there is nothing, or what is there is of other inputs. */
async function resultOf(comparison: OpenedComparison, index: number): Promise<z.output<typeof keptSchema> | null> {
  const bytes = await comparison.run.store.get(resultKey(comparison, index));
  if (bytes === null) return null;
  const kept = keptSchema.safeParse(JSON.parse(new TextDecoder().decode(bytes)));
  return kept.success && kept.data.identity === variantIdentity(comparison, index) ? kept.data : null;
}

/** Of all that a scheme's result depends on. */
function variantIdentity(comparison: OpenedComparison, index: number): string {
  const { segments, fingerprints, tasks, original } = comparison.on;
  const questions = tasks.map(({ name, questions }) => [name, questions.length]);
  const measured = [segments.length, segments[0]?.length, fingerprints, questions, original !== null];
  const all = [identityOf(inputsOf(comparison, index)), measured];
  return createHash('sha256').update(JSON.stringify(all)).digest('hex');
}

function inputsOf(comparison: OpenedComparison, index: number): CompressionInputs {
  const { run, engine, model, schemes, calibration, fingerprints } = comparison;
  return {
    run,
    engine: engine.name,
    model,
    modelFingerprint: fingerprints.model,
    calibration,
    scheme: schemes[index],
    training: run.job.spec.training,
    checkpointPrefix: checkpointsOf(comparison, index),
  };
}

const resultKey = ({ run }: OpenedComparison, index: number): string =>
  `${run.job.prefix}checkpoints/${schemeResult(index + 1)}`;
const checkpointsOf = ({ run }: OpenedComparison, index: number): string =>
  `${run.job.prefix}checkpoints/${schemeFolder(index + 1)}/`;
const scratchOf = ({ run }: OpenedComparison, index: number): string =>
  `${run.job.prefix}scratch/${schemeFolder(index + 1)}/`;
const labelOf = ({ method, bits, groupSize }: Scheme): string =>
  `${method} with ${bits} bits and ${groupSize === 'row' ? 'whole rows' : `groups of ${groupSize}`}`;

/** Whether no other model is both as small and as good, and better in one of the two. */
function isOnFrontier({ measurement }: VariantResult, all: readonly VariantResult[]): boolean {
  const own = placeOf(measurement);
  if (own === null) return false;
  return !all.some(({ measurement: other }) => {
    const place = placeOf(other);
    return place !== null && place.every((value, at) => value <= own[at]) && place.some((value, at) => value < own[at]);
  });
}

function placeOf(measurement: VariantResult['measurement']): [number, number] | null {
  const perplexity = measurement?.perplexity ?? null;
  return measurement === null || perplexity === null || !Number.isFinite(perplexity)
    ? null
    : [measurement.sizeBytes, perplexity];
}
