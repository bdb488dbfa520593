/**
 * The queue of one machine: each job runs in a child process, first come, first served. The child speaks to nobody but the
 * store; what it did is read from the job's state log, and how it ended from its exit code (`exitCodes` in the contract).
 *
 *     0   done            the state is final; if it is not, that is a bug
 *     1   bug             failed, with the end of what it wrote to stderr
 *     2   input           failed; the worker wrote why
 *     3   transient       again after a pause
 *     75  interrupted     again
 *     killed by a signal  again at once
 *
 * "Again" ends when so many attempts in a row saved no new checkpoint. Nothing is kept in memory that the store does not
 * say, so `recover` finds every unfinished job after the server itself was killed. A worker of a dead server may then still
 * be alive for a moment: attempts are numbered in the state log, and only the newest may publish.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { createRequire } from 'node:module';
import { setTimeout as sleep } from 'node:timers/promises';
import { exitCodes } from 'cherryq/contract';
import { InputError } from '@cherryq/batch-jobs/storage';
import {
  checkpointKeys,
  failJob,
  finishJob,
  givenUp,
  hasNewCheckpoint,
  meaningOf,
  noteInterruption,
  type Exit,
} from '../attempt-end.ts';
import { forgetJob, jobRef, openPrefix, readLatestState, readSpec } from '../job-log.ts';
import { listNames } from '../list-keys.ts';
import type { Clock, JobRef, Logger, Queue, Store } from '../ports.ts';

export interface ProcessQueueOptions {
  store: Store;
  /** Where the worker opens the same store. */
  storeUrl: string;
  clock: Clock;
  logger: Logger;
  /** Jobs that run at the same time; a native engine uses all cores, WebAssembly one for each job. */
  concurrency?: number;
  /** Program of the worker; default: the trainer of this installation. */
  trainerEntry?: string;
  /** From the request to stop until the kill. */
  graceMs?: number;
  /** Pause before the first retry of a transient error; doubles each time. */
  backoffMs?: number;
}

export interface ProcessQueue extends Queue {
  /** Submits every unfinished job, of each tenant the oldest first. Call once, at start. @returns how many */
  recover(): Promise<number>;
}

/** Attempts in a row, without a new checkpoint, after which a job has failed. */
const maxFruitlessAttempts = 5;
const stderrTailBytes = 4096;

interface Run {
  job: JobRef;
  child: ChildProcess | null;
  /** Asked to stop: cancelled, or the queue closes. */
  stop: AbortController;
}

