import { describe, expect, it, onTestFinished } from 'vitest';
import type { DirectAccess, Store, StoredPart } from '@cherryq/batch-jobs/storage';
import { createPartUploads, partBytesOf } from '../../api/src/part-uploads.ts';
import { systemClock } from '../../api/src/ports.ts';
import { datasetSchema, modelSchema, partUploadSchema } from 'cherryq/contract';
import { declarationOf, jsonRequest, openTestApi, read, readProblem, sha256 } from '../support/api.ts';
import { temporaryStore } from '../support/temporary-store.ts';

const mebibyte = 2 ** 20;
const file = { path: 'a/weights.safetensors', sizeBytes: 20 * mebibyte, sha256: sha256('whole') };
const at = {
  filesPrefix: 'm/files/',
  recordsPrefix: 'm/parts/',
  ownUrl: (whole: { path: string }, { number }: { number: number }) => `/parts/${number}/${whole.path}`,
};
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
    finish: async (key) => {
      await folder.put(key, new TextEncoder().encode('whole'), { onlyIfAbsent: true });
      return true;
    },
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
    expect(await parts.finish(file)).toBe('missing');
    await parts.request(file, [{ number: 1, sha256: hashes[0] }]);
    const there = uploads.get('upload 1') ?? [];
    there.push(part(1, 8 * mebibyte, hashes[0]), part(2, 8 * mebibyte, hashes[1]));
    expect(await parts.finish(file)).toBe('missing');
    there.push(part(3, 3 * mebibyte, hashes[2]));
    expect(await parts.finish(file)).toBe('missing');
    there[2] = part(3, 4 * mebibyte, hashes[2]);
    expect(await parts.finish(file)).toBe('there');
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
    // A store without either way, as one would be that only answers.
    const without = Object.create(await temporaryStore(), { ownParts: { value: undefined } }) as Store;
    const plain = createPartUploads({ store: without, clock: systemClock }, at);
    await expect(plain.request(file, [{ number: 1, sha256: hashes[0] }])).rejects.toThrow('with PUT');
  });
});

describe('parts that go through the server', () => {
  const first = new Uint8Array(8 * mebibyte).fill(97);
  const last = new TextEncoder().encode('the end');
  const whole = Buffer.concat([first, last]);

  /** Declares a file, as it says, and asks where its two parts go. */
  async function begin(collection: 'models' | 'datasets', path: string, content: Uint8Array, hash = sha256(content)) {
    const api = await openTestApi();
    onTestFinished(api.close);
    const files = [{ ...declarationOf({ [path]: content })[0], sha256: hash }];
    const schema = collection === 'models' ? modelSchema : datasetSchema;
    const created = await api.app.request(`/v1/${collection}`, jsonRequest('POST', { name: 'large', files }));
    const { id } = await read(created, 201, schema);
    const base = `/v1/${collection}/${id}`;
    const ask = async (parts: readonly Uint8Array[]) => {
      const asked = parts.map((part, index) => ({ number: index + 1, sha256: sha256(part) }));
      const body = jsonRequest('POST', { path, parts: asked });
      return (await read(await api.app.request(`${base}/parts`, body), 200, partUploadSchema)).parts;
    };
    const put = (url: string, body: Uint8Array<ArrayBuffer>) => api.app.request(url, { method: 'PUT', body });
    const complete = () => api.app.request(`${base}/complete`, { method: 'POST' });
    return { api, base, schema, ask, put, complete };
  }

  it('have addresses of this server, and make the file', async () => {
    const { base, schema, ask, put, complete } = await begin('datasets', 'texts/a_b.txt', whole);
    const [one, two] = await ask([first, last]);
    expect(one.url).toBe(`${base}/parts/1/texts/a_b.txt?sha256=${sha256(first)}`);
    expect((await put(two.url, last)).status).toBe(204);
    await readProblem(await complete(), 'conflict');
    expect((await ask([first, last])).map(({ uploaded }) => uploaded)).toEqual([false, true]);
    expect((await put(one.url, first)).status).toBe(204);
    expect((await put(one.url, first)).status).toBe(204);
    expect((await read(await complete(), 200, schema)).status).toBe('ready');
    expect((await put(one.url, first)).status).toBe(204);
  });

  it('are refused when they are not what was said of them', async () => {
    const { base, ask, put } = await begin('datasets', 'a.txt', whole);
    const [one, two] = await ask([first, last]);
    const wrong = await readProblem(await put(two.url, new TextEncoder().encode('the and')), 'content_mismatch');
    expect(wrong).toMatchObject({ param: 'a.txt' });
    await readProblem(await put(two.url, first), 'content_mismatch');
    await readProblem(await put(one.url.replace('/parts/1/', '/parts/3/'), first), 'invalid_request');
    await readProblem(await put(one.url.replace('/parts/1/', '/parts/x/'), first), 'invalid_request');
    await readProblem(await put(one.url.replace(/sha256=.*/, 'sha256=1'), first), 'invalid_request');
    await readProblem(await put(`${base}/parts/1/other.txt?sha256=${sha256(first)}`, first), 'not_found');
    expect((await ask([first, last])).map(({ uploaded }) => uploaded)).toEqual([false, false]);
  });

  it('are all given up when the whole is not what was declared', async () => {
    const { ask, put, complete } = await begin('datasets', 'a.txt', whole, sha256('another'));
    const parts = await ask([first, last]);
    for (const [index, { url }] of parts.entries())
      expect((await put(url, index === 0 ? first : last)).status).toBe(204);
    const problem = await readProblem(await complete(), 'content_mismatch');
    expect(problem.detail).toContain('its parts together do not have the SHA-256');
    expect((await ask([first, last])).map(({ uploaded }) => uploaded)).toEqual([false, false]);
  });

  it('show a damaged header of weights with the first one', async () => {
    const { ask, put } = await begin('models', 'model.safetensors', whole);
    const [one] = await ask([first, last]);
    const problem = await readProblem(await put(one.url, first), 'invalid_model');
    expect(problem.param).toBe('model.safetensors');
  });
});
