/**
 * Jobs: what can be asked about one and how it changes on request. The files under the job's prefix are the only record
 * (job-log.ts); what a client sees of them is the pure function `jobView`. Running a job is the queue's business.
 */
import {
  manifestSchema,
  noOutcome,
  outcomeOf,
  schemesOf,
  terminalStatuses,
  type Estimate,
  type listJobsQuerySchema,
  type Job,
  type JobEvent,
  type JobSettings,
  type JobSpec,
  type JobState,
  type JobStatus,
  type Manifest,
  type Page,
} from 'cherryq/contract';
import type { z } from 'zod';
import { InputError } from '@cherryq/batch-jobs/storage';
import {
  advanceState,
  appendEvents,
  createJobFolder,
  decodeJson,
  deletedKey,
  endedPrefix,
  forgetJob,
  jobRef,
  openKey,
  openPrefix,
} from './job-log.ts';
import type { JobReader, JobRecord } from './job-reader.ts';
import { listNames, namesNewestFirst } from './list-keys.ts';
import { keptOf, type Estimator } from './estimates.ts';
import { findNewest, idsAfter, idsNewestFirst } from './newest-first.ts';
import type { Meter } from './limits.ts';
import type { Clock, JobRef, Queue, Store } from './ports.ts';
import { ProblemError } from './problems.ts';
import type { Upload, Uploads } from './uploads.ts';

export type JobQuery = z.output<typeof listJobsQuerySchema>;

export interface Jobs {
  /** Creates under this id and hands it to the queue; a job that exists is returned as it is. */
  create(tenant: string, id: string, request: JobSettings): Promise<Job>;
  /** The job as it was when it had been created and handed over; null when it was not. */
  created(tenant: string, id: string): Promise<Job | null>;
  /** @throws ProblemError as `create`, and InputError for a model that the trainer does not read */
  estimate(tenant: string, request: JobSettings): Promise<Estimate>;
  retrieve(tenant: string, id: string): Promise<Job>;
  /** Newest first. */
  list(tenant: string, query: JobQuery): Promise<Page<Job>>;
  /** @throws ProblemError (409) when the job has already succeeded or failed */
  cancel(tenant: string, id: string, options: { keepCheckpoint: boolean }): Promise<Job>;
  /** Stops it once it has saved a checkpoint.  @throws ProblemError (409) when the job has ended */
  pause(tenant: string, id: string): Promise<Job>;
  /** Of a job that waits or runs, nothing changes.  @throws ProblemError (409) when the job has ended */
  resume(tenant: string, id: string): Promise<Job>;
  /**
   * Creates, under a new id, a job with the same spec that goes on from where the other was; one that exists is returned.
   * @throws ProblemError (409) unless the other has failed or was cancelled
   */
  retry(tenant: string, id: string, newId: string): Promise<Job>;
  /** Deletes an ended job with all that it left.  @throws ProblemError (409) when it has not ended, or another goes on from it */
  remove(tenant: string, id: string): Promise<void>;
  /** Deletes what ended on a day before this moment's.  @returns how many */
  removeEndedBefore(time: number): Promise<number>;
  events(tenant: string, id: string, query: { limit: number; after?: string }): Promise<Page<JobEvent>>;
  /**
   * What the job left, and the folder under its prefix: `artifacts`, or `rejected` where it has missed a limit of quality.
   * @throws ProblemError (409) until it has ended so
   */
  manifest(tenant: string, id: string): Promise<{ manifest: Manifest; folder: 'artifacts' | 'rejected' }>;
  /** Id of a job that has not ended and needs this model or dataset; null when there is none. */
  findUserOf(tenant: string, upload: Upload): Promise<string | null>;
}

/** The job as clients see it. */
export function jobView({ spec, states, progress }: JobRecord): Job {
  const latest = states.at(-1);
  const ended = latest && terminalStatuses.has(latest.status) ? latest : null;
  return {
    object: 'job',
    kind: spec.kind,
    id: spec.id,
    status: latest?.status ?? 'queued',
    modelId: spec.modelId,
    modelName: spec.modelName,
    scheme: spec.kind === 'evaluate' ? null : spec.scheme,
    training: spec.kind === 'evaluate' ? null : spec.training,
    calibrationDatasetId: spec.calibrationDatasetId ?? null,
    evaluation: spec.evaluation ?? null,
    analysis: spec.analysis,
    formats: spec.formats,
    artifact: spec.artifact ?? null,
    baselineModelId: spec.baselineModelId ?? null,
    comparison: spec.comparison ?? null,
    metadata: spec.metadata,
    retryOf: spec.retryOf,
    estimate: spec.estimate,
    machine: spec.machine,
    createdAt: spec.createdAt,
    startedAt: states.find((state) => state.status === 'running')?.time ?? null,
    finishedAt: ended?.time ?? null,
    attempt: Math.max(0, ...states.map((state) => state.attempt)),
    progress,
    error: ended?.error ?? null,
    ...outcomeOf(ended ?? noOutcome),
  };
}

