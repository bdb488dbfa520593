/**
 * Models and datasets: named sets of files that a client uploads once. Life: create with the list of files -> put each
 * file -> complete. Layout, under `tenants/<tenant>/<models|datasets>/<id>/`:
 *
 *     model.json | dataset.json   written at creation: name and declared files
 *     files/<path>                written whole or not at all, once length and SHA-256 are as declared
 *     ready.json                  written on completion; only then can a job use it
 */
import { createHash } from 'node:crypto';
import { contentFingerprint } from '@cherryq/batch-jobs/storage';
import { z } from 'zod';
import {
  idSchema,
  timestampSchema,
  uploadFileSchema,
  type CreateUpload,
  type Dataset,
  type Model,
  type Page,
  type UploadFile,
} from 'cherryq/contract';
import { decodeJson, encodeJson } from './job-log.ts';
import { listKeys } from './list-keys.ts';
import type { Clock, Store } from './ports.ts';
import { ProblemError } from './problems.ts';

export type Upload = Model | Dataset;
export type UploadKind = Upload['object'];

const recordSchema = z.object({
  id: idSchema,
  name: z.string(),
  createdAt: timestampSchema,
  fingerprint: z.string(),
  files: z.array(uploadFileSchema),
});
type UploadRecord = z.infer<typeof recordSchema>;

export interface Uploads {
  /** Creates under this id; an upload that exists is returned as it is. */
  create(tenant: string, id: string, request: CreateUpload): Promise<Upload>;
  /** @returns null when there is none under this id */
  find(tenant: string, id: string): Promise<Upload | null>;
  retrieve(tenant: string, id: string): Promise<Upload>;
  /** Newest first. */
  list(tenant: string, query: { limit: number; after?: string; fingerprint?: string }): Promise<Page<Upload>>;
  /**
   * Stores a declared file while checking it; a file that is there already is left alone.
   * @param lengthHeader the request's Content-Length, if it has one
   */
  putFile(
    tenant: string,
    id: string,
    path: string,
    body: ReadableStream<Uint8Array> | null,
    lengthHeader?: string,
  ): Promise<void>;
  /** Makes it usable. @throws ProblemError (409) naming the files that are missing */
  complete(tenant: string, id: string): Promise<Upload>;
  /** Removes it and its files. The caller has made sure that nothing uses it. */
  remove(tenant: string, id: string): Promise<void>;
  /** Store prefix of its files, ending in a slash. */
  filesPrefix(tenant: string, id: string): string;
}

