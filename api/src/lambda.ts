/**
 * Entries of the private install's functions. `http` answers requests, `batchEvents` takes EventBridge's "Batch Job State
 * Change" events, `reconcile` runs on a schedule. Settings come from the environment:
 *
 *     CHERRYQ_STORE              s3://bucket/prefix
 *     CHERRYQ_INSTALL            name of the install, which its Batch jobs are tagged with
 *     CHERRYQ_MACHINES           kinds of machines that jobs run on, as a list in JSON, the largest last: each a `machine`, which is a
 *                                name that machines.ts knows or a description (contract: `machineSchema`), and its `jobQueue` and
 *                                `jobDefinition` (adapters/batch-queue.ts)
 *     CHERRYQ_AUTH               `keys` where callers bring API keys; else the front has checked them, by IAM or a JWT
 *     CHERRYQ_LIMITS             what each tenant may use, as JSON (contract: `limitsSchema`); not set: as much as there is
 *     CHERRYQ_RETENTION_DAYS     after which ended jobs are deleted; not set: they are kept
 *     CHERRYQ_WEBHOOK_NETWORKS   such as `10.0.0.0/8`, where webhooks may be beside the public internet; with commas between several
 *     CHERRYQ_ABANDONED_DAYS     after which uploads that are not ready are deleted; not set: 7
 *     CHERRYQ_SOURCE_BUCKETS     buckets that models may be imported from, with commas; not set: none
 *     HF_ENDPOINT                the Hub that models may be imported from; not set: the public one
 *     CHERRYQ_HUB_TOKEN_SECRET   ARN of a secret of Secrets Manager, the token to ask there with; not set: HF_TOKEN, if that is
 *     CHERRYQ_STREAMING          `on` where the front streams answers (Function URL, REST API); else event streams are short
 */
import { handle, streamHandle } from 'hono/aws-lambda';
import { limitsSchema, machineSchema } from 'cherryq/contract';
import { z } from 'zod';
import { InputError, messageOf, openStore } from '@cherryq/batch-jobs/storage';
import { createBatchQueue, type BatchDetail, type BatchQueue, type Reconciled } from './adapters/batch-queue.ts';
import { frontKeys } from './adapters/front-keys.ts';
import { hubTokenOf } from './adapters/hub-token.ts';
import { createApp } from './app.ts';
import { keyringKeys } from './keyring.ts';
import { machinesOf } from './machines.ts';
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
const targetSchema = z.strictObject({
  machine: z.union([z.string(), machineSchema]),
  jobQueue: z.string(),
  jobDefinition: z.string(),
});
const exampleTargets = '[{"machine":"g5.8xlarge","jobQueue":"a10g","jobDefinition":"a10g-{tenant}"}]';
const targets = jsonSetting('CHERRYQ_MACHINES', z.array(targetSchema).min(1), exampleTargets);
if (targets === undefined) throw missingSetting('CHERRYQ_MACHINES', exampleTargets);
const machines = machinesOf(targets.map(({ machine }) => machine));
const queue: BatchQueue = createBatchQueue({
  store,
  storeUrl,
  clock: systemClock,
  logger,
  targets: targets.map((target, index) => ({ ...target, machine: machines[index]?.name ?? '' })),
  installName: setting('CHERRYQ_INSTALL', 'the name of the install'),
});
const sources = sourceSettings(process.env, false);
const secretArn = process.env.CHERRYQ_HUB_TOKEN_SECRET;
if (secretArn) sources.hub.token = hubTokenOf({ secretArn, clock: systemClock });
const services = createServices({
  store,
  queue,
  clock: systemClock,
  logger,
  webhookNetworks: parseNetworks(process.env.CHERRYQ_WEBHOOK_NETWORKS ?? '', 'CHERRYQ_WEBHOOK_NETWORKS'),
  limits: jsonSetting('CHERRYQ_LIMITS', limitsSchema.partial(), '{"openJobs": 4}'),
  sources,
  machines,
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
  const { jobId, jobName, status, statusReason } = event.detail;
  if (status === 'FAILED') logger({ level: 'warning', message: 'Batch job failed', jobId, jobName, statusReason });
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
  throw missingSetting(name, example);
}

function missingSetting(name: string, example: string): InputError {
  return new InputError('missing_setting', `${name} is not set; it must be ${example}. The CDK app sets it.`, name);
}

/** To CloudWatch. */
function logger(entry: LogEntry): void {
  process.stdout.write(logLine(entry));
}
