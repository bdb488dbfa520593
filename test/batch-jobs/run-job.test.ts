import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { manifestSchema } from 'cherryq/contract';
import { InputError, InterruptedError } from '../../batch-jobs/src/errors.ts';
import { JobFolder } from '../../batch-jobs/src/job-folder.ts';
import { openModel } from '../../batch-jobs/src/model-weights.ts';
import { cherryCount, groupCount } from '../../batch-jobs/src/numeric/quantizer.ts';
import { runJob } from '../../batch-jobs/src/run-job.ts';
import type { Store } from '../../batch-jobs/src/storage/index.ts';
import { FolderStore } from '../../batch-jobs/src/storage/index.ts';
import { temporaryStore } from '../support/temporary-store.ts';
import type { TinyJob, TinyModel } from '../support/tiny-model.ts';
import {
  tinyConfig,
  tinyModelPrefix,
  tinyText,
  tinyTokenizer,
  tinyWeights,
  writeTinyJob,
  writeTinyModel,
} from '../support/tiny-model.ts';
import { testEngine } from '../support/engine.ts';
import { gridFor } from '../support/grid.ts';
import {
  artifactsOf,
  attempt,
  eventsOf,
  finished,
  hashesUnder,
  lastState,
  prepare,
  resultOf,
  textOf,
} from '../support/tiny-run.ts';

const modelFiles = ['config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json'];
const bitWidths = [2, 3, 4, 8] as const;
const combinations = (['rtn', 'qat', 'cherryq'] as const).flatMap((method) =>
  bitWidths.map((bits) => ({ method, bits })),
);

describe.each(combinations)('a job with $method at $bits bits', ({ method, bits }) => {
  let store: Store;
  let prefix: string;
  beforeAll(async () => {
    // The tests share one run, so its folder must outlive each of them.
    const root = await mkdtemp(join(tmpdir(), 'cherryq-run-job-'));
    ({ store, prefix } = await finished({ scheme: { method, bits } }, new FolderStore(root)));
    return () => rm(root, { recursive: true });
  });

  it('leaves the artifacts with a manifest that names each with its size and hash', async () => {
    const artifacts = await artifactsOf(store, prefix);
    const manifest = manifestSchema.parse(JSON.parse(await textOf(store, `${prefix}artifacts/manifest.json`)));
    const expected = [...modelFiles, ...modelFiles.map((file) => `hf/${file}`), 'losses.json', 'report.html'];
    expect(Object.keys(artifacts).sort()).toEqual([...expected, 'manifest.json'].sort());
    const listed = { ...artifacts };
    delete listed['manifest.json'];
    expect(Object.fromEntries(manifest.files.map(({ path, sha256 }) => [path, sha256]))).toEqual(listed);
    for (const { path, sizeBytes } of manifest.files) {
      expect(await store.head(`${prefix}artifacts/${path}`)).toEqual({ sizeBytes });
    }
    expect(manifest).toMatchObject({
      scheme: { method, bits, groupSize: 16 },
      engine: testEngine,
      formats: ['native', 'hf'],
    });
  });

  it('measures finite perplexities, alike for both formats, and what a weight costs', async () => {
    const result = await resultOf(store, prefix);
    for (const measurement of [result.baseline, result.compressed, result.hf, result.rounding]) {
      const perplexity = measurement?.perplexity ?? NaN;
      expect(perplexity).toBeGreaterThan(1);
      expect(perplexity).toBeLessThan(1e6);
    }
    const { compressed, hf, rounding } = result;
    expect(Math.abs((hf?.perplexity ?? 0) / (compressed.perplexity ?? 1) - 1)).toBeLessThan(1e-3);
    if (method === 'rtn') expect(rounding?.perplexity).toBe(compressed.perplexity);

    const opened = await openModel(store, `${prefix}artifacts/`);
    const perRow = method === 'cherryq' ? cherryCount(32, 1 / 256) : 0;
    const rowBytes = Math.ceil(((32 - perRow) * bits) / 8);
    const groups = groupCount(32, perRow, gridFor(bits, 16));
    const zeroPoints = method === 'rtn' ? 8 * Math.ceil((groups * bits) / 8) : 0;
    expect(opened.storedBits('model.layers.1.mlp.up_proj.weight')).toBeCloseTo(
      (8 * rowBytes + 16 * groups + zeroPoints + 32 * perRow) / 32,
      10,
    );
    expect(compressed.bitsPerWeight).toBeGreaterThan(bits);
    expect(compressed.bitsPerWeight).toBeLessThan(bits + 3);
    expect(compressed.sizeBytes).toBe((await store.head(`${prefix}artifacts/model.safetensors`))?.sizeBytes);
  });

  it('tells its course in events that follow the contract', async () => {
    const events = await eventsOf(store, prefix);
    const phases = events.flatMap((event) => (event.type === 'phase.started' ? [event.phase] : []));
    const trains = method !== 'rtn';
    expect(phases).toEqual([
      ...(method === 'cherryq' ? ['impact'] : []),
      ...(trains ? ['train'] : []),
      'export',
      'evaluate',
      'report',
    ]);
    expect(events[0]).toMatchObject({ type: 'job.started', attempt: 1, engine: testEngine, resumedFromStep: null });
    expect(events.at(-1)?.type).toBe('job.succeeded');
    const progress = events.flatMap((event) => (event.type === 'progress' ? [event.progress] : []));
    const fractions = progress.map(({ fraction }) => fraction);
    expect(fractions).toEqual(fractions.toSorted((a, b) => a - b));
    for (const { step, totalSteps, fraction } of progress) {
      expect(step).toBeLessThanOrEqual(totalSteps);
      expect(fraction).toBeLessThanOrEqual(1);
    }
    if (trains) expect(events.some((event) => event.type === 'checkpoint' && event.step === 8)).toBe(true);
  });

  it('keeps the training curve and leaves no checkpoint behind', async () => {
    const losses: { step: number; loss: number }[] = JSON.parse(await textOf(store, `${prefix}artifacts/losses.json`));
    expect(losses.map(({ step }) => step)).toEqual(method === 'rtn' ? [] : [1, 2, 3, 4, 5, 6, 7, 8]);
    expect(losses.every(({ loss }) => Number.isFinite(loss))).toBe(true);
    expect(await store.list(`${prefix}checkpoints/`)).toEqual([]);
    expect(await store.list(`${prefix}scratch/`)).toEqual([]);
  });
});

