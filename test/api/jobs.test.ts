import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  artifactListSchema,
  jobEventSchema,
  jobSchema,
  jobSpecSchema,
  manifestSchema,
  noOutcome,
  pageOf,
  schemeSchema,
  type Job,
  type JobEvent,
  type JobState,
} from 'cherryq/contract';
import { appendEvents, jobRef, readSpec } from '../../api/src/job-log.ts';
import { jobView } from '../../api/src/jobs.ts';
import { systemClock } from '../../api/src/ports.ts';
import {
  createPlannedJob,
  jsonRequest,
  openTestApi,
  read,
  readJob,
  readProblem,
  sha256,
  until,
  uploadDataset,
  uploadModel,
  type TestApi,
} from '../support/api.ts';

/** One API whose jobs stay queued, one whose jobs run. */
let idle: TestApi;
let busy: TestApi;
let done: Job;
beforeAll(async () => {
  [idle, busy] = await Promise.all([openTestApi(), openTestApi({ concurrency: 1 })]);
  const { id } = await createPlannedJob(busy, 'succeed');
  done = await until(
    () => readJob(busy, id),
    (job) => job.status !== 'queued' && job.status !== 'running',
  );
});
afterAll(() => Promise.all([idle.close(), busy.close()]));

const create = (body: unknown, headers = {}) => idle.app.request('/v1/jobs', jsonRequest('POST', body, headers));
const events = pageOf(jobEventSchema);

describe('creating a job', () => {
  it('answers 202 with its address and writes a spec with every default and the places of its inputs', async () => {
    const model = await uploadModel(idle);
    const [calibration, evaluation] = [
      await uploadDataset(idle, 'one text'),
      await uploadDataset(idle, 'another text'),
    ];
    const response = await create({
      modelId: model.id,
      calibrationDatasetId: calibration.id,
      evaluation: { datasetId: evaluation.id },
    });
    const job = await read(response, 202, jobSchema);
    expect(response.headers.get('location')).toBe(`/v1/jobs/${job.id}`);
    expect(job).toMatchObject({ status: 'queued', attempt: 0, modelName: 'tiny', startedAt: null, finishedAt: null });
    expect(job.scheme).toEqual(schemeSchema.parse({}));

    const spec = jobSpecSchema.parse(await readSpec(idle.store, jobRef('local', job.id)));
    expect(spec).toMatchObject({
      modelPrefix: `tenants/local/models/${model.id}/files/`,
      calibrationPrefix: `tenants/local/datasets/${calibration.id}/files/`,
      evaluationPrefix: `tenants/local/datasets/${evaluation.id}/files/`,
      createdAt: job.createdAt,
    });
    const log = await read(await idle.app.request(`/v1/jobs/${job.id}/events`), 200, events);
    expect(log.data).toMatchObject([{ id: '00000000.0001', type: 'job.queued' }]);
  });

  it('refuses a model that is missing or unfinished, naming the field', async () => {
    const missing = '01ARZ3NDEKTSV4RRFFQ69G5FAV';
    expect((await readProblem(await create({ modelId: missing, scheme: { method: 'rtn' } }), 'not_found')).param).toBe(
      'modelId',
    );
    const declared = { name: 'm', files: [{ path: 'config.json', sizeBytes: 1, sha256: '0'.repeat(64) }] };
    const { id } = await (await idle.app.request('/v1/models', jsonRequest('POST', declared))).json();
    const problem = await readProblem(await create({ modelId: id, scheme: { method: 'rtn' } }), 'conflict');
    expect(problem).toMatchObject({ param: 'modelId', detail: expect.stringContaining('still being uploaded') });
  });

  it.each(['qat', 'cherryq'])('refuses %s without a calibration text', async (method) => {
    const { id: modelId } = await uploadModel(idle);
    const problem = await readProblem(await create({ modelId, scheme: { method } }), 'invalid_request');
    expect(problem.param).toBe('calibrationDatasetId');
  });

  it('refuses to measure on the text that it trains on', async () => {
    const { id: modelId } = await uploadModel(idle);
    const [one, same] = [await uploadDataset(idle, 'equal'), await uploadDataset(idle, 'equal')];
    const body = { modelId, calibrationDatasetId: one.id, evaluation: { datasetId: same.id } };
    expect((await readProblem(await create(body), 'invalid_request')).param).toBe('evaluation.datasetId');
  });

  it('happens once for one idempotency key, even for twins that arrive together', async () => {
    const { id: modelId } = await uploadModel(idle);
    const send = () => create({ modelId, scheme: { method: 'rtn' } }, { 'Idempotency-Key': 'twins' });
    const answers = await Promise.all([send(), send(), send()]);
    const statuses = answers.map((answer) => answer.status);
    expect(statuses).toContain(202);
    expect(statuses.every((status) => status === 202 || status === 409)).toBe(true);
    const { id } = await read(await send(), 202, jobSchema);
    const made = (await idle.store.folders('tenants/local/jobs/')).filter((each) => each === id);
    expect(made).toHaveLength(1);
    await readProblem(
      await create({ modelId, scheme: { method: 'rtn', bits: 2 } }, { 'Idempotency-Key': 'twins' }),
      'idempotency_mismatch',
    );
  });
});

