/** `cherryq models`: the models that a server has. */
import { importModelSchema } from 'cherryq/contract';
import { uploadModelFolder } from '../node.ts';
import { command, group } from './command.ts';
import { flagsOf, parseFlags } from './flags.ts';
import { note, printJson, type Io } from './io.ts';
import { createProgress } from './progress.ts';
import { withServer } from './server.ts';
import { deleteUpload, listUploads, printUpload, showUpload, uploadsFlags, type UploadsKind } from './uploads.ts';

const models: UploadsKind = { kind: 'model', of: (client) => client.models };

export const modelsCommand = (io: Io) =>
  group({
    name: 'cherryq models',
    summary: 'Upload and import models, list, show and delete them',
    children: {
      list: listUploads(io, { name: 'cherryq models list', ...models }),
      show: showUpload(io, { name: 'cherryq models show', ...models }),
      upload: upload(io),
      import: importCommand(io),
      delete: deleteUpload(io, { name: 'cherryq models delete', ...models }),
    },
  });

const naming = importModelSchema.pick({ name: true });

const upload = (io: Io) =>
  command({
    name: 'cherryq models upload',
    summary: 'Upload a model folder; what the server has is not sent again',
    examples: ['cherryq models upload ./model'],
    args: {
      folder: { type: 'positional', required: true, description: 'Model folder in the format of Hugging Face' },
      ...flagsOf(naming, { name: "For people; the folder's when absent" }),
      ...uploadsFlags,
    },
    async run(args) {
      const { name } = parseFlags(naming, args);
      const progress = createProgress(io, !args.json);
      const model = await withServer(io, { args, concurrency: 0, newDataDir: true }, ({ client }) =>
        uploadModelFolder(client, args.folder, {
          name,
          signal: io.interrupted,
          onProgress: ({ sentBytes, totalBytes }) => progress.transfer('upload', sentBytes, totalBytes),
        }),
      ).finally(() => progress.end());
      if (args.json) printJson(io, model);
      else printUpload(io, model);
    },
  });

const importCommand = (io: Io) =>
  command({
    name: 'cherryq models import',
    summary: 'Let the server fetch a model, and wait until it is there',
    examples: ['cherryq models import hf://HuggingFaceTB/SmolLM2-135M@main'],
    args: {
      source: {
        type: 'positional',
        required: true,
        description: 'hf://owner/name@revision, s3://bucket/prefix or, of a server on the same machine, file:///folder',
      },
      ...flagsOf(naming, { name: 'For people; the last part of the source when absent' }),
      ...uploadsFlags,
    },
    async run(args) {
      const { name } = parseFlags(naming, args);
      const progress = createProgress(io, !args.json);
      const model = await withServer(io, { args, concurrency: 0, newDataDir: true }, ({ client, kind }) =>
        client.models
          .import(
            { source: args.source, name },
            {
              signal: io.interrupted,
              onProgress: ({ sentBytes, totalBytes }) => progress.transfer('import', sentBytes, totalBytes),
            },
          )
          .finally(() => {
            if (io.interrupted.aborted && kind !== 'embedded') note(io, 'The server goes on with it.');
          }),
      ).finally(() => progress.end());
      if (args.json) printJson(io, model);
      else printUpload(io, model);
    },
  });
