/**
 * A job survives whatever is killed under it, and its result is the same to the last byte as that of a run which nothing
 * disturbed.
 */
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { existsSync, mkdirSync, readFileSync, readdirSync, statSync, symlinkSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { CherryQ } from 'cherryq';
import { exitCodes, jobStateSchema, terminalStatuses, type JobEvent, type JobState } from 'cherryq/contract';
import { compress, downloadResult, type Compression, type CompressOptions } from 'cherryq/node';
import { createRandom } from '../../batch-jobs/src/numeric/random.ts';
import { fileFolder, writeModelFolder, writeText } from './folders.ts';
import { childrenOf, commandFile, hashesOf, isAlive, serve, start, startCherryq, until } from './product.ts';

const folder = fileFolder();
const steps = 160;
/** So many that the impact of the tiny model takes as long as its training. */
const impactSamples = 768;
const training = { tokens: steps * 4 * 32, batchSize: 4, sequenceLength: 32, learningRate: 5e-3, impactSamples };
/** The tiny model saves in milliseconds; at the usual pace there would be no checkpoint within its training. */
const env = { CHERRYQ_CHECKPOINT_SECONDS: '0.1' };

let inputs: Pick<CompressOptions, 'model' | 'calibration' | 'evaluation' | 'scheme' | 'training'>;
let reference: {
  result: Compression;
  hashes: Record<string, string>;
  /** How long each part of a worker's life takes here. */
  startMs: number;
  impactMs: number;
  trainMs: number;
  endMs: number;
};

beforeAll(async () => {
  inputs = {
    model: await writeModelFolder(folder, 'model'),
    calibration: writeText(folder, 'calibration.txt', 90_000, 1),
    evaluation: writeText(folder, 'evaluation.txt', 20_000, 2),
    scheme: { method: 'cherryq', bits: 3, groupSize: 16 },
    training,
  };
  reference = await undisturbedRun();
}, 120_000);

async function undisturbedRun(): Promise<typeof reference> {
  const dataDir = join(folder, 'undisturbed');
  const server = await serve(dataDir, env);
  try {
    const running = follow(server.url, join(folder, 'undisturbed-out'));
    const job = jobFolder(dataDir, await running.jobId);
    await until('a worker', async () => (await childrenOf(server.pid))[0]);
    const spawned = Date.now();
    await until('a checkpoint of the impact', () => savedAt(job, 'impact') > 0);
    const loaded = Date.now();
    await until('the impact', () => existsSync(join(dataDir, 'tenants/local/impact')));
    const measured = Date.now();
    await until('the export', () => existsSync(join(job, 'artifacts/model.safetensors')));
    const trained = Date.now();
    const result = await running.ended;
    expect(result.job.attempt).toBe(1);
    return {
      result,
      hashes: hashesOf(result.folder),
      startMs: loaded - spawned,
      impactMs: measured - loaded,
      trainMs: trained - measured,
      endMs: Math.max(20, Date.parse(result.job.finishedAt ?? '') - trained),
    };
  } finally {
    await server.stop();
  }
}

/** Compresses by the SDK. */
function follow(url: string, out: string) {
  const events: JobEvent[] = [];
  let id: string | null = null;
  const ended = compress(new CherryQ({ baseUrl: url }), {
    ...inputs,
    out,
    onJob: (job) => (id = job.id),
    onEvent: (event) => events.push(event),
  });
  // Seen by who awaits it; a test that fails before must not fail twice.
  ended.catch(() => undefined);
  return { jobId: until('the job', () => id), ended, events };
}

const jobFolder = (dataDir: string, id: string): string => join(dataDir, 'tenants/local/jobs', id);

/** Windows or steps of the newest checkpoint that was saved after a moment; -1 without one. */
function savedAt(job: string, phase: 'impact' | 'train', since = 0): number {
  const path = join(job, phase === 'impact' ? 'checkpoints/impact' : 'checkpoints');
  const generations = namesIn(path).filter((name) => /^\d+-\d+$/.test(name));
  const saved = generations.filter((name) => isWritten(join(path, name, 'checkpoint.json'), since));
  return Math.max(-1, ...saved.map((name) => Number(name.split('-')[1])));
}

/** Of a folder that comes and goes. */
function namesIn(path: string): string[] {
  try {
    return readdirSync(path);
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return [];
    throw error;
  }
}

/** Whether a file is there and younger than a moment: those of an attempt before do not count. */
function isWritten(path: string, since: number): boolean {
  return (statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0) > since;
}

/** How the job has ended; null while it goes on. */
function finalState(job: string): JobState | null {
  const path = join(job, 'state');
  const [last] = namesIn(path).sort().reverse();
  if (last === undefined) return null;
  const state = jobStateSchema.parse(JSON.parse(readFileSync(join(job, 'state', last), 'utf8')));
  return terminalStatuses.has(state.status) ? state : null;
}

function expectSameResult(outFolder: string): void {
  expect(hashesOf(outFolder)).toEqual(reference.hashes);
  expect(Object.keys(reference.hashes)).toEqual(
    expect.arrayContaining(['manifest.json', 'model.safetensors', 'hf/model.safetensors', 'report.html']),
  );
}

it('B3, B4: a job that was cancelled in its training, and keeps its checkpoint, is repeated from there to the same result', async () => {
  const dataDir = join(folder, 'retried');
  const server = await serve(dataDir, env);
  onTestFinished(() => server.kill());
  const client = new CherryQ({ baseUrl: server.url });
  const out = join(folder, 'retried-out');
  const first = follow(server.url, out);
  const id = await first.jobId;
  await until('a checkpoint of the training', () => savedAt(jobFolder(dataDir, id), 'train') > 0);
  expect((await client.jobs.pause(id)).status).toBe('paused');
  await until('the end of the worker', async () => (await childrenOf(server.pid)).length === 0);
  expect((await client.jobs.resume(id)).status).toBe('queued');
  await until('the worker', () =>
    client.jobs.retrieve(id).then(({ attempt, status }) => attempt === 2 && status === 'running'),
  );
  await client.jobs.cancel(id, { keepCheckpoint: true });
  await expect(first.ended).rejects.toThrow('cancelled');
  const { id: again } = await client.jobs.retry(id);
  const job = await client.jobs.wait(again);
  expect(job).toMatchObject({ status: 'succeeded', retryOf: id, attempt: 1 });
  const { data: events } = await client.events.list(again, { limit: 1000 });
  const begun = events.find((event) => event.type === 'job.started');
  expect(begun?.resumedFromStep).toBeGreaterThan(0);
  await downloadResult(client, job, out);
  expectSameResult(out);
  await client.jobs.delete(id);
  await client.jobs.delete(again);
  expect(await client.jobs.list()).toMatchObject({ data: [], next: null });
});

const phases = ['load', 'impact', 'train', 'export', 'evaluate'] as const;
type Phase = (typeof phases)[number];

/** The phase that a worker had reached when it died, as its files tell: `load` where it had left none yet. */
function phaseOf(job: string, spawned: number): Phase {
  const written = (path: string): boolean => isWritten(join(job, path), spawned);
  if (written('artifacts/hf/config.json')) return 'evaluate';
  if (written('artifacts/model.safetensors')) return 'export';
  if (savedAt(job, 'train', spawned) >= 0) return 'train';
  return savedAt(job, 'impact', spawned) >= 0 ? 'impact' : 'load';
}

/** A worker dies at a random moment within some time after a phase has come so far. */
interface Kill {
  readonly phase: Phase;
  /** Of the windows or steps of the phase. */
  readonly share?: number;
  readonly withinMs: number;
}

/** Runs a job whose worker is killed so often.  @returns the phases in which it died */
async function killedJob(name: string, kills: readonly Kill[], seed: number): Promise<Phase[]> {
  const dataDir = join(folder, name);
  const out = join(folder, `${name}-out`);
  const server = await serve(dataDir, env);
  onTestFinished(async () => void (await server.stop()));
  const running = follow(server.url, out);
  const job = jobFolder(dataDir, await running.jobId);
  const random = createRandom(seed);
  const killed = new Set<number>();
  const died: Phase[] = [];
  for (const { phase, share = 0, withinMs } of kills) {
    const what = `${name}, kill ${killed.size + 1}`;
    const pid = await until(`${what}: the worker`, async () => {
      expect(finalState(job), what).toBeNull();
      return (await childrenOf(server.pid)).find((child) => !killed.has(child));
    });
    const spawned = Date.now();
    await until(`${what}: its moment`, () => {
      expect(finalState(job), what).toBeNull();
      // On a machine that has become faster, a phase may be over before its moment comes.
      if (phases.indexOf(phaseOf(job, spawned)) > phases.indexOf(phase)) return true;
      if (phase === 'impact' || phase === 'train')
        return savedAt(job, phase, spawned) >= share * (phase === 'train' ? steps : impactSamples);
      return phaseOf(job, spawned) === phase;
    });
    await sleep(random() * withinMs);
    process.kill(pid, 'SIGKILL');
    killed.add(pid);
    await until(`${what}: its end`, () => !isAlive(pid));
    died.push(phaseOf(job, spawned));
  }

  const { job: ended, result } = await running.ended;
  expect(ended.status).toBe('succeeded');
  expect(result).toEqual({
    ...reference.result.result,
    seconds: expect.any(Number),
    phaseSeconds: expect.any(Object),
    peakHostBytes: expect.any(Number),
  });
  expectSameResult(out);
  // A worker that dies before it has claimed its attempt leaves the number to the next.
  expect(ended.attempt).toBeGreaterThanOrEqual(kills.length);
  const resumed = running.events.flatMap((event) => (event.type === 'job.started' ? [event.resumedFromStep] : []));
  expect(resumed.filter((step) => step !== null && step > 0 && step < steps).length).toBeGreaterThanOrEqual(2);
  expect(resumed.at(-1)).toBe(steps);
  return died;
}

describe('a job', () => {
  it('B3, B14: whose worker is killed at twenty moments in all parts of its life ends as if nothing had been', async () => {
    const { startMs, impactMs, trainMs, endMs } = reference;
    // A job is given up after five attempts without a new checkpoint, so two share the kills after their last.
    const killsOf = (impact: readonly number[], train: readonly number[]): Kill[] => [
      { phase: 'load', withinMs: startMs },
      ...impact.map((share) => ({ phase: 'impact' as const, share, withinMs: impactMs / 10 })),
      ...train.map((share) => ({ phase: 'train' as const, share, withinMs: trainMs / 10 })),
      { phase: 'export', withinMs: 5 },
      { phase: 'export', withinMs: 5 },
      // What was measured of the original and of rounding is kept: evaluation takes half the time then.
      { phase: 'evaluate', withinMs: endMs / 10 },
      { phase: 'evaluate', withinMs: endMs / 10 },
    ];
    const died = [
      ...(await killedJob('killed-worker', killsOf([0.1, 0.5], [0.1, 0.4, 0.7]), 20_260_101)),
      ...(await killedJob('killed-worker-2', killsOf([0.3, 0.6], [0, 0.25, 0.55]), 20_260_102)),
    ];
    expect(died).toHaveLength(20);
    const times = Object.fromEntries(phases.map((phase) => [phase, died.filter((own) => own === phase).length]));
    expect(times.impact, 'in the impact').toBeGreaterThanOrEqual(3);
    expect(times.train, 'in training').toBeGreaterThanOrEqual(5);
    expect(times.export, 'while packing').toBeGreaterThanOrEqual(2);
    expect(times.evaluate, 'in evaluation').toBeGreaterThanOrEqual(2);
  }, 240_000);

  it('whose server is killed goes on with the next server, and no worker of the old one stays', async () => {
    const dataDir = join(folder, 'killed-server');
    const out = join(folder, 'killed-server-out');
    const first = await serve(dataDir, env);
    const running = follow(first.url, out);
    const id = await running.jobId;
    const job = jobFolder(dataDir, id);
    await until('a checkpoint', () => savedAt(job, 'train') > steps / 4);
    const [orphan] = await childrenOf(first.pid);
    await first.kill();

    const second = await serve(dataDir, env);
    await until('the end of the orphan', () => !isAlive(orphan), 20_000);
    await until('a checkpoint of the second server', () => savedAt(job, 'train') > (steps * 2) / 3);
    const worker = await until('the worker', async () => (await childrenOf(second.pid))[0]);
    // As when the power fails: nobody has a chance to say a word.
    await second.kill();
    if (isAlive(worker)) process.kill(worker, 'SIGKILL');

    const third = await serve(dataDir, env);
    onTestFinished(async () => void (await third.stop()));
    const client = new CherryQ({ baseUrl: third.url });
    const ended = await client.jobs.wait(id);
    expect(ended.status).toBe('succeeded');
    await downloadResult(client, ended, out);
    expectSameResult(out);
  }, 120_000);
});

describe('Ctrl-C in `cherryq compress`', () => {
  it('ends with 75 and names a command that finishes the job', async () => {
    const out = join(folder, "Ctrl-C's result");
    const dataDir = join(folder, 'data of Ctrl-C');
    const { model, calibration = '', evaluation = '' } = inputs;
    const flags = ['--bits', '3', '--group-size', '16', '--calibration', calibration, '--evaluation', evaluation];
    const settings = Object.entries(training).flatMap(([name, value]) => [kebabFlag(name), String(value)]);
    const interrupted = startCherryq(['compress', model, ...flags, ...settings, '--out', out, '--data-dir', dataDir], {
      env,
      detached: true,
    });
    const jobs = join(dataDir, 'tenants/local/jobs');
    const [id] = await until('the job', () => existsSync(jobs) && readdirSync(jobs));
    await until('a checkpoint', () => savedAt(join(jobs, id), 'train') > steps / 4);
    // A terminal sends Ctrl-C to the whole group, the worker included.
    process.kill(-(interrupted.child.pid ?? 0), 'SIGINT');
    const { exitCode, stderr, stdout } = await interrupted.ended;
    expect({ exitCode, stdout }).toEqual({ exitCode: exitCodes.interrupted, stdout: '' });
    const goOn = /^Go on with: (cherryq .+)$/m.exec(stderr)?.[1];
    expect(goOn, stderr).toContain(id);
    expect(hashesOf(out)).toEqual({});

    const path = `${join(folder, 'bin')}${delimiter}${process.env.PATH}`;
    mkdirSync(join(folder, 'bin'));
    symlinkSync(commandFile, join(folder, 'bin/cherryq'));
    const resumed = await start('sh', ['-c', goOn ?? ''], { cwd: folder, env: { ...env, PATH: path } }).ended;
    expect(resumed.exitCode, resumed.stderr).toBe(exitCodes.ok);
    expect(resumed.stderr).toMatch(/started \(attempt 2, goes on from step \d+\)/);
    expectSameResult(out);
  }, 120_000);

  it('says that nothing was started when there is no job yet', async () => {
    const dataDir = join(folder, 'data of an early Ctrl-C');
    const { child, ended } = startCherryq([
      'compress',
      inputs.model,
      '--method',
      'rtn',
      '--out',
      join(folder, 'early'),
      '--data-dir',
      dataDir,
    ]);
    await until('the server', () => existsSync(join(dataDir, 'server.json')));
    child.kill('SIGINT');
    const { exitCode, stderr } = await ended;
    if (exitCode === exitCodes.interrupted) expect(stderr).toContain('Go on with: cherryq jobs wait');
    else
      expect({ exitCode, stderr }).toEqual({ exitCode: 130, stderr: expect.stringContaining('nothing was started') });
    expect(existsSync(join(dataDir, 'server.json'))).toBe(false);
  });
});

const kebabFlag = (name: string): string => `--${name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