describe('a job that is run again', () => {
  it.each(['qat', 'cherryq'] as const)('leaves byte-identical artifacts (%s)', async (method) => {
    const [a, b] = [await finished({ scheme: { method } }), await finished({ scheme: { method } })];
    expect(await artifactsOf(b.store, b.prefix)).toEqual(await artifactsOf(a.store, a.prefix));
  });

  it('with another seed leaves other weights', async () => {
    const [a, b] = [await finished({}), await finished({ training: { seed: 7 } })];
    const file = 'model.safetensors';
    expect((await artifactsOf(b.store, b.prefix))[file]).not.toBe((await artifactsOf(a.store, a.prefix))[file]);
  });

  it('starts from the impact that the first has measured, though it has other bits, and says so', async () => {
    const { store, prefix } = await finished({ scheme: { bits: 3 } });
    await store.deletePrefix(prefix);
    await attempt(store, await writeTinyJob(store, { scheme: { bits: 2, groupSize: 8, cherryMode: 'column' } }));
    const ready = (await eventsOf(store, prefix)).filter((event) => event.type === 'impact.ready');
    expect(ready).toEqual([expect.objectContaining({ source: 'stored', windows: 4 })]);
  });

  it('takes what was measured of the original and of rounding from the first', async () => {
    const { store, prefix } = await finished({ scheme: { method: 'qat' } });
    const first = await resultOf(store, prefix);
    const measurements = await hashesUnder(store, 'tenants/local/measurements/');
    expect(Object.keys(measurements)).toHaveLength(2);
    await store.deletePrefix(prefix);
    await attempt(store, await writeTinyJob(store, {}));
    const second = await resultOf(store, prefix);
    expect([second.baseline, second.rounding]).toEqual([first.baseline, first.rounding]);
    expect(await hashesUnder(store, 'tenants/local/measurements/')).toEqual(measurements);
  });
});

