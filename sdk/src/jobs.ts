/** `client.jobs`: one compression of one model. */
import type { RequestOptions, Transport } from './client.ts';
import type { CreateJob, Job, JobEvent, JobKind, JobStatus, Page } from './contract/index.ts';
import { TimeoutError } from './errors.ts';
import { hasEnded, type Events } from './events.ts';
import { everyItem } from './pages.ts';
import { sleep } from './retry.ts';

export interface ListJobsQuery {
  /** 1 to 100, default 20. */
  limit?: number;
  /** Id of the last one seen. */
  after?: string;
  status?: JobStatus;
  kind?: JobKind;
  modelId?: string;
  /** A pair that the job's metadata must have, as `key=value`. */
  metadata?: string;
}

export interface CreateJobOptions extends RequestOptions {
  /** Own key, kept across restarts of your program: the same key never makes a second job. Default: a random one. */
  idempotencyKey?: string;
}

export interface CancelOptions extends RequestOptions {
  keepCheckpoint?: boolean;
}

export interface WaitOptions {
  /** Called with each event, in order. */
  onEvent?: (event: JobEvent) => void;
  /** Ends the waiting, not the job. */
  signal?: AbortSignal;
  /** Of the whole wait. Default: none. */
  timeoutMs?: number;
  /** Begin after this event. */
  after?: string;
}

/** Between looks at a job whose stream has ended before its state says so. */
const pollMs = 1000;

export class Jobs {
  readonly #transport: Transport;
  readonly #events: Events;

  constructor(transport: Transport, events: Events) {
    this.#transport = transport;
    this.#events = events;
  }

  /** @example await client.jobs.create({ modelId: model.id, scheme: { method: 'rtn', bits: 4 } }) */
  create(request: CreateJob, { idempotencyKey, ...options }: CreateJobOptions = {}): Promise<Job> {
    return this.#transport.json({ method: 'POST', path: '/v1/jobs', json: request, idempotencyKey }, options);
  }

  /** One page, newest first. */
  list(query: ListJobsQuery = {}, options?: RequestOptions): Promise<Page<Job>> {
    return this.#transport.json({ method: 'GET', path: '/v1/jobs', query: { ...query } }, options);
  }

  /** All of them, newest first. */
  iterate(query: ListJobsQuery = {}, options?: RequestOptions): AsyncGenerator<Job> {
    return everyItem((after = query.after) => this.list({ ...query, after }, options));
  }

  retrieve(id: string, options?: RequestOptions): Promise<Job> {
    return this.#transport.json({ method: 'GET', path: pathOf(id) }, options);
  }

  /**
   * @param keepCheckpoint for a `retry` later; without it, what the job had computed is removed
   * @throws ConflictError when the job has ended otherwise
   */
  cancel(id: string, { keepCheckpoint = false, ...options }: CancelOptions = {}): Promise<Job> {
    return this.#transport.json({ method: 'POST', path: `${pathOf(id)}/cancel`, json: { keepCheckpoint } }, options);
  }

  /** Stops it once it has saved a checkpoint, until `resume`.  @throws ConflictError when the job has ended */
  pause(id: string, options?: RequestOptions): Promise<Job> {
    return this.#transport.json({ method: 'POST', path: `${pathOf(id)}/pause` }, options);
  }

  /** @throws ConflictError when the job has ended */
  resume(id: string, options?: RequestOptions): Promise<Job> {
    return this.#transport.json({ method: 'POST', path: `${pathOf(id)}/resume` }, options);
  }

  /**
   * Repeats a job that failed or was cancelled, from its last checkpoint if it kept one.
   * @returns the new job   @throws ConflictError when the job has not ended so
   */
  retry(id: string, { idempotencyKey, ...options }: CreateJobOptions = {}): Promise<Job> {
    return this.#transport.json({ method: 'POST', path: `${pathOf(id)}/retry`, idempotencyKey }, options);
  }

  /** Deletes an ended job with all that it left.  @throws ConflictError when it has not ended */
  delete(id: string, options?: RequestOptions): Promise<void> {
    return this.#transport.json({ method: 'DELETE', path: pathOf(id) }, options);
  }

  /**
   * Follows a job to its end, whichever that is: look at `status`.
   * @throws TimeoutError after `timeoutMs`; the job goes on   @throws the signal's reason
   */
  async wait(id: string, { onEvent, signal, timeoutMs, after }: WaitOptions = {}): Promise<Job> {
    const deadline = timeoutMs === undefined ? null : AbortSignal.timeout(Math.min(timeoutMs, 2 ** 31 - 1));
    const signals = [signal, deadline].filter((each) => each !== undefined && each !== null);
    const either = AbortSignal.any(signals);
    try {
      for (let last = after; ; await sleep(pollMs, either)) {
        for await (const event of this.#events.stream(id, { after: last, signal: either })) {
          last = event.id;
          onEvent?.(event);
        }
        const job = await this.retrieve(id, { signal: either });
        if (hasEnded(job)) return job;
      }
    } catch (error) {
      if (!deadline?.aborted || signal?.aborted) throw error;
      throw new TimeoutError(`job ${id} had not ended after ${timeoutMs} ms; it goes on, so wait for it again`, {
        code: 'wait_timeout',
        retryable: true,
        cause: error,
      });
    }
  }
}

const pathOf = (id: string): string => `/v1/jobs/${encodeURIComponent(id)}`;
