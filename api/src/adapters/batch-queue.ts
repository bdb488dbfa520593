/**
 * The queue of a private install: each job is a job of AWS Batch, which starts our container on a machine with a GPU and,
 * where that machine is taken away or the worker asks for it, starts it again.
 *
 * `SubmitJob` cannot be told that it is a repetition, so who submits is decided in the store first:
 *
 *     tenants/<tenant>/open/<id>          the job may still need Batch; written before anything else of it, deleted last
 *     <job>/batch/<n>.json  claimed       one caller may submit now, until the claim is old
 *                           submitted     the id that Batch gave
 *                           stopped       that Batch job was told to stop, for the job was paused
 *
 * A claim that was not followed by an id is looked up in Batch by the job's name, which nobody else uses, before anybody
 * submits again. What Batch says of a job comes by its events; `reconcile` asks for what was missed.
 *
 * A comparison is two jobs of Batch: an array job with a worker for each scheme that has no result, and one that waits for all of
 * them, tries what they have left, and merges. The latter counts: whatever became of the array, its end is the job's.
 */
import type { BatchClient, BatchClientConfig, JobDetail, SubmitJobCommandInput } from '@aws-sdk/client-batch';
import { exitCodes, schemesOf, terminalStatuses, type JobError } from 'cherryq/contract';
import { schemeResult } from '@cherryq/batch-jobs/planning';
import { createNumbered, messageOf, numberedKey, readLatestNumbered } from '@cherryq/batch-jobs/storage';
import { decodeTime } from 'ulid';
import { z } from 'zod';
import {
  checkpointKeys,
  failJob,
  finishJob,
  givenUp,
  hasNewCheckpoint,
  meaningOf,
  noteInterruption,
  serviceError,
} from '../attempt-end.ts';
import {
  appendEvents,
  decodeJson,
  encodeJson,
  forgetJob,
  jobRef,
  openPrefix,
  readEventBatch,
  readEvents,
  readLatestState,
  readSpec,
  sealJob,
} from '../job-log.ts';
import { listNames } from '../list-keys.ts';
import type { Clock, JobRef, Logger, Queue, Store } from '../ports.ts';
import type * as Sdk from './batch-sdk.ts';

export interface BatchQueueOptions {
  readonly store: Store;
  /** Where the container opens the same store. */
  readonly storeUrl: string;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Where jobs run: each kind of machine has a queue and a definition of its own, the largest machine last. */
  readonly targets: readonly BatchTarget[];
  /** On every Batch job as the tag `cherryq:install`, by which permissions tell ours from others'. */
  readonly installName: string;
  /** Region, endpoint, credentials; default: what the environment says. */
  readonly client?: BatchClientConfig;
}

export interface BatchTarget {
  /** Name of the machine, as a job's spec has it. */
  readonly machine: string;
  /** Name or ARN of a job queue with a fair-share policy. */
  readonly jobQueue: string;
  /** Name of a job definition; `{tenant}` in it stands for the job's tenant. */
  readonly jobDefinition: string;
}

export interface BatchQueue extends Queue {
  /** Acts on a "Batch Job State Change" event; of others' jobs it does nothing. */
  onStateChange(detail: BatchDetail): Promise<void>;
  /** Looks at every open job: submits what was lost, acts on what was missed, stops what nobody wants any more. */
  reconcile(): Promise<Reconciled>;
}

/** What an event and `DescribeJobs` have in common. */
export type BatchDetail = Pick<
  JobDetail,
  'jobId' | 'jobName' | 'status' | 'statusReason' | 'attempts' | 'createdAt'
> & {
  readonly container?: {
    readonly exitCode?: number;
    readonly reason?: string;
    readonly environment?: readonly { readonly name?: string; readonly value?: string }[];
  };
};

export interface Reconciled {
  readonly open: number;
  readonly submitted: number;
  readonly ended: number;
}

const batchJobsSchema = z.object({
  batchJobId: z.string(),
  /** That it waits for; null where there is none. */
  arrayJobId: z.string().nullable().default(null),
});
type BatchJobs = z.infer<typeof batchJobsSchema>;

