import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  appendNumbered,
  createNumbered,
  FolderStore,
  lastNumbered,
  numberedKey,
  readLatestNumbered,
  readNumbered,
  type Store,
} from '@cherryq/batch-jobs/storage';

let folder: string;
let store: Store;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'cherryq-log-'));
  store = new FolderStore(folder);
});
afterEach(() => rm(folder, { recursive: true, force: true }));

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const text = (body: Uint8Array): string => new TextDecoder().decode(body);
const append = (body: string, lastKnown?: number) =>
  appendNumbered(store, 'a/log/', 4, '.json', bytes(body), lastKnown);
async function readAll(from?: number): Promise<string[]> {
  const found: string[] = [];
  for await (const entry of readNumbered(store, 'a/log/', 4, '.json', from))
    found.push(`${entry.number} ${text(entry.body)}`);
  return found;
}

describe('a numbered log', () => {
  it('is empty at first', async () => {
    expect(await readLatestNumbered(store, 'a/log/')).toBeNull();
    expect(await lastNumbered(store, 'a/log/', 4, '.json')).toBe(0);
    expect(await readAll()).toEqual([]);
  });

  it('numbers entries from 1, without gaps, whatever the writer knew', async () => {
    expect([await append('one'), await append('two', 1), await append('three', 1), await append('four')]).toEqual([
      1, 2, 3, 4,
    ]);
    expect(await readAll()).toEqual(['1 one', '2 two', '3 three', '4 four']);
    expect(await readAll(4)).toEqual(['4 four']);
    expect((await store.list('a/log/'))[0]?.key).toBe('a/log/0001.json');
  });

  it('finds its newest entry at every length', async () => {
    for (let length = 1; length <= 20; length++) {
      await append(`${length}`, length - 1);
      expect(await lastNumbered(store, 'a/log/', 4, '.json')).toBe(length);
      const latest = await readLatestNumbered(store, 'a/log/');
      expect([latest?.number, text(latest?.body ?? bytes(''))]).toEqual([length, `${length}`]);
    }
  });

  it('keeps every entry of writers that race', async () => {
    const writers = Array.from({ length: 12 }, (_, index) => append(`${index}`));
    expect((await Promise.all(writers)).sort((a, b) => a - b)).toEqual(
      Array.from({ length: 12 }, (_, index) => index + 1),
    );
    expect(new Set((await readAll()).map((line) => line.split(' ')[1]))).toHaveLength(12);
  });

  it('lets one of two writers have an exact number', async () => {
    const take = (body: string) => createNumbered(store, 'a/log/', 4, '.json', 1, bytes(body));
    expect([await take('first'), await take('second')]).toEqual([true, false]);
    expect(await readAll()).toEqual(['1 first']);
  });

  it('refuses a number that would not sort', () => {
    expect(() => numberedKey('a/log/', 4, '.json', 10_000)).toThrow('entry 10000 needs more than 4 digits');
  });
});
