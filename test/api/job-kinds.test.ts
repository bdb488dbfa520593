/** What each kind of job takes, what it refuses and by what name, and what it is estimated at. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  estimateSchema,
  jobKinds,
  jobSchema,
  jobSpecSchema,
  type Estimate,
  type Job,
  type ProblemCode,
} from 'cherryq/contract';
import { jobRef, readSpec } from '../../api/src/job-log.ts';
import {
  createPlannedJob,
  jsonRequest,
  openTestApi,
  read,
  readJob,
  readProblem,
  until,
  uploadDataset,
  uploadModel,
  type TestApi,
} from '../support/api.ts';

let api: TestApi;
let ids: { modelId: string; train: string; test: string };
let made: Job;
beforeAll(async () => {
  api = await openTestApi({ concurrency: 1 });
  const { id: modelId } = await uploadModel(api);
  const [train, test] = [await uploadDataset(api, 'x'.repeat(9000)), await uploadDataset(api, 'y'.repeat(9000))];
  ids = { modelId, train: train.id, test: test.id };
  const { id } = await createPlannedJob(api, 'succeed');
  made = await until(
    () => readJob(api, id),
    (job) => job.status === 'succeeded',
  );
});
afterAll(() => api.close());

const unknown = '0'.repeat(26);
const post = (body: unknown) => api.app.request('/v1/jobs', jsonRequest('POST', body));
const estimate = async (body: unknown): Promise<Estimate> =>
  read(await api.app.request('/v1/estimates', jsonRequest('POST', body)), 200, estimateSchema);

/** A request that is taken, and is then spoilt. */
const request = {
  compress: () => ({ modelId: ids.modelId, calibrationDatasetId: ids.train, evaluation: { datasetId: ids.test } }),
  analyze: () => ({ kind: 'analyze', modelId: ids.modelId, calibrationDatasetId: ids.train }),
  evaluate: () => ({ kind: 'evaluate', modelId: ids.modelId, evaluation: { datasetId: ids.test } }),
  compare: () => ({
    kind: 'compare',
    modelId: ids.modelId,
    calibrationDatasetId: ids.train,
    evaluation: { datasetId: ids.test },
    comparison: { axes: { bits: [2, 3] } },
  }),
} as const;
type Kind = keyof typeof request;

describe('a request of each kind', () => {
  it('is known by its kind, which is compress where nobody says so', async () => {
    const { id: plan } = await uploadModel(api, 'planned');
    for (const kind of jobKinds) {
      const metadata = { plan: '["wait"]' };
      const body = { ...request[kind](), modelId: plan, metadata };
      const job = await read(await post(body), 202, jobSchema);
      expect(job).toMatchObject({ kind, modelId: plan, result: null, evaluationResult: null, comparisonResult: null });
      expect(job.scheme === null).toBe(kind === 'evaluate');
      await api.app.request(`/v1/jobs/${job.id}/cancel`, { method: 'POST' });
    }
  });

  it.each<[Kind, string, unknown, RegExp]>([
    ['compress', 'comparison', { axes: { bits: [2] } }, /comparison is not for jobs of kind compress/],
    ['compress', 'analysis', {}, /analysis is not for jobs of kind compress/],
    ['analyze', 'formats', ['hf'], /formats is not for jobs of kind analyze/],
    [
      'evaluate',
      'scheme',
      { bits: 3 },
      /scheme is not for jobs of kind evaluate: such a job measures a model as it is/,
    ],
    ['evaluate', 'training', {}, /training is not for jobs of kind evaluate/],
    ['evaluate', 'evaluation', undefined, /evaluation is required/],
    ['evaluate', 'artifact', { jobId: unknown }, /modelId must be given, or artifact in its place, and not both/],
    ['evaluate', 'modelId', undefined, /modelId must be given, or artifact in its place/],
    ['compare', 'formats', ['native'], /formats is not for jobs of kind compare/],
    ['compare', 'comparison', undefined, /comparison is required/],
    ['compare', 'comparison', {}, /comparison must hold either schemes or axes/],
    ['compare', 'comparison', { axes: { bits: [2] }, schemes: [{}] }, /comparison must hold either schemes or axes/],
    ['compare', 'comparison.axes.bits', [5], /comparison\.axes\.bits\.0 must be 2, 3, 4 or 8; got 5/],
    ['compare', 'comparison.axes.bits', [2, 2], /comparison\.axes\.bits names the same value twice/],
    ['compare', 'comparison.axes.colour', ['red'], /comparison\.axes\.colour is an unknown field; known are method/],
    [
      'compare',
      'comparison.axes',
      { bits: [2, 3, 4, 8], groupSize: [8, 16, 24, 32, 40, 44, 'row'] },
      /comparison\.axes gives 28 schemes; one job compares at most 24/,
    ],
    [
      'compare',
      'comparison',
      { schemes: [{ method: 'rtn' }, { bits: 2 }, { method: 'rtn', cherryFraction: 0.1 }] },
      /comparison\.schemes\.2 comes to the same as comparison\.schemes\.0/,
    ],
    [
      'compare',
      'calibrationDatasetId',
      undefined,
      /method cherryq trains on text, so calibrationDatasetId is required/,
    ],
    ['compare', 'evaluation.limits', { divergence: 1 }, /evaluation\.limits is not for jobs of kind compare/],
    ['compare', 'kind', 'contrast', /kind must be one of compress, analyze, evaluate, compare; got "contrast"/],
  ])('of %s with a bad %s is refused, naming the field', async (kind, path, value, message) => {
    const body = structuredClone(request[kind]()) as Record<string, unknown>;
    const names = path.split('.');
    const parent = names.slice(0, -1).reduce((at, name) => at[name] as Record<string, unknown>, body);
    parent[names.at(-1) ?? ''] = value;
    const { detail, param } = await readProblem(await post(body), 'invalid_request');
    expect(detail).toMatch(message);
    expect(message.source.replaceAll('\\', '')).toContain(param);
  });

  it('needs no calibration text to compare roundings', async () => {
    const { id: modelId } = await uploadModel(api, 'planned');
    const comparison = { axes: { method: ['rtn'], bits: [2, 3] } };
    const body = { ...request.compare(), modelId, calibrationDatasetId: undefined, comparison };
    const job = await read(await post({ ...body, metadata: { plan: '["wait"]' } }), 202, jobSchema);
    expect(job.comparison).toEqual(comparison);
    await api.app.request(`/v1/jobs/${job.id}/cancel`, { method: 'POST' });
  });
});

