/** A client whose requests go to the API in this process, and a bare server that can break off as it likes. */
import type { RequestListener } from 'node:http';
import { CherryQ, type ClientOptions } from 'cherryq';
import { noOutcome, schemeSchema, trainingSchema, type Job, type JobEvent, type Problem } from 'cherryq/contract';
import type { TestApi } from '../support/api.ts';

export const address = 'http://cherryq.test';

/** @param observe sees each request before the API does */
export function clientOf(
  { app }: Pick<TestApi, 'app'>,
  observe: (request: Request) => void = () => undefined,
): CherryQ {
  const send: typeof fetch = async (input, init) => {
    const request = new Request(input, init);
    observe(request);
    return app.fetch(request);
  };
  return new CherryQ({ baseUrl: address, fetch: send });
}

/** Answers with the first listener once, then the second, and so on; the last again and again. */
export function inTurn(...listeners: RequestListener[]): RequestListener {
  let count = 0;
  return (request, response) => listeners[Math.min(count++, listeners.length - 1)](request, response);
}

export const eagerClient = (options: ClientOptions): CherryQ => new CherryQ({ maxRetries: 0, ...options });

export const problem = (fields: Partial<Problem>): Problem => ({
  type: `urn:cherryq:problem:${fields.code ?? 'internal'}`,
  title: 'A problem',
  status: 500,
  detail: 'something went wrong',
  code: 'internal',
  param: null,
  requestId: 'request-1',
  retryable: false,
  ...fields,
});

export const eventId = (number: number): string => `${String(number).padStart(8, '0')}.0000`;

export const logEvent = (number: number): JobEvent => ({
  id: eventId(number),
  time: '2026-11-23T00:00:00.000Z',
  type: 'log',
  level: 'info',
  message: `line ${number}`,
});

export const cancelledEvent = (number: number): JobEvent => ({
  id: eventId(number),
  time: '2026-11-23T00:00:00.000Z',
  type: 'job.cancelled',
});

export const asMessage = (event: JobEvent): string =>
  `id: ${event.id}\nevent: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`;

export const jobId = '01JZ8Q3V5X9Y2W4T6R8P0N1M3K';

export const someJob = (fields: Partial<Job> = {}): Job => ({
  object: 'job',
  kind: 'compress',
  id: jobId,
  status: 'running',
  modelId: jobId,
  modelName: 'tiny',
  scheme: schemeSchema.parse({ method: 'rtn' }),
  training: trainingSchema.parse({ tokens: 1024, learningRate: 5e-4 }),
  calibrationDatasetId: null,
  evaluation: null,
  analysis: { datasetIds: [], draws: 2 },
  formats: ['native'],
  artifact: null,
  baselineModelId: null,
  comparison: null,
  metadata: {},
  retryOf: null,
  estimate: null,
  machine: null,
  createdAt: '2026-11-23T00:00:00.000Z',
  startedAt: null,
  finishedAt: null,
  attempt: 1,
  progress: null,
  error: null,
  ...noOutcome,
  ...fields,
});
