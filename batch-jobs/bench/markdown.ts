/** Figures as tables of Markdown, and the pages that they are put into. */
import { readFile, writeFile } from 'node:fs/promises';
import { format, resolveConfig } from 'prettier';

export function markdownTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  return [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}

/** Replaces what is between the lines `<!-- name -->` and `<!-- /name -->`.  @throws Error where the file has them not */
export async function putTable(file: string, name: string, table: string): Promise<void> {
  const text = await readFile(file, 'utf8');
  const block = new RegExp(`(<!-- ${name} -->\\n)[^]*?(\\n<!-- /${name} -->)`);
  if (!block.test(text)) throw new Error(`${file} has no lines <!-- ${name} --> and <!-- /${name} -->.`);
  const changed = text.replace(block, `$1\n${table}\n$2`);
  await writeFile(file, await format(changed, { ...(await resolveConfig(file)), parser: 'markdown' }));
}
