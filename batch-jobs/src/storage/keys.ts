/** What a key may be, and the order that keys are listed in: the rules that every store shares. */
import { InputError } from '../errors.ts';

/** Object stores allow 1024 bytes in a key, file systems 255 in a segment. */
const maxKeyBytes = 1024;
const maxSegmentBytes = 255;

/** Where a folder store writes before it renames; no key may begin with it. */
export const temporaryFolder = '.tmp';

/** The reason why a segment cannot be part of a key, or null. */
function segmentFault(segment: string): string | null {
  if (segment === '') return 'it begins or ends with a slash, or has two in a row';
  if (/^\.+$/.test(segment)) return `"${segment}" is not a name`;
  // A separator on some systems, and what no name can hold.
  if (/[\\\0]/.test(segment)) return 'it holds a backslash or a NUL';
  if (Buffer.byteLength(segment) > maxSegmentBytes) return `a segment has more than ${maxSegmentBytes} bytes`;
  return null;
}

function keyFault(segments: readonly string[], whole: string): string | null {
  if (segments[0] === temporaryFolder) return `"${temporaryFolder}" is kept for the store's own files`;
  if (Buffer.byteLength(whole) > maxKeyBytes) return `it has more than ${maxKeyBytes} bytes`;
  for (const segment of segments) {
    const fault = segmentFault(segment);
    if (fault !== null) return fault;
  }
  return null;
}

/** @returns the segments of a key   @throws InputError when it could name something outside the store */
export function keySegments(key: string): string[] {
  const segments = key.split('/');
  const fault = keyFault(segments, key);
  if (fault !== null) throw invalidKey('key', key, fault);
  return segments;
}

/** A prefix cut at its last slash: the folders above, and how the names in there begin (possibly with nothing). */
export function prefixParts(prefix: string): { folders: string[]; nameStart: string } {
  const folders = prefix.split('/');
  const nameStart = folders.pop() ?? '';
  const fault = folders.length > 0 ? keyFault(folders, prefix) : null;
  if (fault !== null) throw invalidKey('prefix', prefix, fault);
  return { folders, nameStart };
}

/** The segments of a prefix that ends in a slash or is empty.  @throws InputError for another */
export function folderSegments(prefix: string): string[] {
  const { folders, nameStart } = prefixParts(prefix);
  if (nameStart === '') return folders;
  throw new InputError('invalid_key', `"${prefix}" does not end in a slash, so it has no folders.`, 'prefix');
}

/** `prefixParts` of what is to be deleted, which must not be everything.  @throws InputError */
export function deletionParts(prefix: string): { folders: string[]; nameStart: string } {
  if (prefix === '') throw new InputError('invalid_key', 'An empty prefix would delete the whole store.', 'prefix');
  return prefixParts(prefix);
}

/** True for a name on the disk that a key may hold. */
export function isSegment(name: string): boolean {
  return segmentFault(name) === null;
}

function invalidKey(what: string, value: string, fault: string): InputError {
  return new InputError(
    'invalid_key',
    `${JSON.stringify(value.slice(0, 200))} cannot be a ${what} of the store: ${fault}. ` +
      'Allowed are names joined by single slashes, such as "models/a/config.json".',
    what,
  );
}

/** Order of the UTF-8 bytes, as object stores list keys; it differs from `<` on strings only beyond U+FFFF. */
export function compareKeys(a: string, b: string): number {
  const shorter = Math.min(a.length, b.length);
  for (let i = 0; i < shorter; i++) {
    const left = a.charCodeAt(i);
    const right = b.charCodeAt(i);
    if (left !== right) return utf8Rank(left) - utf8Rank(right);
  }
  return a.length - b.length;
}

/** Surrogates stand for what comes after every other code unit. */
function utf8Rank(unit: number): number {
  return unit >= 0xd800 && unit < 0xe000 ? unit + 0x10000 : unit;
}
