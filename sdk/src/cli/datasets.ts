/** `cherryq datasets`: the texts that a server has. */
import { uploadTextFile } from '../node.ts';
import { command, group } from './command.ts';
import { printJson, type Io } from './io.ts';
import { createProgress } from './progress.ts';
import { withServer } from './server.ts';
import { deleteUpload, listUploads, printUpload, showUpload, uploadsFlags, type UploadsKind } from './uploads.ts';

const datasets: UploadsKind = { kind: 'dataset', of: (client) => client.datasets };

export const datasetsCommand = (io: Io) =>
  group({
    name: 'cherryq datasets',
    summary: 'Upload texts to train and to measure on, list, show and delete them',
    children: {
      list: listUploads(io, { name: 'cherryq datasets list', ...datasets }),
      show: showUpload(io, { name: 'cherryq datasets show', ...datasets }),
      upload: upload(io),
      delete: deleteUpload(io, { name: 'cherryq datasets delete', ...datasets }),
    },
  });

const upload = (io: Io) =>
  command({
    name: 'cherryq datasets upload',
    summary: 'Upload a text; what the server has is not sent again',
    examples: ['cherryq datasets upload train.txt'],
    args: {
      file: { type: 'positional', required: true, description: 'Text or chats (.txt, .jsonl, .json, .parquet)' },
      ...uploadsFlags,
    },
    async run(args) {
      const progress = createProgress(io, !args.json);
      const dataset = await withServer(io, { args, concurrency: 0, newDataDir: true }, ({ client }) =>
        uploadTextFile(client, args.file, {
          signal: io.interrupted,
          onProgress: ({ sentBytes, totalBytes }) => progress.transfer('upload', sentBytes, totalBytes),
        }),
      ).finally(() => progress.end());
      if (args.json) printJson(io, dataset);
      else printUpload(io, dataset);
    },
  });