describe('listing jobs', () => {
  it('goes from the newest to the oldest by cursor, and by status', async () => {
    const page = pageOf(jobSchema);
    const list = async (query: string) => read(await idle.app.request(`/v1/jobs?${query}`), 200, page);
    const created = [await createPlannedJob(idle, 'succeed'), await createPlannedJob(idle, 'succeed')];
    const ids = created.map((job) => job.id).reverse();
    const first = await list('limit=1');
    expect(first).toMatchObject({ data: [{ id: ids[0] }], hasMore: true });
    expect((await list(`limit=1&after=${ids[0]}`)).data[0]?.id).toBe(ids[1]);
    await idle.app.request(`/v1/jobs/${ids[1]}/cancel`, { method: 'POST' });
    expect((await list('status=cancelled')).data.map((job) => job.id)).toEqual([ids[1]]);
    expect((await list('status=running')).data).toEqual([]);
    expect((await list('status=queued')).data.map((job) => job.id)).not.toContain(ids[1]);
    expect((await list('status=queued')).data[0]?.id).toBe(ids[0]);
  });

  it('finds by kind, model and a pair of metadata, whose value may hold equals signs', async () => {
    const page = pageOf(jobSchema);
    const list = async (query: string) => {
      const found = await read(await idle.app.request(`/v1/jobs?${query}`), 200, page);
      return found.data.map((job) => job.id);
    };
    const { id: modelId } = await uploadModel(idle);
    const body = { modelId, scheme: { method: 'rtn' }, metadata: { team: 'a=b' } };
    const { id } = await read(await create(body), 202, jobSchema);
    expect(await list(`modelId=${modelId}`)).toEqual([id]);
    expect(await list('metadata=team%3Da%3Db')).toEqual([id]);
    expect(await list(`modelId=${modelId}&metadata=team%3Dc`)).toEqual([]);
    expect(await list(`modelId=${modelId}&kind=analyze`)).toEqual([]);
    const problem = await readProblem(await idle.app.request('/v1/jobs?metadata=team'), 'invalid_request');
    expect(problem.detail).toContain('key=value');
  });
});

describe('cancelling a job', () => {
  it('ends it, may be repeated, and leaves its event', async () => {
    const { id } = await createPlannedJob(idle, 'succeed');
    for (const attempt of [1, 2]) {
      const response = await idle.app.request(`/v1/jobs/${id}/cancel`, { method: 'POST' });
      expect((await read(response, 200, jobSchema)).status, `attempt ${attempt}`).toBe('cancelled');
    }
    expect((await readJob(idle, id)).finishedAt).not.toBeNull();
    const log = await read(await idle.app.request(`/v1/jobs/${id}/events`), 200, events);
    expect(log.data.map((event) => event.type)).toEqual(['job.queued', 'job.cancelled']);
  });

  it('is refused once it has succeeded, and for an unknown job', async () => {
    const refusal = await busy.app.request(`/v1/jobs/${done.id}/cancel`, { method: 'POST' });
    expect((await readProblem(refusal, 'conflict')).detail).toContain('already succeeded');
    await readProblem(
      await busy.app.request('/v1/jobs/01ARZ3NDEKTSV4RRFFQ69G5FAV/cancel', { method: 'POST' }),
      'not_found',
    );
  });
});

