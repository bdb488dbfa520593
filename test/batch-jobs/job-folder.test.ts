import { describe, expect, it } from 'vitest';
import type { JobError, JobState, StoredEvent } from 'cherryq/contract';
import { jobReserve, jobStateSchema, noOutcome, storedEventSchema } from 'cherryq/contract';
import { InterruptedError } from '../../batch-jobs/src/errors.ts';
import { JobFolder } from '../../batch-jobs/src/job-folder.ts';
import type { Store } from '../../batch-jobs/src/storage/index.ts';
import { FolderStore, StorageFullError } from '../../batch-jobs/src/storage/index.ts';
import { temporaryFolder, temporaryStore } from '../support/temporary-store.ts';
import { writeTinyJob } from '../support/tiny-model.ts';

const jsonOf = async (store: Store, key: string): Promise<unknown> =>
  JSON.parse(new TextDecoder().decode((await store.get(key)) ?? undefined));

async function statesOf(store: Store, prefix: string): Promise<JobState[]> {
  const keys = (await store.list(`${prefix}state/`)).map(({ key }) => key);
  return Promise.all(keys.map(async (key) => jobStateSchema.parse(await jsonOf(store, key))));
}

async function eventsOf(store: Store, prefix: string): Promise<StoredEvent[]> {
  const events: StoredEvent[] = [];
  for (const { key } of await store.list(`${prefix}events/`)) {
    const lines = new TextDecoder().decode((await store.get(key)) ?? undefined).trimEnd();
    for (const line of lines.split('\n')) events.push(storedEventSchema.parse(JSON.parse(line)));
  }
  return events;
}

async function claim(store: Store, prefix: string): Promise<JobFolder> {
  const job = await JobFolder.claim(store, prefix);
  if (job === null) throw new Error('the job has ended');
  return job;
}

const jobError: JobError = { fault: 'user', code: 'nan_weights', message: 'a tensor is not finite', param: 'a' };

