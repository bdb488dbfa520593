/**
 * The store in a folder, key for key as a bucket has it: the key `a/b/c` is the file `a/b/c` under the root.
 *
 * A write goes to a file in `.tmp/` on the same file system, is flushed to the disk, and then takes its name in one step:
 * `rename`, or `link` where the name must not exist yet. So a reader sees a whole object or none, two exclusive writers
 * never both win, and a crash leaves at most a file in `.tmp/`, which the next writer removes once it is an hour old
 * (objects in parts, of `folder-parts.ts`: a month).
 * Symbolic links under the root are not objects: reads and lists pass over them, writes through them are refused.
 * It does not lock against programs that write into the folder by other means.
 */
import { randomUUID } from 'node:crypto';
import { constants } from 'node:fs';
import { link, lstat, mkdir, open, readdir, realpath, rename, rm, rmdir, stat, statfs, unlink } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import type { Dirent } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { InputError } from '../errors.ts';
import { rangeWithin } from './byte-range.ts';
import { hasCode, maxTransferBytes, unlessMissing, writeError, writeFully } from './folder-files.ts';
import { createFolderParts, partsPrefix } from './folder-parts.ts';
import {
  compareKeys,
  deletionParts,
  folderSegments,
  isSegment,
  keySegments,
  prefixParts,
  temporaryFolder,
} from './keys.ts';
import type { ByteRange, OwnParts, PutOptions, Store, StoredObject } from './store.ts';

const staleAfterMs = 3_600_000;
/** Of an object in parts, from its newest part on: whoever sends it may take a rest. */
const stalePartsAfterMs = 30 * 24 * 3_600_000;
const streamChunkBytes = 2 ** 18;
/** What is written is sent to the disk after so many bytes, while more are made, so that little is left to do at the end. */
const flushEveryBytes = 2 ** 26;
/** A concurrent `delete` may prune a folder just before a name is given in it; so often the folder is made again. */
const placeAttempts = 10;

interface Flush {
  readonly running: Promise<void>;
  /** Begins once `running` has ended, for names that were given after that had begun. */
  next: Promise<void> | null;
}

interface Entry {
  name: string;
  isFolder: boolean;
}

export class FolderStore implements Store {
  readonly #root: string;
  #realRoot: string | undefined;
  #writable: Promise<void> | undefined;
  /** Of each folder that is being flushed. */
  readonly #flushes = new Map<string, Flush>();
  readonly ownParts: OwnParts;

