import { beforeEach, describe, expect, it } from 'vitest';
import type { Job, JobEvent, JobState, JobStatus } from 'cherryq/contract';
import { jobSchema, jobStateSchema, pageOf } from 'cherryq/contract';
import type { Store } from '@cherryq/batch-jobs/storage';
import { createNumbered } from '@cherryq/batch-jobs/storage';
import type { BatchDetail } from '../../../api/src/adapters/batch-queue.ts';
import { createBatchQueue } from '../../../api/src/adapters/batch-queue.ts';
import { createApp } from '../../../api/src/app.ts';
import {
  advanceState,
  createJobFolder,
  encodeJson,
  jobRef,
  readLatestState,
  readSpec,
} from '../../../api/src/job-log.ts';
import { localKeys } from '../../../api/src/ports.ts';
import { eventsOf, jsonRequest, read, uploadModel } from '../../support/api.ts';
import type { BatchSetup } from '../../support/batch-setup.ts';
import { gpus, openBatch } from '../../support/batch-setup.ts';

const minute = 60_000;

let at: BatchSetup;

beforeEach(async () => {
  at = await openBatch();
});

const create = async (): Promise<Job> => {
  const { id } = await uploadModel(at);
  const body = jsonRequest('POST', { modelId: id, scheme: { method: 'rtn' } });
  return read(await at.app.request('/v1/jobs', body), 202, jobSchema);
};
const readJob = async ({ id }: Job): Promise<Job> => read(await at.app.request(`/v1/jobs/${id}`), 200, jobSchema);
const ref = ({ id }: Job) => jobRef('local', id);
const eventsIn = (job: Job): Promise<JobEvent[]> => eventsOf(at.store, job.id);
const openJobs = async () => (await at.store.list('tenants/local/open/')).length;
const stateOf = (status: JobStatus, more: Partial<JobState> = {}): JobState =>
  jobStateSchema.parse({ status, time: new Date(at.clock.now()).toISOString(), attempt: 1, by: 'worker', ...more });
/** What the container writes when it begins. */
const start = (job: Job) => advanceState(at.store, ref(job), () => stateOf('running'));
const become = (index: number, change: object) => Object.assign(at.batch.jobs[index].detail, change);
const failed = (exitCode: number) => ({
  status: 'FAILED',
  statusReason: 'Essential container in task exited',
  container: { exitCode },
});
/** As EventBridge hands it on. */
const tell = (index: number, change: Parameters<typeof become>[1] & { container?: object }) => {
  const { detail } = at.batch.jobs[index];
  const container = { environment: detail.container?.environment, ...change.container };
  return at.queue.onStateChange(Object.assign(detail, change, { container }));
};

