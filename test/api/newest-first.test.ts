import { describe, expect, it } from 'vitest';
import { ulid } from 'ulid';
import { findNewest, idsAfter, idsNewestFirst, indexKey } from '../../api/src/newest-first.ts';
import { temporaryStore } from '../support/temporary-store.ts';

/** Ids from moments that are far apart and moments that are close together. */
const ids = [0, 1, 2, 40_000, 50_000_000, 50_000_001, 1e9, 1e11].map((time) => ulid(1_700_000_000_000 + time));

describe('the index', () => {
  it('gives every id back, newest first, from any of them on', async () => {
    const store = await temporaryStore();
    for (const id of [...ids].sort(() => Math.random() - 0.5)) {
      await store.put(indexKey('a', 'jobs', id), new Uint8Array());
    }
    await store.put(indexKey('b', 'jobs', ulid()), new Uint8Array());
    await store.put(indexKey('a', 'models', ulid()), new Uint8Array());
    const newest = [...ids].reverse();
    const all = { after: undefined, limit: 100 };
    expect(await idsNewestFirst(store, 'a', 'jobs', all)).toEqual(newest);
    expect(await idsNewestFirst(store, 'a', 'jobs', { ...all, limit: 3 })).toEqual(newest.slice(0, 3));
    for (const [index, after] of newest.entries()) {
      expect(await idsNewestFirst(store, 'a', 'jobs', { after, limit: 100 })).toEqual(newest.slice(index + 1));
      expect(idsAfter(newest, { after, limit: 2 })).toEqual(newest.slice(index + 1, index + 3));
    }
  });
});

describe('findNewest', () => {
  const many = Array.from({ length: 2500 }, (_, index) => String(9999 - index));
  const of = (read: (id: string) => string | null) => (query: { limit: number; after: string | undefined }) =>
    findNewest({
      ...query,
      ids: (asked) => Promise.resolve(idsAfter(many, asked)),
      read: (id) => Promise.resolve(read(id)),
    });

  it.each([1, 7, 100])('goes through all that fits, once, in pages of %i', async (limit) => {
    const page = of((id) => (Number(id) % 3 === 0 ? id : null));
    const seen: string[] = [];
    for (let after: string | undefined; ;) {
      const { data, next } = await page({ limit, after });
      expect(data.length).toBeLessThanOrEqual(limit);
      seen.push(...data);
      if (next === null) break;
      after = next;
    }
    expect(seen).toEqual(many.filter((id) => Number(id) % 3 === 0));
  });

  it('stops looking where little fits, and says where to go on', async () => {
    const looked: string[] = [];
    const page = of((id) => {
      looked.push(id);
      return id === many.at(-1) ? id : null;
    });
    const first = await page({ limit: 20, after: undefined });
    expect(first.data).toEqual([]);
    expect(looked.length).toBeLessThan(1100);
    const second = await page({ limit: 20, after: first.next ?? '' });
    const third = await page({ limit: 20, after: second.next ?? '' });
    expect(third).toEqual({ data: [many.at(-1)], next: null });
  });
});
