/**
 * What the OpenAPI document shows of each operation: its name, and a body for each answer. A body belongs to a schema by the
 * schema's name; types and a test (test/api/document.test.ts) keep it true to the contract. A new operation needs an entry in
 * `operationIds`, a new schema one in `bodies`, a new problem code one in `problemTexts`.
 */
import {
  createJobSchema,
  noOutcome,
  type Artifact,
  type cancelJobSchema,
  type Capabilities,
  type CreatedKey,
  type CreateJob,
  type CreateKey,
  type CreateUpload,
  type CreateWebhook,
  type Dataset,
  type Estimate,
  type Health,
  type Job,
  type JobEvent,
  type Key,
  type Model,
  type Page,
  type PartUpload,
  type Problem,
  type ProblemCode,
  type UpdateWebhook,
  type Usage,
  type Webhook,
  type WebhookDelivery,
  type WebhookPayload,
  type WebhookWithSecret,
} from 'cherryq/contract';
import type { z } from 'zod';
import { machinesOf } from './machines.ts';
import { ProblemError, toProblem, validationProblem } from './problems.ts';

export const operationIds: Readonly<Record<string, string>> = {
  'GET /healthz': 'checkLive',
  'GET /readyz': 'checkReady',
  'GET /v1/capabilities': 'readCapabilities',
  ...uploadOperations('models', 'Model'),
  ...uploadOperations('datasets', 'Dataset'),
  'POST /v1/jobs': 'createJob',
  'GET /v1/jobs': 'listJobs',
  'GET /v1/jobs/{id}': 'readJob',
  'POST /v1/jobs/{id}/cancel': 'cancelJob',
  'POST /v1/jobs/{id}/pause': 'pauseJob',
  'POST /v1/jobs/{id}/resume': 'resumeJob',
  'POST /v1/jobs/{id}/retry': 'retryJob',
  'DELETE /v1/jobs/{id}': 'deleteJob',
  'GET /v1/jobs/{id}/events': 'listEvents',
  'GET /v1/jobs/{id}/artifacts': 'listArtifacts',
  'GET /v1/jobs/{id}/artifacts/{path}': 'downloadArtifact',
  'POST /v1/estimates': 'estimateJob',
  'POST /v1/keys': 'createKey',
  'GET /v1/keys': 'listKeys',
  'DELETE /v1/keys/{id}': 'revokeKey',
  'GET /v1/usage': 'readUsage',
  'POST /v1/webhooks': 'createWebhook',
  'GET /v1/webhooks': 'listWebhooks',
  'GET /v1/webhooks/{id}': 'readWebhook',
  'PATCH /v1/webhooks/{id}': 'updateWebhook',
  'DELETE /v1/webhooks/{id}': 'deleteWebhook',
  'POST /v1/webhooks/{id}/rotate-secret': 'rotateWebhookSecret',
  'POST /v1/webhooks/{id}/test': 'testWebhook',
  'GET /v1/webhooks/{id}/deliveries': 'listWebhookDeliveries',
  'POST /v1/webhooks/{id}/deliveries/{deliveryId}/replay': 'replayWebhookDelivery',
};

function uploadOperations(collection: string, name: string): Record<string, string> {
  return {
    [`POST /v1/${collection}`]: `create${name}`,
    [`GET /v1/${collection}`]: `list${name}s`,
    [`GET /v1/${collection}/{id}`]: `read${name}`,
    [`PUT /v1/${collection}/{id}/files/{path}`]: `put${name}File`,
    [`POST /v1/${collection}/{id}/parts`]: `request${name}Parts`,
    [`PUT /v1/${collection}/{id}/parts/{number}/{path}`]: `put${name}Part`,
    [`POST /v1/${collection}/{id}/complete`]: `complete${name}`,
    [`DELETE /v1/${collection}/{id}`]: `delete${name}`,
  };
}

