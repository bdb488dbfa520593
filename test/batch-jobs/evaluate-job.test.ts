import { describe, expect, it } from 'vitest';
import type { EvaluationResult, JobSpec } from 'cherryq/contract';
import { evaluationResultSchema, manifestSchema } from 'cherryq/contract';
import type { Store } from '../../batch-jobs/src/storage/index.ts';
import {
  tinyConfig,
  tinyModelPrefix,
  tinyTokenizer,
  tinyWeights,
  writeTinyJob,
  writeTinyModel,
} from '../support/tiny-model.ts';
import type { TinyModel } from '../support/tiny-model.ts';
import { attempt, eventsOf, finished, hashesUnder, lastState, prepare, resultOf, textOf } from '../support/tiny-run.ts';

const baselinePrefix = 'tenants/local/models/baseline/';

/** An evaluation as the API writes it. */
const evaluation = (fields: Partial<JobSpec> = {}): { spec: Partial<JobSpec>; calibration: false } => ({
  spec: { kind: 'evaluate', ...fields },
  calibration: false,
});

async function evaluated(store: Store, prefix: string): Promise<EvaluationResult> {
  await attempt(store, prefix);
  const { status, evaluationResult, result } = await lastState(store, prefix);
  expect({ status, result }).toEqual({ status: 'succeeded', result: null });
  return evaluationResultSchema.parse(evaluationResult);
}

describe('an evaluate job', () => {
  it('gives for the artifacts of a compress job exactly what that job measured', async () => {
    const { store, prefix } = await finished({ scheme: { method: 'cherryq', bits: 3, groupSize: 16 } });
    const compressed = await resultOf(store, prefix);
    const artifacts = `${prefix}artifacts/`;
    // The artifacts outlive the spec, which the next job's replaces.
    const kept = 'tenants/local/models/kept/';
    for (const name of ['', 'hf/'])
      for (const { key } of await store.list(artifacts + name))
        await store.put(kept + key.slice(artifacts.length), (await store.get(key)) as Uint8Array);
    await store.deletePrefix(prefix);
    for (const [modelPrefix, expected] of [
      [kept, compressed.compressed],
      [`${kept}hf/`, compressed.hf],
    ] as const) {
      await store.deletePrefix(prefix);
      await writeTinyJob(store, evaluation({ modelPrefix, baselinePrefix: tinyModelPrefix, baselineName: 'original' }));
      const { measurement, baseline, perplexityRatio } = await evaluated(store, prefix);
      expect(measurement.perplexity).toBe(expected?.perplexity);
      expect(measurement.sizeBytes).toBe(expected?.sizeBytes);
      expect(baseline?.perplexity).toBe(compressed.baseline.perplexity);
      expect(perplexityRatio).toBeCloseTo(Number(expected?.perplexity) / Number(compressed.baseline.perplexity), 12);
      expect(measurement.divergence).toBeGreaterThan(0);
      expect(measurement.bitsPerWeight === null).toBe(modelPrefix !== kept);
    }
  });

  it('leaves a report, the figures, and a manifest of both that names no scheme', async () => {
    const { store, prefix } = await prepare(evaluation());
    const { measurement, baseline, perplexityRatio } = await evaluated(store, prefix);
    expect([baseline, perplexityRatio, measurement.divergence, measurement.bitsPerWeight]).toEqual([
      null,
      null,
      null,
      null,
    ]);
    const manifest = manifestSchema.parse(JSON.parse(await textOf(store, `${prefix}artifacts/manifest.json`)));
    expect(manifest).toMatchObject({ kind: 'evaluate', scheme: null, training: null, formats: [] });
    const { 'manifest.json': own, ...files } = await hashesUnder(store, `${prefix}artifacts/`);
    expect(own).toBeDefined();
    expect(Object.fromEntries(manifest.files.map(({ path, sha256 }) => [path, sha256]))).toEqual(files);
    expect(Object.keys(files)).toEqual(['evaluation.json', 'report.html']);
    const json = JSON.parse(await textOf(store, `${prefix}artifacts/evaluation.json`)) as { measurement: unknown };
    expect(json.measurement).toEqual(measurement);
    expect(await textOf(store, `${prefix}artifacts/report.html`)).toContain(
      `Perplexity ${measurement.perplexity?.toFixed(2)}`,
    );
    const fractions = (await eventsOf(store, prefix)).flatMap((event) =>
      event.type === 'progress' ? [event.progress.fraction] : [],
    );
    expect(fractions).toEqual(fractions.toSorted((a, b) => a - b));
  });

  it('is at no distance from itself', async () => {
    const { store, prefix } = await prepare(evaluation({ baselinePrefix, baselineName: 'itself' }));
    await writeTinyModel(store, baselinePrefix);
    const { measurement, perplexityRatio } = await evaluated(store, prefix);
    expect(perplexityRatio).toBe(1);
    expect(measurement.divergence).toBeCloseTo(0, 9);
  });

  it.each<[string, TinyModel, RegExp]>([
    [
      'of another shape',
      {
        config: { ...tinyConfig, num_hidden_layers: 1 },
        weights: tinyWeights({ ...tinyConfig, num_hidden_layers: 1 }),
      },
      /numHiddenLayers is 1, the model's 2/,
    ],
    [
      'that reads text otherwise',
      { tokenizer: { ...tinyTokenizer, model: { ...tinyTokenizer.model, merges: [] } } },
      /cuts the evaluation text into other tokens/,
    ],
  ])('refuses a baseline %s, by name', async (_, model, message) => {
    const { store, prefix } = await prepare(evaluation({ baselinePrefix, baselineName: 'other' }));
    await writeTinyModel(store, baselinePrefix, model);
    await expect(attempt(store, prefix)).rejects.toMatchObject({
      code: 'baseline_differs',
      param: 'baselineModelId',
      message: expect.stringMatching(message) as string,
    });
  });
});
