/**
 * `npm run study [-- --data DIR] [--only NAME]`: the paper's questions on the small models at hand. Writes docs/study.md, its
 * pictures and docs/study/results.json. With `--model DIR --name NAME`, the main question on another model, which takes an hour for
 * 135 million parameters; the page then shows it too. Goes on where it was stopped; `out/study` holds what is done.
 */
import { existsSync } from 'node:fs';
import { mkdir, readFile, readdir, writeFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { format, resolveConfig } from 'prettier';
import type { Larger } from './page.ts';
import { pageOf } from './page.ts';
import type { Run, Subject } from './plan.ts';
import { keyOf, largerRuns, planOf, rateRuns, seeds, subjectsOf } from './plan.ts';
import type { Reasons } from './reasons.ts';
import { reasonsOf } from './reasons.ts';
import type { Outcome } from './runner.ts';
import { analysisFolder, analyzeAll, runAll } from './runner.ts';
import { median } from './statistics.ts';

const { values } = parseArgs({
  options: {
    data: { type: 'string', default: '../shared/data' },
    only: { type: 'string' },
    model: { type: 'string' },
    name: { type: 'string', default: 'other' },
    rate: { type: 'string', default: '5e-5' },
    note: { type: 'string', default: '' },
  },
});
const data = values.data.replace(/\/$/, '');
if (!existsSync(`${data}/models`)) {
  console.error(
    `The study needs the models and texts of ${data}, which is not there. Name their folder with --data DIR.`,
  );
  process.exit(2);
}
if (values.model !== undefined) await runLarger(values.model);
const withoutRate = subjectsOf(data).filter(({ name }) => values.only === undefined || name === values.only);
if (withoutRate.length === 0) {
  const known = subjectsOf(data).map(({ name }) => name);
  console.error(`--only ${values.only ?? ''} is no model of the study; it has ${known.join(', ')}.`);
  process.exit(2);
}
const analyses = await analyzeAll(
  withoutRate,
  {
    others: [`${data}/corpora/wikitext2/wiki.train.5k-slice.txt`, `${data}/corpora/shakespeare/tinyshakespeare.txt`],
    draws: 3,
  },
  (name) => console.log(`analyzed ${name}`),
);
const looked = await runAll(withoutRate.flatMap(rateRuns), report);
const subjects = withoutRate.map((subject) => {
  const lossOf = (run: Run): number => looked.get(keyOf(run))?.finalLoss ?? Infinity;
  const best = rateRuns(subject).reduce((a, b) => (lossOf(b) < lossOf(a) ? b : a));
  console.log(`${subject.name}: learning rate ${best.training.learningRate}`);
  return { ...subject, learningRate: best.training.learningRate };
});
const outcomes = await runAll(planOf(subjects), report);
const reasons = new Map<string, Reasons>();
for (const subject of subjects) reasons.set(subject.name, await reasonsOf(subject, analysisFolder(subject)));
const { markdown, pictures } = pageOf({ subjects, outcomes, analyses, reasons, larger: await readLarger() });
await mkdir('docs/study', { recursive: true });
for (const [name, svg] of pictures) await writeFile(`docs/study/${name}`, svg);
const results = {
  analyses: Object.fromEntries(analyses),
  reasons: Object.fromEntries(reasons),
  runs: Object.fromEntries([...outcomes].sort(([a], [b]) => (a < b ? -1 : 1))),
};
await writeJson('docs/study/results.json', results);
await writeFile(
  'docs/study.md',
  await format(markdown, { ...(await resolveConfig('docs/study.md')), parser: 'markdown' }),
);
console.log('Wrote docs/study.md.');

function report(done: number, total: number, key: string, secondsLeft: number | null): void {
  const left = secondsLeft === null ? '' : `, ${Math.ceil(secondsLeft / 60)} min left`;
  console.log(`${done}/${total}${left}  ${key}`);
}

/** The main question on another model; leaves `docs/study/larger-<name>.json`. */
async function runLarger(model: string): Promise<void> {
  const wiki = `${data}/corpora/wikitext2`;
  const subject: Subject = {
    name: values.name,
    model,
    calibration: `${wiki}/wiki.train.5k-slice.txt`,
    texts: [{ name: 'WikiText-2', file: `${wiki}/wiki.test.raw` }],
    groupSize: 64,
    learningRate: Number(values.rate),
  };
  const [seed] = seeds;
  const found = (await analyzeAll([subject], { others: [], draws: 1, seed }, console.log)).get(subject.name);
  const runs = largerRuns(subject);
  const all = await runAll(
    runs.map(({ run }) => run),
    report,
  );
  const larger: Larger = {
    name: subject.name,
    note: values.note,
    text: 'WikiText-2',
    groupSize: subject.groupSize,
    learningRate: Number(values.rate),
    heterogeneity: median(found?.heterogeneity.map(({ byImpact }) => byImpact) ?? []),
    reasons: await reasonsOf(subject, analysisFolder(subject)),
    runs: runs.map(({ name, run }) => ({ name, outcome: all.get(keyOf(run)) as Outcome })),
  };
  await mkdir('docs/study', { recursive: true });
  await writeJson(`docs/study/larger-${subject.name}.json`, larger);
}

async function readLarger(): Promise<Larger[]> {
  const names = (await readdir('docs/study')).filter((name) => name.startsWith('larger-'));
  return Promise.all(
    names.sort().map(async (name) => JSON.parse(await readFile(`docs/study/${name}`, 'utf8')) as Larger),
  );
}

async function writeJson(path: string, value: unknown): Promise<void> {
  await writeFile(path, await format(JSON.stringify(value), { ...(await resolveConfig(path)), parser: 'json' }));
}
