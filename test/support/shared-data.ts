/** Real models and texts that lie beside a full checkout; a plain clone has none, and the tests on them say so. */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const folder = fileURLToPath(new URL('../../../shared/data/', import.meta.url));

export const hasSharedData = existsSync(folder);

/** @param what is not tested without the data, for the one line that says so */
export function sharedData(what: string): string {
  if (!hasSharedData) console.log(`skipped: ${what} (no ../shared/data beside this clone)`);
  return folder;
}
