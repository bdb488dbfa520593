/** The API in-process on a real folder store; answers are read through the contract's schemas. */
import { expect } from 'vitest';
import { createHash } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { z } from 'zod';
import {
  datasetSchema,
  jobSchema,
  modelSchema,
  problemCodes,
  problemSchema,
  type Dataset,
  type Job,
  type Limits,
  type JobEvent,
  type JobState,
  type Model,
  type Problem,
  type ProblemCode,
  type UploadFile,
} from 'cherryq/contract';
import { FolderStore, type Store } from '@cherryq/batch-jobs/storage';
import { createProcessQueue, type ProcessQueue } from '../../api/src/adapters/process-queue.ts';
import { createApp } from '../../api/src/app.ts';
import { jobRef, readEventBatch, readEvents, readState } from '../../api/src/job-log.ts';
import { keyringKeys, type Keyring } from '../../api/src/keyring.ts';
import { everyNetwork } from '../../api/src/webhook-call.ts';
import { createServices, type Services } from '../../api/src/services.ts';
import type { Api } from '../../api/src/openapi.ts';
import type { SourceSettings } from '../../api/src/sources.ts';
import { localKeys, systemClock, type JobRef, type LogEntry, type Logger } from '../../api/src/ports.ts';
import { tinyModelFiles } from './tiny-model.ts';

export const storeWorker = new URL('./store-worker.mjs', import.meta.url).pathname;

export interface TestApi {
  app: Api;
  keyring: Keyring;
  webhooks: Services['webhooks'];
  logger: Logger;
  services: Services;
  store: Store;
  queue: ProcessQueue;
  folder: string;
  log: LogEntry[];
  close(): Promise<void>;
}

export interface TestApiOptions {
  /** 0: jobs stay queued. */
  concurrency?: number;
  /** Default: a new one. */
  folder?: string;
  limits?: Partial<Limits>;
  /** Whether every request must bring a key. */
  withKeys?: boolean;
  /** What may be imported; default: as without settings. */
  sources?: SourceSettings;
}

