import { describe, expect, it } from 'vitest';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, utimesSync } from 'node:fs';
import { join } from 'node:path';
import { FolderStore } from '../../../batch-jobs/src/storage/index.ts';
import { temporaryFolder } from '../../support/temporary-store.ts';

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');
async function* pieces(...texts: string[]): AsyncGenerator<Uint8Array> {
  for (const text of texts) yield new TextEncoder().encode(text);
}
const first = { number: 1, start: 0, sizeBytes: 6, sha256: sha256('abcdef') };
const second = { number: 2, start: 6, sizeBytes: 2, sha256: sha256('gh') };
const key = 'a/whole.bin';

function open() {
  const root = temporaryFolder();
  const store = new FolderStore(root);
  const text = async (): Promise<string | null> => {
    const bytes = await store.get(key);
    return bytes && new TextDecoder().decode(bytes);
  };
  return { root, store, access: store.ownParts, text };
}

describe('an object in parts', () => {
  it('is there once it is finished, whatever the order of its parts, and leaves nothing behind', async () => {
    const { root, store, access, text } = open();
    const id = await access.begin(key);
    await access.putPart(key, id, second, pieces('gh'));
    await access.putPart(key, id, first, pieces('abc', 'def'));
    expect(await store.list('')).toEqual([]);
    const parts = (await access.parts(key, id)) ?? [];
    expect(parts.map(({ number, sizeBytes, sha256: hash }) => [number, sizeBytes, hash])).toEqual([
      [1, 6, first.sha256],
      [2, 2, second.sha256],
    ]);
    expect(await access.finish(key, id, parts, sha256('abcdefgh'))).toBe(true);
    expect(await text()).toBe('abcdefgh');
    expect(readdirSync(join(root, '.tmp'))).toEqual([]);
    expect(await access.parts(key, id)).toBeNull();
  });

  it('knows its parts after the process that took them is gone', async () => {
    const { root, access } = open();
    const id = await access.begin(key);
    await access.putPart(key, id, first, pieces('abcdef'));
    const next = new FolderStore(root);
    expect(await next.ownParts.parts(key, id)).toMatchObject([{ number: 1, sizeBytes: 6 }]);
    await next.ownParts.putPart(key, id, second, pieces('gh'));
    expect(await next.ownParts.finish(key, id, [], sha256('abcdefgh'))).toBe(true);
  });

  it('has no part whose bytes broke off, nor one that is being replaced', async () => {
    const { access } = open();
    const id = await access.begin(key);
    await access.putPart(key, id, first, pieces('abcdef'));
    async function* broken(): AsyncGenerator<Uint8Array> {
      yield* pieces('xy');
      throw new Error('gone');
    }
    await expect(access.putPart(key, id, { ...first, sha256: sha256('xyz') }, broken())).rejects.toThrow('gone');
    expect(await access.parts(key, id)).toEqual([]);
  });

  it('is not made, and all of it goes, when the whole has another SHA-256', async () => {
    const { access, text } = open();
    const id = await access.begin(key);
    await access.putPart(key, id, first, pieces('abcdef'));
    expect(await access.finish(key, id, [], sha256('other'))).toBe(false);
    expect(await text()).toBeNull();
    expect(await access.parts(key, id)).toBeNull();
  });

  it('is read once for several who finish it, and takes nothing meanwhile', async () => {
    const { access, text } = open();
    const id = await access.begin(key);
    await access.putPart(key, id, first, pieces('abcdef'));
    const ends = [access.finish(key, id, [], first.sha256), access.finish(key, id, [], first.sha256)];
    const late = access.putPart(key, id, { ...first, sha256: sha256('uvwxyz') }, pieces('uvwxyz'));
    await expect(late).rejects.toThrow('ask again');
    expect(await Promise.all(ends)).toEqual([true, true]);
    expect(await text()).toBe('abcdef');
  });

  it('leaves alone what is there already', async () => {
    const { store, access, text } = open();
    await store.put(key, new TextEncoder().encode('there'));
    const id = await access.begin(key);
    await access.putPart(key, id, first, pieces('abcdef'));
    expect(await access.finish(key, id, [], first.sha256)).toBe(true);
    expect(await text()).toBe('there');
  });

  it('is kept for a month after its last part, and no longer', async () => {
    const { root, access } = open();
    const id = await access.begin(key);
    const place = join(root, '.tmp', id);
    const age = (days: number): void => utimesSync(place, new Date(), new Date(Date.now() - days * 86_400_000));
    age(29);
    await new FolderStore(root).put('other', new Uint8Array(1));
    expect(existsSync(place)).toBe(true);
    age(31);
    await new FolderStore(root).put('other', new Uint8Array(1));
    expect(existsSync(place)).toBe(false);
  });
});
