/**
 * A container that Spot takes its machine from: it is told to stop, has a while to save, is killed, and Batch starts it again with the
 * same environment and the next attempt's number. The result is that of a run which nothing disturbed.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { startServer } from '@cherryq/api/serve';
import { CherryQ } from 'cherryq';
import { exitCodes, type CreateJob } from 'cherryq/contract';
import { createRandom } from '../../batch-jobs/src/numeric/random.ts';
import { fileFolder, writeModelFolder, writeText } from './folders.ts';
import { hashesOf, until } from './product.ts';
import { existsSync, readFileSync, readdirSync } from 'node:fs';

const folder = fileFolder();
const worker = fileURLToPath(new URL('../../batch-jobs/dist/main.js', import.meta.url));
/** In place of two minutes: enough to save, and for every third not even that. */
const graceMs = (attempt: number): number => (attempt % 3 === 0 ? 20 : 5000);
const moments = 10;

interface Container {
  /** Told to stop, and killed where it does not.  @returns exit code, null when it was killed */
  reclaim(): Promise<number | null>;
  readonly ended: Promise<number | null>;
}

function startContainer(
  dataDir: string,
  id: string,
  attempt: number,
  more: Readonly<Record<string, string>> = {},
): Container {
  const child = spawn(process.execPath, [worker], {
    env: {
      ...process.env,
      CHERRYQ_STORE: pathToFileURL(dataDir).href,
      CHERRYQ_JOB: `tenants/local/jobs/${id}`,
      CHERRYQ_CHECKPOINT_SECONDS: '0.1',
      AWS_BATCH_JOB_ATTEMPT: String(attempt),
      ...more,
    },
    stdio: ['ignore', 'ignore', 'ignore'],
  });
  const ended = once(child, 'exit').then(([code]) => code as number | null);
  return {
    ended,
    async reclaim() {
      child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), graceMs(attempt));
      return ended.finally(() => clearTimeout(timer));
    },
  };
}

const training = { tokens: 40_960, batchSize: 4, sequenceLength: 32, learningRate: 5e-3, impactSamples: 768 };

/** A job that waits in a store, whose server runs none.  @returns its id */
async function waitingJob(dataDir: string, settings: object): Promise<string> {
  const server = await startServer({ storeFolder: dataDir, port: 0, concurrency: 0 });
  try {
    const client = new CherryQ({ baseUrl: server.url });
    const text = async (name: string, size: number, seed: number): Promise<string> => {
      const content = readFileSync(writeText(folder, `${name}.txt`, size, seed));
      return (await client.datasets.upload({ name, files: [{ path: `${name}.txt`, content }] })).id;
    };
    const files = readdirSync(model, { withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map(({ name }) => ({ path: name, content: readFileSync(join(model, name)) }));
    const { id: modelId } = await client.models.upload({ name: 'model', files });
    const job = await client.jobs.create({
      modelId,
      calibrationDatasetId: await text('calibration', 90_000, 1),
      evaluation: { datasetId: await text('evaluation', 20_000, 2) },
      scheme: { method: 'cherryq', bits: 3, groupSize: 16 },
      ...settings,
    } as CreateJob);
    return job.id;
  } finally {
    await server.close();
  }
}

const model = await writeModelFolder(folder, 'model');
const artifactsOf = (dataDir: string, id: string): string => join(dataDir, 'tenants/local/jobs', id, 'artifacts');

it('B3: reclaimed at ten moments it ends with the same files, and each attempt ends as Batch is to start it again', async () => {
  const quiet = join(folder, 'quiet');
  const quietId = await waitingJob(quiet, { training });
  const began = Date.now();
  const undisturbed = startContainer(quiet, quietId, 1);
  await until('the first checkpoint', () => existsSync(join(quiet, 'tenants/local/jobs', quietId, 'checkpoints')));
  const startMs = Date.now() - began;
  expect(await undisturbed.ended).toBe(exitCodes.ok);
  const workMs = Date.now() - began - startMs;

  const dataDir = join(folder, 'reclaimed');
  const id = await waitingJob(dataDir, { training });
  const random = createRandom(20_261_123);
  const ends: (number | null)[] = [];
  for (let attempt = 1; attempt <= moments; attempt++) {
    const container = startContainer(dataDir, id, attempt);
    // Half of what it could do, so that the job has not ended before the last moment.
    await sleep(0.7 * startMs + (random() * workMs) / (2 * moments));
    ends.push(await container.reclaim());
  }
  // 75: saved and stopped; null: killed before it had saved. Batch starts both again.
  expect(ends.filter((code) => code !== exitCodes.interrupted && code !== null)).toEqual([]);
  expect(ends.filter((code) => code === exitCodes.interrupted).length).toBeGreaterThan(moments / 3);
  expect(ends).toContain(null);
  expect(await startContainer(dataDir, id, moments + 1).ended).toBe(exitCodes.ok);

  const expected = hashesOf(artifactsOf(quiet, quietId));
  expect(Object.keys(expected)).toEqual(expect.arrayContaining(['manifest.json', 'model.safetensors']));
  expect(hashesOf(artifactsOf(dataDir, id))).toEqual(expected);
}, 240_000);

it('the workers of a comparison, all at once and each reclaimed, leave the table of a worker that was alone', async () => {
  const schemes = [
    { method: 'qat', bits: 3 },
    { method: 'cherryq', bits: 2 },
    { method: 'cherryq', bits: 4 },
  ];
  const settings = {
    kind: 'compare',
    comparison: { schemes },
    training: { ...training, tokens: 20_480, impactSamples: 256 },
  } as const;
  const alone = join(folder, 'alone');
  const aloneId = await waitingJob(alone, settings);
  expect(await startContainer(alone, aloneId, 1).ended).toBe(exitCodes.ok);

  const dataDir = join(folder, 'at-once');
  const id = await waitingJob(dataDir, settings);
  const random = createRandom(7);
  const shared = { CHERRYQ_SCHEMES: '1,2,3', CHERRYQ_ATTEMPT: '1' };
  const work = async (index: number): Promise<(number | null)[]> => {
    const ends: (number | null)[] = [];
    for (let attempt = 1; attempt <= 3; attempt++) {
      const container = startContainer(dataDir, id, attempt, { ...shared, AWS_BATCH_JOB_ARRAY_INDEX: String(index) });
      await sleep(700 + 1500 * random());
      ends.push(await container.reclaim());
    }
    const last = startContainer(dataDir, id, 4, { ...shared, AWS_BATCH_JOB_ARRAY_INDEX: String(index) });
    expect(await last.ended).toBe(exitCodes.ok);
    return ends;
  };
  const ends = (await Promise.all(schemes.map((_, index) => work(index)))).flat();
  expect(ends.filter((code) => code === null || code === exitCodes.interrupted).length).toBeGreaterThan(2);
  expect(await startContainer(dataDir, id, 1).ended).toBe(exitCodes.ok);
  const expected = hashesOf(artifactsOf(alone, aloneId));
  expect(Object.keys(expected)).toEqual(['comparison.json', 'manifest.json', 'report.html']);
  expect(hashesOf(artifactsOf(dataDir, id))).toEqual(expected);
}, 240_000);
