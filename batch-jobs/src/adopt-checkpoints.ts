/**
 * What a job that repeats another goes on from: the other's checkpoints, taken over once, before anything else. Where several
 * workers have the job, each does; what is there already, one of them may have written since, so it is left.
 */
import type { JobFolder } from './job-folder.ts';
import type { Store } from './storage/store.ts';

/** Written last; without it a copy broke off, and is made again. */
const marker = 'adopted';
const pageSize = 1000;

/** @returns how many files were copied; none when there is nothing to take over, or nothing any more */
export async function adoptCheckpoints(store: Store, job: JobFolder): Promise<number> {
  const { checkpointsFrom } = job.spec;
  const own = `${job.prefix}checkpoints/`;
  if (checkpointsFrom === null || (await store.head(own + marker)) !== null) return 0;
  let copied = 0;
  for (let after: string | undefined; ;) {
    const page = await store.list(checkpointsFrom, { limit: pageSize, ...(after === undefined ? {} : { after }) });
    for (const { key } of page) {
      const body = await store.stream(key);
      const name = key.slice(checkpointsFrom.length);
      if (body === null || name === marker) continue;
      if (await store.put(own + name, body, { onlyIfAbsent: true })) copied++;
    }
    after = page.at(-1)?.key;
    if (page.length < pageSize) break;
  }
  await job.assertCurrent();
  await store.put(own + marker, new Uint8Array());
  return copied;
}
