/**
 * Models and datasets: named sets of files that a client uploads once. Life: create with the list of files -> put each
 * file -> complete. Layout, under `tenants/<tenant>/<models|datasets>/<id>/`:
 *
 *     model.json | dataset.json   written at creation: name and declared files
 *     files/<path>                written whole or not at all, once length and SHA-256 are as declared
 *     ready.json                  written on completion; only then can a job use it
 *
 * A model can be imported (`imports.ts`) instead. Then `model.json` comes last, and until then there are
 *
 *     import.json                 written at creation: the source, and the files that it has
 *     import/<path>.json          the hash of a file that is there
 *     failed.json                 why it will not be ready
 *
 * `tenants/<tenant>/unfinished/<models|datasets>/<id>` is there until one is ready or has failed.
 */
import { createHash } from 'node:crypto';
import { LRUCache } from 'lru-cache';
import { checkIncoming, modelProblems, type IncomingCheck } from '@cherryq/batch-jobs/planning';
import { contentFingerprint, InputError } from '@cherryq/batch-jobs/storage';
import { decodeTime } from 'ulid';
import { z } from 'zod';
import {
  idSchema,
  modelSourceSchema,
  timestampSchema,
  uploadFileSchema,
  type CreateUpload,
  type Dataset,
  type Model,
  type Page,
  type PartUpload,
  type UploadFile,
} from 'cherryq/contract';
import { decodeJson, deletedKey, encodeJson } from './job-log.ts';
import { listNames, namesNewestFirst } from './list-keys.ts';
import { findNewest, idsAfter, idsNewestFirst, indexKey } from './newest-first.ts';
import { createPartUploads, partBytesOf, type PartUploads } from './part-uploads.ts';
import type { Clock, Store } from './ports.ts';
import { modelProblem, ProblemError } from './problems.ts';
import type { SourceListing } from './sources.ts';

export type Upload = Model | Dataset;
export type UploadKind = Upload['object'];

const recordSchema = z.object({
  id: idSchema,
  name: z.string(),
  createdAt: timestampSchema,
  fingerprint: z.string(),
  files: z.array(uploadFileSchema),
  source: modelSourceSchema.nullable().default(null),
});
type UploadRecord = z.infer<typeof recordSchema>;

const importSchema = z.object({
  id: idSchema,
  name: z.string(),
  createdAt: timestampSchema,
  source: modelSourceSchema,
  files: z.array(z.object({ path: z.string(), sizeBytes: z.number(), sha256: z.string().nullable() })),
});
export type ImportRecord = z.infer<typeof importSchema>;
const importedSchema = z.object({ sha256: z.string() });
const importErrorSchema = z.object({ code: z.string(), message: z.string(), param: z.string().nullable() });
type ImportError = z.infer<typeof importErrorSchema>;

