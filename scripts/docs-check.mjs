// Holds the documentation to the sources: `npm run docs:check`, run in the root. In every *.md it checks that
//   - each relative link, image and `#anchor` leads somewhere, and each `path/in/the/repository` in backticks exists;
//   - a code fence after `<!-- file: path -->` is that file, letter for letter;
//   - each `npm run X` is a script of package.json, and each `cherryq X --flag` a command and a flag of the CLI;
//   - each setting of sdk/src/contract/schemes.ts has its row in docs/training.md;
//   - README.md's table of the demo is what docs/demo-result.json gives.
// `--write` takes out/demo/result.json, as `npm run demo` leaves it, into docs/demo-result.json and README.md, then checks.
import { copyFileSync, existsSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { join, posix } from 'node:path';

const root = process.cwd();
const skipped = new Set(['node_modules', 'dist', 'out', 'cdk.out', 'coverage']);
const demoResult = 'docs/demo-result.json';
const freshResult = 'out/demo/result.json';
const demoMethods = ['rtn', 'qat', 'cherryq'];
const problems = [];

const read = (path) => readFileSync(join(root, path), 'utf8');
const report = (file, line, message) => problems.push({ file, line, message });

/** Every Markdown file of the repository, by path from the root. */
function markdownFiles(folder = '') {
  return readdirSync(join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const path = posix.join(folder, entry.name);
    if (entry.isDirectory()) return skipped.has(entry.name) || entry.name.startsWith('.') ? [] : markdownFiles(path);
    return entry.name.endsWith('.md') ? [path] : [];
  });
}

/** Lines of prose with their numbers, and code fences with theirs. */
function parseMarkdown(text) {
  const prose = [];
  const fences = [];
  let fence = null;
  text.split('\n').forEach((content, index) => {
    const line = index + 1;
    const mark = /^\s*(`{3,}|~{3,})\s*(\S*)/.exec(content);
    if (fence && mark && mark[2] === '' && mark[1].startsWith(fence.mark)) fence = null;
    else if (fence) fence.lines.push(content);
    else if (mark) fences.push((fence = { line, mark: mark[1], language: mark[2], lines: [] }));
    else prose.push({ line, content });
  });
  return { prose, fences };
}

/** Anchors as GitHub makes them of headings; the second of a name gets `-1`. */
function anchorsOf(text) {
  const seen = new Map();
  return new Set(
    parseMarkdown(text).prose.flatMap(({ content }) => {
      const heading = /^#{1,6}\s+(.*?)\s*#*$/.exec(content)?.[1];
      if (heading === undefined) return [];
      const slug = heading
        .replaceAll(/\[([^\]]*)\]\([^)]*\)/g, '$1')
        .toLowerCase()
        .replaceAll(/[^\p{L}\p{N}\s_-]/gu, '')
        .replaceAll(/\s/g, '-');
      const count = seen.get(slug) ?? 0;
      seen.set(slug, count + 1);
      return [count === 0 ? slug : `${slug}-${count}`];
    }),
  );
}

function checkLinks(file, prose) {
  for (const { line, content } of prose) {
    const text = content.replaceAll(/`[^`]*`/g, '');
    const targets = [
      ...text.matchAll(/\]\(\s*<?([^)\s>]+)>?[^)]*\)/g),
      ...text.matchAll(/^\s*\[[^\]]+\]:\s*(\S+)/g),
      ...text.matchAll(/<(?:img|a)\s[^>]*?(?:src|href)="([^"]+)"/g),
    ].map((match) => match[1]);
    for (const target of targets) {
      if (/^[a-z][a-z0-9+.-]*:/i.test(target)) continue;
      const [path, anchor] = decodeURIComponent(target).split('#');
      const linked = path === '' ? file : posix.join(posix.dirname(file), path);
      if (linked.startsWith('..')) report(file, line, `the link ${target} leads out of the repository`);
      else if (!existsSync(join(root, linked)))
        report(file, line, `the link ${target} leads to ${linked}, which is not there`);
      else if (anchor && linked.endsWith('.md') && !anchorsOf(read(linked)).has(anchor))
        report(file, line, `the link ${target}: ${linked} has no heading #${anchor}`);
    }
  }
}

/** Paths in backticks that begin with a folder of the repository; patterns and what is built or ignored are left out. */
function checkPaths(file, prose) {
  const folders = readdirSync(root).filter((name) => !skipped.has(name) && statSync(join(root, name)).isDirectory());
  for (const { line, content } of prose) {
    for (const [, path] of content.matchAll(/`([\w.@-]+\/[\w.@/-]*)`/g)) {
      const parts = path.split('/').filter(Boolean);
      if (!folders.includes(parts[0]) || parts.includes('dist') || parts.includes('.cache')) continue;
      if (!existsSync(join(root, path))) report(file, line, `\`${path}\` is not in the repository`);
    }
  }
}

