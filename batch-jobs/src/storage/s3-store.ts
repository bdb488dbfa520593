/**
 * The store in a bucket, below a prefix. What the folder store does by `link` and `rename`, S3 does itself: an object is
 * visible whole or not at all, and `If-None-Match: *` lets one of many writers have a key.
 *
 * Requests that fail for the moment (throttling, 5xx, broken connections) are repeated by the SDK, with pauses that grow and
 * vary; a body that breaks off half-way is read on from there, of the same object or not at all. An exclusive write whose
 * answer was lost, and which its repetition finds in place, is known by a mark in the object's metadata to be our own.
 * Encryption is the bucket's: whatever key its default names is used by S3 itself.
 */
import { randomUUID } from 'node:crypto';
import { Readable } from 'node:stream';
import type { S3Client, S3ClientConfig } from '@aws-sdk/client-s3';
import { InputError, TransientError, messageOf } from '../errors.ts';
import { checkByteRange } from './byte-range.ts';
import { compareKeys, deletionParts, folderSegments, keySegments, prefixParts } from './keys.ts';
import { createS3Direct } from './s3-direct.ts';
import type * as S3Sdk from './s3-sdk.ts';
import type { ByteRange, PutOptions, Store, StoredObject } from './store.ts';

export interface S3StoreOptions {
  readonly bucket: string;
  /** Below which all keys lie; empty, or names joined by slashes. */
  readonly prefix?: string;
  /** Region, endpoint, credentials; default: what the environment says, as for every tool of AWS. */
  readonly client?: S3ClientConfig;
  /** Of one part of a large object. Four are in memory at once. */
  readonly partBytes?: number;
}

type Sdk = typeof S3Sdk;

/**
 * On objects below a folder `checkpoints`: a bucket's lifecycle rules look at the beginning of a key or at tags, and checkpoints lie in
 * the middle (`tenants/<tenant>/jobs/<id>/checkpoints/...`).
 */
export const checkpointTag = { key: 'cherryq-kind', value: 'checkpoint' } as const;

/** 10,000 of these are 320 GB, more than any file of a model. */
const defaultPartBytes = 2 ** 25;
/** Times that a broken body is read on without a single byte in between. */
const fruitlessReads = 4;
const listLimit = 1000;
/** Metadata of an object that was written exclusively. */
const writerMark = 'cherryq-writer';

export class S3Store implements Store {
  readonly #options: Required<Omit<S3StoreOptions, 'client'>> & Pick<S3StoreOptions, 'client'>;
  #opened: Promise<{ sdk: Sdk; client: S3Client }> | undefined;
  readonly direct = createS3Direct({
    sdk: () => this.#sdk(),
    place: (key) => this.#place(key),
    asking: (key, ask) => this.#asking('write', key, ask),
  });

  constructor({ bucket, prefix = '', partBytes = defaultPartBytes, client }: S3StoreOptions) {
    if (prefix !== '') keySegments(prefix);
    this.#options = { bucket, prefix: prefix === '' ? '' : `${prefix}/`, partBytes, client };
  }

  async get(key: string, range?: ByteRange): Promise<Uint8Array | null> {
    const found = await this.#open(key, range);
    if (found === null) return null;
    const bytes = new Uint8Array(found.length);
    return bytes.subarray(0, await fill(bytes, found.chunks));
  }

  async read(key: string, start: number, into: Uint8Array): Promise<number | null> {
    const found = await this.#open(key, { start, end: start + into.length });
    return found === null ? null : fill(into, found.chunks);
  }

  async stream(key: string, range?: ByteRange): Promise<ReadableStream<Uint8Array> | null> {
    const found = await this.#open(key, range);
    if (found === null) return null;
    const { chunks } = found;
    return new ReadableStream<Uint8Array>(
      {
        async pull(controller) {
          const { done, value } = await chunks.next();
          if (done) controller.close();
          else controller.enqueue(value);
        },
        cancel: async () => void (await chunks.return(undefined)),
      },
      { highWaterMark: 0 },
    );
  }

  async head(key: string): Promise<{ sizeBytes: number } | null> {
    const found = await this.#head(key);
    return found === null ? null : { sizeBytes: found.sizeBytes };
  }

