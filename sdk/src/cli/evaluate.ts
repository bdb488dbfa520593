/** `cherryq evaluate`: how good a model is, measured by a job; `cherryq eval` measures a folder's perplexity without one. */
import { artifactSourceSchema } from 'cherryq/contract';
import { z } from 'zod';
import { evaluate } from '../node.ts';
import { command, UsageError } from './command.ts';
import {
  evaluationFlags,
  evaluationTokensFlag,
  flagsOf,
  givenFlags,
  machineFlag,
  parseEvaluation,
  parseMachine,
} from './flags.ts';
import { interruptible, printEvaluation, printFolder } from './follow.ts';
import { printJson, type Io } from './io.ts';
import { createProgress } from './progress.ts';
import { serverFlags, withServer } from './server.ts';

const options = z.object({ format: artifactSourceSchema.shape.format });

export const evaluateCommand = (io: Io) =>
  command({
    name: 'cherryq evaluate',
    summary: 'Measure a model with a job: perplexity, tasks, distance from another model',
    examples: [
      'cherryq evaluate ./compressed --baseline ./model --evaluation test.txt --out ./evaluation',
      'cherryq evaluate --job 01JZ8Q3V5X9Y2W4T6R8P0N1M3K --evaluation test.txt --tasks quiz.jsonl --out ./evaluation',
    ],
    args: {
      model: {
        type: 'positional',
        required: false,
        description: 'Folder of an original or a compressed model, id of an uploaded one, or hf:// or s3:// address',
      },
      job: {
        type: 'string',
        valueHint: 'ID',
        description: 'In place of a model, a compress job whose result to measure',
      },
      out: { type: 'string', required: true, valueHint: 'DIR', description: 'Folder for the report and the figures' },
      evaluation: {
        type: 'string',
        required: true,
        valueHint: 'FILE',
        description: 'Text to measure perplexity on, or id of a dataset',
      },
      baseline: {
        type: 'string',
        valueHint: 'MODEL',
        description: 'Folder or id of a model to compare with; the divergence is measured from it',
      },
      tasks: evaluationFlags.tasks,
      ...evaluationTokensFlag,
      ...flagsOf(options, { format: 'Which of the formats that the job has made' }),
      ...machineFlag,
      ...serverFlags,
      json: { type: 'boolean', description: 'Print the job, its result and manifest as JSON, nothing else' },
    },
    async run(args) {
      const { model, job: jobId, out, evaluation, baseline, json } = args;
      if ((model === undefined) === (jobId === undefined))
        throw new UsageError('give a model, or --job in its place, and not both', '--job');
      const { format } = givenFlags(options, args);
      if (format !== undefined && jobId === undefined)
        throw new UsageError('--format says which of a job’s formats is meant; give --job too', '--format');
      const { evaluationTokens, tasks } = parseEvaluation(args);
      const { machine } = parseMachine(args);
      const progress = createProgress(io, !json);
      const done = await withServer(io, { args, concurrency: 1, newDataDir: true }, (connection) => {
        let running: string | null = null;
        return interruptible(io, connection, progress, { jobId: () => running, out }, () =>
          evaluate(connection.client, {
            model: jobId === undefined ? (model ?? '') : { jobId, format },
            evaluation,
            baseline,
            evaluationTokens,
            tasks,
            machine,
            out,
            signal: io.interrupted,
            onUpload: ({ sentBytes, totalBytes }) => progress.transfer('upload', sentBytes, totalBytes),
            onJob: (job) => {
              running = job.id;
              progress.note(`job ${job.id}: ${job.modelName}`);
            },
            onEvent: (event) => progress.event(event),
            onDownload: ({ receivedBytes, totalBytes }) => progress.transfer('download', receivedBytes, totalBytes),
          }),
        );
      });
      if (json) return printJson(io, done);
      printEvaluation(io, done.result);
      printFolder(io, done);
    },
  });
