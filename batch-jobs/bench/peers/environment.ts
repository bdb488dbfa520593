/** The Python that peers run in: one of their own, made on first use and kept for the next run. */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, rename, rm } from 'node:fs/promises';
import { homedir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { messageOf } from '../../src/errors.ts';

const run = promisify(execFile);

/** Versions that the figures in the docs were measured against. */
export const peerPackages = {
  numpy: 'numpy==2.4.6',
  torch: 'torch==2.13.0',
  safetensors: 'safetensors==0.8.0',
} as const;

/** PyTorch's own index has the build without CUDA, a tenth of the size. */
const torchIndex = 'https://download.pytorch.org/whl/cpu';

/**
 * Path of a Python that has the peers' packages. `CHERRYQ_BENCH_PYTHON` names one that has them already.
 * @throws Error saying what is missing when none can be made
 */
export function peerPython(): Promise<string> {
  return pythonWith(Object.values(peerPackages), { kept: 'bench', given: 'CHERRYQ_BENCH_PYTHON' });
}

/**
 * Path of a Python that has packages, in an environment of its own that is made once.
 * @param packages with their versions   @param kept folder of the cache   @param given variable that may name a Python that has them
 * @throws Error saying what is missing when none can be made
 */
export async function pythonWith(
  packages: readonly string[],
  { kept, given }: { readonly kept: string; readonly given: string },
): Promise<string> {
  const named = process.env[given];
  if (named) return named;
  const cache = path.join(process.env.XDG_CACHE_HOME ?? path.join(homedir(), '.cache'), 'cherryq', kept);
  const folder = path.join(cache, packages.join('+').replace(/[^\w.+-]+/g, '-'));
  const python = path.join(folder, 'bin', 'python');
  if (existsSync(python)) return python;
  console.error(`Installing ${packages.join(', ')} (once) ...`);
  // Under a name of its own, so that two that begin at the same time do not disturb each other.
  const making = `${folder}.${process.pid}`;
  await mkdir(cache, { recursive: true });
  try {
    await run('python3', ['-m', 'venv', making]);
    const pip = ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', ...packages];
    const install = (...more: string[]): Promise<unknown> => run(path.join(making, 'bin', 'python'), [...pip, ...more]);
    // The plain index is asked when PyTorch's own cannot be reached.
    if (!packages.includes(peerPackages.torch)) await install();
    else await install('--extra-index-url', torchIndex).catch(() => install());
    await rename(making, folder).catch((error: unknown) => {
      if (!existsSync(python)) throw error;
    });
  } catch (error) {
    throw new Error(
      `A Python with ${packages.join(', ')} could not be made: ${messageOf(error)}. Install python3 with venv, or set ${given} to a Python that has them.`,
      { cause: error },
    );
  } finally {
    await rm(making, { recursive: true, force: true });
  }
  return python;
}
