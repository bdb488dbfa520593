/** The Python that peers run in: one of their own, made on first use and kept for the next run. */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, rename, rm } from 'node:fs/promises';
import { homedir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';

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
export async function peerPython(): Promise<string> {
  const given = process.env.CHERRYQ_BENCH_PYTHON;
  if (given) return given;
  const cache = path.join(process.env.XDG_CACHE_HOME ?? path.join(homedir(), '.cache'), 'cherryq', 'bench');
  const wanted = Object.values(peerPackages);
  const folder = path.join(cache, wanted.join('+').replaceAll('==', '-'));
  const python = path.join(folder, 'bin', 'python');
  if (existsSync(path.join(folder, 'complete'))) return python;
  console.error(`Installing ${wanted.join(', ')} for the peer (once) ...`);
  await rm(folder, { recursive: true, force: true });
  await mkdir(cache, { recursive: true });
  try {
    await run('python3', ['-m', 'venv', folder]);
    const install = [python, ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', ...wanted]] as const;
    // The plain index is asked when PyTorch's own cannot be reached.
    await run(install[0], [...install[1], '--extra-index-url', torchIndex]).catch(() => run(install[0], install[1]));
    await mkdir(path.join(folder, 'complete.partial'));
    await rename(path.join(folder, 'complete.partial'), path.join(folder, 'complete'));
  } catch (error) {
    throw new Error(
      `The peer's Python could not be made: ${error instanceof Error ? error.message : String(error)}. Install python3 with venv, or set CHERRYQ_BENCH_PYTHON to a Python that has ${wanted.join(', ')}.`,
      { cause: error },
    );
  }
  return python;
}
