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
  /** What can still be written; absent where nothing bounds it. */
  freeBytes?(): Promise<number>;
  /** Ways past this process, straight between a client and the store; absent where there are none. */
  readonly direct?: DirectAccess;
  /** Objects in parts that go through this process; absent where clients send them past it. */
  readonly ownParts?: OwnParts;
}

/** What looking at files takes. */
export type ReadableStore = Pick<Store, 'get' | 'head' | 'list'>;

/** A request that a client may send to the store itself. */
export interface DirectRequest {
  readonly url: string;
  /** Without them the request is refused. */
  readonly headers: Readonly<Record<string, string>>;
}

export interface StoredPart {
  /** From 1. */
  readonly number: number;
  readonly sizeBytes: number;
  /** Hexadecimal. */
  readonly sha256: string | null;
  readonly etag: string;
}

/** A part that is to come, with what it must be. */
export interface DeclaredPart {
  /** From 1. */
  readonly number: number;
  /** Of its first byte in the object. */
  readonly start: number;
  readonly sizeBytes: number;
  /** Hexadecimal. */
  readonly sha256: string;
}

/** An object in parts, visible once it is finished. */
export interface PartAccess {
  /** @returns an id for the calls below */
  begin(key: string): Promise<string>;
  /** @returns null when there is no such upload any more */
  parts(key: string, uploadId: string): Promise<StoredPart[] | null>;
  /**
   * An object that is there already is left alone.
   * @param sha256 of the whole   @returns false when the store has looked and it is another; nothing of it is kept then
   */
  finish(key: string, uploadId: string, parts: readonly StoredPart[], sha256: string): Promise<boolean>;
  abort(key: string, uploadId: string): Promise<void>;
}

/** Parts that clients send to the store itself, which checks each against its SHA-256. */
export interface DirectAccess extends PartAccess {
  /** How long addresses are good. */
  readonly expiresInSeconds: number;
  partRequest(
    key: string,
    uploadId: string,
    part: Pick<DeclaredPart, 'number' | 'sizeBytes' | 'sha256'>,
  ): Promise<DirectRequest>;
  downloadUrl(key: string): Promise<string>;
}

/** Parts that are written by whoever has the store. */
export interface OwnParts extends PartAccess {
  /**
   * Keeps a part, on the disk when this returns; several of an object may be written at once.
   * @param body throws at its end, or before, unless it is what was declared; the part is then not kept
   * @throws StorageFullError when the disk is full
   */
  putPart(key: string, uploadId: string, part: DeclaredPart, body: AsyncIterable<Uint8Array>): Promise<void>;
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
