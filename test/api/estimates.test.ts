import { afterEach, describe, expect, it, vi } from 'vitest';
import {
  estimateSchema,
  jobSchema,
  modelSchema,
  noOutcome,
  type CreateJob,
  type Estimate,
  type JobResult,
  type JobState,
  type Machine,
} from 'cherryq/contract';
import { finishJob } from '../../api/src/attempt-end.ts';
import { advanceState, encodeJson, jobRef } from '../../api/src/job-log.ts';
import { createServices } from '../../api/src/services.ts';
import { systemClock, type JobRef } from '../../api/src/ports.ts';
import { createApp } from '../../api/src/app.ts';
import { localKeys } from '../../api/src/ports.ts';
import { declarationOf, jsonRequest, openTestApi, read, readProblem, sha256, type TestApi } from '../support/api.ts';

let api: TestApi;
let app: TestApi['app'];
afterEach(() => api.close());

const gpu: Machine = {
  name: 'g5.2xlarge',
  engine: 'gpu',
  hostBytes: 32e9,
  deviceBytes: 24e9,
  dollarsPerHour: 1.212,
  startSeconds: 60,
  operationsPerSecond: 4e12,
};

async function open(machines: Machine[]): Promise<void> {
  api = await openTestApi();
  // Whatever disk tests run on.
  vi.spyOn(api.store, 'freeBytes').mockResolvedValue(1e15);
  serve(machines);
}

/** As after a restart. */
function serve(machines: Machine[], schemesAtOnce = false): void {
  const queue = { ...api.queue, schemesAtOnce };
  const services = createServices({ ...api, queue, clock: systemClock, machines });
  app = createApp({ ...api, services, clock: systemClock, keys: localKeys, version: '1', logger: () => undefined });
}

const llama7b = {
  architectures: ['LlamaForCausalLM'],
  hidden_size: 4096,
  intermediate_size: 11_008,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  vocab_size: 32_000,
  max_position_embeddings: 4096,
  rms_norm_eps: 1e-5,
};

/** A model as large as a config says, without its weights. */
async function modelOf(config: object): Promise<string> {
  const files = declarationOf({ 'config.json': JSON.stringify(config) });
  const request = jsonRequest('POST', { name: 'llama', files });
  const { id } = await read(await app.request('/v1/models', request), 201, modelSchema);
  const prefix = `tenants/local/models/${id}/`;
  await api.store.put(`${prefix}files/config.json`, encodeJson(config));
  await api.store.put(`${prefix}ready.json`, encodeJson({ completedAt: new Date().toISOString() }));
  return id;
}
async function textOf(bytes: number): Promise<string> {
  const text = 'x'.repeat(bytes);
  const files = [{ path: 'text.txt', sizeBytes: bytes, sha256: sha256(text) }];
  const created = await app.request('/v1/datasets', jsonRequest('POST', { name: 'text', files }));
  const { id } = (await created.json()) as { id: string };
  await app.request(`/v1/datasets/${id}/files/text.txt`, { method: 'PUT', body: text });
  await app.request(`/v1/datasets/${id}/complete`, { method: 'POST' });
  return id;
}
const stateOf = (status: JobState['status']): JobState => ({
  status,
  time: new Date().toISOString(),
  attempt: 1,
  by: 'worker',
  keepCheckpoint: false,
  error: null,
  ...noOutcome,
});

const measurement = { perplexity: null, divergence: null, tasks: [], sizeBytes: 1 };
const emptyResult: JobResult = {
  engine: 'gpu',
  engineReason: 'a test',
  parameters: 1,
  baseline: measurement,
  rounding: null,
  compressed: { ...measurement, bitsPerWeight: 3 },
  hf: null,
  peakHostBytes: null,
  trainedTokens: 1,
  evaluatedTokens: 1,
  seconds: 1,
  phaseSeconds: {},
};

const estimate = async (request: CreateJob): Promise<Estimate> =>
  read(await app.request('/v1/estimates', jsonRequest('POST', request)), 200, estimateSchema);