describe('a job', () => {
  it('is submitted once, with the store, its folder and what to do at each end', async () => {
    const job = await create();
    await at.queue.submit(ref(job));
    await at.another().submit(ref(job));
    expect(at.batch.jobs.map(({ input }) => input)).toEqual([
      expect.objectContaining({
        jobName: `cherryq-${job.id}`,
        jobQueue: 'gpus',
        jobDefinition: 'worker-local',
        shareIdentifier: 'local',
        containerOverrides: {
          environment: [
            { name: 'CHERRYQ_STORE', value: 's3://bucket/prefix' },
            { name: 'CHERRYQ_JOB', value: `tenants/local/jobs/${job.id}` },
          ],
        },
        tags: { 'cherryq:install': 'research', 'cherryq:job': job.id, 'cherryq:tenant': 'local' },
      }),
    ]);
    const { evaluateOnExit = [] } = at.batch.jobs[0].input.retryStrategy ?? {};
    expect(evaluateOnExit.length).toBeLessThanOrEqual(5);
    expect(evaluateOnExit.filter(({ action }) => action === 'RETRY')).toEqual([
      { onStatusReason: 'Host EC2*', action: 'RETRY' },
      { onExitCode: '75', action: 'RETRY' },
      { onExitCode: '3', action: 'RETRY' },
    ]);
  });

  it('goes to the queue of its machine, with the definition and the share of its tenant', async () => {
    const queue = createBatchQueue({
      store: at.store,
      storeUrl: 's3://bucket/prefix',
      clock: at.clock,
      logger: () => undefined,
      targets: [
        { machine: 'small', jobQueue: 't4', jobDefinition: 't4-{tenant}' },
        { machine: 'large', jobQueue: 'h100', jobDefinition: 'h100-{tenant}' },
      ],
      installName: 'research',
      client: at.batch.client,
    });
    const spec = await readSpec(at.store, ref(await create()));
    if (spec === null) throw new Error('the job has no spec');
    at.batch.jobs.length = 0;
    const machines = { small: 't4', large: 'h100', 'that is no longer there': 'h100' };
    let number = 0;
    for (const machine of [...Object.keys(machines), null]) {
      const job = jobRef('team-a', `01ARZ3NDEKTSV4RRFFQ69G5FA${number++}`);
      await createJobFolder(at.store, job, { ...spec, id: job.id, machine });
      await queue.submit(job);
    }
    const submitted = at.batch.jobs.map(({ input }) => [input.jobQueue, input.jobDefinition, input.shareIdentifier]);
    expect(submitted).toEqual([...Object.values(machines), 'h100'].map((gpu) => [gpu, `${gpu}-team-a`, 'teamZ2dZa']));
    await queue.check();
  });

  it('of a tenant that the install has no definition for fails, and says what to do', async () => {
    at.batch.missing.add('worker-local');
    const job = await create();
    expect(await readJob(job)).toMatchObject({ status: 'failed', error: { fault: 'service', code: 'not_started' } });
    expect((await readJob(job)).error?.message).toMatch(/tenant local: .*does not exist.* cherryq:tenants/);
    expect(await at.queue.reconcile()).toEqual({ open: 0, submitted: 0, ended: 0 });
  });

  it('is submitted once by twenty callers at the same time', async () => {
    const job = await create();
    await at.store.deletePrefix(`tenants/local/jobs/${job.id}/batch/`);
    at.batch.jobs.length = 0;
    await Promise.all(Array.from({ length: 20 }, () => at.another().submit(ref(job))));
    expect(at.batch.jobs).toHaveLength(1);
  });

  it('is not submitted again when the answer to the first time was lost', async () => {
    at.proxy.fail({ when: ({ url }) => url === '/v1/submitjob', times: 1, kind: 'lost' });
    const job = await create();
    expect(at.batch.jobs).toHaveLength(1);
    expect(job.status).toBe('queued');
    await at.queue.cancel(ref(job));
    expect(at.batch.jobs[0].terminated).toBe('the job was cancelled');
  });

  it('gets through a busy Batch', async () => {
    at.proxy.fail({ when: () => true, times: 3, kind: { status: 503, code: 'ServiceUnavailable' } });
    await create();
    expect(at.batch.jobs).toHaveLength(1);
  });

  it('that is cancelled is stopped', async () => {
    const job = await create();
    await read(await at.app.request(`/v1/jobs/${job.id}/cancel`, { method: 'POST' }), 200, jobSchema);
    expect(at.batch.jobs[0].terminated).toBe('the job was cancelled');
    await tell(0, failed(143));
    expect((await readJob(job)).status).toBe('cancelled');
    expect(await openJobs()).toBe(0);
  });
});

