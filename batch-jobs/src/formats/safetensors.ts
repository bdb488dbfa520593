/**
 * Safetensors, reader and writer: a u64 (little-endian) header length, a JSON header, then the tensors' bytes.
 *
 * The reader trusts nothing: every length and offset is checked against the size of the file before memory is taken for
 * it, and the tensors must fill the data section without overlap or hole, as the format demands. A tensor's bytes are
 * read one range at a time, so a file is never held whole.
 * It does not read the sub-byte dtypes (F4, F6), nor files with duplicate names.
 *
 * @source huggingface/safetensors, README "Format" and safetensors/src/tensor.rs
 */
import { InputError, messageOf } from '../errors.ts';
import type { FloatDtype } from '../numeric/dtypes.ts';
import { toFloat32 } from '../numeric/dtypes.ts';
import type { ReadableStore, Store } from '../storage/store.ts';
import { describeJson, isJsonObject } from './json.ts';

/** Bytes of one element. */
const dtypeBytes = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  F8_E8M0: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8,
  C64: 8,
} as const;

export type Dtype = keyof typeof dtypeBytes;

export interface TensorInfo {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** Store key of the file that holds it. */
  readonly key: string;
  /** Byte offsets in that file; `end` is exclusive. */
  readonly start: number;
  readonly end: number;
}

export interface SafetensorsFile {
  readonly key: string;
  readonly sizeBytes: number;
  readonly metadata: Readonly<Record<string, string>>;
  /** In the order of their data. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
}

const lengthBytes = 8;
/** The reference implementation's limit. */
const maxHeaderBytes = 100_000_000;
const metadataName = '__metadata__';

/**
 * Reads and checks the header of a file.
 * @throws InputError, one code for each way a file can be wrong, naming the file and, where there is one, the tensor
 */
export async function openSafetensors(store: ReadableStore, key: string): Promise<SafetensorsFile> {
  const found = await store.head(key);
  if (found === null) throw new InputError('missing_file', `There is no file ${key}.`, key);
  const { sizeBytes } = found;
  checkLongEnough(sizeBytes, key);
  const dataStart = dataStartOf(await readRange(store, key, 0, lengthBytes), sizeBytes, key);
  return readHeader(await readRange(store, key, lengthBytes, dataStart), key, dataStart, sizeBytes);
}

/**
 * Checks the header of a file that comes in piece by piece, as soon as there is enough of it.
 * @param key what errors call the file   @returns to be called with each piece; throws InputError as `openSafetensors`
 */
export function checkIncomingHeader(key: string, sizeBytes: number): (piece: Uint8Array) => void {
  checkLongEnough(sizeBytes, key);
  let pieces: Uint8Array[] = [];
  let length = 0;
  let dataStart: number | null = null;
  let isChecked = false;
  return (piece) => {
    if (isChecked) return;
    // A piece may change once the next is asked for.
    pieces.push(piece.slice(0, (dataStart ?? maxHeaderBytes + lengthBytes) - length));
    length += piece.length;
    if (length < (dataStart ?? lengthBytes)) return;
    const bytes = Buffer.concat(pieces);
    dataStart ??= dataStartOf(bytes, sizeBytes, key);
    pieces = [bytes];
    if (length < dataStart) return;
    readHeader(bytes.subarray(lengthBytes, dataStart), key, dataStart, sizeBytes);
    isChecked = true;
    pieces = [];
  };
}

function checkLongEnough(sizeBytes: number, key: string): void {
  if (sizeBytes >= lengthBytes) return;
  throw invalid('safetensors_too_short', key, `it has ${sizeBytes} bytes; the length of the header alone takes 8`);
}

/** @param begin the file's first bytes, 8 or more */
function dataStartOf(begin: Uint8Array, sizeBytes: number, key: string): number {
  const claimedBytes = new DataView(begin.buffer, begin.byteOffset).getBigUint64(0, true);
  return lengthBytes + checkedHeaderBytes(claimedBytes, sizeBytes, key);
}

function readHeader(bytes: Uint8Array, key: string, dataStart: number, sizeBytes: number): SafetensorsFile {
  const header = parseHeader(bytes, key);
  const { [metadataName]: metadata = {}, ...entries } = header;
  const infos = Object.entries(entries).map(([name, entry]) => checkedTensor(name, entry, key, dataStart, sizeBytes));
  infos.sort((a, b) => a.start - b.start || a.end - b.end);
  checkLayout(infos, key, dataStart, sizeBytes);
  const tensors = new Map(infos.map((info) => [info.name, info]));
  return { key, sizeBytes, metadata: checkedMetadata(metadata, key), tensors };
}

function checkedHeaderBytes(claimed: bigint, sizeBytes: number, key: string): number {
  const available = sizeBytes - lengthBytes;
  if (claimed >= 2n && claimed <= BigInt(Math.min(available, maxHeaderBytes))) return Number(claimed);
  const limit = claimed > BigInt(maxHeaderBytes) ? `the limit is ${maxHeaderBytes}` : `${available} follow in the file`;
  throw invalid('safetensors_header_length', key, `it claims a header of ${claimed} bytes; ${limit}`);
}

function parseHeader(bytes: Uint8Array, key: string): Record<string, unknown> {
  let text: string;
  let header: unknown;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
    header = JSON.parse(text);
  } catch (cause) {
    throw invalid('safetensors_header_json', key, `its header is not valid JSON in UTF-8 (${messageOf(cause)})`, {
      cause,
    });
  }
  if (!isJsonObject(header) || !text.startsWith('{')) {
    throw invalid('safetensors_header_json', key, `its header must be a JSON object; it is ${describeJson(header)}`);
  }
  const doubled = duplicateName(text);
  if (doubled !== null) {
    throw invalid('safetensors_duplicate_name', key, `its header has "${doubled}" twice in one object`, {}, doubled);
  }
  return header;
}

