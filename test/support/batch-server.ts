/** A small AWS Batch over HTTP for the real SDK: it keeps what was submitted, and the test says what becomes of it. */
import { randomUUID } from 'node:crypto';
import type { BatchClientConfig, JobDetail, SubmitJobCommandInput } from '@aws-sdk/client-batch';
import { listen } from './listen.ts';

export interface BatchJob {
  readonly input: SubmitJobCommandInput;
  readonly detail: JobDetail & { jobId: string };
  /** Of an array job. */
  readonly workers: (JobDetail & { jobId: string })[];
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
      const { jobName, jobQueue, jobDefinition, dependsOn, arrayProperties } = input;
      const container = { environment: input.containerOverrides?.environment };
      const common = { jobName, jobQueue, jobDefinition, container, dependsOn, startedAt: 0 };
      const detail = { ...common, jobId: randomUUID(), status: 'SUBMITTED' as const };
      const workers = Array.from({ length: arrayProperties?.size ?? 0 }, (_, index) => ({
        ...detail,
        jobId: `${detail.jobId}:${index}`,
        arrayProperties: { index },
      }));
      jobs.push({ input, detail, workers, terminated: null });
      return { jobId: detail.jobId, jobName };
    },
    '/v1/describejobs': ({ jobs: ids }: { jobs: string[] }) => ({
      jobs: ids.flatMap((id) => {
        const job = find(id.split(':')[0] ?? '');
        return job ? ([job.detail, ...job.workers].find(({ jobId }) => jobId === id) ?? []) : [];
      }),
    }),
    '/v1/listjobs': (query: { filters?: { values: string[] }[]; jobStatus?: string; arrayJobId?: string }) => {
      const { filters, jobStatus, arrayJobId } = query;
      const among = arrayJobId === undefined ? jobs.map(({ detail }) => detail) : (find(arrayJobId)?.workers ?? []);
      return {
        jobSummaryList: among.filter(({ jobName, status }) =>
          filters === undefined ? status === jobStatus : filters[0]?.values[0] === jobName,
        ),
      };
    },
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
