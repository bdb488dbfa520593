/** What a folder or a bucket of CherryQ is opened with; the API uses this file too. */
import { fileURLToPath } from 'node:url';
import { InputError } from '../errors.ts';
import { FolderStore } from './folder-store.ts';
import { S3Store } from './s3-store.ts';
import type { Store } from './store.ts';

export { StorageFullError } from './store.ts';
export type {
  ByteRange,
  DeclaredPart,
  DirectAccess,
  PartAccess,
  PutOptions,
  Store,
  StoredObject,
  StoredPart,
} from './store.ts';
export { FolderStore } from './folder-store.ts';
export { S3Store, checkpointTag, type S3StoreOptions } from './s3-store.ts';
export {
  appendNumbered,
  createNumbered,
  lastNumbered,
  numberedKey,
  readLatestNumbered,
  readNumbered,
  type NumberedEntry,
} from './numbered-log.ts';
export { InputError, messageOf, TransientError } from '../errors.ts';
export { contentFingerprint, folderFingerprint } from './fingerprint.ts';

/**
 * The store at an address.
 * @param url `file:///absolute/folder`, the path of a folder, or `s3://bucket/prefix`   @throws InputError for any other address
 */
export function openStore(url: string): Store {
  const scheme = /^([A-Za-z][A-Za-z0-9+.-]+):/.exec(url)?.[1]?.toLowerCase();
  if (scheme === 's3') return bucketAt(url);
  if (url === '' || (scheme !== undefined && scheme !== 'file')) {
    throw new InputError(
      'unknown_store',
      `A store cannot be opened at "${url}". Give the path of a folder, file:///absolute/folder or s3://bucket/prefix.`,
      'store',
    );
  }
  if (scheme === undefined) return new FolderStore(url);
  try {
    return new FolderStore(fileURLToPath(url));
  } catch (cause) {
    throw new InputError(
      'unknown_store',
      `"${url}" is not the address of a local folder. Write file:/// and an absolute path.`,
      'store',
      { cause },
    );
  }
}

function bucketAt(url: string): S3Store {
  // Names of general-purpose buckets, and aliases of access points.
  const [, bucket, prefix = ''] = /^s3:\/\/([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:\/(.*?)\/?)?$/.exec(url) ?? [];
  if (bucket !== undefined) return new S3Store({ bucket, prefix });
  throw new InputError(
    'unknown_store',
    `"${url}" is not the address of a bucket. Write s3:// and its name, of 3 to 63 lower-case letters, digits, dots and hyphens, then a prefix if there is one.`,
    'store',
  );
}