/** The same with the SDK, where `client` is a `CherryQ`; shown by the page. */
export const sdkCalls: Readonly<Record<string, string>> = {
  'GET /healthz': 'await client.health.live()',
  'GET /readyz': 'await client.health.ready()',
  'GET /v1/capabilities': 'await client.capabilities.retrieve()',
  ...uploadCalls('models'),
  ...uploadCalls('datasets'),
  'POST /v1/jobs': 'await client.jobs.create(request)',
  'GET /v1/jobs': 'for await (const job of client.jobs.iterate()) console.log(job.status)',
  'GET /v1/jobs/{id}': 'await client.jobs.retrieve(id)',
  'POST /v1/jobs/{id}/cancel': 'await client.jobs.cancel(id, { keepCheckpoint: true })',
  'POST /v1/jobs/{id}/pause': 'await client.jobs.pause(id)',
  'POST /v1/jobs/{id}/resume': 'await client.jobs.resume(id)',
  'POST /v1/jobs/{id}/retry': 'await client.jobs.retry(id)',
  'DELETE /v1/jobs/{id}': 'await client.jobs.delete(id)',
  'GET /v1/jobs/{id}/events': 'for await (const event of client.events.stream(id)) console.log(event.type)',
  'GET /v1/jobs/{id}/artifacts': 'await client.artifacts.list(id)',
  'GET /v1/jobs/{id}/artifacts/{path}': 'await client.artifacts.download(id, path)',
  'POST /v1/estimates': 'await client.estimates.create(request)',
  'POST /v1/keys': "await client.keys.create({ name: 'build server', scope: 'write' })",
  'GET /v1/keys': 'await client.keys.list()',
  'DELETE /v1/keys/{id}': 'await client.keys.revoke(id)',
  'GET /v1/usage': 'await client.keys.usage()',
  'POST /v1/webhooks': "await client.webhooks.create({ url: 'https://example.com/cherryq' })",
  'GET /v1/webhooks': 'await client.webhooks.list()',
  'GET /v1/webhooks/{id}': 'await client.webhooks.retrieve(id)',
  'PATCH /v1/webhooks/{id}': 'await client.webhooks.update(id, { enabled: false })',
  'DELETE /v1/webhooks/{id}': 'await client.webhooks.delete(id)',
  'POST /v1/webhooks/{id}/rotate-secret': 'await client.webhooks.rotateSecret(id)',
  'POST /v1/webhooks/{id}/test': 'await client.webhooks.test(id)',
  'GET /v1/webhooks/{id}/deliveries': 'await client.webhooks.deliveries(id)',
  'POST /v1/webhooks/{id}/deliveries/{deliveryId}/replay': 'await client.webhooks.replay(id, deliveryId)',
};

function uploadCalls(collection: string): Record<string, string> {
  return {
    [`POST /v1/${collection}`]: `await client.${collection}.upload({ name, files })`,
    [`GET /v1/${collection}`]: `await client.${collection}.list()`,
    [`GET /v1/${collection}/{id}`]: `await client.${collection}.retrieve(id)`,
    [`PUT /v1/${collection}/{id}/files/{path}`]: `await client.${collection}.putFile(id, path, body)`,
    [`POST /v1/${collection}/{id}/parts`]: `await client.${collection}.requestParts(id, { path, parts })`,
    [`PUT /v1/${collection}/{id}/parts/{number}/{path}`]: `await client.${collection}.putPart(part, content)`,
    [`POST /v1/${collection}/{id}/complete`]: `await client.${collection}.complete(id)`,
    [`DELETE /v1/${collection}/{id}`]: `await client.${collection}.delete(id)`,
  };
}

export const tags: Readonly<Record<string, string>> = {
  service: 'Whether the service lives, and what it can do.',
  models: 'Folders in the format of Hugging Face: declare the files, put each, complete.',
  datasets: 'Texts to calibrate and to measure on, uploaded as models are.',
  jobs: 'Compressions and analyses: estimate, create, follow, stop, go on.',
  artifacts: 'What a job left.',
  keys: 'API keys, and what a tenant uses.',
  webhooks: 'Addresses that are called when jobs end.',
};

/** Of the things in the examples. */
export const exampleIds = {
  model: '01JBZ6X0T4M8Q2R5S7V9W1Y3Z5',
  dataset: '01JBZ6X3H7N1P4Q6R8S0T2V4W6',
  evaluation: '01JBZ6X5K9P3R6S8T0V2W4X6Y8',
  job: '01JBZ6Y2B5D8F1G3H6J9K2M4N7',
  key: '01JBZ6W8C1E4G7H0J3K6M9N2P5',
  webhook: '01JBZ6WA3F6H9K2N5Q8S1V4X7Z',
} as const;

