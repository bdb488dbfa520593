/**
 * Benchmarks, each against a peer measured in the same run: `npm run bench -- <suite ...> [--json file] [--repeats n]
 * [--engine name] [--size full|small] [--folder path] [--markdown file]`. With no suite it names them. `--markdown` puts the
 * figures into the file's table, between the lines `<!-- bench -->` and `<!-- /bench -->`.
 */
import { writeFile } from 'node:fs/promises';
import { cpus, tmpdir } from 'node:os';
import { parseArgs } from 'node:util';
import { runAsWorkersDo } from './allocator.ts';
import { markdownTable, putTable } from './markdown.ts';
import type { SuiteOptions, SuiteResult } from './result.ts';
import { runDeviceSuite } from './suites/device.ts';
import { runPackSuite } from './suites/pack.ts';
import { runStreamSuite } from './suites/stream.ts';
import { runWasmStep } from './suites/wasm-step.ts';

runAsWorkersDo();

const suites: Record<string, (options: SuiteOptions) => Promise<SuiteResult>> = {
  step: (options) => runDeviceSuite('step', options),
  impact: (options) => runDeviceSuite('impact', options),
  eval: (options) => runDeviceSuite('eval', options),
  pack: runPackSuite,
  stream: runStreamSuite,
  'wasm-step': runWasmStep,
};

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    json: { type: 'string' },
    markdown: { type: 'string' },
    repeats: { type: 'string', default: '5' },
    engine: { type: 'string' },
    size: { type: 'string', default: 'full' },
    folder: { type: 'string', default: tmpdir() },
  },
});
const unknown = positionals.filter((name) => !(name in suites));
const repeats = Number(values.repeats);
if (positionals.length === 0 || unknown.length > 0) {
  fail(
    `${unknown.length > 0 ? `Unknown suite ${unknown.join(', ')}. ` : ''}Suites: ${Object.keys(suites).join(', ')}.`,
  );
}
if (!Number.isInteger(repeats) || repeats < 1) fail(`--repeats is "${values.repeats}"; give a whole number from 1.`);
if (values.size !== 'full' && values.size !== 'small') fail(`--size is "${values.size}"; allowed are full and small.`);

const results: SuiteResult[] = [];
for (const name of positionals) {
  const options = { repeats, engine: values.engine, size: values.size as SuiteOptions['size'], folder: values.folder };
  const result = await suites[name](options);
  results.push(result);
  print(result);
}
if (values.json) {
  const machine = { cpu: cpus()[0].model.trim(), threads: cpus().length, node: process.versions.node };
  await writeFile(values.json, `${JSON.stringify({ machine, results }, null, 2)}\n`);
}

if (values.markdown)
  await putTable(values.markdown, 'bench', table(results)).catch((error: Error) => fail(error.message));

function table(all: readonly SuiteResult[]): string {
  const rows = all.flatMap(({ name, peer, rows }) =>
    rows.map((row) => [
      name,
      row.what,
      peer,
      figure(row.ours),
      figure(row.peer),
      row.unit,
      row.ratio.toFixed(2),
      row.note ?? '',
    ]),
  );
  const head = ['suite', 'what', 'peer', 'ours', "peer's", 'unit', 'ratio', 'besides'];
  return markdownTable(head, rows);
}

function print({ name, peer, rows }: SuiteResult): void {
  console.log(`\n${name}, against ${peer}`);
  for (const { what, unit, ours, peer: theirs, ratio, repeats: each, note } of rows) {
    console.log(`  ${what}`);
    console.log(
      `    ours ${figure(ours)} ${unit}, peer ${figure(theirs)}: ${ratio.toFixed(2)} x${note ? ` (${note})` : ''}`,
    );
    console.log(`    repeats: ours ${each.ours.map(figure).join(' ')}; peer ${each.peer.map(figure).join(' ')}`);
  }
}

function figure(value: number): string {
  return Number(value.toPrecision(4)).toLocaleString('en', { maximumFractionDigits: 3 });
}

function fail(message: string): never {
  console.error(message);
  process.exit(2);
}
