/**
 * The job folder, typed: spec, state log and event log under `tenants/<tenant>/jobs/<id>/` (docs/architecture.md).
 * The state log only goes forward: `queued`, then `running` once per attempt, then one final state after which nothing
 * follows. Every change is decided on the newest entry and written as exactly the next one, so of two writers that race
 * for the last word one wins and the other sees it.
 */
import {
  jobReserve,
  jobSpecSchema,
  jobStateSchema,
  storedEventSchema,
  terminalStatuses,
  type JobEvent,
  type JobSpec,
  type JobState,
  type Progress,
  type StoredEvent,
} from 'cherryq/contract';
import {
  StorageFullError,
  appendNumbered,
  createNumbered,
  lastNumbered,
  numberedKey,
  readLatestNumbered,
  readNumbered,
  type NumberedEntry,
} from '@cherryq/batch-jobs/storage';
import type { Clock, JobRef, Store } from './ports.ts';

const stateDigits = 6;
const eventDigits = 8;
const lineDigits = 4;
const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Event batches looked through, newest first, for the last progress. */
const progressLookback = 8;

export type JobEventFields = StoredEvent extends infer Event
  ? Event extends unknown
    ? Omit<Event, 'time'>
    : never
  : never;

export const jobsPrefix = (tenant: string): string => `tenants/${tenant}/jobs/`;
export const jobRef = (tenant: string, id: string): JobRef => ({ tenant, id, prefix: `${jobsPrefix(tenant)}${id}` });
const statePrefix = (job: JobRef): string => `${job.prefix}/state/`;
const eventPrefix = (job: JobRef): string => `${job.prefix}/events/`;
const specKey = (job: JobRef): string => `${job.prefix}/spec.json`;
const reserveKey = (job: JobRef): string => `${job.prefix}/${jobReserve.path}`;

export const encodeJson = (value: unknown): Uint8Array => encoder.encode(`${JSON.stringify(value, null, 1)}\n`);
export const decodeJson = (body: Uint8Array): unknown => JSON.parse(decoder.decode(body));

/** @returns false when the job exists; its spec is left as it was */
export function createSpec(store: Store, job: JobRef, spec: JobSpec): Promise<boolean> {
  return store.put(specKey(job), encodeJson(spec), { onlyIfAbsent: true });
}

/**
 * Makes the folder of a job that is queued; of one that exists, what is lacking.
 * @throws StorageFullError when there is no room, also for its last words; nothing of a new job is left then
 */
export async function createJobFolder(
  store: Store,
  job: JobRef,
  clock: Clock,
  spec: JobSpec,
  queued: JobState,
): Promise<void> {
  const isNew = await createSpec(store, job, spec);
  try {
    if (isNew) await store.put(reserveKey(job), new Uint8Array(jobReserve.sizeBytes));
    await ensureQueued(store, job, clock, queued);
  } catch (error) {
    if (isNew && error instanceof StorageFullError) await store.deletePrefix(`${job.prefix}/`);
    throw error;
  }
}

/** Gives a job its first state, unless it has one: its creation may have broken off before. */
export async function ensureQueued(store: Store, job: JobRef, clock: Clock, queued: JobState): Promise<void> {
  const { changed } = await advanceState(store, job, (latest) => (latest ? null : queued));
  if (changed) await appendEvents(store, job, clock, [{ type: 'job.queued' }]);
}

/** @returns null when there is no such job */
export async function readSpec(store: Store, job: JobRef): Promise<JobSpec | null> {
  const body = await store.get(specKey(job));
  return body && jobSpecSchema.parse(decodeJson(body));
}

/** All states, oldest first; empty in the moment between a job's spec and its first state. */
export async function readStates(store: Store, job: JobRef): Promise<JobState[]> {
  const states: JobState[] = [];
  for await (const entry of readNumbered(store, statePrefix(job), stateDigits, '.json')) states.push(parseState(entry));
  return states;
}

export async function readLatestState(store: Store, job: JobRef): Promise<JobState | null> {
  const entry = await readLatestNumbered(store, statePrefix(job));
  return entry && parseState(entry);
}

/**
 * Appends the state that `next` makes of the newest one (null: the log is empty); when `next` gives null, nothing changes.
 * `next` is asked again when another writer was faster, and never after a final state.
 * @returns the newest state afterwards, and whether it is the one written here
 */
