/** `client.events`: what happens in a job, in order, each event once. */
import type { RequestOptions, Transport } from './client.ts';
import type { Job, JobEvent, JobStatus, Page } from './contract/index.ts';
import { CherryQError, ConnectionError } from './errors.ts';
import { retryDelayMs, sleep } from './retry.ts';
import { readServerSentEvents } from './sse.ts';

export interface ListEventsQuery {
  /** Id of the last one seen. */
  after?: string;
  /** 1 to 1000, default 200. */
  limit?: number;
}

export interface StreamEventsOptions extends RequestOptions {
  /** Id of the last event seen; the stream begins after it. */
  after?: string;
}

const closing: ReadonlySet<string> = new Set(['job.succeeded', 'job.failed', 'job.cancelled']);
const terminal: ReadonlySet<JobStatus> = new Set(['succeeded', 'failed', 'cancelled']);

/** No more will happen to the job. A status that this version does not know counts as going on. */
export const hasEnded = (job: Job): boolean => terminal.has(job.status);

/** A server that was there and went is given about 45 s to come back, as after a restart. */
const maxReconnects = 8;
/** Between windows that brought nothing, until the server says otherwise. */
const defaultRetryMs = 1000;

export class Events {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  list(jobId: string, query: ListEventsQuery = {}, options?: RequestOptions): Promise<Page<JobEvent>> {
    return this.#transport.json({ method: 'GET', path: pathOf(jobId), query: { ...query } }, options);
  }

  /**
   * Every event from the first, or after one, until the job has ended. Connects again by itself when the connection breaks
   * or the server closes its window, without gap or repeat.
   * @example for await (const event of client.events.stream(job.id)) console.log(event.type)
   * @throws ConnectionError when the server stays away; the signal's reason when it is aborted
   */
  async *stream(jobId: string, { after, ...options }: StreamEventsOptions = {}): AsyncGenerator<JobEvent> {
    const maxFirstTries = options.maxRetries ?? this.#transport.maxRetries;
    let last = after;
    let connected = false;
    let retryMs = defaultRetryMs;
    let failures = 0;
    let quietEnds = 0;
    for (;;) {
      let failure: CherryQError | null = null;
      let received = false;
      try {
        const { body } = await this.#open(jobId, last, options);
        connected = true;
        for await (const message of readServerSentEvents(body, (delayMs) => (retryMs = delayMs))) {
          const event = parseEvent(message.data);
          if (last !== undefined && event.id <= last) continue;
          received = true;
          last = event.id;
          yield event;
          if (closing.has(event.type)) return;
        }
        if (!received && (await this.#isOver(jobId, last, options))) {
          // The state is written a moment before its event: the second look without one is believed.
          if (++quietEnds === 2) return;
        }
        failures = 0;
      } catch (error) {
        if (!(error instanceof CherryQError) || !error.retryable) throw error;
        failure = error;
      }
      if (failure !== null && failures >= (connected ? maxReconnects : maxFirstTries)) throw failure;
      // An event since the last failure: the count begins anew.
      if (received) failures = 0;
      const backOffMs = failure === null ? 0 : retryDelayMs(failures++, failure.retryAfterMs);
      await sleep(Math.max(backOffMs, received ? 0 : retryMs), options.signal);
    }
  }

  #open(jobId: string, last: string | undefined, options: RequestOptions) {
    const headers: Record<string, string> = { Accept: 'text/event-stream' };
    if (last !== undefined) headers['Last-Event-ID'] = last;
    return this.#transport.stream({ method: 'GET', path: pathOf(jobId), headers }, { ...options, maxRetries: 0 });
  }

  async #isOver(jobId: string, last: string | undefined, options: RequestOptions): Promise<boolean> {
    const path = `/v1/jobs/${encodeURIComponent(jobId)}`;
    const job = await this.#transport.json<Job>({ method: 'GET', path }, options);
    return hasEnded(job) && (await this.list(jobId, { after: last, limit: 1 }, options)).data.length === 0;
  }
}

const pathOf = (jobId: string): string => `/v1/jobs/${encodeURIComponent(jobId)}/events`;

function parseEvent(data: string): JobEvent {
  try {
    return JSON.parse(data) as JobEvent;
  } catch (cause) {
    throw new ConnectionError(`the event stream sent ${JSON.stringify(data.slice(0, 80))}, which is not JSON`, {
      code: 'unexpected_answer',
      retryable: true,
      cause,
    });
  }
}