export async function openTestApi({
  concurrency = 0,
  folder = '',
  limits,
  withKeys = false,
  sources,
}: TestApiOptions = {}): Promise<TestApi> {
  folder ||= await mkdtemp(join(tmpdir(), 'cherryq-api-'));
  const store = new FolderStore(folder);
  const log: LogEntry[] = [];
  const logger = (entry: LogEntry): void => void log.push(entry);
  const clock = systemClock;
  const storeUrl = pathToFileURL(folder).href;
  const queue = createProcessQueue({
    store,
    storeUrl,
    clock,
    logger,
    concurrency,
    trainerEntry: storeWorker,
    graceMs: 300,
    backoffMs: 10,
  });
  const services = createServices({
    store,
    queue,
    clock,
    logger,
    limits,
    webhookNetworks: everyNetwork,
    sources,
    importsInBackground: true,
  });
  const { keyring, webhooks } = services;
  const app = createApp({
    services,
    store,
    queue,
    clock,
    logger,
    keys: withKeys ? keyringKeys(keyring) : localKeys,
    version: '1.2.3',
    stream: { pollMs: 10, heartbeatMs: 60, windowMs: 400 },
  });
  return {
    app,
    keyring,
    webhooks,
    logger,
    services,
    store,
    queue,
    folder,
    log,
    async close() {
      await services.imports.close();
      await queue.close({ graceMs: 300 });
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** Every event of a job so far. */
export async function eventsOf(store: Store, id: string, tenant = 'local'): Promise<JobEvent[]> {
  const events: JobEvent[] = [];
  const batch = (job: JobRef, number: number) => readEventBatch(store, job, number);
  for await (const event of readEvents(jobRef(tenant, id), undefined, batch)) events.push(event);
  return events;
}

/** Every state of a job so far. */
export async function statesOf(store: Store, id: string, tenant = 'local'): Promise<JobState[]> {
  const states: JobState[] = [];
  for (;;) {
    const state = await readState(store, jobRef(tenant, id), states.length + 1);
    if (state === null) return states;
    states.push(state);
  }
}

export const sha256 = (body: string | Uint8Array): string => createHash('sha256').update(body).digest('hex');

export const jsonRequest = (method: string, body: unknown, headers: Record<string, string> = {}): RequestInit => ({
  method,
  headers: { 'content-type': 'application/json', ...headers },
  body: JSON.stringify(body),
});

/** Reads an answer that must have this status and this shape. */
export async function read<Schema extends z.ZodType>(
  response: Response,
  status: number,
  schema: Schema,
): Promise<z.output<Schema>> {
  const body: unknown = await response.json();
  expect(response.status, JSON.stringify(body)).toBe(status);
  expect(body).toEqual(schema.parse(body));
  expect(response.headers.get('x-request-id')).toBeTruthy();
  return schema.parse(body);
}

export async function readProblem(response: Response, code: ProblemCode): Promise<Problem> {
  expect(response.headers.get('content-type')).toBe('application/problem+json');
  const problem = await read(response, problemCodes[code], problemSchema);
  expect(problem.code, problem.detail).toBe(code);
  expect(problem.status).toBe(response.status);
  expect(problem.requestId).toBe(response.headers.get('x-request-id'));
  return problem;
}

/** @param files content by path; default: a real model, small */
export async function uploadModel(
  { app }: Pick<TestApi, 'app'>,
  name = 'tiny',
  files?: Record<string, Uint8Array<ArrayBuffer>>,
): Promise<Model> {
  return upload(app, 'models', modelSchema, name, files ?? (await tinyModelFiles()));
}

export async function uploadDataset({ app }: Pick<TestApi, 'app'>, text: string): Promise<Dataset> {
  return upload(app, 'datasets', datasetSchema, 'text', { 'text.txt': text });
}

async function upload<Schema extends z.ZodType<{ id: string }>>(
  app: Api,
  collection: string,
  schema: Schema,
  name: string,
  contents: Record<string, string | Uint8Array<ArrayBuffer>>,
): Promise<z.output<Schema>> {
  const files = declarationOf(contents);
  const { id } = await read(await app.request(`/v1/${collection}`, jsonRequest('POST', { name, files })), 201, schema);
  for (const [path, body] of Object.entries(contents)) {
    const response = await app.request(`/v1/${collection}/${id}/files/${path}`, { method: 'PUT', body });
    expect(response.status).toBe(204);
  }
  return read(await app.request(`/v1/${collection}/${id}/complete`, { method: 'POST' }), 200, schema);
}

/** How files are declared when an upload begins. */
export const declarationOf = (contents: Record<string, string | Uint8Array>): UploadFile[] =>
  Object.entries(contents).map(([path, content]) => ({
    path,
    sizeBytes: Buffer.byteLength(content),
    sha256: sha256(content),
  }));

/** A job that `store-worker` runs by a plan, one word per attempt. */
export async function createPlannedJob(api: TestApi, ...plan: string[]): Promise<Job> {
  const { id: modelId } = await uploadModel(api);
  const body = { modelId, scheme: { method: 'rtn' }, metadata: { plan: JSON.stringify(plan) } };
  return read(await api.app.request('/v1/jobs', jsonRequest('POST', body)), 202, jobSchema);
}

export async function readJob({ app }: TestApi, id: string): Promise<Job> {
  return read(await app.request(`/v1/jobs/${id}`), 200, jobSchema);
}

/** Asks until `fits`; fails with the last answer. */
export async function until<Value>(ask: () => Promise<Value>, fits: (value: Value) => boolean): Promise<Value> {
  for (const end = Date.now() + 15_000; ;) {
    const value = await ask();
    if (fits(value)) return value;
    if (Date.now() > end) throw new Error(`waited in vain; last: ${JSON.stringify(value)}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
