/**
 * The local server: the API on loopback over a folder and child processes. One server per folder, held by `server.json` in
 * it, which also tells other programs its address. On loopback it asks for no key, and only answers requests that name this
 * machine: a page of the web cannot reach it under another name (DNS rebinding) or by a form. Elsewhere it asks for one.
 */
import { createAdaptorServer } from '@hono/node-server';
import { Server } from 'node:http';
import { mkdir } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import type { KeyScope, Limits } from 'cherryq/contract';
import { InputError, openStore } from '@cherryq/batch-jobs/storage';
import { createProcessQueue } from './adapters/process-queue.ts';
import { createApp } from './app.ts';
import type { Api } from './openapi.ts';
import { createKeyring, keyOf, keyringKeys, type Keyring } from './keyring.ts';
import { localKeys, localTenant, logLine, systemClock, type Keys, type LogEntry, type Logger } from './ports.ts';
import { ProblemError } from './problems.ts';
import { everyNetwork } from './webhook-call.ts';
import { createServices, defaultAbandonedDays, deleteOld, removeLeftovers, type Services } from './services.ts';
import { sourceSettings } from './sources.ts';
import { holdFolder } from './server-file.ts';
import packageJson from '../package.json' with { type: 'json' };

export { serverFileName } from './server-file.ts';
export { InputError } from '@cherryq/batch-jobs/storage';
export type { Logger, LogEntry } from './ports.ts';

export const defaultPort = 7433;
/** Requests that are under way when the server closes have so long to end. */
const drainMs = 2000;
const sweepEveryMs = 3_600_000;
const deliverEveryMs = 1000;

export interface ServeOptions {
  /** Folder of the store; made if it is not there. */
  storeFolder: string;
  /** 0: any free port. */
  port?: number;
  host?: string;
  /** Jobs that run at the same time. */
  concurrency?: number;
  /** Jobs that ended so many days ago are deleted; default: they are kept. */
  retentionDays?: number | null;
  /** Uploads that were begun so many days ago and are not ready are deleted; default 7. */
  abandonedDays?: number;
  /** What each tenant may use that has no limits of its own; default: as much as there is. */
  limits?: Partial<Limits>;
  /** Program of the worker; default: the installed trainer. */
  trainerEntry?: string;
  /** From the request to stop a worker until it is killed. */
  graceMs?: number;
  /** Default: warnings and errors as JSON lines on stderr. */
  logger?: Logger;
}

export interface RunningServer {
  /** Such as `http://127.0.0.1:7433`. */
  url: string;
  app: Api;
  /** Unfinished jobs that were found and go on. */
  recoveredJobs: number;
  /** Lets workers save a checkpoint and stops; their jobs go on with the next start. */
  close(): Promise<void>;
}

/**
 * Starts the server and goes on with the jobs that an earlier one left.
 * @throws InputError `not_loopback`, `folder_in_use`, `port_taken`, `no_trainer`
 */
export async function startServer(options: ServeOptions): Promise<RunningServer> {
  const {
    port = defaultPort,
    host = '127.0.0.1',
    graceMs = 10_000,
    logger = logToStderr,
    retentionDays = null,
    abandonedDays = defaultAbandonedDays,
    limits,
  } = options;
  const isOpen = !isLoopback(host);
  const storeFolder = resolve(options.storeFolder);
  await mkdir(storeFolder, { recursive: true });
  const hold = await holdFolder(storeFolder);
  const stop = new AbortController();
  try {
    const storeUrl = pathToFileURL(storeFolder).href;
    const store = openStore(storeUrl);
    const queue = createProcessQueue({ ...options, store, storeUrl, clock: systemClock, logger, graceMs });
    const services = createServices({
      store,
      queue,
      clock: systemClock,
      logger,
      limits,
      // Whoever uses a server on this machine alone may call what runs on it, and import what lies on it.
      webhookNetworks: isOpen ? [] : everyNetwork,
      sources: sourceSettings(process.env, !isOpen),
      importsInBackground: true,
    });
    const { keyring } = services;
    if (isOpen && !(await keyring.any()))
      throw new InputError(
        'not_loopback',
        `host ${host} would open the server to the network, and there are no keys to protect it; make one with \`cherryq keys create --store ${storeFolder}\`, or use 127.0.0.1, ::1 or localhost`,
        'host',
      );
    const app = createApp({
      services,
      store,
      queue,
      clock: systemClock,
      keys: isOpen ? keyringKeys(keyring) : loopbackKeys(keyring),
      version: packageJson.version,
      logger,
      ...(isOpen ? {} : { guard: refuseForeignNames }),
      signal: stop.signal,
    });
    const { url, close: stopListening } = await listen(app, host, port);
    await hold.announce(url);
    const recoveredJobs = await queue.recover();

    services.imports
      .run()
      .catch((error: unknown) => logger({ level: 'error', message: 'imports could not be gone on with', error }));

    const sweep = (): void =>
      void deleteOld(services, systemClock, retentionDays)
        .then(() => removeLeftovers(services, systemClock, abandonedDays))
        .catch((error: unknown) =>
          logger({ level: 'error', message: 'what is old could not be deleted; the next try is in an hour', error }),
        );
    sweep();
    const sweeping = setInterval(sweep, sweepEveryMs);
    const delivering = deliverUntil(stop.signal, services, logger);

    let closing: Promise<void> | undefined;
    const close = async (): Promise<void> => {
      clearInterval(sweeping);
      stop.abort();
      await Promise.all([stopListening(), queue.close({ graceMs }), delivering, services.imports.close()]);
      await hold.release();
    };
    return { url, app, recoveredJobs, close: () => (closing ??= close()) };
  } catch (error) {
    await hold.release();
    throw error;
  }
}

