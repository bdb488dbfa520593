import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { jobSchema, pageOf, terminalStatuses, type Job, type ProblemCode } from 'cherryq/contract';
import { finishJob } from '../../api/src/attempt-end.ts';
import { createApp } from '../../api/src/app.ts';
import { deletedKey, endedKey, jobRef, openKey } from '../../api/src/job-log.ts';
import { localKeys, systemClock } from '../../api/src/ports.ts';
import { createServices, deleteOld } from '../../api/src/services.ts';
import {
  createPlannedJob,
  eventsOf,
  jsonRequest,
  openTestApi,
  read,
  readJob,
  readProblem,
  statesOf,
  until,
  uploadModel,
  type TestApi,
} from '../support/api.ts';

let api: TestApi;
beforeEach(async () => (api = await openTestApi({ concurrency: 1 })));
afterEach(() => api.close());

const post = (path: string, body?: object, headers?: Record<string, string>): Promise<Response> =>
  Promise.resolve(
    api.app.request(`/v1/jobs/${path}`, body ? jsonRequest('POST', body, headers) : { method: 'POST', headers }),
  );
const act = async (id: string, action: string, body?: object): Promise<Job> =>
  read(await post(`${id}/${action}`, body), 200, jobSchema);
const refused = async (id: string, action: string, code: ProblemCode = 'conflict'): Promise<string> =>
  (await readProblem(await post(`${id}/${action}`), code)).detail;
const withStatus = (id: string, ...statuses: Job['status'][]): Promise<Job> =>
  until(
    () => readJob(api, id),
    ({ status }) => statuses.includes(status),
  );
const checkpoints = async (id: string): Promise<number> =>
  (await api.store.list(`tenants/local/jobs/${id}/checkpoints/`)).length;
/** Ended, with nothing left to do. */
const putAway = (id: string): Promise<unknown> =>
  until(
    () => api.store.head(openKey(jobRef('local', id))),
    (found) => found === null,
  );
const remove = (id: string): Promise<Response> =>
  Promise.resolve(api.app.request(`/v1/jobs/${id}`, { method: 'DELETE' }));

describe('pausing', () => {
  it('stops the worker, keeps its checkpoint and lets the next job run; resuming goes on with the next attempt', async () => {
    const { id } = await createPlannedJob(api, 'checkpoint-wait', 'succeed');
    await withStatus(id, 'running');
    await until(
      () => checkpoints(id),
      (count) => count === 1,
    );
    expect(await act(id, 'pause')).toMatchObject({ status: 'paused', attempt: 1 });
    expect(await act(id, 'pause')).toMatchObject({ status: 'paused' });
    const other = await createPlannedJob(api, 'succeed');
    await withStatus(other.id, 'succeeded');
    expect(await readJob(api, id)).toMatchObject({ status: 'paused', attempt: 1, finishedAt: null });
    expect(await checkpoints(id)).toBe(1);

    await act(id, 'resume');
    expect(await withStatus(id, 'succeeded')).toMatchObject({ attempt: 2 });
    expect((await statesOf(api.store, id)).map(({ status }) => status)).toEqual([
      'running',
      'paused',
      'queued',
      'running',
      'succeeded',
    ]);
    const types = (await eventsOf(api.store, id)).map(({ type }) => type);
    expect(types.filter((type) => type === 'job.paused' || type === 'job.resumed')).toEqual([
      'job.paused',
      'job.resumed',
    ]);
  });

  it('of a waiting job keeps it from starting, also by another server', async () => {
    const first = await createPlannedJob(api, 'wait');
    await withStatus(first.id, 'running');
    const { id } = await createPlannedJob(api, 'succeed');
    await act(id, 'pause');
    await act(first.id, 'cancel');
    await withStatus(first.id, 'cancelled');
    await api.queue.close({ graceMs: 300 });
    const next = await openTestApi({ concurrency: 1, folder: api.folder });
    expect(await next.queue.recover()).toBe(0);
    expect(await readJob(api, id)).toMatchObject({ status: 'paused', attempt: 0 });
    expect((await next.app.request(`/v1/jobs/${id}/resume`, { method: 'POST' })).status).toBe(200);
    await withStatus(id, 'succeeded');
    await next.queue.close({ graceMs: 100 });
  });

  it('and resuming at once, while the worker still stops, loses nothing', async () => {
    const { id } = await createPlannedJob(api, 'wait', 'succeed');
    await withStatus(id, 'running');
    await act(id, 'pause');
    expect((await act(id, 'resume')).status).toBe('queued');
    expect((await act(id, 'resume')).status).not.toBe('paused');
    expect(await withStatus(id, 'succeeded')).toMatchObject({ attempt: 2 });
  });

  it('is refused of a job that has ended, and a paused one can be cancelled', async () => {
    const { id } = await createPlannedJob(api, 'succeed');
    await withStatus(id, 'succeeded');
    expect(await refused(id, 'pause')).toContain('already succeeded');
    expect(await refused(id, 'resume')).toContain('already succeeded');
    expect(await refused('01ARZ3NDEKTSV4RRFFQ69G5FAV', 'pause', 'not_found')).toContain('no job');
    const paused = await createPlannedJob(api, 'wait');
    await act(paused.id, 'pause');
    expect(await act(paused.id, 'cancel')).toMatchObject({ status: 'cancelled' });
    await putAway(paused.id);
  });
});

