import { describe, expect, it } from 'vitest';
import {
  jobReserve,
  jobSpecSchema,
  jobStateSchema,
  type JobSpec,
  type JobState,
  type JobStatus,
} from 'cherryq/contract';
import { FolderStore, StorageFullError } from '@cherryq/batch-jobs/storage';
import { advanceState, createJobFolder, jobRef } from '../../api/src/job-log.ts';
import { indexKey } from '../../api/src/newest-first.ts';
import { temporaryFolder } from '../support/temporary-store.ts';

const job = jobRef('local', '01ARZ3NDEKTSV4RRFFQ69G5FAV');
const createdAt = '2026-11-23T00:00:00.000Z';
const spec: JobSpec = jobSpecSchema.parse({
  id: job.id,
  createdAt,
  modelId: job.id,
  modelName: 'tiny',
  modelPrefix: 'tenants/local/models/x/files/',
  calibrationPrefix: null,
  evaluationPrefix: null,
  tasks: [],
  analysisPrefixes: [],
});

const state = (status: JobStatus): JobState =>
  jobStateSchema.parse({ status, time: createdAt, attempt: 1, by: 'worker' });

/** A disk that has no room for keys that end so. */
class Full extends FolderStore {
  constructor(private readonly ending: string) {
    super(temporaryFolder());
  }
  override async put(...parameters: Parameters<FolderStore['put']>): Promise<boolean> {
    if (parameters[0].endsWith(this.ending)) throw new StorageFullError('no room');
    return super.put(...parameters);
  }
}

describe('createJobFolder', () => {
  it.each(['spec.json', 'reserve', `open/${job.id}`, indexKey('local', 'jobs', job.id)])(
    'leaves nothing of a job when there is no room for its %s',
    async (ending) => {
      const store = new Full(ending);
      await expect(createJobFolder(store, job, spec)).rejects.toThrow(StorageFullError);
      expect(await store.list('')).toEqual([]);
    },
  );

  it('completes a job whose creator died, and leaves a whole one as it is', async () => {
    const store = new FolderStore(temporaryFolder());
    await createJobFolder(store, job, spec);
    const whole = await store.list('');
    await store.deletePrefix(`${job.prefix}/events/`);
    for (let time = 0; time < 2; time++) await createJobFolder(store, job, spec);
    expect(await store.list('')).toEqual(whole);
  });
});

describe('the room for last words', () => {
  it('is held while a job goes on and given back with its final state', async () => {
    const store = new FolderStore(temporaryFolder());
    const key = `${job.prefix}/${jobReserve.path}`;
    await createJobFolder(store, job, spec);
    await advanceState(store, job, () => state('running'));
    expect(await store.head(key)).toEqual({ sizeBytes: jobReserve.sizeBytes });
    await advanceState(store, job, () => state('cancelled'));
    expect(await store.head(key)).toBeNull();
  });
});
