/** What a folder or a bucket of CherryQ is opened with; the API uses this file too. */
import { fileURLToPath } from 'node:url';
import { InputError } from '../errors.ts';
import { FolderStore } from './folder-store.ts';
import type { Store } from './store.ts';

export { StorageFullError } from './store.ts';
export type { ByteRange, Store, StoredObject } from './store.ts';
export { FolderStore } from './folder-store.ts';
export {
  appendNumbered,
  createNumbered,
  lastNumbered,
  numberedKey,
  readLatestNumbered,
  readNumbered,
  type NumberedEntry,
} from './numbered-log.ts';
export { InputError } from '../errors.ts';
export { contentFingerprint, folderFingerprint } from './fingerprint.ts';

/**
 * The store at an address.
 * @param url `file:///absolute/folder`, or the path of a folder   @throws InputError for any other address
 */
export function openStore(url: string): Store {
  const scheme = /^([A-Za-z][A-Za-z0-9+.-]+):/.exec(url)?.[1]?.toLowerCase();
  if (url === '' || (scheme !== undefined && scheme !== 'file')) {
    throw new InputError(
      'unknown_store',
      `A store cannot be opened at "${url}". Give the path of a folder or file:///absolute/folder.`,
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
