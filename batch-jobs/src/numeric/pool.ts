/**
 * The threads of the process that work on weights in main memory, one pool for all. Arrays that a task reads or writes lie
 * in shared memory, so nothing is copied on the way. With one thread, or where the worker's file has not been built, tasks
 * run in line, with the same results.
 */
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { Piscina } from 'piscina';
import * as tasks from './host-worker.ts';

type Tasks = typeof tasks;
export type TaskName = keyof Tasks;

export interface HostPool {
  /** Into how many parts work should be divided. */
  readonly threads: number;
  /** Runs a task on a free thread.  @throws what the task throws */
  run<Name extends TaskName>(name: Name, args: Parameters<Tasks[Name]>[0]): Promise<ReturnType<Tasks[Name]>>;
}

let wantedThreads: number | undefined;
let pool: (HostPool & { readonly workers: Piscina | null }) | undefined;

/** Sets the number of threads; takes effect when called before the pool is first used or after it was closed. */
export function setHostThreads(threads: number): void {
  wantedThreads = threads;
}

export function hostPool(): HostPool {
  return (pool ??= createPool(wantedThreads ?? availableParallelism()));
}

/** Ends the threads; a later use starts new ones. */
export async function closeHostPool(): Promise<void> {
  const closing = pool;
  pool = undefined;
  await closing?.workers?.destroy();
}

function createPool(threads: number): HostPool & { readonly workers: Piscina | null } {
  const file = workerFile();
  if (threads < 2 || file === null) {
    return {
      threads: 1,
      workers: null,
      async run(name, args) {
        const task = tasks[name] as (args: unknown) => unknown;
        return task(args) as never;
      },
    };
  }
  const workers = new Piscina({ filename: file, minThreads: threads, maxThreads: threads, recordTiming: false });
  return { threads, workers, run: (name, args) => workers.run(args, { name }) as Promise<never> };
}

/** Path of the built worker; null where it has not been built. */
function workerFile(): string | null {
  // `import.meta.resolve` is missing where a loader has turned this file into CommonJS.
  const require = createRequire(import.meta.url);
  try {
    return require.resolve('@cherryq/batch-jobs/host-worker');
  } catch {
    return null;
  }
}

/** Zeros in shared memory, which every thread may read and write. */
export function sharedFloat32(length: number): Float32Array {
  return new Float32Array(new SharedArrayBuffer(4 * length));
}

/** The same values in shared memory. */
export function sharedCopy(values: Float32Array): Float32Array {
  const copy = sharedFloat32(values.length);
  copy.set(values);
  return copy;
}

export function sharedBytes(length: number): Uint8Array {
  return new Uint8Array(new SharedArrayBuffer(length));
}

export function isShared(values: ArrayBufferView): boolean {
  return values.buffer instanceof SharedArrayBuffer;
}
