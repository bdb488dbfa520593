/** What a job that makes no model leaves: a few files, and the manifest that names them, which is written last. */
import type { Manifest } from 'cherryq/contract';
import type { RunOptions } from './run-options.ts';
import { version } from './version.ts';
import { FileWriter, jsonBytes } from './write-model.ts';

/**
 * @param texts by path, in the order in which they are written
 * @throws InterruptedError when the job is no longer this attempt's
 */
export async function publishReport(
  { store, job }: Pick<RunOptions, 'store' | 'job'>,
  texts: Readonly<Record<string, string>>,
  about: Omit<Manifest, 'formatVersion' | 'kind' | 'producer' | 'modelName' | 'formats' | 'files'>,
): Promise<void> {
  const artifacts = `${job.prefix}artifacts/`;
  await job.assertCurrent();
  // An earlier attempt may have died after its manifest; without it, nothing vouches for files that are going.
  await store.delete(`${artifacts}manifest.json`);
  await store.deletePrefix(artifacts);
  const files = new FileWriter(store, artifacts);
  for (const [path, text] of Object.entries(texts)) await files.put(path, new TextEncoder().encode(text));
  const manifest: Manifest = {
    formatVersion: 1,
    kind: job.spec.kind,
    producer: `cherryq ${version}`,
    modelName: job.spec.modelName,
    ...about,
    formats: [],
    files: files.files(),
  };
  await job.assertCurrent();
  await store.put(`${artifacts}manifest.json`, jsonBytes(manifest));
}
