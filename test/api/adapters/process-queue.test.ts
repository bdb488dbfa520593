import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { terminalStatuses, type Job } from 'cherryq/contract';
import { indexKey } from '../../../api/src/newest-first.ts';
import { createJobFolder, jobRef, openKey, readSpec } from '../../../api/src/job-log.ts';
import { createPlannedJob, eventsOf, openTestApi, readJob, statesOf, until, type TestApi } from '../../support/api.ts';

let api: TestApi;
beforeEach(async () => (api = await openTestApi({ concurrency: 1 })));
afterEach(() => api.close());

const ended = (id: string): Promise<Job> =>
  until(
    () => readJob(api, id),
    (job) => terminalStatuses.has(job.status),
  );
const running = (id: string): Promise<Job> =>
  until(
    () => readJob(api, id),
    (job) => job.status === 'running',
  );
async function eventTypes(id: string): Promise<string[]> {
  return (await eventsOf(api.store, id)).map(({ type }) => type);
}
/** Of a job that has ended: its last event is written a moment after its final state. */
const allEventTypes = (id: string): Promise<string[]> =>
  until(
    () => eventTypes(id),
    (types) => /^job\.(succeeded|failed|cancelled)$/.test(types.at(-1) ?? ''),
  );
const openJobs = async (): Promise<number> => (await api.store.list('tenants/local/open/')).length;
/** Each start of a worker: job, attempt, process. */
async function starts(): Promise<{ id: string; attempt: number; pid: number }[]> {
  const text = await readFile(join(api.folder, 'worker.log'), 'utf8').catch(() => '');
  return text
    .split('\n')
    .filter(Boolean)
    .map((line) => line.split(' '))
    .map(([id = '', attempt, pid]) => ({ id, attempt: Number(attempt), pid: Number(pid) }));
}
function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

describe('a worker', () => {
  it('that is killed is started again at once, and the job says so', async () => {
    const { id } = await createPlannedJob(api, 'crash', 'crash', 'succeed');
    expect(await ended(id)).toMatchObject({ status: 'succeeded', attempt: 3 });
    expect(await allEventTypes(id)).toEqual([
      'job.queued',
      'job.started',
      'job.interrupted',
      'job.started',
      'job.interrupted',
      'job.started',
      'progress',
      'job.succeeded',
    ]);
    const statuses = (await statesOf(api.store, id)).map((state) => state.status);
    expect(statuses).toEqual(['running', 'running', 'running', 'succeeded']);
  });

  it('that is killed five times without a new checkpoint fails the job, naming signal and likely cause', async () => {
    const { id } = await createPlannedJob(api, 'checkpoint-crash', 'checkpoint-crash', 'crash');
    const job = await ended(id);
    expect(job).toMatchObject({ status: 'failed', attempt: 7, error: { fault: 'service', code: 'worker_crashed' } });
    expect(job.error?.message).toMatch(/SIGKILL.*memory ran out/);
    expect((await allEventTypes(id)).at(-1)).toBe('job.failed');
  });

  it('that meets a passing error is tried again after a pause, five times in all', async () => {
    const { id } = await createPlannedJob(api, 'exit:3', 'exit:3', 'succeed');
    expect(await ended(id)).toMatchObject({ status: 'succeeded', attempt: 3 });
    const hopeless = await createPlannedJob(api, 'exit:3');
    expect(await ended(hopeless.id)).toMatchObject({ status: 'failed', attempt: 5, error: { code: 'unavailable' } });
  });

  it('that was interrupted goes on', async () => {
    const { id } = await createPlannedJob(api, 'exit:75', 'succeed');
    expect(await ended(id)).toMatchObject({ status: 'succeeded', attempt: 2 });
  });

  it('that refuses its input fails the job at the first attempt, as the fault of the user', async () => {
    const { id } = await createPlannedJob(api, 'exit:2');
    expect(await ended(id)).toMatchObject({
      status: 'failed',
      attempt: 1,
      error: { fault: 'user', code: 'invalid_input' },
    });
  });

  it('that has a bug fails the job with its last words, without secrets', async () => {
    const { id } = await createPlannedJob(api, 'exit:1');
    const { error } = await ended(id);
    expect(error).toMatchObject({ fault: 'service', code: 'internal' });
    expect(error?.message).toContain('loss is not a number in block 3; token=[removed]');
  });

  it('that ends as if done without a result fails the job', async () => {
    const { id } = await createPlannedJob(api, 'exit:0');
    expect(await ended(id)).toMatchObject({ status: 'failed', error: { code: 'internal' } });
  });
});

