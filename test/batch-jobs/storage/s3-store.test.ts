import { randomUUID } from 'node:crypto';
import {
  CreateBucketCommand,
  GetObjectTaggingCommand,
  ListMultipartUploadsCommand,
  PutObjectCommand,
  S3Client,
} from '@aws-sdk/client-s3';
import type { IncomingMessage } from 'node:http';
import { afterAll, describe, expect, it } from 'vitest';
import { S3Store, checkpointTag } from '../../../batch-jobs/src/storage/index.ts';
import type { Fault } from '../../support/faulty-proxy.ts';
import { startFaultyProxy } from '../../support/faulty-proxy.ts';
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

    it('knows what is missing from what is forbidden, though S3 says 403 to both', async () => {
      const { bucket, store: direct } = await newStore();
      await direct.put('there', Buffer.from('x'));
      const { url, fail } = await startFaultyProxy(moto?.url ?? '');
      const store = new S3Store({ bucket, prefix: 'some/where', client: { ...moto?.client, endpoint: url } });
      fail({
        when: ({ url: path = '' }) => !path.includes('list-type'),
        times: 100,
        kind: { status: 403, code: 'AccessDenied' },
      });
      expect([await store.get('their'), await store.head('their'), await store.head('ther')]).toEqual([
        null,
        null,
        null,
      ]);
      await expect(store.get('there')).rejects.toThrow('does not let us read');
      await expect(store.head('there')).rejects.toThrow('does not let us read');
      fail({ when: () => true, times: 100, kind: { status: 403, code: 'AccessDenied' } });
      await expect(store.get('their')).rejects.toThrow('does not let us read');
    });

    it('sees nothing outside its prefix, and no empty folder that a console made', async () => {
      const { store, bucket } = await newStore('a/b');
      const put = (Key: string) => client().send(new PutObjectCommand({ Bucket: bucket, Key, Body: 'x' }));
      for (const key of ['a/x', 'a/bc/x', 'x', 'a/b/folder/', 'a/b/in']) await put(key);
      expect(await store.list('')).toEqual([{ key: 'in', sizeBytes: 1 }]);
      await store.deletePrefix('i');
      expect(await new S3Store({ bucket, client: moto?.client }).list('')).toHaveLength(3);
    });

    it('tags checkpoints, which the bucket forgets after some days, and nothing else', async () => {
      const { store, bucket } = await newStore('');
      const keys = ['tenants/a/jobs/1/checkpoints/000001/state', 'tenants/a/jobs/1/spec.json'];
      for (const key of keys) await store.put(key, new Uint8Array(1), { onlyIfAbsent: true });
      const tagsOf = async (Key: string) =>
        (await client().send(new GetObjectTaggingCommand({ Bucket: bucket, Key }))).TagSet;
      expect(await Promise.all(keys.map(tagsOf))).toEqual([
        [{ Key: checkpointTag.key, Value: checkpointTag.value }],
        [],
      ]);
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

  describe('S3Store on a bad day', () => {
    const content = new Uint8Array(2_000_000).map((_, i) => (i * 7) % 251);
    const isPut = ({ method }: IncomingMessage) => method === 'PUT';
    const isGet = ({ method }: IncomingMessage) => method === 'GET';

    async function faulty() {
      const { bucket, store: direct } = await newStore();
      const proxy = await startFaultyProxy(moto?.url ?? '');
      const options = { ...moto?.client, endpoint: proxy.url };
      return { direct, proxy, store: new S3Store({ bucket, prefix: 'some/where', client: options }) };
    }

    it.each<[string, Fault['kind']]>([
      ['a busy service', { status: 503, code: 'SlowDown' }],
      ['an internal error', { status: 500, code: 'InternalError' }],
      ['a broken connection', 'reset'],
    ])('gets through %s', async (_, kind) => {
      const { store, proxy } = await faulty();
      proxy.fail({ when: () => true, times: 2, kind });
      expect(await store.put('k', content, { onlyIfAbsent: true })).toBe(true);
      proxy.fail({ when: () => true, times: 2, kind });
      expect(await store.get('k')).toEqual(content);
      proxy.fail({ when: () => true, times: 1, kind });
      expect(await store.list('')).toEqual([{ key: 'k', sizeBytes: content.length }]);
    });

    it('knows its own exclusive write again when the answer to it was lost', async () => {
      const { store, proxy, direct } = await faulty();
      proxy.fail({ when: isPut, times: 1, kind: 'lost' });
      expect(await store.put('lock', content, { onlyIfAbsent: true })).toBe(true);
      expect(proxy.requests.filter((line) => line.startsWith('PUT'))).toHaveLength(2);
      expect(await direct.put('lock', content, { onlyIfAbsent: true })).toBe(false);
    });

    it('knows its own exclusive write of many parts again when the answer to the last request was lost', async () => {
      const { store, proxy } = await faulty();
      async function* pieces(): AsyncGenerator<Uint8Array> {
        for (let i = 0; i < 18; i++) yield content;
      }
      proxy.fail({
        when: ({ method, url }) => method === 'POST' && /uploadId=/.test(url ?? ''),
        times: 1,
        kind: 'lost',
      });
      expect(await store.put('large', pieces(), { onlyIfAbsent: true })).toBe(true);
      expect(await store.head('large')).toEqual({ sizeBytes: 18 * content.length });
    });

    it('never takes the write of another for its own', async () => {
      const { store, proxy, direct } = await faulty();
      await direct.put('lock', Uint8Array.of(1), { onlyIfAbsent: true });
      proxy.fail({ when: isPut, times: 1, kind: 'lost' });
      expect(await store.put('lock', Uint8Array.of(2), { onlyIfAbsent: true })).toBe(false);
      expect(await store.get('lock')).toEqual(Uint8Array.of(1));
    });

    it('says that an exclusive write did not come through among others that did not either', async () => {
      const { store, proxy } = await faulty();
      proxy.fail({ when: isPut, times: 1, kind: { status: 409, code: 'ConditionalRequestConflict' } });
      const refusal = { name: 'TransientError', message: expect.stringContaining('being written by others') };
      await expect(store.put('lock', content, { onlyIfAbsent: true })).rejects.toMatchObject(refusal);
    });

    it('reads on where a body breaks off, again and again', async () => {
      const { store, proxy, direct } = await faulty();
      await direct.put('k', content);
      proxy.fail({ when: isGet, times: 5, kind: 'cut' });
      expect(await store.get('k')).toEqual(content);
      expect(proxy.requests).toHaveLength(6);
      proxy.fail({ when: isGet, times: 2, kind: 'cut' });
      const into = new Uint8Array(1000);
      expect(await store.read('k', 500, into)).toBe(1000);
      expect(into).toEqual(content.slice(500, 1500));
    });

    it('does not put two objects together when one is replaced while it is read', async () => {
      const { store, proxy, direct } = await faulty();
      await direct.put('k', content);
      proxy.fail({ when: isGet, times: 1, kind: 'cut' });
      const stream = await store.stream('k');
      await direct.put('k', content.slice().reverse());
      const refusal = { name: 'TransientError', message: expect.stringContaining('was replaced') };
      await expect(new Response(stream).arrayBuffer()).rejects.toMatchObject(refusal);
    });

    it('calls a service that does not come back transient, and lasting refusals by what to do', async () => {
      const { store, proxy } = await faulty();
      proxy.fail({ when: isGet, times: 100, kind: { status: 503, code: 'SlowDown' } });
      await expect(store.get('k')).rejects.toMatchObject({
        name: 'TransientError',
        message: expect.stringMatching(/^S3 could not read s3:\/\/.*some\/where\/k/),
      });
      proxy.fail({ when: isPut, times: 1, kind: { status: 403, code: 'AccessDenied' } });
      await expect(store.put('k', content)).rejects.toMatchObject({
        name: 'InputError',
        code: 'store_access_denied',
        message: expect.stringContaining('Grant s3:PutObject'),
      });
    });
  });
});
