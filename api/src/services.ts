/** What the API does, apart from how it is asked: over HTTP, on a schedule. */
import type { Limits } from 'cherryq/contract';
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
}

export interface ServiceDeps {
  store: Store;
  queue: Queue;
  clock: Clock;
  /** Of tenants that have none of their own; default: none. */
  limits?: Partial<Limits>;
}

export function createServices(deps: ServiceDeps): Services {
  const reader = createJobReader(deps);
  const models = createUploads('model', deps);
  const datasets = createUploads('dataset', deps);
  const meter = createMeter({ ...deps, models, datasets, defaults: deps.limits });
  const jobs = createJobs({ ...deps, reader, models, datasets, meter });
  return { reader, models, datasets, jobs, keyring: createKeyring(deps), meter };
}

const dayMs = 86_400_000;

/** Deletes jobs that ended so many days ago.  @param days null: they are kept  @returns how many were deleted */
export async function deleteOldJobs({ jobs }: Services, clock: Clock, days: number | null): Promise<number> {
  return days === null ? 0 : jobs.removeEndedBefore(clock.now() - days * dayMs);
}
