/** What the API does, apart from how it is asked: over HTTP, on a schedule. */
import { totalmem } from 'node:os';
import type { Limits, Machine } from 'cherryq/contract';
import { createEstimator } from './estimates.ts';
import { createJobReader, type JobReader } from './job-reader.ts';
import { createJobs, type Jobs } from './jobs.ts';
import { createKeyring, type Keyring } from './keyring.ts';
import { createMeter, type Meter } from './limits.ts';
import type { Clock, Queue, Store } from './ports.ts';
import { createUploads, type Uploads } from './uploads.ts';

export interface Services {
  readonly reader: JobReader;
  readonly models: Uploads;
  readonly datasets: Uploads;
  readonly jobs: Jobs;
  readonly keyring: Keyring;
  readonly meter: Meter;
  /** That jobs may run on, the one to prefer first. */
  readonly machines: readonly Machine[];
}

export interface ServiceDeps {
  store: Store;
  queue: Queue;
  clock: Clock;
  /** Of tenants that have none of their own; default: none. */
  limits?: Partial<Limits>;
  /** That jobs may run on, the one to prefer first; default: this machine. */
  machines?: readonly Machine[];
}

export function createServices(deps: ServiceDeps): Services {
  const reader = createJobReader(deps);
  const models = createUploads('model', deps);
  const datasets = createUploads('dataset', deps);
  const meter = createMeter({ ...deps, models, datasets, defaults: deps.limits });
  const machines = deps.machines ?? [thisMachine()];
  const estimator = createEstimator({ store: deps.store, reader, machines });
  const jobs = createJobs({ ...deps, reader, models, datasets, meter, estimator });
  return { reader, models, datasets, jobs, keyring: createKeyring(deps), meter, machines };
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

/** Deletes jobs that ended so many days ago.  @param days null: they are kept  @returns how many were deleted */
export async function deleteOldJobs({ jobs }: Services, clock: Clock, days: number | null): Promise<number> {
  return days === null ? 0 : jobs.removeEndedBefore(clock.now() - days * dayMs);
}