export interface Uploads {
  /** Creates under this id; an upload that exists is returned as it is. */
  create(tenant: string, id: string, request: CreateUpload): Promise<Upload>;
  /** Creates a model that is to be imported, as `create`. */
  createImport(tenant: string, id: string, request: { name: string; listing: SourceListing }): Promise<Upload>;
  /** One that has not ended; null when there is none. */
  findImport(tenant: string, id: string): Promise<ImportRecord | null>;
  /** Imports that have not ended. */
  openImports(): AsyncGenerator<{ tenant: string; id: string }>;
  /** Hash of a file of an import that is there. */
  importedHash(tenant: string, id: string, path: string): Promise<string | null>;
  keepImported(tenant: string, id: string, path: string, sha256: string): Promise<void>;
  finishImport(tenant: string, record: ImportRecord, files: readonly UploadFile[]): Promise<void>;
  failImport(tenant: string, id: string, error: ImportError): Promise<void>;
  /** As it was when it had been created; null when it was not. */
  created(tenant: string, id: string): Promise<Upload | null>;
  /** @returns null when there is none under this id */
  find(tenant: string, id: string): Promise<Upload | null>;
  retrieve(tenant: string, id: string): Promise<Upload>;
  /** Newest first. */
  list(tenant: string, query: { limit: number; after?: string; fingerprint?: string }): Promise<Page<Upload>>;
  /**
   * Stores a declared file while checking it; a file that is there already is left alone. Of a model's files what can be told
   * early is told before the rest is read.
   * @param lengthHeader the request's Content-Length, if it has one
   */
  putFile(
    tenant: string,
    id: string,
    path: string,
    body: ReadableStream<Uint8Array> | null,
    lengthHeader?: string,
  ): Promise<void>;
  /** Where to send parts of a declared file, to the store or to this server.  @throws ProblemError (409) when it takes none */
  requestParts(
    tenant: string,
    id: string,
    request: { path: string; parts: readonly { number: number; sha256: string }[] },
  ): Promise<PartUpload>;
  /** Keeps one part of a declared file while checking it, as `putFile`; one that is there already is left alone. */
  putPart(
    tenant: string,
    id: string,
    part: { path: string; number: number; sha256: string },
    body: ReadableStream<Uint8Array> | null,
    lengthHeader?: string,
  ): Promise<void>;
  /**
   * Makes it usable.
   * @throws ProblemError (409) naming the files that are missing, (422) naming a file in parts that is not what was declared, or
   * what makes a model unusable
   */
  complete(tenant: string, id: string): Promise<Upload>;
  /** Removes it and its files. The caller has made sure that nothing uses it. */
  remove(tenant: string, id: string): Promise<void>;
  /** Of all of a tenant, as they were declared. */
  storedBytes(tenant: string): Promise<number>;
  /** Removes what was begun before a time and is not ready, of all tenants.  @returns how many */
  removeAbandonedBefore(time: number): Promise<number>;
  /** Store prefix of its files, ending in a slash. */
  filesPrefix(tenant: string, id: string): string;
}

