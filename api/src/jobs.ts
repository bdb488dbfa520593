/**
 * Jobs: what can be asked about one and how it changes on request. The files under the job's prefix are the only record
 * (job-log.ts); what a client sees of them is the pure function `jobView`. Running a job is the queue's business.
 */
import {
  manifestSchema,
  terminalStatuses,
  type createJobSchema,
  type Job,
  type JobEvent,
  type JobSpec,
  type JobState,
  type JobStatus,
  type Manifest,
  type Page,
  type Progress,
} from 'cherryq/contract';
import type { z } from 'zod';
import {
  advanceState,
  appendEvents,
  createJobFolder,
  decodeJson,
  jobRef,
  jobsPrefix,
  readEvents,
  readLatestProgress,
  readSpec,
  readStates,
} from './job-log.ts';
import type { Clock, JobRef, Queue, Store } from './ports.ts';
import { ProblemError } from './problems.ts';
import type { Upload, Uploads } from './uploads.ts';

export type JobRequest = z.output<typeof createJobSchema>;

export interface Jobs {
  /** Creates under this id and hands it to the queue; a job that exists is returned as it is. */
  create(tenant: string, id: string, request: JobRequest): Promise<Job>;
  retrieve(tenant: string, id: string): Promise<Job>;
  /** Newest first. */
  list(tenant: string, query: { limit: number; after?: string; status?: JobStatus }): Promise<Page<Job>>;
  /** @throws ProblemError (409) when the job has already succeeded or failed */
  cancel(tenant: string, id: string): Promise<Job>;
  events(tenant: string, id: string, query: { limit: number; after?: string }): Promise<Page<JobEvent>>;
  /**
   * What the job left, and the folder under its prefix: `artifacts`, or `rejected` where it has missed a limit of quality.
   * @throws ProblemError (409) until it has ended so
   */
  manifest(tenant: string, id: string): Promise<{ manifest: Manifest; folder: 'artifacts' | 'rejected' }>;
  /** Id of a job that has not ended and needs this model or dataset; null when there is none. */
  findUserOf(tenant: string, upload: Upload): Promise<string | null>;
}

/** The job as clients see it. @param states oldest first */
export function jobView(spec: JobSpec, states: readonly JobState[], progress: Progress | null): Job {
  const latest = states.at(-1);
  const ended = latest && terminalStatuses.has(latest.status) ? latest : null;
  return {
    object: 'job',
    kind: spec.kind,
    id: spec.id,
    status: latest?.status ?? 'queued',
    modelId: spec.modelId,
    modelName: spec.modelName,
    scheme: spec.scheme,
    training: spec.training,
    calibrationDatasetId: spec.calibrationDatasetId ?? null,
    evaluation: spec.evaluation ?? null,
    analysis: spec.analysis,
    formats: spec.formats,
    metadata: spec.metadata,
    createdAt: spec.createdAt,
    startedAt: states.find((state) => state.status === 'running')?.time ?? null,
    finishedAt: ended?.time ?? null,
    attempt: Math.max(0, ...states.map((state) => state.attempt)),
    progress,
    error: ended?.error ?? null,
    result: ended?.result ?? null,
    analysisResult: ended?.analysisResult ?? null,
  };
}

