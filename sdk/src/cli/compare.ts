/** `cherryq compare`: several schemes on one model, to choose among, in one go. */
import { axesSchema, trainingSchema, type Axes, type Scheme } from 'cherryq/contract';
import { compare } from '../node.ts';
import { command } from './command.ts';
import {
  evaluationFlags,
  evaluationTokensFlag,
  flagsOf,
  givenFlags,
  machineFlag,
  modelFlag,
  parseEvaluation,
  parseMachine,
  trainingFlags,
} from './flags.ts';
import { interruptible, printComparison, printFolder } from './follow.ts';
import { printJson, type Io } from './io.ts';
import { createProgress } from './progress.ts';
import { serverFlags, withServer } from './server.ts';

/** What is compared where no flag says so. */
const usualAxes: Axes = { method: ['rtn', 'cherryq'], bits: [2, 3, 4] };

const axisFlags = flagsOf(axesSchema, {
  method: 'Ways to compress',
  bits: 'Bits per weight',
  groupSize: 'Weights of a row that share one scale',
  cherryFraction: 'Shares of each row kept in 16 bits, for cherryq',
  criterion: 'What makes a weight a cherry',
  cherryMode: 'Whether cherries are chosen in each row or as whole columns',
  quantizer: 'Levels of a group',
  groups: 'Whether groups are cut after the cherries are taken out (compacted) or keep their columns (aligned)',
  columnScales: 'Whether columns are scaled before they are rounded',
} satisfies Record<keyof Scheme, string>);

export const compareCommand = (io: Io) =>
  command({
    name: 'cherryq compare',
    summary: 'Try several schemes on one model: size against perplexity',
    examples: [
      'cherryq compare ./model --method rtn,cherryq --bits 2,3,4 --group-size 64,128 --calibration train.txt --evaluation test.txt --out ./comparison',
    ],
    args: {
      model: modelFlag,
      out: { type: 'string', required: true, valueHint: 'DIR', description: 'Folder for the report and the figures' },
      calibration: {
        type: 'string',
        valueHint: 'FILE',
        description: 'Text or chats to train on, or id of a dataset; only rtn needs none',
      },
      evaluation: {
        type: 'string',
        required: true,
        valueHint: 'FILE',
        description: 'Text to measure perplexity on, or id of a dataset',
      },
      ...evaluationTokensFlag,
      divergence: evaluationFlags.divergence,
      tasks: evaluationFlags.tasks,
      ...axisFlags,
      ...trainingFlags,
      ...machineFlag,
      ...serverFlags,
      json: { type: 'boolean', description: 'Print the job, its result and manifest as JSON, nothing else' },
    },
    async run(args) {
      const { model, out, calibration, evaluation, json } = args;
      const { evaluationTokens, divergence, tasks } = parseEvaluation(args);
      const request = {
        ...parseMachine(args),
        axes: { ...usualAxes, ...givenFlags(axesSchema, args) },
        training: givenFlags(trainingSchema, args),
      };
      const progress = createProgress(io, !json);
      const done = await withServer(io, { args, concurrency: 1, newDataDir: true }, (connection) => {
        let jobId: string | null = null;
        return interruptible(io, connection, progress, { jobId: () => jobId, out }, () =>
          compare(connection.client, {
            ...request,
            model,
            out,
            calibration,
            evaluation,
            evaluationTokens,
            divergence,
            tasks,
            signal: io.interrupted,
            onUpload: ({ sentBytes, totalBytes }) => progress.transfer('upload', sentBytes, totalBytes),
            onJob: (job) => {
              jobId = job.id;
              progress.note(`job ${job.id}: ${job.modelName}`);
            },
            onEvent: (event) => progress.event(event),
            onDownload: ({ receivedBytes, totalBytes }) => progress.transfer('download', receivedBytes, totalBytes),
          }),
        );
      });
      if (json) return printJson(io, done);
      printComparison(io, done.result);
      printFolder(io, done);
    },
  });