/** @param copying bytes of the file that is being imported, by the model's id */
export function createUploads(
  kind: UploadKind,
  { store, clock, copying = new Map() }: { store: Store; clock: Clock; copying?: ReadonlyMap<string, number> },
): Uploads {
  const takesParts = store.direct !== undefined || store.ownParts !== undefined;
  const allPrefix = (tenant: string): string => `tenants/${tenant}/${kind}s/`;
  const prefix = (tenant: string, id: string): string => `${allPrefix(tenant)}${id}/`;
  const recordKey = (tenant: string, id: string): string => `${prefix(tenant, id)}${kind}.json`;
  const readyKey = (tenant: string, id: string): string => `${prefix(tenant, id)}ready.json`;
  const filesPrefix = (tenant: string, id: string): string => `${prefix(tenant, id)}files/`;

  const importKey = (tenant: string, id: string): string => `${prefix(tenant, id)}import.json`;
  const importedKey = (tenant: string, id: string, path: string): string => `${prefix(tenant, id)}import/${path}.json`;
  const failedKey = (tenant: string, id: string): string => `${prefix(tenant, id)}failed.json`;
  const unfinishedPrefix = (tenant: string): string => `tenants/${tenant}/unfinished/${kind}s/`;

  const fingerprintPrefix = (tenant: string, fingerprint: string): string =>
    `tenants/${tenant}/fingerprints/${kind}s/${fingerprint}/`;

  /** Those of equal content, newest first. */
  const idsOf = (tenant: string, fingerprint: string): Promise<string[]> =>
    namesNewestFirst(store, fingerprintPrefix(tenant, fingerprint));

  /** A record never changes; whether it is still there, `ready.json` or another look says. */
  const known = new LRUCache<string, UploadRecord>({ max: 500 });

  async function findRecord(tenant: string, id: string): Promise<UploadRecord | null> {
    const key = recordKey(tenant, id);
    const cached = known.get(key);
    if (cached !== undefined && (await store.head(key)) !== null) return cached;
    const body = await store.get(key);
    if (body === null) return null;
    const record = recordSchema.parse(decodeJson(body));
    known.set(key, record);
    return record;
  }

  async function readRecord(tenant: string, id: string): Promise<UploadRecord> {
    const record = await findRecord(tenant, id);
    if (record === null && (await readImport(tenant, id)) !== null)
      throw new ProblemError('conflict', `${kind} ${id} is imported by the server; nothing can be sent to it`, {
        param: 'id',
      });
    if (record === null)
      throw new ProblemError('not_found', `there is no ${kind} ${id}; it was deleted, or it is in another store`, {
        param: 'id',
      });
    return record;
  }

  async function readImport(tenant: string, id: string): Promise<ImportRecord | null> {
    if (kind !== 'model') return null;
    const body = await store.get(importKey(tenant, id));
    return body && importSchema.parse(decodeJson(body));
  }

  async function hashOf(tenant: string, id: string, path: string): Promise<string | null> {
    const body = await store.get(importedKey(tenant, id, path));
    return body && importedSchema.parse(decodeJson(body)).sha256;
  }

  async function importView(tenant: string, record: ImportRecord): Promise<Model> {
    const { id, name, createdAt, source } = record;
    const failed = await store.get(failedKey(tenant, id));
    const files: Model['files'] = [];
    for (const { path, sizeBytes } of record.files) {
      const sha256 = await hashOf(tenant, id, path);
      if (sha256 !== null) files.push({ path, sizeBytes, sha256, uploaded: true, partBytes: null });
    }
    return {
      object: 'model',
      id,
      name,
      createdAt,
      status: failed === null ? 'importing' : 'failed',
      fingerprint: null,
      sizeBytes: sumOf(record.files),
      files,
      source,
      importedBytes: sumOf(files) + (copying.get(id) ?? 0),
      error: failed && importErrorSchema.parse(decodeJson(failed)),
    };
  }

  /** One that is uploaded, or imported. */
  async function findAny(tenant: string, id: string): Promise<Upload | null> {
    const record = await findRecord(tenant, id);
    if (record !== null) return view(tenant, record);
    const imported = await readImport(tenant, id);
    return imported && importView(tenant, imported);
  }

  async function uploadedPaths(tenant: string, id: string): Promise<Set<string>> {
    const paths = new Set<string>();
    for await (const path of listNames(store, filesPrefix(tenant, id))) paths.add(path);
    return paths;
  }

  async function view(tenant: string, record: UploadRecord): Promise<Upload> {
    const isReady = (await store.head(readyKey(tenant, record.id))) !== null;
    // Of one that is ready, all files are there.
    const uploaded = isReady ? new Set(pathsOf(record.files)) : await uploadedPaths(tenant, record.id);
    return viewOf(record, { isReady, uploaded });
  }

  function viewOf(record: UploadRecord, has: { isReady: boolean; uploaded: ReadonlySet<string> }): Upload {
    const { source, ...fields } = record;
    const sizeBytes = sumOf(record.files);
    const common = {
      ...fields,
      status: has.isReady ? ('ready' as const) : ('uploading' as const),
      sizeBytes,
      files: record.files.map((file) => ({
        ...file,
        uploaded: has.uploaded.has(file.path),
        partBytes: !takesParts || file.sizeBytes === 0 ? null : partBytesOf(file),
      })),
    };
    if (kind === 'dataset') return { object: kind, ...common };
    return { object: kind, ...common, source, importedBytes: source && sizeBytes, error: null };
  }

  async function declaredFile(tenant: string, id: string, path: string): Promise<UploadFile> {
    const record = await readRecord(tenant, id);
    const declared = record.files.find((file) => file.path === path);
    if (declared !== undefined) return declared;
    throw new ProblemError(
      'not_found',
      `${kind} ${id} declares no file ${path}; it declares ${summary(pathsOf(record.files))}`,
      { param: 'path' },
    );
  }

  const partUploads = (tenant: string, id: string): PartUploads =>
    createPartUploads(
      { store, clock },
      {
        filesPrefix: filesPrefix(tenant, id),
        recordsPrefix: `${prefix(tenant, id)}parts/`,
        ownUrl: ({ path }, { number, sha256 }) =>
          `/v1/${kind}s/${id}/parts/${number}/${path.split('/').map(encodeURIComponent).join('/')}?sha256=${sha256}`,
      },
    );

  const uploads: Uploads = {
    filesPrefix,

    async requestParts(tenant, id, { path, parts }) {
      return partUploads(tenant, id).request(await declaredFile(tenant, id, path), parts);
    },

    async create(tenant, id, request) {
      const { name, files } = request;
      refuseNestedFiles(files);
      const createdAt = new Date(clock.now()).toISOString();
      const record: UploadRecord = { id, name, createdAt, fingerprint: contentFingerprint(files), files, source: null };
      // First what makes it found: an entry without a record is passed over.
      await Promise.all([
        store.put(unfinishedPrefix(tenant) + id, new Uint8Array(), { durable: false }),
        store.put(indexKey(tenant, `${kind}s`, id), new Uint8Array()),
        store.put(`${fingerprintPrefix(tenant, record.fingerprint)}${id}`, new Uint8Array()),
      ]);
      const created = await store.put(recordKey(tenant, id), encodeJson(record), { onlyIfAbsent: true });
      return view(tenant, created ? record : await readRecord(tenant, id));
    },

    async createImport(tenant, id, { name, listing: { url, revision, files } }) {
      const createdAt = new Date(clock.now()).toISOString();
      await store.put(unfinishedPrefix(tenant) + id, new Uint8Array());
      await store.put(indexKey(tenant, `${kind}s`, id), new Uint8Array());
      const record: ImportRecord = { id, name, createdAt, source: { url, revision }, files };
      await store.put(importKey(tenant, id), encodeJson(record), { onlyIfAbsent: true });
      const made = await findAny(tenant, id);
      if (made === null) throw new Error(`${id} was deleted while it was made`);
      return made;
    },

    async findImport(tenant, id) {
      if ((await store.head(failedKey(tenant, id))) !== null) return null;
      return (await findRecord(tenant, id)) === null ? readImport(tenant, id) : null;
    },

    async *openImports() {
      for (const tenant of await store.folders('tenants/'))
        for await (const id of listNames(store, unfinishedPrefix(tenant)))
          if ((await store.head(importKey(tenant, id))) !== null) yield { tenant, id };
    },

    importedHash: hashOf,

    async keepImported(tenant, id, path, sha256) {
      await store.put(importedKey(tenant, id, path), encodeJson({ sha256 }));
    },

    async finishImport(tenant, { id, name, createdAt, source }, files) {
      const fingerprint = contentFingerprint(files);
      const record: UploadRecord = { id, name, createdAt, fingerprint, files: [...files], source };
      await store.put(`${fingerprintPrefix(tenant, fingerprint)}${id}`, new Uint8Array());
      await store.put(readyKey(tenant, id), encodeJson({ completedAt: new Date(clock.now()).toISOString() }));
      // Last: until it is there, the import is what is seen.
      await store.put(recordKey(tenant, id), encodeJson(record), { onlyIfAbsent: true });
      await store.delete(unfinishedPrefix(tenant) + id);
    },

    async failImport(tenant, id, error) {
      await store.put(failedKey(tenant, id), encodeJson(error), { onlyIfAbsent: true });
      // What was copied is of no use; what failed can still be seen, until it is deleted.
      await store.deletePrefix(filesPrefix(tenant, id));
      await store.deletePrefix(`${prefix(tenant, id)}import/`);
    },

    async created(tenant, id) {
      const record = await findRecord(tenant, id);
      const imported = record === null ? await readImport(tenant, id) : null;
      if (imported !== null) return importView(tenant, imported);
      if (record === null && (await store.head(deletedKey(tenant, id))) !== null)
        throw new ProblemError(
          'conflict',
          `the ${kind} that this Idempotency-Key made, ${id}, was deleted; use a new key`,
        );
      return record && viewOf(record, { isReady: false, uploaded: new Set() });
    },

    find: findAny,

    async retrieve(tenant, id) {
      return (await findAny(tenant, id)) ?? view(tenant, await readRecord(tenant, id));
    },

    async list(tenant, { limit, after, fingerprint }) {
      const equal = fingerprint === undefined ? null : await idsOf(tenant, fingerprint);
      const { data, next } = await findNewest({
        limit,
        after,
        ids: (query) =>
          equal === null ? idsNewestFirst(store, tenant, `${kind}s`, query) : Promise.resolve(idsAfter(equal, query)),
        read: (id) => findAny(tenant, id),
      });
      return { object: 'list', data, hasMore: next !== null, next };
    },

    async putFile(tenant, id, path, body, lengthHeader) {
      const { files } = await readRecord(tenant, id);
      const declared = await declaredFile(tenant, id, path);
      if (lengthHeader !== undefined && Number(lengthHeader) !== declared.sizeBytes)
        throw mismatch(path, `${declared.sizeBytes} bytes were declared, Content-Length says ${lengthHeader}`);
      const key = `${filesPrefix(tenant, id)}${path}`;
      if (await store.head(key)) return drain(body);
      const check = kind === 'model' ? forModel(() => checkIncoming(declared, pathsOf(files))) : null;
      await store.put(key, checkedFile(body ?? [], declared, check), { onlyIfAbsent: true });
    },

    async putPart(tenant, id, { path, number, sha256 }, body, lengthHeader) {
      const { files } = await readRecord(tenant, id);
      const declared = await declaredFile(tenant, id, path);
      let isRead = false;
      const content = ({ sizeBytes }: { sizeBytes: number }): AsyncGenerator<Uint8Array> => {
        if (lengthHeader !== undefined && Number(lengthHeader) !== sizeBytes)
          throw mismatch(path, `part ${number} has ${sizeBytes} bytes, Content-Length says ${lengthHeader}`);
        isRead = true;
        // A header of weights is in the first part.
        const check = kind === 'model' && number === 1 ? forModel(() => checkIncoming(declared, pathsOf(files))) : null;
        const beginning = check && { add: check.add.bind(check), end: () => undefined };
        return checkedFile(body ?? [], { path, sizeBytes, sha256 }, beginning);
      };
      if ((await store.head(`${filesPrefix(tenant, id)}${path}`)) === null)
        await partUploads(tenant, id).put(declared, { number, sha256 }, content);
      if (!isRead) await drain(body);
    },

    async complete(tenant, id) {
      const record = await readRecord(tenant, id);
      const uploaded = await uploadedPaths(tenant, id);
      const missing: string[] = [];
      for (const file of record.files) {
        const end = uploaded.has(file.path) ? 'there' : await partUploads(tenant, id).finish(file);
        if (end === 'mismatch') throw mismatch(file.path, `its parts together do not have the SHA-256 ${file.sha256}`);
        if (end === 'missing') missing.push(file.path);
      }
      if (missing.length > 0)
        throw new ProblemError(
          'conflict',
          `${kind} ${id} lacks ${missing.length} of its ${record.files.length} files: ${summary(missing)}; put them first`,
          { param: 'files' },
        );
      if (kind === 'model' && (await store.head(readyKey(tenant, id))) === null) {
        const [first, ...rest] = await modelProblems(store, filesPrefix(tenant, id));
        if (first !== undefined) throw modelProblem([first, ...rest], uploadAnew);
      }
      const completedAt = new Date(clock.now()).toISOString();
      await store.put(readyKey(tenant, id), encodeJson({ completedAt }), { onlyIfAbsent: true });
      await store.delete(unfinishedPrefix(tenant) + id);
      return view(tenant, record);
    },

    async storedBytes(tenant) {
      let sum = 0;
      for (let after: string | undefined; ;) {
        const ids = await idsNewestFirst(store, tenant, `${kind}s`, { after, limit: 1000 });
        for (const id of ids)
          sum += sumOf(((await findRecord(tenant, id)) ?? (await readImport(tenant, id)))?.files ?? []);
        after = ids.at(-1);
        if (after === undefined) return sum;
      }
    },

    async remove(tenant, id) {
      const record = await findRecord(tenant, id);
      if (record === null && (await readImport(tenant, id)) === null) await readRecord(tenant, id);
      await store.put(deletedKey(tenant, id), new Uint8Array());
      for (const file of record?.files ?? []) await partUploads(tenant, id).abort(file);
      // First what makes it usable, then what makes it visible, then the bulk, at last what finds it.
      await store.delete(readyKey(tenant, id));
      await store.delete(recordKey(tenant, id));
      await store.delete(importKey(tenant, id));
      await store.deletePrefix(prefix(tenant, id));
      if (record !== null) await store.delete(`${fingerprintPrefix(tenant, record.fingerprint)}${id}`);
      await store.delete(indexKey(tenant, `${kind}s`, id));
      await store.delete(unfinishedPrefix(tenant) + id);
    },

    async removeAbandonedBefore(time) {
      let count = 0;
      for (const tenant of await store.folders('tenants/'))
        for await (const id of listNames(store, unfinishedPrefix(tenant))) {
          // Ids begin with the time.
          if (decodeTime(id) >= time) break;
          const upload = await findAny(tenant, id);
          if (upload !== null && upload.status !== 'ready') {
            await uploads.remove(tenant, id);
            count++;
          } else await store.delete(unfinishedPrefix(tenant) + id);
        }
      return count;
    },
  };
  return uploads;
}