/** A name that one object of a valid JSON text has twice, which `JSON.parse` would pass over; or null. */
function duplicateName(json: string): string | null {
  const scopes: Set<string>[] = [];
  for (let at = 0; at < json.length; at++) {
    const char = json[at];
    if (char === '{' || char === '[') scopes.push(new Set());
    else if (char === '}' || char === ']') scopes.pop();
    else if (char === '"') {
      const begin = at++;
      while (json[at] !== '"') at += json[at] === '\\' ? 2 : 1;
      let next = at + 1;
      while (' \t\r\n'.includes(json[next])) next++;
      if (json[next] !== ':') continue;
      const name: string = JSON.parse(json.slice(begin, at + 1));
      const names = scopes[scopes.length - 1];
      if (names.has(name)) return name;
      names.add(name);
    }
  }
  return null;
}

function checkedMetadata(entry: unknown, key: string): Record<string, string> {
  if (isJsonObject(entry) && Object.values(entry).every((value) => typeof value === 'string')) {
    return entry as Record<string, string>;
  }
  throw invalid(
    'safetensors_metadata',
    key,
    `its ${metadataName} must be an object of strings; it is ${describeJson(entry)}`,
  );
}

function checkedTensor(name: string, entry: unknown, key: string, dataStart: number, sizeBytes: number): TensorInfo {
  const fail = (code: string, what: string): never => {
    throw invalid(code, key, `tensor "${name}" ${what}`, {}, name);
  };
  if (!isJsonObject(entry)) return fail('safetensors_tensor_entry', `is described by ${describeJson(entry)}`);
  const { dtype, shape, data_offsets: offsets } = entry;
  if (typeof dtype !== 'string' || !Object.hasOwn(dtypeBytes, dtype)) {
    const known = Object.keys(dtypeBytes).join(', ');
    return fail('safetensors_dtype', `has the unknown dtype ${describeJson(dtype)}; known are ${known}`);
  }
  if (!isCounts(shape)) {
    return fail(
      'safetensors_shape',
      `has the shape ${describeJson(shape)}; it must be an array of whole numbers from 0`,
    );
  }
  if (!isCounts(offsets) || offsets.length !== 2 || offsets[1] < offsets[0]) {
    const allowed = 'they must be two whole numbers, begin and end, in that order';
    return fail('safetensors_offsets', `has the data_offsets ${describeJson(offsets)}; ${allowed}`);
  }
  const expectedBytes = shape.reduce((product, size) => product * size, dtypeBytes[dtype as Dtype]);
  if (!Number.isSafeInteger(expectedBytes)) {
    return fail('safetensors_shape', `has the shape ${describeJson(shape)}, more bytes than any file can have`);
  }
  const [begin, end] = offsets;
  if (end - begin !== expectedBytes) {
    const needed = `${dtype} ${describeJson(shape)} needs ${expectedBytes} bytes`;
    return fail('safetensors_size_mismatch', `has ${end - begin} bytes of data, but ${needed}`);
  }
  const dataBytes = sizeBytes - dataStart;
  if (end > dataBytes) {
    const cut = 'The file is probably cut short: copy it again';
    return fail('safetensors_truncated', `ends at byte ${end} of the data, but the file has only ${dataBytes}. ${cut}`);
  }
  return { name, dtype: dtype as Dtype, shape, key, start: dataStart + begin, end: dataStart + end };
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && item >= 0);
}

/** Checks that tensors, given in the order of their data, follow each other from its first byte to its last. */
function checkLayout(tensors: readonly TensorInfo[], key: string, dataStart: number, sizeBytes: number): void {
  let position = dataStart;
  let before = 'the header';
  for (const { name, start, end } of tensors) {
    if (start < position) {
      throw invalid('safetensors_overlap', key, `tensor "${name}" overlaps ${before}`, {}, name);
    }
    if (start > position) {
      const hole = `${start - position} bytes between ${before} and tensor "${name}" belong to no tensor`;
      throw invalid('safetensors_hole', key, hole, {}, name);
    }
    position = end;
    before = `tensor "${name}"`;
  }
  if (position !== sizeBytes) {
    throw invalid('safetensors_hole', key, `${sizeBytes - position} bytes after ${before} belong to no tensor`);
  }
}

function invalid(code: string, key: string, what: string, options: ErrorOptions = {}, tensor?: string): InputError {
  return new InputError(code, `${key} is not a valid safetensors file: ${what}.`, tensor ?? key, options);
}