describe('cancelling', () => {
  it.each([
    [undefined, 0],
    [{}, 0],
    [{ keepCheckpoint: false }, 0],
    [{ keepCheckpoint: true }, 1],
  ])('with %j leaves so many checkpoints: %i', async (body, left) => {
    const { id } = await createPlannedJob(api, 'checkpoint-wait');
    await until(
      () => checkpoints(id),
      (count) => count === 1,
    );
    await act(id, 'cancel', body);
    await putAway(id);
    expect(await checkpoints(id)).toBe(left);
  });

  it('refuses a field that it does not know', async () => {
    const { id } = await createPlannedJob(api, 'succeed');
    const problem = await readProblem(await post(`${id}/cancel`, { keepCheckpoints: true }), 'invalid_request');
    expect(problem.detail).toContain('keepCheckpoint');
  });
});

describe('repeating', () => {
  it('makes a new job of the same settings that knows where the other one was', async () => {
    const { id, metadata, scheme } = await createPlannedJob(api, 'checkpoint-wait', 'succeed');
    await until(
      () => checkpoints(id),
      (count) => count === 1,
    );
    expect(await refused(id, 'retry')).toContain('is running');
    await act(id, 'cancel', { keepCheckpoint: true });
    await putAway(id);
    const send = () => post(`${id}/retry`, undefined, { 'Idempotency-Key': `again ${id}` });
    const again = await read(await send(), 202, jobSchema);
    expect(again).toMatchObject({ status: 'queued', retryOf: id, metadata, scheme });
    expect(again.id).not.toBe(id);
    const replayed = await send();
    expect(replayed.headers.get('idempotent-replayed')).toBe('true');
    expect(await read(replayed, 202, jobSchema)).toEqual(again);
    // It goes on from the other's checkpoint, so that must stay.
    expect((await readProblem(await remove(id), 'conflict')).detail).toContain(again.id);
    await act(again.id, 'cancel');
    await putAway(again.id);
    expect((await remove(id)).status).toBe(204);
  });

  it('is refused of a job that has succeeded', async () => {
    const { id } = await createPlannedJob(api, 'succeed');
    await withStatus(id, 'succeeded');
    expect(await refused(id, 'retry')).toContain('is succeeded');
  });
});

