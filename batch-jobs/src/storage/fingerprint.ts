/** One SHA-256 for a set of files, so that equal content is found again whatever it was called or when it was uploaded. */
import { createHash } from 'node:crypto';
import { compareKeys } from './keys.ts';
import type { Store } from './store.ts';

/** SHA-256, in hexadecimal, over the lines `<path> <sha256>\n` in ascending order of path. */
export function contentFingerprint(files: readonly { readonly path: string; readonly sha256: string }[]): string {
  const hash = createHash('sha256');
  const sorted = [...files].sort((a, b) => compareKeys(a.path, b.path));
  for (const { path, sha256 } of sorted) hash.update(`${path} ${sha256}\n`);
  return hash.digest('hex');
}

/** The fingerprint of every file under a prefix that ends in a slash, paths taken relative to it. */
export async function folderFingerprint(store: Store, prefix: string): Promise<string> {
  const files: { path: string; sha256: string }[] = [];
  for (let after: string | undefined; ;) {
    const page = await store.list(prefix, { after });
    for (const { key } of page) {
      files.push({ path: key.slice(prefix.length), sha256: await sha256OfKey(store, key) });
    }
    after = page.at(-1)?.key;
    if (after === undefined) return contentFingerprint(files);
  }
}

async function sha256OfKey(store: Store, key: string): Promise<string> {
  const body = await store.stream(key);
  if (body === null) throw new Error(`${key} was deleted while its folder was being read.`);
  const hash = createHash('sha256');
  for await (const chunk of body) hash.update(chunk);
  return hash.digest('hex');
}