const time = (clock: string): string => `2026-11-20T${clock}.000Z`;
const [configSha, weightsSha, textSha, fingerprint] = ['1f', '8c', 'a4', '5e'].map((pair) => pair.repeat(32)) as [
  string,
  string,
  string,
  string,
];

const createUpload: CreateUpload = {
  name: 'smollm-135m',
  files: [
    { path: 'config.json', sizeBytes: 704, sha256: configSha },
    { path: 'model.safetensors', sizeBytes: 269_060_552, sha256: weightsSha },
  ],
};

const model: Model = {
  object: 'model',
  id: exampleIds.model,
  name: createUpload.name,
  status: 'ready',
  createdAt: time('09:00:00'),
  fingerprint,
  sizeBytes: createUpload.files.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
  files: createUpload.files.map((file) => ({ ...file, uploaded: true, partBytes: null })),
  source: null,
  importedBytes: null,
  error: null,
};

const dataset: Dataset = {
  object: 'dataset',
  status: 'ready',
  createdAt: model.createdAt,
  fingerprint,
  id: exampleIds.dataset,
  name: 'calibration.txt',
  sizeBytes: 1_048_576,
  files: [{ path: 'calibration.txt', sizeBytes: 1_048_576, sha256: textSha, uploaded: true, partBytes: null }],
};

const createJob: CreateJob = {
  modelId: model.id,
  calibrationDatasetId: dataset.id,
  evaluation: { datasetId: exampleIds.evaluation, maxTokens: 4096 },
  scheme: { method: 'cherryq', bits: 3 },
  training: { tokens: 65_536 },
  metadata: { experiment: 'first' },
};

const estimate: Estimate = {
  object: 'estimate',
  allowed: true,
  reason: null,
  parameters: 134_515_008,
  machine: 'g6.2xlarge',
  hostBytes: 3_400_000_000,
  deviceBytes: 3_100_000_000,
  diskBytes: 2_600_000_000,
  outputBytes: { native: 107_000_000, hf: 269_000_000 },
  operations: 5.3e13,
  work: {
    load: 134_515_008,
    impact: 7.1e12,
    train: 4.2e13,
    evaluate: 3.9e12,
    export: 269_030_016,
    report: 134_515_008,
  },
  seconds: 258,
  secondsBasis: 'assumed',
  machines: [
    {
      name: 'g6.2xlarge',
      fits: true,
      hostBytes: 3_400_000_000,
      deviceBytes: 3_100_000_000,
      seconds: 258,
      dollars: 0.07,
    },
  ],
};

const { kind, scheme, training, evaluation, analysis, formats, metadata } = createJobSchema.parse(createJob);
const job: Job = {
  object: 'job',
  kind,
  id: exampleIds.job,
  status: 'queued',
  modelId: model.id,
  modelName: model.name,
  scheme,
  training,
  calibrationDatasetId: dataset.id,
  evaluation: evaluation ?? null,
  analysis,
  formats,
  artifact: null,
  baselineModelId: null,
  comparison: null,
  metadata,
  retryOf: null,
  estimate: {
    hostBytes: estimate.hostBytes,
    deviceBytes: estimate.deviceBytes,
    diskBytes: estimate.diskBytes,
    outputBytes: estimate.outputBytes,
    operations: estimate.operations,
    work: estimate.work,
    seconds: estimate.seconds,
  },
  machine: estimate.machine,
  createdAt: time('09:01:00'),
  startedAt: null,
  finishedAt: null,
  attempt: 0,
  progress: null,
  error: null,
  ...noOutcome,
};

const measured = (perplexity: number, sizeBytes: number) => ({ perplexity, divergence: null, tasks: [], sizeBytes });
const succeeded: Job = {
  ...job,
  status: 'succeeded',
  startedAt: time('09:02:00'),
  finishedAt: time('09:06:18'),
  attempt: 1,
  result: {
    engine: 'gpu',
    engineReason: 'a GPU was found',
    parameters: estimate.parameters,
    baseline: measured(18.4, 269_060_552),
    rounding: measured(61.2, 105_000_000),
    compressed: { ...measured(22.9, 107_000_000), bitsPerWeight: 3.3 },
    hf: measured(22.9, 269_000_000),
    peakHostBytes: 3_300_000_000,
    trainedTokens: 65_536,
    evaluatedTokens: 4096,
    seconds: 258,
    phaseSeconds: { load: 12.5, impact: 31.2, train: 184, export: 11.4, evaluate: 17.6, report: 1.3 },
  },
};

