/**
 * Lists that begin with the newest, whatever their length: beside each thing lies an empty key whose name is its id with every
 * digit turned around, so that the ascending order of keys, the only one that stores have, is the descending one of ids. In a
 * folder the name is cut in three, the beginnings of the time that an id begins with, so that no folder grows large:
 *
 *     tenants/<tenant>/index/<collection>/<9 hours>/<33 seconds>/<the rest>
 */
import type { Store } from './ports.ts';

/** Digits of a ULID: Crockford's base 32. */
const digits = '0123456789ABCDEFGHJKMNPQRSTVWXYZ';
const cuts = [5, 7] as const;

export type Collection = 'jobs' | 'models' | 'datasets';

const indexPrefix = (tenant: string, collection: Collection): string => `tenants/${tenant}/index/${collection}/`;

/** An id with every digit turned around, so that the newest sorts first; its own inverse. */
export function turned(id: string): string {
  return Array.from(id, (digit) => digits[31 - digits.indexOf(digit)]).join('');
}

export function indexKey(tenant: string, collection: Collection, id: string): string {
  const name = turned(id);
  const parts = [name.slice(0, cuts[0]), name.slice(cuts[0], cuts[1]), name.slice(cuts[1])];
  return indexPrefix(tenant, collection) + parts.join('/');
}

/** Ids newest first. An id may be there whose thing is not: its creation broke off, or its deletion. */
export async function idsNewestFirst(
  store: Store,
  tenant: string,
  collection: Collection,
  { after, limit }: { after: string | undefined; limit: number },
): Promise<string[]> {
  const prefix = indexPrefix(tenant, collection);
  const start = after === undefined ? {} : { after: indexKey(tenant, collection, after) };
  const keys = await store.list(prefix, { limit, ...start });
  return keys.map(({ key }) => turned(key.slice(prefix.length).replaceAll('/', '')));
}

/** The same for a list that is at hand, newest first. */
export function idsAfter(
  ids: readonly string[],
  { after, limit }: { after: string | undefined; limit: number },
): string[] {
  return ids.filter((id) => after === undefined || id < after).slice(0, limit);
}

/** Things looked at for one page, whether they fit or not. */
const mostLooks = 1000;

export interface Found<Item> {
  readonly data: Item[];
  /** Id to go on after; null when there is nothing more. */
  readonly next: string | null;
}

/**
 * A page of what fits, read a few at a time. Where little fits it may be short, even empty, and yet have a next one.
 * @param ids those after an id, newest first, at most so many   @param read null: it is not there, or does not fit
 */
export async function findNewest<Item>({
  limit,
  after,
  ids,
  read,
}: {
  limit: number;
  after: string | undefined;
  ids: (query: { after: string | undefined; limit: number }) => Promise<string[]>;
  read: (id: string) => Promise<Item | null>;
}): Promise<Found<Item>> {
  const data: Item[] = [];
  let last = after;
  for (let looks = 0; looks < mostLooks;) {
    // One more than asked for, to know whether there is more.
    const wanted = limit + 1 - data.length;
    const some = await ids({ after: last, limit: wanted });
    const found = await Promise.all(some.map(read));
    for (const [index, item] of found.entries()) {
      if (item !== null && data.length === limit) return { data, next: last ?? null };
      if (item !== null) data.push(item);
      last = some[index];
    }
    looks += some.length;
    if (some.length < wanted) return { data, next: null };
  }
  return { data, next: last ?? null };
}
