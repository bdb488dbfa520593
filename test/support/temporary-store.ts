/** A folder store in a folder of its own that is removed after the test. */
import { mkdtempSync, rmSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { onTestFinished } from 'vitest';
import { FolderStore } from '../../batch-jobs/src/storage/index.ts';

export function temporaryFolder(): string {
  const root = mkdtempSync(join(tmpdir(), 'cherryq-test-'));
  onTestFinished(() => rmSync(root, { recursive: true, force: true }));
  return root;
}

/** @param files content by key, written before the store is opened */
export async function temporaryStore(files: Readonly<Record<string, Uint8Array | string>> = {}): Promise<FolderStore> {
  const root = temporaryFolder();
  for (const [key, content] of Object.entries(files)) {
    await mkdir(dirname(join(root, key)), { recursive: true });
    await writeFile(join(root, key), content);
  }
  return new FolderStore(root);
}
