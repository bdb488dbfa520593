/**
 * Rows of a Parquet file by hyparquet: the footer first, then row group by row group the needed columns, by ranges of the
 * store. Sizes are bounded before memory is taken, pages included; what a hostile page claims beyond its size is not.
 */
import { parquetMetadataAsync, parquetReadObjects, parquetSchema, toJson } from 'hyparquet';
import type { AsyncBuffer, Compressors, FileMetaData } from 'hyparquet';
import { compressors, decompressZstd } from 'hyparquet-compressors';
import { InputError, messageOf } from '../errors.ts';
import { isJsonObject } from '../formats/json.ts';
import type { JsonObject } from '../formats/json.ts';
import type { Store } from '../storage/store.ts';
import { columnsToRead } from './records.ts';

/** Of the columns of a row group that are read, compressed or not; writers make groups of about 128 MB. */
const maxGroupBytes = 2 ** 29;
/** Of one page, decompressed; writers make pages of about 1 MB. */
const maxPageBytes = 2 ** 28;
const maxFooterBytes = 2 ** 26;
const maxGroupRows = 2 ** 24;

/**
 * @param path names the file in errors   @param onRead is told how many bytes of the file are done with
 * @throws InputError `invalid_parquet`, `parquet_too_large`, or `invalid_record` when no column can be read
 */
export async function* parquetRows(
  store: Store,
  key: string,
  path: string,
  sizeBytes: number,
  onRead: (bytes: number) => void,
): AsyncGenerator<JsonObject> {
  const file = new StoreBuffer(store, key, sizeBytes, path);
  const metadata = await reading(file, path, () => readMetadata(file, path));
  const schema = await reading(file, path, () => parquetSchema(metadata));
  const columns = columnsToRead(
    schema.children.map(({ element }) => element.name),
    path,
  );
  let rowStart = 0;
  let readBytes = 0;
  for (const [index, group] of metadata.row_groups.entries()) {
    const groupBytes = checkGroup(group, columns, index, path);
    const rowEnd = rowStart + Number(group.num_rows);
    const options = { file, metadata, columns, rowStart, rowEnd, compressors: boundedCompressors, geoparquet: false };
    const rows = await reading(file, path, () => parquetReadObjects(options));
    for (const row of rows) {
      // Whole numbers come as BigInt, which neither JSON nor templates know.
      const record = toJson(row);
      yield isJsonObject(record) ? record : {};
    }
    rowStart = rowEnd;
    onRead(groupBytes);
    readBytes += groupBytes;
  }
  onRead(sizeBytes - readBytes);
}

async function readMetadata(file: StoreBuffer, path: string): Promise<FileMetaData> {
  const ending = new DataView(await file.slice(Math.max(0, file.byteLength - 8), file.byteLength));
  if (ending.byteLength === 8 && ending.getUint32(0, true) > maxFooterBytes) {
    throw tooLarge(path, `a footer of ${ending.getUint32(0, true)} bytes; at most ${maxFooterBytes} are read`);
  }
  return parquetMetadataAsync(file, { geoparquet: false });
}

/** @returns the compressed bytes of the columns that are read */
function checkGroup(
  group: FileMetaData['row_groups'][number],
  columns: readonly string[],
  index: number,
  path: string,
): number {
  if (group.num_rows > maxGroupRows) {
    throw tooLarge(path, `${group.num_rows} rows in row group ${index}; at most ${maxGroupRows} are read`);
  }
  let [compressed, uncompressed] = [0, 0];
  for (const { meta_data: chunk } of group.columns) {
    if (chunk === undefined || !columns.includes(chunk.path_in_schema[0])) continue;
    compressed += Number(chunk.total_compressed_size);
    uncompressed += Number(chunk.total_uncompressed_size);
  }
  if (Math.max(compressed, uncompressed) > maxGroupBytes) {
    throw tooLarge(path, `${Math.max(compressed, uncompressed)} bytes in row group ${index}; at most ${maxGroupBytes}`);
  }
  return compressed;
}

function tooLarge(path: string, what: string): InputError {
  return new InputError('parquet_too_large', `${path} has ${what}. Write it anew with smaller row groups.`, path);
}

const boundedCompressors: Compressors = Object.fromEntries(
  Object.entries({
    ...compressors,
    // By itself it takes the memory that its input asks for.
    ZSTD: (input: Uint8Array, length: number) => decompressZstd(input, new Uint8Array(length)),
  }).map(([codec, decompress]) => [
    codec,
    (input: Uint8Array, length: number): Uint8Array => {
      if (length < 0 || length > maxPageBytes) {
        throw new RangeError(`a page of ${length} bytes, decompressed; at most ${maxPageBytes} are read`);
      }
      return decompress(input, length);
    },
  ]),
);

/** Ranges of a stored file as hyparquet asks for them. What the store throws is kept: it is not the file's fault. */
class StoreBuffer implements AsyncBuffer {
  storeError: unknown = null;

  constructor(
    private readonly store: Store,
    private readonly key: string,
    readonly byteLength: number,
    private readonly path: string,
  ) {}

  async slice(start: number, end = this.byteLength): Promise<ArrayBuffer> {
    if (!(start >= 0 && start <= end && end <= this.byteLength)) {
      throw new RangeError(`bytes ${start} to ${end} are asked for, but the file has ${this.byteLength}`);
    }
    if (end - start > maxGroupBytes) throw tooLarge(this.path, `a column chunk of ${end - start} bytes`);
    try {
      const bytes = await this.store.get(this.key, { start, end });
      if (bytes?.length !== end - start) throw new Error(`${this.key} changed while it was being read.`);
      return bytes.buffer.byteLength === bytes.length && bytes.buffer instanceof ArrayBuffer
        ? bytes.buffer
        : bytes.slice().buffer;
    } catch (error) {
      this.storeError ??= error;
      throw error;
    }
  }
}

async function reading<Result>(file: StoreBuffer, path: string, read: () => Result | Promise<Result>): Promise<Result> {
  try {
    return await read();
  } catch (cause) {
    if (file.storeError !== null) throw file.storeError;
    if (cause instanceof InputError) throw cause;
    throw new InputError(
      'invalid_parquet',
      `${path} is not a Parquet file that can be read (${messageOf(cause)}). It may be cut short or damaged; copy it again.`,
      path,
      { cause },
    );
  }
}