const events: JobEvent[] = [
  { id: '00000000.0000', time: time('09:01:00'), type: 'job.queued' },
  { id: '00000001.0000', time: time('09:02:01'), type: 'phase.started', phase: 'train' },
];

const artifacts: Artifact[] = [
  { path: 'model.safetensors', sizeBytes: 107_000_000, sha256: weightsSha, url: null },
  { path: 'report.html', sizeBytes: 48_211, sha256: textSha, url: null },
];

const key: Key = {
  object: 'key',
  id: exampleIds.key,
  name: 'build server',
  scope: 'write',
  createdAt: time('08:00:00'),
  revokedAt: null,
};

const createWebhook: CreateWebhook = { url: 'https://example.com/cherryq', events: ['job.succeeded', 'job.failed'] };
const webhook: Webhook = {
  object: 'webhook',
  id: exampleIds.webhook,
  url: createWebhook.url,
  events: ['job.succeeded', 'job.failed'],
  description: '',
  enabled: true,
  disabledReason: null,
  createdAt: time('08:30:00'),
};
const webhookWithSecret: WebhookWithSecret = {
  ...webhook,
  secret: 'whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=',
};
const payload: WebhookPayload = {
  type: 'job.succeeded',
  timestamp: time('09:06:18'),
  data: {
    object: 'job',
    id: job.id,
    kind: job.kind,
    status: 'succeeded',
    modelId: job.modelId,
    metadata: job.metadata,
    errorCode: null,
  },
};
const delivery: WebhookDelivery = {
  object: 'webhook_delivery',
  id: job.id,
  webhookId: webhook.id,
  type: 'job.succeeded',
  createdAt: time('09:06:19'),
  status: 'delivered',
  nextAttemptAt: null,
  payload: JSON.stringify(payload),
  attempts: [{ startedAt: time('09:06:19'), manual: false, status: 204, durationMs: 84, error: null, answer: '' }],
};
const testDelivery: WebhookDelivery = {
  ...delivery,
  type: 'webhook.test',
  payload: JSON.stringify({
    type: 'webhook.test',
    timestamp: time('08:31:00'),
    data: { object: 'webhook', id: webhook.id },
  } satisfies WebhookPayload),
};

const limits = { requestsPerMinute: 600, openJobs: 4, storedBytes: 1e12, computeHoursPerMonth: 100 };
const page = <Item>(...data: Item[]): Page<Item> => ({ object: 'list', data, hasMore: false, next: null });
const health: Health = { status: 'ok', version: '0.1.0' };

/** By the name of the schema. */
export const bodies = {
  Health: health,
  Capabilities: {
    version: health.version,
    architectures: ['LlamaForCausalLM', 'Qwen2ForCausalLM'],
    methods: ['rtn', 'qat', 'cherryq'],
    bits: [2, 3, 4, 8],
    formats: ['native', 'hf'],
    kinds: ['compress', 'analyze', 'evaluate', 'compare'],
    limits: { ...limits, jsonBytes: 2_097_152, filesPerUpload: 1000, pageSize: 100 },
    machines: machinesOf(['g6.2xlarge']),
  } satisfies Capabilities,
  CreateUpload: createUpload,
  CreateModel: createUpload,
  Model: model,
  ModelPage: page(model),
  Dataset: dataset,
  DatasetPage: page(dataset),
  RequestParts: { path: 'model.safetensors', parts: [{ number: 1, sha256: weightsSha }] },
  PartUpload: {
    object: 'part_upload',
    path: 'model.safetensors',
    partBytes: 67_108_864,
    expiresAt: time('10:00:00'),
    parts: [
      {
        number: 1,
        start: 0,
        sizeBytes: 67_108_864,
        uploaded: false,
        url: 'https://bucket.s3.us-east-1.amazonaws.com/tenants/acme/model.safetensors?partNumber=1&X-Amz-Signature=...',
        headers: { 'x-amz-checksum-sha256': 'jIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIw=' },
      },
    ],
  } satisfies PartUpload,
  CreateJob: createJob,
  CancelJob: { keepCheckpoint: true } satisfies z.input<typeof cancelJobSchema>,
  Estimate: estimate,
  Job: job,
  JobPage: page(succeeded),
  JobEventPage: page(...events),
  ArtifactList: { object: 'list', data: artifacts, hasMore: false as const },
  CreateKey: { name: key.name, scope: 'write' } satisfies CreateKey,
  CreatedKey: { ...key, secret: 'cq_0000000000000000000000000000000000000000000' } satisfies CreatedKey,
  Key: key,
  KeyPage: page(key),
  CreateWebhook: createWebhook,
  UpdateWebhook: { enabled: false } satisfies UpdateWebhook,
  Webhook: webhook,
  WebhookWithSecret: webhookWithSecret,
  WebhookPage: page(webhook),
  WebhookPayload: payload,
  WebhookDelivery: delivery,
  WebhookDeliveryPage: page(delivery),
  Usage: {
    object: 'usage',
    limits,
    openJobs: 1,
    storedBytes: model.sizeBytes + dataset.sizeBytes,
    computeHoursThisMonth: 2.5,
  } satisfies Usage,
} as const;