  /** @param rootFolder made by the first write if it does not exist; reading never changes anything in it */
  constructor(rootFolder: string) {
    this.#root = resolve(rootFolder);
    this.ownParts = createFolderParts({
      folder: async () => {
        await this.#makeWritable();
        return join(this.#root, temporaryFolder);
      },
      name: async (file, key) => {
        const keep = { onlyIfAbsent: true, durable: true };
        await this.#place(keySegments(key), keep, (path) => link(file, path));
      },
    });
  }

  async get(key: string, range?: ByteRange): Promise<Uint8Array | null> {
    const object = await this.#openObject(key);
    if (object === null) return null;
    const { file, sizeBytes } = object;
    try {
      const { start, end } = rangeWithin(sizeBytes, range);
      const bytes = new Uint8Array(end - start);
      const length = await readFully(file, bytes, start);
      return length === bytes.length ? bytes : bytes.slice(0, length);
    } finally {
      await file.close();
    }
  }

  async read(key: string, start: number, into: Uint8Array): Promise<number | null> {
    const object = await this.#openObject(key);
    if (object === null) return null;
    try {
      return await readFully(object.file, into, start);
    } finally {
      await object.file.close();
    }
  }

  async stream(key: string, range?: ByteRange): Promise<ReadableStream<Uint8Array> | null> {
    const object = await this.#openObject(key);
    if (object === null) return null;
    const { file, sizeBytes } = object;
    let position: number;
    let end: number;
    try {
      ({ start: position, end } = rangeWithin(sizeBytes, range));
    } catch (error) {
      await file.close();
      throw error;
    }
    return new ReadableStream<Uint8Array>(
      {
        async pull(controller) {
          try {
            const chunk = new Uint8Array(Math.min(streamChunkBytes, end - position));
            const length = await readFully(file, chunk, position);
            position += length;
            if (length > 0) controller.enqueue(chunk.subarray(0, length));
            if (length < chunk.length || position >= end) {
              await file.close();
              controller.close();
            }
          } catch (error) {
            await file.close();
            controller.error(error);
          }
        },
        cancel: () => file.close(),
      },
      { highWaterMark: 0 },
    );
  }

  async head(key: string): Promise<{ sizeBytes: number } | null> {
    const path = await this.#pathOf(key);
    const found = path === null ? null : await unlessMissing(lstat(path));
    return found?.isFile() ? { sizeBytes: found.size } : null;
  }

  async put(
    key: string,
    body: Uint8Array | AsyncIterable<Uint8Array>,
    { onlyIfAbsent = false, durable = true }: PutOptions = {},
  ): Promise<boolean> {
    const segments = keySegments(key);
    const keep = { onlyIfAbsent, durable };
    let writtenBytes = 0;
    let flushedBytes = 0;
    let flushing = Promise.resolve();
    try {
      await this.#makeWritable();
      if (body instanceof Uint8Array && body.length === 0) {
        const made = await this.#place(segments, keep, (path) => createEmpty(path));
        // An object that is there may have to be replaced, which `rename` does.
        if (made || onlyIfAbsent) return made;
      }
      const temporary = join(this.#root, temporaryFolder, randomUUID());
      let isGone = false;
      try {
        const file = await open(temporary, 'wx');
        try {
          for await (const chunk of body instanceof Uint8Array ? [body] : body) {
            await writeFully(file, chunk, writtenBytes);
            writtenBytes += chunk.length;
            if (writtenBytes - flushedBytes < flushEveryBytes) continue;
            await flushing;
            flushedBytes = writtenBytes;
            flushing = file.datasync();
            // What goes wrong is thrown where it is awaited.
            flushing.catch(() => undefined);
          }
          await flushing;
          if (durable) await file.sync();
        } finally {
          await flushing.catch(() => undefined);
          await file.close();
        }
        return await this.#place(segments, keep, async (path) => {
          if (onlyIfAbsent) return link(temporary, path);
          await rename(temporary, path);
          isGone = true;
        });
      } finally {
        if (!isGone) await unlessMissing(unlink(temporary));
      }
    } catch (cause) {
      const size = body instanceof Uint8Array ? `${body.length} bytes` : `more than ${writtenBytes} bytes`;
      throw writeError(cause, key, size);
    }
  }

  /** Of the disk that the folder is on, or will be made on. */
  async freeBytes(): Promise<number> {
    for (let folder = this.#root; ; folder = dirname(folder)) {
      const found = await unlessMissing(statfs(folder));
      if (found) return found.bavail * found.bsize;
    }
  }

  async list(prefix: string, options: { after?: string; limit?: number } = {}): Promise<StoredObject[]> {
    const { after = '', limit = 1000 } = options;
    const { folders, nameStart } = prefixParts(prefix);
    const found: StoredObject[] = [];
    const base = await this.#existingFolder(folders);
    if (base !== null) {
      await this.#collect(base, folders.map((name) => `${name}/`).join(''), nameStart, after, limit, found);
    }
    return found;
  }

