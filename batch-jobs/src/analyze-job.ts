/**
 * An `analyze` job from its spec to its artifacts: where a model's important weights are, and whether other texts agree.
 *
 *   load -> impact of each draw from each calibration set -> analysis -> report, analysis.json -> manifest -> succeeded
 *
 * The impact of each draw is kept for the tenant, so a job that is run again, or a later `compress` job, does not measure it.
 */
import type { CalibrationSet } from './analysis.ts';
import { analyze, drawWindows } from './analysis.ts';
import { openEngine } from './engine/engine.ts';
import { analysisJson } from './exporters/analysis-data.ts';
import { renderAnalysisReport } from './exporters/analysis-report.ts';
import { impactOf } from './impact.ts';
import type { ImpactArtifact } from './impact-artifact.ts';
import { named, modelFingerprintOf, openOriginal, windowsOf } from './job-inputs.ts';
import { readAllWeights } from './model-weights.ts';
import { Reporter } from './progress.ts';
import { publishReport } from './publish-report.ts';
import type { RunOptions } from './run-options.ts';
import { shouldStop, stopped } from './run-options.ts';
import { folderFingerprint } from './storage/fingerprint.ts';
import { version } from './version.ts';

/** @throws InputError, InterruptedError, or whatever a bug throws; the caller turns them into states and exit codes */
export async function analyzeJob(options: RunOptions): Promise<void> {
  const { store, job } = options;
  const { spec } = job;
  const { training, analysis } = spec;

  // 1. Load: everything that can be wrong with the inputs is found here, before any work.
  const engine = await openEngine(options.forcedEngine);
  const model = await openOriginal(store, spec);
  const weights = await readAllWeights(model);
  const read = { read: (name: string) => weights.get(name) as Float32Array };
  const texts = [
    { name: spec.calibrationName ?? 'calibration', prefix: spec.calibrationPrefix, param: 'calibrationDatasetId' },
    ...spec.analysisPrefixes.map(({ name, prefix }, index) => ({
      name,
      prefix,
      param: `analysis.datasetIds.${index}`,
    })),
  ];
  const drawn: { name: string; draws: Int32Array[][]; sha256: string }[] = [];
  for (const { name, prefix, param } of texts) {
    const use = `calibration text "${name}"`;
    const { windows, sha256 } = await windowsOf(options, model, { prefix, param, use });
    const wanted = { draws: analysis.draws, samples: training.impactSamples, seed: training.seed };
    drawn.push({ name, draws: await named(use, () => drawWindows(windows, wanted)), sha256 });
  }
  const modelFingerprint = await modelFingerprintOf(store, spec);
  const calibrationFingerprint =
    spec.calibrationPrefix === null ? null : await folderFingerprint(store, spec.calibrationPrefix);
  const total = drawn.reduce((sum, { draws }) => sum + draws.reduce((count, draw) => count + draw.length, 0), 0);
  const matrices = [...model.shapes].length;
  const progress = new Reporter(job, [
    { phase: 'impact', units: total, unitCost: 3 * training.sequenceLength, unitTokens: training.sequenceLength },
    { phase: 'analyze', units: matrices, unitCost: 1, unitTokens: 0 },
    { phase: 'report', units: 1, unitCost: 1, unitTokens: 0 },
  ]);
  const { name, reason } = engine;
  job.emit({ type: 'job.started', attempt: job.attempt, engine: name, engineReason: reason, resumedFromStep: null });

  // 2. Impact of each draw.
  progress.start('impact');
  const sets: CalibrationSet[] = [];
  let done = 0;
  for (const [index, set] of drawn.entries()) {
    const artifacts: ImpactArtifact[] = [];
    for (const [draw, windows] of set.draws.entries()) {
      const before = done;
      const { artifact, source } = await impactOf({
        store,
        tenantPrefix: job.tenantPrefix,
        checkpointPrefix: `${job.prefix}checkpoints/${index}-${draw}/`,
        resume: training.resume,
        attempt: job.attempt,
        version,
        engine: engine.name,
        modelFingerprint,
        windows,
        config: model.config,
        weights: read,
        cherryFraction: spec.scheme.cherryFraction,
        warn: (message) => job.emit({ type: 'log', level: 'warning', message }),
        onWindows: (count) => progress.at('impact', before + count),
        stopRequested: () => shouldStop(options),
        assertCurrent: () => job.assertCurrent(),
        checkpointGapMs: options.checkpointGapMs,
      });
      done += windows.length;
      progress.at('impact', done);
      job.emit({ type: 'impact.ready', source, windows: artifact.windows, sha256: artifact.sha256 });
      artifacts.push(artifact);
    }
    sets.push({ name: set.name, draws: artifacts });
  }

  // 3. What they say.
  progress.start('analyze');
  const found = await analyze({
    sets,
    weights: read,
    selection: spec.scheme,
    async onMatrix(count) {
      progress.at('analyze', count);
      if (await shouldStop(options)) throw stopped();
    },
  });

  // 4. Report and manifest: the manifest names every file with its hash and is written last.
  progress.start('report');
  const data = {
    ...found,
    modelName: spec.modelName,
    parameters: model.parameters,
    engine: engine.name,
    sequenceLength: training.sequenceLength,
  };
  await publishReport(
    options,
    { 'report.html': renderAnalysisReport(data), 'analysis.json': analysisJson(data) },
    {
      modelFingerprint,
      calibrationFingerprint,
      calibrationWindowsSha256: drawn[0].sha256,
      impactSha256: sets[0].draws[0].sha256,
      evaluationFingerprint: null,
      scheme: spec.scheme,
      training,
      engine: engine.name,
    },
  );
  await job.succeed({
    analysisResult: {
      engine: engine.name,
      engineReason: engine.reason,
      parameters: model.parameters,
      heterogeneity: found.heterogeneity,
      overlaps: found.overlaps,
      ...progress.times(),
    },
  });
  await store.deletePrefix(`${job.prefix}checkpoints/`);
}