describe('a job that is stopped', () => {
  let undisturbed: Record<string, string>;
  beforeAll(async () => {
    const root = await mkdtemp(join(tmpdir(), 'cherryq-run-job-'));
    const { store, prefix } = await finished({}, new FolderStore(root));
    undisturbed = await artifactsOf(store, prefix);
    return () => rm(root, { recursive: true });
  });

  // The impact windows, which share one walk, then eight steps, each with a safe point after it.
  it.each([
    ['in the impact', [0]],
    ['after its last step', [8]],
    ['again and again', [0, 4, 1, 0]],
  ])('%s and started again ends in the bytes of an undisturbed run', async (_, stops) => {
    const { store, prefix } = await prepare({});
    for (const stop of stops) {
      await expect(attempt(store, prefix, stop)).rejects.toThrow(InterruptedError);
      expect(await lastState(store, prefix)).toMatchObject({ status: 'running' });
      expect(await artifactsOf(store, prefix)).toEqual({});
    }
    await attempt(store, prefix);
    expect(await artifactsOf(store, prefix)).toEqual(undisturbed);
    const started = (await eventsOf(store, prefix)).flatMap((event) => (event.type === 'job.started' ? [event] : []));
    expect(started.map(({ attempt }) => attempt)).toEqual([...stops.keys(), stops.length].map((index) => index + 1));
  });

  it.each(['crossEntropy', 'distillation'] as const)(
    'in training with %s and started again ends in the bytes of an undisturbed run',
    async (loss) => {
      const job: TinyJob = { scheme: { method: 'qat', bits: 2 }, training: { loss } };
      const whole = await finished(job);
      const { store, prefix } = await prepare(job);
      await expect(attempt(store, prefix, 3)).rejects.toThrow(InterruptedError);
      await attempt(store, prefix);
      expect(await artifactsOf(store, prefix)).toEqual(await artifactsOf(whole.store, whole.prefix));
    },
  );

  it('goes on from the step that it had reached, without measuring the impact again', async () => {
    const { store, prefix } = await prepare({});
    await expect(attempt(store, prefix, 5)).rejects.toThrow(InterruptedError);
    const before = (await eventsOf(store, prefix)).length;
    await attempt(store, prefix);
    const events = (await eventsOf(store, prefix)).slice(before);
    expect(events[0]).toMatchObject({ type: 'job.started', attempt: 2, resumedFromStep: 5 });
    expect(events.find((event) => event.type === 'impact.ready')).toMatchObject({ source: 'stored' });
  });

  it('and finds its newest checkpoint damaged falls back, says so, and ends in the same bytes', async () => {
    const { store, prefix } = await prepare({});
    for (const stop of [6, 1]) await expect(attempt(store, prefix, stop)).rejects.toThrow(InterruptedError);
    const newest = await textOf(store, `${prefix}checkpoints/CURRENT`);
    const key = `${prefix}checkpoints/${newest}/state.safetensors`;
    const bytes = (await store.get(key)) as Uint8Array;
    bytes[bytes.length - 1] ^= 1;
    await store.put(key, bytes);
    await attempt(store, prefix);
    expect(await artifactsOf(store, prefix)).toEqual(undisturbed);
    const warnings = (await eventsOf(store, prefix)).flatMap((event) => (event.type === 'log' ? [event.message] : []));
    expect(warnings).toEqual([expect.stringContaining(newest)]);
  });

  it('and finds its impact damaged measures it again, and says so', async () => {
    const { store, prefix } = await prepare({});
    await expect(attempt(store, prefix, 5)).rejects.toThrow(InterruptedError);
    const tensors = (await store.list('tenants/local/impact/')).find(({ key }) => key.endsWith('.safetensors'));
    await store.put(tensors?.key as string, new Uint8Array(100));
    await attempt(store, prefix);
    expect(await artifactsOf(store, prefix)).toEqual(undisturbed);
    const warnings = (await eventsOf(store, prefix)).flatMap((event) => (event.type === 'log' ? [event.message] : []));
    expect(warnings).toEqual([expect.stringContaining('measured again')]);
  });

  it.each(['auto', 'required'] as const)(
    'and whose text was changed meanwhile is refused under %s, naming what differs',
    async (resume) => {
      const { store, prefix } = await prepare({ training: { resume } });
      await expect(attempt(store, prefix, 5)).rejects.toThrow(InterruptedError);
      await writeTinyJob(store, { calibration: tinyText(6000, 9), training: { resume } });
      await expect(attempt(store, prefix)).rejects.toMatchObject({
        code: 'checkpoint_mismatch',
        message: expect.stringMatching(/calibrationWindows was "[0-9a-f]{64}" and is "[0-9a-f]{64}"/) as string,
      });
      expect(await artifactsOf(store, prefix)).toEqual({});
    },
  );

  it('and whose text was changed meanwhile begins anew under never', async () => {
    const { store, prefix } = await prepare({ training: { resume: 'never' } });
    await expect(attempt(store, prefix, 5)).rejects.toThrow(InterruptedError);
    await writeTinyJob(store, { calibration: tinyText(6000, 9), training: { resume: 'never' } });
    await attempt(store, prefix);
    const events = await eventsOf(store, prefix);
    expect(events.findLast((event) => event.type === 'job.started')).toMatchObject({ resumedFromStep: null });
    expect((await artifactsOf(store, prefix))['model.safetensors']).not.toBe(undisturbed['model.safetensors']);
  });

  it('after it had written artifacts leaves nothing of them', async () => {
    const { store, prefix } = await prepare({});
    await store.put(`${prefix}artifacts/manifest.json`, new Uint8Array(2));
    await store.put(`${prefix}artifacts/hf/model-00001-of-00002.safetensors`, new Uint8Array(2));
    await store.put(`${prefix}scratch/rounding/config.json`, new Uint8Array(2));
    await attempt(store, prefix);
    expect(await artifactsOf(store, prefix)).toEqual(undisturbed);
  });

  it('by another attempt publishes nothing', async () => {
    const { store, prefix } = await prepare({ scheme: { method: 'rtn' } });
    const job = await JobFolder.claim(store, prefix);
    if (job === null) throw new Error('the job has ended');
    await JobFolder.claim(store, prefix);
    const options = { store, job, forcedEngine: testEngine, scratchFolder: tmpdir(), stopRequested: () => false };
    await expect(runJob(options)).rejects.toThrow(InterruptedError);
    expect(await artifactsOf(store, prefix)).toEqual({});
  });
});

