import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, readdir, rm, symlink, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import {
  FolderStore,
  S3Store,
  StorageFullError,
  contentFingerprint,
  folderFingerprint,
  openStore,
} from '../../../batch-jobs/src/storage/index.ts';
import { describeStore } from '../../support/store-suite.ts';
import { temporaryFolder, temporaryStore } from '../../support/temporary-store.ts';

const bytes = (value: string): Uint8Array => new TextEncoder().encode(value);

describeStore('FolderStore', () => temporaryStore());

describe('FolderStore on a disk', () => {
  it('keeps each key as a file of that path', async () => {
    const root = temporaryFolder();
    await new FolderStore(root).put('a/b/c.json', bytes('{}'));
    expect(await readFile(join(root, 'a/b/c.json'), 'utf8')).toBe('{}');
    expect(await readdir(join(root, '.tmp'))).toEqual([]);
  });

  it('makes its folder with the first write and changes nothing by reading', async () => {
    const root = join(temporaryFolder(), 'not/yet');
    const store = new FolderStore(root);
    expect(await store.get('a')).toBeNull();
    expect(await store.list('')).toEqual([]);
    expect(await store.folders('')).toEqual([]);
    await store.delete('a');
    expect(existsSync(root)).toBe(false);
    await store.put('a', bytes('x'));
    expect(await store.list('')).toEqual([{ key: 'a', sizeBytes: 1 }]);
  });

  it('removes what a crashed writer left an hour ago, and lists none of it', async () => {
    const root = temporaryFolder();
    await mkdir(join(root, '.tmp'));
    await writeFile(join(root, '.tmp/old'), 'left by a crash');
    await writeFile(join(root, '.tmp/new'), 'being written');
    const twoHoursAgo = Date.now() / 1000 - 7200;
    await utimes(join(root, '.tmp/old'), twoHoursAgo, twoHoursAgo);
    const store = new FolderStore(root);
    expect(await store.list('')).toEqual([]);
    await store.put('a', bytes('x'));
    expect(await readdir(join(root, '.tmp'))).toEqual(['new']);
    expect((await store.list('')).map((object) => object.key)).toEqual(['a']);
  });

  it('does not follow symbolic links, to files or to folders', async () => {
    const outside = temporaryFolder();
    const root = temporaryFolder();
    await writeFile(join(outside, 'secret'), 'secret');
    await symlink(outside, join(root, 'folder'));
    await symlink(join(outside, 'secret'), join(root, 'file'));
    const store = new FolderStore(root);
    for (const key of ['file', 'folder/secret']) {
      expect(await store.get(key)).toBeNull();
      expect(await store.head(key)).toBeNull();
      await store.delete(key);
    }
    await store.deletePrefix('folder/');
    expect(await store.list('')).toEqual([]);
    expect(await store.list('folder/')).toEqual([]);
    expect(await store.folders('')).toEqual([]);
    await expect(store.put('folder/new', bytes('x'))).rejects.toThrow('symbolic link');
    expect(await readdir(outside)).toEqual(['secret']);
    expect(await readFile(join(outside, 'secret'), 'utf8')).toBe('secret');
  });

  it('may itself be reached by a symbolic link', async () => {
    const parent = temporaryFolder();
    await mkdir(join(parent, 'real'));
    await symlink(join(parent, 'real'), join(parent, 'link'));
    const store = new FolderStore(join(parent, 'link'));
    await store.put('a/b', bytes('x'));
    expect(await store.get('a/b')).toEqual(bytes('x'));
    expect(await store.list('a/')).toEqual([{ key: 'a/b', sizeBytes: 1 }]);
  });

  it('says so when a key is taken as a folder or a folder as a key', async () => {
    const store = await temporaryStore();
    await store.put('a/b', bytes('x'));
    const refusal = expect.objectContaining({ name: 'InputError', code: 'invalid_key' });
    await expect(store.put('a', bytes('y'))).rejects.toEqual(refusal);
    await expect(store.put('a', bytes('y'), { onlyIfAbsent: true })).rejects.toEqual(refusal);
    await expect(store.put('a/b/c', bytes('y'))).rejects.toEqual(refusal);
    expect(await store.list('')).toEqual([{ key: 'a/b', sizeBytes: 1 }]);
  });

  it('survives writers and deleters of one folder at the same time', async () => {
    const store = await temporaryStore();
    const rounds = Array.from({ length: 100 }, (_, i) => `deep/er/${i % 5}`);
    await Promise.all(rounds.flatMap((key) => [store.put(key, bytes(key)), store.delete(key)]));
    await Promise.all(rounds.map((key) => store.delete(key)));
    expect(await store.list('')).toEqual([]);
  });

  it('streams a large object and frees it when the reader stops early', async () => {
    const store = await temporaryStore();
    const large = new Uint8Array(3_000_000).map((_, i) => i % 251);
    await store.put('large', large);
    const stream = await store.stream('large', { start: 10, end: 2_999_999 });
    const read = Buffer.from(await new Response(stream).arrayBuffer());
    expect(read.equals(large.subarray(10, 2_999_999))).toBe(true);
    const reader = (await store.stream('large'))?.getReader();
    expect((await reader?.read())?.value?.[0]).toBe(0);
    await reader?.cancel();
  });
});

