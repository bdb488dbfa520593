/**
 * Entries of the private install's functions. `http` answers requests, `batchEvents` takes EventBridge's "Batch Job State
 * Change" events, `reconcile` runs on a schedule. Settings come from the environment:
 *
 *     CHERRYQ_STORE              s3://bucket/prefix
 *     CHERRYQ_BATCH_QUEUE        name or ARN of the job queue
 *     CHERRYQ_BATCH_DEFINITION   name or ARN of the job definition
 *     CHERRYQ_AUTH               `keys` where callers bring API keys; else the front has checked them, by IAM or a JWT
 *     CHERRYQ_LIMITS             what each tenant may use, as JSON (contract: `limitsSchema`); not set: as much as there is
 *     CHERRYQ_MACHINES           kinds of machines that jobs run on, as JSON (contract: `machineSchema`, a list), the one to prefer first
 *     CHERRYQ_RETENTION_DAYS     after which ended jobs are deleted; not set: they are kept
 *     CHERRYQ_ABANDONED_DAYS     after which uploads that are not ready are deleted; not set: 7
 *     CHERRYQ_SOURCE_BUCKETS     buckets that models may be imported from, with commas; not set: none
 *     HF_ENDPOINT, HF_TOKEN      the Hub that models may be imported from, and who asks there
 *     CHERRYQ_STREAMING          `on` where the front streams answers (Function URL, REST API); else event streams are short
 */
import { handle, streamHandle } from 'hono/aws-lambda';
import { limitsSchema, machineSchema } from 'cherryq/contract';
import { z } from 'zod';
import { InputError, messageOf, openStore } from '@cherryq/batch-jobs/storage';
import { createBatchQueue, type BatchDetail, type BatchQueue, type Reconciled } from './adapters/batch-queue.ts';
import { frontKeys } from './adapters/front-keys.ts';
import { createApp } from './app.ts';
import { keyringKeys } from './keyring.ts';
import { createServices, defaultAbandonedDays, deleteOldJobs, removeLeftovers } from './services.ts';
import { sourceSettings } from './sources.ts';
import { logLine, systemClock, type LogEntry } from './ports.ts';
import packageJson from '../package.json' with { type: 'json' };

/** An answer that is not streamed is sent when it is whole: an event stream must then end soon. */
const unstreamedWindowMs = 5000;
/** Below the front's limit, so that a stream ends by itself and the client goes on where it was. */
const streamedWindowMs = 55_000;

/** No other file of an import is begun after so long; the function has 15 minutes, of which one file must not take ten. */
const importMs = 240_000;

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
const services = createServices({
  store,
  queue,
  clock: systemClock,
  limits: jsonSetting('CHERRYQ_LIMITS', limitsSchema.partial(), '{"openJobs": 4}'),
  logger,
  sources: sourceSettings(process.env, false),
  machines: jsonSetting(
    'CHERRYQ_MACHINES',
    z.array(machineSchema).min(1),
    '[{"name":"g5.2xlarge","engine":"gpu","hostBytes":32e9,"deviceBytes":24e9,"dollarsPerHour":1.2,"operationsPerSecond":4e12}]',
  ),
});
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
  const deleted = await deleteOldJobs(services, systemClock, days('CHERRYQ_RETENTION_DAYS'));
  const leftovers = await removeLeftovers(
    services,
    systemClock,
    days('CHERRYQ_ABANDONED_DAYS') ?? defaultAbandonedDays,
  );
  const imported = await services.imports.run({ until: Date.now() + importMs });
  logger({ level: 'info', message: 'reconciled', ...found, deleted, leftovers, imported });
  return found;
}

/** Text goes as it is; everything else in base64, which the front undoes. */
function isContentTypeBinary(type: string): boolean {
  return !/^(text\/|application\/(problem\+)?json)/.test(type);
}

/** @returns undefined when it is not set   @throws InputError for anything but JSON of that form */
function jsonSetting<Value>(name: string, schema: z.ZodType<Value>, example: string): Value | undefined {
  const text = process.env[name];
  if (!text) return undefined;
  try {
    return schema.parse(JSON.parse(text));
  } catch (cause) {
    const message = `${name} is ${JSON.stringify(text)}; it must be JSON such as ${example}. ${messageOf(cause)}`;
    throw new InputError('invalid_setting', message, name, { cause });
  }
}

function days(name: string): number | null {
  const text = process.env[name];
  if (!text) return null;
  if (/^[1-9]\d{0,4}$/.test(text)) return Number(text);
  throw new InputError(
    'invalid_setting',
    `${name} is ${JSON.stringify(text)}; it must be a whole number of days, at least 1.`,
    name,
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
