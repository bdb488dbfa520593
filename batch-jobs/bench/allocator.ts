/**
 * The C library's settings that the queue and the container start workers with (api/src/adapters/process-queue.ts): freed
 * memory is kept, and large arrays lie in large pages. Our side of a suite is measured under them, the peers as their users
 * have them.
 */
import { spawnSync } from 'node:child_process';

const workerAllocator: Record<string, string> = {
  MALLOC_MMAP_MAX_: '0',
  MALLOC_TRIM_THRESHOLD_: String(2 ** 40),
  GLIBC_TUNABLES: 'glibc.malloc.hugetlb=1',
};

/** Starts this program again under the settings, unless it has them; does not return then. */
export function runAsWorkersDo(): void {
  if (Object.entries(workerAllocator).every(([name, value]) => process.env[name] === value)) return;
  const env = { ...process.env, ...workerAllocator };
  const { status } = spawnSync(process.execPath, process.argv.slice(1), { env, stdio: 'inherit' });
  process.exit(status ?? 1);
}

/** The environment without them. */
export function peerEnvironment(): Record<string, string | undefined> {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !(name in workerAllocator)));
}
