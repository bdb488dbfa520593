/** A headless Chromium: the machine's own, or the one that npm has (`@sparticuz/chromium`), with the libraries it needs. */
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';
import { npmTool } from './npm-tools.ts';

const names = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome-headless-shell'];

/** Opens a page.  @returns what ends it   @throws Error when no Chromium can be had */
export async function openPage(url: string): Promise<{ ended: Promise<string>; close(): Promise<void> }> {
  const { path, environment } = await findChromium();
  const profile = await mkdtemp(join(tmpdir(), 'cherryq-chromium-'));
  const flags = ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-dev-shm-usage'];
  const browser = spawn(path, [...flags, `--user-data-dir=${profile}`, url], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, ...environment },
    // Its processes are a group, which ends with it.
    detached: true,
  });
  return {
    ended: lastWords(browser),
    async close() {
      if (browser.pid !== undefined && browser.exitCode === null) process.kill(-browser.pid, 'SIGKILL');
      await rm(profile, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}

async function lastWords(browser: ChildProcess): Promise<string> {
  let said = '';
  browser.stderr?.on('data', (chunk: Buffer) => (said = (said + chunk.toString()).slice(-2000)));
  return new Promise((resolve) => {
    browser.on('error', (error) => resolve(error.message));
    browser.on('exit', (code) => resolve(`it ended with ${code}: ${said}`));
  });
}

async function findChromium(): Promise<{ path: string; environment: Record<string, string> }> {
  const given = process.env.CHERRYQ_CHROMIUM;
  if (given) return { path: given, environment: {} };
  for (const folder of (process.env.PATH ?? '').split(delimiter))
    for (const name of names) if (existsSync(join(folder, name))) return { path: join(folder, name), environment: {} };
  // It unpacks itself and, told that it is on Lambda, the libraries that a bare machine lacks.
  const folder = await npmTool('@sparticuz/chromium@153.0.0');
  const script = "console.log(await (await import('@sparticuz/chromium')).default.executablePath())";
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '--eval', script], {
    cwd: folder,
    env: { ...process.env, AWS_EXECUTION_ENV: 'AWS_Lambda_nodejs22.x' },
  });
  const libraries = join(tmpdir(), 'al2023', 'lib');
  return { path: stdout.trim(), environment: { LD_LIBRARY_PATH: libraries, FONTCONFIG_PATH: join(tmpdir(), 'fonts') } };
}
