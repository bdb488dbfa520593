/**
 * Runs the study's jobs as a user would: through the local API and the SDK, two at a time, each result measured on the
 * downloaded files. What is done is kept in `out/study/runs.json`, so a study that was stopped goes on.
 */
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { startServer } from '@cherryq/api/serve';
import { evaluateFolder } from '@cherryq/batch-jobs';
import { CherryQ } from 'cherryq';
import type { AnalysisResult, JobEvent, JobResult } from 'cherryq/contract';
import { analyze, compress } from 'cherryq/node';
import type { Run, Subject } from './plan.ts';
import { evaluatedTokens, keyOf, training } from './plan.ts';
import { spreadOf } from './statistics.ts';

export interface Outcome {
  readonly engine: string;
  readonly bitsPerWeight: number;
  readonly sizeBytes: number;
  readonly parameters: number;
  /** Of the original, of plain rounding and of the result, on each of the subject's texts in turn. */
  readonly original: number[];
  readonly compressed: number[];
  /** Whether the impact was taken from an earlier job on the same model and text. */
  readonly impactStored: boolean;
  readonly seconds: number;
  /** Mean training loss over the last quarter of the steps, in nats; null without training. */
  readonly finalLoss: number | null;
}

const folder = 'out/study';
const runsFile = `${folder}/runs.json`;
const analysesFile = `${folder}/analyses.json`;

/** Where the files of a model's `analyze` job are. */
export const analysisFolder = ({ name }: Subject): string => `${folder}/analysis-${name}`;

/** @param onDone told how many of how many are done, and the seconds left */
export async function runAll(
  runs: readonly Run[],
  onDone: (done: number, total: number, key: string, secondsLeft: number | null) => void,
): Promise<Map<string, Outcome>> {
  await mkdir(folder, { recursive: true });
  const outcomes = new Map(Object.entries(await readJson<Record<string, Outcome>>(runsFile, {})));
  const waiting = runs.filter((run) => !outcomes.has(keyOf(run)));
  if (waiting.length === 0) return outcomes;
  const originals = new Map<string, Promise<number>>();
  await withServer(async (client) => {
    const began = performance.now();
    let own = 0;
    await inParallel(waiting, availableParallelism(), async (run) => {
      const key = keyOf(run);
      outcomes.set(key, await outcomeOf(client, run, originals));
      await writeJson(runsFile, Object.fromEntries(outcomes));
      own++;
      const perRun = (performance.now() - began) / 1000 / own;
      onDone(runs.length - waiting.length + own, runs.length, key, perRun * (waiting.length - own));
    });
  });
  return outcomes;
}

async function outcomeOf(client: CherryQ, run: Run, originals: Map<string, Promise<number>>): Promise<Outcome> {
  const { subject, scheme, seed } = run;
  const [first, ...others] = subject.texts;
  const out = `${folder}/results/${Buffer.from(keyOf(run)).toString('base64url').slice(-80)}`;
  let impactStored = false;
  await rm(out, { recursive: true, force: true });
  const { result } = await compress(client, {
    model: subject.model,
    calibration: scheme.method === 'rtn' ? undefined : subject.calibration,
    evaluation: first.file,
    evaluationTokens: evaluatedTokens,
    scheme,
    training: { ...training, ...run.training, seed },
    formats: ['native'],
    out,
    onEvent(event: JobEvent) {
      if (event.type === 'impact.ready') impactStored = event.source === 'stored';
    },
  });
  const original = [perplexityOf(result, 'baseline')];
  const compressed = [perplexityOf(result, 'compressed')];
  for (const { file } of others) {
    const key = `${subject.name} ${file}`;
    if (!originals.has(key)) originals.set(key, perplexity(subject.model, file));
    original.push(await (originals.get(key) as Promise<number>));
    compressed.push(await perplexity(out, file));
  }
  const finalLoss = await finalLossOf(out);
  await rm(out, { recursive: true, force: true });
  const { engine, parameters, seconds } = result;
  const { bitsPerWeight, sizeBytes } = result.compressed;
  return { engine, parameters, seconds, bitsPerWeight, sizeBytes, original, compressed, impactStored, finalLoss };
}

async function finalLossOf(out: string): Promise<number | null> {
  const records = await readJson<{ loss: number }[]>(`${out}/losses.json`, []);
  if (records.length === 0) return null;
  return spreadOf(records.slice(Math.floor((3 * records.length) / 4)).map(({ loss }) => loss)).mean;
}

function perplexityOf(result: JobResult, of: 'baseline' | 'compressed'): number {
  const value = result[of].perplexity;
  if (value === null) throw new Error(`The job measured no perplexity of its ${of}.`);
  return value;
}

async function perplexity(model: string, file: string): Promise<number> {
  return (await evaluateFolder(model, file, { maxTokens: evaluatedTokens })).perplexity;
}

/** Where each model's important weights are, by an `analyze` job on its own calibration text and two others. */
export async function analyzeAll(
  subjects: readonly Subject[],
  { others, draws, seed }: { readonly others: readonly string[]; readonly draws: number; readonly seed?: number },
  onDone: (name: string) => void,
): Promise<Map<string, AnalysisResult>> {
  const analyses = new Map(Object.entries(await readJson<Record<string, AnalysisResult>>(analysesFile, {})));
  const waiting = subjects.filter(({ name }) => !analyses.has(name));
  if (waiting.length === 0) return analyses;
  await withServer(async (client) => {
    for (const subject of waiting) {
      const { result } = await analyze(client, {
        model: subject.model,
        calibration: subject.calibration,
        others,
        draws,
        training: { sequenceLength: training.sequenceLength, impactSamples: training.impactSamples, seed },
        out: analysisFolder(subject),
      });
      analyses.set(subject.name, result);
      await writeJson(analysesFile, Object.fromEntries(analyses));
      onDone(subject.name);
    }
  });
  return analyses;
}

async function withServer(use: (client: CherryQ) => Promise<void>): Promise<void> {
  const storeFolder = `${folder}/store`;
  const server = await startServer({ storeFolder, port: 0, concurrency: availableParallelism() });
  try {
    await use(new CherryQ({ baseUrl: server.url }));
  } finally {
    await server.close();
  }
}

/** Runs `work` on every item, at most `atOnce` at a time. */
async function inParallel<Item>(
  items: readonly Item[],
  atOnce: number,
  work: (item: Item) => Promise<void>,
): Promise<void> {
  const left = [...items];
  const take = async (): Promise<void> => {
    for (let item = left.shift(); item !== undefined; item = left.shift()) await work(item);
  };
  await Promise.all(Array.from({ length: atOnce }, take));
}

async function readJson<Value>(path: string, absent: Value): Promise<Value> {
  try {
    return JSON.parse(await readFile(path, 'utf8')) as Value;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return absent;
    throw error;
  }
}

let writes: Promise<void> = Promise.resolve();

/** One write after another, each whole. */
function writeJson(path: string, value: unknown): Promise<void> {
  writes = writes.then(async () => {
    await writeFile(`${path}.part`, JSON.stringify(value, null, 2));
    await rename(`${path}.part`, path);
  });
  return writes;
}
