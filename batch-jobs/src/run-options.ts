/** What every kind of job is run with. */
import { InterruptedError } from './errors.ts';
import type { JobFolder } from './job-folder.ts';
import type { Store } from './storage/store.ts';

export interface RunOptions {
  readonly store: Store;
  readonly job: JobFolder;
  /** Value of `CHERRYQ_ENGINE`. */
  readonly forcedEngine: string | undefined;
  /** Folder for what is only needed while the job runs, such as moments in a file. */
  readonly scratchFolder: string;
  /** Time between two checkpoints of training; default 3 s, or longer where saving takes long. */
  readonly checkpointGapMs?: number;
  /** Main memory of this process at its peak so far; absent where it also does other things. */
  readonly peakBytes?: () => number;
  /** Of a comparison, the one scheme that this worker is to try, from 1 on, beside others; absent: all that is to be done. */
  readonly schemeNumber?: number;
  /** True once the job should stop at the next safe point, with a checkpoint. */
  readonly stopRequested: () => boolean;
}

/** Lets signals and timers in first: a request to stop can only arrive while the event loop turns. */
export async function shouldStop(options: RunOptions): Promise<boolean> {
  await new Promise((resolve) => setImmediate(resolve));
  return options.stopRequested();
}

export const stopped = (): InterruptedError => new InterruptedError('stopped on request');
