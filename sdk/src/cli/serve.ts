/** `cherryq serve`: the local server, until Ctrl-C. */
import { once } from 'node:events';
import { resolve } from 'node:path';
import { z } from 'zod';
import { command } from './command.ts';
import { flagsOf, parseFlags } from './flags.ts';
import { note, print, type Io } from './io.ts';
import { loadServer } from './packages.ts';
import { defaultDataDir, serverFlags } from './server.ts';

const serveOptions = z.object({
  host: z.string().default('127.0.0.1'),
  port: z.int().min(0).max(65_535).default(7433),
  concurrency: z.int().min(1).max(64).default(1),
  retentionDays: z.int().min(1).max(36_500).optional(),
  abandonedDays: z.int().min(1).max(36_500).default(7),
});

export const serveCommand = (io: Io) =>
  command({
    name: 'cherryq serve',
    summary: 'Run the server on this machine; unfinished jobs go on',
    examples: ['cherryq serve --port 7433 --data-dir .cherryq'],
    args: {
      ...flagsOf(serveOptions, {
        host: 'Address to listen on; any but loopback asks each request for a key (cherryq keys create)',
        port: 'Port; 0 takes a free one',
        concurrency: 'Jobs at the same time; on WebAssembly each uses one core',
        abandonedDays: 'Delete uploads that were begun so many days ago and are not complete',
        retentionDays: 'Delete jobs that ended so many days ago; without it they are kept',
      }),
      'data-dir': serverFlags['data-dir'],
      json: { type: 'boolean', description: 'Print the address as JSON, nothing else' },
    },
    async run(args) {
      const { interrupted } = io;
      const storeFolder = resolve(args['data-dir'] ?? defaultDataDir);
      const options = parseFlags(serveOptions, args);
      const { startServer } = await loadServer();
      const server = await startServer({ storeFolder, ...options });
      try {
        if (args.json) print(io, JSON.stringify({ url: server.url, dataDir: storeFolder, pid: process.pid }));
        else print(io, `CherryQ listens on ${server.url}; models and jobs are in ${storeFolder}. Ctrl-C stops it.`);
        if (server.recoveredJobs > 0) note(io, `unfinished jobs that go on: ${server.recoveredJobs}`);
        if (!interrupted.aborted) await once(interrupted, 'abort');
        note(io, 'stopping: workers save a checkpoint; their jobs go on when the server is started again');
      } finally {
        await server.close();
      }
    },
  });
