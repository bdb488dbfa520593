/**
 * Brings the parts of an engine onto the disk through the user's own npm and pip, so that their registries, proxies and
 * certificates apply, and refuses what does not have the pinned hash.
 */
import { mkdir, readdir, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { InputError, TransientError } from '../../errors.ts';
import { lastWords, runProgram } from './command.ts';
import { hashFile } from './folder.ts';
import type { NpmRelease, WheelRelease } from './releases.ts';

export interface FetchProgress {
  (doneBytes: number, totalBytes: number): void;
}

const pollMs = 250;
const noNetwork =
  /connection (error|refused|reset|aborted|timed out)|connecttimeout|readtimeout|read timed out|max retries|newconnectionerror|name resolution|network is unreachable|proxyerror|ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|socket hang up|HTTP error 5\d\d|\b50[0234] /i;

/** @throws InputError when a file is not what was pinned: it is neither used nor kept */
export async function checkHash(path: string, what: string, expected: string): Promise<void> {
  const [algorithm, value] = expected.startsWith('sha512-')
    ? (['sha512', expected.slice(7)] as const)
    : (['sha256', expected] as const);
  const found = await hashFile(path, algorithm, algorithm === 'sha512' ? 'base64' : 'hex');
  if (found === value) return;
  throw new InputError(
    'wrong_hash',
    `${what} has the ${algorithm} ${found}, and must have ${value}: it is not the file that was published, and was not used. ` +
      'Look at which registry npm and pip are set to (npm config get registry, pip config list), and try again without a mirror.',
    what,
  );
}

/** Fetches a package as npm would install it, scripts not run.  @returns the folder it was unpacked to */
export async function fetchNpmPackage(
  release: NpmRelease,
  folder: string,
  environment: NodeJS.ProcessEnv,
): Promise<string> {
  const what = `${release.name}@${release.version}`;
  const downloads = join(folder, release.name.replaceAll(/[@/]/g, '_'));
  await mkdir(downloads, { recursive: true });
  const packed = await runProgram(
    'npm',
    ['pack', what, '--pack-destination', downloads, '--ignore-scripts', '--silent'],
    { env: environment },
  );
  if (packed.missing)
    throw new InputError(
      'npm_absent',
      `npm is needed to fetch ${what}, and is not on the PATH. Install Node.js with npm.`,
      'npm',
    );
  if (packed.exitCode !== 0) throw downloadError(what, 'npm', packed.output);
  const file = (await readdir(downloads)).find((name) => name.endsWith('.tgz'));
  if (file === undefined) throw downloadError(what, 'npm', packed.output);
  await checkHash(join(downloads, file), what, release.integrity);
  await must('tar', ['-xzf', join(downloads, file), '-C', downloads], `unpacking ${what}`, environment);
  return join(downloads, 'package');
}

/**
 * Fetches a wheel for Linux x64. The Python that runs pip may be of any version: the wheel's is asked for by name.
 * @param python a program from `findPip`   @returns path of the wheel
 */
export async function fetchWheel(
  release: WheelRelease,
  python: string,
  folder: string,
  environment: NodeJS.ProcessEnv,
  onProgress: FetchProgress = () => undefined,
): Promise<string> {
  const what = `${release.project} ${release.version}`;
  const downloads = join(folder, release.project);
  const temporary = join(downloads, 'temporary');
  await mkdir(temporary, { recursive: true });
  const platforms = ['manylinux_2_17_x86_64', 'manylinux2014_x86_64', 'manylinux2010_x86_64', 'manylinux1_x86_64'];
  const args = [
    ...['-m', 'pip', 'download', '--no-deps', '--disable-pip-version-check', '--no-input', '--progress-bar', 'off'],
    ...['--only-binary=:all:', '--python-version', '3.11', ...platforms.flatMap((name) => ['--platform', name])],
    ...['--dest', downloads, `${release.project}==${release.version}`],
  ];
  // pip writes below TMPDIR until the file is whole: how far it is can be seen there.
  const poll = setInterval(() => {
    void largestWheel(downloads).then((sizeBytes) =>
      onProgress(Math.min(sizeBytes, release.sizeBytes - 1), release.sizeBytes),
    );
  }, pollMs);
  const result = await runProgram(python, args, { env: { ...environment, TMPDIR: temporary } }).finally(() =>
    clearInterval(poll),
  );
  if (result.exitCode !== 0) throw downloadError(what, 'pip', result.output);
  const file = (await readdir(downloads)).find((name) => name.endsWith('.whl'));
  if (file === undefined) throw downloadError(what, 'pip', result.output);
  onProgress(release.sizeBytes, release.sizeBytes);
  await checkHash(join(downloads, file), what, release.sha256);
  return join(downloads, file);
}

/** @returns bytes of the largest wheel anywhere below the folder; 0 without one */
async function largestWheel(folder: string): Promise<number> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => []);
  const sizes = entries
    .filter((entry) => entry.isFile() && entry.name.endsWith('.whl'))
    .map((entry) =>
      stat(join(entry.parentPath, entry.name)).then(
        ({ size }) => size,
        () => 0,
      ),
    );
  return Math.max(0, ...(await Promise.all(sizes)));
}

