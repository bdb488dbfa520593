/**
 * What the local server bears: reads of a job and creations at given rates, with their latencies and the server's memory; event streams that are cut again and again; a page of a list as long as you like.
 *
 *     npm run load                        all three, as in CI: short
 *     npm run load -- --seconds 60 --jobs 1000000
 *
 * Load and server share the machine. The list's jobs are written straight into the folder, as the server would.
 */
import autocannon from 'autocannon';
import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { uploadModelFolder } from 'cherryq/node';
import { CherryQ, type Job } from 'cherryq';
import { jobSpecSchema } from 'cherryq/contract';
import { ulid } from 'ulid';
import { jobRef } from '../src/job-log.ts';
import { indexKey } from '../src/newest-first.ts';

const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '10' },
    jobs: { type: 'string', default: '20000' },
    streams: { type: 'string', default: '500' },
    folder: { type: 'string' },
  },
});
const [seconds, jobs, streams] = [Number(values.seconds), Number(values.jobs), Number(values.streams)];
const [readsPerSecond, createsPerSecond] = [1600, 320];
const folder = mkdtempSync(join(values.folder ?? tmpdir(), 'cherryq-load-'));

interface Server {
  readonly process: ChildProcess;
  readonly url: string;
  readonly client: CherryQ;
}

try {
  const server = await startServer();
  const job = await firstJob(server.client);
  await load(server, job);
  await followed(server, job);
  await stop(server);
  await listed();
} finally {
  rmSync(folder, { recursive: true, force: true });
}

async function startServer(): Promise<Server> {
  const child = fork(fileURLToPath(new URL('./load-server.js', import.meta.url)), [folder]);
  const [{ url }] = (await once(child, 'message')) as [{ url: string }];
  return { process: child, url, client: new CherryQ({ baseUrl: url }) };
}

async function stop(server: Server): Promise<void> {
  server.process.disconnect();
  await once(server.process, 'exit');
}

async function memoryOf(server: Server): Promise<number> {
  const answer = once(server.process, 'message');
  server.process.send('memory');
  const [{ rssBytes }] = (await answer) as [{ rssBytes: number }];
  return rssBytes;
}

async function firstJob(client: CherryQ): Promise<Job> {
  const model = await uploadModelFolder(client, 'demo/model');
  return client.jobs.create({ modelId: model.id, scheme: { method: 'rtn' } });
}

/** Each alone, then both at once; at fixed rates, so that a slow answer does not hold back the next request. */
async function load(server: Server, job: Job): Promise<void> {
  const memory: number[] = [];
  const stopWatching = new AbortController();
  const watching = (async () => {
    while (!stopWatching.signal.aborted) {
      memory.push(await memoryOf(server));
      await sleep((1000 * seconds) / 4, undefined, { signal: stopWatching.signal }).catch(() => undefined);
    }
  })();
  const common = { url: server.url, duration: seconds, connections: 16 };
  const read = (): Run =>
    autocannon({ ...common, overallRate: readsPerSecond, requests: [{ path: `/v1/jobs/${job.id}` }] });
  const create = (): Run =>
    autocannon({
      ...common,
      overallRate: createsPerSecond,
      requests: [
        {
          method: 'POST',
          path: '/v1/jobs',
          headers: { 'content-type': 'application/json', 'idempotency-key': '[<id>]' },
          body: JSON.stringify({ modelId: job.modelId, scheme: { method: 'rtn' }, metadata: { by: 'load' } }),
        },
      ],
      idReplacement: true,
    });
  describe('reads of a job', readsPerSecond, await read());
  describe('creations', createsPerSecond, await create());
  const [reads, creates] = await Promise.all([read(), create()]);
  describe('reads of a job, while jobs are created', readsPerSecond, reads);
  describe('creations, while a job is read', createsPerSecond, creates);
  stopWatching.abort();
  await watching;
  print(`memory of the server, MiB: ${memory.map((bytes) => (bytes / 2 ** 20).toFixed(0)).join(' ')}`);
}

type Run = ReturnType<typeof autocannon>;

function describe(what: string, wanted: number, { latency, requests, non2xx, errors }: Awaited<Run>): void {
  print(
    `${what}: ${(requests.total / seconds).toFixed(0)}/s (asked for ${wanted}/s), median ${latency.p50} ms, p99 ${latency.p99} ms, not 2xx ${non2xx}, errors ${errors}`,
  );
}