  async put(
    key: string,
    body: Uint8Array | AsyncIterable<Uint8Array>,
    { onlyIfAbsent = false }: PutOptions = {},
  ): Promise<boolean> {
    keySegments(key);
    const { sdk, client } = await this.#sdk();
    const { partBytes } = this.#options;
    const writer = randomUUID();
    const params = {
      ...this.#place(key),
      ...(onlyIfAbsent ? { IfNoneMatch: '*', Metadata: { [writerMark]: writer } } : {}),
      ...(key.includes('/checkpoints/') ? { Tagging: `${checkpointTag.key}=${checkpointTag.value}` } : {}),
    };
    try {
      if (body instanceof Uint8Array && body.length <= partBytes) {
        await client.send(new sdk.PutObjectCommand({ ...params, Body: body }));
      } else {
        const Body = body instanceof Uint8Array ? body : Readable.from(copies(body), { highWaterMark: 1 });
        await new sdk.Upload({ client, params: { ...params, Body }, partSize: partBytes }).done();
      }
      return true;
    } catch (error) {
      if (!onlyIfAbsent || !isConflict(error)) throw this.#explained('write', key, error);
      const found = await this.#head(key);
      if (found !== null) return found.writer === writer;
      throw new TransientError(`${this.#url(key)} is being written by others, and no write came through. Try again.`, {
        cause: error,
      });
    }
  }