/** Where an operation's answer is not what its schema's example shows, by operation and status. */
const answersOf: Readonly<Record<string, unknown>> = {
  'GET /readyz 503': { ...health, status: 'unavailable' } satisfies Health,
  'GET /v1/jobs/{id} 200': succeeded,
  'GET /v1/jobs/{id}/artifacts/{path} 200': '{"formatVersion": 1}',
  'GET /v1/jobs/{id}/artifacts/{path} 206': '{"formatVersion"',
  'POST /v1/jobs/{id}/cancel 200': { ...job, status: 'cancelled', finishedAt: time('09:03:00') } satisfies Job,
  'POST /v1/jobs/{id}/pause 200': { ...job, status: 'paused' } satisfies Job,
  'POST /v1/jobs/{id}/retry 202': { ...job, retryOf: '01JBZ6V5A8B1C4D7E0F3G6H9J2' } satisfies Job,
  'POST /v1/webhooks/{id}/test 200': testDelivery,
  'PATCH /v1/webhooks/{id} 200': { ...webhook, enabled: false } satisfies Webhook,
  'DELETE /v1/keys/{id} 200': { ...key, revokedAt: time('12:00:00') } satisfies Key,
  ...Object.fromEntries(
    Object.entries({ models: model, datasets: dataset }).map(([collection, { files, ...upload }]) => [
      `POST /v1/${collection} 201`,
      { ...upload, status: 'uploading', files: files.map((file) => ({ ...file, uploaded: false })) },
    ]),
  ),
};

const mediaBodies: Readonly<Record<string, string>> = {
  'text/event-stream': ['retry: 1000\n\n', ...events.map(serverSentEvent)].join(''),
  'application/octet-stream': "the file's bytes",
  'text/html': '<!doctype html><title>w3g128</title>',
  'text/markdown': '# w3g128',
  'text/plain': 'Apache License',
};

function serverSentEvent(event: JobEvent): string {
  return `id: ${event.id}\nevent: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`;
}

/** @returns undefined where nothing is said yet   @param status of an answer; null: of the request */
export function exampleBody(operation: string, status: string | null, media: string, schema: string): unknown {
  const special = answersOf[`${operation} ${status}`];
  if (media !== 'application/json') return mediaBodies[media];
  if (special !== undefined) return special;
  return Object.hasOwn(bodies, schema) ? Reflect.get(bodies, schema) : undefined;
}

const badJob = createJobSchema.safeParse({ modelId: model.id, scheme: { bits: 5 } });

