/**
 * A log kept as one object per entry, `<prefix><number><extension>` with a zero-padded number from 1 upwards. An entry is
 * written by exclusive creation of the next number, so concurrent writers never overwrite each other, and a writer only
 * takes a number once the one before it exists, so the log has no gaps and a reader may fetch entry after entry by name.
 * What an entry means (job states, event batches) is the caller's business; nothing here parses a body.
 */
import type { Store } from './store.ts';

export interface NumberedEntry {
  number: number;
  body: Uint8Array;
}

/** Key of one entry. @throws RangeError when the number needs more than `digits` digits, so that keys always sort. */
export function numberedKey(prefix: string, digits: number, extension: string, number: number): string {
  const padded = String(number).padStart(digits, '0');
  if (padded.length > digits)
    throw new RangeError(`log ${prefix} is full: entry ${number} needs more than ${digits} digits`);
  return `${prefix}${padded}${extension}`;
}

/**
 * Appends an entry under the next free number.
 * @param prefix ends in a slash   @param extension with its dot, such as `.json`
 * @param lastKnown a number that the caller knows to exist (its own last append, say); spares listing the log
 * @returns the number that was written; pass it as `lastKnown` next time
 */
export async function appendNumbered(
  store: Store,
  prefix: string,
  digits: number,
  extension: string,
  body: Uint8Array,
  lastKnown?: number,
): Promise<number> {
  let number = (lastKnown ?? (await lastNumbered(store, prefix, digits, extension))) + 1;
  while (!(await createNumbered(store, prefix, digits, extension, number, body))) number++;
  return number;
}

/**
 * Writes exactly this number: for entries that are only right after the entry the caller has read (a state change).
 * @returns false when another writer took the number; read again and decide again
 */
export function createNumbered(
  store: Store,
  prefix: string,
  digits: number,
  extension: string,
  number: number,
  body: Uint8Array,
): Promise<boolean> {
  return store.put(numberedKey(prefix, digits, extension, number), body, { onlyIfAbsent: true });
}

/** The newest entry of a short log, found by listing it; null when it is empty. */
export async function readLatestNumbered(store: Store, prefix: string): Promise<NumberedEntry | null> {
  const key = await lastKey(store, prefix);
  if (key === null) return null;
  const body = await store.get(key);
  return body && { number: Number.parseInt(key.slice(prefix.length), 10), body };
}

/** Number of the newest entry, 0 when there is none; about 2 log2(n) looks, so also quick on a log of thousands. */
export async function lastNumbered(store: Store, prefix: string, digits: number, extension: string): Promise<number> {
  const exists = async (number: number): Promise<boolean> =>
    (await store.head(numberedKey(prefix, digits, extension, number))) !== null;
  let present = 0;
  let absent = 1;
  while (await exists(absent)) {
    present = absent;
    absent *= 2;
  }
  while (absent - present > 1) {
    const middle = Math.floor((present + absent) / 2);
    if (await exists(middle)) present = middle;
    else absent = middle;
  }
  return present;
}

/** Entries from a number on, in order, up to the newest there is; one read each, nothing is listed. */
export async function* readNumbered(
  store: Store,
  prefix: string,
  digits: number,
  extension: string,
  from = 1,
): AsyncGenerator<NumberedEntry> {
  for (let number = from; ; number++) {
    const body = await store.get(numberedKey(prefix, digits, extension, number));
    if (body === null) return;
    yield { number, body };
  }
}

async function lastKey(store: Store, prefix: string): Promise<string | null> {
  const limit = 1000;
  let last: string | null = null;
  for (;;) {
    const page = await store.list(prefix, last === null ? { limit } : { after: last, limit });
    last = page.at(-1)?.key ?? last;
    if (page.length < limit) return last;
  }
}
