/** A comparison on Batch: an array job with a worker for each scheme, and one that waits for them and merges. */
import { beforeEach, describe, expect, it } from 'vitest';
import type { Job, JobState, JobStatus } from 'cherryq/contract';
import { jobSchema, jobStateSchema } from 'cherryq/contract';
import type { JobDetail } from '@aws-sdk/client-batch';
import type { BatchDetail } from '../../../api/src/adapters/batch-queue.ts';
import { advanceState, jobRef } from '../../../api/src/job-log.ts';
import { eventsOf, jsonRequest, read, uploadDataset, uploadModel } from '../../support/api.ts';
import type { BatchJob } from '../../support/batch-server.ts';
import type { BatchSetup } from '../../support/batch-setup.ts';
import { openBatch } from '../../support/batch-setup.ts';

let at: BatchSetup;
beforeEach(async () => {
  at = await openBatch();
});

const create = async (bits = [2, 3, 4, 8]): Promise<Job> => {
  const { id: modelId } = await uploadModel(at);
  const { id: datasetId } = await uploadDataset(at, 'a text to measure on');
  const comparison = { axes: { bits } };
  const request = { kind: 'compare', modelId, scheme: { method: 'rtn' }, comparison, evaluation: { datasetId } };
  return read(await at.app.request('/v1/jobs', jsonRequest('POST', request)), 202, jobSchema);
};
const readJob = async ({ id }: Job): Promise<Job> => read(await at.app.request(`/v1/jobs/${id}`), 200, jobSchema);
const act = async ({ id }: Job, action: string): Promise<Job> =>
  read(await at.app.request(`/v1/jobs/${id}/${action}`, { method: 'POST' }), 200, jobSchema);
const ref = ({ id }: Job) => jobRef('local', id);
const stateOf = (status: JobStatus, more: Partial<JobState> = {}): JobState =>
  jobStateSchema.parse({ status, time: new Date(at.clock.now()).toISOString(), attempt: 1, by: 'worker', ...more });
const leave = (job: Job, ...numbers: number[]) =>
  Promise.all(
    numbers.map((number) => at.store.put(`${ref(job).prefix}/checkpoints/variants/0${number}.json`, new Uint8Array(1))),
  );
const openJobs = async () => (await at.store.list('tenants/local/open/')).length;
const variables = ({ input }: BatchJob) =>
  Object.fromEntries((input.containerOverrides?.environment ?? []).map(({ name = '', value }) => [name, value]));
const schemesOf = (job: BatchJob) => variables(job)['CHERRYQ_SCHEMES'];
const terminated = () => at.batch.jobs.map((job) => job.terminated);
/** What Batch says of a job, or of one of its workers, as EventBridge hands it on. */
const tell = (detail: JobDetail, change: Partial<JobDetail>) =>
  at.queue.onStateChange(
    Object.assign(detail, change, { container: { ...detail.container, ...change.container } }) as BatchDetail,
  );
const killed = {
  status: 'FAILED',
  statusReason: 'Essential container in task exited',
  container: { exitCode: 137 },
} as const;
const stopped = { status: 'FAILED', statusReason: 'the job was cancelled' } as const;
const waitedInVain = { status: 'FAILED', statusReason: 'Dependent Job failed' } as const;

