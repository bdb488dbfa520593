/**
 * The trainer's side of the job folder (docs/architecture.md): reads the spec, claims an attempt, writes states, events and artifacts.
 * An attempt that is no longer the newest must not publish: `assertCurrent` is asked before each publication.
 */
import type { JobError, JobEventBody, JobOutcome, JobResult, JobSpec, JobState, StoredEvent } from 'cherryq/contract';
import { jobReserve, jobSpecSchema, jobStateSchema, noOutcome, terminalStatuses } from 'cherryq/contract';
import { InterruptedError } from './errors.ts';
import { appendNumbered, createNumbered, readLatestNumbered } from './storage/numbered-log.ts';
import { StorageFullError } from './storage/store.ts';
import type { Store } from './storage/store.ts';

const stateDigits = 6;
const eventDigits = 8;
/** Events wait this long to be written together: often at first, when somebody watches, less so later. */
const flushAfterMs = (elapsedMs: number): number => (elapsedMs < 120_000 ? 400 : 2000);

export class JobFolder {
  private waiting: StoredEvent[] = [];
  private lastEventNumber: number | undefined;
  private lastFlush = 0;
  private flushing: Promise<void> = Promise.resolve();
  private readonly startedAt = performance.now();

  private constructor(
    private readonly store: Store,
    /** `tenants/<tenant>/jobs/<id>/` */
    readonly prefix: string,
    readonly spec: JobSpec,
    readonly attempt: number,
    /** When the first attempt began. */
    readonly firstStart: Date,
    /** Whether this worker is the one that has claimed the attempt. */
    readonly beganAttempt: boolean,
  ) {}

  /** Claims the next attempt.  @returns null when the job has ended, or is paused  @throws Error when there is no such job */
  static claim(store: Store, prefix: string): Promise<JobFolder | null> {
    return JobFolder.begin(store, prefix, (latest) => (latest?.state.attempt ?? 0) + 1);
  }

  /**
   * Takes part in an attempt that several workers share: the first to come claims it.
   * @returns null when the job has ended, is paused, or has gone on to another attempt  @throws Error when there is no such job
   */
  static join(store: Store, prefix: string, attempt: number): Promise<JobFolder | null> {
    return JobFolder.begin(store, prefix, (latest) => {
      const isRunning = latest?.state.status === 'running' && latest.state.attempt === attempt;
      return isRunning ? 'joined' : (latest?.state.attempt ?? 0) === attempt - 1 ? attempt : null;
    });
  }

  /** @param attemptAfter number to claim, or that of the running attempt is joined, or null: there is nothing to do any more */
  private static async begin(
    store: Store,
    prefix: string,
    attemptAfter: (latest: NumberedState | null) => number | 'joined' | null,
  ): Promise<JobFolder | null> {
    const specBytes = await store.get(`${prefix}spec.json`);
    if (specBytes === null) throw new Error(`There is no job at ${prefix}: its spec.json is missing.`);
    const spec = jobSpecSchema.parse(JSON.parse(new TextDecoder().decode(specBytes)));
    for (;;) {
      const latest = await readState(store, prefix);
      if (latest && (latest.state.status === 'paused' || terminalStatuses.has(latest.state.status))) return null;
      const attempt = attemptAfter(latest);
      if (attempt === null) return null;
      if (attempt === 'joined')
        return new JobFolder(store, prefix, spec, latest?.state.attempt ?? 1, await firstStart(store, prefix), false);
      const body = encode(newState('running', attempt));
      const number = (latest?.number ?? 0) + 1;
      try {
        if (!(await createNumbered(store, `${prefix}state/`, stateDigits, '.json', number, body))) continue;
      } catch (error) {
        const reserve = prefix + jobReserve.path;
        if (!(error instanceof StorageFullError) || (await store.head(reserve)) === null) throw error;
        // The attempt will not get far, but it can say why.
        await store.delete(reserve);
        continue;
      }
      return new JobFolder(store, prefix, spec, attempt, await firstStart(store, prefix), true);
    }
  }

