import { describe, expect, it } from 'vitest';
import type { DirectAccess, Store, StoredPart } from '@cherryq/batch-jobs/storage';
import { createPartUploads, partBytesOf } from '../../api/src/part-uploads.ts';
import { systemClock } from '../../api/src/ports.ts';
import { sha256 } from '../support/api.ts';
import { temporaryStore } from '../support/temporary-store.ts';

const mebibyte = 2 ** 20;
const file = { path: 'a/weights.safetensors', sizeBytes: 20 * mebibyte, sha256: sha256('whole') };
const at = { filesPrefix: 'm/files/', recordsPrefix: 'm/parts/' };
const hashes = ['one', 'two', 'three'].map((text) => sha256(text));

/** A store that keeps what it is told of parts, as S3 does, and nothing else of them. */
async function open() {
  const folder = await temporaryStore();
  const uploads = new Map<string, StoredPart[]>();
  const direct: DirectAccess = {
    expiresInSeconds: 60,
    begin: () => {
      const id = `upload ${uploads.size + 1}`;
      uploads.set(id, []);
      return Promise.resolve(id);
    },
    partRequest: (key, id, { number }) => Promise.resolve({ url: `https://store/${key}/${id}/${number}`, headers: {} }),
    parts: (_, id) => Promise.resolve(uploads.get(id) ?? null),
    finish: async (key) => void (await folder.put(key, new TextEncoder().encode('whole'), { onlyIfAbsent: true })),
    abort: (_, id) => Promise.resolve(void uploads.delete(id)),
    downloadUrl: (key) => Promise.resolve(`https://store/${key}`),
  };
  const store = new Proxy(folder, {
    get: (target, name) => {
      if (name === 'direct') return direct;
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  }) as Store;
  return { store, uploads, parts: createPartUploads({ store, clock: systemClock }, at) };
}
const part = (number: number, sizeBytes: number, hash: string): StoredPart => ({
  number,
  sizeBytes,
  sha256: hash,
  etag: `"${number}"`,
});

describe('the parts of a file', () => {
  it.each([
    [1, 8],
    [8, 8],
    [40_000, 8],
    [40_001, 9],
    [320_000, 64],
  ])('of %i MiB have %i MiB, so that there are never more than the store allows', (size, bytes) => {
    expect(partBytesOf({ sizeBytes: size * mebibyte })).toBe(bytes * mebibyte);
    expect(Math.ceil((size * mebibyte) / partBytesOf({ sizeBytes: size * mebibyte }))).toBeLessThanOrEqual(5000);
  });

  it('that are there with the same hash need not be sent; the upload begun before is gone on with', async () => {
    const { parts, uploads } = await open();
    const asked = hashes.map((hash, index) => ({ number: index + 1, sha256: hash }));
    const first = await parts.request(file, asked);
    expect(first.parts.map(({ start, sizeBytes }) => [start / mebibyte, sizeBytes / mebibyte])).toEqual([
      [0, 8],
      [8, 8],
      [16, 4],
    ]);
    uploads.get('upload 1')?.push(part(1, 8 * mebibyte, hashes[0]), part(2, 8 * mebibyte, sha256('another')));
    const again = await parts.request(file, asked);
    expect(again.parts.map(({ uploaded }) => uploaded)).toEqual([true, false, false]);
    expect([...uploads.keys()]).toEqual(['upload 1']);
  });

  it('make the file once they are all there, at their sizes', async () => {
    const { parts, uploads, store } = await open();
    expect(await parts.finish(file)).toBe(false);
    await parts.request(file, [{ number: 1, sha256: hashes[0] }]);
    const there = uploads.get('upload 1') ?? [];
    there.push(part(1, 8 * mebibyte, hashes[0]), part(2, 8 * mebibyte, hashes[1]));
    expect(await parts.finish(file)).toBe(false);
    there.push(part(3, 3 * mebibyte, hashes[2]));
    expect(await parts.finish(file)).toBe(false);
    there[2] = part(3, 4 * mebibyte, hashes[2]);
    expect(await parts.finish(file)).toBe(true);
    expect(await store.head('m/files/a/weights.safetensors')).not.toBeNull();
  });

  it('are begun anew where the store has forgotten them, and by two at once in one upload', async () => {
    const { parts, uploads } = await open();
    await parts.request(file, [{ number: 1, sha256: hashes[0] }]);
    uploads.delete('upload 1');
    uploads.set('other', []);
    const both = [1, 2].map((number) => parts.request(file, [{ number, sha256: hashes[0] }]));
    const ids = (await Promise.all(both)).map(({ parts: [each] }) => each.url.split('/').at(-2));
    expect(ids[0]).toBe(ids[1]);
    expect(uploads.size).toBe(2);
  });

  it('that the file does not have are refused, and any where files go through the server', async () => {
    const { parts } = await open();
    await expect(parts.request(file, [{ number: 4, sha256: hashes[0] }])).rejects.toThrow(/has 3 parts .* no part 4/);
    const plain = createPartUploads({ store: await temporaryStore(), clock: systemClock }, at);
    await expect(plain.request(file, [{ number: 1, sha256: hashes[0] }])).rejects.toThrow('with PUT');
  });
});