export function createJobs(deps: {
  store: Store;
  queue: Queue;
  clock: Clock;
  reader: JobReader;
  models: Uploads;
  datasets: Uploads;
  meter: Pick<Meter, 'checkJob'>;
  estimator: Estimator;
}): Jobs {
  const { store, queue, clock, reader, models, datasets, meter, estimator } = deps;

  async function find(job: JobRef): Promise<Job | null> {
    const record = await reader.read(job);
    return record && jobView(record);
  }

  async function retrieve(job: JobRef): Promise<Job> {
    const found = await find(job);
    if (found !== null) return found;
    throw unknownJob(job.id);
  }

  /** Ids of the jobs that may not have ended, newest first. */
  const openIds = (tenant: string): Promise<string[]> => namesNewestFirst(store, openPrefix(tenant));

  /** The job under this id, queued; one that is there is left as it is. */
  async function start(tenant: string, spec: JobSpec): Promise<Job> {
    const job = jobRef(tenant, spec.id);
    await meter.checkJob(tenant);
    const isNew = await createJobFolder(store, job, spec);
    await queue.submit(job);
    return isNew ? jobView({ spec, states: [], progress: null }) : retrieve(job);
  }

  function estimateOf(
    tenant: string,
    request: JobSettings,
    { model, calibration, evaluation, tasks, analysis }: JobInputs,
  ): Promise<Estimate> {
    return estimator.estimate(tenant, { request, model, calibration, evaluation, tasks, analysis });
  }

  const inputsOf = (
    tenant: string,
    request: Omit<JobSettings, 'machine'>,
    needed: 'model' | 'config' = 'model',
  ): Promise<JobInputs> => findInputs(tenant, request, { store, reader, models, datasets, needed });

  const changedState = (status: JobStatus, latest: JobState | null): JobState => ({
    status,
    time: now(clock),
    attempt: latest?.attempt ?? 0,
    by: 'api',
    keepCheckpoint: false,
    error: null,
    ...noOutcome,
  });

  const jobs: Jobs = {
    async create(tenant, id, request) {
      const inputs = await inputsOf(tenant, request);
      const { model, baseline, calibration, evaluation, tasks, analysis } = inputs;
      const estimate = await estimateOf(tenant, request, inputs).catch((error: unknown) => {
        // What is wrong with the model, the worker says, in the job.
        if (error instanceof InputError) return null;
        throw error;
      });
      if (estimate?.reason)
        throw new ProblemError('does_not_fit', estimate.reason, {
          param: paramOf(request),
        });
      return start(tenant, {
        ...request,
        id,
        createdAt: now(clock),
        modelId: model.id,
        modelName: model.name,
        modelPrefix: model.prefix,
        modelFingerprint: model.fingerprint,
        baselineName: baseline && baseline.name,
        baselinePrefix: baseline && models.filesPrefix(tenant, baseline.id),
        calibrationPrefix: calibration && datasets.filesPrefix(tenant, calibration.id),
        calibrationName: calibration && calibration.name,
        evaluationPrefix: evaluation && datasets.filesPrefix(tenant, evaluation.id),
        tasks: tasks.map(({ name, id: task }) => ({ name, prefix: datasets.filesPrefix(tenant, task) })),
        analysisPrefixes: analysis.map(({ name, id: set }) => ({ name, prefix: datasets.filesPrefix(tenant, set) })),
        retryOf: null,
        checkpointsFrom: null,
        estimate: estimate && keptOf(estimate),
        machine: request.machine ?? estimate?.machine ?? null,
      });
    },

    async estimate(tenant, request) {
      return estimateOf(tenant, request, await inputsOf(tenant, request, 'config'));
    },

    async retry(tenant, id, newId) {
      const job = jobRef(tenant, id);
      const record = await reader.read(job);
      if (record === null) throw unknownJob(id);
      const { status } = jobView(record);
      if (status !== 'failed' && status !== 'cancelled')
        throw new ProblemError(
          'conflict',
          `job ${id} is ${status}; only one that has failed or was cancelled can be repeated`,
        );
      await inputsOf(tenant, record.spec);
      const left = `${job.prefix}/checkpoints/`;
      const [any] = await store.list(left, { limit: 1 });
      return start(tenant, {
        ...record.spec,
        id: newId,
        createdAt: now(clock),
        retryOf: id,
        checkpointsFrom: any === undefined ? null : left,
      });
    },

    async created(tenant, id) {
      const job = jobRef(tenant, id);
      const record = await reader.read(job);
      if (record === null && (await store.head(deletedKey(tenant, id))) !== null)
        throw new ProblemError('conflict', `the job that this Idempotency-Key made, ${id}, was deleted; use a new key`);
      if (record === null) return null;
      // Whoever wrote the spec may have died before it did this.
      if (record.states.length === 0) await queue.submit(job);
      return jobView({ spec: record.spec, states: [], progress: null });
    },

    retrieve: (tenant, id) => retrieve(jobRef(tenant, id)),

    async list(tenant, { limit, after, ...filters }) {
      // Those that have not ended are few among many that have.
      const open = filters.status === undefined || terminalStatuses.has(filters.status) ? null : await openIds(tenant);
      const { data, next } = await findNewest({
        limit,
        after,
        ids: (query) =>
          open === null ? idsNewestFirst(store, tenant, 'jobs', query) : Promise.resolve(idsAfter(open, query)),
        read: async (id) => {
          const job = await find(jobRef(tenant, id));
          return job !== null && fits(job, filters) ? job : null;
        },
      });
      return { object: 'list', data, hasMore: next !== null, next };
    },

    async cancel(tenant, id, { keepCheckpoint }) {
      const job = jobRef(tenant, id);
      await retrieve(job);
      const { state, changed } = await advanceState(store, job, (latest) => ({
        ...changedState('cancelled', latest),
        keepCheckpoint,
      }));
      if (state?.status !== 'cancelled')
        throw new ProblemError(
          'conflict',
          `job ${id} has already ${state?.status}; only one that has not ended can be cancelled`,
        );
      if (changed) await appendEvents(store, job, clock, [{ type: 'job.cancelled' }]);
      await queue.cancel(job);
      return retrieve(job);
    },

    async pause(tenant, id) {
      const job = jobRef(tenant, id);
      await retrieve(job);
      const { state, changed } = await advanceState(store, job, (latest) =>
        latest?.status === 'paused' ? null : changedState('paused', latest),
      );
      if (state?.status !== 'paused')
        throw new ProblemError(
          'conflict',
          `job ${id} has already ${state?.status}; only one that has not ended can be paused`,
        );
      if (changed) await appendEvents(store, job, clock, [{ type: 'job.paused' }]);
      await queue.pause(job);
      return retrieve(job);
    },

    async resume(tenant, id) {
      const job = jobRef(tenant, id);
      await retrieve(job);
      const { state, changed } = await advanceState(store, job, (latest) =>
        latest?.status === 'paused' ? changedState('queued', latest) : null,
      );
      const status = state?.status ?? 'queued';
      if (terminalStatuses.has(status))
        throw new ProblemError('conflict', `job ${id} has already ${status}; only a paused job can be resumed`);
      if (changed) await appendEvents(store, job, clock, [{ type: 'job.resumed' }]);
      await queue.submit(job);
      return retrieve(job);
    },

    async remove(tenant, id) {
      const job = jobRef(tenant, id);
      const { status } = await retrieve(job);
      if (!terminalStatuses.has(status))
        throw new ProblemError('conflict', `job ${id} is ${status}; cancel it first, or wait for its end`);
      if ((await store.head(openKey(job))) !== null)
        throw new ProblemError('conflict', `job ${id} has just ${status} and is being put away; try again soon`, {
          headers: { 'Retry-After': '5' },
        });
      for (const other of await openIds(tenant)) {
        const record = await reader.read(jobRef(tenant, other));
        if (record?.spec.checkpointsFrom?.startsWith(`${job.prefix}/`))
          throw new ProblemError(
            'conflict',
            `job ${other} goes on from the checkpoint of job ${id}; wait for its end, or cancel it`,
          );
        if (record?.spec.artifact?.jobId === id)
          throw new ProblemError(
            'conflict',
            `job ${other} measures what job ${id} made; wait for its end, or cancel it`,
          );
      }
      await store.put(deletedKey(tenant, id), new Uint8Array());
      // So that a deletion that breaks off is gone on with.
      await store.put(openKey(job), new Uint8Array());
      await forgetJob(store, job);
    },

    async removeEndedBefore(time) {
      let count = 0;
      const today = new Date(time).toISOString().slice(0, 10);
      for (const tenant of await store.folders('tenants/'))
        for (const day of await store.folders(endedPrefix(tenant))) {
          if (day >= today) break;
          const prefix = `${endedPrefix(tenant)}${day}/`;
          for await (const id of listNames(store, prefix)) {
            try {
              if ((await find(jobRef(tenant, id))) !== null) {
                await jobs.remove(tenant, id);
                count++;
              }
              await store.delete(prefix + id);
            } catch (error) {
              // Still needed; it is looked at again the next time.
              if (!(error instanceof ProblemError)) throw error;
            }
          }
        }
      return count;
    },

    async events(tenant, id, { limit, after }) {
      const job = jobRef(tenant, id);
      await retrieve(job);
      const data: JobEvent[] = [];
      for await (const event of reader.events(job, after)) {
        if (data.length === limit) return { object: 'list', data, hasMore: true, next: data.at(-1)?.id ?? null };
        data.push(event);
      }
      return { object: 'list', data, hasMore: false, next: null };
    },

    async manifest(tenant, id) {
      const job = jobRef(tenant, id);
      const { status, error } = await retrieve(job);
      const folder = status === 'failed' && error?.code === 'quality' ? 'rejected' : 'artifacts';
      if (status !== 'succeeded' && folder !== 'rejected')
        throw new ProblemError(
          'conflict',
          `job ${id} is ${status}; only a job that has succeeded, or failed for its quality, has artifacts`,
        );
      const body = await store.get(`${job.prefix}/${folder}/manifest.json`);
      if (body === null) throw new Error(`job ${id} has ended but has no ${folder}/manifest.json`);
      return { manifest: manifestSchema.parse(decodeJson(body)), folder };
    },

    async findUserOf(tenant, upload) {
      for (const id of await openIds(tenant)) {
        const record = await reader.read(jobRef(tenant, id));
        if (record !== null && uses(record.spec, upload) && !terminalStatuses.has(jobView(record).status)) return id;
      }
      return null;
    },
  };
  return jobs;
}