const entrySchema = z.discriminatedUnion('type', [
  z.object({ type: z.literal('claimed'), time: z.iso.datetime() }),
  z.object({
    type: z.literal('submitted'),
    ...batchJobsSchema.shape,
    /** Keys of checkpoints when it was submitted. */
    checkpoints: z.array(z.string()),
  }),
  z.object({ type: z.literal('stopped'), time: z.iso.datetime(), ...batchJobsSchema.shape }),
]);
type Entry = z.infer<typeof entrySchema>;
type Submitted = Extract<Entry, { type: 'submitted' }>;

const digits = 4;
/** So long a caller may take from its claim to the answer of `SubmitJob`; a claim that is older is nobody's. */
const submitWithinMs = 60_000;
const claimExpiresMs = 2 * submitWithinMs;
/** Starts of one Batch job, most of them after a reclaimed machine; Batch allows no more. */
const batchAttempts = 10;
/** Batch jobs of one job, each of which must have left a new checkpoint but the last. */
const maxSubmissions = 50;
/** An announced job that was never made is forgotten after this. */
const announcedForMs = 3_600_000;

export function createBatchQueue(options: BatchQueueOptions): BatchQueue {
  const { store, storeUrl, clock, logger, targets, installName } = options;
  let opened: Promise<{ sdk: typeof Sdk; client: BatchClient; once: BatchClient }> | undefined;

  /** Loaded when it is first needed, since many requests never do. */
  function batch() {
    opened ??= import('./batch-sdk.ts').then((sdk) => ({
      sdk,
      client: new sdk.BatchClient({ maxAttempts: 5, ...options.client }),
      // For `SubmitJob`: to repeat a request whose answer was lost would start the job twice.
      once: new sdk.BatchClient({ ...options.client, maxAttempts: 1 }),
    }));
    return opened;
  }

  /** Of a job without a machine, or with one that the install no longer has, the largest. */
  async function targetOf(job: JobRef): Promise<BatchTarget> {
    const spec = await readSpec(store, job);
    const target = targets.find(({ machine }) => machine === spec?.machine) ?? targets.at(-1);
    if (target === undefined) throw new Error('the queue has no machines');
    return target;
  }

  async function latestEntry(job: JobRef): Promise<{ number: number; entry: Entry } | null> {
    const found = await readLatestNumbered(store, entriesPrefix(job));
    return found && { number: found.number, entry: entrySchema.parse(decodeJson(found.body)) };
  }

  const append = (job: JobRef, number: number, entry: Entry): Promise<boolean> =>
    createNumbered(store, entriesPrefix(job), digits, '.json', number, encodeJson(entry));

  /** @param after number of the entry that the caller has decided on   @returns whether this call has submitted it */
  async function submitAfter(job: JobRef, after: number): Promise<boolean> {
    const began = clock.now();
    const claim: Entry = { type: 'claimed', time: new Date(began).toISOString() };
    if (!(await append(job, after + 1, claim))) return false;
    const checkpoints = await checkpointKeys(store, job);
    let submitted: BatchJobs;
    try {
      submitted = await submitBatchJobs(job, began + submitWithinMs, after > 0, await stoppedIds(job, after));
    } catch (error) {
      if (!isUnknownDefinition(error)) throw error;
      const message = `AWS Batch does not take jobs of tenant ${job.tenant}: ${messageOf(error)}. Add the tenant to cherryq:tenants of the install and deploy it.`;
      await failJob(store, job, clock, serviceError('not_started', message));
      await finishJob(store, job, clock);
      return false;
    }
    if (await append(job, after + 2, { type: 'submitted', ...submitted, checkpoints })) {
      const status = (await readLatestState(store, job))?.status ?? 'queued';
      // Cancelled or paused in between, when there was nothing to stop yet.
      if (terminalStatuses.has(status)) await terminate(submitted, 'the job was cancelled');
      if (status === 'paused') await pause(job);
      return true;
    }
    // So slow that another took the claim for dead: the other's counts.
    const now = (await latestEntry(job))?.entry;
    const counts = now?.type === 'submitted' ? idsOf(now) : [];
    for (const id of idsOf(submitted)) if (!counts.includes(id)) await terminateOne(id, 'submitted twice');
    return false;
  }

  /** Whether somebody is submitting the job, or may be. */
  const isClaimed = (entry: Entry | undefined): boolean =>
    entry?.type === 'claimed' && clock.now() - Date.parse(entry.time) < claimExpiresMs;

  const isPaused = async (job: JobRef): Promise<boolean> => (await readLatestState(store, job))?.status === 'paused';

  /** Batch jobs of this job that were told to stop, and may not have stopped yet. */
  async function stoppedIds(job: JobRef, upTo: number): Promise<ReadonlySet<string>> {
    const ids = new Set<string>();
    for (let number = 1; number <= upTo; number++) {
      const body = await store.get(numberedKey(entriesPrefix(job), digits, '.json', number));
      const entry = body && entrySchema.parse(decodeJson(body));
      if (entry?.type === 'stopped') for (const id of idsOf(entry)) ids.add(id);
    }
    return ids;
  }

  async function pause(job: JobRef): Promise<void> {
    const latest = await latestEntry(job);
    if (latest?.entry.type !== 'submitted') return;
    const { batchJobId, arrayJobId } = latest.entry;
    const stopped: Entry = { type: 'stopped', time: new Date(clock.now()).toISOString(), batchJobId, arrayJobId };
    if (await append(job, latest.number + 1, stopped)) await terminate(stopped, 'the job was paused');
  }

  /** Numbers of the schemes of a comparison that have left no result, here or where the job goes on from; none of other jobs. */
  async function schemesLeft(job: JobRef): Promise<number[]> {
    const spec = await readSpec(store, job);
    if (spec?.kind !== 'compare' || spec.comparison === undefined) return [];
    const folders = [`${job.prefix}/checkpoints/`, ...(spec.checkpointsFrom === null ? [] : [spec.checkpointsFrom])];
    const left: number[] = [];
    for (const index of schemesOf({ scheme: spec.scheme, comparison: spec.comparison }).keys()) {
      const found = await Promise.all(folders.map((folder) => store.head(folder + schemeResult(index + 1))));
      if (found.every((result) => result === null)) left.push(index + 1);
    }
    return left;
  }

  /**
   * @param mayBeThere whether an earlier claim may have got as far as Batch   @param stopped Batch jobs that do not count
   * @returns the ids in Batch
   */
  async function submitBatchJobs(
    job: JobRef,
    until: number,
    mayBeThere: boolean,
    stopped: ReadonlySet<string>,
  ): Promise<BatchJobs> {
    const there = mayBeThere ? await findActive(job, nameOf(job), stopped) : null;
    if (there !== null) return { batchJobId: there, arrayJobId: arrayOf(await describeJob(there)) };
    const look = { until, mayBeThere, stopped };
    const schemes = await schemesLeft(job);
    if (schemes.length < 2)
      return { batchJobId: await submitOnce(job, { jobName: nameOf(job) }, look), arrayJobId: null };
    const attempt = ((await readLatestState(store, job))?.attempt ?? 0) + 1;
    const array = {
      jobName: arrayNameOf(job),
      arrayProperties: { size: schemes.length },
      environment: { CHERRYQ_SCHEMES: schemes.join(), CHERRYQ_ATTEMPT: String(attempt) },
    };
    const arrayJobId = await submitOnce(job, array, look);
    const merge = { jobName: nameOf(job), dependsOn: [{ jobId: arrayJobId }] };
    return { batchJobId: await submitOnce(job, merge, look), arrayJobId };
  }

  /** @returns the id in Batch */
  async function submitOnce(
    job: JobRef,
    {
      environment = {},
      ...input
    }: Pick<SubmitJobCommandInput, 'jobName' | 'arrayProperties' | 'dependsOn'> & {
      readonly jobName: string;
      readonly environment?: Readonly<Record<string, string>>;
    },
    { until, mayBeThere, stopped }: { until: number; mayBeThere: boolean; stopped: ReadonlySet<string> },
  ): Promise<string> {
    const { sdk, once } = await batch();
    const { jobQueue, jobDefinition } = await targetOf(job);
    const variables = { CHERRYQ_STORE: storeUrl, CHERRYQ_JOB: job.prefix, ...environment };
    const command = new sdk.SubmitJobCommand({
      ...input,
      jobQueue,
      jobDefinition: jobDefinition.replaceAll('{tenant}', job.tenant),
      shareIdentifier: shareOf(job),
      containerOverrides: { environment: Object.entries(variables).map(([name, value]) => ({ name, value })) },
      retryStrategy: {
        attempts: batchAttempts,
        evaluateOnExit: [
          { onStatusReason: 'Host EC2*', action: 'RETRY' },
          { onReason: 'OutOfMemoryError*', action: 'EXIT' },
          { onExitCode: String(exitCodes.interrupted), action: 'RETRY' },
          { onExitCode: String(exitCodes.transient), action: 'RETRY' },
          { onReason: '*', action: 'EXIT' },
        ],
      },
      tags: { 'cherryq:install': installName, 'cherryq:job': job.id, 'cherryq:tenant': job.tenant },
      propagateTags: true,
    });
    for (let look = mayBeThere; ; look = true) {
      const there = look ? await findActive(job, input.jobName, stopped) : null;
      if (there !== null) return there;
      if (clock.now() >= until) throw new Error(`job ${job.id} could not be submitted to AWS Batch in time`);
      try {
        const { jobId } = await once.send(command, { abortSignal: AbortSignal.timeout(until - clock.now()) });
        if (jobId === undefined) throw new Error('AWS Batch took a job and gave no id');
        return jobId;
      } catch (error) {
        if (!mayPass(error)) throw error;
        logger({
          level: 'warning',
          message: `job ${job.id}: AWS Batch did not answer, asking whether it has it`,
          error,
        });
      }
    }
  }

  /** The Batch job of this name that has not ended, and is not one of those that are to stop. */
  async function findActive(
    job: JobRef,
    name: string,
    stopped: ReadonlySet<string> = new Set(),
  ): Promise<string | null> {
    const { sdk, client } = await batch();
    const { jobQueue } = await targetOf(job);
    const filters = [{ name: 'JOB_NAME', values: [name] }];
    for (let nextToken: string | undefined; ;) {
      const page = await client.send(new sdk.ListJobsCommand({ jobQueue, filters, nextToken }));
      const active = page.jobSummaryList?.find(({ jobId = '', status }) => !isOver(status) && !stopped.has(jobId));
      if (active?.jobId !== undefined) return active.jobId;
      nextToken = page.nextToken;
      if (nextToken === undefined) return null;
    }
  }

  /** What waits first, so that it does not begin. */
  async function terminate(jobs: BatchJobs, reason: string): Promise<void> {
    for (const id of idsOf(jobs)) await terminateOne(id, reason);
  }

  async function terminateOne(jobId: string, reason: string): Promise<void> {
    const { sdk, client } = await batch();
    await client.send(new sdk.TerminateJobCommand({ jobId, reason }));
  }

  async function describeJob(jobId: string): Promise<JobDetail | null> {
    const { sdk, client } = await batch();
    const { jobs = [] } = await client.send(new sdk.DescribeJobsCommand({ jobs: [jobId] }));
    return jobs[0] ?? null;
  }

  /** Acts on what Batch says of the newest Batch job of a job.  @returns whether the job needs Batch no more */
  async function settle(
    job: JobRef,
    newest: { number: number; entry: Submitted },
    detail: BatchDetail,
  ): Promise<boolean> {
    if (await isPaused(job)) {
      // Whoever paused it may have died before it could tell Batch.
      await pause(job);
      return false;
    }
    const ended = await sealJob(store, job, clock);
    if (!isOver(detail.status)) {
      if (ended) await terminate(newest.entry, 'the job has ended');
      else if (detail.status === 'RUNNABLE') await noteWaiting(job, detail);
      return false;
    }
    const { arrayJobId } = newest.entry;
    const array = arrayJobId === null ? null : await describeJob(arrayJobId);
    if (array !== null && !isOver(array.status)) {
      // Its workers still have the job's folder. Batch tells when they have stopped.
      await terminateOne(array.jobId ?? '', 'the job has ended');
      return false;
    }
    const cause = detail.status === 'FAILED' && array?.status === 'FAILED' ? await failedWorkerOf(array) : detail;
    if (!ended && !(await settleEnd(job, newest, cause ?? detail))) return false;
    return finishJob(store, job, clock);
  }

  /** The first worker of an array job that failed, for which what waits for the array has failed too. */
  async function failedWorkerOf({ jobId: arrayJobId }: JobDetail): Promise<JobDetail | null> {
    const { sdk, client } = await batch();
    const page = await client.send(new sdk.ListJobsCommand({ arrayJobId, jobStatus: 'FAILED' }));
    const id = page.jobSummaryList?.[0]?.jobId;
    return id === undefined ? null : describeJob(id);
  }

  /** Acts on what Batch says of the array job that a job waits for, or of one of its workers. */
  async function settleArray(job: JobRef, newest: { number: number; entry: Submitted }, detail: BatchDetail) {
    const ended = await sealJob(store, job, clock);
    if (ended) await terminate(newest.entry, 'the job has ended');
    else if (detail.status === 'RUNNABLE') await noteWaiting(job, detail);
    if (detail.jobId !== newest.entry.arrayJobId || !isOver(detail.status)) return;
    // What waits for it goes on by itself, unless it is over before it began.
    if (!ended && detail.status === 'SUCCEEDED') return;
    const last = await describeJob(newest.entry.batchJobId);
    if (last !== null && isOver(last.status)) await settle(job, newest, last);
  }

  /** @returns whether the job has ended; false: it was submitted again */
  async function settleEnd(
    job: JobRef,
    { number, entry }: { number: number; entry: Submitted },
    detail: BatchDetail,
  ): Promise<boolean> {
    const end = endOf(detail);
    const saved = await hasNewCheckpoint(store, job, entry.checkpoints);
    // The worker may have written the last word since the job was looked at.
    if (await sealJob(store, job, clock)) return true;
    if (end.again && saved && number / 2 < maxSubmissions) {
      await noteInterruption(store, job, clock, end.error.message);
      await submitAfter(job, number);
      return false;
    }
    logger({ level: 'error', message: `job ${job.id}: ${end.error.message}`, batchJobId: detail.jobId });
    await failJob(store, job, clock, end.again ? givenUp(end.error, detail.attempts?.length || 1) : end.error);
    return true;
  }

  /** Says once why Batch does not start a job. */
  async function noteWaiting(job: JobRef, { statusReason: reason, createdAt }: BatchDetail): Promise<void> {
    const waitingSeconds = createdAt === undefined ? 0 : Math.max(0, (clock.now() - createdAt) / 1000);
    logger({ level: 'info', message: 'a job waits for a machine', job: job.id, waitingSeconds });
    if (!reason) return;
    const text = explain(reason);
    for await (const event of readEvents(job, undefined, (of, number) => readEventBatch(store, of, number))) {
      if (event.type === 'job.started') return;
      if (event.type === 'job.waiting' && event.reason === text) return;
    }
    await appendEvents(store, job, clock, [{ type: 'job.waiting', reason: text }]);
  }

  const queue: BatchQueue = {
    schemesAtOnce: true,

    async submit(job) {
      const latest = await latestEntry(job);
      if (latest?.entry.type === 'submitted') return;
      // Whoever has claimed it is at it, or `reconcile` finds out that nobody is.
      if (isClaimed(latest?.entry)) return;
      await submitAfter(job, latest?.number ?? 0);
    },

    async cancel(job) {
      const latest = await latestEntry(job);
      if (latest?.entry.type === 'submitted') await terminate(latest.entry, 'the job was cancelled');
      if (latest?.entry.type === 'stopped') await finishJob(store, job, clock);
    },

    pause,

    async check() {
      const { sdk, client } = await batch();
      const names = [...new Set(targets.map(({ jobQueue }) => jobQueue))];
      const { jobQueues = [] } = await client.send(new sdk.DescribeJobQueuesCommand({ jobQueues: names }));
      for (const name of names) {
        const found = jobQueues.find(({ jobQueueName, jobQueueArn }) => name === jobQueueName || name === jobQueueArn);
        if (found?.state === 'ENABLED' && found.status === 'VALID') continue;
        const state = found === undefined ? 'is not there' : `is ${found.state} and ${found.status}`;
        throw new Error(`the job queue ${name} of AWS Batch ${state}${explained(found?.statusReason)}`);
      }
    },

    // Batch goes on by itself.
    close: () => Promise.resolve(),

    async onStateChange(detail) {
      const prefix = detail.container?.environment?.find(({ name }) => name === 'CHERRYQ_JOB')?.value;
      const [, tenant, id] = /^tenants\/([^/]+)\/jobs\/([^/]+)$/.exec(prefix ?? '') ?? [];
      if (tenant === undefined || id === undefined) return;
      const job = jobRef(tenant, id);
      const { number, entry } = (await latestEntry(job)) ?? {};
      // There is no entry yet, or the job was paused; `reconcile` comes to the former.
      if (number === undefined || entry?.type !== 'submitted') return;
      // Workers of an array job have its id and their number.
      const [batchJobId] = detail.jobId?.split(':') ?? [];
      if (batchJobId === entry.batchJobId) await settle(job, { number, entry }, detail);
      else if (batchJobId === entry.arrayJobId) await settleArray(job, { number, entry }, detail);
      // Others are of an earlier entry.
    },

    async reconcile() {
      let [open, submitted, ended] = [0, 0, 0];
      for (const tenant of await store.folders('tenants/')) {
        for await (const id of listNames(store, openPrefix(tenant))) {
          const job = jobRef(tenant, id);
          open++;
          try {
            const outcome = await reconcileJob(job);
            if (outcome === 'submitted') submitted++;
            if (outcome === 'ended') ended++;
          } catch (error) {
            logger({
              level: 'error',
              message: `job ${job.id} could not be reconciled; the next run tries again`,
              error,
            });
          }
        }
      }
      return { open, submitted, ended };
    },
  };

  async function reconcileJob(job: JobRef): Promise<'submitted' | 'ended' | 'waits'> {
    const spec = await readSpec(store, job);
    if (spec === null) {
      if (clock.now() - decodeTime(job.id) < announcedForMs) return 'waits';
      await forgetJob(store, job);
      return 'ended';
    }
    const latest = await latestEntry(job);
    if (latest?.entry.type === 'submitted') {
      const { number, entry } = latest;
      const detail = await describeJob(entry.batchJobId);
      if (detail !== null) return (await settle(job, { number, entry }, detail)) ? 'ended' : 'waits';
      // Batch forgets jobs a week after their end.
      await failJob(store, job, clock, serviceError('lost', 'AWS Batch no longer knows the job. Create it again.'));
      await finishJob(store, job, clock);
      return 'ended';
    }
    if (await sealJob(store, job, clock)) {
      for (const name of latest === null ? [] : [nameOf(job), arrayNameOf(job)]) {
        const orphan = await findActive(job, name);
        if (orphan !== null) await terminateOne(orphan, 'the job has ended');
      }
      await finishJob(store, job, clock);
      return 'ended';
    }
    if (isClaimed(latest?.entry) || (await isPaused(job))) return 'waits';
    return (await submitAfter(job, latest?.number ?? 0)) ? 'submitted' : 'waits';
  }

  return queue;
}

