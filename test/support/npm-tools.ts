/** Programs from npm that are too large to be installed with the project: each is installed on first use and kept. */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

/**
 * @param name package and version, such as `deno@2.9.6`
 * @returns the folder whose `node_modules` has it   @throws Error when npm cannot install it
 */
export async function npmTool(name: string): Promise<string> {
  const cache = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'cherryq', 'npm');
  const folder = join(cache, name.replace(/[^\w.-]+/g, '-'));
  if (existsSync(folder)) return folder;
  console.log(`Installing ${name} (once) ...`);
  // Under a name of its own, so that two that begin at the same time do not disturb each other.
  const making = `${folder}.${process.pid}`;
  await mkdir(making, { recursive: true });
  try {
    await writeFile(join(making, 'package.json'), '{"private": true}');
    await run('npm', ['install', '--no-audit', '--no-fund', '--loglevel=error', name], { cwd: making });
    await rename(making, folder).catch((error: unknown) => {
      if (!existsSync(folder)) throw error;
    });
  } finally {
    await rm(making, { recursive: true, force: true });
  }
  return folder;
}
