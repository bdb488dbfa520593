/**
 * Which server a command talks to: the one it is told, else the one that runs on the data folder, else one inside this
 * process for as long as the command takes.
 */
import { readFile, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { CherryQ, InputError } from '../index.ts';
import { note, type Io } from './io.ts';
import { loadServer } from './packages.ts';

export const defaultDataDir = '.cherryq';

/** Flags of every command that needs a server. */
export const serverFlags = {
  server: {
    type: 'string',
    valueHint: 'URL',
    description: 'Server to use; else CHERRYQ_URL, else the one of --data-dir',
  },
  'data-dir': {
    type: 'string',
    valueHint: 'DIR',
    description: `Folder of the local server (default ${defaultDataDir})`,
  },
} as const;

export interface Connection {
  client: CherryQ;
  /** `embedded`: it ends with this command. */
  kind: 'remote' | 'local' | 'embedded';
  /** Unfinished jobs that an embedded server found and goes on with. */
  recoveredJobs: number;
  /** Flags with which another command reaches the same jobs; begins with a space unless empty. */
  flags: string;
}

export interface ConnectOptions {
  server: string | undefined;
  dataDir: string | undefined;
  /** Jobs that an embedded server runs at once; 0 for commands that only look. */
  concurrency: number;
  /** Begin a data folder where there is none. Default: refuse, for there can be no jobs. */
  newDataDir?: boolean;
}

/** Finds or starts a server, lends it to `use`, and stops it if it was started here. */
export async function withServer<Result>(
  io: Io,
  options: ConnectOptions,
  use: (connection: Connection) => Promise<Result>,
): Promise<Result> {
  const remote = options.server ?? io.env.CHERRYQ_URL;
  if (remote) {
    const client = new CherryQ({ baseUrl: remote, apiKey: io.env.CHERRYQ_API_KEY });
    return use({ client, kind: 'remote', recoveredJobs: 0, flags: ` --server ${remote}` });
  }
  const dataDir = options.dataDir ?? defaultDataDir;
  const flags = dataDir === defaultDataDir ? '' : ` --data-dir ${shellQuote(dataDir)}`;
  const url = await findLocalServer(dataDir);
  if (url !== null) return use({ client: new CherryQ({ baseUrl: url }), kind: 'local', recoveredJobs: 0, flags });

  if (!options.newDataDir && (await stat(dataDir).catch(() => null)) === null)
    throw new InputError(
      'no_store',
      `${dataDir} does not exist and no server runs on it, so there are no jobs; give --data-dir or --server`,
      '--data-dir',
    );
  const { startServer } = await loadServer();
  const server = await startServer({
    storeFolder: resolve(dataDir),
    port: 0,
    concurrency: options.concurrency,
    // What happens to jobs is told by their events; here only what nobody else tells.
    logger: ({ level, message, error }) => {
      if (level !== 'info' && error !== undefined && !io.interrupted.aborted)
        note(io, `${level}: ${message}: ${String(error)}`);
    },
  });
  try {
    const client = new CherryQ({ baseUrl: server.url });
    return await use({ client, kind: 'embedded', recoveredJobs: server.recoveredJobs, flags });
  } finally {
    await server.close();
  }
}

/** The same for a command that starts no work of its own. */
export function look<Result>(
  io: Io,
  args: { server?: string; 'data-dir'?: string },
  use: (client: CherryQ, signal: AbortSignal) => Promise<Result>,
): Promise<Result> {
  const signal = io.interrupted;
  const options = { server: args.server, dataDir: args['data-dir'], concurrency: 0 };
  return withServer(io, options, ({ client }) => use(client, signal));
}

/** Address of the server that holds a data folder; null when none answers. */
async function findLocalServer(dataDir: string): Promise<string | null> {
  const startingUntil = Date.now() + 5000;
  for (;;) {
    const file = await readServerFile(join(dataDir, 'server.json'));
    if (file === null || !isAlive(file.pid)) return null;
    if (file.url !== null) {
      const client = new CherryQ({ baseUrl: file.url, timeoutMs: 2000, maxRetries: 0 });
      return client.health.live().then(
        () => file.url,
        () => null,
      );
    }
    if (Date.now() > startingUntil) return null;
    await sleep(100);
  }
}

async function readServerFile(path: string): Promise<{ pid: number; url: string | null } | null> {
  try {
    const value: unknown = JSON.parse(await readFile(path, 'utf8'));
    if (typeof value !== 'object' || value === null) return null;
    const { pid, url } = value as { pid?: unknown; url?: unknown };
    return typeof pid === 'number' ? { pid, url: typeof url === 'string' ? url : null } : null;
  } catch {
    return null;
  }
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM';
  }
}

/** A word as a shell takes it unchanged. */
export function shellQuote(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