const entriesPrefix = (job: JobRef): string => `${job.prefix}/batch/`;
/** Ids are ULIDs, so no tenant has another's. */
const nameOf = ({ id }: JobRef): string => `cherryq-${id}`;
const arrayNameOf = (job: JobRef): string => `${nameOf(job)}-schemes`;
/** The one that waits for the other first. */
const idsOf = ({ batchJobId, arrayJobId }: BatchJobs): string[] =>
  arrayJobId === null ? [batchJobId] : [batchJobId, arrayJobId];
const arrayOf = (detail: JobDetail | null): string | null => detail?.dependsOn?.[0]?.jobId ?? null;
const isOver = (status: string | undefined): boolean => status === 'SUCCEEDED' || status === 'FAILED';
/** Tenants share the machines fairly. Batch takes letters and digits only, so others are written by their code. */
const shareOf = ({ tenant }: JobRef): string =>
  tenant.replaceAll(/[^A-Za-z0-9]/g, (character) => `Z${character.charCodeAt(0).toString(16)}Z`);

/** What Batch's words for the end of a container mean; its exit code as for every worker. */
function endOf({ status, statusReason = '', container }: BatchDetail): { again: boolean; error: JobError } {
  const { exitCode, reason = '' } = container ?? {};
  if (status === 'SUCCEEDED') return meaningOf({ code: exitCodes.ok, signal: null, stderr: '' });
  if (/^OutOfMemory/.test(reason)) {
    const message =
      'The container used more memory than its job definition gives it. Use a larger instance, moments: bfloat16 or momentsIn: file, or lower training.batchSize and training.sequenceLength.';
    return { again: false, error: { fault: 'user', code: 'out_of_memory', message, param: null } };
  }
  if (/attempt duration exceeded timeout/i.test(statusReason)) {
    const message =
      'The job ran longer than the install lets one run (cherryq:maxJobHours). Retry it, to go on from its checkpoint, or take fewer training.tokens or a faster machine.';
    return { again: false, error: { fault: 'user', code: 'timed_out', message, param: null } };
  }
  if (/^Host EC2/.test(statusReason)) {
    return { again: true, error: serviceError('worker_interrupted', 'The machine was taken back by AWS (Spot).') };
  }
  if (exitCode !== undefined) return meaningOf({ code: exitCode, signal: null, stderr: reason });
  const said = [statusReason, reason].filter((part) => part !== '').join('; ') || 'AWS Batch gives no reason';
  return { again: false, error: serviceError('not_started', `The container did not start: ${explain(said)}`) };
}