/** Calls webhooks as they become due; ends, after the calls under way, once the signal is given. */
async function deliverUntil(signal: AbortSignal, { webhooks }: Services, logger: Logger): Promise<void> {
  while (!signal.aborted) {
    await webhooks
      .deliverDue()
      .catch((error: unknown) => logger({ level: 'error', message: 'webhooks could not be called', error }));
    await sleep(deliverEveryMs, undefined, { signal }).catch(() => undefined);
  }
}

/** On loopback whoever runs the program may come without a key; a key that is given counts, for tests of tenants and scopes. */
function loopbackKeys(keyring: Keyring): Keys {
  const withKey = keyringKeys(keyring);
  return {
    authenticate: (request) => (keyOf(request) === null ? localKeys : withKey).authenticate(request),
  };
}

/** Keys of one tenant, straight in a store: whoever can write there may make the first.  @param url as `openStore` */
export function openTenantKeys(url: string, tenant = localTenant) {
  if (!/^[a-z0-9][a-z0-9-]{0,62}$/.test(tenant))
    throw new InputError(
      'invalid_tenant',
      `tenant is ${JSON.stringify(tenant)}; it must be 1 to 63 lower-case letters, digits and hyphens, such as acme`,
      'tenant',
    );
  const keyring = createKeyring({ store: openStore(url), clock: systemClock });
  return {
    create: (request: { name: string; scope: KeyScope }) => keyring.create(tenant, request),
    list: () => keyring.list(tenant),
    revoke: (id: string) => keyring.revoke(tenant, id),
  };
}

/** @throws InputError when the port is taken */
function listen(app: Api, host: string, port: number): Promise<{ url: string; close: () => Promise<void> }> {
  return new Promise((resolveListening, reject) => {
    const server = createAdaptorServer({
      fetch: app.fetch,
      hostname: host,
      // A large upload takes as long as it takes; only a slow header is suspicious.
      serverOptions: { requestTimeout: 0, headersTimeout: 60_000 },
    });
    if (!(server instanceof Server)) throw new TypeError('expected a plain HTTP server');
    server.once('error', (error: NodeJS.ErrnoException) => reject(listenError(error, host, port)));
    server.once('listening', () => {
      const { port: bound } = server.address() as AddressInfo;
      const name = host.includes(':') ? `[${host}]` : host;
      const close = (): Promise<void> =>
        new Promise((resolveClosed) => {
          const kill = setTimeout(() => server.closeAllConnections(), drainMs);
          // A connection is idle once its last answer is out, but Node.js keeps it for the next request.
          const sweep = setInterval(() => server.closeIdleConnections(), 50);
          server.close(() => {
            clearTimeout(kill);
            clearInterval(sweep);
            resolveClosed();
          });
        });
      resolveListening({ url: `http://${name}:${bound}`, close });
    });
    server.listen(port, host);
  });
}

function listenError(error: NodeJS.ErrnoException, host: string, port: number): Error {
  if (error.code === 'EADDRINUSE')
    return new InputError(
      'port_taken',
      `port ${port} on ${host} is taken by another program; stop that program, or choose another port (0 takes any free one)`,
      'port',
      { cause: error },
    );
  if (error.code === 'EACCES')
    return new InputError('port_taken', `port ${port} on ${host} may not be used; choose one above 1023`, 'port', {
      cause: error,
    });
  return error;
}

function refuseForeignNames(request: Request): void {
  const { host } = new URL(request.url);
  const origin = request.headers.get('origin');
  for (const [header, value] of [
    ['Host', host],
    ['Origin', origin && hostOf(origin)],
  ] as const)
    if (value !== null && !isLoopback(hostnameOf(value)))
      throw new ProblemError(
        'forbidden',
        `${header} is ${JSON.stringify(value)}; this server only answers requests to 127.0.0.1, [::1] or localhost, made on this machine`,
        { param: header },
      );
}

function hostOf(origin: string): string {
  return URL.canParse(origin) ? new URL(origin).host : origin;
}

const hostnameOf = (host: string): string => host.replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1');

function isLoopback(hostname: string): boolean {
  return hostname === 'localhost' || hostname === '::1' || /^127(\.\d{1,3}){3}$/.test(hostname);
}

function logToStderr(entry: LogEntry): void {
  if (entry.level !== 'info') process.stderr.write(logLine(entry));
}
