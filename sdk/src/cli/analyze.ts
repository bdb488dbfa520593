/** `cherryq analyze`: where a model's important weights are, in one go. */
import { analysisSchema, schemeSchema, trainingSchema } from 'cherryq/contract';
import { z } from 'zod';
import { analyze } from '../node.ts';
import { command } from './command.ts';
import { flagsOf, givenFlags, machineFlag, modelFlag, parseMachine, trainingFlags } from './flags.ts';
import { interruptible, printAnalysis, printFolder } from './follow.ts';
import { printJson, type Io } from './io.ts';
import { createProgress } from './progress.ts';
import { serverFlags, withServer } from './server.ts';

const options = z.object({ draws: analysisSchema.shape.draws, cherryFraction: schemeSchema.shape.cherryFraction });
const measuring = trainingSchema.pick({ sequenceLength: true, windows: true, impactSamples: true, seed: true });

export const analyzeCommand = (io: Io) =>
  command({
    name: 'cherryq analyze',
    summary: 'Show where the important weights of a model are',
    examples: ['cherryq analyze ./model --calibration train.txt --others code.txt,chats.jsonl --out ./analysis'],
    args: {
      model: modelFlag,
      out: { type: 'string', required: true, valueHint: 'DIR', description: 'Folder for the report and the figures' },
      calibration: {
        type: 'string',
        required: true,
        valueHint: 'FILE',
        description: 'Text to measure impact on, or id of a dataset',
      },
      others: {
        type: 'string',
        valueHint: 'FILE,...',
        description: 'Further texts, or ids of datasets, whose cherries are compared with those of the first',
      },
      ...flagsOf(options, {
        draws: 'Disjoint draws from each text that are compared',
        cherryFraction: 'Share of each row that counts as cherries',
      }),
      'sequence-length': trainingFlags['sequence-length'],
      windows: trainingFlags.windows,
      'impact-samples': trainingFlags['impact-samples'],
      seed: trainingFlags.seed,
      ...machineFlag,
      ...serverFlags,
      json: { type: 'boolean', description: 'Print the job, its result and manifest as JSON, nothing else' },
    },
    async run(args) {
      const { model, out, calibration, json } = args;
      const progress = createProgress(io, !json);
      const request = {
        ...givenFlags(options, args),
        ...parseMachine(args),
        training: givenFlags(measuring, args),
        others: args.others?.split(',').map((file) => file.trim()),
      };
      const done = await withServer(io, { args, concurrency: 1, newDataDir: true }, (connection) => {
        let jobId: string | null = null;
        return interruptible(io, connection, progress, { jobId: () => jobId, out }, () =>
          analyze(connection.client, {
            ...request,
            model,
            out,
            calibration,
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
      printAnalysis(io, done.result);
      printFolder(io, done);
    },
  });
