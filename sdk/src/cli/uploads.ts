/** What `cherryq models` and `cherryq datasets` share: both are sets of files that were uploaded. */
import { listUploadsQuerySchema, type Dataset, type Model, type Page } from 'cherryq/contract';
import type { CherryQ, ListUploadsQuery, RequestOptions } from '../index.ts';
import { command } from './command.ts';
import { flagsOf, parseFlags } from './flags.ts';
import { formatBytes, renderTable } from './format.ts';
import { print, printJson, type Io } from './io.ts';
import { look, serverFlags } from './server.ts';

const pageOptions = listUploadsQuerySchema.pick({ limit: true, after: true });
const json = { type: 'boolean', description: 'Print JSON, nothing else' } as const;
export const uploadsFlags = { ...serverFlags, json } as const;

/** What models and datasets have in common. */
interface Uploads {
  list(query: ListUploadsQuery, options: RequestOptions): Promise<Page<Model | Dataset>>;
  retrieve(id: string, options: RequestOptions): Promise<Model | Dataset>;
  delete(id: string, options: RequestOptions): Promise<void>;
}

export interface UploadsKind {
  kind: 'model' | 'dataset';
  of(client: CherryQ): Uploads;
}

type Named = UploadsKind & { name: string };

export const listUploads = (io: Io, { name, kind, of }: Named) =>
  command({
    name,
    summary: `List ${kind}s, newest first`,
    examples: [`${name} --limit 5`],
    args: {
      ...flagsOf(pageOptions, { limit: 'How many at most', after: 'Only those that were made before this one' }),
      ...uploadsFlags,
    },
    async run(args) {
      const query = parseFlags(pageOptions, args);
      const page = await look(io, args, (client, signal) => of(client).list(query, { signal }));
      if (args.json) return printJson(io, page);
      if (page.data.length === 0) return print(io, `No ${kind}s.`);
      const rows = page.data.map(({ id, status, name: title, createdAt, sizeBytes, files }) => [
        id,
        status,
        title,
        createdAt,
        String(files.length),
        formatBytes(sizeBytes),
      ]);
      print(io, renderTable(['id', 'status', 'name', 'created', 'files', 'size'], rows, 4));
      if (page.hasMore) print(io, `There are more: --after ${page.data.at(-1)?.id}`);
    },
  });

export const showUpload = (io: Io, { name, kind, of }: Named) =>
  command({
    name,
    summary: `Show a ${kind} and its files`,
    examples: [`${name} 01JZ8Q3V5X9Y2W4T6R8P0N1M3K`],
    args: { id: { type: 'positional', required: true, description: `Id of the ${kind}` }, ...uploadsFlags },
    async run(args) {
      const upload = await look(io, args, (client, signal) => of(client).retrieve(args.id, { signal }));
      if (args.json) printJson(io, upload);
      else printUpload(io, upload);
    },
  });

export const deleteUpload = (io: Io, { name, kind, of }: Named) =>
  command({
    name,
    summary: `Delete a ${kind} that no open job needs`,
    examples: [`${name} 01JZ8Q3V5X9Y2W4T6R8P0N1M3K`],
    args: { id: { type: 'positional', required: true, description: `Id of the ${kind}` }, ...uploadsFlags },
    async run(args) {
      await look(io, args, (client, signal) => of(client).delete(args.id, { signal }));
      if (args.json) printJson(io, { id: args.id, deleted: true });
      else print(io, `${kind} ${args.id} is deleted`);
    },
  });

export function printUpload(io: Io, upload: Model | Dataset): void {
  const { object, id, name, status, createdAt, sizeBytes, files } = upload;
  print(io, `${object.padEnd(9)} ${id}`);
  print(io, `name      ${name}`);
  print(io, `status    ${status}`);
  print(io, `created   ${createdAt}`);
  print(io, `size      ${formatBytes(sizeBytes)}`);
  if (upload.object === 'model' && upload.source !== null)
    print(
      io,
      `source    ${upload.source.url}${upload.source.revision === null ? '' : ` at ${upload.source.revision}`}`,
    );
  if (upload.object === 'model' && upload.error !== null)
    print(io, `error     ${upload.error.message} (${upload.error.code})`);
  if (files.length === 0) return;
  const rows = files.map(({ path, sizeBytes: size, sha256, uploaded }) => [
    path,
    sha256,
    uploaded ? 'yes' : 'no',
    formatBytes(size),
  ]);
  print(io, '');
  print(io, renderTable(['file', 'SHA-256', 'there', 'size'], rows, 3));
}