describe('what a job leaves out', () => {
  it('is the float16 copy where only the native format was asked for', async () => {
    const { store, prefix } = await finished({ scheme: { method: 'rtn' }, formats: ['native'] });
    expect(Object.keys(await artifactsOf(store, prefix)).filter((path) => path.startsWith('hf/'))).toEqual([]);
    expect((await resultOf(store, prefix)).hf).toBeNull();
  });

  it('is the native format where only the float16 copy was asked for', async () => {
    const { store, prefix } = await finished({ formats: ['hf'] });
    const paths = Object.keys(await artifactsOf(store, prefix));
    expect(paths).toContain('hf/model.safetensors');
    expect(paths).not.toContain('model.safetensors');
    const { compressed, hf, rounding } = await resultOf(store, prefix);
    expect(compressed).toEqual({ ...hf, bitsPerWeight: 16 });
    expect(rounding?.sizeBytes).toBeLessThan(compressed.sizeBytes);
    for (const event of await eventsOf(store, prefix)) {
      if (event.type === 'progress') expect(event.progress.step).toBeLessThanOrEqual(event.progress.totalSteps);
    }
  });

  it('is every perplexity where there is no text to measure on', async () => {
    const { store, prefix } = await finished({ evaluation: false });
    const { baseline, compressed, hf, rounding, evaluatedTokens } = await resultOf(store, prefix);
    expect([baseline, compressed, hf].map((one) => one?.perplexity)).toEqual([null, null, null]);
    expect(rounding).toBeNull();
    expect(evaluatedTokens).toBe(0);
  });

  it('is calibration, which rounding needs none of', async () => {
    const { store, prefix } = await finished({ scheme: { method: 'rtn' }, calibration: false });
    expect((await resultOf(store, prefix)).trainedTokens).toBe(0);
  });
});

const withWeight = (name: string, change: (values: Float32Array) => void): TinyModel => {
  const weights = tinyWeights();
  change(weights.get(name) as Float32Array);
  return { weights };
};
const q = 'model.layers.0.self_attn.q_proj.weight';
const withoutQ = tinyWeights();
withoutQ.delete(q);