  async folders(prefix: string): Promise<string[]> {
    const base = await this.#existingFolder(folderSegments(prefix));
    if (base === null) return [];
    const names: string[] = [];
    for (const { name, isFolder } of await this.#entries(base)) {
      if (isFolder && (await this.#holdsObject(join(base, name)))) names.push(name);
    }
    return names.sort(compareKeys);
  }

  async delete(key: string): Promise<void> {
    const path = await this.#pathOf(key);
    if (path === null) return;
    const found = await unlessMissing(lstat(path));
    if (!found?.isFile()) return;
    await unlessMissing(unlink(path));
    await this.#prune(dirname(path));
  }

  async deletePrefix(prefix: string): Promise<void> {
    const { folders, nameStart } = deletionParts(prefix);
    const base = await this.#existingFolder(folders);
    if (base === null) return;
    for (const { name } of await this.#entries(base)) {
      if (name.startsWith(nameStart)) await rm(join(base, name), { recursive: true, force: true, maxRetries: 5 });
    }
    await this.#prune(base);
  }

  /** The path of a folder that exists with no symbolic link in it below the root; else null. */
  async #existingFolder(segments: readonly string[]): Promise<string | null> {
    this.#realRoot ??= (await unlessMissing(realpath(this.#root))) ?? undefined;
    if (this.#realRoot === undefined) return null;
    const path = join(this.#realRoot, ...segments);
    return (await unlessMissing(realpath(path))) === path ? path : null;
  }

  /** Where the object of a key is, if there is one; it may still be a link. Null when its folder does not exist. */
  async #pathOf(key: string): Promise<string | null> {
    const segments = keySegments(key);
    const folder = await this.#existingFolder(segments.slice(0, -1));
    return folder === null ? null : join(folder, segments[segments.length - 1] ?? '');
  }

  async #openObject(key: string): Promise<{ file: FileHandle; sizeBytes: number } | null> {
    const path = await this.#pathOf(key);
    if (path === null) return null;
    // Not blocking, so that a pipe somebody left in the folder cannot hang a reader.
    const flags = constants.O_RDONLY | (constants.O_NOFOLLOW ?? 0) | (constants.O_NONBLOCK ?? 0);
    const file = await unlessMissing(open(path, flags), 'ELOOP', 'EMLINK', 'ENXIO');
    if (file === null) return null;
    const found = await file.stat();
    if (found.isFile()) return { file, sizeBytes: found.size };
    await file.close();
    return null;
  }

  /** Makes the root and `.tmp/` and removes what crashed writers left there. Once per store, again after a failure. */
  async #makeWritable(): Promise<void> {
    this.#writable ??= (async () => {
      const folder = join(this.#root, temporaryFolder);
      await mkdir(folder, { recursive: true });
      const now = Date.now();
      for (const name of await readdir(folder)) {
        const path = join(folder, name);
        const found = await unlessMissing(lstat(path));
        const staleBefore = now - (name.startsWith(partsPrefix) ? stalePartsAfterMs : staleAfterMs);
        if (found !== null && found.mtimeMs < staleBefore) await rm(path, { recursive: true, force: true });
      }
    })();
    try {
      await this.#writable;
    } catch (error) {
      this.#writable = undefined;
      throw error;
    }
  }

  /**
   * Gives an object its name by an operation that takes place whole or not at all, in a folder that is made for it.
   * @returns false when the name is taken, which only an operation that replaces nothing finds
   */
  async #place(
    segments: readonly string[],
    { durable }: Required<PutOptions>,
    give: (path: string) => Promise<void>,
  ): Promise<boolean> {
    const root = (this.#realRoot ??= await realpath(this.#root));
    const path = join(root, ...segments);
    const parent = dirname(path);
    for (let attempt = 1; ; attempt++) {
      try {
        let real = await unlessMissing(realpath(parent));
        const firstMade = real === null ? await mkdir(parent, { recursive: true }) : undefined;
        real ??= await realpath(parent);
        if (real !== parent) throw conflict(segments, 'a folder above it is a symbolic link');
        await give(path);
        if (durable) await this.#syncFolders(parent, firstMade === undefined ? parent : dirname(firstMade));
        return true;
      } catch (error) {
        if (hasCode(error, 'ENOENT') && attempt < placeAttempts) continue;
        if (hasCode(error, 'EISDIR', 'ENOTEMPTY') || (hasCode(error, 'EEXIST') && (await isFolder(path)))) {
          throw conflict(segments, 'it is already a folder of other keys');
        }
        if (hasCode(error, 'ENOTDIR') || (hasCode(error, 'EEXIST') && error.syscall === 'mkdir')) {
          throw conflict(segments, 'a part of its path is already an object');
        }
        if (hasCode(error, 'EEXIST')) return false;
        throw error;
      }
    }
  }

  /** Flushes the entries of a folder and of those above it up to `highest`, so that new names outlive a power cut. */
  async #syncFolders(lowest: string, highest: string): Promise<void> {
    for (let folder = lowest; folder.length >= highest.length; folder = dirname(folder)) await this.#syncFolder(folder);
  }

  /** Those who come while a folder is being flushed share the next flush of it. */
  #syncFolder(folder: string): Promise<void> {
    const at = this.#flushes.get(folder);
    if (at !== undefined) return (at.next ??= at.running.catch(() => undefined).then(() => this.#flush(folder)));
    return this.#flush(folder);
  }

  #flush(folder: string): Promise<void> {
    const flush: Flush = { running: syncFolder(folder), next: null };
    this.#flushes.set(folder, flush);
    const done = (): void => {
      if (flush.next === null) this.#flushes.delete(folder);
    };
    flush.running.then(done, done);
    return flush.running;
  }

  /** Removes folders that have become empty, from `path` up to below the root: a bucket has no empty folders. */
  async #prune(path: string): Promise<void> {
    for (let folder = path; folder !== this.#realRoot; folder = dirname(folder)) {
      try {
        await rmdir(folder);
      } catch (error) {
        if (hasCode(error, 'ENOTEMPTY', 'EEXIST', 'ENOENT', 'ENOTDIR', 'EBUSY', 'EPERM', 'EACCES')) return;
        throw error;
      }
    }
  }

  /** The files and folders in a folder that can be part of a key, in the order of the keys; none when it is missing. */
  async #entries(path: string): Promise<Entry[]> {
    const all: Dirent[] = (await unlessMissing(readdir(path, { withFileTypes: true }), 'ENOTDIR')) ?? [];
    return all
      .filter((entry) => (entry.isFile() || entry.isDirectory()) && isSegment(entry.name))
      .filter((entry) => entry.name !== temporaryFolder || path !== this.#realRoot)
      .map((entry) => ({ name: entry.name, isFolder: entry.isDirectory() }))
      .sort((a, b) => compareKeys(a.isFolder ? `${a.name}/` : a.name, b.isFolder ? `${b.name}/` : b.name));
  }

  /** Appends the objects under a folder in the order of their keys, leaving out whole sub-folders before `after`. */
  async #collect(
    path: string,
    keyPrefix: string,
    nameStart: string,
    after: string,
    limit: number,
    found: StoredObject[],
  ): Promise<void> {
    for (const { name, isFolder } of await this.#entries(path)) {
      if (found.length >= limit) return;
      if (!name.startsWith(nameStart)) continue;
      const key = keyPrefix + name + (isFolder ? '/' : '');
      if (compareKeys(key, after) <= 0 && !(isFolder && after.startsWith(key))) continue;
      if (isFolder) {
        await this.#collect(join(path, name), key, '', after, limit, found);
        continue;
      }
      const status = await unlessMissing(lstat(join(path, name)));
      if (status !== null) found.push({ key, sizeBytes: status.size });
    }
  }

  async #holdsObject(path: string): Promise<boolean> {
    const entries = await this.#entries(path);
    if (entries.some((entry) => !entry.isFolder)) return true;
    for (const { name } of entries) if (await this.#holdsObject(join(path, name))) return true;
    return false;
  }
}

async function createEmpty(path: string): Promise<void> {
  await (await open(path, 'wx')).close();
}

async function isFolder(path: string): Promise<boolean> {
  return (await unlessMissing(stat(path)))?.isDirectory() ?? false;
}

function conflict(segments: readonly string[], reason: string): InputError {
  const key = segments.join('/');
  return new InputError('invalid_key', `${key} cannot be written: ${reason}. Choose another key.`, 'key');
}

/** Fills `bytes` from a position.  @returns how many there were before the end of the file */
async function readFully(file: FileHandle, bytes: Uint8Array, position: number): Promise<number> {
  let length = 0;
  while (length < bytes.length) {
    const wanted = Math.min(bytes.length - length, maxTransferBytes);
    const { bytesRead } = await file.read(bytes, length, wanted, position + length);
    if (bytesRead === 0) break;
    length += bytesRead;
  }
  return length;
}

async function syncFolder(folder: string): Promise<void> {
  let handle: FileHandle;
  try {
    handle = await open(folder, 'r');
  } catch (error) {
    // Windows does not open folders; a concurrent delete may have pruned this one.
    if (hasCode(error, 'EISDIR', 'EPERM', 'EACCES', 'ENOENT')) return;
    throw error;
  }
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
