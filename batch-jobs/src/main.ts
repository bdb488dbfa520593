/**
 * Entry of the trainer's process: the only file that touches `process`. The queue starts it with the store and the job in
 * the environment and acts on its exit code (contract/state.ts, `exitCodes`).
 */
import { tmpdir } from 'node:os';
import { exitCodes } from 'cherryq/contract';
import { InputError, InterruptedError, QualityError, TransientError, messageOf } from './errors.ts';
import { JobFolder } from './job-folder.ts';
import { runJob } from './run-job.ts';
import { StorageFullError, openStore } from './storage/index.ts';
import type { Store } from './storage/index.ts';

let stopRequested = false;
const stop = (): void => {
  stopRequested = true;
};
process.on('SIGTERM', stop);
process.on('SIGINT', stop);
// A local queue holds an IPC channel open; when it closes, the server has died and another will start this job again.
process.on('disconnect', stop);

process.exitCode = await main();
if (process.connected) process.disconnect();

async function main(): Promise<number> {
  const storeUrl = requiredVariable('CHERRYQ_STORE', 'a folder as file:///path');
  const prefix = requiredVariable('CHERRYQ_JOB', 'a prefix as tenants/<tenant>/jobs/<id>');
  if (storeUrl === null || prefix === null) return exitCodes.input;
  const store = openStore(storeUrl);
  const folder = prefix.endsWith('/') ? prefix : `${prefix}/`;
  const { CHERRYQ_SCHEMES: schemes, CHERRYQ_ATTEMPT: attempt, AWS_BATCH_JOB_ARRAY_INDEX: index } = process.env;
  // Of an array job of AWS Batch, each worker takes one of the schemes that are listed.
  const schemeNumber = schemes === undefined ? undefined : Number(schemes.split(',')[Number(index)]);
  const job = await (schemeNumber === undefined
    ? JobFolder.claim(store, folder)
    : JobFolder.join(store, folder, Number(attempt)));
  if (job === null) return exitCodes.ok;
  try {
    await runJob({
      store,
      job,
      forcedEngine: process.env.CHERRYQ_ENGINE,
      scratchFolder: process.env.CHERRYQ_SCRATCH || tmpdir(),
      checkpointGapMs: checkpointGapMs(process.env.CHERRYQ_CHECKPOINT_SECONDS),
      schemeNumber,
      peakBytes: () => 1024 * process.resourceUsage().maxRSS,
      stopRequested: () => stopRequested,
    });
    return exitCodes.ok;
  } catch (error) {
    return await report(error, store, job);
  }
}

/** Turns what was thrown into a state, an event and an exit code. */
async function report(error: unknown, store: Store, job: JobFolder): Promise<number> {
  const message = messageOf(error);
  process.stderr.write(
    `${error instanceof InputError || error instanceof QualityError ? message : error instanceof Error ? error.stack : message}\n`,
  );
  if (error instanceof InterruptedError) {
    job.emit({ type: 'job.interrupted', attempt: job.attempt, reason: message });
    await job.flush();
    return exitCodes.interrupted;
  }
  if (error instanceof QualityError) return exitCodes.input;
  if (error instanceof TransientError) return exitCodes.transient;
  if (error instanceof StorageFullError) {
    // Room for the last words: what is half-written is of no use, and checkpoints may be large.
    for (const part of ['artifacts/', 'scratch/', 'checkpoints/']) await store.deletePrefix(job.prefix + part);
    const advice = 'Then create the job again; what it had made is removed.';
    const failure = { fault: 'user' as const, code: 'storage_full', message: `${message} ${advice}`, param: null };
    // Without room for even that, the exit code and stderr still tell the queue.
    await job.fail(failure).catch(() => undefined);
    return exitCodes.input;
  }
  if (error instanceof InputError) {
    await job.fail({ fault: 'user', code: error.code, message, param: error.param });
    return exitCodes.input;
  }
  await job.fail({ fault: 'service', code: 'internal', message, param: null });
  return exitCodes.bug;
}

/** @throws InputError unless it is absent or a number of at least 0 */
function checkpointGapMs(seconds: string | undefined): number | undefined {
  if (!seconds) return undefined;
  const value = Number(seconds);
  if (value >= 0 && Number.isFinite(value)) return value * 1000;
  const name = 'CHERRYQ_CHECKPOINT_SECONDS';
  const message = `${name} is "${seconds}"; it must be a number of seconds of at least 0, or absent for the default.`;
  throw new InputError('bad_setting', message, name);
}

function requiredVariable(name: string, example: string): string | null {
  const value = process.env[name];
  if (value) return value;
  process.stderr.write(
    `${name} is not set; it must be ${example}. The queue sets it; to compress by hand, use the cherryq command.\n`,
  );
  return null;
}