const unzip = `
import fnmatch, sys, zipfile
wheel, folder, *wanted = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        if not name.endswith('/') and any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted):
            archive.extract(name, folder)
`;

/** Unpacks the wanted files of a wheel, and removes nothing.  @param python a program from `findPip` */
export async function unpackWheel(
  wheel: string,
  release: WheelRelease,
  python: string,
  folder: string,
  environment: NodeJS.ProcessEnv,
): Promise<void> {
  const what = `unpacking ${release.project} ${release.version}`;
  await must(python, ['-c', unzip, wheel, folder, ...release.wanted], what, environment);
}

/** The first Python that has pip: `CHERRYQ_PYTHON`, `python3`, `python`.  @throws InputError saying what to install */
export async function findPip(environment: NodeJS.ProcessEnv): Promise<string> {
  const candidates = environment.CHERRYQ_PYTHON ? [environment.CHERRYQ_PYTHON] : ['python3', 'python'];
  let without: string | null = null;
  for (const python of candidates) {
    const { exitCode, missing } = await runProgram(python, ['-m', 'pip', '--version'], { env: environment });
    if (exitCode === 0) return python;
    if (!missing) without ??= python;
  }
  if (without === null)
    throw new InputError(
      'python_absent',
      `Python 3 is needed to fetch the TensorFlow wheel, and ${candidates.join(' or ')} was not found. Install it ` +
        '(Debian and Ubuntu: apt install python3 python3-pip), or name it in CHERRYQ_PYTHON.',
      'CHERRYQ_PYTHON',
    );
  throw new InputError(
    'pip_absent',
    `${without} has no pip, which fetches the TensorFlow wheel. Install it (Debian and Ubuntu: apt install python3-pip; ` +
      `elsewhere: ${without} -m ensurepip), or name a Python that has it in CHERRYQ_PYTHON.`,
    'CHERRYQ_PYTHON',
  );
}

/** @throws InputError when the file system has not that much room */
export async function checkRoom(folder: string, neededBytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(folder);
  const freeBytes = bavail * bsize;
  if (freeBytes >= neededBytes) return;
  const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(1)} GB`;
  throw new InputError(
    'disk_full',
    `Making the engine takes ${gigabytes(neededBytes)} in ${folder}, and ${gigabytes(freeBytes)} are free. Make room, or ` +
      'choose another folder with CHERRYQ_ENGINE_DIR.',
    'CHERRYQ_ENGINE_DIR',
  );
}

function downloadError(what: string, program: 'npm' | 'pip', output: string): Error {
  const said = lastWords(output);
  if (/No space left|ENOSPC|EDQUOT/.test(output))
    return new InputError(
      'disk_full',
      `${program} had no room for ${what}: ${said}. Make room, or set CHERRYQ_ENGINE_DIR.`,
      what,
    );
  if (noNetwork.test(output))
    return new TransientError(
      `${program} could not reach its registry for ${what}: ${said}. Look at the network, and try again.`,
    );
  const config = program === 'npm' ? 'npm config get registry' : 'pip config list';
  return new InputError(
    'download_failed',
    `${program} could not fetch ${what}: ${said}. Look at which registry it is set to (${config}).`,
    what,
  );
}

/** @throws InputError when a program that does a step is missing or fails */
async function must(program: string, args: string[], what: string, env: NodeJS.ProcessEnv): Promise<void> {
  const { exitCode, missing, output } = await runProgram(program, args, { env });
  if (exitCode === 0) return;
  if (missing)
    throw new InputError('program_absent', `${what} needs ${program}, which is not on the PATH. Install it.`, program);
  const advice = /No space left|ENOSPC|EDQUOT/.test(output) ? ' Make room, or set CHERRYQ_ENGINE_DIR.' : '';
  throw new InputError('unpack_failed', `${what} failed: ${lastWords(output)}.${advice}`, program);
}