describe('a creation that breaks off', () => {
  /** Removes what would have been written after a point. */
  const undo = async (job: Job, ...parts: string[]) => {
    for (const part of parts) await at.store.deletePrefix(`tenants/local/jobs/${job.id}/${part}`);
  };

  it('before the spec is forgotten after a while', async () => {
    const job = await create();
    at.batch.jobs.length = 0;
    await undo(job, '');
    expect(await at.queue.reconcile()).toEqual({ open: 1, submitted: 0, ended: 0 });
    at.wait(61 * minute);
    expect(await at.queue.reconcile()).toEqual({ open: 1, submitted: 0, ended: 1 });
    expect(await openJobs()).toBe(0);
    expect(at.batch.jobs).toEqual([]);
  });

  it.each([
    ['after the spec', ['events/', 'batch/']],
    ['after the first event', ['batch/']],
  ])('%s is gone on with', async (_, parts) => {
    const job = await create();
    at.batch.jobs.length = 0;
    await undo(job, ...parts);
    expect(await at.queue.reconcile()).toEqual({ open: 1, submitted: 1, ended: 0 });
    expect(await at.queue.reconcile()).toEqual({ open: 1, submitted: 0, ended: 0 });
    expect(at.batch.jobs).toHaveLength(1);
    expect((await readJob(job)).status).toBe('queued');
  });

  it.each([
    ['before', 0],
    ['after', 1],
  ])('%s Batch has it is repaired once the claim is old, and runs once', async (_, known) => {
    const job = await create();
    await undo(job, 'batch/0002');
    at.batch.jobs.length = known;
    await at.queue.submit(ref(job));
    expect(await at.queue.reconcile()).toEqual({ open: 1, submitted: 0, ended: 0 });
    expect(at.batch.jobs).toHaveLength(known);
    at.wait(3 * minute);
    expect(await at.queue.reconcile()).toEqual({ open: 1, submitted: 1, ended: 0 });
    expect(at.batch.jobs).toHaveLength(1);
    await at.queue.cancel(ref(job));
    expect(at.batch.jobs[0].terminated).not.toBeNull();
  });

  it('in a caller that was only slow leaves one job in Batch', async () => {
    const job = await create();
    await undo(job, 'batch/');
    at.batch.jobs.length = 0;
    // The slow one has claimed; the other comes after the claim has expired, and is through before it goes on.
    at.proxy.fail({ when: ({ url }) => url === '/v1/submitjob', times: 1, kind: { status: 503, code: 'Slow' } });
    const slow = at.queue.submit(ref(job));
    at.wait(3 * minute);
    await at.another().submit(ref(job));
    await slow.catch(() => undefined);
    await at.queue.reconcile();
    expect(at.batch.jobs.filter(({ terminated }) => terminated === null)).toHaveLength(1);
  });
});

describe('pausing a job', () => {
  const act = async (job: Job, action: string): Promise<Job> =>
    read(await at.app.request(`/v1/jobs/${job.id}/${action}`, { method: 'POST' }), 200, jobSchema);
  const told = (index: number) => at.queue.onStateChange(at.batch.jobs[index].detail as BatchDetail);

  it('stops its Batch job, whose end is no failure; resuming submits another, even while the first one stops', async () => {
    const job = await create();
    become(0, { status: 'RUNNING' });
    await start(job);
    expect((await act(job, 'pause')).status).toBe('paused');
    expect(at.batch.jobs[0].terminated).toBe('the job was paused');
    expect((await act(job, 'resume')).status).toBe('queued');
    expect((await act(job, 'resume')).status).toBe('queued');
    expect(at.batch.jobs).toHaveLength(2);
    become(0, failed(143));
    await told(0);
    expect(await at.queue.reconcile()).toEqual({ open: 1, submitted: 0, ended: 0 });
    expect(await readJob(job)).toMatchObject({ status: 'queued', error: null });
    expect(at.batch.jobs).toHaveLength(2);
    expect(at.batch.jobs[1].terminated).toBeNull();
  });

  it('lasts as long as nobody resumes it', async () => {
    const job = await create();
    await start(job);
    await act(job, 'pause');
    become(0, failed(143));
    await told(0);
    at.wait(60 * minute);
    expect(await at.queue.reconcile()).toEqual({ open: 1, submitted: 0, ended: 0 });
    expect(at.batch.jobs).toHaveLength(1);
    expect((await readJob(job)).status).toBe('paused');
    expect(
      (await read(await at.app.request(`/v1/jobs/${job.id}/cancel`, { method: 'POST' }), 200, jobSchema)).status,
    ).toBe('cancelled');
    expect(await openJobs()).toBe(0);
  });

  it('holds when the process died before it could tell Batch', async () => {
    const job = await create();
    await start(job);
    await advanceState(at.store, ref(job), () => stateOf('paused'));
    become(0, { status: 'RUNNING' });
    await at.queue.reconcile();
    expect(at.batch.jobs[0].terminated).toBe('the job was paused');
    become(0, failed(143));
    await at.queue.reconcile();
    expect(at.batch.jobs).toHaveLength(1);
    expect((await readJob(job)).status).toBe('paused');
  });

  it('holds when the process died before it could tell Batch, and the worker went by itself', async () => {
    const job = await create();
    await start(job);
    await advanceState(at.store, ref(job), () => stateOf('paused'));
    become(0, { status: 'SUCCEEDED', container: { exitCode: 0 } });
    await told(0);
    await at.queue.reconcile();
    expect(await readJob(job)).toMatchObject({ status: 'paused', error: null });
    await act(job, 'resume');
    expect(at.batch.jobs).toHaveLength(2);
  });

  it('holds when it comes between the claim and the submission', async () => {
    const job = await create();
    at.batch.jobs.length = 0;
    await at.store.deletePrefix(`${ref(job).prefix}/batch/`);
    await advanceState(at.store, ref(job), () => stateOf('paused'));
    await at.queue.submit(ref(job));
    expect(at.batch.jobs).toHaveLength(1);
    expect(at.batch.jobs[0].terminated).toBe('the job was paused');
    await act(job, 'resume');
    expect(at.batch.jobs.map(({ terminated }) => terminated)).toEqual(['the job was paused', null]);
  });
});