function checkEmbeddedFiles(file, text, fences) {
  const lines = text.split('\n');
  lines.forEach((content, index) => {
    const path = /^\s*<!-- file: (\S+) -->\s*$/.exec(content)?.[1];
    if (path === undefined || fences.some((each) => index + 1 > each.line && index < each.line + each.lines.length))
      return;
    const fence = fences.find(
      (each) =>
        each.line > index &&
        lines
          .slice(index + 1, each.line - 1)
          .join('')
          .trim() === '',
    );
    if (!fence) return report(file, index + 1, `no code fence follows <!-- file: ${path} -->`);
    if (!existsSync(join(root, path))) return report(file, index + 1, `the embedded file ${path} is not there`);
    const wanted = read(path).replace(/\n$/, '').split('\n');
    const differs = Math.max(wanted.length, fence.lines.length) - 1;
    let at = 0;
    while (at < differs && wanted[at] === fence.lines[at]) at++;
    if (wanted[at] !== fence.lines[at] || wanted.length !== fence.lines.length)
      report(file, fence.line + 1 + at, `the fence differs from ${path}:${at + 1}; copy the file anew`);
  });
}

function checkScripts(file, text, scripts) {
  text.split('\n').forEach((content, index) => {
    for (const [, script] of content.matchAll(/\bnpm run ([\w:-]+)/g))
      if (!(script in scripts))
        report(file, index + 1, `npm run ${script}: package.json has ${Object.keys(scripts).join(', ')}`);
  });
}

/** What the CLI's sources name: commands as `cherryq jobs wait`, and every word that could be a flag, in kebab case. */
function readCommandLine() {
  const sources = (folder) =>
    existsSync(join(root, folder))
      ? readdirSync(join(root, folder)).map((name) => [name, read(`${folder}/${name}`)])
      : [];
  const cli = sources('sdk/src/cli');
  const commands = new Set(
    cli.flatMap(([, text]) => [...text.matchAll(/name: '(cherryq [a-z ]+)'/g)].map(([, name]) => name)),
  );
  const words = [...cli, ...sources('sdk/src/contract')].flatMap(([, text]) => text.match(/[A-Za-z][\w-]*/g) ?? []);
  const kebab = (word) => word.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
  return {
    commands,
    files: new Set(cli.map(([name]) => name)),
    flags: new Set(['help', 'version', ...words.map(kebab)]),
  };
}

/** Invocations in prose (`npx cherryq ...`, `cherryq ...` in backticks) and in shell fences, continued lines joined. */
function* invocations({ prose, fences }) {
  for (const { line, content } of prose)
    for (const [, code] of content.matchAll(/`(?:npx )?cherryq ([^`]+)`/g)) yield { line, words: code };
  for (const fence of fences.filter(({ language }) => ['sh', 'bash', 'console'].includes(language))) {
    for (let index = 0; index < fence.lines.length; index++) {
      const line = fence.line + 1 + index;
      let content = fence.lines[index];
      while (content.endsWith('\\')) content = `${content.slice(0, -1)} ${fence.lines[++index] ?? ''}`;
      const words = /(?:^|[\s(&|;])(?:npx cherryq|(?<=^\$? ?)cherryq) (.*)/.exec(content)?.[1];
      if (words !== undefined) yield { line, words };
    }
  }
}

function checkCommands(file, parsed, { commands, files, flags }) {
  for (const { line, words } of invocations(parsed)) {
    const [first, second] = words.split(/\s+/);
    if (/^[a-z]+$/.test(first)) {
      const group = [...commands].some((name) => name.startsWith(`cherryq ${first} `));
      const name = `cherryq ${first}${group && /^[a-z]+$/.test(second ?? '') ? ` ${second}` : ''}`;
      if (!commands.has(name) || !files.has(`${first}.ts`))
        report(file, line, `${name} is not a command; sdk/src/cli has ${[...commands].sort().join(', ')}`);
    }
    for (const [, flag] of words.split(/\s#/)[0].matchAll(/(?:^|[\s[])--([a-z][a-z0-9-]*)/g))
      if (!flags.has(flag)) report(file, line, `--${flag} is not a flag that sdk/src/cli knows`);
  }
}

/** The fields of the contract's objects, each to be named in a table's first column. */
function checkSettings(contract, page) {
  if (!existsSync(join(root, contract)) || !existsSync(join(root, page))) return;
  const rows = read(page)
    .split('\n')
    .map((line) => /^\|([^|]*)\|/.exec(line)?.[1] ?? '');
  for (const [, fields] of read(contract).matchAll(/z\.strictObject\(\{\n(.*?)\n\}\)/gs))
    for (const [, field] of fields.matchAll(/^ {2}(\w+):/gm))
      if (!rows.some((row) => row.includes(`\`${field}\``)))
        report(page, 1, `no table has a row for ${field} of ${contract}`);
}

