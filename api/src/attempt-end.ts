/** What the end of an attempt, a life of a worker, says about its job. Every queue acts on it in the same way. */
import { exitCodes, noOutcome, type JobError } from 'cherryq/contract';
import {
  advanceState,
  appendEvents,
  endedKey,
  encodeJson,
  openKey,
  readLastEvent,
  readLatestState,
  readState,
  sealJob,
} from './job-log.ts';
import type { z } from 'zod';
import type { endedSchema } from './limits.ts';
import { listKeys } from './list-keys.ts';
import type { Clock, JobRef, Store } from './ports.ts';
import { announceEnd } from './webhook-log.ts';

export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  /** The end of what the worker wrote there, without secrets. */
  readonly stderr: string;
}

/** Whether to go on, and the error if that was the last attempt. */
export interface AttemptEnd {
  readonly again: boolean;
  readonly error: JobError;
}

export function serviceError(code: string, message: string): JobError {
  return { fault: 'service', code, message, param: null };
}

export function meaningOf({ code, signal, stderr }: Exit): AttemptEnd {
  const said = stderr === '' ? '' : ` Its last words:\n${stderr}`;
  if (signal !== null || (code !== null && code > 128)) {
    const name = signal ?? `signal ${(code ?? 0) - 128}`;
    const cause = name === 'SIGTERM' || name === 'SIGINT' ? '' : ', most likely because memory ran out';
    return { again: true, error: serviceError('worker_crashed', `The worker was killed by ${name}${cause}.`) };
  }
  switch (code) {
    case exitCodes.interrupted:
      return { again: true, error: serviceError('worker_interrupted', 'The worker was asked to stop.') };
    case exitCodes.transient:
      return { again: true, error: serviceError('unavailable', `The worker met an error that may pass.${said}`) };
    case exitCodes.input: {
      const message = stderr === '' ? 'The worker refused its input without saying why.' : stderr;
      return { again: false, error: { fault: 'user', code: 'invalid_input', message, param: null } };
    }
    case exitCodes.ok:
      return {
        again: false,
        error: serviceError('internal', 'The worker ended as if done, but left no result. This is a bug.'),
      };
    default:
      return {
        again: false,
        error: serviceError('internal', `The worker failed with exit code ${code}. This is a bug.${said}`),
      };
  }
}

export function givenUp(error: JobError, attempts: number): JobError {
  const advice =
    error.code === 'worker_crashed'
      ? ' Close other programs, use a machine with more memory, or lower training.batchSize and training.sequenceLength.'
      : ' Create the job again when the cause is gone.';
  const count = attempts === 1 ? 'The only attempt ended' : `${attempts} attempts in a row ended`;
  return { ...error, message: `${count} before a checkpoint. ${error.message}${advice}` };
}

/** Makes a job's state final, unless it is. */
export async function failJob(store: Store, job: JobRef, clock: Clock, error: JobError): Promise<void> {
  const { changed } = await advanceState(store, job, (latest) => ({
    status: 'failed',
    time: new Date(clock.now()).toISOString(),
    attempt: latest?.attempt ?? 0,
    by: 'queue',
    keepCheckpoint: false,
    error,
    ...noOutcome,
  }));
  if (changed) await appendEvents(store, job, clock, [{ type: 'job.failed', error }]);
}

/** What is left to do once a job has ended and no worker has it any more.  @returns whether it has ended */
export async function finishJob(store: Store, job: JobRef, clock: Clock): Promise<boolean> {
  if (!(await sealJob(store, job, clock))) return false;
  const state = await readLatestState(store, job);
  if (state?.status === 'cancelled' && !state.keepCheckpoint) await store.deletePrefix(`${job.prefix}/checkpoints/`);
  // What an attempt that broke off had begun to write; nothing vouches for it.
  if (state?.status !== 'succeeded')
    for (const folder of ['artifacts', 'scratch']) await store.deletePrefix(`${job.prefix}/${folder}/`);
  await announceEnd(store, job, clock);
  // Schemes of a comparison may have been tried at once.
  const tried = (state?.comparisonResult?.rows ?? []).reduce((sum, { seconds }) => sum + seconds, 0);
  const ended: z.input<typeof endedSchema> = { seconds: Math.max(tried, await secondsRun(store, job)) };
  // By the state's own time: whoever comes to this again writes the same.
  await store.put(endedKey(job, Date.parse(state?.time ?? '')), encodeJson(ended), { durable: false });
  await store.delete(openKey(job));
  return true;
}

/** How long workers had the job. */
async function secondsRun(store: Store, job: JobRef): Promise<number> {
  let [ms, before] = [0, await readState(store, job, 1)];
  for (let number = 2; before !== null; number++) {
    const state = await readState(store, job, number);
    if (state !== null && before.status === 'running') ms += Date.parse(state.time) - Date.parse(before.time);
    before = state;
  }
  return Math.max(0, ms / 1000);
}

/** Says in the job's events that an attempt broke off, unless the worker has said so itself. */
export async function noteInterruption(store: Store, job: JobRef, clock: Clock, reason: string): Promise<void> {
  const state = await readLatestState(store, job);
  if (state?.status !== 'running' || (await readLastEvent(store, job))?.type === 'job.interrupted') return;
  await appendEvents(store, job, clock, [{ type: 'job.interrupted', attempt: state.attempt, reason }]);
}

export async function checkpointKeys(store: Store, job: JobRef): Promise<string[]> {
  const keys: string[] = [];
  for await (const key of listKeys(store, `${job.prefix}/checkpoints/`)) keys.push(key);
  return keys;
}

/** An attempt that leaves a key that was not there before has saved some of its work. */
export async function hasNewCheckpoint(store: Store, job: JobRef, before: readonly string[]): Promise<boolean> {
  return (await checkpointKeys(store, job)).some((key) => !before.includes(key));
}
