/** What `compress` and `jobs wait` share: how Ctrl-C ends the following of a job, and what is said when it has ended. */
import { join } from 'node:path';
import type { AnalysisResult, ComparisonResult, EvaluationResult, Job, JobResult, Scheme } from 'cherryq/contract';
import { CherryQError, JobFailedError } from '../index.ts';
import type { Compression } from '../node.ts';
import {
  formatCount,
  formatSeconds,
  recoveredShare,
  renderAnalysis,
  renderComparison,
  renderEvaluation,
  renderResult,
  schemeLabel,
} from './format.ts';
import { Interrupted, note, print, type Io } from './io.ts';
import type { ProgressView } from './progress.ts';
import { shellQuote, type Connection } from './server.ts';

/** Runs `work`; an interruption, or a server that was lost, says how to go on if a job is there to go on with. */
export async function interruptible<Result>(
  io: Io,
  connection: Connection,
  progress: ProgressView,
  how: { jobId: () => string | null; out: string | undefined },
  work: () => Promise<Result>,
): Promise<Result> {
  try {
    return await work();
  } catch (error) {
    const id = how.jobId();
    const out = how.out === undefined ? '' : ` --out ${shellQuote(how.out)}`;
    const goOn = id === null ? null : `cherryq jobs wait ${id}${connection.flags}${out}`;
    if (io.interrupted.aborted) {
      if (goOn !== null && connection.kind === 'embedded') progress.note('stopping: the worker saves a checkpoint');
      throw new Interrupted(goOn);
    }
    if (goOn !== null && error instanceof CherryQError && error.retryable) note(io, `The job goes on with: ${goOn}`);
    if (id !== null && error instanceof JobFailedError && error.fault === 'quality')
      note(io, `What it made: cherryq jobs download ${id}${connection.flags}${out || ' --out DIR'}`);
    throw error;
  } finally {
    progress.end();
  }
}

export function printResult(io: Io, result: JobResult, scheme: Scheme): void {
  print(io, renderResult(result, scheme));
  const share = scheme.method === 'rtn' ? null : recoveredShare(result);
  print(io, '');
  if (share !== null) print(io, `Won back ${(share * 100).toFixed(0)} % of the perplexity that rounding loses.`);
  const trained = result.trainedTokens > 0 ? `, ${formatCount(result.trainedTokens)} tokens trained` : '';
  print(io, `Took ${formatSeconds(result.seconds)} on ${result.engine}${trained}.`);
}

/** What an ended job found, whatever its kind; nothing where it found nothing. */
export function printOutcome(io: Io, job: Job): void {
  if (job.result && job.scheme) printResult(io, job.result, job.scheme);
  if (job.analysisResult) printAnalysis(io, job.analysisResult);
  if (job.evaluationResult) printEvaluation(io, job.evaluationResult);
  if (job.comparisonResult) printComparison(io, job.comparisonResult);
}

export function printAnalysis(io: Io, result: AnalysisResult): void {
  print(io, renderAnalysis(result));
  print(io, '');
  print(io, `Took ${formatSeconds(result.seconds)} on ${result.engine}.`);
}

export function printEvaluation(io: Io, result: EvaluationResult): void {
  print(io, renderEvaluation(result));
  print(io, '');
  print(
    io,
    `Took ${formatSeconds(result.seconds)} on ${result.engine}, ${formatCount(result.evaluatedTokens)} tokens.`,
  );
}

export function printComparison(io: Io, result: ComparisonResult): void {
  print(io, renderComparison(result));
  print(io, '');
  for (const { scheme, error } of result.rows) if (error) print(io, `${schemeLabel(scheme)} failed: ${error.message}`);
  print(io, `Took ${formatSeconds(result.seconds)} on ${result.engine}. *: no other is both smaller and better.`);
}

export function printFolder(io: Io, { folder, manifest }: Pick<Compression, 'folder' | 'manifest'>): void {
  print(io, `Result: ${folder} (${manifest.files.length} files, listed with their SHA-256 in manifest.json)`);
  const report = manifest.files.find((file) => file.path.endsWith('report.html'));
  if (report) print(io, `Report: ${join(folder, report.path)}`);
}
