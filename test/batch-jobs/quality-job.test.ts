/** Whole jobs that are measured by more than perplexity, or fail by what is measured. */
import { describe, expect, it } from 'vitest';
import type { JobSpec } from 'cherryq/contract';
import { manifestSchema } from 'cherryq/contract';
import { DivergedError, QualityError } from '../../batch-jobs/src/errors.ts';
import { openModel } from '../../batch-jobs/src/model-weights.ts';
import type { Store } from '../../batch-jobs/src/storage/index.ts';
import { attempt, finished, hashesUnder, lastState, prepare, resultOf, textOf } from '../support/tiny-run.ts';
import { temporaryStore } from '../support/temporary-store.ts';

const id = (letter: string): string => '0'.repeat(25) + letter;

/** The evaluation of a tiny job, with what is given besides. */
const evaluated = (more: Partial<NonNullable<JobSpec['evaluation']>>): Partial<JobSpec> => ({
  evaluation: { datasetId: id('E'), divergence: false, tasks: [], limits: {}, ...more },
});

const questions = Array.from({ length: 6 }, (_, index) =>
  JSON.stringify({ context: 'the sailor saw', choices: ['the whale', 'again', 'stars in water'], answer: index % 3 }),
).join('\n');

async function storeWithTask(): Promise<{ store: Store; spec: Partial<JobSpec> }> {
  const store = await temporaryStore({ [`tenants/local/datasets/${id('T')}/sea.jsonl`]: questions });
  const spec = {
    ...evaluated({ divergence: true, tasks: [{ datasetId: id('T') }] }),
    tasks: [{ name: 'sea', prefix: `tenants/local/datasets/${id('T')}/` }],
  };
  return { store, spec };
}

describe('a job with divergence and tasks', () => {
  it('measures them of the original, of rounding and of its result, and takes the former two from the store later', async () => {
    const { store, spec } = await storeWithTask();
    const { prefix } = await finished({ spec, scheme: { bits: 4 } }, store);
    const { baseline, rounding, compressed, hf } = await resultOf(store, prefix);
    expect(baseline.divergence).toBe(0);
    for (const { divergence } of [rounding ?? baseline, compressed]) {
      expect(divergence).toBeGreaterThan(1e-4);
      expect(divergence).toBeLessThan(5);
    }
    expect(Math.abs((hf?.divergence ?? 0) / (compressed.divergence ?? 1) - 1)).toBeLessThan(1e-2);
    for (const measured of [baseline, rounding, compressed]) {
      expect(measured?.tasks).toEqual([
        {
          name: 'sea',
          questions: 6,
          // Every question is the same, and each of its three choices is the answer to two.
          acc: 1 / 3,
          accNorm: 1 / 3,
          accStderr: expect.closeTo(Math.sqrt(2 / 9 / 5), 12),
        },
      ]);
    }
    // The float16 copy is the same weights.
    expect(hf?.tasks).toEqual([]);

    const measurements = await hashesUnder(store, 'tenants/local/measurements/');
    await store.deletePrefix(prefix);
    const again = await finished({ spec, scheme: { bits: 4, cherryFraction: 0.1 } }, store);
    expect(await hashesUnder(store, 'tenants/local/measurements/')).toEqual(measurements);
    expect((await resultOf(store, again.prefix)).rounding).toEqual(rounding);
  });
});

describe('a job with limits', () => {
  const far = { limits: { perplexityRatio: 100, divergence: 50 } };

  it('that its result keeps succeeds, and is measured by divergence without being asked to', async () => {
    const { store, prefix } = await finished({ spec: evaluated(far) });
    expect((await resultOf(store, prefix)).compressed.divergence).toBeGreaterThan(0);
    expect(await store.list(`${prefix}rejected/`)).toEqual([]);
  });

  it.each([
    [{ perplexityRatio: 0.01 }, /perplexityRatio allows 0\.01/],
    [{ divergence: 1e-6 }, /limits\.divergence allows 0\.000001/],
  ])('%j that its result misses fails with the figures, and keeps what it made apart', async (limits, message) => {
    const kept = await finished({ spec: evaluated(far) });
    const { store, prefix } = await prepare({ spec: evaluated({ limits }) });
    await expect(attempt(store, prefix)).rejects.toThrow(QualityError);
    const { status, error, result } = await lastState(store, prefix);
    expect(status).toBe('failed');
    expect(error).toMatchObject({ fault: 'quality', code: 'quality', param: 'evaluation.limits' });
    expect(error?.message).toMatch(message);
    expect(result?.compressed.perplexity).toBeGreaterThan(1);
    expect(await store.list(`${prefix}artifacts/`)).toEqual([]);
    expect(await store.list(`${prefix}checkpoints/`)).toEqual([]);

    const rejected = await hashesUnder(store, `${prefix}rejected/`);
    const manifest = manifestSchema.parse(JSON.parse(await textOf(store, `${prefix}rejected/manifest.json`)));
    expect(manifest.files.map(({ path, sha256 }) => [path, sha256])).toEqual(
      Object.entries(rejected)
        .filter(([path]) => path !== 'manifest.json')
        .sort(([a], [b]) => (a < b ? -1 : 1)),
    );
    // It is the model that looser limits would have let through.
    const accepted = await hashesUnder(kept.store, `${kept.prefix}artifacts/`);
    expect(rejected['model.safetensors']).toBe(accepted['model.safetensors']);
    expect((await openModel(store, `${prefix}rejected/`)).native?.method).toBe('cherryq');
  });
});

describe('a job whose training diverges', () => {
  it('names block, tensor and step, and keeps the checkpoint before', async () => {
    // Without a second moment, a token that a step does not meet is moved by its old gradient over nearly nothing.
    const training = { beta2: 0, epsilon: 1e-44, learningRate: 1e-3, tokens: 40 * 128 };
    const { store, prefix } = await prepare({ scheme: { method: 'qat' }, training });
    const error: unknown = await attempt(store, prefix, Infinity, 0).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(DivergedError);
    const { step, tensor, message } = error as DivergedError;
    expect(step).toBeGreaterThan(1);
    expect(step).toBeLessThan(40);
    expect(tensor).toMatch(/^model\./);
    expect(message).toContain(`Training diverged at step ${step}`);
    expect(message).toContain(tensor);
    expect(await store.folders(`${prefix}checkpoints/`)).toContain(`000001-${String(step - 1).padStart(8, '0')}`);
    expect(await store.list(`${prefix}artifacts/`)).toEqual([]);
  });
});
