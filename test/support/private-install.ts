/**
 * A private install on moto: the built functions as Lambda would load them, a bucket, a Batch queue, and in place of Batch's machines
 * processes that are started with exactly the command and environment that were submitted.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { randomUUID } from 'node:crypto';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { JobDetail } from '@aws-sdk/client-batch';
import {
  BatchClient,
  CreateComputeEnvironmentCommand,
  CreateJobQueueCommand,
  DescribeJobsCommand,
  ListJobsCommand,
  RegisterJobDefinitionCommand,
} from '@aws-sdk/client-batch';
import { CreateRoleCommand, IAMClient } from '@aws-sdk/client-iam';
import { CreateBucketCommand, S3Client } from '@aws-sdk/client-s3';
import type { BatchDetail, Reconciled } from '../../api/src/adapters/batch-queue.ts';
import type { Moto } from './moto.ts';

type LambdaAnswer = { statusCode: number; headers: Record<string, string>; body: string; isBase64Encoded: boolean };
interface Functions {
  http(event: object, context: object): Promise<LambdaAnswer>;
  batchEvents(event: { detail: BatchDetail }): Promise<void>;
  reconcile(): Promise<Reconciled>;
}

export interface PrivateInstall {
  /** For the SDK: each request is one invocation of the function.  @param signed false: as from somebody whom the front does not know */
  fetch(signed?: boolean): typeof fetch;
  readonly functions: Functions;
  readonly s3: S3Client;
  readonly bucket: string;
  readonly prefix: string;
  /** Every Batch job that there is. */
  submitted(): Promise<JobDetail[]>;
  /** Runs what is submitted until `signal`, and tells EventBridge's events of it. */
  runBatch(signal: AbortSignal): Promise<void>;
}

const worker = new URL('../../batch-jobs/dist/main.js', import.meta.url).pathname;
const lambdaBundle = new URL('../../api/dist/lambda/lambda.mjs', import.meta.url).href;

export async function openPrivateInstall(moto: Moto): Promise<PrivateInstall> {
  const [bucket, prefix] = [`cherryq-${randomUUID()}`, 'install'];
  const [s3, batch, iam] = [new S3Client(moto.client), new BatchClient(moto.client), new IAMClient(moto.client)];
  const location = { LocationConstraint: 'eu-central-1' } as const;
  for (const Bucket of [bucket, `${bucket}-models`])
    await s3.send(new CreateBucketCommand({ Bucket, CreateBucketConfiguration: location }));
  const { Role } = await iam.send(new CreateRoleCommand({ RoleName: 'batch', AssumeRolePolicyDocument: '{}' }));
  await batch.send(
    new CreateComputeEnvironmentCommand({
      computeEnvironmentName: 'machines',
      type: 'UNMANAGED',
      state: 'ENABLED',
      serviceRole: Role?.Arn,
    }),
  );
  await batch.send(
    new CreateJobQueueCommand({
      jobQueueName: 'cherryq-gpus',
      state: 'ENABLED',
      priority: 1,
      computeEnvironmentOrder: [{ order: 1, computeEnvironment: 'machines' }],
    }),
  );
  await batch.send(
    new RegisterJobDefinitionCommand({
      jobDefinitionName: 'cherryq-worker',
      type: 'container',
      containerProperties: { image: 'cherryq-worker', vcpus: 1, memory: 1024, command: [process.execPath, worker] },
    }),
  );

  const machine = { name: 'processors', engine: 'native', hostBytes: 8e9, operationsPerSecond: 80e9 };
  const jobQueue = 'cherryq-gpus';
  return runInstall(moto, {
    bucket,
    prefix,
    jobQueue,
    environment: {
      CHERRYQ_STORE: `s3://${bucket}/${prefix}`,
      CHERRYQ_INSTALL: 'cherryq',
      CHERRYQ_SOURCE_BUCKETS: `elsewhere, ${bucket}-models`,
      // Where the tests' receivers are.
      CHERRYQ_WEBHOOK_NETWORKS: '127.0.0.0/8',
      CHERRYQ_MACHINES: JSON.stringify([{ machine, jobQueue, jobDefinition: 'cherryq-worker' }]),
    },
  });
}

export interface InstallParts {
  readonly bucket: string;
  /** Of the store in the bucket; empty or a folder. */
  readonly prefix: string;
  readonly jobQueue: string;
  /** Of the functions. */
  readonly environment: Readonly<Record<string, string>>;
}

