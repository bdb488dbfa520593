/**
 * `npm run study [-- --data DIR] [--only NAME]`: the paper's questions on the small models at hand. Writes docs/study.md, its
 * pictures and docs/study/results.json. Goes on where it was stopped; `out/study` holds what is done.
 */
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { format, resolveConfig } from 'prettier';
import { pageOf } from './page.ts';
import type { Run } from './plan.ts';
import { keyOf, planOf, rateRuns, subjectsOf } from './plan.ts';
import type { Reasons } from './reasons.ts';
import { reasonsOf } from './reasons.ts';
import { analysisFolder, analyzeAll, runAll } from './runner.ts';

const { values } = parseArgs({
  options: { data: { type: 'string', default: '../shared/data' }, only: { type: 'string' } },
});
const data = values.data.replace(/\/$/, '');
if (!existsSync(`${data}/models`)) {
  console.error(
    `The study needs the models and texts of ${data}, which is not there. Name their folder with --data DIR.`,
  );
  process.exit(2);
}
const withoutRate = subjectsOf(data).filter(({ name }) => values.only === undefined || name === values.only);
if (withoutRate.length === 0) {
  const known = subjectsOf(data).map(({ name }) => name);
  console.error(`--only ${values.only ?? ''} is no model of the study; it has ${known.join(', ')}.`);
  process.exit(2);
}
const analyses = await analyzeAll(
  withoutRate,
  () => [`${data}/corpora/wikitext2/wiki.train.5k-slice.txt`, `${data}/corpora/shakespeare/tinyshakespeare.txt`],
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
const { markdown, pictures } = pageOf({ subjects, outcomes, analyses, reasons });
await mkdir('docs/study', { recursive: true });
for (const [name, svg] of pictures) await writeFile(`docs/study/${name}`, svg);
const results = {
  analyses: Object.fromEntries(analyses),
  reasons: Object.fromEntries(reasons),
  runs: Object.fromEntries([...outcomes].sort(([a], [b]) => (a < b ? -1 : 1))),
};
const style = await resolveConfig('docs/study.md');
await writeFile('docs/study/results.json', await format(JSON.stringify(results), { ...style, parser: 'json' }));
await writeFile('docs/study.md', await format(markdown, { ...style, parser: 'markdown' }));
console.log('Wrote docs/study.md.');

function report(done: number, total: number, key: string, secondsLeft: number | null): void {
  const left = secondsLeft === null ? '' : `, ${Math.ceil(secondsLeft / 60)} min left`;
  console.log(`${done}/${total}${left}  ${key}`);
}
