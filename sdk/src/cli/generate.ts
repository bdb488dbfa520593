/** `cherryq generate`: text from a model folder. */
import { z } from 'zod';
import { command } from './command.ts';
import { flagsOf, parseFlags } from './flags.ts';
import { formatSeconds } from './format.ts';
import { note, printJson, type Io } from './io.ts';
import { loadTrainer } from './packages.ts';

const generateOptions = z.object({
  maxTokens: z.int().min(1).max(100_000).default(100),
  temperature: z.number().min(0).max(10).default(0.8),
  seed: z.int().min(0).max(2_147_483_647).default(42),
});

export const generateCommand = (io: Io) =>
  command({
    name: 'cherryq generate',
    summary: 'Continue a text with a model folder; compressed weights are read as they are',
    examples: ['cherryq generate ./compressed "Call me" --max-tokens 50 --temperature 0'],
    args: {
      folder: { type: 'positional', required: true, description: 'Folder of an original, compressed or float16 model' },
      prompt: { type: 'positional', required: true, description: 'Text to continue' },
      ...flagsOf(generateOptions, {
        maxTokens: 'Tokens to add at most',
        temperature: 'Chance; 0 always takes the likeliest token',
        seed: 'Seed of the chance',
      }),
      json: { type: 'boolean', description: 'Print JSON, nothing else' },
    },
    async run(args) {
      const { folder, prompt, json } = args;
      const options = parseFlags(generateOptions, args);
      const { generateText } = await loadTrainer();
      if (!json) io.stdout.write(prompt);
      const onText = json ? undefined : (piece: string): void => void io.stdout.write(piece);
      const generated = await generateText(folder, prompt, { ...options, onText }).finally(() => {
        if (!json) io.stdout.write('\n');
      });
      if (json) return printJson(io, { prompt, ...generated });
      const { tokens, seconds } = generated;
      note(io, `${tokens} tokens in ${formatSeconds(seconds)} (${(tokens / seconds).toFixed(1)} a second)`);
    },
  });
