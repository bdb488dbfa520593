/** `cherryq eval`: perplexity of a model folder on a text, without a server; `cherryq evaluate` makes it a job. */
import { z } from 'zod';
import { command } from './command.ts';
import { flagsOf, parseFlags } from './flags.ts';
import { formatCount, formatSeconds } from './format.ts';
import { print, printJson, type Io } from './io.ts';
import { loadTrainer } from './packages.ts';
import { createProgress } from './progress.ts';

const evalOptions = z.object({ maxTokens: z.int().min(16).optional() });

export const evalCommand = (io: Io) =>
  command({
    name: 'cherryq eval',
    summary: 'Measure the perplexity of a model folder on a text, here and without a job',
    examples: ['cherryq eval ./compressed --text test.txt --max-tokens 20000'],
    args: {
      folder: { type: 'positional', required: true, description: 'Folder of an original, compressed or float16 model' },
      text: { type: 'string', required: true, valueHint: 'FILE', description: 'Text file, UTF-8' },
      ...flagsOf(evalOptions, { maxTokens: 'Tokens to measure on; all when absent' }),
      json: { type: 'boolean', description: 'Print JSON, nothing else' },
    },
    async run(args) {
      const { maxTokens } = parseFlags(evalOptions, args);
      const { evaluateFolder } = await loadTrainer();
      const progress = createProgress(io, !args.json);
      const onProgress = (done: number, total: number): void => progress.steps('evaluate', done, total);
      const measured = await evaluateFolder(args.folder, args.text, { maxTokens, onProgress }).finally(() =>
        progress.end(),
      );
      if (args.json) return printJson(io, measured);
      const { perplexity, tokens, format, engine, seconds } = measured;
      print(io, `perplexity ${perplexity.toFixed(4)}`);
      print(io, `${formatCount(tokens)} tokens, ${format} weights, ${engine}, ${formatSeconds(seconds)}`);
    },
  });
