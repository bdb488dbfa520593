/** The same flow on both installs: a folder with processes, and the private install's functions on S3 and Batch (moto). */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createHash } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { text } from 'node:stream/consumers';
import { DescribeRuleCommand, EventBridgeClient } from '@aws-sdk/client-eventbridge';
import { GetObjectCommand, ListObjectsV2Command, PutObjectCommand } from '@aws-sdk/client-s3';
import { startServer } from '@cherryq/api/serve';
import { CherryQ, fingerprintOf, unwrapWebhook } from 'cherryq';
import { manifestSchema, type JobEvent } from 'cherryq/contract';
import { compare, compress, evaluate } from 'cherryq/node';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { checkInstall } from '../../sdk/src/cli/install-check.ts';
import { until } from '../support/api.ts';
import { listen } from '../support/listen.ts';
import { startMoto } from '../support/moto.ts';
import { deployInstall, type DeployedInstall } from '../support/deployed-install.ts';
import { tinyModelFiles } from '../support/tiny-model.ts';
import { openPrivateInstall, type PrivateInstall } from '../support/private-install.ts';
import { fileFolder, writeModelFolder, writeText } from './folders.ts';

const folder = fileFolder();
let model: string;
let calibration: string;
let evaluation: string;

beforeAll(async () => {
  model = await writeModelFolder(folder, 'model');
  calibration = writeText(folder, 'calibration.txt', 6000, 1);
  evaluation = writeText(folder, 'evaluation.txt', 3000, 2);
});

/** Upload, job, events, result; and a job that cannot be.  @returns the SHA-256 of every file of the result, and the events */
async function flow(client: CherryQ, out: string) {
  const calls: { headers: IncomingHttpHeaders; body: string }[] = [];
  const receiver = await listen((request, response) => {
    void text(request).then((body) => calls.push({ headers: request.headers, body }) && response.writeHead(204).end());
  });
  const webhook = await client.webhooks.create({ url: receiver, events: ['job.succeeded'] });
  const events: JobEvent[] = [];
  const options = {
    model,
    calibration,
    evaluation,
    scheme: { method: 'cherryq', bits: 3, groupSize: 16 },
    training: { tokens: 1024, sequenceLength: 32, impactSamples: 4 },
  } as const;
  const { result, job } = await compress(client, { ...options, out, onEvent: (event) => void events.push(event) });
  expect(job.status).toBe('succeeded');
  expect(result.compressed.perplexity).toBeGreaterThan(1);
  expect(events.map(({ id }) => id)).toEqual(events.map(({ id }) => id).toSorted());
  expect(events.at(0)?.type).toBe('job.queued');
  expect(events.at(-1)?.type).toBe('job.succeeded');
  expect(events.filter(({ type }) => type === 'job.started')).toHaveLength(1);

  const [call] = await until(
    () => Promise.resolve(calls),
    (all) => all.length > 0,
  );
  const told = await unwrapWebhook(call.body, call.headers, webhook.secret);
  expect(told).toMatchObject({ type: 'job.succeeded', data: { id: job.id, status: 'succeeded' } });

  const measured = await evaluate(client, {
    ...{ model: { jobId: job.id }, baseline: job.modelId, evaluation },
    out: `${out}-evaluated`,
  });
  expect(measured.result.measurement.perplexity).toBe(result.compressed.perplexity);
  const compared = await compare(client, {
    ...{ model, calibration, evaluation, training: options.training },
    axes: { method: ['rtn', 'cherryq'], bits: [3], groupSize: [16] },
    out: `${out}-compared`,
  });
  expect(compared.result.rows[1]?.measurement).toEqual(result.compressed);

  const refused = compress(client, {
    ...options,
    scheme: { ...options.scheme, groupSize: 4096 },
    out: `${out}-refused`,
  });
  await expect(refused).rejects.toMatchObject({ name: 'JobFailedError', fault: 'user' });
  // It asked for successes only: of the compression, the evaluation and the comparison.
  await until(
    () => Promise.resolve(calls.map((each) => each.headers['webhook-id'])),
    (ids) => new Set(ids).size === 3,
  );
  expect(calls).toHaveLength(3);
  const { files } = manifestSchema.parse(JSON.parse(readFileSync(join(out, 'manifest.json'), 'utf8')));
  const model_ = files.filter(({ path }) => path.startsWith('model/') || path.endsWith('.safetensors'));
  const left = [...model_, ...compared.manifest.files];
  return { hashes: Object.fromEntries(left.map(({ path, sha256 }) => [path, sha256])), events };
}