/** In the server's words; where they depend on what was asked for, they are those of a job. */
const problemTexts: Record<ProblemCode, { detail: string; param?: string }> = {
  invalid_request: { detail: 'the query is not valid: limit must be at most 100; got "1000"', param: 'limit' },
  unauthorized: {
    detail: 'the API key is not known here, or was revoked; make another one',
    param: 'Authorization',
  },
  forbidden: {
    detail:
      'this needs a key of the scope write; the key that was given has read. Whoever holds an admin key can make one',
    param: 'Authorization',
  },
  not_found: {
    detail: `there is no job ${job.id}; list the jobs of this store with GET /v1/jobs`,
    param: 'id',
  },
  method_not_allowed: { detail: 'PATCH is not possible on /v1/jobs; POST, GET is' },
  conflict: { detail: `job ${job.id} is running; cancel it first, or wait for its end` },
  idempotency_in_flight: {
    detail: 'the first request with this Idempotency-Key is still being worked on; send it again in a second',
    param: 'Idempotency-Key',
  },
  payload_too_large: {
    detail: 'the body has more than 2097152 bytes, which is the most for JSON; files go through PUT, one by one',
  },
  range_not_satisfiable: {
    detail: 'range bytes=200000000- lies outside model.safetensors, which has 107000000 bytes',
    param: 'Range',
  },
  content_mismatch: {
    detail:
      'config.json: 704 bytes were declared, 650 were sent; nothing was kept. Send the file again, or create the upload anew if the file has changed',
    param: 'config.json',
  },
  does_not_fit: {
    detail:
      'llama-7b needs about 116.4 GB of memory with these settings, and g5.2xlarge has 34.4 GB. ' +
      'training.moments bfloat16, training.momentsIn file, training.mode blockWise, a smaller training.batchSize or sequenceLength take less; method rtn takes hardly any',
    param: 'training',
  },
  invalid_model: {
    detail:
      'The weights hold no tensor "model.layers.3.mlp.up_proj.weight", which config.json asks for with shape [1536, 576].',
    param: 'model.layers.3.mlp.up_proj.weight',
  },
  idempotency_mismatch: {
    detail: 'this Idempotency-Key was used before with another request; use a new key for a new request',
    param: 'Idempotency-Key',
  },
  too_many_requests: {
    detail: 'more than 600 requests a minute came with keys of this tenant; send the next one in 1 s',
  },
  quota_exceeded: {
    detail: '4 jobs have not ended, and at most 4 may be open; wait for one to end, or cancel one',
  },
  internal: {
    detail: `an error that is not your request's fault; it is in the server's log under request ${requestId()}`,
  },
  unavailable: { detail: 'the queue cannot take the job now; send the request again in a minute' },
  storage_full: {
    detail:
      'No room on the disk (ENOSPC) to write tenants/acme/models/config.json, 704 bytes. ' +
      'Nothing of it was kept. Free some space, or move the store to a larger disk, and try again.',
  },
};

function requestId(): string {
  return '4207c23a-7d0e-4635-9e13-4d48dc2aca45';
}

const nouns: Readonly<Record<string, string>> = {
  models: model.id,
  datasets: dataset.id,
  keys: key.id,
  webhooks: webhook.id,
};

export function exampleProblem(operation: string, code: ProblemCode): Problem {
  if (code === 'invalid_request' && /^POST \/v1\/(jobs|estimates)$/.test(operation) && badJob.error)
    return toProblem(
      validationProblem('json', badJob.error.issues, { scheme: { bits: 5 } }, createJobSchema),
      requestId(),
    ).problem;
  const { detail, param } = problemTexts[code];
  return toProblem(new ProblemError(code, detailFor(operation, code) ?? detail, { param }), requestId()).problem;
}

/** The server's words for things other than jobs. */
function detailFor(operation: string, code: ProblemCode): string | null {
  const collection = /^\w+ \/v1\/(\w+)/.exec(operation)?.[1] ?? '';
  const id = nouns[collection];
  if (id === undefined) return null;
  const noun = collection.slice(0, -1);
  if (code === 'not_found')
    return noun === 'key' || noun === 'webhook'
      ? `there is no ${noun} ${id}; GET /v1/${collection} lists them`
      : `there is no ${noun} ${id}; it was deleted, or it is in another store`;
  if (code === 'quota_exceeded' && noun === 'webhook')
    return 'there are 20 webhooks, and 20 is the most; delete one, or let one take several events';
  if (code === 'does_not_fit')
    return '269061256 bytes would be stored, and the disk of the store has room for 104857600; free some space, or move the store to a larger disk';
  if (code === 'conflict' && noun === 'webhook')
    return `delivery ${job.id} is being sent at this moment; look at it in a second`;
  if (code === 'conflict') return `${noun} ${id} is needed by job ${job.id}; cancel that job or wait for its end`;
  return null;
}
