/** A small AWS Batch over HTTP for the real SDK: it keeps what was submitted, and the test says what becomes of it. */
import { randomUUID } from 'node:crypto';
import type { BatchClientConfig, JobDetail, SubmitJobCommandInput } from '@aws-sdk/client-batch';
import { listen } from './listen.ts';

export interface BatchJob {
  readonly input: SubmitJobCommandInput;
  readonly detail: JobDetail & { jobId: string };
  terminated: string | null;
}

export interface BatchServer {
  readonly url: string;
  readonly client: BatchClientConfig;
  readonly jobs: BatchJob[];
  /** Job definitions that there are not. */
  readonly missing: Set<string>;
  /** What `DescribeJobQueues` says of every queue. */
  queueState: { state: string; status: string; statusReason?: string };
}

/** Until the test ends. */
export async function startBatchServer(): Promise<BatchServer> {
  const jobs: BatchJob[] = [];
  const started: BatchServer = {
    url: '',
    client: {},
    jobs,
    missing: new Set(),
    queueState: { state: 'ENABLED', status: 'VALID' },
  };
  const find = (id: string): BatchJob | undefined => jobs.find(({ detail }) => detail.jobId === id);

  const operations: Record<string, (body: never) => unknown> = {
    '/v1/submitjob': (input: SubmitJobCommandInput) => {
      const { jobName, jobQueue, jobDefinition } = input;
      const container = { environment: input.containerOverrides?.environment };
      const detail = { jobId: randomUUID(), jobName, jobQueue, jobDefinition, container, startedAt: 0 };
      jobs.push({ input, detail: { ...detail, status: 'SUBMITTED' }, terminated: null });
      return { jobId: detail.jobId, jobName };
    },
    '/v1/describejobs': ({ jobs: ids }: { jobs: string[] }) => ({
      jobs: ids.flatMap((id) => find(id)?.detail ?? []),
    }),
    '/v1/listjobs': ({ filters, jobStatus }: { filters?: { values: string[] }[]; jobStatus?: string }) => ({
      jobSummaryList: jobs
        .map(({ detail }) => detail)
        .filter(({ jobName, status }) =>
          filters === undefined ? status === jobStatus : filters[0]?.values[0] === jobName,
        ),
    }),
    '/v1/terminatejob': ({ jobId, reason }: { jobId: string; reason: string }) => {
      const job = find(jobId);
      if (job !== undefined) job.terminated = reason;
      return {};
    },
    '/v1/describejobqueues': ({ jobQueues }: { jobQueues: string[] }) => ({
      jobQueues: jobQueues.map((jobQueueName) => ({ jobQueueName, ...started.queueState })),
    }),
  };

  const url = await listen((incoming, outgoing) => {
    const parts: Buffer[] = [];
    incoming.on('data', (part: Buffer) => parts.push(part));
    incoming.on('end', () => {
      const operation = operations[incoming.url ?? ''];
      const body = JSON.parse(Buffer.concat(parts).toString()) as { jobDefinition?: string };
      if (started.missing.has(body.jobDefinition ?? '')) {
        outgoing.writeHead(400, { 'content-type': 'application/json', 'x-amzn-errortype': 'ClientException' });
        outgoing.end(JSON.stringify({ message: `JobDefinition ${body.jobDefinition} does not exist` }));
        return;
      }
      outgoing.writeHead(operation === undefined ? 404 : 200, { 'content-type': 'application/json' });
      outgoing.end(JSON.stringify(operation?.(body as never) ?? {}));
    });
  });
  const credentials = { accessKeyId: 'test', secretAccessKey: 'test' };
  return Object.assign(started, { url, client: { endpoint: url, region: 'eu-central-1', credentials } });
}
