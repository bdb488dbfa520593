/** `cherryq estimate`: what a compression would need and cost, on each kind of machine; nothing is started. */
import { exitCodes } from 'cherryq/contract';
import { estimate } from '../node.ts';
import { command } from './command.ts';
import { compressFlags, parseCompressFlags } from './compress.ts';
import { formatBytes, formatSeconds, renderTable } from './format.ts';
import { print, printJson, type Io } from './io.ts';
import { createProgress } from './progress.ts';
import { withServer } from './server.ts';

export const estimateCommand = (io: Io) =>
  command({
    name: 'cherryq estimate',
    summary: 'Say what a compression would need and cost; exit code 2 where it would be refused',
    examples: [
      'cherryq estimate ./model --bits 3 --calibration train.txt',
      'cherryq estimate ./model --method rtn --server https://cherryq.example --json',
    ],
    args: { ...compressFlags, json: { type: 'boolean', description: 'Print the estimate as JSON, nothing else' } },
    async run(args) {
      const { model, calibration, evaluation, json } = args;
      const request = parseCompressFlags(args);
      const progress = createProgress(io, !json);
      const found = await withServer(io, { args, concurrency: 0, newDataDir: true }, ({ client }) =>
        estimate(client, {
          ...request,
          model,
          calibration,
          evaluation,
          signal: io.interrupted,
          onUpload: ({ sentBytes, totalBytes }) => progress.transfer('upload', sentBytes, totalBytes),
        }),
      ).finally(() => progress.end());
      const exitCode = found.allowed ? exitCodes.ok : exitCodes.input;
      if (json) {
        printJson(io, found);
        return exitCode;
      }
      const rows = found.machines.map(({ name, fits, hostBytes, deviceBytes, seconds, dollars }) => [
        name,
        fits ? 'yes' : 'no',
        formatBytes(hostBytes),
        deviceBytes === null ? '-' : formatBytes(deviceBytes),
        formatSeconds(seconds),
        dollars === null ? '-' : `$${dollars.toFixed(2)}`,
      ]);
      print(io, renderTable(['machine', 'fits', 'memory', 'GPU memory', 'time', 'price'], rows, 2));
      const { native, hf } = found.outputBytes;
      const sizes = [
        native !== null && `native ${formatBytes(native)}`,
        hf !== null && `float16 copy ${formatBytes(hf)}`,
      ];
      print(io, '');
      print(io, `result   ${sizes.filter((size) => size !== false).join(', ')}`);
      print(io, `store    ${formatBytes(found.diskBytes)} at most, while the job runs`);
      print(
        io,
        `time     ${found.secondsBasis === 'measured' ? 'by the last jobs' : 'assumed; no job has been measured'}`,
      );
      if (found.reason !== null) print(io, `refused  ${found.reason}`);
      return exitCode;
    },
  });