/** The demo's result, or null after reporting what is wrong with it. */
function readDemoResult(path, hint) {
  if (!existsSync(join(root, path))) return (report(path, 1, `is not there; ${hint}`), null);
  const result = JSON.parse(read(path));
  const faults = [];
  const expect = (holds, what) => holds || faults.push(what);
  const isPositive = (value) => typeof value === 'number' && Number.isFinite(value) && value > 0;
  expect(typeof result.engine === 'string', 'engine must be a string');
  expect(Number.isInteger(result.model?.parameters), 'model.parameters must be a whole number');
  for (const field of ['perplexity', 'sizeBytes'])
    expect(isPositive(result.baseline?.[field]), `baseline.${field} must be a positive number`);
  const rows = Array.isArray(result.results) ? result.results : [];
  expect(
    rows.map(({ method }) => method).join() === demoMethods.join(),
    `results must be of ${demoMethods.join(', ')}, in this order`,
  );
  for (const row of rows) {
    for (const field of ['bits', 'bitsPerWeight', 'perplexity', 'sizeBytes', 'seconds'])
      expect(isPositive(row[field]), `${field} of ${row.method} must be a positive number`);
    expect(
      row.bits === rows[0].bits && row.groupSize === rows[0].groupSize,
      `${row.method} has other bits or groups than the rest`,
    );
  }
  for (const fault of faults) report(path, 1, fault);
  return faults.length === 0 ? result : null;
}

/** The same table that the demo prints, in Markdown as prettier leaves it, and a line that says of what. */
function demoTable({ engine, model, baseline, results }) {
  const [rtn] = results;
  const kilobytes = (bytes) => `${(bytes / 1000).toFixed(0)} kB`;
  const gap = rtn.perplexity - baseline.perplexity;
  const rows = [
    ['method', 'bits/weight', 'size', 'of original', 'perplexity', 'gap closed', 'time'],
    ['original', '16', kilobytes(baseline.sizeBytes), '100 %', baseline.perplexity.toFixed(3), '', ''],
    ...results.map(({ method, bitsPerWeight, sizeBytes, perplexity, seconds }) => [
      method,
      bitsPerWeight.toFixed(3),
      kilobytes(sizeBytes),
      `${((100 * sizeBytes) / baseline.sizeBytes).toFixed(1)} %`,
      perplexity.toFixed(3),
      `${((100 * (rtn.perplexity - perplexity)) / gap).toFixed(0)} %`,
      `${seconds.toFixed(0)} s`,
    ]),
  ];
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  const pad = (cell, column) => (column === 0 ? cell.padEnd(widths[column]) : cell.padStart(widths[column]));
  const rule = widths.map((width, column) => (column === 0 ? '-'.repeat(width) : `${'-'.repeat(width - 1)}:`));
  const lines = [rows[0].map(pad), rule, ...rows.slice(1).map((row) => row.map(pad))].map(
    (row) => `| ${row.join(' | ')} |`,
  );
  const groups = rtn.groupSize === 'row' ? 'one scale per row' : `groups of ${rtn.groupSize}`;
  const about = `${(model.parameters / 1e6).toFixed(2)} million parameters, ${rtn.bits} bits, ${groups}, engine \`${engine}\`.`;
  return ['<!-- demo-table -->', '', ...lines, '', about, '', '<!-- /demo-table -->'].join('\n');
}

function checkDemoTable(write) {
  const run = 'run `npm run demo`, then `node scripts/docs-check.mjs --write`';
  if (write) {
    if (readDemoResult(freshResult, 'run `npm run demo` first') === null) return;
    copyFileSync(join(root, freshResult), join(root, demoResult));
  }
  const result = readDemoResult(demoResult, run);
  const readme = read('README.md');
  const found = /<!-- demo-table -->[^]*?<!-- \/demo-table -->/.exec(readme);
  if (!found) return report('README.md', 1, 'has no <!-- demo-table --> ... <!-- /demo-table -->');
  if (result === null || found[0] === demoTable(result)) return;
  if (write)
    return writeFileSync(
      join(root, 'README.md'),
      readme.replace(found[0], () => demoTable(result)),
    );
  const line = readme.slice(0, found.index).split('\n').length;
  report('README.md', line, `the demo's table is not that of ${demoResult}; ${run}`);
}

checkSettings('sdk/src/contract/schemes.ts', 'docs/training.md');
checkDemoTable(process.argv.includes('--write'));
const { scripts } = JSON.parse(read('package.json'));
const commandLine = readCommandLine();
const files = markdownFiles();
for (const file of files) {
  const text = read(file);
  const parsed = parseMarkdown(text);
  checkLinks(file, parsed.prose);
  checkPaths(file, parsed.prose);
  checkEmbeddedFiles(file, text, parsed.fences);
  checkScripts(file, text, scripts);
  checkCommands(file, parsed, commandLine);
}
for (const { file, line, message } of problems) console.error(`${file}:${line}: ${message}`);
console.log(problems.length === 0 ? `docs: ${files.length} files, all well` : `docs: ${problems.length} problems`);
process.exitCode = problems.length === 0 ? 0 : 1;