describe('a comparison', () => {
  it('is an array job with a worker for each scheme and one that waits for them, each submitted once', async () => {
    const job = await create();
    await at.queue.submit(ref(job));
    await at.another().submit(ref(job));
    const [array, last, ...others] = at.batch.jobs;
    expect(others).toEqual([]);
    const names = { jobQueue: 'gpus', jobDefinition: 'worker-local', shareIdentifier: 'local' };
    const tags = { 'cherryq:install': 'research', 'cherryq:job': job.id, 'cherryq:tenant': 'local' };
    expect(array.input).toMatchObject({
      jobName: `cherryq-${job.id}-schemes`,
      arrayProperties: { size: 4 },
      ...names,
      tags,
    });
    const common = { CHERRYQ_STORE: 's3://bucket/prefix', CHERRYQ_JOB: `tenants/local/jobs/${job.id}` };
    expect(variables(array)).toEqual({ ...common, CHERRYQ_SCHEMES: '1,2,3,4', CHERRYQ_ATTEMPT: '1' });
    expect(last.input).toMatchObject({
      jobName: `cherryq-${job.id}`,
      dependsOn: [{ jobId: array.detail.jobId }],
      ...names,
      tags,
    });
    expect(last.input.arrayProperties).toBeUndefined();
    expect(variables(last)).toEqual(common);
    expect(last.input.retryStrategy).toEqual(array.input.retryStrategy);
  });

  it('of one scheme is one job', async () => {
    const job = await create([3]);
    expect(at.batch.jobs.map(({ input }) => [input.jobName, input.dependsOn])).toEqual([
      [`cherryq-${job.id}`, undefined],
    ]);
  });

  it.each([
    ['of the array job', 0],
    ['of the one that waits', 1],
  ])('is there once when the answer to the submission %s was lost', async (_, through) => {
    let seen = 0;
    at.proxy.fail({ when: ({ url }) => url === '/v1/submitjob' && seen++ === through, times: 1, kind: 'lost' });
    await create();
    expect(at.batch.jobs).toHaveLength(2);
    expect(at.batch.jobs[1].input.dependsOn).toEqual([{ jobId: at.batch.jobs[0].detail.jobId }]);
  });

  it.each([
    ['before the array job', 0],
    ['between the two', 1],
    ['after both', 2],
  ])('whose submission died %s is gone on with, and is there once', async (_, there) => {
    const job = await create();
    const [array] = at.batch.jobs;
    await at.store.deletePrefix(`${ref(job).prefix}/batch/0002`);
    at.batch.jobs.length = there;
    at.wait(180_000);
    expect(await at.queue.reconcile()).toEqual({ open: 1, submitted: 1, ended: 0 });
    expect(at.batch.jobs).toHaveLength(2);
    if (there > 0) expect(at.batch.jobs[0]).toBe(array);
    await at.queue.cancel(ref(job));
    expect(terminated()).toEqual(['the job was cancelled', 'the job was cancelled']);
  });

  it('of which a submission died, and that was cancelled meanwhile, leaves nothing in Batch', async () => {
    const job = await create();
    await at.store.deletePrefix(`${ref(job).prefix}/batch/0002`);
    at.batch.jobs.length = 1;
    await act(job, 'cancel');
    await at.queue.reconcile();
    expect(terminated()).toEqual(['the job has ended']);
    expect(await openJobs()).toBe(0);
  });

  it('says once why its workers wait', async () => {
    const job = await create();
    const reason = { status: 'RUNNABLE', statusReason: 'MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT' } as const;
    for (const worker of at.batch.jobs[0].workers) await tell(worker, reason);
    const waiting = (await eventsOf(at.store, job.id)).filter(({ type }) => type === 'job.waiting');
    expect(waiting).toHaveLength(1);
  });

  it('that is cancelled is stopped whole, and put away once no worker has it any more', async () => {
    const job = await create();
    const [array, last] = at.batch.jobs;
    await advanceState(at.store, ref(job), () => stateOf('running'));
    array.detail.status = 'PENDING';
    await leave(job, 1);
    await act(job, 'cancel');
    expect(terminated()).toEqual(['the job was cancelled', 'the job was cancelled']);
    await tell(last.detail, stopped);
    // A worker is still at its last checkpoint.
    expect(await openJobs()).toBe(1);
    expect(await at.queue.reconcile()).toEqual({ open: 1, submitted: 0, ended: 0 });
    await tell(array.workers[0], { status: 'FAILED' });
    expect(await openJobs()).toBe(1);
    await tell(array.detail, stopped);
    expect(await openJobs()).toBe(0);
    expect(await at.store.list(`${ref(job).prefix}/checkpoints/`)).toEqual([]);
    expect((await readJob(job)).status).toBe('cancelled');
  });

  it('that is paused is stopped whole; resumed it tries at once what is left', async () => {
    const job = await create();
    await advanceState(at.store, ref(job), () => stateOf('running'));
    await leave(job, 2);
    await act(job, 'pause');
    expect(terminated()).toEqual(['the job was paused', 'the job was paused']);
    await act(job, 'resume');
    const [array, last, nextArray, nextLast] = at.batch.jobs;
    expect(at.batch.jobs).toHaveLength(4);
    expect([schemesOf(nextArray), variables(nextArray)['CHERRYQ_ATTEMPT']]).toEqual(['1,3,4', '2']);
    expect(nextLast.input.dependsOn).toEqual([{ jobId: nextArray.detail.jobId }]);
    // What is told of those that were stopped changes nothing.
    for (const { detail } of [array, last]) await tell(detail, stopped);
    expect((await readJob(job)).status).toBe('queued');
    expect(terminated().slice(2)).toEqual([null, null]);
  });

  it('of which a worker dies goes on with what is left, as long as some comes', async () => {
    const job = await create();
    const [array, last] = at.batch.jobs;
    await advanceState(at.store, ref(job), () => stateOf('running'));
    await leave(job, 1, 4);
    array.workers.forEach((worker, index) => (worker.status = index === 1 || index === 2 ? 'FAILED' : 'SUCCEEDED'));
    Object.assign(array.workers[1], killed);
    Object.assign(array.detail, { status: 'FAILED' });
    await tell(last.detail, waitedInVain);
    expect((await readJob(job)).status).toBe('running');
    const [, , second, waits] = at.batch.jobs;
    expect([at.batch.jobs.length, schemesOf(second), variables(second)['CHERRYQ_ATTEMPT']]).toEqual([4, '2,3', '2']);
    const said = (await eventsOf(at.store, job.id)).flatMap((event) =>
      event.type === 'job.interrupted' ? [event.reason] : [],
    );
    expect(said).toEqual(['The worker was killed by signal 9, most likely because memory ran out.']);

    await leave(job, 3);
    Object.assign(second.workers[0], killed);
    second.detail.status = 'FAILED';
    await tell(waits.detail, waitedInVain);
    // One scheme is left: the worker that merges tries it.
    const [alone, ...more] = at.batch.jobs.slice(4);
    expect([more.length, alone.input.dependsOn, alone.input.jobName]).toEqual([0, undefined, `cherryq-${job.id}`]);
    await tell(alone.detail, killed);
    expect(await readJob(job)).toMatchObject({ status: 'failed', error: { code: 'worker_crashed' } });
    expect(await openJobs()).toBe(0);
  });

  it('whose inputs a worker refuses is stopped whole', async () => {
    const job = await create();
    const [array, last] = at.batch.jobs;
    array.detail.status = 'PENDING';
    last.detail.status = 'PENDING';
    await advanceState(at.store, ref(job), () => stateOf('running'));
    const error = { fault: 'user', code: 'bad_config', message: 'no', param: 'modelId' } as const;
    await advanceState(at.store, ref(job), () => stateOf('failed', { error }));
    await tell(array.workers[2], { status: 'FAILED', container: { exitCode: 2 } });
    expect(terminated()).toEqual(['the job has ended', 'the job has ended']);
    await tell(last.detail, stopped);
    expect(await openJobs()).toBe(1);
    await tell(array.detail, stopped);
    expect(await openJobs()).toBe(0);
    expect(await readJob(job)).toMatchObject({ status: 'failed', error });
  });

  it('counts the time of every worker', async () => {
    const job = await create([2, 3]);
    const [array, last] = at.batch.jobs;
    await advanceState(at.store, ref(job), () => stateOf('running'));
    const measurement = { perplexity: 2, divergence: null, tasks: [], sizeBytes: 1, bitsPerWeight: 2 };
    const row = { scheme: job.scheme, measurement, perplexityRatio: 1, onFrontier: true, error: null };
    const comparisonResult = {
      ...{ engine: 'gpu', engineReason: 'x', parameters: 1, baseline: { ...measurement, bitsPerWeight: undefined } },
      ...{ rows: [3600, 1800].map((seconds) => ({ ...row, seconds })), peakHostBytes: null, evaluatedTokens: 1 },
      ...{ seconds: 3700, phaseSeconds: {} },
    };
    const ended = { ...stateOf('succeeded'), comparisonResult };
    await advanceState(at.store, ref(job), () => jobStateSchema.parse(ended));
    array.detail.status = 'SUCCEEDED';
    await tell(last.detail, { status: 'SUCCEEDED', container: { exitCode: 0 } });
    const usage = (await (await at.app.request('/v1/usage')).json()) as { computeHoursThisMonth: number };
    expect(usage.computeHoursThisMonth).toBeCloseTo(1.5, 3);
  });
});
