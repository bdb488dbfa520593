/**
 * The documents of a dataset one by one, its files in order of path: plain text, `.jsonl`, `.ndjson`, `.json` (an array, or
 * lines) and `.parquet`, all but the last also with `.gz`. Files are streamed, so what is in memory is a document, a row group
 * of Parquet, or a JSON array.
 */
import { pipeline } from 'node:stream/promises';
import { Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { InputError, messageOf } from '../errors.ts';
import type { Store, StoredObject } from '../storage/store.ts';
import { parquetRows } from './parquet.ts';
import { documentsOf } from './records.ts';
import type { Document } from './records.ts';
import { documentSeparator } from './separator.ts';
import { decodeUtf8 } from './utf8.ts';

/** Of one document: tokenizing so many characters takes about 1.2 GB of memory and a minute. */
const maxDocumentLength = 2 ** 25;
const maxLineLength = 2 ** 26;
/** Of a JSON array, which is read as a whole. */
const maxArrayLength = 2 ** 28;
/** Text compresses to a tenth or, where it repeats itself, a hundredth; what claims more than this is made to fill memory. */
const maxExpansion = 256;
const expansionChecksAfterBytes = 2 ** 24;

/**
 * @param prefix ends in a slash, or is a file's whole key
 * @param onRead is told of bytes as they are read, of the files as they are stored
 * @throws InputError naming the file and what is wrong with it: `empty_text`, `binary_text`, `invalid_json`, `invalid_jsonl`,
 *   `invalid_record`, `invalid_conversation`, `invalid_gzip`, `invalid_parquet`, or too large
 */
export async function* readDocuments(
  store: Store,
  prefix: string,
  onRead: (bytes: number) => void = () => undefined,
): AsyncGenerator<Document> {
  let files = 0;
  for (const file of await listFiles(store, prefix)) {
    files++;
    const path = file.key.slice(prefix.lastIndexOf('/') + 1);
    let documents = 0;
    for await (const document of fileDocuments(store, file, path, onRead)) {
      if (document.kind === 'text') {
        if (document.text.trim() === '') continue;
        if (document.text.length > maxDocumentLength) throw documentTooLarge(path);
      }
      documents++;
      yield document;
    }
    if (documents === 0) throw empty(path, file.sizeBytes);
  }
  if (files === 0) {
    throw new InputError('empty_text', `There is no text file under ${prefix}. Give at least one .txt file.`, prefix);
  }
}

/** @returns the files under a prefix that ends in a slash, or the one whose key it is; ascending */
export async function listFiles(store: Store, prefix: string): Promise<StoredObject[]> {
  const files: StoredObject[] = [];
  for (let after: string | undefined; ;) {
    const page = await store.list(prefix, { after });
    files.push(...page.filter(({ key }) => prefix === '' || prefix.endsWith('/') || key === prefix));
    after = page.at(-1)?.key;
    if (after === undefined) return files;
  }
}

async function* fileDocuments(
  store: Store,
  { key, sizeBytes }: StoredObject,
  path: string,
  onRead: (bytes: number) => void,
): AsyncGenerator<Document> {
  const name = path.toLowerCase();
  if (name.endsWith('.parquet')) {
    let number = 0;
    for await (const row of parquetRows(store, key, path, sizeBytes, onRead)) {
      yield* documentsOf(row, { path, unit: 'row', number: ++number });
    }
    return;
  }
  const stored = storedBytes(store, key, onRead);
  const isGzip = name.endsWith('.gz');
  const pieces = decodeUtf8(isGzip ? inflated(stored, sizeBytes, path) : stored, path);
  const plainName = isGzip ? name.slice(0, -'.gz'.length) : name;
  if (/\.(jsonl|ndjson)$/.test(plainName)) yield* lineDocuments(pieces, path);
  else if (plainName.endsWith('.json')) yield* jsonDocuments(pieces, path);
  else yield* textDocuments(pieces, path);
}

async function* storedBytes(store: Store, key: string, onRead: (bytes: number) => void): AsyncGenerator<Uint8Array> {
  const bytes = await store.stream(key);
  if (bytes === null) throw new Error(`${key} was deleted while its folder was being read.`);
  for await (const chunk of bytes) {
    yield chunk;
    onRead(chunk.length);
  }
}

/** @throws InputError `invalid_gzip` for damaged input and for input that expands beyond what text does */
async function* inflated(
  stored: AsyncGenerator<Uint8Array>,
  sizeBytes: number,
  path: string,
): AsyncGenerator<Uint8Array> {
  const gunzip = createGunzip({ chunkSize: 2 ** 16 });
  // What fails comes out of `gunzip`, where it is awaited.
  const done = pipeline(Readable.from(stored, { objectMode: false }), gunzip).catch(() => undefined);
  let length = 0;
  try {
    for await (const chunk of gunzip as AsyncIterable<Buffer>) {
      length += chunk.length;
      if (length > expansionChecksAfterBytes && length > maxExpansion * sizeBytes) {
        throw new InputError(
          'invalid_gzip',
          `${path} expands to more than ${maxExpansion} times its ${sizeBytes} bytes, which text does not. Give the text itself.`,
          path,
        );
      }
      yield chunk;
    }
  } catch (cause) {
    if (!isZlibError(cause)) throw cause;
    throw new InputError(
      'invalid_gzip',
      `${path} is not a whole gzip file (${cause.message}). It may be cut short or damaged; copy it again.`,
      path,
      { cause },
    );
  } finally {
    gunzip.destroy();
    await done;
  }
}

const isZlibError = (error: unknown): error is Error =>
  error instanceof Error && 'code' in error && typeof error.code === 'string' && error.code.startsWith('Z_');

/** Documents between separators, without the white space around these; a text without separator as it is. */
async function* textDocuments(pieces: AsyncIterable<string>, path: string): AsyncGenerator<Document> {
  let separated = false;
  for await (const { text, last } of parts(pieces, documentSeparator, maxDocumentLength, () =>
    documentTooLarge(path),
  )) {
    separated ||= !last;
    yield { kind: 'text', text: separated ? text.trim() : text };
  }
}

async function* lineDocuments(pieces: AsyncIterable<string>, path: string): AsyncGenerator<Document> {
  let number = 0;
  for await (const { text: line } of parts(pieces, '\n', maxLineLength, () => jsonTooLarge(path, maxLineLength))) {
    number++;
    if (line.trim() === '') continue;
    let record: unknown;
    try {
      record = JSON.parse(line);
    } catch (cause) {
      throw new InputError(
        'invalid_jsonl',
        `Line ${number} of ${path} is not JSON (${messageOf(cause)}); it begins ${line.trim().slice(0, 60)}. ` +
          'Each line must be one JSON object.',
        path,
        { cause },
      );
    }
    yield* documentsOf(record, { path, unit: 'line', number });
  }
}

/** An array at the top, or, as many sets have it under this name, lines. */
async function* jsonDocuments(pieces: AsyncGenerator<string>, path: string): AsyncGenerator<Document> {
  let start = '';
  while (start.trim() === '') {
    const { value, done } = await pieces.next();
    if (done) return;
    start += value;
  }
  const all = prepended(start, pieces);
  if (!start.trimStart().startsWith('[')) {
    yield* lineDocuments(all, path);
    return;
  }
  let content = '';
  for await (const piece of all) {
    content += piece;
    if (content.length > maxArrayLength) throw jsonTooLarge(path, maxArrayLength);
  }
  let records: unknown[];
  try {
    records = JSON.parse(content) as unknown[];
  } catch (cause) {
    throw new InputError(
      'invalid_json',
      `${path} is not valid JSON (${messageOf(cause)}). It may be cut short or damaged; copy it again.`,
      path,
      { cause },
    );
  }
  for (const [index, record] of records.entries()) {
    yield* documentsOf(record, { path, unit: 'record', number: index + 1 });
  }
}

async function* prepended(first: string, rest: AsyncIterable<string>): AsyncGenerator<string> {
  yield first;
  yield* rest;
}

/** A text cut at a separator; the last part is what stands after the last separator. */
async function* parts(
  pieces: AsyncIterable<string>,
  separator: string,
  maxLength: number,
  tooLarge: () => InputError,
): AsyncGenerator<{ text: string; last: boolean }> {
  // What has been searched waits in pieces; the tail may begin a separator that goes on in the next piece.
  let waiting: string[] = [];
  let waitingLength = 0;
  let tail = '';
  for await (const piece of pieces) {
    const text = tail + piece;
    let start = 0;
    for (let end = text.indexOf(separator); end >= 0; end = text.indexOf(separator, start)) {
      yield { text: waiting.join('') + text.slice(start, end), last: false };
      waiting = [];
      waitingLength = 0;
      start = end + separator.length;
    }
    const searched = Math.max(start, text.length - separator.length + 1);
    waiting.push(text.slice(start, searched));
    waitingLength += searched - start;
    tail = text.slice(searched);
    if (waitingLength > maxLength) throw tooLarge();
  }
  yield { text: waiting.join('') + tail, last: true };
}

function empty(path: string, sizeBytes: number): InputError {
  const found =
    sizeBytes === 0 ? 'is empty (0 bytes)' : `holds only white space or empty documents (${sizeBytes} bytes)`;
  return new InputError('empty_text', `${path} ${found}. Give a file with text, in UTF-8.`, path);
}

function documentTooLarge(path: string): InputError {
  return new InputError(
    'text_too_large',
    `${path} has a document of more than ${maxDocumentLength} characters. Part it by ${documentSeparator}, or give a part of it.`,
    path,
  );
}

function jsonTooLarge(path: string, maxLength: number): InputError {
  return new InputError(
    'text_too_large',
    `${path} has more than ${maxLength} characters in one JSON value. Write it as .jsonl, one record a line.`,
    path,
  );
}