describe('the end of a Batch job', () => {
  it.each([
    ['exit code 1', failed(1), 'service', 'internal', /exit code 1/],
    ['exit code 2 without a word', failed(2), 'user', 'invalid_input', /refused its input/],
    [
      'success without a result',
      { status: 'SUCCEEDED', container: { exitCode: 0 } },
      'service',
      'internal',
      /left no result/,
    ],
    [
      'too little memory',
      { status: 'FAILED', container: { exitCode: 137, reason: 'OutOfMemoryError: Container killed' } },
      'user',
      'out_of_memory',
      /more memory than its job definition/,
    ],
    [
      'more time than a job may take',
      { status: 'FAILED', statusReason: 'Job attempt duration exceeded timeout', container: { exitCode: 137 } },
      'user',
      'timed_out',
      /go on from its checkpoint/,
    ],
    [
      'an image that cannot be read',
      {
        status: 'FAILED',
        statusReason: 'Task failed to start',
        container: { reason: 'CannotPullContainerError: denied' },
      },
      'service',
      'not_started',
      /execution role may read it/,
    ],
    [
      'ten reclaimed machines without a checkpoint',
      {
        status: 'FAILED',
        statusReason: 'Host EC2 (instance i-1) terminated.',
        container: {},
        attempts: Array.from({ length: 10 }, () => ({})),
      },
      'service',
      'worker_interrupted',
      /10 attempts in a row/,
    ],
    [
      'a kill that Batch does not repeat',
      { ...failed(137), attempts: [{}] },
      'service',
      'worker_crashed',
      /^The only attempt ended before a checkpoint/,
    ],
  ])('B17: by %s fails the job and says whose fault it is', async (_, detail, fault, code, message) => {
    const job = await create();
    await start(job);
    await tell(0, detail);
    const { status, error } = await readJob(job);
    expect({ status, fault: error?.fault, code: error?.code }).toEqual({ status: 'failed', fault, code });
    expect(error?.message).toMatch(message);
    expect((await eventsIn(job)).at(-1)?.type).toBe('job.failed');
    expect(await openJobs()).toBe(0);
  });

  it('after ten reclaimed machines goes on in another, as long as checkpoints come', async () => {
    const job = await create();
    await start(job);
    const gone = { status: 'FAILED', statusReason: 'Host EC2 (instance i-1) terminated.', container: {} };
    await at.store.put(`tenants/local/jobs/${job.id}/checkpoints/1`, new Uint8Array(1));
    await tell(0, gone);
    expect(at.batch.jobs).toHaveLength(2);
    expect((await readJob(job)).status).toBe('running');
    // The same event again, and one of the Batch job that no longer counts.
    await tell(0, gone);
    expect(at.batch.jobs).toHaveLength(2);
    await tell(1, gone);
    expect(at.batch.jobs).toHaveLength(2);
    expect((await readJob(job)).status).toBe('failed');
  });

  it('that no event told of is found', async () => {
    const job = await create();
    become(0, failed(1));
    expect(await at.queue.reconcile()).toEqual({ open: 1, submitted: 0, ended: 1 });
    expect((await readJob(job)).status).toBe('failed');
    expect(await at.queue.reconcile()).toEqual({ open: 0, submitted: 0, ended: 0 });
  });

  it('that Batch has forgotten fails the job', async () => {
    const job = await create();
    at.batch.jobs.length = 0;
    await at.queue.reconcile();
    expect(await readJob(job)).toMatchObject({ status: 'failed', error: { code: 'lost' } });
  });

  it('is left alone where the worker has had the last word', async () => {
    const job = await create();
    await start(job);
    const error = { fault: 'user' as const, code: 'invalid_tensor', message: 'a tensor is cut short', param: null };
    await advanceState(at.store, ref(job), () => stateOf('failed', { error }));
    await tell(0, failed(2));
    expect((await readJob(job)).error).toEqual(error);
    expect((await eventsIn(job)).map(({ type }) => type)).toEqual(['job.queued', 'job.failed']);
  });

  it('of a job of another does nothing', async () => {
    await at.queue.onStateChange({ jobId: 'x', jobName: 'other', status: 'FAILED', container: {} });
    const environment = [{ name: 'CHERRYQ_JOB', value: '../../jobs/x' }];
    await at.queue.onStateChange({ jobId: 'x', jobName: 'other', status: 'FAILED', container: { environment } });
    expect(await at.store.list('')).toEqual([]);
  });
});

