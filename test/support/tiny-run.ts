/** Runs jobs on the tiny model of tiny-model.ts, and reads what they leave. */
import { createHash } from 'node:crypto';
import { tmpdir } from 'node:os';
import { expect } from 'vitest';
import type { JobResult, StoredEvent } from 'cherryq/contract';
import { jobStateSchema, storedEventSchema } from 'cherryq/contract';
import { JobFolder } from '../../batch-jobs/src/job-folder.ts';
import { runJob } from '../../batch-jobs/src/run-job.ts';
import type { Store } from '../../batch-jobs/src/storage/index.ts';
import { testEngine } from './engine.ts';
import { temporaryStore } from './temporary-store.ts';
import type { TinyJob, TinyModel } from './tiny-model.ts';
import { tinyModelPrefix, writeTinyJob, writeTinyModel } from './tiny-model.ts';

export async function prepare(
  job: TinyJob,
  model?: TinyModel,
  empty?: Store,
): Promise<{ store: Store; prefix: string }> {
  const store = empty ?? (await temporaryStore());
  await writeTinyModel(store, tinyModelPrefix, model);
  return { store, prefix: await writeTinyJob(store, job) };
}

/**
 * One attempt.  @param stopAfter safe points that are passed before the job is asked to stop
 * @param checkpointGapMs default: the product's
 */
export async function attempt(
  store: Store,
  prefix: string,
  stopAfter = Infinity,
  checkpointGapMs?: number,
): Promise<void> {
  await live(store, await JobFolder.claim(store, prefix), { stopAfter, checkpointGapMs });
}

/** Of a comparison, one worker among several.  @param shared attempt that they share   @param schemeNumber from 1 on */
export async function attemptScheme(
  store: Store,
  prefix: string,
  { shared, schemeNumber, stopAfter = Infinity }: { shared: number; schemeNumber: number; stopAfter?: number },
): Promise<void> {
  await live(store, await JobFolder.join(store, prefix, shared), { stopAfter, checkpointGapMs: 0, schemeNumber });
}

async function live(
  store: Store,
  job: JobFolder | null,
  options: { stopAfter: number; checkpointGapMs: number | undefined; schemeNumber?: number },
): Promise<void> {
  if (job === null) throw new Error('the job has ended');
  const { checkpointGapMs, schemeNumber } = options;
  let left = options.stopAfter;
  try {
    await runJob({
      store,
      job,
      forcedEngine: testEngine,
      scratchFolder: tmpdir(),
      schemeNumber,
      peakBytes: () => process.memoryUsage.rss(),
      stopRequested: () => left-- <= 0,
      checkpointGapMs,
    });
  } finally {
    await job.flush();
  }
}

export async function finished(job: TinyJob, empty?: Store): Promise<{ store: Store; prefix: string }> {
  const prepared = await prepare(job, undefined, empty);
  await attempt(prepared.store, prepared.prefix);
  return prepared;
}

export const textOf = async (store: Store, key: string): Promise<string> =>
  new TextDecoder().decode((await store.get(key)) ?? undefined);
const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** Hash of every file under a prefix, by its path. */
export async function hashesUnder(store: Store, prefix: string): Promise<Record<string, string>> {
  const hashes: Record<string, string> = {};
  for (const { key } of await store.list(prefix)) {
    hashes[key.slice(prefix.length)] = sha256((await store.get(key)) as Uint8Array);
  }
  return hashes;
}
export const artifactsOf = (store: Store, prefix: string) => hashesUnder(store, `${prefix}artifacts/`);

export async function eventsOf(store: Store, prefix: string): Promise<StoredEvent[]> {
  const events: StoredEvent[] = [];
  for (const { key } of await store.list(`${prefix}events/`)) {
    for (const line of (await textOf(store, key)).trimEnd().split('\n')) {
      events.push(storedEventSchema.parse(JSON.parse(line)));
    }
  }
  return events;
}

export async function lastState(store: Store, prefix: string) {
  const keys = (await store.list(`${prefix}state/`)).map(({ key }) => key);
  return jobStateSchema.parse(JSON.parse(await textOf(store, keys.at(-1) as string)));
}

export async function resultOf(store: Store, prefix: string): Promise<JobResult> {
  const { status, result } = await lastState(store, prefix);
  expect(status).toBe('succeeded');
  if (result === null) throw new Error('a succeeded job has no result');
  return result;
}
