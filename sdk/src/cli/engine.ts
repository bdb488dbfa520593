/** `cherryq engine`: makes the native engine on this machine, and packs it for npm. */
import { command, group } from './command.ts';
import { formatBytes, formatSeconds } from './format.ts';
import { note, print, printJson, type Io } from './io.ts';
import { loadTrainer } from './packages.ts';
import { createProgress } from './progress.ts';

const gpuFlag = {
  type: 'boolean',
  description: 'The engine for NVIDIA GPUs, with its CUDA 12 libraries, instead of the one for processors',
} as const;

const installCommand = (io: Io) =>
  command({
    name: 'cherryq engine install',
    summary: 'Make the native engine available: TensorFlow from its wheel, the addon compiled here (Linux x64)',
    examples: ['cherryq engine install --gpu', 'cherryq engine install'],
    args: {
      gpu: gpuFlag,
      force: { type: 'boolean', description: 'Make it anew even when it is there' },
      json: { type: 'boolean', description: 'Print JSON, nothing else' },
    },
    async run({ gpu, force, json }) {
      const { installEngine } = await loadTrainer();
      const progress = createProgress(io, !json);
      const installed = await installEngine({
        kind: gpu ? 'gpu' : 'cpu',
        force,
        onProgress({ step, doneBytes, totalBytes, bytesPerSecond }) {
          if (doneBytes === null || totalBytes === null) return progress.note(step);
          const rate = bytesPerSecond === null ? '' : ` at ${formatBytes(Math.round(bytesPerSecond))}/s`;
          progress.transfer(`${step}${rate}`, doneBytes, totalBytes);
        },
      }).finally(() => progress.end());
      if (json) return printJson(io, installed);
      const { made, tensorflow, folder, sizeBytes, seconds } = installed;
      const what = `TensorFlow ${tensorflow}, ${formatBytes(sizeBytes)}, in ${folder}`;
      if (made === 'nothing') print(io, `The engine is already there: ${what}.`);
      else print(io, `The engine is there: ${what} (${formatSeconds(seconds)}).`);
      note(io, 'See what it does with: cherryq doctor');
    },
  });

const packCommand = (io: Io) =>
  command({
    name: 'cherryq engine pack',
    summary: 'Make an npm package of the installed engine, for machines without Python or a compiler',
    examples: ['cherryq engine pack --output ./packages'],
    args: {
      gpu: gpuFlag,
      output: { type: 'string', default: '.', valueHint: 'FOLDER', description: 'Where the tarball is written' },
      json: { type: 'boolean', description: 'Print JSON, nothing else' },
    },
    async run({ gpu, output, json }) {
      const { packEngine } = await loadTrainer();
      const packed = await packEngine({ kind: gpu ? 'gpu' : 'cpu', output });
      if (json) return printJson(io, packed);
      print(io, `${packed.name}@${packed.version}: ${packed.tarball} (${formatBytes(packed.sizeBytes)})`);
    },
  });

export const engineCommand = (io: Io) =>
  group({
    name: 'cherryq engine',
    summary: 'Make the native engine on this machine, or pack it for npm',
    children: { install: installCommand(io), pack: packCommand(io) },
  });