const notReady: Record<Exclude<Upload['status'], 'ready'>, string> = {
  uploading: 'is still being uploaded; put its missing files and complete it',
  importing: 'is still being imported; ask for it until it is ready',
  failed: 'could not be imported; its error says why',
};

function unknownJob(id: string): ProblemError {
  return new ProblemError('not_found', `there is no job ${id}; list the jobs of this store with GET /v1/jobs`, {
    param: 'id',
  });
}

function fits(job: Job, { status, kind, modelId, metadata }: Omit<JobQuery, 'limit' | 'after'>): boolean {
  return (
    (status === undefined || job.status === status) &&
    (kind === undefined || job.kind === kind) &&
    (modelId === undefined || job.modelId === modelId) &&
    (metadata === undefined || job.metadata[metadata.key] === metadata.value)
  );
}

/** What a request refers to. */
interface JobInputs {
  /** Of an artifact, the name and the id of the model that it was made from. */
  model: { id: string; name: string; prefix: string; fingerprint: string | null };
  baseline: Upload | null;
  calibration: Upload | null;
  evaluation: Upload | null;
  tasks: Upload[];
  analysis: Upload[];
}

/**
 * Looks up what a request refers to.
 * @param needed of an uploaded model: all of it, or, while the rest is on its way, its config
 * @throws ProblemError (404, 409, 400) naming the field
 */