describe('while a job waits', () => {
  it('B18, B20: for a week, it is there and waits; Batch is given no time after which to end it', async () => {
    const job = await create();
    expect(at.batch.jobs[0]?.input.timeout).toBeUndefined();
    become(0, { status: 'RUNNABLE' });
    for (let day = 0; day < 7; day++) {
      at.wait(24 * 60 * minute);
      expect(await at.queue.reconcile()).toEqual({ open: 1, submitted: 0, ended: 0 });
      expect((await readJob(job)).status).toBe('queued');
    }
  });

  it('B22: its events say why, once for each reason', async () => {
    const job = await create();
    const runnable = (statusReason: string) => ({ status: 'RUNNABLE', statusReason });
    await tell(0, runnable('CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - no p5'));
    await tell(0, runnable('CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - no p5'));
    become(0, runnable('MISCONFIGURATION:COMPUTE_ENVIRONMENT_MAX_RESOURCE'));
    await at.queue.reconcile();
    const reasons = (await eventsIn(job)).flatMap((event) => (event.type === 'job.waiting' ? [event.reason] : []));
    expect(reasons).toEqual([
      expect.stringMatching(/no such machine free .*\(CAPACITY:/),
      expect.stringMatching(/raise its maximum of vCPUs/),
    ]);
  });

  it('a job that has ended is stopped in Batch, though nobody could be told at the time', async () => {
    const job = await create();
    await advanceState(at.store, ref(job), () => stateOf('cancelled'));
    become(0, { status: 'RUNNING' });
    await at.queue.reconcile();
    expect(at.batch.jobs[0].terminated).toBe('the job has ended');
    expect(await openJobs()).toBe(1);
    become(0, failed(143));
    await at.queue.reconcile();
    expect(await openJobs()).toBe(0);
    expect((await readLatestState(at.store, ref(job)))?.status).toBe('cancelled');
  });
});

describe('the queue', () => {
  it('that cannot take jobs says why', async () => {
    await at.queue.check();
    at.batch.queueState = { state: 'ENABLED', status: 'INVALID', statusReason: 'no compute environment' };
    await expect(at.queue.check()).rejects.toThrow('gpus of AWS Batch is ENABLED and INVALID: no compute environment');
  });

  it('goes on with the other jobs when one cannot be reconciled', async () => {
    const broken = await create();
    const fine = await create();
    await createNumbered(at.store, `tenants/local/jobs/${broken.id}/batch/`, 4, '.json', 3, encodeJson({ type: '?' }));
    become(1, failed(1));
    expect(await at.queue.reconcile()).toEqual({ open: 2, submitted: 0, ended: 1 });
    expect((await readJob(fine)).status).toBe('failed');
  });
});

describe('a creation that dies', () => {
  const writes = 10;
  /** The store as a process sees it that dies with its nth write; `done`: once that is through. */
  const dying = (store: Store, after: number, done: boolean): Store => {
    let left = after;
    return Object.assign(Object.create(store) as Store, {
      async put(...args: Parameters<Store['put']>): Promise<boolean> {
        if (left-- > 0) return store.put(...args);
        if (left === -1 && done) await store.put(...args);
        throw new Error('the process has died');
      },
    });
  };
  const cases = Array.from({ length: writes }, (_, after) => [false, true].map((done) => ({ after, done }))).flat();

  it.each(cases)('with write $after, done: $done, leaves no job or one that runs, once', async ({ after, done }) => {
    const { id: modelId } = await uploadModel(at);
    const queueOf = (store: Store) =>
      createBatchQueue({
        store,
        storeUrl: 's3://bucket/prefix',
        clock: at.clock,
        logger: () => undefined,
        targets: gpus,
        installName: 'research',
        client: at.batch.client,
      });
    const appOf = (store: Store) =>
      createApp({
        store,
        queue: queueOf(store),
        clock: at.clock,
        logger: () => undefined,
        keys: localKeys,
        version: '1.2.3',
      });
    const request = jsonRequest('POST', { modelId, scheme: { method: 'rtn' } }, { 'idempotency-key': 'once' });
    const broken = await appOf(dying(at.store, after, done)).request('/v1/jobs', request);

    at.wait(3 * minute);
    await queueOf(at.store).reconcile();
    const jobs = pageOf(jobSchema).parse(await (await appOf(at.store).request('/v1/jobs')).json()).data;
    expect(at.batch.jobs).toHaveLength(jobs.length);
    expect(jobs.length).toBeLessThanOrEqual(1);
    // What was acknowledged is there.
    if (broken.status === 202) expect(jobs).toHaveLength(1);

    // The client asks again, as it does after an error of the server.
    at.wait(61 * minute);
    const again = await read(await appOf(at.store).request('/v1/jobs', request), 202, jobSchema);
    await queueOf(at.store).reconcile();
    expect(again.status).toBe('queued');
    expect(at.batch.jobs.map(({ input }) => input.jobName)).toEqual([`cherryq-${again.id}`]);
    if (jobs[0] !== undefined) expect(again.id).toBe(jobs[0].id);
  });

  it('two hundred at once with one key and body make one job, in Batch too; another body is refused', async () => {
    const { id: modelId } = await uploadModel(at);
    const post = async (bits: number) =>
      at.app.request(
        '/v1/jobs',
        jsonRequest('POST', { modelId, scheme: { method: 'rtn', bits } }, { 'idempotency-key': 'many' }),
      );
    const statuses = (await Promise.all(Array.from({ length: 200 }, () => post(3)))).map(({ status }) => status);
    expect(new Set(statuses)).toSatisfy((found: Set<number>) =>
      [...found].every((status) => [202, 409].includes(status)),
    );
    expect(statuses).toContain(202);
    expect((await post(4)).status).toBe(422);
    expect((await post(3)).status).toBe(202);
    expect(at.batch.jobs).toHaveLength(1);
  });
});
