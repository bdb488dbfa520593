/** Bytes of unknown origin as text, strictly UTF-8; an error says at which byte a file stops being text, and what it may be. */
import { InputError } from '../errors.ts';

/**
 * Decodes a file that comes in chunks; characters may lie across their ends. A byte order mark at the start is left out.
 * @param path names the file in errors   @throws InputError `binary_text`
 */
export async function* decodeUtf8(chunks: AsyncIterable<Uint8Array>, path: string): AsyncGenerator<string> {
  let position = 0;
  let rest: Uint8Array = new Uint8Array(0);
  for await (const chunk of chunks) {
    const bytes = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    const end = bytes.length - cutCharacterBytes(bytes);
    // A copy: a stream may fill the chunk's memory anew.
    rest = bytes.slice(end);
    if (end > 0) yield decodeBytes(bytes.subarray(0, end), path, position);
    position += end;
  }
  if (rest.length > 0) yield decodeBytes(rest, path, position);
}

/** @param position of the first byte in its file   @throws InputError `binary_text` */
export function decodeBytes(bytes: Uint8Array, path: string, position = 0): string {
  const nul = bytes.indexOf(0);
  if (nul >= 0) throw binary(bytes, path, position, `a NUL byte at offset ${position + nul}`);
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: position > 0 }).decode(bytes);
  } catch {
    const lenient = new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes);
    const offset = Buffer.byteLength(lenient.slice(0, lenient.indexOf('\uFFFD')));
    const value = bytes[offset].toString(16).padStart(2, '0');
    throw binary(bytes, path, position, `bytes at offset ${position + offset} (0x${value}...) that are not UTF-8`);
  }
}

/** Bytes at the end that may begin a character whose rest is still to come: at most 3. */
function cutCharacterBytes(bytes: Uint8Array): number {
  for (let back = 1; back <= Math.min(3, bytes.length); back++) {
    const byte = bytes[bytes.length - back];
    if (byte < 0x80) return 0;
    if (byte < 0xc0) continue;
    const length = byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
    return length > back ? back : 0;
  }
  return 0;
}

const signatures: readonly (readonly [string, readonly number[]])[] = [
  ['UTF-16 text', [0xff, 0xfe]],
  ['UTF-16 text', [0xfe, 0xff]],
  ['gzip (name it .gz)', [0x1f, 0x8b]],
  ['Zstandard', [0x28, 0xb5, 0x2f, 0xfd]],
  ['ZIP', [0x50, 0x4b, 0x03, 0x04]],
  ['PDF', [0x25, 0x50, 0x44, 0x46]],
  ['Parquet (name it .parquet)', [0x50, 0x41, 0x52, 0x31]],
  ['PNG', [0x89, 0x50, 0x4e, 0x47]],
  ['GGUF', [0x47, 0x47, 0x55, 0x46]],
];

function binary(bytes: Uint8Array, path: string, position: number, found: string): InputError {
  const begins = ([, start]: (typeof signatures)[number]): boolean => start.every((byte, i) => bytes[i] === byte);
  const kind = position > 0 ? undefined : signatures.find(begins)?.[0];
  const looksLike = kind === undefined ? '' : `, and begins like ${kind}`;
  return new InputError(
    'binary_text',
    `${path} is not text: it has ${found}${looksLike}. Give plain text, JSON lines or JSON in UTF-8, or .parquet.`,
    path,
  );
}