  async list(prefix: string, { after = '', limit = listLimit } = {}): Promise<StoredObject[]> {
    prefixParts(prefix);
    const { sdk, client } = await this.#sdk();
    const { bucket, prefix: root } = this.#options;
    const found: StoredObject[] = [];
    let last = after;
    for (let more = true; more && found.length < limit;) {
      const page = await this.#asking('list', prefix, () =>
        client.send(
          new sdk.ListObjectsV2Command({
            Bucket: bucket,
            Prefix: root + prefix,
            MaxKeys: Math.min(listLimit, limit - found.length),
            ...(last === '' ? {} : { StartAfter: root + last }),
          }),
        ),
      );
      for (const { Key = '', Size = 0 } of page.Contents ?? []) {
        last = Key.slice(root.length);
        // What others may have put there: a console's empty "folder" is no object.
        if (!last.endsWith('/')) found.push({ key: last, sizeBytes: Size });
      }
      more = page.IsTruncated === true;
    }
    return found;
  }

  async folders(prefix: string): Promise<string[]> {
    folderSegments(prefix);
    const { sdk, client } = await this.#sdk();
    const { bucket, prefix: root } = this.#options;
    const names: string[] = [];
    let ContinuationToken: string | undefined;
    do {
      const page = await this.#asking('list', prefix, () =>
        client.send(
          new sdk.ListObjectsV2Command({
            Bucket: bucket,
            Prefix: root + prefix,
            Delimiter: '/',
            ContinuationToken,
          }),
        ),
      );
      for (const common of page.CommonPrefixes ?? [])
        names.push((common.Prefix ?? '').slice((root + prefix).length, -1));
      ContinuationToken = page.NextContinuationToken;
    } while (ContinuationToken !== undefined);
    // S3 orders them with their slash, by which `a-b/` comes before `a/`.
    return names.filter((name) => name !== '').sort(compareKeys);
  }

  async delete(key: string): Promise<void> {
    keySegments(key);
    const { sdk, client } = await this.#sdk();
    await this.#asking('delete', key, () => client.send(new sdk.DeleteObjectCommand(this.#place(key))));
  }

  async deletePrefix(prefix: string): Promise<void> {
    deletionParts(prefix);
    const { sdk, client } = await this.#sdk();
    const { bucket, prefix: root } = this.#options;
    for (;;) {
      const page = await this.#asking('list', prefix, () =>
        client.send(new sdk.ListObjectsV2Command({ Bucket: bucket, Prefix: root + prefix })),
      );
      const Objects = (page.Contents ?? []).map(({ Key }) => ({ Key }));
      if (Objects.length === 0) return;
      const { Errors = [] } = await this.#asking('delete', prefix, () =>
        client.send(new sdk.DeleteObjectsCommand({ Bucket: bucket, Delete: { Objects, Quiet: true } })),
      );
      const [refused] = Errors;
      if (refused !== undefined) {
        const error = Object.assign(new Error(refused.Message), { name: refused.Code ?? 'Error' });
        throw this.#explained('delete', refused.Key?.slice(root.length) ?? prefix, error);
      }
    }
  }

  /** Loaded with the first request, so that nobody who works with a folder waits for it. */
  #sdk(): Promise<{ sdk: Sdk; client: S3Client }> {
    this.#opened ??= (async () => {
      const sdk = await import('./s3-sdk.ts');
      const { AWS_ENDPOINT_URL_S3: own, AWS_ENDPOINT_URL: any } = process.env;
      const client = new sdk.S3Client({
        maxAttempts: 6,
        requestHandler: { connectionTimeout: 5000, socketTimeout: 30_000 },
        // Another server than AWS has no name for each bucket.
        forcePathStyle: own !== undefined || any !== undefined,
        ...this.#options.client,
      });
      return { sdk, client };
    })();
    return this.#opened;
  }

  #place(key: string): { Bucket: string; Key: string } {
    keySegments(key);
    return { Bucket: this.#options.bucket, Key: this.#options.prefix + key };
  }

  #url(key: string): string {
    return `s3://${this.#options.bucket}/${this.#options.prefix}${key}`;
  }

  async #head(key: string): Promise<{ sizeBytes: number; writer: string | undefined } | null> {
    keySegments(key);
    const { sdk, client } = await this.#sdk();
    const found = await this.#asking('read', key, () =>
      this.#unlessMissing(key, client.send(new sdk.HeadObjectCommand(this.#place(key)))),
    );
    return found && { sizeBytes: found.ContentLength ?? 0, writer: found.Metadata?.[writerMark] };
  }

  /**
   * Null where there is no such object; a bucket that is not there is an error. Of what is missing, S3 says 403 to those who may list
   * only below a prefix, as the roles of jobs do; then the list tells.
   */
  async #unlessMissing<Answer>(key: string, asking: Promise<Answer>): Promise<Answer | null> {
    try {
      return await asking;
    } catch (error) {
      if (statusOf(error) === 404 && (error as Error).name !== 'NoSuchBucket') return null;
      if (statusOf(error) !== 403 || (await this.#mayBeThere(key))) throw error;
      return null;
    }
  }

  async #mayBeThere(key: string): Promise<boolean> {
    const { sdk, client } = await this.#sdk();
    const { Bucket, Key: Prefix } = this.#place(key);
    try {
      const { Contents = [] } = await client.send(new sdk.ListObjectsV2Command({ Bucket, Prefix, MaxKeys: 1 }));
      return Contents[0]?.Key === Prefix;
    } catch {
      return true;
    }
  }

  /** @returns the bytes of a range, as they come, and how many there are; null when there is no such object */
  async #open(
    key: string,
    range?: ByteRange,
  ): Promise<{ length: number; chunks: AsyncGenerator<Uint8Array, void, undefined> } | null> {
    keySegments(key);
    if (range !== undefined) checkByteRange(range);
    // An empty range has no form of its own in HTTP.
    if (range === undefined || range.start < range.end) {
      const first = await this.#request(key, range);
      if (first === null) return null;
      if (first !== 'past the end') {
        return { length: first.length, chunks: this.#chunks(key, first) };
      }
    } else if ((await this.#head(key)) === null) return null;
    return { length: 0, chunks: nothing() };
  }

  async #request(key: string, range: ByteRange | undefined, etag?: string): Promise<Body | 'past the end' | null> {
    const { sdk, client } = await this.#sdk();
    const command = new sdk.GetObjectCommand({
      ...this.#place(key),
      ...(range === undefined ? {} : { Range: `bytes=${range.start}-${range.end - 1}` }),
      ...(etag === undefined ? {} : { IfMatch: etag }),
    });
    const found = await this.#asking('read', key, () =>
      this.#unlessMissing(key, client.send(command)).catch((error: unknown) => {
        if (statusOf(error) === 416) return 'past the end' as const;
        throw error;
      }),
    );
    if (found === null || found === 'past the end') return found;
    const { Body, ETag, ContentLength = 0 } = found;
    return {
      stream: Body as unknown as AsyncIterable<Uint8Array>,
      etag: ETag,
      start: range?.start ?? 0,
      length: ContentLength,
    };
  }

  /** Goes on where a body breaks off, as long as the object is the same. */
  async *#chunks(key: string, first: Body): AsyncGenerator<Uint8Array, void, undefined> {
    const { start, length } = first;
    const end = start + length;
    let body = first;
    let position = start;
    for (let fruitless = 0; ;) {
      const before = position;
      try {
        for await (const chunk of body.stream) {
          position += chunk.length;
          yield chunk;
        }
        if (position >= end) return;
        throw new Error(`the connection ended after ${position - start} of ${length} bytes`);
      } catch (error) {
        fruitless = position > before ? 0 : fruitless + 1;
        const next = fruitless > fruitlessReads ? null : await this.#request(key, { start: position, end }, body.etag);
        if (next === null || next === 'past the end') {
          throw new TransientError(`Reading ${this.#url(key)} broke off: ${messageOf(error)}. Try again.`, {
            cause: error,
          });
        }
        body = next;
      }
    }
  }

  /** @throws errors that say what people can do */
  async #asking<Answer>(action: Action, key: string, ask: () => Promise<Answer>): Promise<Answer> {
    try {
      return await ask();
    } catch (error) {
      throw this.#explained(action, key, error);
    }
  }

  #explained(action: Action, key: string, error: unknown): unknown {
    const status = statusOf(error);
    const url = this.#url(key);
    const name = error instanceof Error ? error.name : '';
    if (name === 'NoSuchBucket') {
      return new InputError(
        'unknown_bucket',
        `There is no bucket "${this.#options.bucket}" to ${action} ${url}. Correct its name, or make it in this region.`,
        'store',
        { cause: error },
      );
    }
    if (status === 401 || status === 403 || name === 'CredentialsProviderError') {
      const needed = { read: 's3:GetObject', write: 's3:PutObject', list: 's3:ListBucket', delete: 's3:DeleteObject' };
      return new InputError(
        'store_access_denied',
        `S3 does not let us ${action} ${url}: ${messageOf(error)}. Grant ${needed[action]} there, and the use of the bucket's key if it has one.`,
        'store',
        { cause: error },
      );
    }
    if (status === 412) {
      return new TransientError(`${url} was replaced while it was being read. Try again.`, { cause: error });
    }
    const isPassing = status === undefined ? isNetworkError(error) : status >= 500 || status === 429;
    if (!isPassing) return error;
    return new TransientError(`S3 could not ${action} ${url}: ${messageOf(error)}. Try again later.`, { cause: error });
  }
}

