/** `cherryq open`: the report of a job, in the browser. */
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { hasEnded } from '../events.ts';
import { ConflictError, InputError, type CherryQ } from '../index.ts';
import { command } from './command.ts';
import { note, print, printJson, type Io } from './io.ts';
import { look, serverFlags } from './server.ts';

export const openCommand = (io: Io) =>
  command({
    name: 'cherryq open',
    summary: 'Open the report of an ended job in the browser',
    examples: [
      'cherryq open 01JZ8Q3V5X9Y2W4T6R8P0N1M3K',
      'cherryq open 01JZ8Q3V5X9Y2W4T6R8P0N1M3K --print --output report.html',
    ],
    args: {
      id: { type: 'positional', required: true, description: 'Id of the job' },
      output: { type: 'string', valueHint: 'FILE', description: 'Keep the report here; else in a temporary folder' },
      print: { type: 'boolean', description: 'Print where the report is and open nothing, as without a terminal' },
      ...serverFlags,
      json: { type: 'boolean', description: 'Print JSON, nothing else, and open nothing' },
    },
    async run(args) {
      const content = await look(io, args, (client, signal) => reportOf(client, args.id, signal));
      const file =
        args.output === undefined
          ? join(await mkdtemp(join(tmpdir(), 'cherryq-')), 'report.html')
          : resolve(args.output);
      await mkdir(dirname(file), { recursive: true });
      await writeWhole(file, content);
      if (args.json) return printJson(io, { jobId: args.id, report: file });
      if (args.print !== true && io.stdout.isTTY === true) {
        const failure = await openFile(file, io.env);
        if (failure === null) return note(io, `Opened ${file}`);
        note(io, `No browser could be opened (${failure}); the report is here:`);
      }
      print(io, file);
    },
  });

/** @throws InputError when the job has none */
async function reportOf(client: CherryQ, id: string, signal: AbortSignal): Promise<Uint8Array> {
  const job = await client.jobs.retrieve(id, { signal });
  if (!hasEnded(job))
    throw new InputError(
      'no_report',
      `job ${id} is ${job.status}; it has a report once it has ended: cherryq jobs wait ${id}`,
      'id',
    );
  const files = await client.artifacts.list(id, { signal }).catch((error: unknown) => {
    // It left nothing.
    if (error instanceof ConflictError) return [];
    throw error;
  });
  const report = files.find(({ path }) => path === 'report.html' || path.endsWith('/report.html'));
  if (report === undefined)
    throw new InputError(
      'no_report',
      `job ${id} is ${job.status} and has left no report${job.error === null ? '' : `: ${job.error.message}`}`,
      'id',
    );
  return client.artifacts.download(id, report.path, { signal });
}

async function writeWhole(file: string, content: Uint8Array): Promise<void> {
  const part = `${file}.${randomUUID()}.part`;
  try {
    await writeFile(part, content);
    await rename(part, file);
  } finally {
    await rm(part, { force: true });
  }
}

const openers: Partial<Record<NodeJS.Platform, (file: string) => [string, ...string[]]>> = {
  darwin: (file) => ['open', file],
  // `start` is a word of the shell; its first argument in quotes is the title of a window.
  win32: (file) => ['cmd', '/d', '/c', 'start', '""', `"${file}"`],
};

/** Some openers stay as long as the browser does. */
const patienceMs = 2000;

/** By the platform's own opener.  @returns why it failed, or null */
async function openFile(file: string, env: Io['env']): Promise<string | null> {
  const [program, ...args] = openers[process.platform]?.(file) ?? ['xdg-open', file];
  return new Promise((resolve) => {
    const opener = spawn(program, args, {
      env: { ...env },
      stdio: 'ignore',
      detached: true,
      windowsVerbatimArguments: true,
    });
    const timer = setTimeout(() => resolve(null), patienceMs);
    const end = (failure: string | null): void => {
      clearTimeout(timer);
      resolve(failure);
    };
    opener.once('error', (error) => end(error.message));
    opener.once('exit', (code) => end(code === 0 ? null : `${program} ended with ${code}`));
    opener.unref();
  });
}