let local: Awaited<ReturnType<typeof flow>>;

describe('on a folder with processes', () => {
  it('the whole flow works', async () => {
    const server = await startServer({ storeFolder: join(folder, 'store'), port: 0 });
    try {
      local = await flow(new CherryQ({ baseUrl: server.url }), join(folder, 'local'));
    } finally {
      await server.close();
    }
  });
});

const moto = await startMoto();
afterAll(() => moto?.close());

describe.runIf(moto !== null)('through the Lambda functions on S3 and Batch', () => {
  let install: PrivateInstall;
  const stop = new AbortController();
  let batch: Promise<void>;
  beforeAll(async () => {
    if (moto === null) return;
    install = await openPrivateInstall(moto);
    batch = install.runBatch(stop.signal);
  });
  afterAll(async () => {
    stop.abort();
    await batch;
  });

  it('the whole flow works, and gives the same bytes', async () => {
    const client = new CherryQ({ baseUrl: 'https://install.example', fetch: install.fetch() });
    const { hashes, events } = await flow(client, join(folder, 'private'));
    expect(Object.keys(hashes).length).toBeGreaterThan(0);
    expect(hashes).toEqual(local.hashes);
    expect(events.filter(({ type }) => type === 'job.waiting')).toHaveLength(1);
    const submitted = await install.submitted();
    // The comparison's schemes are an array job of their own.
    expect(submitted).toHaveLength(5);
    expect(submitted.filter(({ arrayProperties }) => arrayProperties?.size === 2)).toHaveLength(1);
    const list = async (): Promise<string[]> => {
      const objects = await install.s3.send(new ListObjectsV2Command({ Bucket: install.bucket, MaxKeys: 1000 }));
      return (objects.Contents ?? []).map(({ Key }) => Key ?? '');
    };
    // What Batch tells of a job's end comes after the end that the worker wrote; then nothing is left to look after.
    const keys = await until(list, (all) => !all.some((key) => key.includes('/open/')));
    expect(keys.every((key) => /^install\/(tenants\/local|swept)\//.test(key))).toBe(true);
    expect(await install.functions.reconcile()).toEqual({ open: 0, submitted: 0, ended: 0 });
  }, 240_000);

  it('a large file goes to the bucket in parts, which the functions never see, and an upload that broke off goes on', async () => {
    const requests: { method: string; toBucket: boolean; bytes: number }[] = [];
    let left = 2;
    const counting: typeof fetch = async (input, init) => {
      const request = new Request(input, { ...init, duplex: 'half' } as RequestInit);
      const toBucket = new URL(request.url).host !== 'install.example';
      const body = await request.clone().arrayBuffer();
      if (toBucket && request.method === 'PUT' && left-- <= 0) throw new TypeError('the line is cut');
      requests.push({ method: request.method, toBucket, bytes: body.byteLength });
      return install.fetch()(request);
    };
    const content = new Uint8Array(37 * 2 ** 20).map((_, index) => (index * 7919) >> 8);
    const files = [
      { path: 'a.txt', content: '{}' },
      { path: 'large.txt', content },
    ];
    const client = new CherryQ({ baseUrl: 'https://install.example', fetch: counting, maxRetries: 0 });
    await expect(client.datasets.upload({ name: 'large', files })).rejects.toThrow('the line is cut');
    left = 1000;
    const toBucket = (): number[] =>
      requests.filter((request) => request.toBucket && request.method === 'PUT').map(({ bytes }) => bytes);
    const before = toBucket().length;
    expect(before).toBe(2);
    const dataset = await client.datasets.upload({ name: 'large', files });
    expect(dataset).toMatchObject({ status: 'ready', sizeBytes: content.length + 2 });
    // moto does not tell the hashes of parts that are there, as S3 does, so those two are sent again.
    const parts = toBucket().slice(before);
    expect(parts.toSorted((a, b) => a - b)).toEqual([5, 8, 8, 8, 8].map((mebibytes) => mebibytes * 2 ** 20));
    expect(Math.max(...requests.filter(({ toBucket }) => !toBucket).map(({ bytes }) => bytes))).toBeLessThan(10_000);
    const key = `install/tenants/local/datasets/${dataset.id}/files/large.txt`;
    const { Body } = await install.s3.send(new GetObjectCommand({ Bucket: install.bucket, Key: key }));
    expect(Buffer.compare((await Body?.transformToByteArray()) ?? new Uint8Array(), content)).toBe(0);
    const same = await client.datasets.upload({ name: 'again', files });
    expect(same.id).toBe(dataset.id);
    await client.datasets.delete(dataset.id);
  });

  it('what a job left can be fetched from the bucket, in ranges too', async () => {
    const client = new CherryQ({ baseUrl: 'https://install.example', fetch: install.fetch() });
    const [job] = (await client.jobs.list({ status: 'succeeded' })).data;
    const [file] = await client.artifacts.list(job.id);
    expect(file.url).toMatch(/^http:.*X-Amz-Signature=/);
    const whole = await (await fetch(file.url ?? '')).arrayBuffer();
    expect(createHash('sha256').update(new Uint8Array(whole)).digest('hex')).toBe(file.sha256);
    const range = await fetch(file.url ?? '', { headers: { range: 'bytes=3-9' } });
    expect(Buffer.from(await range.arrayBuffer())).toEqual(Buffer.from(whole.slice(3, 10)));
    const { url } = file;
    const { body } = await client.artifacts.stream(job.id, file.path, { start: 3, url });
    expect((await new Response(body).arrayBuffer()).byteLength).toBe(file.sizeBytes - 3);
  });

  it('a model is imported from a bucket that the settings name, by the function that runs on a schedule', async () => {
    const client = new CherryQ({ baseUrl: 'https://install.example', fetch: install.fetch() });
    const files = await tinyModelFiles();
    const Bucket = `${install.bucket}-models`;
    for (const [path, Body] of Object.entries(files))
      await install.s3.send(new PutObjectCommand({ Bucket, Key: `llamas/tiny/${path}`, Body }));
    const source = `s3://${Bucket}/llamas/tiny/`;
    const begun = await client.models.create({ source });
    expect(begun).toMatchObject({ status: 'importing', name: 'tiny', importedBytes: 0, files: [] });
    await install.functions.reconcile();
    const model = await client.models.retrieve(begun.id);
    expect(model).toMatchObject({ status: 'ready', source: { url: source, revision: null } });
    const described = Object.entries(files).map(([path, content]) => ({
      path,
      sha256: createHash('sha256').update(content).digest('hex'),
    }));
    expect(model.fingerprint).toBe(await fingerprintOf(described));
    await expect(client.models.create({ source: `s3://${install.bucket}/install/` })).rejects.toThrow(
      'does not read the bucket',
    );
    await expect(client.models.create({ source: `s3://${Bucket}/nothing/` })).rejects.toThrow('there is nothing under');
    await expect(client.models.create({ source: 's3://elsewhere/tiny/' })).rejects.toThrow(/elsewhere/);
    await expect(client.models.create({ source: 'file:///etc' })).rejects.toThrow('reads none for its callers');
    await client.models.delete(model.id);
  });

  it('nobody is let in whom the front does not name', async () => {
    const response = await install.fetch(false)('https://install.example/v1/jobs');
    expect(response.status).toBe(401);
    expect(await response.json()).toMatchObject({ code: 'unauthorized' });
    expect((await install.fetch(false)('https://install.example/healthz')).status).toBe(200);
  });

  it('it is ready when bucket and queue can be reached', async () => {
    expect((await install.fetch()('https://install.example/readyz')).status).toBe(200);
  });
});

describe.runIf(moto !== null)('on what CloudFormation has made of the synthesized templates', () => {
  let install: DeployedInstall;
  const stop = new AbortController();
  let batch: Promise<void>;
  beforeAll(async () => {
    if (moto === null) return;
    install = await deployInstall(moto);
    batch = install.runBatch(stop.signal);
  }, 120_000);
  afterAll(async () => {
    stop.abort();
    await batch;
  });

  it('the whole flow works, in the bucket, queue and definition that the outputs name, and gives the same bytes', async () => {
    const client = new CherryQ({ baseUrl: 'https://install.example', fetch: install.fetch() });
    const { hashes } = await flow(client, join(folder, 'deployed'));
    expect(hashes).toEqual(local.hashes);
    const { outputs } = install;
    expect(outputs.JobQueues).toBe('cherryq-g5-8xlarge');
    const submitted = await install.submitted();
    expect(submitted).toHaveLength(5);
    for (const { jobDefinition, tags } of submitted) {
      expect(jobDefinition).toMatch(new RegExp(`/${outputs.JobDefinitions}:1$`));
      expect(tags).toMatchObject({ 'cherryq:install': 'cherryq', 'cherryq:tenant': 'local' });
    }
    const ran = (await client.jobs.list()).data.map(({ machine }) => machine);
    expect(ran).toEqual(Array.from({ length: 4 }, () => 'g5.8xlarge'));
    const { KeyCount } = await install.s3.send(new ListObjectsV2Command({ Bucket: outputs.BucketName }));
    expect(KeyCount).toBeGreaterThan(20);
    expect((await install.fetch()('https://install.example/readyz')).status).toBe(200);
  }, 240_000);

  it('`cherryq install check` finds it well, and leaves nothing behind', async () => {
    // Signed requests alone are known to the front.
    const send: typeof fetch = (input, init) => {
      const request = new Request(input, { ...init, duplex: 'half' } as RequestInit);
      // S3 refuses a signed address whose key was changed; moto looks at no signature.
      if (request.url.includes('/other.txt')) return Promise.resolve(new Response(null, { status: 403 }));
      return install.fetch(request.headers.has('authorization'))(request);
    };
    const credentials = { accessKeyId: 'test', secretAccessKey: 'test' };
    const options = { url: 'https://install.example/', region: 'eu-central-1', send };
    const listed = async (): Promise<number[]> => {
      const found = [await client.models.list({ limit: 100 }), await client.datasets.list({ limit: 100 })];
      return found.map(({ data }) => data.length);
    };
    const client = new CherryQ({ baseUrl: 'https://install.example', fetch: install.fetch() });
    const before = await listed();
    const checks = await checkInstall({ ...options, credentials });
    expect(checks.filter(({ passed }) => !passed)).toEqual([]);
    expect(checks.map(({ name }) => name)).toEqual([
      'closed to strangers',
      'health',
      'store and queues',
      'signed addresses',
      'estimate',
    ]);
    expect(checks.at(-1)?.detail).toContain('would run on g5.8xlarge');
    const [stranger] = await checkInstall(options);
    expect(stranger).toMatchObject({ passed: true });
    expect(await listed()).toEqual(before);
  });

  it("the rule hands on the events of the install's own queues", async () => {
    const { EventPattern, State } = await new EventBridgeClient(moto?.client ?? {}).send(
      new DescribeRuleCommand({ Name: install.outputs.BatchRule }),
    );
    expect(State).toBe('ENABLED');
    expect(JSON.parse(EventPattern ?? '')).toMatchObject({
      'detail-type': ['Batch Job State Change'],
      detail: { jobQueue: [expect.stringMatching(new RegExp(`:job-queue/${install.outputs.JobQueues}$`))] },
    });
  });
});
