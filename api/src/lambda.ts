/**
 * Entries of the private install's functions. `http` answers requests, `batchEvents` takes EventBridge's "Batch Job State
 * Change" events, `reconcile` runs on a schedule. Settings come from the environment:
 *
 *     CHERRYQ_STORE              s3://bucket/prefix
 *     CHERRYQ_BATCH_QUEUE        name or ARN of the job queue
 *     CHERRYQ_BATCH_DEFINITION   name or ARN of the job definition
 *     CHERRYQ_AUTH               `keys` where callers bring API keys; else the front has checked them, by IAM or a JWT
 *     CHERRYQ_LIMITS             what each tenant may use, as JSON (contract: `limitsSchema`); not set: as much as there is
 *     CHERRYQ_MACHINES           kinds of machines that jobs run on, as a list in JSON, the one to prefer first: names that
 *                                machines.ts knows, or descriptions (contract: `machineSchema`); not set: all of machines.ts
 *     CHERRYQ_RETENTION_DAYS     after which ended jobs are deleted; not set: they are kept
 *     CHERRYQ_WEBHOOK_NETWORKS   such as `10.0.0.0/8`, where webhooks may be beside the public internet; with commas between several
 *     CHERRYQ_ABANDONED_DAYS     after which uploads that are not ready are deleted; not set: 7
 *     CHERRYQ_SOURCE_BUCKETS     buckets that models may be imported from, with commas; not set: none
 *     HF_ENDPOINT, HF_TOKEN      the Hub that models may be imported from, and who asks there
 *     CHERRYQ_STREAMING          `on` where the front streams answers (Function URL, REST API); else event streams are short
 */
import { handle, streamHandle } from 'hono/aws-lambda';
import { limitsSchema } from 'cherryq/contract';
import type { z } from 'zod';
import { InputError, messageOf, openStore } from '@cherryq/batch-jobs/storage';
import { createBatchQueue, type BatchDetail, type BatchQueue, type Reconciled } from './adapters/batch-queue.ts';
import { frontKeys } from './adapters/front-keys.ts';
import { createApp } from './app.ts';
import { keyringKeys } from './keyring.ts';
import { machineListSchema, machinesOf, machineTable } from './machines.ts';
import { createServices, defaultAbandonedDays, deleteOld, removeLeftovers } from './services.ts';
import { sourceSettings } from './sources.ts';
import { parseNetworks } from './webhook-call.ts';
import { logLine, systemClock, type LogEntry } from './ports.ts';
import packageJson from '../package.json' with { type: 'json' };

/** An answer that is not streamed is sent when it is whole: an event stream must then end soon. */
const unstreamedWindowMs = 5000;
/** Below the front's limit, so that a stream ends by itself and the client goes on where it was. */
const streamedWindowMs = 55_000;

/** No call to a webhook is begun after so long; one takes up to 15 s more. */
const deliverMs = 20_000;
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
  logger,
  webhookNetworks: parseNetworks(process.env.CHERRYQ_WEBHOOK_NETWORKS ?? '', 'CHERRYQ_WEBHOOK_NETWORKS'),
  limits: jsonSetting('CHERRYQ_LIMITS', limitsSchema.partial(), '{"openJobs": 4}'),
  sources: sourceSettings(process.env, false),
  machines: machinesOf(
    jsonSetting(
      'CHERRYQ_MACHINES',
      machineListSchema,
      '["g5.2xlarge", {"name":"own","engine":"gpu","hostBytes":32e9,"deviceBytes":24e9,"dollarsPerHour":1.2,"operationsPerSecond":4e12}]',
    ) ?? Object.keys(machineTable),
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
  await services.webhooks.deliverDue(deliverMs);
}

export async function reconcile(): Promise<Reconciled> {
  const found = await queue.reconcile();
  const webhooks = await services.webhooks.deliverDue(deliverMs);
  const deleted = await deleteOld(services, systemClock, days('CHERRYQ_RETENTION_DAYS'));
  const leftovers = await removeLeftovers(
    services,
    systemClock,
    days('CHERRYQ_ABANDONED_DAYS') ?? defaultAbandonedDays,
  );
  const imported = await services.imports.run({ until: Date.now() + importMs });
  logger({ level: 'info', message: 'reconciled', ...found, webhooks, deleted, leftovers, imported });
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