export async function advanceState(
  store: Store,
  job: JobRef,
  next: (latest: JobState | null) => JobState | null,
): Promise<{ state: JobState | null; changed: boolean }> {
  for (;;) {
    const entry = await readLatestNumbered(store, statePrefix(job));
    const latest = entry && parseState(entry);
    const state = latest && terminalStatuses.has(latest.status) ? null : next(latest);
    if (state === null) return { state: latest, changed: false };
    if (terminalStatuses.has(state.status)) await store.delete(reserveKey(job));
    const number = (entry?.number ?? 0) + 1;
    if (await createNumbered(store, statePrefix(job), stateDigits, '.json', number, encodeJson(state)))
      return { state, changed: true };
  }
}

/** Appends one batch of events. */
export async function appendEvents(store: Store, job: JobRef, clock: Clock, events: JobEventFields[]): Promise<void> {
  const time = new Date(clock.now()).toISOString();
  const lines = events.map((event) => `${JSON.stringify(storedEventSchema.parse({ time, ...event }))}\n`);
  await appendNumbered(store, eventPrefix(job), eventDigits, '.ndjson', encoder.encode(lines.join('')));
}

/** Events after an id, in order. @param after id of the last event seen; absent: from the first */
export async function* readEvents(store: Store, job: JobRef, after?: string): AsyncGenerator<JobEvent> {
  const [object, line] = (after ?? '').split('.').map(Number);
  const seen = { object: object || 1, line: line ?? 0 };
  for await (const entry of readNumbered(store, eventPrefix(job), eventDigits, '.ndjson', seen.object)) {
    for (const event of parseEvents(entry)) {
      if (entry.number > seen.object || Number(event.id.slice(eventDigits + 1)) > seen.line) yield event;
    }
  }
}

/** The newest event; null when there is none. */
export async function readLastEvent(store: Store, job: JobRef): Promise<JobEvent | null> {
  for await (const batch of batchesBackwards(store, job)) return batch.at(-1) ?? null;
  return null;
}

/** The newest progress among the last batches of events. */
export async function readLatestProgress(store: Store, job: JobRef): Promise<Progress | null> {
  let tries = 0;
  for await (const batch of batchesBackwards(store, job)) {
    for (const event of batch.reverse()) if (event.type === 'progress') return event.progress;
    if (++tries === progressLookback) return null;
  }
  return null;
}

async function* batchesBackwards(store: Store, job: JobRef): AsyncGenerator<JobEvent[]> {
  let number = await lastNumbered(store, eventPrefix(job), eventDigits, '.ndjson');
  for (; number > 0; number--) {
    const body = await store.get(numberedKey(eventPrefix(job), eventDigits, '.ndjson', number));
    if (body !== null) yield parseEvents({ number, body });
  }
}

/**
 * Gives a job that has ended its closing event, should the process that ended it have died between the two writes.
 * @returns whether the job has ended
 */
export async function sealJob(store: Store, job: JobRef, clock: Clock): Promise<boolean> {
  const state = await readLatestState(store, job);
  if (state === null || !terminalStatuses.has(state.status)) return false;
  const last = await readLastEvent(store, job);
  if (last === null || !isClosingEvent(last)) await appendEvents(store, job, clock, [closingEvent(state)]);
  return true;
}

/** After such an event no other follows. */
export const isClosingEvent = (event: JobEvent): boolean =>
  event.type === 'job.succeeded' || event.type === 'job.failed' || event.type === 'job.cancelled';

function closingEvent(state: JobState): JobEventFields {
  const { status, error, result, analysisResult } = state;
  if (status === 'succeeded' && (result ?? analysisResult)) return { type: 'job.succeeded', result, analysisResult };
  if (status === 'failed' && error) return { type: 'job.failed', error };
  if (status === 'cancelled') return { type: 'job.cancelled' };
  throw new Error(`state ${status} of a job holds neither its result nor its error`);
}

function parseState(entry: NumberedEntry): JobState {
  return jobStateSchema.parse(decodeJson(entry.body));
}

function parseEvents(entry: NumberedEntry): JobEvent[] {
  const lines = decoder.decode(entry.body).split('\n').filter(Boolean);
  return lines.map((line, index) => ({
    id: `${String(entry.number).padStart(eventDigits, '0')}.${String(index + 1).padStart(lineDigits, '0')}`,
    ...storedEventSchema.parse(JSON.parse(line)),
  }));
}
