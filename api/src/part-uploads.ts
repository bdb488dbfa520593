/**
 * Files that clients send straight to the store, part by part, where the store has such a way: beside the files of an upload
 * lies `parts/<path>.json`, the id of the store's own upload, written once. Which parts are there, the store knows.
 */
import { z } from 'zod';
import type { PartUpload, UploadFile } from 'cherryq/contract';
import type { DirectAccess, StoredPart } from '@cherryq/batch-jobs/storage';
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

const sizesOf = (file: UploadFile): { number: number; start: number; sizeBytes: number }[] => {
  const partBytes = partBytesOf(file);
  return Array.from({ length: Math.ceil(file.sizeBytes / partBytes) }, (_, index) => ({
    number: index + 1,
    start: index * partBytes,
    sizeBytes: Math.min(partBytes, file.sizeBytes - index * partBytes),
  }));
};

const recordSchema = z.object({ uploadId: z.string() });

export interface PartUploads {
  /** Where to send parts of a file whose hashes are given.  @throws ProblemError (409) when the store has no such way */
  request(file: UploadFile, parts: readonly { number: number; sha256: string }[]): Promise<PartUpload>;
  /** Makes the file of its parts.  @returns false when parts of it are missing, or none was ever sent */
  finish(file: UploadFile): Promise<boolean>;
  /** Gives up what was begun. */
  abort(file: UploadFile): Promise<void>;
}

/** @param filesPrefix where the files go   @param recordsPrefix where to remember, both ending in a slash */
export function createPartUploads(
  { store, clock }: { store: Store; clock: Clock },
  { filesPrefix, recordsPrefix }: { filesPrefix: string; recordsPrefix: string },
): PartUploads {
  const recordKey = (file: UploadFile): string => `${recordsPrefix}${file.path}.json`;

  async function readId(file: UploadFile): Promise<string | null> {
    const body = await store.get(recordKey(file));
    return body && recordSchema.parse(decodeJson(body)).uploadId;
  }

  /** The store's upload of a file; begun, or begun anew where the store has forgotten it. */
  async function open(direct: DirectAccess, file: UploadFile): Promise<{ uploadId: string; there: StoredPart[] }> {
    const key = filesPrefix + file.path;
    for (;;) {
      const known = await readId(file);
      const there = known === null ? null : await direct.parts(key, known);
      if (known !== null && there !== null) return { uploadId: known, there };
      if (known !== null) await store.delete(recordKey(file));
      const uploadId = await direct.begin(key);
      if (await store.put(recordKey(file), encodeJson({ uploadId }), { onlyIfAbsent: true }))
        return { uploadId, there: [] };
      await direct.abort(key, uploadId);
    }
  }

  return {
    async request(file, parts) {
      const { direct } = store;
      if (direct === undefined)
        throw new ProblemError('conflict', `files go through this server: send ${file.path} whole, with PUT`);
      const sizes = sizesOf(file);
      const { uploadId, there } = await open(direct, file);
      const requests = parts.map(async ({ number, sha256 }) => {
        const size = sizes[number - 1];
        if (size === undefined)
          throw new ProblemError(
            'invalid_request',
            `${file.path} has ${sizes.length} parts of ${partBytesOf(file)} bytes; there is no part ${number}`,
            { param: 'parts' },
          );
        const uploaded = there.some((part) => part.number === number && part.sha256 === sha256);
        const { url, headers } = await direct.partRequest(filesPrefix + file.path, uploadId, { ...size, sha256 });
        return { ...size, uploaded, url, headers };
      });
      return {
        object: 'part_upload',
        path: file.path,
        partBytes: partBytesOf(file),
        expiresAt: new Date(clock.now() + 1000 * direct.expiresInSeconds).toISOString(),
        parts: await Promise.all(requests),
      };
    },

    async finish(file) {
      const { direct } = store;
      const uploadId = direct && (await readId(file));
      if (!direct || !uploadId) return false;
      const key = filesPrefix + file.path;
      const there = await direct.parts(key, uploadId);
      if (there === null) return false;
      const byNumber = new Map(there.map((part) => [part.number, part]));
      const wanted = sizesOf(file);
      if (wanted.some(({ number, sizeBytes }) => byNumber.get(number)?.sizeBytes !== sizeBytes)) return false;
      await direct.finish(
        key,
        uploadId,
        wanted.map(({ number }) => byNumber.get(number)).filter((part) => part !== undefined),
      );
      return (await store.head(key)) !== null;
    },

    async abort(file) {
      const { direct } = store;
      const uploadId = direct && (await readId(file));
      if (direct && uploadId) await direct.abort(filesPrefix + file.path, uploadId);
    },
  };
}