describe('the queue', () => {
  it('runs one job after the other in the order they came', async () => {
    const jobs = [];
    for (let i = 0; i < 3; i++) jobs.push(await createPlannedJob(api, 'succeed'));
    await ended(jobs[2]?.id ?? '');
    expect((await starts()).map((start) => start.id)).toEqual(jobs.map((job) => job.id));
  });

  it('drops a cancelled job that waits and stops one that runs', async () => {
    const [first, second] = [await createPlannedJob(api, 'wait'), await createPlannedJob(api, 'succeed')];
    await running(first.id);
    for (const { id } of [second, first]) await api.app.request(`/v1/jobs/${id}/cancel`, { method: 'POST' });
    await until(openJobs, (count) => count === 0);
    expect(await starts()).toHaveLength(1);
    expect((await readJob(api, first.id)).status).toBe('cancelled');
    expect(await eventTypes(first.id)).toEqual(['job.queued', 'job.started', 'job.cancelled']);
  });

  it('kills a cancelled worker that does not stop when asked', async () => {
    const { id } = await createPlannedJob(api, 'stubborn');
    await running(id);
    const { pid } = await until(
      async () => (await starts())[0] ?? { pid: 0 },
      (start) => start.pid > 0,
    );
    await api.app.request(`/v1/jobs/${id}/cancel`, { method: 'POST' });
    await until(
      () => Promise.resolve(isAlive(pid)),
      (alive) => !alive,
    );
    expect((await readJob(api, id)).status).toBe('cancelled');
  });

  it('closes so that another queue on the same store can go on', async () => {
    const { id } = await createPlannedJob(api, 'wait', 'succeed');
    await running(id);
    await until(starts, (list) => list.length === 1);
    await api.queue.close({ graceMs: 2000 });
    expect((await readJob(api, id)).status).toBe('running');
    expect((await eventTypes(id)).at(-1)).toBe('job.interrupted');

    const next = await openTestApi({ concurrency: 1, folder: api.folder });
    expect(await next.queue.recover()).toBe(1);
    expect(await ended(id)).toMatchObject({ status: 'succeeded', attempt: 2 });
    await next.queue.close({ graceMs: 100 });
  });

  it('recovers a job whose creator died after writing its spec', async () => {
    const { id } = await createPlannedJob(api, 'succeed');
    await ended(id);
    const spec = await readSpec(api.store, jobRef('local', id));
    const orphan = jobRef('local', '01ARZ3NDEKTSV4RRFFQ69G5FAV');
    if (spec) await createJobFolder(api.store, orphan, { ...spec, id: orphan.id });
    await api.store.deletePrefix(`${orphan.prefix}/events/`);
    expect(await api.queue.recover()).toBe(1);
    expect(await ended(orphan.id)).toMatchObject({ status: 'succeeded', attempt: 1 });
  });

  it('forgets a creation that broke off before its spec', async () => {
    const orphan = jobRef('local', '01ARZ3NDEKTSV4RRFFQ69G5FAV');
    await api.store.put(openKey(orphan), new Uint8Array());
    await api.store.put(indexKey('local', 'jobs', orphan.id), new Uint8Array());
    expect(await api.queue.recover()).toBe(0);
    expect(await api.store.list('tenants/')).toEqual([]);
  });

  it('gives a job that ended without its closing event that event', async () => {
    const { id } = await createPlannedJob(api, 'succeed');
    await ended(id);
    await until(
      () => eventTypes(id),
      (types) => types.includes('job.succeeded'),
    );
    await until(openJobs, (count) => count === 0);
    await api.store.delete(`${jobRef('local', id).prefix}/events/00000003.ndjson`);
    await api.store.put(openKey(jobRef('local', id)), new Uint8Array());
    expect(await eventTypes(id)).not.toContain('job.succeeded');
    expect(await api.queue.recover()).toBe(0);
    expect((await eventTypes(id)).at(-1)).toBe('job.succeeded');
  });
});
