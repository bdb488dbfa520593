/**
 * `npm run demo`: the whole product on one machine. Starts the local API on loopback, uploads the shipped model and texts
 * with the SDK, runs rtn, qat and cherryq at the same bits, groups and training tokens, follows their events, downloads
 * the artifacts with their hashes checked, and prints what was gained. Leaves everything in out/demo/.
 */
import { copyFile, mkdir, rm, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { startServer } from '@cherryq/api/serve';
import type { Job, JobResult, Method, Scheme, Training } from 'cherryq/contract';
import { CherryQ } from 'cherryq';
import { downloadArtifacts, uploadModelFolder, uploadTextFile } from 'cherryq/node';
import { ProgressBoard } from './progress-board.ts';

const outFolder = 'out/demo';
const storeFolder = `${outFolder}/store`;
const methods: readonly Method[] = ['rtn', 'cherryq', 'qat'];
const scheme: Pick<Scheme, 'bits' | 'groupSize'> = { bits: 3, groupSize: 'row' };
const training: Partial<Training> = {
  tokens: 112_640,
  batchSize: 2,
  // A trained model bears no more: above this rate the noise of so small a batch costs more than the training gains.
  learningRate: 1.5e-4,
  // Learning the original's own distribution takes far less text than learning the text's next tokens.
  loss: 'distillation',
  impactSamples: 24,
  seed: 1,
};
const evaluatedTokens = 16_384;

const started = performance.now();
await rm(outFolder, { recursive: true, force: true });
await mkdir(outFolder, { recursive: true });

const server = await startServer({ storeFolder, port: 0, concurrency: Math.min(2, availableParallelism()) });
process.once('SIGINT', () => {
  console.log('\nStopped. `npm run demo` starts again from the beginning.');
  void server.close().finally(() => process.exit(75));
});
try {
  const results = await compressByEachMethod(server.url);
  await writeFile(`${outFolder}/result.json`, `${JSON.stringify(summary(results), null, 2)}\n`);
  await copyFile(`${outFolder}/cherryq/report.html`, `${outFolder}/report.html`);
  console.log(table(results));
  console.log(
    `\nDone in ${((performance.now() - started) / 1000).toFixed(0)} s. Open ${outFolder}/report.html; the models are in ${outFolder}/{rtn,qat,cherryq}.`,
  );
  console.log(`Try: npx cherryq generate ${outFolder}/cherryq "The whale" --max-tokens 40`);
} finally {
  await server.close();
  await rm(storeFolder, { recursive: true, force: true });
}

async function compressByEachMethod(baseUrl: string): Promise<Map<Method, JobResult>> {
  const client = new CherryQ({ baseUrl });
  console.log(`The API answers at ${baseUrl}. Uploading demo/model and two texts ...`);
  const model = await uploadModelFolder(client, 'demo/model', { name: 'cherryq-demo-2m' });
  const calibration = await uploadTextFile(client, 'demo/calibration.txt');
  const test = await uploadTextFile(client, 'demo/test.txt');

  const jobs = new Map<Method, Job>();
  for (const method of methods) {
    const job = await client.jobs.create({
      modelId: model.id,
      scheme: { method, ...scheme },
      training,
      formats: method === 'cherryq' ? ['native', 'hf'] : ['native'],
      calibrationDatasetId: calibration.id,
      evaluation: { datasetId: test.id, maxTokens: evaluatedTokens },
    });
    jobs.set(method, job);
  }

  const board = new ProgressBoard([...jobs.keys()]);
  const results = new Map<Method, JobResult>();
  await Promise.all(
    [...jobs].map(async ([method, { id }]) => {
      const ended = await client.jobs.wait(id, { onEvent: (event) => board.show(method, event) });
      if (!ended.result)
        throw new Error(`The ${method} job ended as ${ended.status}: ${ended.error?.message ?? 'no reason given'}`);
      await downloadArtifacts(client, id, `${outFolder}/${method}`);
      results.set(method, ended.result);
    }),
  );
  board.close();
  return results;
}

/** What `result.json` holds; the order is from plain rounding to CherryQ. */
function summary(results: ReadonlyMap<Method, JobResult>): object {
  const { engine, parameters, baseline } = resultOf(results, 'rtn');
  return {
    engine,
    model: { parameters },
    baseline,
    results: (['rtn', 'qat', 'cherryq'] as const).map((method) => {
      const { compressed, seconds } = resultOf(results, method);
      const { bitsPerWeight, perplexity, sizeBytes } = compressed;
      return { method, ...scheme, bitsPerWeight, perplexity, sizeBytes, seconds };
    }),
  };
}

function resultOf(results: ReadonlyMap<Method, JobResult>, method: Method): JobResult {
  const result = results.get(method);
  if (!result) throw new Error(`there is no result of ${method}`);
  return result;
}

function table(results: ReadonlyMap<Method, JobResult>): string {
  const rtn = resultOf(results, 'rtn');
  const { baseline, evaluatedTokens: tokens, parameters } = rtn;
  const original = baseline.perplexity ?? NaN;
  const rounded = rtn.compressed.perplexity ?? NaN;
  const rows = [['', 'bits/weight', 'size', 'of original', 'perplexity', 'gap closed', 'time']];
  rows.push(['original', '16', kilobytes(baseline.sizeBytes), '100 %', original.toFixed(3), '', '']);
  for (const method of ['rtn', 'qat', 'cherryq'] as const) {
    const { compressed, seconds } = resultOf(results, method);
    const perplexity = compressed.perplexity ?? NaN;
    const closed = (rounded - perplexity) / (rounded - original);
    rows.push([
      method,
      compressed.bitsPerWeight.toFixed(3),
      kilobytes(compressed.sizeBytes),
      `${((100 * compressed.sizeBytes) / baseline.sizeBytes).toFixed(1)} %`,
      perplexity.toFixed(3),
      method === 'rtn' ? '0 %' : `${(100 * closed).toFixed(0)} %`,
      `${seconds.toFixed(0)} s`,
    ]);
  }
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  const lines = rows.map((row) =>
    row.map((cell, column) => (column === 0 ? cell.padEnd(widths[column]) : cell.padStart(widths[column]))).join('   '),
  );
  const heading =
    `\n${(parameters / 1e6).toFixed(2)} million parameters, ${scheme.bits} bits, one scale per row; perplexity a token over ${tokens} tokens\n` +
    'of text that no step has seen, measured on the written files. Gap: from the original to plain rounding (rtn).\n';
  return [heading, ...lines].join('\n');
}

function kilobytes(bytes: number): string {
  return `${(bytes / 1000).toFixed(0)} kB`;
}