describe('an estimate', () => {
  it('B2: says what a 7B model takes, on which machine it fits, how long and at what price', async () => {
    await open([gpu, { ...gpu, name: 'g5.8xlarge', hostBytes: 128e9, dollarsPerHour: 2.448 }]);
    const [modelId, calibrationDatasetId] = [await modelOf(llama7b), await textOf(100_000)];
    const request = {
      modelId,
      calibrationDatasetId,
      training: { tokens: 2 ** 20, sequenceLength: 2048, batchSize: 4 },
    };
    const found = await estimate(request);
    expect(found.parameters).toBe(6_738_415_616);
    // docs/memory.md: 7.7 GB on the device, 65 to 226 GB of main memory by the settings.
    expect(found.deviceBytes / 1e9).toBeGreaterThan(5);
    expect(found.deviceBytes / 1e9).toBeLessThan(12);
    expect(found).toMatchObject({ allowed: true, reason: null, secondsBasis: 'assumed' });
    expect(found.machines.map(({ name, fits }) => [name, fits])).toEqual([
      ['g5.2xlarge', false],
      ['g5.8xlarge', true],
    ]);
    // 3 bits, a scale of 16 bits for 128 weights, 1/256 cherries of 32 bits, the rest in 16 bits.
    const linear = 6_476_005_376;
    const bytes = (linear * (3 * (255 / 256) + (16 / 128) * (255 / 256) + 32 / 256)) / 8 + 2 * (6_738_415_616 - linear);
    expect(found.outputBytes.native).toBeGreaterThan(0.99 * bytes);
    expect(found.outputBytes.native).toBeLessThan(1.01 * bytes);
    expect(found.outputBytes.hf).toBe(2 * 6_738_415_616);
    // Three passes over the training's tokens and the impact's, two operations a weight.
    const tokens = 2 ** 20 + 25_000;
    const weights = linear + 32_000 * 4096;
    expect(found.operations / (2 * 3 * weights * tokens)).toBeCloseTo(1, 2);
    expect(found.seconds).toBeCloseTo(60 + found.operations / 4e12, 6);
    expect(found.machines[1]?.dollars).toBeCloseTo((2.448 * found.seconds) / 3600, 9);
  });

  it('needs no more of a model than its config, while the rest is on its way', async () => {
    await open([{ ...gpu, hostBytes: 256e9 }]);
    const contents = { 'config.json': JSON.stringify(llama7b), 'model.safetensors': 'to come' };
    const declaration = jsonRequest('POST', { name: 'llama', files: declarationOf(contents) });
    const { id: modelId } = await read(await app.request('/v1/models', declaration), 201, modelSchema);
    const request = { modelId, scheme: { method: 'rtn' } } as const;
    const ask = () => Promise.resolve(app.request('/v1/estimates', jsonRequest('POST', request)));
    expect((await readProblem(await ask(), 'conflict')).detail).toContain('is still being uploaded');
    const put = await app.request(`/v1/models/${modelId}/files/config.json`, {
      method: 'PUT',
      body: contents['config.json'],
    });
    expect(put.status).toBe(204);
    expect(await estimate(request)).toMatchObject({ allowed: true, parameters: 6_738_415_616 });
    const job = await app.request('/v1/jobs', jsonRequest('POST', request));
    await readProblem(job, 'conflict');
  });

  it('B2, B16: takes less for moments in bfloat16 or in a file, and hardly anything for rounding', async () => {
    await open([{ ...gpu, hostBytes: 256e9 }]);
    const [modelId, calibrationDatasetId] = [await modelOf(llama7b), await textOf(1000)];
    const [plain, half, file] = await Promise.all(
      [{}, { moments: 'bfloat16' }, { momentsIn: 'file' }].map((training) =>
        estimate({ modelId, calibrationDatasetId, training } as CreateJob),
      ),
    );
    const rounding = await estimate({ modelId, scheme: { method: 'rtn' } });
    const latent = 4 * 6_738_415_616;
    expect((plain?.hostBytes ?? 0) - (half?.hostBytes ?? 0)).toBeCloseTo(latent, -6);
    expect((plain?.hostBytes ?? 0) - (file?.hostBytes ?? 0)).toBeCloseTo(2 * latent, -6);
    expect((file?.diskBytes ?? 0) - (plain?.diskBytes ?? 0)).toBeCloseTo(2 * latent, -6);
    expect(rounding.hostBytes).toBeLessThan(4e9);
    expect(rounding.deviceBytes).toBe(0);
  });

  it('B1: of what cannot fit is not allowed, and such a job is refused with the figures and what would help', async () => {
    await open([gpu]);
    const [modelId, calibrationDatasetId] = [await modelOf(llama7b), await textOf(1000)];
    const found = await estimate({ modelId, calibrationDatasetId });
    expect(found.allowed).toBe(false);
    expect(found.reason).toMatch(/needs about \d+\.\d GB of memory .* g5.2xlarge has 32.0 GB/);
    const refused = await app.request('/v1/jobs', jsonRequest('POST', { modelId, calibrationDatasetId }));
    expect((await readProblem(refused, 'does_not_fit')).detail).toBe(found.reason);
    const rounding = await app.request('/v1/jobs', jsonRequest('POST', { modelId, scheme: { method: 'rtn' } }));
    const { estimate: kept } = await read(rounding, 202, jobSchema);
    expect(kept?.outputBytes.native).toBeGreaterThan(2e9);
  });

  it('B1: of what the disk has no room for is not allowed', async () => {
    await open([{ ...gpu, hostBytes: 256e9 }]);
    const [modelId, calibrationDatasetId] = [await modelOf(llama7b), await textOf(1000)];
    const { diskBytes } = await estimate({ modelId, calibrationDatasetId });
    vi.spyOn(api.store, 'freeBytes').mockResolvedValue(diskBytes / 2);
    const found = await estimate({ modelId, calibrationDatasetId });
    expect(found.allowed).toBe(false);
    expect(found.reason).toMatch(/needs about \d+\.\d GB of disk .* has room for \d+\.\d GB; free some space/);
    const refused = await app.request('/v1/jobs', jsonRequest('POST', { modelId, calibrationDatasetId }));
    expect((await readProblem(refused, 'does_not_fit')).detail).toBe(found.reason);
  });

  it('counts how often texts go through a model, but not what earlier jobs have measured', async () => {
    const machines = [{ ...gpu, hostBytes: 256e9 }];
    await open(machines);
    const [modelId, datasetId, questions] = [await modelOf(llama7b), await textOf(40_000), await textOf(1000)];
    const rounding = (settings: object, bits = 4): CreateJob =>
      ({ modelId, scheme: { method: 'rtn', bits }, evaluation: { datasetId, ...settings } }) as CreateJob;
    const trips = async (request: CreateJob): Promise<number> =>
      (await estimate(request)).operations / (2 * (6_476_005_376 + 32_000 * 4096) * 10_000);
    // The original, what was written in each of two formats; with divergence the original beside them.
    expect(await trips(rounding({}))).toBeCloseTo(3, 6);
    expect(await trips(rounding({ divergence: true }))).toBeCloseTo(5, 6);
    expect(await trips(rounding({ limits: { divergence: 0.1 } }))).toBeCloseTo(5, 6);
    const tasks = [{ datasetId: questions }];
    expect(await trips(rounding({ tasks }))).toBeCloseTo(3 + (2 * 4 * 250) / 10_000, 6);

    const { id } = await read(await app.request('/v1/jobs', jsonRequest('POST', rounding({}))), 202, jobSchema);
    const job = jobRef('local', id);
    await advanceState(api.store, job, () => stateOf('running'));
    await advanceState(api.store, job, () => ({ ...stateOf('succeeded'), result: emptyResult }));
    serve(machines);
    expect(await trips(rounding({}, 8))).toBeCloseTo(2, 6);
    expect(await trips(rounding({ divergence: true }))).toBeCloseTo(5, 6);
    const training = { tokens: 2048 * 4, impactSamples: 1, sequenceLength: 2048, batchSize: 4 };
    const trained = (bits: number): CreateJob =>
      ({
        ...rounding({}, bits),
        scheme: { method: 'qat', bits },
        calibrationDatasetId: questions,
        training,
      }) as CreateJob;
    const passes = (3 * 2048 * 4) / 10_000;
    expect(await trips(trained(4))).toBeCloseTo(2 + passes, 6);
    expect(await trips(trained(3))).toBeCloseTo(3 + passes, 6);
    const evaluated = { kind: 'evaluate', modelId, evaluation: { datasetId } } as const;
    expect(await trips(evaluated)).toBe(0);
    const compared: CreateJob = {
      kind: 'compare',
      modelId,
      scheme: { method: 'rtn' },
      comparison: { schemes: [{ bits: 3 }, { bits: 4 }] },
      evaluation: { datasetId },
    };
    expect(await trips(compared)).toBeCloseTo(2, 6);
  });

  it('of a comparison whose schemes are tried at once takes as long as the longest, at the price of all', async () => {
    const machines = [{ ...gpu, hostBytes: 256e9 }];
    await open(machines);
    const [modelId, datasetId, calibrationDatasetId] = [await modelOf(llama7b), await textOf(40_000), await textOf(99)];
    const request: CreateJob = {
      kind: 'compare',
      modelId,
      calibrationDatasetId,
      evaluation: { datasetId },
      comparison: { schemes: [{ method: 'rtn' }, { method: 'qat' }, { method: 'qat', bits: 4 }] },
      training: { tokens: 2 ** 16, sequenceLength: 2048, batchSize: 4 },
    };
    const evaluated = (2 * (6_476_005_376 + 32_000 * 4096) * 10_000) / 4e12;
    const trained = (3 * evaluated * 2 ** 16) / 10_000;
    const dollars = (seconds: number): unknown => expect.closeTo((1.212 * seconds) / 3600, 9);
    const one = await estimate(request);
    expect(one.seconds).toBeCloseTo(60 + 4 * evaluated + 2 * trained, 6);
    expect(one.machines).toMatchObject([{ dollars: dollars(one.seconds) }]);
    serve(machines, true);
    const many = await estimate(request);
    expect(many.seconds).toBeCloseTo(2 * (60 + evaluated) + trained, 6);
    expect(many.machines).toMatchObject([{ dollars: dollars(one.seconds + 3 * 60) }]);
  });

  it('learns from jobs that have ended, however many wait', async () => {
    const machines = [{ ...gpu, hostBytes: 256e9 }];
    await open(machines);
    const request = { modelId: await modelOf(llama7b), scheme: { method: 'rtn' } } as const;
    const create = async (): Promise<JobRef> => {
      const { id } = await read(await app.request('/v1/jobs', jsonRequest('POST', request)), 202, jobSchema);
      return jobRef('local', id);
    };
    const job = await create();
    await advanceState(api.store, job, () => stateOf('running'));
    const result: JobResult = { ...emptyResult, phaseSeconds: { load: 1, export: 2, report: 3 } };
    await advanceState(api.store, job, () => ({ ...stateOf('succeeded'), result }));
    await finishJob(api.store, job, systemClock);
    for (let waiting = 0; waiting < 40; waiting++) await create();
    serve(machines);
    expect(await estimate(request)).toMatchObject({ secondsBasis: 'measured', seconds: 60 + 6 });
  });

  it('takes its time from how long each phase of earlier jobs took, and knows what impact they left', async () => {
    const machines = [{ ...gpu, hostBytes: 256e9 }];
    await open(machines);
    const [modelId, calibrationDatasetId] = [await modelOf(llama7b), await textOf(100_000)];
    const request = { modelId, calibrationDatasetId, training: { tokens: 2 ** 16 } };
    const { id } = await read(await app.request('/v1/jobs', jsonRequest('POST', request)), 202, jobSchema);
    const phaseSeconds = { load: 10, impact: 50, train: 200, export: 30, report: 2 };
    const result: JobResult = { ...emptyResult, seconds: 300, phaseSeconds };
    const job = jobRef('local', id);
    await advanceState(api.store, job, () => stateOf('running'));
    await advanceState(api.store, job, () => ({ ...stateOf('succeeded'), result }));
    await finishJob(api.store, job, systemClock);
    serve(machines);

    const again = await estimate(request);
    expect(again.secondsBasis).toBe('measured');
    expect(again.work.impact).toBe(0);
    expect(again.seconds).toBeCloseTo(60 + 10 + 200 + 30 + 2, 6);
    const twice = await estimate({ ...request, training: { tokens: 2 ** 17 } });
    expect(twice.seconds).toBeCloseTo(60 + 10 + 400 + 30 + 2, 6);
    const otherWindows = await estimate({ ...request, training: { ...request.training, seed: 7 } });
    expect(otherWindows.seconds).toBeCloseTo(60 + 10 + 50 + 200 + 30 + 2, 6);
    const moreCherries = await estimate({ ...request, scheme: { cherryFraction: 1 / 16 } });
    expect(moreCherries.work.impact).toBeGreaterThan(0);
    const otherMethod = await estimate({ ...request, scheme: { method: 'qat' }, formats: ['native'] });
    expect(otherMethod.seconds).toBeCloseTo(60 + 10 + 200 + 15 + 2, 6);
  });

  it('takes the cheapest machine that fits, or the one that the request names, and the job keeps it', async () => {
    const large = { ...gpu, name: 'g5.16xlarge', hostBytes: 256e9, dollarsPerHour: 4.096 };
    await open([gpu, large, { ...large, name: 'g6e.8xlarge', dollarsPerHour: 4.529, operationsPerSecond: 8e12 }]);
    const [modelId, calibrationDatasetId] = [await modelOf(llama7b), await textOf(1000)];
    const request = { modelId, calibrationDatasetId };
    // Twice as fast at a tenth more by the hour.
    expect(await estimate(request)).toMatchObject({ allowed: true, machine: 'g6e.8xlarge' });
    expect(await estimate({ ...request, machine: 'g5.16xlarge' })).toMatchObject({
      allowed: true,
      machine: 'g5.16xlarge',
    });
    const small = await estimate({ ...request, machine: 'g5.2xlarge' });
    expect(small).toMatchObject({ allowed: false, machine: 'g5.2xlarge' });
    expect(small.reason).toContain('It fits on machine g6e.8xlarge.');

    const create = (body: object) => app.request('/v1/jobs', jsonRequest('POST', { ...request, ...body }));
    expect((await readProblem(await create({ machine: 'g5.2xlarge' }), 'does_not_fit')).param).toBe('machine');
    const unknown = await readProblem(await create({ machine: 'p9.large' }), 'invalid_request');
    expect(unknown).toMatchObject({ param: 'machine' });
    expect(unknown.detail).toContain('there is g5.2xlarge, g5.16xlarge, g6e.8xlarge');
    expect((await read(await create({}), 202, jobSchema)).machine).toBe('g6e.8xlarge');
    expect((await read(await create({ machine: 'g5.16xlarge' }), 202, jobSchema)).machine).toBe('g5.16xlarge');
  });

  it('of a model that is not read says so, as of inputs that are not there', async () => {
    await open([gpu]);
    const modelId = await modelOf({ ...llama7b, architectures: ['MambaForCausalLM'] });
    const request = (body: object) => app.request('/v1/estimates', jsonRequest('POST', body));
    const problem = await readProblem(await request({ modelId, scheme: { method: 'rtn' } }), 'invalid_request');
    expect(problem.detail).toMatch(/MambaForCausalLM.*LlamaForCausalLM/);
    await readProblem(await request({ modelId: '01ARZ3NDEKTSV4RRFFQ69G5FAV', scheme: { method: 'rtn' } }), 'not_found');
    const files = [{ path: 'config.json', sizeBytes: 3, sha256: sha256('[1]') }];
    const created = await app.request('/v1/models', jsonRequest('POST', { name: 'm', files }));
    const { id } = await read(created, 201, modelSchema);
    expect((await readProblem(await request({ modelId: id, scheme: { method: 'rtn' } }), 'conflict')).param).toBe(
      'modelId',
    );
  });
});
