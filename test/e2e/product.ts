/** The product as people have it: `cherryq`, built, in processes of its own. `npm test` builds it before the tests run. */
import { spawn, type ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { join, relative } from 'node:path';

export const commandFile = fileURLToPath(new URL('../../sdk/bin/cherryq.js', import.meta.url));

/** What the tests' own surroundings say must not lead a command to another server. */
/** Without what whoever runs the tests is logged in to. */
const environment = {
  ...process.env,
  CHERRYQ_URL: undefined,
  CHERRYQ_API_KEY: undefined,
  CHERRYQ_PROFILE: undefined,
  XDG_CONFIG_HOME: '/nonexistent',
  NO_COLOR: '1',
};

export interface Ended {
  exitCode: number | null;
  stdout: string;
  stderr: string;
}

export interface StartedCommand {
  child: ChildProcess;
  /** What it has written so far. */
  output(): { stdout: string; stderr: string };
  ended: Promise<Ended>;
}

export interface CommandOptions {
  cwd?: string;
  env?: Record<string, string>;
  /** Makes it the leader of a process group, which a signal to `-pid` reaches as Ctrl-C on a terminal does. */
  detached?: boolean;
}

/** Starts a program and collects what it writes. */
export function start(program: string, args: readonly string[], options: CommandOptions = {}): StartedCommand {
  const { cwd, env, detached } = options;
  const child = spawn(program, args, {
    cwd,
    detached,
    env: { ...environment, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const written = { stdout: '', stderr: '' };
  child.stdout.setEncoding('utf8').on('data', (text: string) => (written.stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (written.stderr += text));
  const ended = once(child, 'close').then(([exitCode]) => ({ exitCode: exitCode as number | null, ...written }));
  return { child, output: () => written, ended };
}

export const startCherryq = (args: readonly string[], options?: CommandOptions): StartedCommand =>
  start(process.execPath, [commandFile, ...args], options);

/** Runs `cherryq` to its end. */
export const cherryq = (args: readonly string[], options?: CommandOptions): Promise<Ended> =>
  startCherryq(args, options).ended;

export interface ServerProcess {
  url: string;
  pid: number;
  /** Ctrl-C, and its exit code. */
  stop(): Promise<number | null>;
  /** kill -9 */
  kill(): Promise<void>;
}

/** `cherryq serve` on a data folder and any free port. */
export async function serve(dataDir: string, env: Record<string, string> = {}): Promise<ServerProcess> {
  const { child, output, ended } = startCherryq(['serve', '--port', '0', '--data-dir', dataDir, '--json'], { env });
  if (!child.stdout) throw new Error('the server has no stdout');
  const firstLine = once(createInterface({ input: child.stdout }), 'line').then(([line]) => String(line));
  const line = await Promise.race([firstLine, ended.then(() => null)]);
  if (line === null) throw new Error(`the server did not start: ${output().stderr}`);
  const { url, pid } = JSON.parse(line) as { url: string; pid: number };
  const signal = async (name: NodeJS.Signals): Promise<number | null> => {
    child.kill(name);
    return (await ended).exitCode;
  };
  return { url, pid, stop: () => signal('SIGINT'), kill: async () => void (await signal('SIGKILL')) };
}

/** Processes that a process has started and that are alive: the workers of a server. */
export async function childrenOf(pid: number): Promise<number[]> {
  const table = existsSync('/proc/self/stat') ? linuxProcesses() : await psProcesses();
  return table.filter((entry) => entry.parent === pid && !entry.dead).map((entry) => entry.pid);
}

interface ProcessEntry {
  pid: number;
  parent: number;
  /** Ended, but not yet looked after by its parent. */
  dead: boolean;
}

/** From /proc/<pid>/stat, whose second field may hold spaces: `pid (name) state parent ...` (proc_pid_stat(5)). */
function linuxProcesses(): ProcessEntry[] {
  return readdirSync('/proc').flatMap((name) => {
    try {
      const stat = readFileSync(`/proc/${Number.parseInt(name)}/stat`, 'utf8');
      const [state, parent] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      return [{ pid: Number(name), parent: Number(parent), dead: state === 'Z' }];
    } catch {
      return [];
    }
  });
}

async function psProcesses(): Promise<ProcessEntry[]> {
  const { stdout } = await start('ps', ['-A', '-o', 'pid=,ppid=,stat=']).ended;
  return stdout
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .map(([pid, parent, state = '']) => ({ pid: Number(pid), parent: Number(parent), dead: state.startsWith('Z') }));
}

export function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

/** Asks, every few milliseconds, until there is an answer.  @throws Error naming what was waited for */
export async function until<Value>(
  what: string,
  ask: () => Value | null | undefined | false | Promise<Value | null | undefined | false>,
  timeoutMs = 60_000,
): Promise<Value> {
  for (const end = Date.now() + timeoutMs; ; await sleep(5)) {
    const answer = await ask();
    if (answer !== null && answer !== undefined && answer !== false) return answer;
    if (Date.now() > end) throw new Error(`waited ${timeoutMs} ms in vain: ${what}`);
  }
}

/** Every file under a folder, also of one that is in use; none when there is no folder. */
export function pathsIn(folder: string): string[] {
  if (!existsSync(folder)) return [];
  const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  return files.map((entry) => relative(folder, join(entry.parentPath, entry.name))).sort();
}

/** SHA-256 of every file under a folder, by path. */
export function hashesOf(folder: string): Record<string, string> {
  const hashOf = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex');
  return Object.fromEntries(pathsIn(folder).map((path) => [path, hashOf(join(folder, path))]));
}