/** A path cannot be a file and a folder at once. */
function refuseNestedFiles(files: readonly UploadFile[]): void {
  const paths = new Set(pathsOf(files));
  for (const path of paths)
    for (let slash = path.indexOf('/'); slash > 0; slash = path.indexOf('/', slash + 1))
      if (paths.has(path.slice(0, slash)))
        throw new ProblemError(
          'invalid_request',
          `files names ${path.slice(0, slash)} both as a file and as the folder of ${path}; rename one`,
          { param: 'files' },
        );
}

/**
 * Passes a body through and throws at its end, or as soon as it is too long, unless it is what was declared.
 * @param onHash called at the end, with the SHA-256
 */
export async function* checkedFile(
  body: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  declared: Omit<UploadFile, 'sha256'> & { sha256: string | null },
  check: IncomingCheck | null,
  onHash: (sha256: string) => void = () => undefined,
): AsyncGenerator<Uint8Array> {
  const hash = createHash('sha256');
  let sizeBytes = 0;
  for await (const chunk of body) {
    sizeBytes += chunk.byteLength;
    if (sizeBytes > declared.sizeBytes)
      throw mismatch(declared.path, `${declared.sizeBytes} bytes were declared, more were sent`);
    hash.update(chunk);
    forModel(() => check?.add(chunk));
    yield chunk;
  }
  if (sizeBytes < declared.sizeBytes)
    throw mismatch(declared.path, `${declared.sizeBytes} bytes were declared, ${sizeBytes} were sent`);
  const sha256 = hash.digest('hex');
  if (declared.sha256 !== null && sha256 !== declared.sha256)
    throw mismatch(declared.path, `SHA-256 ${declared.sha256} was declared, ${sha256} was received`);
  forModel(() => check?.end());
  onHash(sha256);
}

const uploadAnew = 'Create the upload anew once that is mended.';

/** @throws ProblemError for what the trainer does not take */
function forModel<Result>(check: () => Result): Result {
  try {
    return check();
  } catch (error) {
    throw error instanceof InputError ? modelProblem([error], uploadAnew) : error;
  }
}

export const sumOf = (files: readonly { sizeBytes: number }[]): number =>
  files.reduce((sum, file) => sum + file.sizeBytes, 0);
const pathsOf = (files: readonly UploadFile[]): string[] => files.map(({ path }) => path);

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
