/**
 * Models and datasets: named sets of files that a client uploads once. Life: create with the list of files -> put each
 * file -> complete. Layout, under `tenants/<tenant>/<models|datasets>/<id>/`:
 *
 *     model.json | dataset.json   written at creation: name and declared files
 *     files/<path>                written whole or not at all, once length and SHA-256 are as declared
 *     ready.json                  written on completion; only then can a job use it
 */
import { createHash } from 'node:crypto';
import { LRUCache } from 'lru-cache';
import { checkIncoming, modelProblems, type IncomingCheck } from '@cherryq/batch-jobs/planning';
import { contentFingerprint, InputError } from '@cherryq/batch-jobs/storage';
import { z } from 'zod';
import {
  idSchema,
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
  /** Where to send parts of a declared file, straight to the store.  @throws ProblemError (409) when there is no such way */
  requestParts(
    tenant: string,
    id: string,
    request: { path: string; parts: readonly { number: number; sha256: string }[] },
  ): Promise<PartUpload>;
  /**
   * Makes it usable.
   * @throws ProblemError (409) naming the files that are missing, (422) naming what makes a model unusable
   */
  complete(tenant: string, id: string): Promise<Upload>;
  /** Removes it and its files. The caller has made sure that nothing uses it. */
  remove(tenant: string, id: string): Promise<void>;
  /** Of all of a tenant, as they were declared. */
  storedBytes(tenant: string): Promise<number>;
  /** Store prefix of its files, ending in a slash. */
  filesPrefix(tenant: string, id: string): string;
}

export function createUploads(kind: UploadKind, { store, clock }: { store: Store; clock: Clock }): Uploads {
  const allPrefix = (tenant: string): string => `tenants/${tenant}/${kind}s/`;
  const prefix = (tenant: string, id: string): string => `${allPrefix(tenant)}${id}/`;
  const recordKey = (tenant: string, id: string): string => `${prefix(tenant, id)}${kind}.json`;
  const readyKey = (tenant: string, id: string): string => `${prefix(tenant, id)}ready.json`;
  const filesPrefix = (tenant: string, id: string): string => `${prefix(tenant, id)}files/`;

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
    if (record === null)
      throw new ProblemError('not_found', `there is no ${kind} ${id}; it was deleted, or it is in another store`, {
        param: 'id',
      });
    return record;
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
    return {
      object: kind,
      ...record,
      status: has.isReady ? 'ready' : 'uploading',
      sizeBytes: record.files.reduce((sum, file) => sum + file.sizeBytes, 0),
      files: record.files.map((file) => ({
        ...file,
        uploaded: has.uploaded.has(file.path),
        partBytes: store.direct === undefined || file.sizeBytes === 0 ? null : partBytesOf(file),
      })),
    };
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
      { filesPrefix: filesPrefix(tenant, id), recordsPrefix: `${prefix(tenant, id)}parts/` },
    );

  return {
    filesPrefix,

    async requestParts(tenant, id, { path, parts }) {
      return partUploads(tenant, id).request(await declaredFile(tenant, id, path), parts);
    },

    async create(tenant, id, request) {
      const { name, files } = request;
      refuseNestedFiles(files);
      const createdAt = new Date(clock.now()).toISOString();
      const record: UploadRecord = { id, name, createdAt, fingerprint: contentFingerprint(files), files };
      // First what makes it found: an entry without a record is passed over.
      await Promise.all([
        store.put(indexKey(tenant, `${kind}s`, id), new Uint8Array()),
        store.put(`${fingerprintPrefix(tenant, record.fingerprint)}${id}`, new Uint8Array()),
      ]);
      const created = await store.put(recordKey(tenant, id), encodeJson(record), { onlyIfAbsent: true });
      return view(tenant, created ? record : await readRecord(tenant, id));
    },

    async created(tenant, id) {
      const record = await findRecord(tenant, id);
      if (record === null && (await store.head(deletedKey(tenant, id))) !== null)
        throw new ProblemError(
          'conflict',
          `the ${kind} that this Idempotency-Key made, ${id}, was deleted; use a new key`,
        );
      return record && viewOf(record, { isReady: false, uploaded: new Set() });
    },

    async find(tenant, id) {
      const record = await findRecord(tenant, id);
      return record && view(tenant, record);
    },

    async retrieve(tenant, id) {
      return view(tenant, await readRecord(tenant, id));
    },

    async list(tenant, { limit, after, fingerprint }) {
      const equal = fingerprint === undefined ? null : await idsOf(tenant, fingerprint);
      const { data, next } = await findNewest({
        limit,
        after,
        ids: (query) =>
          equal === null ? idsNewestFirst(store, tenant, `${kind}s`, query) : Promise.resolve(idsAfter(equal, query)),
        read: async (id) => {
          const record = await findRecord(tenant, id);
          return record && view(tenant, record);
        },
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
      await store.put(key, checked(body, declared, check), { onlyIfAbsent: true });
    },

    async complete(tenant, id) {
      const record = await readRecord(tenant, id);
      const uploaded = await uploadedPaths(tenant, id);
      const missing: string[] = [];
      for (const file of record.files)
        if (!uploaded.has(file.path) && !(await partUploads(tenant, id).finish(file))) missing.push(file.path);
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
      return view(tenant, record);
    },

    async storedBytes(tenant) {
      let sum = 0;
      for (let after: string | undefined; ;) {
        const ids = await idsNewestFirst(store, tenant, `${kind}s`, { after, limit: 1000 });
        for (const id of ids) for (const { sizeBytes } of (await findRecord(tenant, id))?.files ?? []) sum += sizeBytes;
        after = ids.at(-1);
        if (after === undefined) return sum;
      }
    },

    async remove(tenant, id) {
      const { fingerprint, files } = await readRecord(tenant, id);
      await store.put(deletedKey(tenant, id), new Uint8Array());
      for (const file of files) await partUploads(tenant, id).abort(file);
      // First what makes it usable, then what makes it visible, then the bulk, at last what finds it.
      await store.delete(readyKey(tenant, id));
      await store.delete(recordKey(tenant, id));
      await store.deletePrefix(prefix(tenant, id));
      await store.delete(`${fingerprintPrefix(tenant, fingerprint)}${id}`);
      await store.delete(indexKey(tenant, `${kind}s`, id));
    },
  };
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

/** Passes a body through and throws at its end, or as soon as it is too long, unless it is what was declared. */
async function* checked(
  body: ReadableStream<Uint8Array> | null,
  declared: UploadFile,
  check: IncomingCheck | null,
): AsyncGenerator<Uint8Array> {
  const hash = createHash('sha256');
  let sizeBytes = 0;
  for await (const chunk of body ?? []) {
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
  if (sha256 !== declared.sha256)
    throw mismatch(declared.path, `SHA-256 ${declared.sha256} was declared, ${sha256} was received`);
  forModel(() => check?.end());
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
