/**
 * Files that clients send part by part: straight to the store where it has such a way, else through this server. Beside the files
 * of an upload lies `parts/<path>.json`, the id of the store's own upload, written once. Which parts are there, the store knows.
 */
import { z } from 'zod';
import type { PartUpload, UploadFile } from 'cherryq/contract';
import type { DeclaredPart, PartAccess, StoredPart } from '@cherryq/batch-jobs/storage';
import { decodeJson, encodeJson } from './job-log.ts';
import type { Clock, Store } from './ports.ts';
import { ProblemError } from './problems.ts';

const mebibyte = 2 ** 20;
const smallestPart = 8 * mebibyte;
/** The store allows 10,000. */
const mostParts = 5000;

/** Of a file's parts but the last; by the file's size alone, so that an upload goes on with the same parts. */
export function partBytesOf({ sizeBytes }: Pick<UploadFile, 'sizeBytes'>): number {
  return Math.max(smallestPart, Math.ceil(sizeBytes / mostParts / mebibyte) * mebibyte);
}

const sizesOf = (file: UploadFile): Omit<DeclaredPart, 'sha256'>[] => {
  const partBytes = partBytesOf(file);
  return Array.from({ length: Math.ceil(file.sizeBytes / partBytes) }, (_, index) => ({
    number: index + 1,
    start: index * partBytes,
    sizeBytes: Math.min(partBytes, file.sizeBytes - index * partBytes),
  }));
};

const recordSchema = z.object({ uploadId: z.string() });

export interface PartUploads {
  /**
   * Where to send parts of a file whose hashes are given.
   * @throws ProblemError (400) for a part that the file does not have, (409) when the store takes no parts
   */
  request(file: UploadFile, parts: readonly AskedPart[]): Promise<PartUpload>;
  /**
   * Keeps a part that is not there yet, by way of this server.
   * @param content its bytes, checked; not asked for when it is there
   * @throws ProblemError as `request`, and (409) when parts go straight to the store
   */
  put(file: UploadFile, part: AskedPart, content: (part: DeclaredPart) => AsyncIterable<Uint8Array>): Promise<void>;
  /** Makes the file of its parts.  @returns `missing` when there are not all, `mismatch` when the whole is not what was declared */
  finish(file: UploadFile): Promise<'there' | 'missing' | 'mismatch'>;
  /** Gives up what was begun. */
  abort(file: UploadFile): Promise<void>;
}

interface AskedPart {
  readonly number: number;
  readonly sha256: string;
}

/**
 * @param filesPrefix where the files go   @param recordsPrefix where to remember, both ending in a slash
 * @param ownUrl where this server takes a part, as a path
 */
export function createPartUploads(
  { store, clock }: { store: Store; clock: Clock },
  {
    filesPrefix,
    recordsPrefix,
    ownUrl,
  }: { filesPrefix: string; recordsPrefix: string; ownUrl: (file: UploadFile, part: AskedPart) => string },
): PartUploads {
  const access: PartAccess | undefined = store.direct ?? store.ownParts;
  const recordKey = (file: UploadFile): string => `${recordsPrefix}${file.path}.json`;

  async function readId(file: UploadFile): Promise<string | null> {
    const body = await store.get(recordKey(file));
    return body && recordSchema.parse(decodeJson(body)).uploadId;
  }

  /** The store's upload of a file; begun, or begun anew where the store has forgotten it. */
  async function open(file: UploadFile): Promise<{ uploadId: string; there: StoredPart[] }> {
    if (access === undefined)
      throw new ProblemError('conflict', `this server takes no parts: send ${file.path} whole, with PUT`);
    const key = filesPrefix + file.path;
    for (;;) {
      const known = await readId(file);
      const there = known === null ? null : await access.parts(key, known);
      if (known !== null && there !== null) return { uploadId: known, there };
      if (known !== null) await store.delete(recordKey(file));
      const uploadId = await access.begin(key);
      if (await store.put(recordKey(file), encodeJson({ uploadId }), { onlyIfAbsent: true }))
        return { uploadId, there: [] };
      await access.abort(key, uploadId);
    }
  }

  function declared(file: UploadFile, { number, sha256 }: AskedPart): DeclaredPart {
    const sizes = sizesOf(file);
    const size = sizes[number - 1];
    if (size !== undefined) return { ...size, sha256 };
    throw new ProblemError(
      'invalid_request',
      `${file.path} has ${sizes.length} parts of ${partBytesOf(file)} bytes; there is no part ${number}`,
      { param: 'parts' },
    );
  }

  const isThere = (there: readonly StoredPart[], { number, sha256 }: AskedPart): boolean =>
    there.some((part) => part.number === number && part.sha256 === sha256);

  return {
    async request(file, parts) {
      const { direct } = store;
      const { uploadId, there } = await open(file);
      const requests = parts.map(async (asked) => {
        const { number, start, sizeBytes, sha256 } = declared(file, asked);
        const { url, headers } =
          direct === undefined
            ? { url: ownUrl(file, asked), headers: {} }
            : await direct.partRequest(filesPrefix + file.path, uploadId, { number, sizeBytes, sha256 });
        return { number, start, sizeBytes, uploaded: isThere(there, asked), url, headers };
      });
      const expiresAt = direct && new Date(clock.now() + 1000 * direct.expiresInSeconds).toISOString();
      return {
        object: 'part_upload',
        path: file.path,
        partBytes: partBytesOf(file),
        expiresAt: expiresAt ?? null,
        parts: await Promise.all(requests),
      };
    },

    async put(file, asked, content) {
      const part = declared(file, asked);
      const { ownParts } = store;
      if (store.direct !== undefined || ownParts === undefined)
        throw new ProblemError(
          'conflict',
          `parts of ${file.path} do not go through this server; POST .../parts says where they go`,
        );
      const { uploadId, there } = await open(file);
      if (!isThere(there, asked)) await ownParts.putPart(filesPrefix + file.path, uploadId, part, content(part));
    },

    async finish(file) {
      const key = filesPrefix + file.path;
      const uploadId = access && (await readId(file));
      const there = access && uploadId ? await access.parts(key, uploadId) : null;
      // Another who asked may have just made it.
      if (!access || !uploadId || there === null) return (await store.head(key)) === null ? 'missing' : 'there';
      const byNumber = new Map(there.map((part) => [part.number, part]));
      const wanted = sizesOf(file);
      if (wanted.some(({ number, sizeBytes }) => byNumber.get(number)?.sizeBytes !== sizeBytes)) return 'missing';
      const parts = wanted.map(({ number }) => byNumber.get(number)).filter((part) => part !== undefined);
      if (!(await access.finish(key, uploadId, parts, file.sha256))) return 'mismatch';
      return (await store.head(key)) === null ? 'missing' : 'there';
    },

    async abort(file) {
      const uploadId = access && (await readId(file));
      if (access && uploadId) await access.abort(filesPrefix + file.path, uploadId);
    },
  };
}