const refusals: [string, string, string | null, TinyJob, TinyModel][] = [
  ['weights that are not numbers', 'nan_weights', q, {}, withWeight(q, (values) => (values[5] = NaN))],
  ['weights that are infinite', 'nan_weights', q, {}, withWeight(q, (values) => (values[0] = -Infinity))],
  [
    'weights that are not numbers, found while they are rounded',
    'nan_weights',
    q,
    { scheme: { method: 'rtn' } },
    withWeight(q, (values) => (values[5] = NaN)),
  ],
  [
    'weights beyond float16, found while they are rounded',
    'float16_overflow',
    'model.norm.weight',
    { scheme: { method: 'rtn' }, formats: ['hf'] },
    withWeight('model.norm.weight', (values) => (values[1] = -70_000)),
  ],
  ['weights beyond float16', 'float16_overflow', q, {}, withWeight(q, (values) => (values[1] = 70_000))],
  ['a missing tensor', 'missing_tensor', q, {}, { weights: withoutQ }],
  [
    'an unknown architecture',
    'unknown_architecture',
    'architectures',
    {},
    { config: { ...tinyConfig, architectures: ['Mamba'] } },
  ],
  ['a config of another width', 'tensor_shape', null, {}, { config: { ...tinyConfig, head_dim: 4 } }],
  [
    'a vocabulary that is not the embedding',
    'vocab_mismatch',
    'vocab_size',
    {},
    { config: { ...tinyConfig, vocab_size: 120 } },
  ],
  [
    'a tokenizer with more tokens than the embedding',
    'vocab_mismatch',
    'tokenizer.json',
    {},
    {
      tokenizer: {
        ...tinyTokenizer,
        model: { ...tinyTokenizer.model, vocab: { ...tinyTokenizer.model.vocab, more: 106 } },
      },
    },
  ],
  [
    'a quantized model',
    'already_quantized',
    'config.json',
    {},
    { config: { ...tinyConfig, quantization_config: { quant_method: 'gptq' } } },
  ],
  ['a group beyond the row', 'group_size', 'scheme.groupSize', { scheme: { groupSize: 33 } }, {}],
  ['no calibration text', 'missing_calibration', 'calibrationDatasetId', { calibration: false }, {}],
  ['an empty calibration text', 'empty_text', 'text.txt', { calibration: ' \n' }, {}],
  ['a binary calibration text', 'binary_text', 'text.txt', { calibration: Uint8Array.of(80, 75, 3, 4, 0, 0) }, {}],
  ['a calibration text below one window', 'text_too_short', 'sequenceLength', { calibration: 'the sea' }, {}],
  [
    'a window beyond the context',
    'sequence_length',
    'training.sequenceLength',
    { training: { sequenceLength: 65 } },
    {},
  ],
  ['a binary evaluation text', 'binary_text', 'text.txt', { evaluation: Uint8Array.of(255, 254, 65, 0) }, {}],
];

describe('a job is refused for', () => {
  it.each(refusals)('%s, with nothing written', async (_, code, param, job, model) => {
    const store = await temporaryStore();
    const { config, ...files } = model;
    await writeTinyModel(store, tinyModelPrefix, files);
    if (config) await store.put(`${tinyModelPrefix}config.json`, new TextEncoder().encode(JSON.stringify(config)));
    const prefix = await writeTinyJob(store, job);
    const error = await attempt(store, prefix).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(InputError);
    expect(error).toMatchObject(param === null ? { code } : { code, param });
    expect(await store.list(`${prefix}artifacts/`)).toEqual([]);
    expect(await store.list(`${prefix}checkpoints/`)).toEqual([]);
  });

  it('a model that was compressed already', async () => {
    const { store, prefix } = await finished({ scheme: { method: 'rtn' } });
    await store.deletePrefix(tinyModelPrefix);
    for (const { key } of await store.list(`${prefix}artifacts/`)) {
      const path = key.slice(`${prefix}artifacts/`.length);
      if (!path.startsWith('hf/')) await store.put(tinyModelPrefix + path, (await store.get(key)) as Uint8Array);
    }
    await store.deletePrefix(prefix);
    await writeTinyJob(store);
    await expect(attempt(store, prefix)).rejects.toMatchObject({ code: 'already_quantized', param: 'modelId' });
  });
});
