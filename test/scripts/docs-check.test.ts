import { execFile } from 'node:child_process';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { temporaryFolder } from '../support/temporary-store.ts';

const script = fileURLToPath(new URL('../../scripts/docs-check.mjs', import.meta.url));
const row = (method: string, perplexity: number) => ({
  method,
  bits: 3,
  groupSize: 'row',
  bitsPerWeight: 3.125,
  perplexity,
  sizeBytes: 1_200_000,
  seconds: 30.4,
});
const demoResult = {
  engine: 'wasm',
  model: { parameters: 2_033_408 },
  baseline: { perplexity: 10, sizeBytes: 4_000_000 },
  results: [row('rtn', 12), row('qat', 11), row('cherryq', 10.5)],
};
const demoTable = `<!-- demo-table -->

| method   | bits/weight |    size | of original | perplexity | gap closed | time |
| -------- | ----------: | ------: | ----------: | ---------: | ---------: | ---: |
| original |          16 | 4000 kB |       100 % |     10.000 |            |      |
| rtn      |       3.125 | 1200 kB |      30.0 % |     12.000 |        0 % | 30 s |
| qat      |       3.125 | 1200 kB |      30.0 % |     11.000 |       50 % | 30 s |
| cherryq  |       3.125 | 1200 kB |      30.0 % |     10.500 |       75 % | 30 s |

2.03 million parameters, 3 bits, one scale per row, engine \`wasm\`.

<!-- /demo-table -->`;

const wellKept: Readonly<Record<string, string>> = {
  'package.json': JSON.stringify({ scripts: { demo: '', 'docs:check': '' } }),
  'README.md': `# A title\n\n${demoTable}\n\nSee [the other](docs/other.md#two-words-or-more), \`npm run demo\`, \`cherryq jobs wait <id> --group-size 4\`.\n`,
  'docs/demo-result.json': JSON.stringify(demoResult),
  'docs/other.md': '# Two words, or `more`\n\n<!-- file: api/one.py -->\n\n```python\nprint(1)\n```\n',
  'api/one.py': 'print(1)\n',
  'sdk/src/cli/jobs.ts': "group({ name: 'cherryq jobs' }); command({ name: 'cherryq jobs wait', groupSize });\n",
};

/** Runs the check over the well-kept files with some replaced; a null takes one away. */
async function check(replaced: Readonly<Record<string, string | null>> = {}, ...flags: string[]) {
  const folder = temporaryFolder();
  for (const [path, content] of Object.entries({ ...wellKept, ...replaced })) {
    if (content === null) continue;
    await mkdir(dirname(join(folder, path)), { recursive: true });
    await writeFile(join(folder, path), content);
  }
  return new Promise<{ folder: string; exitCode: number; found: string[] }>((resolve) => {
    const child = execFile(process.execPath, [script, ...flags], { cwd: folder }, (_, _stdout, stderr) =>
      resolve({ folder, exitCode: child.exitCode ?? -1, found: stderr.split('\n').filter(Boolean) }),
    );
  });
}

describe('docs-check', () => {
  it('finds nothing in documentation that is true', async () => {
    expect(await check()).toMatchObject({ exitCode: 0, found: [] });
  });

  it.each([
    ['a link to a file that is not there', 'README.md:19: the link docs/gone.md', '[x](docs/gone.md)'],
    ['an image that is not there', 'README.md:19: the link a.png', '![x](a.png)'],
    ['a link out of the repository', 'README.md:19: the link ../x.md leads out', '[x](../x.md)'],
    ['an anchor without its heading', 'README.md:19: the link docs/other.md#three', '[x](docs/other.md#three)'],
    ['a path in backticks that is not there', 'README.md:19: `api/src/two.ts` is not', '`api/src/two.ts`'],
    ['an npm script that is not there', 'README.md:19: npm run deploy', 'npm run deploy'],
    ['a command that is not there', 'README.md:19: cherryq polish is not a command', '`npx cherryq polish x`'],
    ['a sub-command that is not there', 'README.md:20: cherryq jobs polish', '```sh\nnpx cherryq jobs polish\n```'],
    ['a flag on a continued line', 'README.md:20: --colour', '```sh\ncherryq jobs wait 1 \\\n  --colour red\n```'],
    [
      'an embedded file that is not there',
      'README.md:19: the embedded file gone.py',
      '<!-- file: gone.py -->\n\n```\n```',
    ],
  ])('finds %s, with file and line', async (_, expected, text) => {
    const { exitCode, found } = await check({ 'README.md': `# A title\n\n${demoTable}\n\nText.\n\n\n${text}\n` });
    expect(exitCode).toBe(1);
    expect(found).toEqual([expect.stringContaining(expected)]);
  });

  it('takes nothing within a fence for a link, a heading or a file to embed', async () => {
    const fenced = '```md\n[x](gone.md)\n# Heading\n<!-- file: gone.py -->\n```\n';
    expect(await check({ 'docs/more.md': fenced })).toMatchObject({ found: [] });
  });

  it('names the first line in which an embedded file differs', async () => {
    const { found } = await check({ 'api/one.py': 'print(1)\nprint(2)\n' });
    expect(found).toEqual([expect.stringContaining('docs/other.md:7: the fence differs from api/one.py:2')]);
  });

  it('finds a setting of the contract that has no row', async () => {
    const { found } = await check({
      'sdk/src/contract/schemes.ts': 'export const s = z.strictObject({\n  bits: z.int(),\n  seed: z.int(),\n});\n',
      'docs/training.md': '| setting | meaning |\n| --- | --- |\n| `bits` | width |\n',
    });
    expect(found).toEqual([expect.stringContaining('docs/training.md:1: no table has a row for seed')]);
  });

  it("finds a demo's table that is not that of its result", async () => {
    const other = { ...demoResult, results: [row('rtn', 12), row('qat', 11), row('cherryq', 10.6)] };
    const { found } = await check({ 'docs/demo-result.json': JSON.stringify(other) });
    expect(found).toEqual([expect.stringContaining("README.md:3: the demo's table is not that of")]);
  });

  it('refuses a result without one of the methods, or with different groups', async () => {
    const partial = { ...demoResult, results: [row('rtn', 12), row('cherryq', 11)] };
    const uneven = {
      ...demoResult,
      results: [row('rtn', 12), row('qat', 11), { ...row('cherryq', 10), groupSize: 64 }],
    };
    expect((await check({ 'docs/demo-result.json': JSON.stringify(partial) })).found.join()).toContain(
      'rtn, qat, cherryq',
    );
    expect((await check({ 'docs/demo-result.json': JSON.stringify(uneven) })).found.join()).toContain(
      'cherryq has other',
    );
    expect((await check({ 'docs/demo-result.json': null })).found.join()).toContain('npm run demo');
  });

  it('takes the figures of a new demo into the README', async () => {
    const empty = '# A title\n\n<!-- demo-table -->\n<!-- /demo-table -->\n';
    const given = {
      'README.md': empty,
      'docs/demo-result.json': null,
      'out/demo/result.json': JSON.stringify(demoResult),
    };
    const { folder, exitCode } = await check(given, '--write');
    expect(exitCode).toBe(0);
    expect(await readFile(join(folder, 'README.md'), 'utf8')).toBe(`# A title\n\n${demoTable}\n`);
    expect(await readFile(join(folder, 'docs/demo-result.json'), 'utf8')).toBe(JSON.stringify(demoResult));
  });
});
