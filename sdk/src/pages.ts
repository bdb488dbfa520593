import type { Page } from './contract/index.ts';

/** Every item of a list, page after page.  @param read one page, after an id */
export async function* everyItem<Item extends { id: string }>(
  read: (after: string | undefined) => Promise<Page<Item>>,
): AsyncGenerator<Item> {
  for (let after: string | undefined; ;) {
    const { data, hasMore } = await read(after);
    yield* data;
    after = data.at(-1)?.id;
    if (!hasMore || after === undefined) return;
  }
}