describe('a job folder', () => {
  it('is claimed once more by each attempt, and keeps the time of the first', async () => {
    const store = await temporaryStore();
    const prefix = await writeTinyJob(store);
    const first = await claim(store, prefix);
    const second = await claim(store, prefix);
    expect([first.attempt, second.attempt]).toEqual([1, 2]);
    expect(second.firstStart).toEqual(first.firstStart);
    expect((await statesOf(store, prefix)).map(({ status, attempt, by }) => [status, attempt, by])).toEqual([
      ['running', 1, 'worker'],
      ['running', 2, 'worker'],
    ]);
    await expect(first.assertCurrent()).rejects.toThrow(InterruptedError);
    await second.assertCurrent();
  });

  it('gives each of several claims at once an attempt of its own', async () => {
    const store = await temporaryStore();
    const prefix = await writeTinyJob(store);
    const jobs = await Promise.all(Array.from({ length: 4 }, () => claim(store, prefix)));
    expect(jobs.map(({ attempt }) => attempt).sort()).toEqual([1, 2, 3, 4]);
  });

  it('lets workers share an attempt, which the first of them claims, until another follows', async () => {
    const store = await temporaryStore();
    const prefix = await writeTinyJob(store);
    const joined = await Promise.all(Array.from({ length: 4 }, () => JobFolder.join(store, prefix, 1)));
    expect(joined.map((job) => job?.attempt)).toEqual([1, 1, 1, 1]);
    expect(joined.filter((job) => job?.beganAttempt)).toHaveLength(1);
    expect(new Set(joined.map((job) => job?.firstStart.getTime())).size).toBe(1);
    for (const job of joined) await job?.assertCurrent();
    const next = await claim(store, prefix);
    expect(next).toMatchObject({ attempt: 2, beganAttempt: true });
    await expect(joined[0]?.assertCurrent()).rejects.toThrow(InterruptedError);
    expect(await JobFolder.join(store, prefix, 1)).toBeNull();
    // An attempt that nothing leads up to is not begun.
    expect(await JobFolder.join(store, prefix, 4)).toBeNull();
    await next.fail(jobError);
    expect(await JobFolder.join(store, prefix, 2)).toBeNull();
    expect(await JobFolder.join(store, prefix, 3)).toBeNull();
  });

  it('of a job that has ended is not claimed', async () => {
    const store = await temporaryStore();
    const prefix = await writeTinyJob(store);
    await (await claim(store, prefix)).fail(jobError);
    expect(await JobFolder.claim(store, prefix)).toBeNull();
    expect((await statesOf(store, prefix)).at(-1)).toMatchObject({ status: 'failed', error: jobError, result: null });
    expect(await eventsOf(store, prefix)).toMatchObject([{ type: 'job.failed', error: jobError }]);
  });

  it('without a spec is an error', async () => {
    await expect(JobFolder.claim(await temporaryStore(), 'tenants/local/jobs/1/')).rejects.toThrow('spec.json');
  });

  it('is not ended by an attempt that another has followed, nor after it was cancelled', async () => {
    const store = await temporaryStore();
    const prefix = await writeTinyJob(store);
    const first = await claim(store, prefix);
    const second = await claim(store, prefix);
    await first.fail(jobError);
    expect((await statesOf(store, prefix)).map(({ status }) => status)).toEqual(['running', 'running']);
    const cancelled: JobState = {
      status: 'cancelled',
      time: new Date().toISOString(),
      attempt: 2,
      by: 'api',
      keepCheckpoint: false,
      error: null,
      ...noOutcome,
    };
    await store.put(`${prefix}state/000003.json`, new TextEncoder().encode(JSON.stringify(cancelled)));
    await expect(second.assertCurrent()).rejects.toThrow(/cancelled/);
    await second.fail(jobError);
    expect((await statesOf(store, prefix)).at(-1)).toMatchObject({ status: 'cancelled', by: 'api' });
    expect(await eventsOf(store, prefix)).toEqual([]);
  });

  it('writes events in order, together where they come together', async () => {
    const store = await temporaryStore();
    const prefix = await writeTinyJob(store);
    const job = await claim(store, prefix);
    for (let step = 0; step < 50; step++) job.emit({ type: 'checkpoint', step });
    await job.flush();
    job.emit({ type: 'checkpoint', step: 50 });
    await job.flush();
    const events = await eventsOf(store, prefix);
    expect(events.map((event) => (event.type === 'checkpoint' ? event.step : null))).toEqual([...Array(51).keys()]);
    expect((await store.list(`${prefix}events/`)).length).toBeLessThan(5);
  });

  it('keeps events that could not be written on a full disk, and writes them once there is room', async () => {
    class Filling extends FolderStore {
      full = false;
      override async put(...parameters: Parameters<FolderStore['put']>): Promise<boolean> {
        if (this.full && parameters[0].includes('/events/')) throw new StorageFullError('no space is left');
        return super.put(...parameters);
      }
    }
    const store = new Filling(temporaryFolder());
    const prefix = await writeTinyJob(store);
    const job = await claim(store, prefix);
    store.full = true;
    job.emit({ type: 'log', level: 'info', message: 'one' });
    await expect(job.flush()).rejects.toThrow(StorageFullError);
    job.emit({ type: 'log', level: 'info', message: 'two' });
    store.full = false;
    await job.fail(jobError);
    expect(await eventsOf(store, prefix)).toMatchObject([
      { message: 'one' },
      { message: 'two' },
      { type: 'job.failed' },
    ]);
  });

  it('is claimed on a full disk as well, with the room that was held for its last words', async () => {
    class Full extends FolderStore {
      override async put(...parameters: Parameters<FolderStore['put']>): Promise<boolean> {
        const [key] = parameters;
        const hasRoom = !key.includes('/state/') || (await this.head(`${prefix}${jobReserve.path}`)) === null;
        if (!hasRoom) throw new StorageFullError('no space is left');
        return super.put(...parameters);
      }
    }
    const store = new Full(temporaryFolder());
    const prefix = await writeTinyJob(store);
    await store.put(`${prefix}${jobReserve.path}`, new Uint8Array(jobReserve.sizeBytes));
    const job = await claim(store, prefix);
    await job.fail(jobError);
    expect((await statesOf(store, prefix)).map(({ status }) => status)).toEqual(['running', 'failed']);
  });
});
