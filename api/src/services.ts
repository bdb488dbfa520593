/** What the API does, apart from how it is asked: over HTTP, on a schedule. */
import { availableParallelism, totalmem } from 'node:os';
import type { Limits, Machine } from 'cherryq/contract';
import { createEstimator } from './estimates.ts';
import { createJobReader, type JobReader } from './job-reader.ts';
import { createJobs, type Jobs } from './jobs.ts';
import { removeIdempotencyBefore } from './idempotency.ts';
import { createImports, type Imports } from './imports.ts';
import { createKeyring, type Keyring } from './keyring.ts';
import { createMeter, type Meter } from './limits.ts';
import type { Clock, Logger, Queue, Store } from './ports.ts';
import { createSources, sourceSettings, type SourceSettings } from './sources.ts';
import { createUploads, type Uploads } from './uploads.ts';
import type { Networks } from './webhook-call.ts';
import { createWebhooks, type Webhooks } from './webhooks.ts';

export interface Services {
  readonly reader: JobReader;
  readonly models: Uploads;
  readonly imports: Imports;
  readonly datasets: Uploads;
  readonly jobs: Jobs;
  readonly keyring: Keyring;
  readonly meter: Meter;
  readonly webhooks: Webhooks;
  /** That jobs may run on, the one to prefer first. */
  readonly machines: readonly Machine[];
  readonly store: Store;
}

export interface ServiceDeps {
  store: Store;
  queue: Queue;
  clock: Clock;
  logger: Logger;
  /** Of tenants that have none of their own; default: none. */
  limits?: Partial<Limits>;
  /** That jobs may run on, the one to prefer first; default: this machine. */
  machines?: readonly Machine[];
  /** Beyond the public internet, that webhooks may be in; default: none. */
  webhookNetworks?: Networks;
  /** What models may be imported from; default: the public Hub. */
  sources?: SourceSettings;
  /** Whether this process outlives its requests and imports by itself; default: imports wait for `imports.run`. */
  importsInBackground?: boolean;
}

export function createServices(deps: ServiceDeps): Services {
  const reader = createJobReader(deps);
  const copying = new Map<string, number>();
  const models = createUploads('model', { ...deps, copying });
  const datasets = createUploads('dataset', deps);
  const meter = createMeter({ ...deps, models, datasets, defaults: deps.limits });
  const machines = deps.machines ?? [thisMachine()];
  const { schemesAtOnce } = deps.queue;
  const estimator = createEstimator({ store: deps.store, reader, machines, schemesAtOnce });
  const jobs = createJobs({ ...deps, reader, models, datasets, meter, estimator });
  const webhooks = createWebhooks({ ...deps, networks: deps.webhookNetworks ?? [] });
  const imports = createImports({
    store: deps.store,
    models,
    sources: createSources(deps.sources ?? sourceSettings({}, false)),
    logger: deps.logger,
    copying,
    inBackground: deps.importsInBackground ?? false,
  });
  const keyring = createKeyring(deps);
  return { reader, models, imports, datasets, jobs, keyring, meter, webhooks, machines, store: deps.store };
}

/** As it is found here: TensorFlow on all cores is the larger user of memory. Of operations, what a core was seen to do. */
function thisMachine(): Machine {
  return {
    name: 'this machine',
    engine: 'native',
    startSeconds: 0,
    hostBytes: totalmem(),
    deviceBytes: null,
    dollarsPerHour: null,
    operationsPerSecond: 40e9 * availableParallelism(),
  };
}

const dayMs = 86_400_000;
/** Deliveries can be looked at and replayed for so long. */
const deliveryDays = 30;

/**
 * Deletes what nobody needs any more: deliveries of webhooks, and jobs that ended so many days ago.
 * @param days null: jobs are kept   @returns how many jobs were deleted
 */
export async function deleteOld({ jobs, webhooks }: Services, clock: Clock, days: number | null): Promise<number> {
  await webhooks.forgetBefore(clock.now() - deliveryDays * dayMs);
  return days === null ? 0 : jobs.removeEndedBefore(clock.now() - days * dayMs);
}

export const defaultAbandonedDays = 7;
const idempotencyDays = 7;

/**
 * Removes what nobody will need any more: uploads and imports that were begun so many days ago and are not ready, and records of
 * idempotency keys. Once a day, by whoever comes first.
 */
export async function removeLeftovers(
  { models, datasets, store }: Services,
  clock: Clock,
  abandonedDays: number = defaultAbandonedDays,
): Promise<{ uploads: number; keys: number }> {
  const today = new Date(clock.now()).toISOString().slice(0, 10);
  const days = await store.list('swept/');
  if (!(await store.put(`swept/${today}`, new Uint8Array(), { onlyIfAbsent: true }))) return { uploads: 0, keys: 0 };
  for (const { key } of days) await store.delete(key);
  const abandoned = clock.now() - abandonedDays * dayMs;
  const uploads = (await models.removeAbandonedBefore(abandoned)) + (await datasets.removeAbandonedBefore(abandoned));
  return { uploads, keys: await removeIdempotencyBefore(store, clock.now() - idempotencyDays * dayMs) };
}