async function findInputs(
  tenant: string,
  request: Omit<JobSettings, 'machine'>,
  {
    store,
    reader,
    models,
    datasets,
    needed,
  }: { store: Store; reader: JobReader; models: Uploads; datasets: Uploads; needed: 'model' | 'config' },
): Promise<JobInputs> {
  const reason = textReasonOf(request);
  if (reason !== null && request.calibrationDatasetId === undefined)
    throw new ProblemError(
      'invalid_request',
      `${reason.why}, so calibrationDatasetId is required; got nothing. Upload a text and give its id${reason.otherwise}`,
      { param: 'calibrationDatasetId' },
    );
  const ready = async (uploads: Uploads, id: string, param: string): Promise<Upload> => {
    const upload = await uploads.find(tenant, id);
    if (upload === null)
      throw new ProblemError('not_found', `${param}: there is nothing with the id ${id}; upload it first`, { param });
    const isEnough = upload.object === 'model' && needed === 'config' && hasConfig(upload);
    if (upload.status !== 'ready' && !isEnough)
      throw new ProblemError('conflict', `${param}: ${upload.object} ${id} ${notReady[upload.status]}`, { param });
    return upload;
  };
  const uploaded = async (id: string): Promise<JobInputs['model']> => {
    const { name, fingerprint } = await ready(models, id, 'modelId');
    return { id, name, fingerprint, prefix: models.filesPrefix(tenant, id) };
  };
  const model = request.artifact
    ? await artifactOf(tenant, request.artifact, { store, reader })
    : await uploaded(request.modelId ?? '');
  const baseline = request.baselineModelId ? await ready(models, request.baselineModelId, 'baselineModelId') : null;
  const calibration = request.calibrationDatasetId
    ? await ready(datasets, request.calibrationDatasetId, 'calibrationDatasetId')
    : null;
  const evaluation = request.evaluation
    ? await ready(datasets, request.evaluation.datasetId, 'evaluation.datasetId')
    : null;
  const tasks: Upload[] = [];
  for (const [index, task] of (request.evaluation?.tasks ?? []).entries())
    tasks.push(await ready(datasets, task.datasetId, `evaluation.tasks.${index}.datasetId`));
  const analysis: Upload[] = [];
  for (const [index, id] of request.analysis.datasetIds.entries())
    analysis.push(await ready(datasets, id, `analysis.datasetIds.${index}`));
  if (reason !== null && evaluation !== null && calibration?.fingerprint === evaluation.fingerprint)
    throw new ProblemError(
      'invalid_request',
      `evaluation.datasetId holds the same text as calibrationDatasetId; perplexity on text that was trained on says nothing. Give another text`,
      { param: 'evaluation.datasetId' },
    );
  return { model, baseline, calibration, evaluation, tasks, analysis };
}

