/** JSON files of unknown origin: bounded in size, strict in encoding, objects at the top. */
import { InputError, messageOf } from '../errors.ts';
import type { ReadableStore } from '../storage/store.ts';

export type JsonObject = Record<string, unknown>;

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/**
 * Reads a JSON object.
 * @returns null when the key does not exist   @throws InputError naming the file when it is too large or no JSON object
 */
export async function readJsonObject(store: ReadableStore, key: string, maxBytes: number): Promise<JsonObject | null> {
  const found = await store.head(key);
  if (found === null) return null;
  if (found.sizeBytes > maxBytes) {
    throw new InputError(
      'file_too_large',
      `${key} has ${found.sizeBytes} bytes; at most ${maxBytes} are read of such a file. Is it the right file?`,
      key,
    );
  }
  const bytes = await store.get(key, { start: 0, end: maxBytes });
  if (bytes === null) return null;
  return parseJsonObject(bytes, key);
}

/** @throws InputError naming the file when it is no JSON object */
export function parseJsonObject(bytes: Uint8Array, key: string): JsonObject {
  const value = parseJson(bytes, key);
  if (!isJsonObject(value)) {
    throw new InputError('invalid_json', `${key} must hold a JSON object; it holds ${describeJson(value)}.`, key);
  }
  return value;
}

function parseJson(bytes: Uint8Array, key: string): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (cause) {
    throw new InputError(
      'invalid_json',
      `${key} is not valid JSON in UTF-8 (${messageOf(cause)}). It may be cut short or damaged; copy it again.`,
      key,
      { cause },
    );
  }
}

/** A value as an error message shows it, cut to a line. */
export function describeJson(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (Array.isArray(value) && value.length > 8) return `an array of ${value.length} values`;
  const text = JSON.stringify(value);
  return text.length <= 80 ? text : `${text.slice(0, 77)}...`;
}