/** Many streams of one job that goes on, each cut at random moments and taken up where it was. */
async function followed({ url, client }: Server, { id }: Job): Promise<void> {
  const batches = 40;
  const ref = jobRef('local', id);
  const progress = (step: number) => ({
    time: new Date().toISOString(),
    type: 'progress',
    progress: {
      phase: 'train',
      step,
      totalSteps: batches,
      fraction: 0,
      loss: null,
      tokensPerSecond: 1,
      secondsLeft: 1,
    },
  });
  let cuts = 0;
  const started = performance.now();
  const follow = async (): Promise<number[]> => {
    const steps: number[] = [];
    let after: string | undefined;
    for (;;) {
      const cut = new AbortController();
      const timer = setTimeout(() => cut.abort(), 1000 + 4000 * Math.random());
      try {
        for await (const event of client.events.stream(id, { after, signal: cut.signal })) {
          after = event.id;
          if (event.type === 'progress') steps.push(event.progress.step);
          if (event.type === 'job.cancelled') return steps;
        }
      } catch (error) {
        if (!cut.signal.aborted) throw error;
        cuts++;
      } finally {
        clearTimeout(timer);
      }
    }
  };
  const all = Array.from({ length: streams }, follow);
  for (let step = 1; step <= batches; step++) {
    const key = `${ref.prefix}/events/${String(step).padStart(8, '0')}.ndjson`;
    write(key, `${JSON.stringify(progress(step))}\n`);
    await sleep(200);
  }
  await client.jobs.cancel(id);
  const expected = Array.from({ length: batches }, (_, index) => index + 1).join();
  const wrong = (await Promise.all(all)).filter((steps) => steps.join() !== expected).length;
  print(
    `${streams} streams of ${url}, cut ${cuts} times in ${((performance.now() - started) / 1000).toFixed(0)} s: ${wrong} did not get each of ${batches} events once and in order`,
  );
  if (wrong > 0) process.exitCode = 1;
}

async function listed(): Promise<void> {
  const server = await startServer();
  const { modelId } = (await server.client.jobs.list({ limit: 1 })).data[0] ?? { modelId: '' };
  await stop(server);
  const started = performance.now();
  // A month of them.
  const from = Date.now() - 30 * 86_400_000;
  for (let index = 0; index < jobs; index++) {
    const time = from + Math.floor((index * 29 * 86_400_000) / jobs);
    const id = ulid(time);
    const spec = jobSpecSchema.parse({
      id,
      createdAt: new Date(time).toISOString(),
      modelId,
      modelName: 'nothing',
      modelPrefix: `tenants/local/models/${modelId}/files/`,
      calibrationPrefix: null,
      evaluationPrefix: null,
      tasks: [],
      analysisPrefixes: [],
    });
    write(indexKey('local', 'jobs', id), '');
    write(`${jobRef('local', id).prefix}/spec.json`, JSON.stringify(spec));
    if (index % 100_000 === 99_999) print(`  ${index + 1} jobs written, ${rate(index + 1, started)}/s`);
  }
  const again = await startServer();
  const times: number[] = [];
  let after: string | undefined;
  for (let page = 0; page < 30; page++) {
    const began = performance.now();
    const { next } = await again.client.jobs.list({ limit: 20, after });
    times.push(performance.now() - began);
    // Here and there through the whole list.
    after = page % 3 === 2 ? ulid(from + Math.floor(Math.random() * 29 * 86_400_000)) : (next ?? undefined);
  }
  await stop(again);
  const [first = 0, ...others] = times;
  others.sort((a, b) => a - b);
  print(
    `a page of 20 of a list of ${jobs} jobs: the first of a new server ${first.toFixed(0)} ms, ${others.length} more: median ${others[15]?.toFixed(0)} ms, slowest ${others.at(-1)?.toFixed(0)} ms`,
  );
}

/** Whole or not at all, as the server writes: it may look at any moment. */
function write(key: string, text: string): void {
  const path = join(folder, key);
  mkdirSync(dirname(path), { recursive: true });
  const unfinished = join(folder, 'unfinished');
  writeFileSync(unfinished, text);
  renameSync(unfinished, path);
}

function rate(count: number, since: number): string {
  return ((1000 * count) / (performance.now() - since)).toFixed(0);
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}