/** Batch's reasons that people can act on, with what to do. */
const advice: readonly [RegExp, string][] = [
  [/INSUFFICIENT_INSTANCE_CAPACITY/, 'AWS has no such machine free in these zones now; it goes on trying'],
  [/MAX_RESOURCE/, 'all machines that the compute environment may have are in use; raise its maximum of vCPUs'],
  [
    /JOB_RESOURCE_REQUIREMENT/,
    'no allowed instance type has the vCPUs, memory and GPUs that the job definition asks for',
  ],
  [/SERVICE_ROLE_PERMISSIONS/, "the compute environment's service role lacks permissions"],
  [
    /CannotPullContainer/,
    'the image cannot be read; check that it is in the registry and that the execution role may read it',
  ],
];

function explain(reason: string): string {
  const [, said] = advice.find(([pattern]) => pattern.test(reason)) ?? [];
  return said === undefined ? reason : `${said} (${reason})`;
}

const explained = (reason: string | undefined): string => (reason ? `: ${reason}` : '');

/** Each tenant has definitions of its own. */
function isUnknownDefinition(error: unknown): boolean {
  return (error as { name?: string }).name === 'ClientException' && /job ?definition/i.test(messageOf(error));
}

/** Whether a request may have arrived, or may go through the next time. */
function mayPass(error: unknown): boolean {
  const { name, $metadata, $retryable } = error as {
    name?: string;
    $metadata?: { httpStatusCode?: number };
    $retryable?: unknown;
  };
  const status = $metadata?.httpStatusCode;
  if (name === 'AbortError' || name === 'TimeoutError' || $retryable !== undefined) return true;
  return status === undefined ? 'code' in (error as object) : status >= 500 || status === 429;
}