describe('a job that has run', () => {
  it('B5: shows its result, times, attempt and last progress', () => {
    expect(done).toMatchObject({
      status: 'succeeded',
      attempt: 1,
      error: null,
      progress: { fraction: 1 },
      result: { parameters: 8 },
    });
    expect(Date.parse(done.finishedAt ?? '')).toBeGreaterThanOrEqual(Date.parse(done.startedAt ?? ''));
  });

  it('pages through its events without gap or repeat', async () => {
    const all = await read(await busy.app.request(`/v1/jobs/${done.id}/events`), 200, events);
    expect(all.data.map((event) => event.type)).toEqual(['job.queued', 'job.started', 'progress', 'job.succeeded']);
    const seen: JobEvent[] = [];
    for (let after = ''; ;) {
      const page = await read(await busy.app.request(`/v1/jobs/${done.id}/events?limit=1${after}`), 200, events);
      seen.push(...page.data);
      after = `&after=${page.data.at(-1)?.id}`;
      if (!page.hasMore) break;
    }
    expect(seen).toEqual(all.data);
    const after = await busy.app.request(`/v1/jobs/${done.id}/events?after=${seen.at(-1)?.id}`);
    expect((await read(after, 200, events)).data).toEqual([]);
  });
});

describe('the event stream', () => {
  const open = (api: TestApi, id: string, headers = {}, query = '') =>
    api.app.request(`/v1/jobs/${id}/events${query}`, { headers: { accept: 'text/event-stream', ...headers } });
  const parse = (text: string) =>
    text
      .split('\n\n')
      .filter((block) => block.startsWith('id:'))
      .map((block) => {
        const [id = '', name = '', data = ''] = block.split('\n').map((line) => line.slice(line.indexOf(' ') + 1));
        const event = jobEventSchema.parse(JSON.parse(data));
        expect({ id: event.id, name: event.type }).toEqual({ id, name });
        return event;
      });

  it('gives every event with its id and ends after the closing one', async () => {
    const response = await open(busy, done.id);
    expect(response.headers.get('content-type')).toMatch('text/event-stream');
    const text = await response.text();
    expect(text).toMatch(/^retry: \d+\n\n/);
    expect(parse(text).map((event) => event.type)).toEqual(['job.queued', 'job.started', 'progress', 'job.succeeded']);
  });

  it('goes on after Last-Event-ID or `after`, whichever is later', async () => {
    const all = parse(await (await open(busy, done.id)).text());
    const [first, second] = all;
    const rest = parse(
      await (await open(busy, done.id, { 'Last-Event-ID': second?.id ?? '' }, `?after=${first?.id}`)).text(),
    );
    expect(rest).toEqual(all.slice(2));
    expect(parse(await (await open(busy, done.id, { 'Last-Event-ID': all.at(-1)?.id ?? '' })).text())).toEqual([]);
    await readProblem(await open(busy, done.id, { 'Last-Event-ID': 'x' }), 'invalid_request');
  });

  it('B21: sends events as they come and a sign of life between, until its window closes', async () => {
    const { id } = await createPlannedJob(idle, 'succeed');
    const text = (await open(idle, id)).text();
    await new Promise((resolve) => setTimeout(resolve, 150));
    const line = { type: 'log' as const, level: 'info' as const, message: 'two\nlines' };
    await appendEvents(idle.store, jobRef('local', id), systemClock, [line, line]);
    const sent = await text;
    expect(sent).toContain(': still here\n\n');
    expect(parse(sent).map((event) => event.id)).toEqual(['00000000.0001', '00000001.0001', '00000001.0002']);
  });

  it('stops when the reader goes', async () => {
    const { id } = await createPlannedJob(idle, 'succeed');
    const reader = (await open(idle, id)).body?.getReader();
    await reader?.read();
    await expect(reader?.cancel()).resolves.toBeUndefined();
  });
});