  /** Prefix of the tenant: what may be shared between its jobs. */
  get tenantPrefix(): string {
    return this.prefix.split('/').slice(0, 2).join('/') + '/';
  }

  /** Queues an event; it is written within a second or two, or by `flush`. */
  emit(body: JobEventBody): void {
    this.waiting.push({ time: new Date().toISOString(), ...body });
    const now = performance.now();
    if (now - this.lastFlush < flushAfterMs(now - this.startedAt)) return;
    this.lastFlush = now;
    // What cannot be written now is written with what comes next; `flush` says what is wrong.
    this.flush().catch(() => undefined);
  }

  /** @throws whatever keeps the events from being written */
  flush(): Promise<void> {
    const written = this.flushing.then(() => this.write());
    this.flushing = written.catch(() => undefined);
    return written;
  }

  private async write(): Promise<void> {
    if (this.waiting.length === 0) return;
    const events = this.waiting;
    this.waiting = [];
    const lines = events.map((event) => `${JSON.stringify(event)}\n`).join('');
    try {
      this.lastEventNumber = await appendNumbered(
        this.store,
        `${this.prefix}events/`,
        eventDigits,
        '.ndjson',
        new TextEncoder().encode(lines),
        this.lastEventNumber,
      );
    } catch (error) {
      this.waiting = [...events, ...this.waiting];
      throw error;
    }
  }

  /** @throws InterruptedError when the job was cancelled or paused, or another attempt has begun */
  async assertCurrent(): Promise<void> {
    const latest = await readState(this.store, this.prefix);
    if (latest?.state.status === 'running' && latest.state.attempt === this.attempt) return;
    throw new InterruptedError(
      `attempt ${this.attempt} is no longer the job's own: it is ${latest?.state.status ?? 'gone'}, attempt ${latest?.state.attempt ?? '?'}`,
    );
  }

  async succeed(found: Partial<JobOutcome>): Promise<void> {
    const outcome = { ...noOutcome, ...found };
    await this.end('succeeded', outcome, { type: 'job.succeeded', ...outcome });
  }

  /** @param result what was measured, where the job failed for its quality */
  async fail(error: JobError, result: JobResult | null = null): Promise<void> {
    await this.end('failed', { error, result }, { type: 'job.failed', error });
  }

  /** The state first: it is what counts. The event follows; readers end a stream by the state if it is missing. */
  private async end(
    status: 'succeeded' | 'failed',
    details: Partial<JobOutcome & Pick<JobState, 'error'>>,
    event: JobEventBody,
  ): Promise<void> {
    const latest = await readState(this.store, this.prefix);
    if (!latest || terminalStatuses.has(latest.state.status) || latest.state.attempt !== this.attempt) return;
    const body = encode(newState(status, this.attempt, details));
    await this.store.delete(this.prefix + jobReserve.path);
    if (!(await createNumbered(this.store, `${this.prefix}state/`, stateDigits, '.json', latest.number + 1, body)))
      return;
    this.emit(event);
    await this.flush();
  }
}

function newState(
  status: JobState['status'],
  attempt: number,
  details: Partial<JobOutcome & Pick<JobState, 'error'>> = {},
): JobState {
  return {
    status,
    time: new Date().toISOString(),
    attempt,
    by: 'worker',
    keepCheckpoint: false,
    error: null,
    ...noOutcome,
    ...details,
  };
}

const encode = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value));

interface NumberedState {
  readonly number: number;
  readonly state: JobState;
}

async function readState(store: Store, prefix: string): Promise<NumberedState | null> {
  const latest = await readLatestNumbered(store, `${prefix}state/`);
  return (
    latest && { number: latest.number, state: jobStateSchema.parse(JSON.parse(new TextDecoder().decode(latest.body))) }
  );
}

async function firstStart(store: Store, prefix: string): Promise<Date> {
  for (const { key } of await store.list(`${prefix}state/`)) {
    const body = await store.get(key);
    const state = body && jobStateSchema.parse(JSON.parse(new TextDecoder().decode(body)));
    if (state?.status === 'running') return new Date(state.time);
  }
  return new Date();
}
