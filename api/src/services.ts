/** What the API does, apart from how it is asked: over HTTP, on a schedule. */
import { createJobReader, type JobReader } from './job-reader.ts';
import { createJobs, type Jobs } from './jobs.ts';
import type { Clock, Queue, Store } from './ports.ts';
import { createUploads, type Uploads } from './uploads.ts';

export interface Services {
  readonly reader: JobReader;
  readonly models: Uploads;
  readonly datasets: Uploads;
  readonly jobs: Jobs;
}

export function createServices(deps: { store: Store; queue: Queue; clock: Clock }): Services {
  const reader = createJobReader(deps);
  const models = createUploads('model', deps);
  const datasets = createUploads('dataset', deps);
  return { reader, models, datasets, jobs: createJobs({ ...deps, reader, models, datasets }) };
}

const dayMs = 86_400_000;

/** Deletes jobs that ended so many days ago.  @param days null: they are kept  @returns how many were deleted */
export async function deleteOldJobs({ jobs }: Services, clock: Clock, days: number | null): Promise<number> {
  return days === null ? 0 : jobs.removeEndedBefore(clock.now() - days * dayMs);
}