type Action = 'read' | 'write' | 'list' | 'delete';

interface Body {
  readonly stream: AsyncIterable<Uint8Array>;
  readonly etag: string | undefined;
  /** Of the first byte in the object. */
  readonly start: number;
  /** Bytes to come. */
  readonly length: number;
}

async function fill(into: Uint8Array, chunks: AsyncIterable<Uint8Array>): Promise<number> {
  let length = 0;
  for await (const chunk of chunks) {
    into.set(chunk, length);
    length += chunk.length;
  }
  return length;
}

async function* nothing(): AsyncGenerator<Uint8Array, void, undefined> {}

/** A stream reads ahead, and the maker of a body may change a piece by then. */
async function* copies(body: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  for await (const piece of body) yield piece.slice();
}

/** Whether an exclusive write lost, or met another that was on its way. */
function isConflict(error: unknown): boolean {
  const status = statusOf(error);
  return status === 412 || status === 409;
}

function statusOf(error: unknown): number | undefined {
  return (error as { $metadata?: { httpStatusCode?: number } } | null)?.$metadata?.httpStatusCode;
}

/** What Node.js and the SDK throw when no answer came. */
function isNetworkError(error: unknown): boolean {
  const { code, name } = error as { code?: unknown; name?: unknown };
  return name === 'TimeoutError' || (typeof code === 'string' && /^(E[A-Z]+|UND_ERR_.*)$/.test(code));
}