export function createUploads(kind: UploadKind, { store, clock }: { store: Store; clock: Clock }): Uploads {
  const allPrefix = (tenant: string): string => `tenants/${tenant}/${kind}s/`;
  const prefix = (tenant: string, id: string): string => `${allPrefix(tenant)}${id}/`;
  const recordKey = (tenant: string, id: string): string => `${prefix(tenant, id)}${kind}.json`;
  const readyKey = (tenant: string, id: string): string => `${prefix(tenant, id)}ready.json`;
  const filesPrefix = (tenant: string, id: string): string => `${prefix(tenant, id)}files/`;

  async function findRecord(tenant: string, id: string): Promise<UploadRecord | null> {
    const body = await store.get(recordKey(tenant, id));
    return body && recordSchema.parse(decodeJson(body));
  }

  async function readRecord(tenant: string, id: string): Promise<UploadRecord> {
    const record = await findRecord(tenant, id);
    if (record === null)
      throw new ProblemError('not_found', `there is no ${kind} ${id}; it was deleted, or it is in another store`, {
        param: 'id',
      });
    return record;
  }

  async function uploadedPaths(tenant: string, id: string): Promise<Set<string>> {
    const paths = new Set<string>();
    const start = filesPrefix(tenant, id);
    for await (const key of listKeys(store, start)) paths.add(key.slice(start.length));
    return paths;
  }

  async function view(tenant: string, record: UploadRecord): Promise<Upload> {
    const [ready, uploaded] = await Promise.all([
      store.head(readyKey(tenant, record.id)),
      uploadedPaths(tenant, record.id),
    ]);
    return {
      object: kind,
      ...record,
      status: ready ? 'ready' : 'uploading',
      sizeBytes: record.files.reduce((sum, file) => sum + file.sizeBytes, 0),
      files: record.files.map((file) => ({ ...file, uploaded: uploaded.has(file.path) })),
    };
  }

  return {
    filesPrefix,

    async create(tenant, id, request) {
      const { name, files } = request;
      refuseNestedFiles(files);
      const createdAt = new Date(clock.now()).toISOString();
      const record: UploadRecord = { id, name, createdAt, fingerprint: contentFingerprint(files), files };
      const created = await store.put(recordKey(tenant, id), encodeJson(record), { onlyIfAbsent: true });
      return view(tenant, created ? record : await readRecord(tenant, id));
    },

    async find(tenant, id) {
      const record = await findRecord(tenant, id);
      return record && view(tenant, record);
    },

    async retrieve(tenant, id) {
      return view(tenant, await readRecord(tenant, id));
    },

    async list(tenant, { limit, after, fingerprint }) {
      const ids = (await store.folders(allPrefix(tenant))).sort().reverse();
      const data: Upload[] = [];
      for (const id of ids) {
        if (after !== undefined && id >= after) continue;
        const record = await findRecord(tenant, id);
        if (record === null || (fingerprint !== undefined && record.fingerprint !== fingerprint)) continue;
        if (data.length === limit) return { object: 'list', data, hasMore: true };
        data.push(await view(tenant, record));
      }
      return { object: 'list', data, hasMore: false };
    },

    async putFile(tenant, id, path, body, lengthHeader) {
      const record = await readRecord(tenant, id);
      const declared = record.files.find((file) => file.path === path);
      if (declared === undefined)
        throw new ProblemError(
          'not_found',
          `${kind} ${id} declares no file ${path}; it declares ${summary(record.files.map((file) => file.path))}`,
          { param: 'path' },
        );
      if (lengthHeader !== undefined && Number(lengthHeader) !== declared.sizeBytes)
        throw mismatch(path, `${declared.sizeBytes} bytes were declared, Content-Length says ${lengthHeader}`);
      const key = `${filesPrefix(tenant, id)}${path}`;
      if (await store.head(key)) return drain(body);
      await store.put(key, checked(body, declared), { onlyIfAbsent: true });
    },

    async complete(tenant, id) {
      const record = await readRecord(tenant, id);
      const uploaded = await uploadedPaths(tenant, id);
      const missing = record.files.filter((file) => !uploaded.has(file.path)).map((file) => file.path);
      if (missing.length > 0)
        throw new ProblemError(
          'conflict',
          `${kind} ${id} lacks ${missing.length} of its ${record.files.length} files: ${summary(missing)}; put them first`,
          { param: 'files' },
        );
      const completedAt = new Date(clock.now()).toISOString();
      await store.put(readyKey(tenant, id), encodeJson({ completedAt }), { onlyIfAbsent: true });
      return view(tenant, record);
    },

    async remove(tenant, id) {
      await readRecord(tenant, id);
      // First what makes it usable, then what makes it visible, then the bulk.
      await store.delete(readyKey(tenant, id));
      await store.delete(recordKey(tenant, id));
      await store.deletePrefix(prefix(tenant, id));
    },
  };
}

/** A path cannot be a file and a folder at once. */
function refuseNestedFiles(files: readonly UploadFile[]): void {
  const paths = new Set(files.map((file) => file.path));
  for (const path of paths)
    for (let slash = path.indexOf('/'); slash > 0; slash = path.indexOf('/', slash + 1))
      if (paths.has(path.slice(0, slash)))
        throw new ProblemError(
          'invalid_request',
          `files names ${path.slice(0, slash)} both as a file and as the folder of ${path}; rename one`,
          { param: 'files' },
        );
}

/** Passes a body through and throws at its end, or as soon as it is too long, unless it is what was declared. */
async function* checked(body: ReadableStream<Uint8Array> | null, declared: UploadFile): AsyncGenerator<Uint8Array> {
  const hash = createHash('sha256');
  let sizeBytes = 0;
  for await (const chunk of body ?? []) {
    sizeBytes += chunk.byteLength;
    if (sizeBytes > declared.sizeBytes)
      throw mismatch(declared.path, `${declared.sizeBytes} bytes were declared, more were sent`);
    hash.update(chunk);
    yield chunk;
  }
  if (sizeBytes < declared.sizeBytes)
    throw mismatch(declared.path, `${declared.sizeBytes} bytes were declared, ${sizeBytes} were sent`);
  const sha256 = hash.digest('hex');
  if (sha256 !== declared.sha256)
    throw mismatch(declared.path, `SHA-256 ${declared.sha256} was declared, ${sha256} was received`);
}

function mismatch(path: string, what: string): ProblemError {
  return new ProblemError(
    'content_mismatch',
    `${path}: ${what}; nothing was kept. Send the file again, or create the upload anew if the file has changed`,
    { param: path },
  );
}

async function drain(body: ReadableStream<Uint8Array> | null): Promise<void> {
  for await (const chunk of body ?? []) void chunk;
}

function summary(paths: string[]): string {
  const shown = paths.slice(0, 10).join(', ');
  return paths.length > 10 ? `${shown} and ${paths.length - 10} more` : shown;
}
