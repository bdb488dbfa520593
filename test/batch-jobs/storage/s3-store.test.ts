import { randomUUID } from 'node:crypto';
import { CreateBucketCommand, ListMultipartUploadsCommand, PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import { afterAll, describe, expect, it } from 'vitest';
import { S3Store } from '../../../batch-jobs/src/storage/index.ts';
import { startMoto } from '../../support/moto.ts';
import { describeStore } from '../../support/store-suite.ts';

const moto = await startMoto();
afterAll(() => moto?.close());

describe.runIf(moto !== null)('on moto', () => {
  const client = () => new S3Client(moto?.client ?? {});
  async function newStore(prefix = 'some/where'): Promise<{ store: S3Store; bucket: string }> {
    const bucket = `cherryq-${randomUUID()}`;
    await client().send(
      new CreateBucketCommand({ Bucket: bucket, CreateBucketConfiguration: { LocationConstraint: 'eu-central-1' } }),
    );
    return { bucket, store: new S3Store({ bucket, prefix, client: moto?.client, partBytes: 5 * 2 ** 20 }) };
  }

  describeStore('S3Store', async () => (await newStore()).store);
  describeStore('S3Store without a prefix', async () => (await newStore('')).store);

  describe('S3Store', () => {
    it('writes large bodies in parts, at once and in pieces, and reads them by range', async () => {
      const { store } = await newStore();
      const large = new Uint8Array(13_000_000).map((_, i) => i % 251);
      async function* pieces(): AsyncGenerator<Uint8Array> {
        const piece = new Uint8Array(1_000_000);
        for (let at = 0; at < large.length; at += piece.length) {
          piece.set(large.subarray(at, at + piece.length));
          yield piece.subarray(0, Math.min(piece.length, large.length - at));
        }
      }
      expect(await store.put('whole', large, { onlyIfAbsent: true })).toBe(true);
      expect(await store.put('pieces', pieces(), { onlyIfAbsent: true })).toBe(true);
      for (const key of ['whole', 'pieces']) {
        expect(Buffer.compare((await store.get(key)) ?? Buffer.of(), large)).toBe(0);
        expect(await store.get(key, { start: 6_000_000, end: 6_000_003 })).toEqual(large.slice(6_000_000, 6_000_003));
        expect(await store.put(key, pieces(), { onlyIfAbsent: true })).toBe(false);
      }
    });

    it('leaves no parts of a large body that fails', async () => {
      const { store, bucket } = await newStore();
      async function* failing(): AsyncGenerator<Uint8Array> {
        yield new Uint8Array(11_000_000);
        throw new Error('the client went away');
      }
      await expect(store.put('k', failing())).rejects.toThrow('the client went away');
      const { Uploads = [] } = await client().send(new ListMultipartUploadsCommand({ Bucket: bucket }));
      expect(Uploads).toEqual([]);
      expect(await store.list('')).toEqual([]);
    });

    it('sees nothing outside its prefix, and no empty folder that a console made', async () => {
      const { store, bucket } = await newStore('a/b');
      const put = (Key: string) => client().send(new PutObjectCommand({ Bucket: bucket, Key, Body: 'x' }));
      for (const key of ['a/x', 'a/bc/x', 'x', 'a/b/folder/', 'a/b/in']) await put(key);
      expect(await store.list('')).toEqual([{ key: 'in', sizeBytes: 1 }]);
      await store.deletePrefix('i');
      expect(await new S3Store({ bucket, client: moto?.client }).list('')).toHaveLength(3);
    });

    it('lists and deletes more than a page', async () => {
      const { store } = await newStore();
      const keys = Array.from({ length: 1100 }, (_, i) => `many/${String(i).padStart(4, '0')}/x`);
      for (let at = 0; at < keys.length; at += 50)
        await Promise.all(keys.slice(at, at + 50).map((key) => store.put(key, new Uint8Array(1))));
      expect((await store.list('many/', { limit: 5000 })).map(({ key }) => key)).toEqual(keys);
      expect(await store.folders('many/')).toHaveLength(1100);
      await store.deletePrefix('many/');
      expect(await store.list('')).toEqual([]);
    });

    it('names a bucket that is not there', async () => {
      const store = new S3Store({ bucket: 'no-such-bucket', client: moto?.client });
      const refusal = { name: 'InputError', code: 'unknown_bucket' };
      await expect(store.put('k', new Uint8Array(1))).rejects.toMatchObject(refusal);
      await expect(store.get('k')).rejects.toMatchObject(refusal);
      await expect(store.list('')).rejects.toMatchObject(refusal);
    });
  });
});
