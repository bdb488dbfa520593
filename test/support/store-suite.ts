/** What every store must do; each adapter runs it with a store of its own. */
import { describe, expect, it } from 'vitest';
import { InputError } from '../../batch-jobs/src/errors.ts';
import type { Store } from '../../batch-jobs/src/storage/index.ts';

const text = (value: string): Uint8Array => new TextEncoder().encode(value);
const asText = (bytes: Uint8Array | null): string | null => bytes && new TextDecoder().decode(bytes);

async function* chunks(...values: string[]): AsyncGenerator<Uint8Array> {
  for (const value of values) yield text(value);
}

async function readStream(stream: ReadableStream<Uint8Array> | null): Promise<string | null> {
  return stream && new Response(stream).text();
}

export function describeStore(name: string, makeStore: () => Promise<Store>): void {
  describe(name, () => {
    it('gives back what was put, whole, by range and as a stream', async () => {
      const store = await makeStore();
      expect(await store.put('a/b.bin', text('0123456789'))).toBe(true);
      expect(asText(await store.get('a/b.bin'))).toBe('0123456789');
      expect(asText(await store.get('a/b.bin', { start: 2, end: 5 }))).toBe('234');
      expect(asText(await store.get('a/b.bin', { start: 3, end: 3 }))).toBe('');
      expect(await readStream(await store.stream('a/b.bin'))).toBe('0123456789');
      expect(await readStream(await store.stream('a/b.bin', { start: 7, end: 10 }))).toBe('789');
      expect(await store.head('a/b.bin')).toEqual({ sizeBytes: 10 });
    });

    it('reads into memory that the caller has, as much as there is', async () => {
      const store = await makeStore();
      await store.put('k', text('0123456789'));
      const memory = new Uint8Array(new SharedArrayBuffer(8)).fill(46);
      expect(await store.read('k', 2, memory.subarray(1, 5))).toBe(4);
      expect(asText(Uint8Array.from(memory))).toBe('.2345...');
      expect(await store.read('k', 8, memory)).toBe(2);
      expect(asText(Uint8Array.from(memory.subarray(0, 3)))).toBe('893');
      expect(await store.read('k', 50, memory)).toBe(0);
      expect(await store.read('nothing', 0, memory)).toBeNull();
    });

    it('writes a body that changes each piece once the next is asked for', async () => {
      const store = await makeStore();
      const piece = new Uint8Array(4);
      async function* reused(): AsyncGenerator<Uint8Array> {
        for (let i = 0; i < 5; i++) yield piece.fill(97 + i);
      }
      await store.put('k', reused());
      expect(asText(await store.get('k'))).toBe('aaaabbbbccccddddeeee');
    });

    it('gives what there is of a range past the end', async () => {
      const store = await makeStore();
      await store.put('k', text('0123'));
      expect(asText(await store.get('k', { start: 2, end: 2 ** 50 }))).toBe('23');
      expect(asText(await store.get('k', { start: 9, end: 12 }))).toBe('');
      expect(await readStream(await store.stream('k', { start: 9, end: 12 }))).toBe('');
    });

    it('refuses a range that is negative, reversed or not whole', async () => {
      const store = await makeStore();
      await store.put('k', text('0123'));
      for (const range of [
        { start: -1, end: 2 },
        { start: 3, end: 2 },
        { start: 0, end: 1.5 },
      ]) {
        await expect(store.get('k', range)).rejects.toThrow(RangeError);
        await expect(store.stream('k', range)).rejects.toThrow(RangeError);
      }
    });

    it('keeps empty objects', async () => {
      const store = await makeStore();
      await store.put('empty', new Uint8Array(0));
      expect(await store.get('empty')).toEqual(new Uint8Array(0));
      expect(await readStream(await store.stream('empty'))).toBe('');
      expect(await store.head('empty')).toEqual({ sizeBytes: 0 });
    });

    it('answers null for a key that does not exist, and for a folder', async () => {
      const store = await makeStore();
      await store.put('a/b/c', text('x'));
      for (const key of ['nothing', 'a', 'a/b', 'a/b/c/d']) {
        expect(await store.get(key)).toBeNull();
        expect(await store.stream(key)).toBeNull();
        expect(await store.head(key)).toBeNull();
      }
    });

    it('replaces an object, or leaves it alone when it must be absent', async () => {
      const store = await makeStore();
      await store.put('k', text('first'));
      expect(await store.put('k', text('second'), { onlyIfAbsent: true })).toBe(false);
      expect(asText(await store.get('k'))).toBe('first');
      expect(await store.put('k', text('third'))).toBe(true);
      expect(asText(await store.get('k'))).toBe('third');
      expect(await store.put('new', text('x'), { onlyIfAbsent: true })).toBe(true);
    });

    it('lets exactly one of many concurrent exclusive writers win, with its own bytes', async () => {
      const store = await makeStore();
      const writers = Array.from({ length: 20 }, (_, i) => `writer ${i}`);
      const won = await Promise.all(writers.map((who) => store.put('lock/1', text(who), { onlyIfAbsent: true })));
      expect(won.filter(Boolean)).toHaveLength(1);
      expect(asText(await store.get('lock/1'))).toBe(writers[won.indexOf(true)]);
    });

    it('writes a body that comes in pieces', async () => {
      const store = await makeStore();
      await store.put('pieces', chunks('one ', '', 'two ', 'three'));
      expect(asText(await store.get('pieces'))).toBe('one two three');
    });

    it('leaves nothing of a body that fails half-way, and keeps what was there', async () => {
      const store = await makeStore();
      await store.put('kept', text('old'));
      async function* failing(): AsyncGenerator<Uint8Array> {
        yield text('half');
        throw new Error('the client went away');
      }
      await expect(store.put('kept', failing())).rejects.toThrow('the client went away');
      await expect(store.put('fresh', failing())).rejects.toThrow('the client went away');
      expect(asText(await store.get('kept'))).toBe('old');
      expect(await store.list('')).toEqual([{ key: 'kept', sizeBytes: 3 }]);
    });

    it('lists keys in the order of their bytes across folders', async () => {
      const store = await makeStore();
      const keys = ['a', 'a-b/x', 'a.txt', 'a0', 'b/1', 'b/10', 'b/2', 'b/c/d', 'b-c', 'B', 'é', '\u{1F600}', '\uFF5E'];
      for (const key of keys) await store.put(key, text(key));
      const byBytes = [...keys].sort((x, y) => Buffer.compare(Buffer.from(x), Buffer.from(y)));
      const listed = await store.list('');
      expect(listed.map((object) => object.key)).toEqual(byBytes);
      expect(listed.map((object) => object.sizeBytes)).toEqual(byBytes.map((key) => Buffer.byteLength(key)));
    });

    it('pages through a list without gap or repeat, whatever the size of a page', async () => {
      const store = await makeStore();
      const keys = ['p/a', 'p/a-b/1', 'p/a-b/2', 'p/b/1', 'p/b/c/1', 'p/b/c/2', 'p/b0', 'p/c', 'q'];
      for (const key of keys) await store.put(key, text(''));
      for (const limit of [1, 2, 3, 100]) {
        const seen: string[] = [];
        for (;;) {
          const page = await store.list('p/', { after: seen.at(-1), limit });
          expect(page.length).toBeLessThanOrEqual(limit);
          if (page.length === 0) break;
          seen.push(...page.map((object) => object.key));
        }
        expect(seen).toEqual(keys.slice(0, -1));
      }
    });

    it('goes on after a key that does not exist', async () => {
      const store = await makeStore();
      for (const key of ['a/1', 'a/3', 'c/1']) await store.put(key, text(''));
      expect((await store.list('', { after: 'a/2' })).map((object) => object.key)).toEqual(['a/3', 'c/1']);
      expect((await store.list('', { after: 'a/' })).map((object) => object.key)).toEqual(['a/1', 'a/3', 'c/1']);
      expect((await store.list('', { after: 'b' })).map((object) => object.key)).toEqual(['c/1']);
      expect(await store.list('a/', { after: 'b' })).toEqual([]);
    });

    it('takes a prefix as text, not as a folder', async () => {
      const store = await makeStore();
      for (const key of ['job/10/a', 'job/1/a', 'jo']) await store.put(key, text(''));
      expect((await store.list('job/1')).map((object) => object.key)).toEqual(['job/1/a', 'job/10/a']);
      expect((await store.list('job/1/')).map((object) => object.key)).toEqual(['job/1/a']);
      expect(await store.list('nothing/')).toEqual([]);
    });

    it('names the folders of the next level only, ascending', async () => {
      const store = await makeStore();
      for (const key of ['t/file', 't/b/1', 't/a/x/y/1', 't/a-c/1', 'u/1']) await store.put(key, text(''));
      expect(await store.folders('t/')).toEqual(['a', 'a-c', 'b']);
      expect(await store.folders('')).toEqual(['t', 'u']);
      expect(await store.folders('nothing/')).toEqual([]);
    });

    it('deletes a key, and folders that are left empty are gone', async () => {
      const store = await makeStore();
      await store.put('a/b/1', text('x'));
      await store.put('a/c/1', text('x'));
      await store.delete('a/b/1');
      await store.delete('a/b/1');
      await store.delete('a/c');
      expect(await store.folders('a/')).toEqual(['c']);
      expect(await store.get('a/b/1')).toBeNull();
    });

    it('deletes all under a prefix and nothing else', async () => {
      const store = await makeStore();
      for (const key of ['a/b/1', 'a/b/c/2', 'a/bc/1', 'a/d']) await store.put(key, text('x'));
      await store.deletePrefix('a/b/');
      expect((await store.list('')).map((object) => object.key)).toEqual(['a/bc/1', 'a/d']);
      await store.deletePrefix('a/b/');
      await store.deletePrefix('a/b');
      expect((await store.list('')).map((object) => object.key)).toEqual(['a/d']);
    });

    it.each(['', '/a', 'a/', 'a//b', '.', '..', '../a', 'a/../b', 'a/./b', 'a/...', 'a\0b', 'a\\..\\b', '.tmp/x'])(
      'refuses the key %j everywhere',
      async (key) => {
        const store = await makeStore();
        const refusal = expect.objectContaining({ name: 'InputError', code: 'invalid_key' });
        await expect(store.put(key, text('x'))).rejects.toEqual(refusal);
        await expect(store.get(key)).rejects.toEqual(refusal);
        await expect(store.stream(key)).rejects.toEqual(refusal);
        await expect(store.head(key)).rejects.toEqual(refusal);
        await expect(store.delete(key)).rejects.toEqual(refusal);
      },
    );

    it.each([
      ['a segment of more than 255 bytes', 'x'.repeat(256)],
      ['a key of more than 1024 bytes', `${'x/'.repeat(600)}x`],
    ])('refuses %s', async (_, key) => {
      const store = await makeStore();
      await expect(store.put(key, text('x'))).rejects.toEqual(expect.objectContaining({ code: 'invalid_key' }));
    });

    it.each(['../', 'a/../', '/', 'a//', '.tmp/'])('refuses the prefix %j', async (prefix) => {
      const store = await makeStore();
      await expect(store.list(prefix)).rejects.toThrow(InputError);
      await expect(store.folders(prefix)).rejects.toThrow(InputError);
      await expect(store.deletePrefix(prefix)).rejects.toThrow(InputError);
    });

    it('refuses to delete everything', async () => {
      const store = await makeStore();
      await expect(store.deletePrefix('')).rejects.toThrow('whole store');
    });
  });
}