/** What one would change of a request that does not fit. */
function paramOf({ machine, kind, scheme }: JobSettings): string {
  if (machine !== undefined) return 'machine';
  return kind === 'evaluate' || scheme.method === 'rtn' ? 'modelId' : 'training';
}

const hasConfig = ({ files }: Upload): boolean =>
  files.some(({ path, uploaded }) => path === 'config.json' && uploaded);

/** Why a job learns from a text, and what it could do instead; null when it needs none. */
function textReasonOf({ kind, scheme, comparison }: JobSettings): { why: string; otherwise: string } | null {
  if (kind === 'evaluate') return null;
  if (kind === 'analyze') return { why: 'an analysis measures impact on text', otherwise: '' };
  const schemes = comparison ? schemesOf({ scheme, comparison }) : [scheme];
  const trained = schemes.find(({ method }) => method !== 'rtn');
  return trained ? { why: `method ${trained.method} trains on text`, otherwise: ', or use method rtn' } : null;
}

/** The result of a job, as a model.  @throws ProblemError (404, 409, 400) when there is none */
async function artifactOf(
  tenant: string,
  { jobId, format }: NonNullable<JobSettings['artifact']>,
  { store, reader }: { store: Store; reader: JobReader },
): Promise<JobInputs['model']> {
  const job = jobRef(tenant, jobId);
  const record = await reader.read(job);
  const param = 'artifact.jobId';
  if (record === null) throw new ProblemError('not_found', `${param}: there is no job ${jobId}`, { param });
  const { kind, status, modelId, modelName, formats } = jobView(record);
  if (kind !== 'compress')
    throw new ProblemError(
      'invalid_request',
      `${param}: job ${jobId} is of kind ${kind}, which makes no model; give one of kind compress`,
      { param },
    );
  const folder = `${job.prefix}/artifacts/`;
  if (status !== 'succeeded' || (await store.head(`${folder}manifest.json`)) === null)
    throw new ProblemError(
      'conflict',
      `${param}: job ${jobId} is ${status}; only one that has succeeded has made a model`,
      { param },
    );
  if (!formats.includes(format))
    throw new ProblemError(
      'invalid_request',
      `artifact.format: job ${jobId} has made ${formats.join(' and ')}; got ${format}`,
      { param: 'artifact.format' },
    );
  return {
    id: modelId,
    name: `${modelName} (${format} of job ${jobId})`,
    prefix: format === 'hf' ? `${folder}hf/` : folder,
    fingerprint: null,
  };
}

function uses(spec: JobSpec, upload: Upload): boolean {
  // An artifact's model is only where it came from.
  if (upload.object === 'model')
    return (spec.modelId === upload.id && spec.artifact === undefined) || spec.baselineModelId === upload.id;
  const { evaluation, analysis } = spec;
  const used = [spec.calibrationDatasetId, evaluation?.datasetId, ...analysis.datasetIds];
  return [...used, ...(evaluation?.tasks ?? []).map(({ datasetId }) => datasetId)].includes(upload.id);
}

const now = (clock: Clock): string => new Date(clock.now()).toISOString();
