/**
 * A job's events over HTTP: a JSON page, or a stream of server-sent events when the client accepts one. The stream is a
 * bounded window: it ends after the job's closing event, or after some minutes with a `retry:` given at its start, and the
 * client goes on from the last id it saw. So a proxy's limit or a lost connection costs nothing.
 */
import { createRoute, z } from '@hono/zod-openapi';
import { eventIdSchema, listEventsQuerySchema, terminalStatuses, type JobEvent } from 'cherryq/contract';
import { setTimeout as sleep } from 'node:timers/promises';
import { isClosingEvent, jobRef, readLatestState } from '../job-log.ts';
import type { JobReader } from '../job-reader.ts';
import type { Jobs } from '../jobs.ts';
import { idParams, pages, problems, type Api } from '../openapi.ts';
import type { Clock, JobRef, Logger, Store } from '../ports.ts';

export interface StreamOptions {
  /** Between looks at the store. */
  pollMs: number;
  /** Longest silence; a comment is sent then. */
  heartbeatMs: number;
  /** Longest life of one response. */
  windowMs: number;
  /** What the client is told to wait before it connects again. */
  retryMs: number;
}
export const defaultStreamOptions: StreamOptions = {
  pollMs: 250,
  heartbeatMs: 10_000,
  windowMs: 600_000,
  retryMs: 1000,
};

export interface EventDeps {
  store: Store;
  clock: Clock;
  jobs: Jobs;
  reader: JobReader;
  logger: Logger;
  stream: StreamOptions;
  /** Ends all streams, when the server closes. */
  signal: AbortSignal;
}

export function eventRoutes(app: Api, deps: EventDeps): void {
  app.openapi(
    createRoute({
      method: 'get',
      path: '/v1/jobs/{id}/events',
      tags: ['jobs'],
      summary: 'Read events after an id: a JSON page, or a stream with Accept: text/event-stream',
      request: {
        params: idParams,
        query: listEventsQuerySchema,
        headers: z.object({ 'last-event-id': eventIdSchema.optional() }),
      },
      responses: {
        200: {
          description: 'A page of events, or a stream of them until the job has ended',
          content: {
            'application/json': { schema: pages.events },
            'text/event-stream': { schema: z.string() },
          },
        },
        ...problems('invalid_request', 'not_found'),
      },
    }),
    async (c) => {
      const { id } = c.req.valid('param');
      const { tenant } = c.var;
      const { limit, after: asked } = c.req.valid('query');
      // A browser connects again with the address it began with and the last id it saw: the later of the two counts.
      const after = [asked, c.req.valid('header')['last-event-id']]
        .filter((event) => event !== undefined)
        .sort()
        .at(-1);
      if (!c.req.header('accept')?.includes('text/event-stream'))
        return c.json(await deps.jobs.events(tenant, id, { limit, after }), 200);
      await deps.jobs.retrieve(tenant, id);
      const signal = AbortSignal.any([deps.signal, c.req.raw.signal]);
      const text = follow(deps, jobRef(tenant, id), after, signal);
      return new Response(byteStream(text, deps.logger), {
        headers: { 'Content-Type': 'text/event-stream; charset=utf-8', 'Cache-Control': 'no-cache, no-transform' },
      });
    },
  );
}

/** The stream's text, piece by piece. */
async function* follow(
  deps: EventDeps,
  job: JobRef,
  after: string | undefined,
  signal: AbortSignal,
): AsyncGenerator<string> {
  const { store, reader, clock, stream } = deps;
  const endsAt = clock.now() + stream.windowMs;
  let sentAt = clock.now();
  let last = after;
  let ended = await hasEnded(store, job);
  yield `retry: ${stream.retryMs}\n\n`;
  for (;;) {
    for await (const event of reader.events(job, last, stream.pollMs / 2)) {
      yield serverSentEvent(event);
      last = event.id;
      sentAt = clock.now();
      if (isClosingEvent(event)) return;
    }
    // An ended job has its closing event, unless the client has seen it already: nothing more will come.
    if (ended || signal.aborted || clock.now() >= endsAt) return;
    if (clock.now() - sentAt >= stream.heartbeatMs) {
      yield ': still here\n\n';
      sentAt = clock.now();
      ended = await hasEnded(store, job);
    }
    await sleep(stream.pollMs, undefined, { signal }).catch(() => undefined);
  }
}

async function hasEnded(store: Store, job: JobRef): Promise<boolean> {
  const state = await readLatestState(store, job);
  return state !== null && terminalStatuses.has(state.status);
}

function serverSentEvent(event: JobEvent): string {
  return `id: ${event.id}\nevent: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`;
}

/** UTF-8 of a generator, made as the reader asks for it. */
function byteStream(text: AsyncGenerator<string>, logger: Logger): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  let readerLeft = false;
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      try {
        const { done, value } = await text.next();
        if (readerLeft) return;
        if (done) controller.close();
        else controller.enqueue(encoder.encode(value));
      } catch (error) {
        // The status line is long gone; the client connects again and gets a proper answer.
        logger({ level: 'error', message: 'event stream broke off', error });
        controller.close();
      }
    },
    async cancel() {
      readerLeft = true;
      await text.return(undefined);
    },
  });
}
