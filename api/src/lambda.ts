/**
 * Entries of the private install's functions. `http` answers requests, `batchEvents` takes EventBridge's "Batch Job State
 * Change" events, `reconcile` runs on a schedule. Settings come from the environment:
 *
 *     CHERRYQ_STORE              s3://bucket/prefix
 *     CHERRYQ_BATCH_QUEUE        name or ARN of the job queue
 *     CHERRYQ_BATCH_DEFINITION   name or ARN of the job definition
 *     CHERRYQ_AUTH               `keys` where callers bring API keys; else the front has checked them, by IAM or a JWT
 *     CHERRYQ_LIMITS             what each tenant may use, as JSON (contract: `limitsSchema`); not set: as much as there is
 *     CHERRYQ_RETENTION_DAYS     after which ended jobs are deleted; not set: they are kept
 *     CHERRYQ_STREAMING          `on` where the front streams answers (Function URL, REST API); else event streams are short
 */
import { handle, streamHandle } from 'hono/aws-lambda';
import { limitsSchema, type Limits } from 'cherryq/contract';
import { InputError, messageOf, openStore } from '@cherryq/batch-jobs/storage';
import { createBatchQueue, type BatchDetail, type BatchQueue, type Reconciled } from './adapters/batch-queue.ts';
import { frontKeys } from './adapters/front-keys.ts';
import { createApp } from './app.ts';
import { keyringKeys } from './keyring.ts';
import { createServices, deleteOldJobs } from './services.ts';
import { logLine, systemClock, type LogEntry } from './ports.ts';
import packageJson from '../package.json' with { type: 'json' };

/** An answer that is not streamed is sent when it is whole: an event stream must then end soon. */
const unstreamedWindowMs = 5000;
/** Below the front's limit, so that a stream ends by itself and the client goes on where it was. */
const streamedWindowMs = 55_000;

const streams = process.env.CHERRYQ_STREAMING === 'on';
const storeUrl = setting('CHERRYQ_STORE', 's3://bucket/prefix');
const store = openStore(storeUrl);
const queue: BatchQueue = createBatchQueue({
  store,
  storeUrl,
  clock: systemClock,
  logger,
  jobQueue: setting('CHERRYQ_BATCH_QUEUE', 'the name of a job queue'),
  jobDefinition: setting('CHERRYQ_BATCH_DEFINITION', 'the name of a job definition'),
});
const services = createServices({ store, queue, clock: systemClock, limits: limitsSetting() });
const app = createApp({
  services,
  store,
  queue,
  clock: systemClock,
  keys: process.env.CHERRYQ_AUTH === 'keys' ? keyringKeys(services.keyring) : frontKeys,
  version: packageJson.version,
  logger,
  stream: { windowMs: streams ? streamedWindowMs : unstreamedWindowMs },
});

export const http = streams ? streamHandle(app) : handle(app, { isContentTypeBinary });

export async function batchEvents(event: { detail: BatchDetail }): Promise<void> {
  await queue.onStateChange(event.detail);
}

export async function reconcile(): Promise<Reconciled> {
  const found = await queue.reconcile();
  const deleted = await deleteOldJobs(services, systemClock, retentionDays());
  logger({ level: 'info', message: 'reconciled', ...found, deleted });
  return found;
}

/** Text goes as it is; everything else in base64, which the front undoes. */
function isContentTypeBinary(type: string): boolean {
  return !/^(text\/|application\/(problem\+)?json)/.test(type);
}

function limitsSetting(): Partial<Limits> {
  const text = process.env.CHERRYQ_LIMITS;
  if (!text) return {};
  try {
    return limitsSchema.partial().parse(JSON.parse(text));
  } catch (cause) {
    throw new InputError(
      'invalid_setting',
      `CHERRYQ_LIMITS is ${JSON.stringify(text)}; it must be a JSON object such as {"openJobs": 4}. ${messageOf(cause)}`,
      'CHERRYQ_LIMITS',
      { cause },
    );
  }
}

function retentionDays(): number | null {
  const text = process.env.CHERRYQ_RETENTION_DAYS;
  if (!text) return null;
  if (/^[1-9]\d{0,4}$/.test(text)) return Number(text);
  throw new InputError(
    'invalid_setting',
    `CHERRYQ_RETENTION_DAYS is ${JSON.stringify(text)}; it must be a whole number of days, at least 1.`,
    'CHERRYQ_RETENTION_DAYS',
  );
}

function setting(name: string, example: string): string {
  const value = process.env[name];
  if (value) return value;
  throw new InputError('missing_setting', `${name} is not set; it must be ${example}. The CDK app sets it.`, name);
}

/** To CloudWatch. */
function logger(entry: LogEntry): void {
  process.stdout.write(logLine(entry));
}