export function createProcessQueue(options: ProcessQueueOptions): ProcessQueue {
  const { store, storeUrl, clock, logger } = options;
  const { concurrency = 1, trainerEntry = installedTrainer(), graceMs = 10_000, backoffMs = 1000 } = options;
  /** By prefix, first come first. */
  const waiting = new Map<string, JobRef>();
  const running = new Map<string, Run>();
  const ends = new Set<Promise<void>>();
  const closing = new AbortController();

  function startNext(): void {
    while (!closing.signal.aborted && running.size < concurrency) {
      // One that was paused and resumed may wait while its last worker is still stopping.
      const job = [...waiting.values()].find(({ prefix }) => !running.has(prefix));
      if (job === undefined) return;
      waiting.delete(job.prefix);
      const run: Run = { job, child: null, stop: new AbortController() };
      running.set(job.prefix, run);
      const end = persist(run).finally(() => {
        running.delete(job.prefix);
        ends.delete(end);
        startNext();
      });
      ends.add(end);
    }
  }

  /** Works on a job; when the store fails (a full disk, say), the job must not be left without anyone to go on, or to finish it. */
  async function persist(run: Run): Promise<void> {
    const { signal } = closing;
    do {
      try {
        return await work(run);
      } catch (error) {
        logger({ level: 'error', message: `job ${run.job.id}: the queue cannot go on now and will try again`, error });
        await sleep(backoffMs * 5, undefined, { signal }).catch(() => undefined);
      }
    } while (!signal.aborted);
  }

  /** Runs a job until it has ended or the queue is asked to stop it. */
  async function work(run: Run): Promise<void> {
    const { job, stop } = run;
    let fruitless = 0;
    while (!(await isOver(job)) && !stop.signal.aborted) {
      const before = await checkpointKeys(store, job);
      const exit = await attempt(run);
      if (await isOver(job)) return;

      const end = meaningOf(exit);
      logger({ level: end.again ? 'warning' : 'error', message: `job ${job.id}: ${end.error.message}`, ...exit });
      if (!end.again) {
        await failJob(store, job, clock, end.error);
        continue;
      }
      if (stop.signal.aborted) return noteInterruption(store, job, clock, 'the server was asked to stop');

      fruitless = (await hasNewCheckpoint(store, job, before)) ? 0 : fruitless + 1;
      if (fruitless === maxFruitlessAttempts) {
        await failJob(store, job, clock, givenUp(end.error, fruitless));
        continue;
      }
      await noteInterruption(store, job, clock, end.error.message);
      if (exit.code === exitCodes.transient)
        await sleep(backoffMs * 2 ** Math.max(0, fruitless - 1), undefined, { signal: stop.signal }).catch(
          () => undefined,
        );
    }
  }

  /** Whether a job has ended, or waits to be resumed. */
  async function isOver(job: JobRef): Promise<boolean> {
    return (await readLatestState(store, job))?.status === 'paused' || (await finishJob(store, job, clock));
  }

  /** One life of a worker. */
  function attempt(run: Run): Promise<Exit> {
    return new Promise((resolve) => {
      const child = spawn(process.execPath, [trainerEntry], {
        env: { ...workerEnvironment(), CHERRYQ_STORE: storeUrl, CHERRYQ_JOB: run.job.prefix },
        // The channel is how a worker notices that the server has died.
        stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
        windowsHide: true,
      });
      let stderr = Buffer.alloc(0);
      child.stderr?.on('data', (chunk: Buffer) => {
        stderr = Buffer.concat([stderr, chunk]).subarray(-stderrTailBytes);
      });
      // No process could be made; that may pass.
      child.once('error', (error) => resolve({ code: exitCodes.transient, signal: null, stderr: error.message }));
      child.once('close', (code, signal) => {
        run.child = null;
        resolve({ code, signal, stderr: withoutSecrets(stderr.toString('utf8')).trim() });
      });
      run.child = child;
      if (run.stop.signal.aborted) terminate(child, graceMs);
    });
  }

  /** @returns whether it has a worker, which stops now */
  function stopJob(job: JobRef): boolean {
    waiting.delete(job.prefix);
    const run = running.get(job.prefix);
    if (run) halt(run, graceMs);
    return run !== undefined;
  }

  function halt(run: Run, killAfterMs: number): void {
    run.stop.abort();
    if (run.child) terminate(run.child, killAfterMs);
  }

  const queue: ProcessQueue = {
    submit(job) {
      if (running.get(job.prefix)?.stop.signal.aborted !== false) waiting.set(job.prefix, job);
      startNext();
      return Promise.resolve();
    },

    async cancel(job) {
      if (!stopJob(job)) await finishJob(store, job, clock);
    },

    pause(job) {
      stopJob(job);
      return Promise.resolve();
    },

    check: () => Promise.resolve(),

    async close({ graceMs: killAfterMs }) {
      closing.abort();
      waiting.clear();
      for (const run of running.values()) halt(run, killAfterMs);
      await Promise.all(ends);
    },

    async recover() {
      let count = 0;
      for (const tenant of await store.folders('tenants/')) {
        for await (const id of listNames(store, openPrefix(tenant))) {
          const job = jobRef(tenant, id);
          const spec = await readSpec(store, job);
          // Its creation broke off, and nobody is at it: the folder has one server.
          if (spec === null) await forgetJob(store, job);
          if (spec === null || (await isOver(job))) continue;
          await noteInterruption(store, job, clock, 'the server was stopped');
          await queue.submit(job);
          count++;
        }
      }
      return count;
    },
  };
  return queue;
}

/** Asks a worker to stop, then makes it. */
function terminate(child: ChildProcess, killAfterMs: number): void {
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), killAfterMs);
  child.once('close', () => clearTimeout(timer));
}

/** What programs, Node.js and the trainer's engines read. Nothing else, so that a crash report holds no secret of ours. */
const inherited =
  /^(PATH|HOME|XDG_CACHE_HOME|USERPROFILE|TMPDIR|TEMP|TMP|LANG|LC_\w+|TZ|SYSTEMROOT|NODE_OPTIONS|LD_LIBRARY_PATH|GLIBC_TUNABLES|(CHERRYQ|TF|CUDA|NVIDIA|OMP|MALLOC)_\w+)$/i;

/**
 * Has glibc keep the memory that tensors of a native engine leave, instead of handing it back and taking fresh pages for the
 * next ones, and lay large arrays in large pages: together about a fifth of the time of a large model's step. The
 * container's image sets the same. Other C libraries do not read them.
 */
const allocator = {
  MALLOC_MMAP_MAX_: '0',
  MALLOC_TRIM_THRESHOLD_: String(2 ** 40),
  GLIBC_TUNABLES: 'glibc.malloc.hugetlb=1',
};

function workerEnvironment(): Record<string, string | undefined> {
  const taken = Object.entries(process.env).filter(([name]) => inherited.test(name));
  return { ...allocator, ...Object.fromEntries(taken) };
}

function withoutSecrets(text: string): string {
  return text.replaceAll(
    /\b(authorization|api[-_]?key|token|secret|password)(["']?\s*[:=]\s*)\S+(\s+\S{16,})?/gi,
    '$1$2[removed]',
  );
}

/** @throws InputError when the trainer is not installed or not built */
function installedTrainer(): string {
  try {
    return createRequire(import.meta.url).resolve('@cherryq/batch-jobs/main');
  } catch (cause) {
    throw new InputError(
      'no_trainer',
      'the trainer was not found, so no job could run: @cherryq/batch-jobs is not installed or, in a checkout, not built. Run npm ci, or npm run build',
      'trainerEntry',
      { cause },
    );
  }
}
