import type { Page } from './contract/index.ts';

/** Every item of a list, page after page; a page may be empty and yet not the last.  @param read one page, after an id */
export async function* everyItem<Item>(read: (after: string | undefined) => Promise<Page<Item>>): AsyncGenerator<Item> {
  for (let after: string | undefined; ;) {
    const { data, next } = await read(after);
    yield* data;
    if (next === null) return;
    after = next;
  }
}
