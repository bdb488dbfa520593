/**
 * Which server a command talks to: the one it is told, by address or by profile, else the one that runs on the data folder,
 * else one inside this process for as long as the command takes.
 */
import { readFile, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { AuthenticationError, CherryQ, InputError } from '../index.ts';
import { UsageError } from './command.ts';
import { addressOf, checkApiKey, profileOf, readConfig } from './config.ts';
import { note, type Io } from './io.ts';
import { loadServer } from './packages.ts';

export const defaultDataDir = '.cherryq';

/** Flags of every command that needs a server. */
export const serverFlags = {
  server: {
    type: 'string',
    valueHint: 'URL',
    description: 'Server to use; else CHERRYQ_URL, else that of the profile, else the one of --data-dir',
  },
  profile: {
    type: 'string',
    valueHint: 'NAME',
    description: 'Server that `cherryq login` saved; else CHERRYQ_PROFILE, else the current one',
  },
  'data-dir': {
    type: 'string',
    valueHint: 'DIR',
    description: `Folder of the local server (default ${defaultDataDir})`,
  },
} as const;

/** What these flags were given. */
export interface ServerArgs {
  server?: string;
  profile?: string;
  'data-dir'?: string;
}

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
  args: ServerArgs;
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
  const remote = await findRemote(io, options.args);
  if (remote !== null) {
    const { url, apiKey, flags, login } = remote;
    const client = new CherryQ({ baseUrl: url, apiKey });
    return use({ client, kind: 'remote', recoveredJobs: 0, flags }).catch((error: unknown) => {
      throw error instanceof AuthenticationError ? withAdvice(error, login) : error;
    });
  }
  const dataDir = options.args['data-dir'] ?? defaultDataDir;
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
  args: ServerArgs,
  use: (client: CherryQ, signal: AbortSignal) => Promise<Result>,
): Promise<Result> {
  const signal = io.interrupted;
  return withServer(io, { args, concurrency: 0 }, ({ client }) => use(client, signal));
}

interface Remote {
  url: string;
  apiKey: string | undefined;
  /** As a connection's. */
  flags: string;
  /** Command that gives a key for it. */
  login: string;
}

/** @returns null for the data folder   @throws UsageError for flags that contradict each other, InputError for profiles */
async function findRemote(io: Io, args: ServerArgs): Promise<Remote | null> {
  const { CHERRYQ_URL, CHERRYQ_API_KEY, CHERRYQ_PROFILE } = io.env;
  const { server, profile, 'data-dir': dataDir } = args;
  if (profile !== undefined && (server !== undefined || dataDir !== undefined)) {
    const other = server === undefined ? '--data-dir' : '--server';
    throw new UsageError(`--profile and ${other} both name a server; give one of them`, '--profile');
  }
  const url = server ?? (CHERRYQ_URL || undefined);
  if (url !== undefined) {
    if (profile !== undefined) note(io, `CHERRYQ_URL is set and goes before --profile ${profile}`);
    const given = CHERRYQ_API_KEY ? checkApiKey(CHERRYQ_API_KEY, 'CHERRYQ_API_KEY') : undefined;
    const flags = ` --server ${shellQuote(url)}`;
    return { url, apiKey: given ?? (await savedKey(io, url)), flags, login: `cherryq login${flags}` };
  }
  const asked = profile ?? (dataDir === undefined ? CHERRYQ_PROFILE || undefined : undefined);
  if (asked === undefined && dataDir !== undefined) return null;
  const config = await readConfig(io.env);
  const name = asked ?? config.current;
  if (name === null) return null;
  const { server: saved, apiKey } = profileOf(config, name);
  const flags = ` --profile ${name}`;
  return { url: saved, apiKey: apiKey ?? undefined, flags, login: `cherryq login${flags}` };
}

/** The key that was saved for this very address. */
async function savedKey(io: Io, url: string): Promise<string | undefined> {
  if (!URL.canParse(url)) return undefined;
  const profiles = Object.values((await readConfig(io.env)).profiles);
  return profiles.find(({ server }) => addressOf(server) === addressOf(url))?.apiKey ?? undefined;
}

function withAdvice(error: AuthenticationError, login: string): AuthenticationError {
  const { status, code, param, requestId, retryable, cause } = error;
  return new AuthenticationError(`${error.message}; log in with: ${login}`, {
    status,
    code,
    param,
    requestId,
    retryable,
    cause,
  });
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
