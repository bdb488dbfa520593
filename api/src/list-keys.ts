/** Every key under a prefix, page by page. */
import type { Store } from './ports.ts';

const pageSize = 1000;

export async function* listKeys(store: Store, prefix: string): AsyncGenerator<string> {
  for (let after: string | undefined; ;) {
    const page = await store.list(prefix, after === undefined ? { limit: pageSize } : { after, limit: pageSize });
    for (const { key } of page) yield key;
    after = page.at(-1)?.key;
    if (page.length < pageSize) return;
  }
}
