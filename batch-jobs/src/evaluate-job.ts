/**
 * An `evaluate` job from its spec to its artifacts: how good a model is as it is, an original or one that CherryQ has made.
 *
 *   load -> [measure the baseline] -> measure -> report, evaluation.json -> manifest -> succeeded
 *
 * Measured exactly as a `compress` job measures what it has written. Each measurement is kept for the tenant, so a job that is run again
 * after a crash, or a later one on the same files, does not make it anew.
 */
import type { JobSpec } from 'cherryq/contract';
import { openEngine } from './engine/engine.ts';
import { InputError } from './errors.ts';
import { evaluationJson } from './exporters/evaluation-data.ts';
import type { EvaluationReportData } from './exporters/evaluation-data.ts';
import { renderEvaluationReport } from './exporters/evaluation-report.ts';
import { evaluationSegmentsOf, modelFingerprintOf, tasksOf } from './job-inputs.ts';
import { Measurer, measurementOf, ratioOf } from './measure.ts';
import type { OpenedModel } from './model-weights.ts';
import { openModel } from './model-weights.ts';
import { Reporter } from './progress.ts';
import { publishReport } from './publish-report.ts';
import type { RunOptions } from './run-options.ts';
import { folderFingerprint } from './storage/fingerprint.ts';
import type { Store } from './storage/store.ts';

/** @throws InputError, InterruptedError, or whatever a bug throws; the caller turns them into states and exit codes */
export async function evaluateJob(options: RunOptions): Promise<void> {
  const { store, job } = options;
  const { spec } = job;

  // 1. Load: everything that can be wrong with the inputs is found here, before any work.
  const engine = await openEngine(options.forcedEngine);
  const model = await openModel(store, spec.modelPrefix);
  const segments = await evaluationSegmentsOf(store, spec, model);
  const baseline = spec.baselinePrefix === null ? null : await openBaseline(store, spec, spec.baselinePrefix, model);
  const tasks = await tasksOf(store, spec);
  const fingerprints = {
    model: await modelFingerprintOf(store, spec),
    baseline: spec.baselinePrefix === null ? null : await folderFingerprint(store, spec.baselinePrefix),
    evaluation: spec.evaluationPrefix === null ? null : await folderFingerprint(store, spec.evaluationPrefix),
    tasks: await Promise.all(spec.tasks.map(({ prefix }) => folderFingerprint(store, prefix))),
  };
  const tokens = segments.length * (segments[0]?.length ?? 0);
  const progress = new Reporter(job, [
    { phase: 'evaluate', units: baseline ? 2 : 1, unitCost: tokens, unitTokens: tokens },
    { phase: 'report', units: 1, unitCost: 1, unitTokens: 0 },
  ]);
  const { name, reason } = engine;
  job.emit({ type: 'job.started', attempt: job.attempt, engine: name, engineReason: reason, resumedFromStep: null });

  // 2. Measure, the baseline first: what is kept of it serves every model that is compared with it.
  progress.start('evaluate');
  const on = { segments, fingerprints: [fingerprints.evaluation, ...fingerprints.tasks], tasks, original: baseline };
  const measure = new Measurer(store, job, engine, on, progress);
  const compared = baseline
    ? await measure.known(['original', fingerprints.baseline], () => Promise.resolve(baseline), {
        scoresTasks: true,
        isOriginal: true,
      })
    : null;
  const measured = await measure.known(
    baseline ? ['evaluated', fingerprints.model, fingerprints.baseline] : ['original', fingerprints.model],
    () => Promise.resolve(model),
    { scoresTasks: true },
  );

  // 3. Report and manifest: the manifest names every file with its hash and is written last.
  progress.start('report');
  const data: EvaluationReportData = {
    modelName: spec.modelName,
    parameters: model.parameters,
    engine: engine.name,
    measurement: measured,
    baseline: compared && { name: spec.baselineName ?? 'baseline', ...measurementOf(compared) },
    perplexityRatio: ratioOf(measured.perplexity, compared?.perplexity ?? null),
    evaluatedTokens: segments.length * ((segments[0]?.length ?? 1) - 1),
  };
  await publishReport(
    options,
    { 'report.html': renderEvaluationReport(data), 'evaluation.json': evaluationJson(data) },
    {
      modelFingerprint: fingerprints.model,
      calibrationFingerprint: null,
      calibrationWindowsSha256: null,
      impactSha256: null,
      evaluationFingerprint: fingerprints.evaluation,
      scheme: null,
      training: null,
      engine: engine.name,
    },
  );
  await job.succeed({
    evaluationResult: {
      engine: engine.name,
      engineReason: engine.reason,
      parameters: model.parameters,
      measurement: measured,
      baseline: compared && measurementOf(compared),
      perplexityRatio: data.perplexityRatio,
      peakHostBytes: options.peakBytes?.() ?? null,
      evaluatedTokens: data.evaluatedTokens,
      ...progress.times(),
    },
  });
}

/** @throws InputError when divergence from it could not be measured: it must have the model's shape and read text as it does */
async function openBaseline(store: Store, spec: JobSpec, prefix: string, model: OpenedModel): Promise<OpenedModel> {
  const baseline = await openModel(store, prefix);
  const refuse = (what: string): InputError =>
    new InputError(
      'baseline_differs',
      `The baseline "${spec.baselineName}" cannot be compared with "${spec.modelName}": ${what}. Give the model that this one was made from, or leave baselineModelId out.`,
      'baselineModelId',
    );
  const [own, other] = [fieldsOf(model), fieldsOf(baseline)];
  for (const [field, value] of own) {
    if (other.get(field) !== value) throw refuse(`its ${field} is ${other.get(field)}, the model's ${value}`);
  }
  const [ours, theirs] = [
    await evaluationSegmentsOf(store, spec, model),
    await evaluationSegmentsOf(store, spec, baseline),
  ];
  const differs = ours.findIndex((segment, index) => segment.some((token, at) => token !== theirs[index]?.[at]));
  if (differs >= 0 || ours.length !== theirs.length)
    throw refuse('its tokenizer cuts the evaluation text into other tokens');
  return baseline;
}

const fieldsOf = ({ config }: OpenedModel): Map<string, string> =>
  new Map(Object.entries(config).map(([field, value]) => [field, JSON.stringify(value)]));