export function createJobs(deps: {
  store: Store;
  queue: Queue;
  clock: Clock;
  models: Uploads;
  datasets: Uploads;
}): Jobs {
  const { store, queue, clock, models, datasets } = deps;

  async function view(job: JobRef, spec: JobSpec): Promise<Job> {
    const states = await readStates(store, job);
    // Read after the states, so that it is never older than they are.
    return jobView(spec, states, await readLatestProgress(store, job));
  }

  async function specOf(job: JobRef): Promise<JobSpec> {
    const spec = await readSpec(store, job);
    if (spec === null)
      throw new ProblemError('not_found', `there is no job ${job.id}; list the jobs of this store with GET /v1/jobs`, {
        param: 'id',
      });
    return spec;
  }

  async function idsNewestFirst(tenant: string): Promise<string[]> {
    return (await store.folders(jobsPrefix(tenant))).sort().reverse();
  }

  return {
    async create(tenant, id, request) {
      const job = jobRef(tenant, id);
      const { model, calibration, evaluation, tasks, analysis } = await inputsOf(tenant, request, models, datasets);
      const createdAt = now(clock);
      const spec: JobSpec = {
        ...request,
        id,
        createdAt,
        modelName: model.name,
        modelPrefix: models.filesPrefix(tenant, model.id),
        calibrationPrefix: calibration && datasets.filesPrefix(tenant, calibration.id),
        calibrationName: calibration && calibration.name,
        evaluationPrefix: evaluation && datasets.filesPrefix(tenant, evaluation.id),
        tasks: tasks.map(({ name, id: task }) => ({ name, prefix: datasets.filesPrefix(tenant, task) })),
        analysisPrefixes: analysis.map(({ name, id: set }) => ({ name, prefix: datasets.filesPrefix(tenant, set) })),
      };
      await queue.announce(job);
      await createJobFolder(store, job, clock, spec, queued(createdAt));
      await queue.submit(job);
      return view(job, await specOf(job));
    },

    async retrieve(tenant, id) {
      const job = jobRef(tenant, id);
      return view(job, await specOf(job));
    },

    async list(tenant, { limit, after, status }) {
      const data: Job[] = [];
      for (const id of await idsNewestFirst(tenant)) {
        if (after !== undefined && id >= after) continue;
        const job = jobRef(tenant, id);
        const spec = await readSpec(store, job);
        if (spec === null) continue;
        const found = await view(job, spec);
        if (status !== undefined && found.status !== status) continue;
        if (data.length === limit) return { object: 'list', data, hasMore: true };
        data.push(found);
      }
      return { object: 'list', data, hasMore: false };
    },

    async cancel(tenant, id) {
      const job = jobRef(tenant, id);
      const spec = await specOf(job);
      const { state, changed } = await advanceState(store, job, (latest) => ({
        status: 'cancelled',
        time: now(clock),
        attempt: latest?.attempt ?? 0,
        by: 'api',
        error: null,
        result: null,
        analysisResult: null,
      }));
      if (state?.status !== 'cancelled')
        throw new ProblemError(
          'conflict',
          `job ${id} has already ${state?.status}; only a queued or running job can be cancelled`,
        );
      if (changed) await appendEvents(store, job, clock, [{ type: 'job.cancelled' }]);
      await queue.cancel(job);
      return view(job, spec);
    },

    async events(tenant, id, { limit, after }) {
      const job = jobRef(tenant, id);
      await specOf(job);
      const data: JobEvent[] = [];
      for await (const event of readEvents(store, job, after)) {
        if (data.length === limit) return { object: 'list', data, hasMore: true };
        data.push(event);
      }
      return { object: 'list', data, hasMore: false };
    },

    async manifest(tenant, id) {
      const job = jobRef(tenant, id);
      const spec = await specOf(job);
      const { status, error } = jobView(spec, await readStates(store, job), null);
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
      for (const id of await idsNewestFirst(tenant)) {
        const job = jobRef(tenant, id);
        const spec = await readSpec(store, job);
        if (spec === null || !uses(spec, upload)) continue;
        const { status } = jobView(spec, await readStates(store, job), null);
        if (!terminalStatuses.has(status)) return id;
      }
      return null;
    },
  };
}

/** The first state of every job. */
export const queued = (time: string): JobState => ({
  status: 'queued',
  time,
  attempt: 0,
  by: 'api',
  error: null,
  result: null,
  analysisResult: null,
});

/** Looks up what a request refers to. @throws ProblemError (404, 409, 400) naming the field */
async function inputsOf(
  tenant: string,
  request: JobRequest,
  models: Uploads,
  datasets: Uploads,
): Promise<{
  model: Upload;
  calibration: Upload | null;
  evaluation: Upload | null;
  tasks: Upload[];
  analysis: Upload[];
}> {
  const { method } = request.scheme;
  const needsText = request.kind === 'analyze' || method !== 'rtn';
  if (needsText && request.calibrationDatasetId === undefined) {
    const why = request.kind === 'analyze' ? 'an analysis measures impact on text' : `method ${method} trains on text`;
    const otherwise = request.kind === 'analyze' ? '' : ', or use method rtn';
    throw new ProblemError(
      'invalid_request',
      `${why}, so calibrationDatasetId is required; got nothing. Upload a text and give its id${otherwise}`,
      { param: 'calibrationDatasetId' },
    );
  }
  const ready = async (uploads: Uploads, id: string, param: string): Promise<Upload> => {
    const upload = await uploads.find(tenant, id);
    if (upload === null)
      throw new ProblemError('not_found', `${param}: there is nothing with the id ${id}; upload it first`, { param });
    if (upload.status !== 'ready')
      throw new ProblemError(
        'conflict',
        `${param}: ${upload.object} ${id} is still being uploaded; put its missing files and complete it`,
        { param },
      );
    return upload;
  };
  const model = await ready(models, request.modelId, 'modelId');
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
  if (needsText && evaluation !== null && calibration?.fingerprint === evaluation.fingerprint)
    throw new ProblemError(
      'invalid_request',
      `evaluation.datasetId holds the same text as calibrationDatasetId; perplexity on text that was trained on says nothing. Give another text`,
      { param: 'evaluation.datasetId' },
    );
  return { model, calibration, evaluation, tasks, analysis };
}

function uses(spec: JobSpec, upload: Upload): boolean {
  if (upload.object === 'model') return spec.modelId === upload.id;
  const { evaluation, analysis } = spec;
  const used = [spec.calibrationDatasetId, evaluation?.datasetId, ...analysis.datasetIds];
  return [...used, ...(evaluation?.tasks ?? []).map(({ datasetId }) => datasetId)].includes(upload.id);
}

const now = (clock: Clock): string => new Date(clock.now()).toISOString();
