/**
 * Objects that come to a folder store in parts, as S3 has multipart uploads. An upload is a folder of its own, outside the keys:
 *
 *     .tmp/parts-<uuid>/data                             the object, each part at its place
 *                      /<number>-<sizeBytes>-<sha256>    an empty file for each part whose bytes are on the disk
 *
 * A part gets its file last, so a crash loses at most the parts that were under way. The data gets its name in one step, after
 * it was read as a whole for its hash: it is never copied, and what two writers of one part may have mixed is found.
 */
import { createHash, randomUUID } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open, readdir, rm, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { TransientError } from '../errors.ts';
import { hasCode, unlessMissing, writeError, writeFully } from './folder-files.ts';
import type { DeclaredPart, OwnParts, StoredPart } from './store.ts';

export interface FolderPartsOptions {
  /** Where to write what is not yet an object; made. */
  readonly folder: () => Promise<string>;
  /** Makes an object of a file whose bytes are on the disk; one that is there already is left alone. */
  readonly name: (file: string, key: string) => Promise<void>;
}

export const partsPrefix = 'parts-';
const dataName = 'data';

export function createFolderParts({ folder, name }: FolderPartsOptions): OwnParts {
  /** Whoever asks again while an object is read joins those who wait. */
  const finishing = new Map<string, Promise<boolean>>();
  const writing = new Map<string, Set<Promise<void>>>();
  const placeOf = async (uploadId: string): Promise<string> => join(await folder(), uploadId);

  async function partsAt(place: string): Promise<StoredPart[] | null> {
    const names = await unlessMissing(readdir(place));
    if (names === null) return null;
    return names.flatMap((etag) => {
      const [, number, sizeBytes, sha256] = /^(\d+)-(\d+)-([0-9a-f]{64})$/.exec(etag) ?? [];
      return sha256 === undefined ? [] : [{ number: Number(number), sizeBytes: Number(sizeBytes), sha256, etag }];
    });
  }

  async function write(
    key: string,
    uploadId: string,
    { number, start, sizeBytes, sha256 }: DeclaredPart,
    body: AsyncIterable<Uint8Array>,
  ): Promise<void> {
    const place = await placeOf(uploadId);
    const there = await partsAt(place);
    if (there === null)
      throw new TransientError(
        `the parts of ${key} were given up or put together meanwhile; ask again where to send them`,
      );
    // What is written over is no longer there.
    for (const part of there) if (part.number === number) await unlessMissing(unlink(join(place, part.etag)));
    try {
      const file = await open(join(place, dataName), 'r+');
      try {
        let position = start;
        for await (const chunk of body) {
          await writeFully(file, chunk, position);
          position += chunk.length;
        }
        await file.datasync();
      } finally {
        await file.close();
      }
      await (await open(join(place, `${number}-${sizeBytes}-${sha256}`), 'w')).close();
    } catch (cause) {
      throw writeError(cause, key, `part ${number} of ${sizeBytes} bytes`);
    }
  }

  async function finish(key: string, uploadId: string, sha256: string): Promise<boolean> {
    // Nobody writes into what is looked at; who comes later finds it gone.
    await Promise.allSettled([...(writing.get(uploadId) ?? [])]);
    const place = await placeOf(uploadId);
    const data = join(place, dataName);
    const hash = createHash('sha256');
    for await (const chunk of createReadStream(data, { highWaterMark: 2 ** 20 })) hash.update(chunk as Buffer);
    const isWhole = hash.digest('hex') === sha256;
    if (isWhole) {
      const file = await open(data, 'r+');
      await file.sync().finally(() => file.close());
      await name(data, key);
    }
    await rm(place, { recursive: true, force: true });
    return isWhole;
  }

  return {
    async begin(key) {
      const uploadId = `${partsPrefix}${randomUUID()}`;
      const place = await placeOf(uploadId);
      try {
        await mkdir(place);
        await (await open(join(place, dataName), 'wx')).close();
      } catch (cause) {
        throw writeError(cause, key, 'in parts');
      }
      return uploadId;
    },

    async putPart(key, uploadId, part, body) {
      await finishing.get(uploadId);
      const writers = writing.get(uploadId) ?? new Set();
      const written = write(key, uploadId, part, body);
      writing.set(uploadId, writers.add(written));
      try {
        await written;
      } finally {
        writers.delete(written);
        if (writers.size === 0) writing.delete(uploadId);
      }
    },

    parts: async (_, uploadId) => partsAt(await placeOf(uploadId)),

    finish(key, uploadId, _, sha256) {
      const running =
        finishing.get(uploadId) ??
        finish(key, uploadId, sha256)
          .catch((error: unknown) => {
            // Another process has finished or given it up.
            if (hasCode(error, 'ENOENT')) return true;
            throw error;
          })
          .finally(() => finishing.delete(uploadId));
      finishing.set(uploadId, running);
      return running;
    },

    async abort(_, uploadId) {
      await rm(await placeOf(uploadId), { recursive: true, force: true });
    },
  };
}
