/**
 * Jobs as they are now, with as few looks into the store as it takes. Spec, states and events are written once and never
 * change, and the logs only grow, so what was read stays true: only what may have come since is asked for, and nothing more
 * of a job that has ended but whether it is still there.
 */
import { LRUCache } from 'lru-cache';
import { terminalStatuses, type JobEvent, type JobSpec, type JobState, type Progress } from 'cherryq/contract';
import { isClosingEvent, lastEventBatch, readEventBatch, readEvents, readSpec, readState, specKey } from './job-log.ts';
import type { Clock, JobRef, Store } from './ports.ts';

export interface JobRecord {
  readonly spec: JobSpec;
  /** Oldest first; empty until a worker takes the job for the first time. */
  readonly states: readonly JobState[];
  /** The newest. */
  readonly progress: Progress | null;
}

export interface JobReader {
  /** @returns null when there is no such job */
  read(job: JobRef): Promise<JobRecord | null>;
  /**
   * Events after an id, in order, up to the newest.
   * @param maxAgeMs how old the knowledge may be that there are no more; many readers of one job then share a look
   */
  events(job: JobRef, after: string | undefined, maxAgeMs?: number): AsyncGenerator<JobEvent>;
}

const mostJobs = 2000;
/** Of parsed events; a batch is counted by its events. */
const mostEvents = 50_000;
/** Event batches looked through, newest first, for the last progress of a job that was not read before. */
const progressLookback = 8;

interface Known {
  readonly spec: JobSpec;
  readonly states: JobState[];
  progress: Progress | null;
  /** Number of the newest batch of events that was looked at; null: none so far. */
  lastBatch: number | null;
  closed: boolean;
}

export function createJobReader({ store, clock }: { store: Store; clock: Clock }): JobReader {
  const known = new LRUCache<string, Known>({ max: mostJobs });
  const batches = new LRUCache<string, readonly JobEvent[]>({
    maxSize: mostEvents,
    sizeCalculation: (events) => Math.max(1, events.length),
  });
  /** When, and of which batch, it was last found that it is not there yet. */
  const ends = new LRUCache<string, { number: number; time: number }>({ max: mostJobs });

  async function batchOf(job: JobRef, number: number, maxAgeMs = 0): Promise<readonly JobEvent[] | null> {
    const key = `${job.prefix}#${number}`;
    const cached = batches.get(key);
    if (cached !== undefined) return cached;
    const end = ends.get(job.prefix);
    if (end?.number === number && clock.now() - end.time < maxAgeMs) return null;
    // Noted before the look, so that those who come meanwhile wait for the next.
    if (maxAgeMs > 0) ends.set(job.prefix, { number, time: clock.now() });
    const events = await readEventBatch(store, job, number);
    if (events !== null) batches.set(key, events);
    return events;
  }

  async function knownOf(job: JobRef): Promise<Known | null> {
    const found = known.get(job.prefix);
    if (found !== undefined) {
      if ((await store.head(specKey(job))) !== null) return found;
      known.delete(job.prefix);
      return null;
    }
    const spec = await readSpec(store, job);
    if (spec === null) return null;
    const fresh: Known = { spec, states: [], progress: null, lastBatch: null, closed: false };
    known.set(job.prefix, fresh);
    return fresh;
  }

  async function readNewStates(job: JobRef, { states }: Known): Promise<void> {
    for (;;) {
      const latest = states.at(-1);
      if (latest && terminalStatuses.has(latest.status)) return;
      const number = states.length + 1;
      const state = await readState(store, job, number);
      if (state === null) return;
      // Another reader may have come first.
      if (states.length === number - 1) states.push(state);
    }
  }

  async function readNewProgress(job: JobRef, found: Known): Promise<void> {
    if (found.closed) return;
    if (found.lastBatch === null) {
      const newest = await lastEventBatch(store, job);
      found.lastBatch ??= Math.max(0, newest - progressLookback);
    }
    for (;;) {
      const number: number = found.lastBatch + 1;
      const events = await batchOf(job, number);
      if (events === null) return;
      if (found.lastBatch !== number - 1) continue;
      found.lastBatch = number;
      for (const event of events) {
        if (event.type === 'progress') found.progress = event.progress;
        if (isClosingEvent(event)) found.closed = true;
      }
    }
  }

  return {
    async read(job) {
      const found = await knownOf(job);
      if (found === null) return null;
      await readNewStates(job, found);
      // After the states, so that it is never older than they are.
      await readNewProgress(job, found);
      return { spec: found.spec, states: [...found.states], progress: found.progress };
    },
    events: (job, after, maxAgeMs = 0) => readEvents(job, after, (of, number) => batchOf(of, number, maxAgeMs)),
  };
}
