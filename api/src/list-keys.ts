/** What lies under a prefix, page by page. */
import type { Store } from './ports.ts';

const pageSize = 1000;

/** Every key. */
export async function* listKeys(store: Store, prefix: string): AsyncGenerator<string> {
  for (let after: string | undefined; ;) {
    const page = await store.list(prefix, after === undefined ? { limit: pageSize } : { after, limit: pageSize });
    for (const { key } of page) yield key;
    after = page.at(-1)?.key;
    if (page.length < pageSize) return;
  }
}

/** Every key without the prefix. */
export async function* listNames(store: Store, prefix: string): AsyncGenerator<string> {
  for await (const key of listKeys(store, prefix)) yield key.slice(prefix.length);
}

/** Names that sort by age, the newest first. */
export async function namesNewestFirst(store: Store, prefix: string): Promise<string[]> {
  const names: string[] = [];
  for await (const name of listNames(store, prefix)) names.push(name);
  return names.reverse();
}
