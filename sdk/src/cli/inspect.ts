/** `cherryq inspect`: what is in a model folder. */
import { command } from './command.ts';
import { formatBytes, formatCount, renderTable, schemeLabel } from './format.ts';
import { print, printJson, type Io } from './io.ts';
import { loadTrainer } from './packages.ts';

export const inspectCommand = (io: Io) =>
  command({
    name: 'cherryq inspect',
    summary: 'Show what is in a model folder: tensors, sizes, bits per weight',
    examples: ['cherryq inspect ./compressed'],
    args: {
      folder: { type: 'positional', required: true, description: 'Folder of an original, compressed or float16 model' },
      json: { type: 'boolean', description: 'Print JSON, nothing else' },
    },
    async run({ folder, json }) {
      const { inspectFolder } = await loadTrainer();
      const found = await inspectFolder(folder);
      if (json) return printJson(io, found);
      const rows = found.tensors.map(({ name, dtype, shape, sizeBytes, bitsPerWeight }) => [
        name,
        dtype,
        shape.join(' x '),
        formatBytes(sizeBytes),
        bitsPerWeight?.toFixed(2) ?? '-',
      ]);
      print(io, renderTable(['tensor', 'type', 'shape', 'size', 'bits per weight'], rows, 2));
      print(io, '');
      const scheme = found.scheme === null ? '' : `, ${schemeLabel(found.scheme)}`;
      print(io, `${found.architecture} (${found.format}${scheme}): ${formatCount(found.parameters)} parameters`);
      const bits =
        found.bitsPerWeight === null
          ? ''
          : `, ${found.bitsPerWeight.toFixed(2)} bits per weight of the compressed layers`;
      print(io, `${formatBytes(found.sizeBytes)} of weights${bits}`);
    },
  });