describe('the artifact that an evaluation measures', () => {
  const evaluate = (artifact: object) =>
    post({ kind: 'evaluate', artifact, evaluation: { datasetId: ids.test }, metadata: { plan: '["wait"]' } });

  it('lies where its job has written it, and keeps that job from being deleted', async () => {
    for (const [format, folder] of [
      ['native', 'artifacts/'],
      ['hf', 'artifacts/hf/'],
    ]) {
      const job = await read(await evaluate({ jobId: made.id, format }), 202, jobSchema);
      expect(job).toMatchObject({ modelId: made.modelId, artifact: { jobId: made.id, format } });
      const spec = jobSpecSchema.parse(await readSpec(api.store, jobRef('local', job.id)));
      expect(spec.modelPrefix).toBe(`tenants/local/jobs/${made.id}/${folder}`);
      const refused = await api.app.request(`/v1/jobs/${made.id}`, { method: 'DELETE' });
      expect((await readProblem(refused, 'conflict')).detail).toContain(`job ${job.id} measures what job`);
      await api.app.request(`/v1/jobs/${job.id}/cancel`, { method: 'POST' });
    }
  });

  it.each<[string, () => object, ProblemCode, string]>([
    ['that no job has', () => ({ jobId: unknown }), 'not_found', 'artifact.jobId'],
    ['of a format that is none', () => ({ jobId: made.id, format: 'gguf' }), 'invalid_request', 'artifact.format'],
  ])('%s is refused', async (_, artifact, code, param) => {
    expect((await readProblem(await evaluate(artifact()), code)).param).toBe(param);
  });

  it('of a job that makes no model, or has not ended, is refused', async () => {
    const { id: modelId } = await uploadModel(api, 'planned');
    const bodies = [
      { ...request.analyze(), modelId },
      { ...request.compress(), modelId },
    ];
    const codes = ['invalid_request', 'conflict'] as const;
    for (const [index, body] of bodies.entries()) {
      const job = await read(await post({ ...body, metadata: { plan: '["wait"]' } }), 202, jobSchema);
      const problem = await readProblem(await evaluate({ jobId: job.id }), codes[index] ?? 'internal');
      expect(problem.param).toBe('artifact.jobId');
      await api.app.request(`/v1/jobs/${job.id}/cancel`, { method: 'POST' });
    }
  });
});

describe('an estimate', () => {
  it('of a comparison adds up what its schemes compute, and takes the memory of the largest', async () => {
    const training = { tokens: 4096, sequenceLength: 32, impactSamples: 4 };
    const common = {
      modelId: ids.modelId,
      evaluation: { datasetId: ids.test },
      calibrationDatasetId: ids.train,
      training,
    };
    const one = async (scheme: object): Promise<Estimate> => estimate({ ...common, scheme, formats: ['native'] });
    const comparison = { schemes: [{ method: 'rtn', bits: 4 }, { bits: 2 }, { bits: 3 }] };
    const all = await estimate({ ...common, kind: 'compare', comparison });
    const [rtn, two, three] = await Promise.all([one({ method: 'rtn', bits: 4 }), one({ bits: 2 }), one({ bits: 3 })]);
    expect(all.hostBytes).toBe(Math.max(...[rtn, two, three].map((each) => each?.hostBytes ?? 0)));
    // Each compress job measures the original too, those that train also rounding; all but one find the impact.
    const evaluation = await estimate({ kind: 'evaluate', modelId: ids.modelId, evaluation: common.evaluation });
    const impact = await estimate({ ...common, kind: 'analyze', evaluation: undefined, analysis: { draws: 1 } });
    const sum = [rtn, two, three].reduce((total, each) => total + (each?.operations ?? 0), 0);
    expect(all.operations).toBeCloseTo(sum - 4 * evaluation.operations - impact.operations, -3);
    expect(all.outputBytes).toEqual({ native: null, hf: null });
  });

  it('of an evaluation is of its text alone, three times with a baseline', async () => {
    const body = { kind: 'evaluate', modelId: ids.modelId, evaluation: { datasetId: ids.test } };
    const [alone, compared] = [await estimate(body), await estimate({ ...body, baselineModelId: ids.modelId })];
    expect(alone.operations).toBeGreaterThan(0);
    expect(compared.operations).toBe(3 * alone.operations);
    expect(alone.diskBytes).toBe(0);
  });
});