/** A folder on a file system of 64 KiB, or null where nothing may be mounted. */
async function tinyDisk(): Promise<string | null> {
  const folder = await mkdtemp(join(tmpdir(), 'cherryq-full-'));
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', folder], { stdio: 'ignore' });
    afterAll(() => execFileSync('umount', [folder]));
    return folder;
  } catch {
    await rm(folder, { recursive: true });
    console.log('skipped: a full disk (mounting a tmpfs needs to be root)');
    return null;
  }
}

const disk = await tinyDisk();
describe.runIf(disk !== null)('FolderStore on a full disk', () => {
  it('throws StorageFullError with key and size, keeps nothing of the write and goes on with what fits', async () => {
    const root = join(disk ?? '', 'store');
    const store = new FolderStore(root);
    await store.put('small', bytes('x'));
    const failure = await store.put('models/large', new Uint8Array(100_000)).catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(StorageFullError);
    expect(String(failure)).toContain('ENOSPC');
    expect(String(failure)).toContain('models/large, 100000 bytes');
    async function* pieces(): AsyncGenerator<Uint8Array> {
      for (let i = 0; i < 10; i++) yield new Uint8Array(20_000);
    }
    await expect(store.put('pieces', pieces(), { onlyIfAbsent: true })).rejects.toThrow(StorageFullError);
    expect(await store.list('')).toEqual([{ key: 'small', sizeBytes: 1 }]);
    expect(await readdir(join(root, '.tmp'))).toEqual([]);
    expect(await store.put('fits', new Uint8Array(10_000))).toBe(true);
  });
});

describe('openStore', () => {
  it('opens a path and a file: address', async () => {
    const root = join(temporaryFolder(), 'with space');
    await openStore(root).put('a', bytes('x'));
    expect(await openStore(pathToFileURL(root).href).get('a')).toEqual(bytes('x'));
  });

  it('opens a bucket, with or without a prefix', () => {
    for (const url of ['s3://my.bucket-1', 's3://bucket/', 's3://bucket/a/prefix', 's3://bucket/a/prefix/'])
      expect(openStore(url)).toBeInstanceOf(S3Store);
  });

  it.each(['s3://', 's3:bucket', 's3://Upper_Case/x', 's3://b', 'https://example.com/', 'file://host/share', ''])(
    'refuses %j',
    (url) => {
      expect(() => openStore(url)).toThrow(expect.objectContaining({ code: 'unknown_store' }));
    },
  );
});

describe('fingerprints', () => {
  const a = 'a'.repeat(64);
  const b = 'b'.repeat(64);

  it('do not depend on the order of the files, but on every path and content', () => {
    const fingerprint = contentFingerprint([
      { path: 'x', sha256: a },
      { path: 'y', sha256: b },
    ]);
    expect(
      contentFingerprint([
        { path: 'y', sha256: b },
        { path: 'x', sha256: a },
      ]),
    ).toBe(fingerprint);
    expect(
      contentFingerprint([
        { path: 'x', sha256: b },
        { path: 'y', sha256: a },
      ]),
    ).not.toBe(fingerprint);
    expect(fingerprint).toMatch(/^[0-9a-f]{64}$/);
  });

  it('of a folder is that of its files, wherever the folder lies', async () => {
    const store = await temporaryStore({ 'one/a.txt': 'text', 'one/b/c': '', 'two/a.txt': 'text', 'two/b/c': '' });
    const textHash = '982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1';
    const emptyHash = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855';
    const expected = contentFingerprint([
      { path: 'a.txt', sha256: textHash },
      { path: 'b/c', sha256: emptyHash },
    ]);
    expect(await folderFingerprint(store, 'one/')).toBe(expected);
    expect(await folderFingerprint(store, 'two/')).toBe(expected);
  });
});
