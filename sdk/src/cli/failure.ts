/** What was thrown, as an exit code and a sentence: the four kinds of end. */
import { exitCodes } from 'cherryq/contract';
import { CherryQError, ConnectionError, IntegrityError, JobFailedError, TimeoutError } from '../index.ts';
import { UsageError } from './command.ts';
import { Interrupted } from './io.ts';

/** A shell's code for a program that Ctrl-C ended, when there is nothing to go on with. */
export const nothingStarted = 130;

export interface Failure {
  exitCode: number;
  code: string;
  message: string;
  param: string | null;
  requestId: string | null;
  /** Command that goes on with what was interrupted. */
  goOn: string | null;
}

export function failureOf(error: unknown): Failure {
  const message = error instanceof Error ? error.message : String(error);
  const base = { param: null, requestId: null, goOn: null, message };
  if (error instanceof Interrupted)
    return {
      ...base,
      exitCode: error.goOn === null ? nothingStarted : exitCodes.interrupted,
      code: 'interrupted',
      goOn: error.goOn,
    };
  if (error instanceof UsageError) return { ...base, exitCode: exitCodes.input, code: 'usage', param: error.param };
  if (error instanceof CherryQError)
    return { ...base, exitCode: exitCodeOf(error), code: error.code, param: error.param, requestId: error.requestId };
  if (error instanceof Error) {
    const code = 'code' in error && typeof error.code === 'string' ? error.code : null;
    const param = 'param' in error && typeof error.param === 'string' ? error.param : null;
    // Errors of the server and the trainer in this process: their classes are told by name, as packages load apart.
    if (error.name === 'InputError') return { ...base, exitCode: exitCodes.input, code: code ?? 'input', param };
    if (error.name === 'StorageFullError') return { ...base, exitCode: exitCodes.input, code: 'storage_full' };
    if (error.name === 'TransientError') return { ...base, exitCode: exitCodes.transient, code: code ?? 'transient' };
    const advice = code === null ? undefined : diskErrors[code];
    if (code !== null && advice !== undefined)
      return { ...base, exitCode: exitCodes.input, code, message: `${error.message}; ${advice}` };
    return { ...base, exitCode: exitCodes.bug, code: code ?? 'bug', message: error.stack ?? error.message };
  }
  return { ...base, exitCode: exitCodes.bug, code: 'bug' };
}

function exitCodeOf(error: CherryQError): number {
  if (error instanceof JobFailedError) return error.fault === 'service' ? exitCodes.bug : exitCodes.input;
  if (error instanceof ConnectionError || error instanceof TimeoutError || error instanceof IntegrityError)
    return exitCodes.transient;
  const { status, code, retryable } = error;
  if (code === 'storage_full') return exitCodes.input;
  if (status === null) return error.name === 'InputError' ? exitCodes.input : exitCodes.bug;
  if (status < 400) return exitCodes.bug;
  if (status < 500) return retryable ? exitCodes.transient : exitCodes.input;
  return [502, 503, 504].includes(status) ? exitCodes.transient : exitCodes.bug;
}

/** Errors of the system about a file that its user can mend. */
const diskErrors: Record<string, string> = {
  ENOSPC: 'the disk is full: make room, or choose another folder',
  EDQUOT: 'your quota is used up: make room, or choose another folder',
  EACCES: 'you may not use it: change its permissions, or choose another',
  EPERM: 'you may not use it: change its permissions, or choose another',
  EROFS: 'the disk is read-only: choose another folder',
  ENOTDIR: 'a folder was expected: check the path',
  EISDIR: 'a file was expected: check the path',
  ENOENT: 'check the path',
};
