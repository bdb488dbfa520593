/**
 * What the API needs from the machine it runs on. Two sets of adapters exist or are planned: a folder, child processes and
 * the system clock on one machine; a bucket, AWS Batch and API keys in a private install. The Store port is the trainer's.
 */
import type { KeyScope } from 'cherryq/contract';
export type { Store } from '@cherryq/batch-jobs/storage';

/** A job as the queue knows it. `prefix` is its folder in the store, without a slash at the end. */
export interface JobRef {
  tenant: string;
  id: string;
  prefix: string;
}

export interface Queue {
  /** Whether the schemes of a comparison are tried at once, each on a machine of its own; absent: one after the other on one. */
  readonly schemesAtOnce?: boolean;
  /** Takes a job to run once, sooner or later; a job that is already waiting or running is left as it is. */
  submit(job: JobRef): Promise<void>;
  /** Drops a waiting job or stops a running one. The caller has already made its state final. */
  cancel(job: JobRef): Promise<void>;
  /** The same with a job whose state the caller has made `paused`; `submit` takes it again. */
  pause(job: JobRef): Promise<void>;
  /** @throws when the queue cannot take jobs */
  check(): Promise<void>;
  /** Stops workers so that their jobs can go on later: asks, waits `graceMs`, then kills. */
  close(options: { graceMs: number }): Promise<void>;
}

export interface Clock {
  /** Milliseconds since 1970. */
  now(): number;
}

/** On whose behalf a request comes, and what it may do. */
export interface Caller {
  tenant: string;
  scope: KeyScope;
}

export interface Keys {
  /**
   * @param environment what the server's adapter knows of the request beside it, such as who the front says is calling
   * @throws ProblemError (401, 403) when the request may not come in
   */
  authenticate(request: Request, environment?: unknown): Promise<Caller>;
}

export interface LogEntry {
  level: 'info' | 'warning' | 'error';
  message: string;
  [field: string]: unknown;
}
export type Logger = (entry: LogEntry) => void;

/** An entry as one line of JSON, an error by its stack. */
export function logLine({ level, error, ...rest }: LogEntry): string {
  const cause = error instanceof Error ? { error: error.stack } : error === undefined ? {} : { error };
  return `${JSON.stringify({ time: new Date().toISOString(), level, ...rest, ...cause })}\n`;
}

export const systemClock: Clock = { now: () => Date.now() };

/** One machine, one user: every request is tenant `local`. */
export const localKeys: Keys = { authenticate: () => Promise.resolve({ tenant: localTenant, scope: 'admin' }) };
export const localTenant = 'local';
