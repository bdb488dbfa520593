/**
 * The job folder, typed: spec, state log and event log under `tenants/<tenant>/jobs/<id>/` (docs/architecture.md).
 * The state log only goes forward: nothing while the job waits for the first time, then `running` once per attempt, then one
 * final state after which nothing follows. Every change is decided on the newest entry and written as exactly the next one, so of two writers that race
 * for the last word one wins and the other sees it.
 */
import {
  anyResultOf,
  jobReserve,
  jobSpecSchema,
  jobStateSchema,
  outcomeOf,
  storedEventSchema,
  terminalStatuses,
  type JobEvent,
  type JobSpec,
  type JobState,
  type StoredEvent,
} from 'cherryq/contract';
import {
  StorageFullError,
  appendNumbered,
  createNumbered,
  lastNumbered,
  numberedKey,
  readLatestNumbered,
  type NumberedEntry,
} from '@cherryq/batch-jobs/storage';
import { indexKey } from './newest-first.ts';
import type { Clock, JobRef, Store } from './ports.ts';

const stateDigits = 6;
const eventDigits = 8;
const lineDigits = 4;
const encoder = new TextEncoder();
const decoder = new TextDecoder();

export type JobEventFields = StoredEvent extends infer Event
  ? Event extends unknown
    ? Omit<Event, 'time'>
    : never
  : never;

export const jobsPrefix = (tenant: string): string => `tenants/${tenant}/jobs/`;
export const jobRef = (tenant: string, id: string): JobRef => ({ tenant, id, prefix: `${jobsPrefix(tenant)}${id}` });
const statePrefix = (job: JobRef): string => `${job.prefix}/state/`;
const eventPrefix = (job: JobRef): string => `${job.prefix}/events/`;
export const specKey = (job: JobRef): string => `${job.prefix}/spec.json`;
export const openPrefix = (tenant: string): string => `tenants/${tenant}/open/`;
/** There as long as the job needs care: written before anything else of it, deleted after all else is done. */
export const openKey = ({ tenant, id }: JobRef): string => openPrefix(tenant) + id;
export const endedPrefix = (tenant: string): string => `tenants/${tenant}/ended/`;
/** By the day of its end, for those who delete old jobs. */
export const endedKey = ({ tenant, id }: JobRef, time: number): string =>
  `${endedPrefix(tenant)}${new Date(time).toISOString().slice(0, 10)}/${id}`;
/** Says that there was such a job, or upload, and that it was deleted. */
export const deletedKey = (tenant: string, id: string): string => `tenants/${tenant}/deleted/${id}`;
const reserveKey = (job: JobRef): string => `${job.prefix}/${jobReserve.path}`;

export const encodeJson = (value: unknown): Uint8Array => encoder.encode(`${JSON.stringify(value, null, 1)}\n`);
export const decodeJson = (body: Uint8Array): unknown => JSON.parse(decoder.decode(body));

/**
 * Makes the folder of a job, which is queued then; of one that exists, what is lacking.
 * @returns whether it is new
 * @throws StorageFullError when there is no room, also for its last words; nothing of a new job is left then
 */
export async function createJobFolder(store: Store, job: JobRef, spec: JobSpec): Promise<boolean> {
  let isNew = false;
  try {
    const index = indexKey(job.tenant, 'jobs', job.id);
    const marks = [openKey(job), index].map((key) => store.put(key, new Uint8Array()));
    // Both are over before anything is undone.
    for (const mark of await Promise.allSettled(marks)) if (mark.status === 'rejected') throw mark.reason;
    isNew = await store.put(specKey(job), encodeJson(spec), { onlyIfAbsent: true });
    if (isNew) await store.put(reserveKey(job), new Uint8Array(jobReserve.sizeBytes), { durable: false });
    return isNew;
  } catch (error) {
    if (error instanceof StorageFullError && (isNew || (await store.head(specKey(job))) === null))
      await forgetJob(store, job);
    throw error;
  }
}

/** Removes all of a job: first what makes it visible, last what says that there is something to remove. */
export async function forgetJob(store: Store, job: JobRef): Promise<void> {
  await store.delete(specKey(job));
  await store.deletePrefix(`${job.prefix}/`);
  await store.delete(indexKey(job.tenant, 'jobs', job.id));
  await store.delete(openKey(job));
}

/** @returns null when there is no such job */
export async function readSpec(store: Store, job: JobRef): Promise<JobSpec | null> {
  const body = await store.get(specKey(job));
  return body && jobSpecSchema.parse(decodeJson(body));
}

/** One state by its number, from 1; null when there is none so far. */
export async function readState(store: Store, job: JobRef, number: number): Promise<JobState | null> {
  const body = await store.get(numberedKey(statePrefix(job), stateDigits, '.json', number));
  return body && parseState({ number, body });
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

/**
 * The events that were written together under a number; null when there are none so far. Number 0 is what the spec says: that
 * the job was queued.
 */
export async function readEventBatch(store: Store, job: JobRef, number: number): Promise<JobEvent[] | null> {
  if (number === 0) {
    const spec = await readSpec(store, job);
    return spec && [{ id: eventId(0, 1), time: spec.createdAt, type: 'job.queued' }];
  }
  const body = await store.get(numberedKey(eventPrefix(job), eventDigits, '.ndjson', number));
  return body && parseEvents({ number, body });
}

/** Events after an id, in order. @param after id of the last event seen; absent: from the first */
export async function* readEvents(
  job: JobRef,
  after: string | undefined,
  batch: (job: JobRef, number: number) => Promise<readonly JobEvent[] | null>,
): AsyncGenerator<JobEvent> {
  const [object, line] = after?.split('.').map(Number) ?? [];
  const seen = { object: object ?? 0, line: line ?? 0 };
  for (let number = seen.object; ; number++) {
    const events = await batch(job, number);
    if (events === null) return;
    for (const event of events)
      if (number > seen.object || Number(event.id.slice(eventDigits + 1)) > seen.line) yield event;
  }
}

export const lastEventBatch = (store: Store, job: JobRef): Promise<number> =>
  lastNumbered(store, eventPrefix(job), eventDigits, '.ndjson');

/** The newest event; null when there is none. */
export async function readLastEvent(store: Store, job: JobRef): Promise<JobEvent | null> {
  const number = await lastEventBatch(store, job);
  return number === 0 ? null : ((await readEventBatch(store, job, number))?.at(-1) ?? null);
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
  const { status, error } = state;
  if (status === 'succeeded' && anyResultOf(state) !== null) return { type: 'job.succeeded', ...outcomeOf(state) };
  if (status === 'failed' && error) return { type: 'job.failed', error };
  if (status === 'cancelled') return { type: 'job.cancelled' };
  throw new Error(`state ${status} of a job holds neither its result nor its error`);
}

function parseState(entry: NumberedEntry): JobState {
  return jobStateSchema.parse(decodeJson(entry.body));
}

function eventId(batch: number, line: number): string {
  return `${String(batch).padStart(eventDigits, '0')}.${String(line).padStart(lineDigits, '0')}`;
}

function parseEvents(entry: NumberedEntry): JobEvent[] {
  const lines = decoder.decode(entry.body).split('\n').filter(Boolean);
  return lines.map((line, index) => ({
    id: eventId(entry.number, index + 1),
    ...storedEventSchema.parse(JSON.parse(line)),
  }));
}
