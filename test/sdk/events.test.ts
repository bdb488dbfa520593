import { describe, expect, it } from 'vitest';
import { ConnectionError, CherryQ, NotFoundError, TimeoutError, type JobEvent } from 'cherryq';
import type { ServerResponse } from 'node:http';
import { listen } from '../support/listen.ts';
import { asMessage, cancelledEvent, eventId, inTurn, jobId, logEvent, problem, someJob } from './support.ts';

const begin = (response: ServerResponse): ServerResponse =>
  response.writeHead(200, { 'content-type': 'text/event-stream' });
const json = (response: ServerResponse, value: unknown, status = 200): ServerResponse =>
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(value));

async function idsOf(events: AsyncIterable<JobEvent>): Promise<string[]> {
  const ids: string[] = [];
  for await (const event of events) ids.push(event.id);
  return ids;
}

describe('events.stream', () => {
  it('goes on after a cut in the middle of an event, without gap or repeat', async () => {
    const askedAfter: (string | undefined)[] = [];
    const message = asMessage(logEvent(2));
    const baseUrl = await listen((request, response) => {
      askedAfter.push(request.headers['last-event-id'] as string | undefined);
      begin(response);
      if (askedAfter.length === 1) {
        response.write(`retry: 10\n\n${asMessage(logEvent(1))}${message.slice(0, message.length / 2)}`);
        setTimeout(() => response.destroy(), 50);
      } else response.end(`${message}${asMessage(logEvent(3))}${asMessage(cancelledEvent(4))}`);
    });
    expect(await idsOf(new CherryQ({ baseUrl }).events.stream(jobId))).toEqual([1, 2, 3, 4].map(eventId));
    expect(askedAfter).toEqual([undefined, eventId(1)]);
  });

  it('gives an event once, even when the server sends it again', async () => {
    const twice = asMessage(logEvent(1)) + asMessage(logEvent(2)) + asMessage(logEvent(1)) + asMessage(logEvent(2));
    const baseUrl = await listen((_, response) => void begin(response).end(twice + asMessage(cancelledEvent(3))));
    expect(await idsOf(new CherryQ({ baseUrl }).events.stream(jobId))).toEqual([1, 2, 3].map(eventId));
  });

  it('connects again when the server closes its window', async () => {
    const baseUrl = await listen(
      inTurn(
        (_, response) => void begin(response).end(asMessage(logEvent(1))),
        (_, response) => void begin(response).end(asMessage(cancelledEvent(2))),
      ),
    );
    expect(await idsOf(new CherryQ({ baseUrl }).events.stream(jobId))).toEqual([1, 2].map(eventId));
  });

  it('takes a silent connection for a broken one', async () => {
    const baseUrl = await listen(
      inTurn(
        (_, response) => void begin(response).write(asMessage(logEvent(1))),
        (_, response) => void begin(response).end(asMessage(cancelledEvent(2))),
      ),
    );
    const ids = await idsOf(new CherryQ({ baseUrl, timeoutMs: 150 }).events.stream(jobId));
    expect(ids).toEqual([1, 2].map(eventId));
  });

  it('outlives comments that come in time', async () => {
    let requests = 0;
    const baseUrl = await listen((_, response) => {
      requests++;
      begin(response);
      const timer = setInterval(() => response.write(': still here\n\n'), 50);
      setTimeout(() => {
        clearInterval(timer);
        response.end(asMessage(cancelledEvent(1)));
      }, 600);
    });
    await idsOf(new CherryQ({ baseUrl, timeoutMs: 200 }).events.stream(jobId));
    expect(requests).toBe(1);
  });

  it('ends for a job whose last event was seen before', async () => {
    const baseUrl = await listen((request, response) => {
      if (request.url === `/v1/jobs/${jobId}`) json(response, someJob({ status: 'cancelled' }));
      else if (request.headers.accept === 'text/event-stream') begin(response).end('retry: 10\n\n');
      else json(response, { object: 'list', data: [], hasMore: false, next: null });
    });
    expect(await idsOf(new CherryQ({ baseUrl }).events.stream(jobId, { after: eventId(4) }))).toEqual([]);
  });

  it('throws what the server refuses', async () => {
    const detail = 'there is no such job';
    const baseUrl = await listen(
      (_, response) => void json(response, problem({ status: 404, code: 'not_found', detail }), 404),
    );
    await expect(idsOf(new CherryQ({ baseUrl }).events.stream(jobId))).rejects.toThrow(NotFoundError);
  });

  it('gives a server that was never there up soon', async () => {
    const stream = new CherryQ({ baseUrl: 'http://127.0.0.1:9', maxRetries: 1 }).events.stream(jobId);
    await expect(idsOf(stream)).rejects.toThrow(ConnectionError);
  });

  it('lets go of the connection when the reader leaves', async () => {
    let closed = (): void => undefined;
    const connectionClosed = new Promise<void>((resolve) => (closed = resolve));
    const baseUrl = await listen((request, response) => {
      request.once('close', closed);
      begin(response).write(asMessage(logEvent(1)));
    });
    for await (const event of new CherryQ({ baseUrl }).events.stream(jobId)) {
      expect(event.id).toBe(eventId(1));
      break;
    }
    await connectionClosed;
  });

  it('throws the reason of its signal', async () => {
    const baseUrl = await listen((_, response) => void begin(response).write(asMessage(logEvent(1))));
    const controller = new AbortController();
    const reason = new Error('enough');
    const reading = (async () => {
      for await (const event of new CherryQ({ baseUrl }).events.stream(jobId, { signal: controller.signal })) {
        expect(event.type).toBe('log');
        controller.abort(reason);
      }
    })();
    await expect(reading).rejects.toBe(reason);
  });
});

describe('jobs.wait', () => {
  it('tells each event and returns the job as it ended', async () => {
    const baseUrl = await listen((request, response) => {
      if (request.url === `/v1/jobs/${jobId}`) json(response, someJob({ status: 'cancelled' }));
      else begin(response).end(asMessage(logEvent(1)) + asMessage(cancelledEvent(2)));
    });
    const types: string[] = [];
    const job = await new CherryQ({ baseUrl }).jobs.wait(jobId, { onEvent: (event) => types.push(event.type) });
    expect(job.status).toBe('cancelled');
    expect(types).toEqual(['log', 'job.cancelled']);
  });

  it('looks again, after a pause, at a job whose state lags behind its events', async () => {
    const looks: number[] = [];
    const baseUrl = await listen((request, response) => {
      if (request.url === `/v1/jobs/${jobId}`) {
        looks.push(Date.now());
        json(response, someJob({ status: looks.length === 1 ? 'running' : 'cancelled' }));
      } else if (request.headers.accept === 'text/event-stream')
        begin(response).end(request.headers['last-event-id'] ? 'retry: 10\n\n' : asMessage(cancelledEvent(1)));
      else json(response, { object: 'list', data: [], hasMore: false, next: null });
    });
    expect((await new CherryQ({ baseUrl }).jobs.wait(jobId)).status).toBe('cancelled');
    expect(looks[1] - looks[0]).toBeGreaterThan(900);
  });

  it('ends after timeoutMs, and says that the job goes on', async () => {
    const baseUrl = await listen((_, response) => void begin(response).write('retry: 10\n\n'));
    const waiting = new CherryQ({ baseUrl }).jobs.wait(jobId, { timeoutMs: 100 });
    await expect(waiting).rejects.toThrow(TimeoutError);
    await expect(waiting).rejects.toThrow('had not ended after 100 ms; it goes on');
  });
});