async function readRange(store: ReadableStore, key: string, start: number, end: number): Promise<Uint8Array> {
  const bytes = await store.get(key, { start, end });
  if (bytes === null || bytes.length !== end - start) throw fileChanged(key);
  return bytes;
}

function fileChanged(key: string): InputError {
  return new InputError('file_changed', `${key} became shorter or was deleted while it was being read.`, key);
}

/** @returns the tensor's bytes as they are in the file, row-major and little-endian */
export function readTensorBytes(store: Store, info: TensorInfo): Promise<Uint8Array> {
  return readRange(store, info.key, info.start, info.end);
}

/** Fills `into` with the tensor's bytes from `start` on, counted from its first.  @throws RangeError beyond its end */
export async function readTensorInto(store: Store, info: TensorInfo, start: number, into: Uint8Array): Promise<void> {
  if (start + into.length > info.end - info.start) {
    throw new RangeError(`Bytes ${start} to ${start + into.length} of "${info.name}" were asked for; it has fewer.`);
  }
  if ((await store.read(info.key, info.start + start, into)) !== into.length) throw fileChanged(info.key);
}

/** The type of a tensor's numbers.  @throws InputError naming the tensor unless it is F32, F16 or BF16 */
export function floatDtype({ dtype, name, key }: TensorInfo): FloatDtype {
  if (dtype === 'F32' || dtype === 'F16' || dtype === 'BF16') return dtype;
  throw new InputError(
    'unsupported_dtype',
    `Tensor "${name}" of ${key} is ${dtype}; weights must be F32, F16 or BF16. Convert the model to one of them first.`,
    name,
  );
}

/**
 * A tensor of F32, F16 or BF16 in float32, row-major.
 * @throws InputError naming the tensor for any other dtype
 */
export async function readTensor(store: Store, info: TensorInfo): Promise<Float32Array> {
  const dtype = floatDtype(info);
  return toFloat32(await readTensorBytes(store, info), dtype);
}

export interface TensorToWrite {
  readonly name: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /**
   * Row-major, little-endian; a function is called when its turn comes, so that a tensor is in memory only then, or only a
   * part of it at a time. A part may change once the next is asked for.
   */
  readonly data: Uint8Array | (() => Promise<Uint8Array> | AsyncIterable<Uint8Array>);
}

/**
 * A file with the tensors in the order given, ready for `store.put`. The same arguments give the same bytes.
 * The header is padded with spaces so that the data starts at a multiple of 8.
 * @throws Error for a name given twice, a shape that is none, or data that is not as long as its shape says
 */
export function safetensorsBytes(
  tensors: readonly TensorToWrite[],
  metadata: Readonly<Record<string, string>> = {},
): { sizeBytes: number; chunks: AsyncIterable<Uint8Array> } {
  const names = new Set([metadataName]);
  // Joined by hand: an object would move names that look like numbers to the front.
  const fields = Object.keys(metadata).length > 0 ? [`"${metadataName}":${JSON.stringify(metadata)}`] : [];
  let dataBytes = 0;
  for (const { name, dtype, shape, data } of tensors) {
    if (names.has(name)) throw new Error(`Two tensors of one safetensors file have the name "${name}".`);
    if (!isCounts(shape)) throw new Error(`Tensor "${name}" cannot have the shape [${String(shape)}].`);
    names.add(name);
    const begin = dataBytes;
    dataBytes += tensorBytes(dtype, shape);
    if (typeof data !== 'function') checkDataLength(name, data.length, dataBytes - begin);
    fields.push(`${JSON.stringify(name)}:${JSON.stringify({ dtype, shape, data_offsets: [begin, dataBytes] })}`);
  }
  const json = new TextEncoder().encode(`{${fields.join(',')}}`);
  const headerBytes = Math.ceil(json.length / 8) * 8;
  const head = new Uint8Array(lengthBytes + headerBytes).fill(0x20);
  new DataView(head.buffer).setBigUint64(0, BigInt(headerBytes), true);
  head.set(json, lengthBytes);

  async function* chunks(): AsyncGenerator<Uint8Array> {
    yield head;
    for (const { name, dtype, shape, data } of tensors) {
      const expectedBytes = tensorBytes(dtype, shape);
      let length = 0;
      for await (const part of partsOf(data)) {
        length += part.length;
        if (length > expectedBytes) break;
        yield part;
      }
      checkDataLength(name, length, expectedBytes);
    }
  }
  return { sizeBytes: head.length + dataBytes, chunks: { [Symbol.asyncIterator]: chunks } };
}

function tensorBytes(dtype: Dtype, shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, dtypeBytes[dtype]);
}

async function* partsOf(data: TensorToWrite['data']): AsyncGenerator<Uint8Array> {
  const made = typeof data === 'function' ? data() : data;
  if (Symbol.asyncIterator in made) yield* made;
  else yield await made;
}

function checkDataLength(name: string, length: number, expectedBytes: number): void {
  if (length === expectedBytes) return;
  throw new Error(`Tensor "${name}" has ${length} bytes of data; its dtype and shape need ${expectedBytes}.`);
}