describe('artifacts', () => {
  const address = () => `/v1/jobs/${done.id}/artifacts`;
  const file = (path: string, headers = {}, method = 'GET') =>
    busy.app.request(`${address()}/${path}`, { method, headers });
  const body = 'sixteen bytes ..';
  const etag = `"${sha256(body)}"`;

  it('are listed from the manifest, and only of a job that has succeeded', async () => {
    const list = await read(await busy.app.request(address()), 200, artifactListSchema);
    expect(list.data[0]).toEqual({ path: 'model/weights.bin', sizeBytes: 16, sha256: sha256(body), url: null });
    const { id } = await createPlannedJob(idle, 'succeed');
    const early = await idle.app.request(`/v1/jobs/${id}/artifacts`);
    expect((await readProblem(early, 'conflict')).detail).toContain('is queued');
  });

  it('are downloaded whole, with their hash as ETag', async () => {
    const response = await file('model/weights.bin');
    expect(response.status).toBe(200);
    expect(Object.fromEntries(response.headers)).toMatchObject({
      etag,
      'content-length': '16',
      'accept-ranges': 'bytes',
    });
    expect(await response.text()).toBe(body);
    expect((await file('model/weights.bin', { 'If-None-Match': etag })).status).toBe(304);
    manifestSchema.parse(await (await file('manifest.json')).json());
  });

  it.each([
    ['bytes=0-6', 'sixteen', 'bytes 0-6/16'],
    ['bytes=14-', '..', 'bytes 14-15/16'],
    ['bytes=-8', 'bytes ..', 'bytes 8-15/16'],
    ['bytes=8-999', 'bytes ..', 'bytes 8-15/16'],
  ])('are downloaded in part: %s', async (range, text, contentRange) => {
    const response = await file('model/weights.bin', { Range: range, 'If-Range': etag });
    expect(response.status).toBe(206);
    expect(response.headers.get('content-range')).toBe(contentRange);
    expect(response.headers.get('content-length')).toBe(String(text.length));
    expect(await response.text()).toBe(text);
  });

  it('refuse a range outside the file, and give the whole of a file that has changed since', async () => {
    const response = await file('model/weights.bin', { Range: 'bytes=16-' });
    expect(response.headers.get('content-range')).toBe('bytes */16');
    await readProblem(response, 'range_not_satisfiable');
    expect((await file('model/weights.bin', { Range: 'bytes=0-1', 'If-Range': '"old"' })).status).toBe(200);
    expect((await file('model/weights.bin', { Range: 'lines=0-1' })).status).toBe(200);
  });

  it('answer HEAD without a body', async () => {
    const response = await file('model/weights.bin', {}, 'HEAD');
    expect(response.status).toBe(200);
    expect(response.headers.get('content-length')).toBe('16');
    expect(response.body).toBeNull();
  });

  it('put a report into a sandbox and know no file outside the manifest', async () => {
    expect((await file('report.html')).headers.get('content-security-policy')).toMatch(/^sandbox/);
    expect((await readProblem(await file('spec.json'), 'not_found')).detail).toContain('report.html');
    expect((await file('..%2Fspec.json')).status).toBe(400);
  });
});

describe('jobView', () => {
  it('is queued without states, and takes the error of a final state only', async () => {
    const spec = jobSpecSchema.parse(await readSpec(busy.store, jobRef('local', done.id)));
    expect(jobView({ spec, states: [], progress: null })).toMatchObject({
      status: 'queued',
      attempt: 0,
      finishedAt: null,
    });
    const time = '2026-01-01T00:00:00.000Z';
    const error = { fault: 'service' as const, code: 'internal', message: 'm', param: null };
    const state = (status: JobState['status'], attempt: number): JobState => ({
      status,
      time,
      attempt,
      by: 'worker',
      keepCheckpoint: false,
      error,
      ...noOutcome,
    });
    expect(jobView({ spec, states: [state('running', 1), state('running', 2)], progress: null })).toMatchObject({
      status: 'running',
      attempt: 2,
      startedAt: time,
      finishedAt: null,
      error: null,
    });
    expect(jobView({ spec, states: [state('failed', 0)], progress: null })).toMatchObject({
      status: 'failed',
      startedAt: null,
      error,
    });
  });
});