/** Functions and machines over what is there in moto. */
export async function runInstall(moto: Moto, parts: InstallParts): Promise<PrivateInstall> {
  const { bucket, prefix, jobQueue, environment } = parts;
  const [s3, batch] = [new S3Client(moto.client), new BatchClient(moto.client)];
  const scratch = await mkdtemp(join(tmpdir(), 'cherryq-scratch-'));
  const aws = {
    AWS_ENDPOINT_URL: moto.url,
    AWS_REGION: moto.client.region,
    AWS_ACCESS_KEY_ID: moto.client.credentials.accessKeyId,
    AWS_SECRET_ACCESS_KEY: moto.client.credentials.secretAccessKey,
  };
  Object.assign(process.env, aws, environment);
  // A module of its own for each install: it reads its settings once.
  const functions = (await import(`${lambdaBundle}?bucket=${bucket}`)) as Functions;

  async function submitted(): Promise<JobDetail[]> {
    const ids: string[] = [];
    for (const jobStatus of ['SUBMITTED', 'RUNNABLE', 'RUNNING', 'SUCCEEDED', 'FAILED'] as const) {
      const page = await batch.send(new ListJobsCommand({ jobQueue, jobStatus }));
      // Batch lists the workers of an array job with that job alone; moto, with all others.
      for (const { jobId } of page.jobSummaryList ?? []) if (jobId?.includes(':') === false) ids.push(jobId);
    }
    const { jobs = [] } = ids.length === 0 ? {} : await batch.send(new DescribeJobsCommand({ jobs: ids }));
    return jobs;
  }

  /** @param index of a worker of an array job   @returns whether it came through */
  async function runContainer(detail: JobDetail, index?: number): Promise<boolean> {
    const { command = [], environment: variables = [] } = detail.container ?? {};
    const tell = (change: Partial<JobDetail>): Promise<void> => {
      const jobId = index === undefined ? detail.jobId : `${detail.jobId}:${index}`;
      const said = { ...detail, ...change, jobId, container: { ...detail.container, ...change.container } };
      return functions.batchEvents({ detail: said as BatchDetail });
    };
    await tell({ status: 'RUNNABLE', statusReason: 'CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - none is free' });
    await tell({ status: 'RUNNING', statusReason: undefined });
    // Without a command, what the image begins with.
    const [program = '', ...args] = command.length > 0 ? command : [process.execPath, worker];
    const container = spawn(program, args, {
      env: {
        ...Object.fromEntries(variables.map(({ name, value }) => [name, value])),
        ...(index === undefined ? {} : { AWS_BATCH_JOB_ARRAY_INDEX: String(index) }),
        // A folder of the machine, as its volumes are.
        CHERRYQ_SCRATCH: scratch,
        TMPDIR: scratch,
        // What an instance has by itself: its role's credentials, and programs.
        ...aws,
        PATH: process.env.PATH,
        HOME: process.env.HOME,
        CHERRYQ_ENGINE: process.env.CHERRYQ_ENGINE,
        CHERRYQ_ENGINE_DIR: process.env.CHERRYQ_ENGINE_DIR,
      },
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    const [exitCode] = (await once(container, 'exit')) as [number | null];
    const end = exitCode === 0 ? ('SUCCEEDED' as const) : ('FAILED' as const);
    await tell({
      status: end,
      statusReason: 'Essential container in task exited',
      container: { exitCode: exitCode ?? 137 },
    });
    return exitCode === 0;
  }

  /** The workers of an array job at once. */
  async function runJob(detail: JobDetail): Promise<boolean> {
    const size = detail.arrayProperties?.size;
    if (size === undefined) return runContainer(detail);
    const through = await Promise.all(Array.from({ length: size }, (_, index) => runContainer(detail, index)));
    const isThrough = through.every(Boolean);
    await functions.batchEvents({ detail: { ...detail, status: isThrough ? 'SUCCEEDED' : 'FAILED' } as BatchDetail });
    return isThrough;
  }

  return {
    functions,
    s3,
    bucket,
    prefix,
    submitted,
    fetch:
      (signed = true) =>
      async (input, init) => {
        const request = new Request(input, { ...init, duplex: 'half' } as RequestInit);
        // What the functions have signed goes to the bucket itself.
        if (new URL(request.url).origin === new URL(moto.url).origin) return fetch(request);
        const answer = await functions.http(await eventOf(request, signed), {});
        const isEmpty = answer.statusCode === 204 || answer.statusCode === 304;
        const body = Buffer.from(answer.body, answer.isBase64Encoded ? 'base64' : 'utf8');
        return new Response(isEmpty ? null : body, { status: answer.statusCode, headers: answer.headers });
      },
    async runBatch(signal) {
      const running = new Map<string, Promise<boolean>>();
      while (!signal.aborted) {
        for (const detail of await submitted()) {
          const { jobId, dependsOn = [] } = detail;
          const before = dependsOn.flatMap((each) => running.get(each.jobId ?? '') ?? []);
          if (jobId === undefined || running.has(jobId) || before.length < dependsOn.length) continue;
          const run = async (): Promise<boolean> => {
            if ((await Promise.all(before)).every(Boolean)) return runJob(detail);
            const statusReason = 'Dependent Job failed';
            await functions.batchEvents({ detail: { ...detail, status: 'FAILED', statusReason } as BatchDetail });
            return false;
          };
          running.set(jobId, run());
        }
        await sleep(100, undefined, { signal }).catch(() => undefined);
      }
      await Promise.all(running.values());
    },
  };
}

/** As API Gateway and Function URLs put a request. */
async function eventOf(request: Request, signed: boolean): Promise<object> {
  const url = new URL(request.url);
  return {
    version: '2.0',
    routeKey: '$default',
    rawPath: url.pathname,
    rawQueryString: url.search.slice(1),
    headers: Object.fromEntries(request.headers),
    body: Buffer.from(await request.arrayBuffer()).toString('base64'),
    isBase64Encoded: true,
    requestContext: {
      domainName: url.host,
      http: { method: request.method, path: url.pathname },
      authorizer: signed ? { iam: { userArn: 'arn:aws:iam::123456789012:user/somebody' } } : undefined,
    },
  };
}
