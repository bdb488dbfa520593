/**
 * The Store port: a flat space of keys with conditional writes, as S3 has it. `FolderStore` gives the same on a disk, key
 * for key. Everything above (API, queue, trainer) uses only this interface.
 */
export interface Store {
  /** Bytes of a key, or of `range` (end exclusive); null when the key does not exist. */
  get(key: string, range?: ByteRange): Promise<Uint8Array | null>;
  /** Fills `into` with the bytes of a key from `start` on.  @returns how many there were; null as `get` */
  read(key: string, start: number, into: Uint8Array): Promise<number | null>;
  /** A key's bytes as a stream, for bodies that should not be held whole. */
  stream(key: string, range?: ByteRange): Promise<ReadableStream<Uint8Array> | null>;
  head(key: string): Promise<{ sizeBytes: number } | null>;
  /**
   * Writes a key whole or not at all: a reader never sees a part, a crash leaves no part. A body that comes in pieces may
   * change a piece once the next is asked for.
   * With `onlyIfAbsent` an existing key is left alone. What is not `durable` may be gone after a power cut; it is by default.
   * @returns false when `onlyIfAbsent` was set and the key exists
   * @throws StorageFullError when the disk is full
   */
  put(key: string, body: Uint8Array | AsyncIterable<Uint8Array>, options?: PutOptions): Promise<boolean>;
  /** Keys under a prefix in ascending order, after `after` (exclusive), at most `limit` (default 1000). */
  list(prefix: string, options?: { after?: string; limit?: number }): Promise<StoredObject[]>;
  /** Names of the next path segment under a prefix that ends in a slash, ascending or, with `reverse`, descending. */
  folders(prefix: string): Promise<string[]>;
  delete(key: string): Promise<void>;
  deletePrefix(prefix: string): Promise<void>;
}

export interface PutOptions {
  onlyIfAbsent?: boolean;
  durable?: boolean;
}

export interface ByteRange {
  start: number;
  /** Exclusive. */
  end: number;
}

export interface StoredObject {
  key: string;
  sizeBytes: number;
}

/** The disk or the quota under the store is full; nothing of the write is visible. */
export class StorageFullError extends Error {
  override readonly name = 'StorageFullError';
}
