/**
 * The text of a dataset: its files in order of path, plain text or `.jsonl` with one `{"text": ...}` a line, strictly UTF-8.
 * Documents within a text are parted by `<|endoftext|>`, as many published corpora have it.
 */
import { InputError } from '../errors.ts';
import type { Tokenizer } from '../formats/tokenizer.ts';
import type { Store } from '../storage/store.ts';
import { documentSeparator, splitDocuments } from './separator.ts';
import { decodeBytes } from './utf8.ts';

/** Of all files together; token ids and their windows take a few times as much memory. */
const maxTextBytes = 2 ** 28;

/**
 * @param prefix ends in a slash
 * @returns all documents, joined by `documentSeparator` between files and between lines of `.jsonl`
 * @throws InputError `empty_text`, `binary_text`, `invalid_jsonl` or `text_too_large`, naming the file and what it holds
 */
export async function readText(store: Store, prefix: string): Promise<string> {
  const texts: string[] = [];
  let totalBytes = 0;
  for (let after: string | undefined; ;) {
    const page = await store.list(prefix, { after });
    for (const { key, sizeBytes } of page) {
      totalBytes += sizeBytes;
      if (totalBytes > maxTextBytes) throw tooLarge(prefix);
      texts.push(await readFile(store, key, key.slice(prefix.length)));
    }
    after = page.at(-1)?.key;
    if (after === undefined) break;
  }
  if (texts.length === 0) {
    throw new InputError('empty_text', `There is no text file under ${prefix}. Give at least one .txt file.`, prefix);
  }
  return texts.join(documentSeparator);
}

async function readFile(store: Store, key: string, path: string): Promise<string> {
  const bytes = await store.get(key);
  if (bytes === null) throw new Error(`${key} was deleted while its folder was being read.`);
  return textOf(bytes, path);
}

/** The text of one file.  @param path names it in errors and tells `.jsonl` from plain text  @throws InputError as above */
export function textOf(bytes: Uint8Array, path: string): string {
  const content = decodeBytes(bytes, path);
  const text = path.endsWith('.jsonl') ? textOfLines(content, path) : content;
  if (text.trim() !== '') return text;
  const found = bytes.length === 0 ? 'is empty (0 bytes)' : `holds only white space (${bytes.length} bytes)`;
  throw new InputError('empty_text', `${path} ${found}. Give a file with text, in UTF-8.`, path);
}

function textOfLines(content: string, path: string): string {
  const documents: string[] = [];
  content.split('\n').forEach((line, index) => {
    if (line.trim() !== '') documents.push(textOfLine(line, path, index + 1));
  });
  return documents.join(documentSeparator);
}

function textOfLine(line: string, path: string, lineNumber: number): string {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    value = undefined;
  }
  if (typeof value === 'object' && value !== null && 'text' in value && typeof value.text === 'string')
    return value.text;
  throw new InputError(
    'invalid_jsonl',
    `Line ${lineNumber} of ${path} must be a JSON object with a string "text"; it is ${line.trim().slice(0, 80)}.`,
    path,
  );
}

function tooLarge(prefix: string): InputError {
  return new InputError(
    'text_too_large',
    `The files under ${prefix} have more than ${maxTextBytes} bytes. Calibration reads a few megabytes; give a part of them.`,
    prefix,
  );
}

/**
 * The token stream of a text: BOS once at the start, where the tokenizer has one, and between documents the tokenizer's
 * own `<|endoftext|>`, else BOS, else EOS.
 */
export function encodeText(text: string, tokenizer: Tokenizer): Int32Array {
  const { bosTokenId, eosTokenId } = tokenizer;
  const between = tokenizer.tokenId(documentSeparator) ?? bosTokenId ?? eosTokenId;
  const parts: Int32Array[] = [];
  for (const document of splitDocuments(text)) {
    const lead = parts.length === 0 ? bosTokenId : between;
    if (lead !== null) parts.push(Int32Array.of(lead));
    parts.push(tokenizer.encode(document, { addSpecialTokens: false }));
  }
  const stream = new Int32Array(parts.reduce((length, part) => length + part.length, 0));
  let position = 0;
  for (const part of parts) {
    stream.set(part, position);
    position += part.length;
  }
  return stream;
}
