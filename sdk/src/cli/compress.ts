/** `cherryq compress`: upload, job, result, in one go. */
import { schemeSchema, trainingSchema } from 'cherryq/contract';
import { compress } from '../node.ts';
import { command } from './command.ts';
import {
  evaluationFlags,
  givenFlags,
  machineFlag,
  modelFlag,
  parseEvaluation,
  parseMachine,
  schemeFlags,
  trainingFlags,
} from './flags.ts';
import { interruptible, printFolder, printOutcome } from './follow.ts';
import { printJson, type Io } from './io.ts';
import { createProgress } from './progress.ts';
import { serverFlags, withServer } from './server.ts';

/** What is compressed, and how; `cherryq estimate` takes the same. */
export const compressFlags = {
  model: modelFlag,
  calibration: {
    type: 'string',
    valueHint: 'FILE',
    description: 'Text or chats to train on (.txt, .jsonl, .json, .parquet), or id of a dataset; only rtn needs none',
  },
  evaluation: {
    type: 'string',
    valueHint: 'FILE',
    description: 'Text to measure perplexity on, or id of a dataset',
  },
  ...evaluationFlags,
  ...schemeFlags,
  ...trainingFlags,
  ...machineFlag,
  ...serverFlags,
} as const;

/** @throws UsageError */
export const parseCompressFlags = (args: Readonly<Record<string, unknown>>) => ({
  ...parseEvaluation(args),
  ...parseMachine(args),
  scheme: givenFlags(schemeSchema, args),
  training: givenFlags(trainingSchema, args),
});

export const compressCommand = (io: Io) =>
  command({
    name: 'cherryq compress',
    summary: 'Compress a model',
    examples: [
      'cherryq compress ./model --bits 3 --calibration train.txt --evaluation test.txt --out ./compressed',
      'cherryq compress hf://HuggingFaceTB/SmolLM2-135M --method rtn --bits 4 --group-size row --out ./rounded',
      'cherryq compress ./model --method rtn --bits 4 --group-size row --out ./rounded',
    ],
    args: {
      ...compressFlags,
      out: { type: 'string', required: true, valueHint: 'DIR', description: 'Folder for the result' },
      json: { type: 'boolean', description: 'Print the job, its result and manifest as JSON, nothing else' },
    },
    async run(args) {
      const signal = io.interrupted;
      const { model, out, calibration, evaluation, json } = args;
      const request = parseCompressFlags(args);
      const progress = createProgress(io, !json);
      const done = await withServer(io, { args, concurrency: 1, newDataDir: true }, (connection) => {
        if (connection.recoveredJobs > 0)
          progress.note(`unfinished jobs of this data folder that go on first: ${connection.recoveredJobs}`);
        let jobId: string | null = null;
        const follow = { jobId: () => jobId, out };
        return interruptible(io, connection, progress, follow, () =>
          compress(connection.client, {
            ...request,
            model,
            out,
            calibration,
            evaluation,
            signal,
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
      printOutcome(io, done.job);
      printFolder(io, done);
    },
  });
