/** What the API does, apart from how it is asked: over HTTP, on a schedule. */
import { totalmem } from 'node:os';
import type { Limits, Machine } from 'cherryq/contract';
import { createEstimator } from './estimates.ts';
import { createJobReader, type JobReader } from './job-reader.ts';
import { createJobs, type Jobs } from './jobs.ts';
import { createKeyring, type Keyring } from './keyring.ts';
import { createMeter, type Meter } from './limits.ts';
import type { Clock, Logger, Queue, Store } from './ports.ts';
import { createUploads, type Uploads } from './uploads.ts';
import type { Networks } from './webhook-call.ts';
import { createWebhooks, type Webhooks } from './webhooks.ts';

export interface Services {
  readonly reader: JobReader;
  readonly models: Uploads;
  readonly datasets: Uploads;
  readonly jobs: Jobs;
  readonly keyring: Keyring;
  readonly meter: Meter;
  readonly webhooks: Webhooks;
  /** That jobs may run on, the one to prefer first. */
  readonly machines: readonly Machine[];
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
}

export function createServices(deps: ServiceDeps): Services {
  const reader = createJobReader(deps);
  const models = createUploads('model', deps);
  const datasets = createUploads('dataset', deps);
  const meter = createMeter({ ...deps, models, datasets, defaults: deps.limits });
  const machines = deps.machines ?? [thisMachine()];
  const estimator = createEstimator({ store: deps.store, reader, machines });
  const jobs = createJobs({ ...deps, reader, models, datasets, meter, estimator });
  const webhooks = createWebhooks({ ...deps, networks: deps.webhookNetworks ?? [] });
  return { reader, models, datasets, jobs, keyring: createKeyring(deps), meter, webhooks, machines };
}

/** As it is found here: TensorFlow on all cores is the larger user of memory. */
export function thisMachine(engine: Machine['engine'] = 'native'): Machine {
  const operationsPerSecond = engine === 'native' ? 80e9 : 6e9;
  return {
    name: 'this machine',
    engine,
    startSeconds: 3,
    hostBytes: totalmem(),
    deviceBytes: null,
    dollarsPerHour: null,
    operationsPerSecond,
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