describe('an ended job', () => {
  it('is counted once, however often its end is seen and its creation repeated', async () => {
    const { id: modelId } = await uploadModel(api);
    const body = { modelId, scheme: { method: 'rtn' }, metadata: { plan: '["succeed"]' } };
    const create = () =>
      Promise.resolve(api.app.request('/v1/jobs', jsonRequest('POST', body, { 'Idempotency-Key': 'k' })));
    const { id } = await read(await create(), 202, jobSchema);
    await withStatus(id, 'succeeded');
    await putAway(id);
    const ended = async () => (await api.store.list('tenants/local/ended/')).map(({ key }) => key);
    const [key, ...others] = await ended();
    expect(others).toEqual([]);
    expect(key).toContain(id);
    expect((await create()).headers.get('idempotent-replayed')).toBe('true');
    const later = { now: () => Date.now() + 86_400_000 };
    expect(await finishJob(api.store, jobRef('local', id), later)).toBe(true);
    expect(await ended()).toEqual([key]);
    expect(await api.store.head(openKey(jobRef('local', id)))).toBeNull();
  });
});

describe('deleting', () => {
  it('leaves nothing of a job but that it was deleted, and its Idempotency-Key makes no other', async () => {
    const { id: modelId } = await uploadModel(api);
    const body = { modelId, scheme: { method: 'rtn' }, metadata: { plan: '["wait"]' } };
    const create = () =>
      Promise.resolve(api.app.request('/v1/jobs', jsonRequest('POST', body, { 'Idempotency-Key': 'k' })));
    const { id } = await read(await create(), 202, jobSchema);
    expect((await readProblem(await remove(id), 'conflict')).detail).toContain('cancel it first');
    await act(id, 'cancel');
    await putAway(id);
    expect((await remove(id)).status).toBe(204);
    await readProblem(await remove(id), 'not_found');
    await readProblem(await Promise.resolve(api.app.request(`/v1/jobs/${id}`)), 'not_found');
    const page = await read(await api.app.request('/v1/jobs'), 200, pageOf(jobSchema));
    expect(page.data).toEqual([]);
    const keys = (await api.store.list('tenants/local/')).map(({ key }) => key).filter((key) => key.includes(id));
    expect(keys).toEqual([deletedKey('local', id), expect.stringContaining('/ended/')]);
    expect((await readProblem(await create(), 'conflict')).detail).toContain('was deleted');
  });

  it('that breaks off is gone on with', async () => {
    const { id } = await createPlannedJob(api, 'succeed');
    await withStatus(id, 'succeeded');
    await putAway(id);
    const job = jobRef('local', id);
    await api.store.put(openKey(job), new Uint8Array());
    await api.store.delete(`${job.prefix}/spec.json`);
    await readProblem(await Promise.resolve(api.app.request(`/v1/jobs/${id}`)), 'not_found');
    expect(await api.queue.recover()).toBe(0);
    expect(await api.store.list(job.prefix)).toEqual([]);
    expect(await api.store.head(openKey(job))).toBeNull();
  });

  it('comes by itself after some days, of ended jobs only', async () => {
    const old = await createPlannedJob(api, 'succeed');
    await withStatus(old.id, 'succeeded');
    await putAway(old.id);
    const waiting = await createPlannedJob(api, 'wait');
    const services = createServices({ ...api, clock: systemClock });
    expect(await deleteOld(services, systemClock, null)).toBe(0);
    expect(await deleteOld(services, systemClock, 1)).toBe(0);
    const later = { now: () => Date.now() + 3 * 86_400_000 };
    expect(await deleteOld(services, later, 1)).toBe(1);
    expect(await deleteOld(services, later, 1)).toBe(0);
    const app = createApp({ ...api, clock: systemClock, keys: localKeys, version: '1', logger: () => undefined });
    expect((await app.request(`/v1/jobs/${old.id}`)).status).toBe(404);
    const left = await readJob(api, waiting.id);
    expect(terminalStatuses.has(left.status)).toBe(false);
    expect(await api.store.head(endedKey(jobRef('local', old.id), Date.now()))).toBeNull();
  });
});
