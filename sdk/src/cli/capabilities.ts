/** `cherryq capabilities`: what a server can do, what it runs on, and what its tenant may use. */
import type { Capabilities } from 'cherryq/contract';
import { command } from './command.ts';
import { formatBytes, formatCount, formatSeconds, renderTable } from './format.ts';
import { print, printJson, type Io } from './io.ts';
import { serverFlags, withServer } from './server.ts';

export const capabilitiesCommand = (io: Io) =>
  command({
    name: 'cherryq capabilities',
    summary: 'Show what the server can do: methods, formats, machines, limits',
    examples: ['cherryq capabilities --server https://cherryq.example'],
    args: { ...serverFlags, json: { type: 'boolean', description: 'Print JSON, nothing else' } },
    async run(args) {
      const found = await withServer(io, { args, concurrency: 0, newDataDir: true }, ({ client }) =>
        client.capabilities.retrieve({ signal: io.interrupted }),
      );
      if (args.json) return printJson(io, found);
      const { version, architectures, methods, bits, formats, kinds, limits, machines } = found;
      const facts: [string, readonly (string | number)[]][] = [
        ['version', [version]],
        ['models', architectures],
        ['jobs', kinds],
        ['methods', methods],
        ['bits', bits],
        ['formats', formats],
        ['limits', limitsOf(limits)],
      ];
      for (const [name, values] of facts) print(io, `${name.padEnd(10)} ${values.join(', ')}`);
      print(io, '');
      const rows = machines.map(({ name, engine, hostBytes, deviceBytes, startSeconds, dollarsPerHour }) => [
        name,
        engine,
        formatBytes(hostBytes),
        deviceBytes === null ? '-' : formatBytes(deviceBytes),
        formatSeconds(startSeconds),
        dollarsPerHour === null ? '-' : `$${dollarsPerHour.toFixed(2)}`,
      ]);
      print(io, renderTable(['machine', 'engine', 'memory', 'GPU memory', 'starts in', 'an hour'], rows, 2));
    },
  });

/** Only what is limited. */
function limitsOf(limits: Capabilities['limits']): string[] {
  const { requestsPerMinute, openJobs, storedBytes, computeHoursPerMonth } = limits;
  const all = [
    requestsPerMinute !== null && `${formatCount(requestsPerMinute)} requests a minute`,
    openJobs !== null && `${formatCount(openJobs)} open jobs`,
    storedBytes !== null && `${formatBytes(storedBytes)} stored`,
    computeHoursPerMonth !== null && `${formatCount(computeHoursPerMonth)} hours of computing a month`,
    `${formatCount(limits.filesPerUpload)} files an upload`,
  ];
  return all.filter((limit) => limit !== false);
}
