/**
 * `cherryq`: the client. One object, one property per resource of the API, and the errors it throws. Runs wherever `fetch`
 * does and depends on nothing; folders and files are in `cherryq/node`.
 */
import { Artifacts } from './artifacts.ts';
import { Capabilities } from './capabilities.ts';
import { Transport, type ClientOptions } from './client.ts';
import type { Dataset } from './contract/index.ts';
import { Estimates } from './estimates.ts';
import { Events } from './events.ts';
import { Health } from './health.ts';
import { Jobs } from './jobs.ts';
import { Keys } from './keys.ts';
import { Models, Uploads } from './uploads.ts';
import { Webhooks } from './webhooks.ts';

/**
 * A client of one CherryQ server.
 * @example
 * const client = new CherryQ();
 * const job = await client.jobs.create({ modelId, calibrationDatasetId, scheme: { bits: 3 } });
 * const ended = await client.jobs.wait(job.id, { onEvent: (event) => console.log(event.type) });
 */
export class CherryQ {
  /** Address of the server, without a slash at its end. */
  readonly baseUrl: string;
  readonly models: Models;
  readonly datasets: Uploads<Dataset>;
  readonly jobs: Jobs;
  readonly estimates: Estimates;
  readonly events: Events;
  readonly artifacts: Artifacts;
  readonly capabilities: Capabilities;
  readonly health: Health;
  readonly keys: Keys;
  readonly webhooks: Webhooks;

  /** @throws InputError when `baseUrl` is not an address */
  constructor(options: ClientOptions = {}) {
    const transport = new Transport(options);
    this.baseUrl = transport.baseUrl;
    this.models = new Models(transport, '/v1/models');
    this.datasets = new Uploads(transport, '/v1/datasets');
    this.estimates = new Estimates(transport);
    this.events = new Events(transport);
    this.jobs = new Jobs(transport, this.events);
    this.artifacts = new Artifacts(transport);
    this.capabilities = new Capabilities(transport);
    this.health = new Health(transport);
    this.keys = new Keys(transport);
    this.webhooks = new Webhooks(transport);
  }
}

export {
  AuthenticationError,
  BadRequestError,
  CherryQError,
  ConflictError,
  ConnectionError,
  InputError,
  IntegrityError,
  JobFailedError,
  NotFoundError,
  PermissionError,
  RateLimitError,
  ServerError,
  SignatureError,
  TimeoutError,
  UnprocessableError,
} from './errors.ts';
export { openQuantized } from './quantized.ts';
export { fingerprintOf } from './uploads.ts';
export { unwrapWebhook } from './webhooks.ts';
export type { ClientOptions, RequestBody, RequestLogEntry, RequestOptions, StreamedAnswer } from './client.ts';
export type { ListEventsQuery, StreamEventsOptions } from './events.ts';
export type { CreateJobOptions, ListJobsQuery, WaitOptions } from './jobs.ts';
export type { FileSource, PlainTensor, QuantizationConfig, QuantizedModel, QuantizedTensor } from './quantized.ts';
export type { ListUploadsQuery, UploadOptions, UploadProgress, UploadSource } from './uploads.ts';
export type { CreateWebhookOptions, HeadersLike, ListDeliveriesQuery, UnwrapOptions } from './webhooks.ts';
export type {
  ArtifactFile,
  Bits,
  Capabilities,
  ComparisonResult,
  ComparisonRow,
  CreateJob,
  CreateUpload,
  CreateWebhook,
  ImportModel,
  Dataset,
  Estimate,
  EvaluationResult,
  GroupSize,
  Job,
  JobError,
  JobEvent,
  JobResult,
  JobStatus,
  Manifest,
  Measurement,
  Method,
  Model,
  Page,
  Phase,
  Problem,
  ProblemCode,
  Progress,
  Scheme,
  Training,
  UpdateWebhook,
  UploadFile,
  Webhook,
  WebhookAttempt,
  WebhookDelivery,
  WebhookEvent,
  WebhookPayload,
  WebhookWithSecret,
} from './contract/index.ts';
