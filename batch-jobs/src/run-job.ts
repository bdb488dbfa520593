/**
 * A job, by its kind. Read `compress-job.ts` first: a job from its spec to its artifacts, top to bottom.
 *
 * Each kind is a file and a line here. Each ends with a report, a manifest that is written last, and a state that holds what was found.
 */
import type { JobKind } from 'cherryq/contract';
import { adoptCheckpoints } from './adopt-checkpoints.ts';
import { analyzeJob } from './analyze-job.ts';
import { compareJob } from './compare-job.ts';
import { compressJob } from './compress-job.ts';
import { evaluateJob } from './evaluate-job.ts';
import type { RunOptions } from './run-options.ts';

const kinds = {
  compress: compressJob,
  analyze: analyzeJob,
  evaluate: evaluateJob,
  compare: compareJob,
} satisfies Record<JobKind, (options: RunOptions) => Promise<void>>;

/** @throws InputError, QualityError, InterruptedError, or whatever a bug throws; the caller turns them into states and exit codes */
export async function runJob(options: RunOptions): Promise<void> {
  const { store, job } = options;
  await adoptCheckpoints(store, job);
  await kinds[job.spec.kind](options);
}
