/** `cherryq usage`: what one may use of a server, and what one uses. */
import { command } from './command.ts';
import { formatBytes, formatCount, renderTable } from './format.ts';
import { print, printJson, type Io } from './io.ts';
import { look, serverFlags } from './server.ts';

export const usageCommand = (io: Io) =>
  command({
    name: 'cherryq usage',
    summary: 'Show what you use of a server, and what you may use',
    examples: ['cherryq usage --profile team'],
    args: { ...serverFlags, json: { type: 'boolean', description: 'Print JSON, nothing else' } },
    async run(args) {
      const usage = await look(io, args, (client, signal) => client.keys.usage({ signal }));
      if (args.json) return printJson(io, usage);
      const { limits, openJobs, storedBytes, computeHoursThisMonth } = usage;
      const limitOf = (limit: number | null, format: (value: number) => string): string =>
        limit === null ? 'no limit' : format(limit);
      const rows = [
        ['open jobs', formatCount(openJobs), limitOf(limits.openJobs, formatCount)],
        ['stored', formatBytes(storedBytes), limitOf(limits.storedBytes, formatBytes)],
        ['hours of computing', computeHoursThisMonth.toFixed(2), limitOf(limits.computeHoursPerMonth, formatCount)],
        ['requests a minute', '-', limitOf(limits.requestsPerMinute, formatCount)],
      ];
      print(io, renderTable(['this month', 'used', 'of'], rows));
    },
  });
