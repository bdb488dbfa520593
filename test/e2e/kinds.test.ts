/** Evaluations and comparisons as people run them: by the command, by the SDK, and with workers that are killed. */
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { CherryQ } from 'cherryq';
import type { ComparisonResult, EvaluationResult, Job } from 'cherryq/contract';
import { exitCodes } from 'cherryq/contract';
import { compare, compress, evaluate, type CompareOptions } from 'cherryq/node';
import { golden } from '../support/golden.ts';
import { fileFolder, writeModelFolder, writeText } from './folders.ts';
import { cherryq, childrenOf, hashesOf, isAlive, serve, until } from './product.ts';

const folder = fileFolder();
const env = { CHERRYQ_CHECKPOINT_SECONDS: '0.05' };
const training = { tokens: 8192, sequenceLength: 32, impactSamples: 64 };
let model: string;
let calibration: string;
let evaluation: string;

beforeAll(async () => {
  model = await writeModelFolder(folder, 'model');
  calibration = writeText(folder, 'calibration.txt', 20_000, 1);
  evaluation = writeText(folder, 'evaluation.txt', 6000, 2);
});

describe('`cherryq compare`', () => {
  it('prints a line for each scheme, leaves the report, and exits with 0 though a scheme does not fit', async () => {
    const out = join(folder, 'compared');
    const texts = ['--calibration', calibration, '--evaluation', evaluation];
    const axes = ['--method', 'rtn,cherryq', '--bits', '2', '--group-size', '16,row,512'];
    const settings = ['--tokens', '512', '--sequence-length', '32', '--impact-samples', '4'];
    const args = ['compare', model, ...texts, ...axes, ...settings, '--divergence', '--data-dir', join(folder, 'data')];
    const { exitCode, stdout, stderr } = await cherryq([...args, '--out', out]);
    expect(exitCode, stderr).toBe(exitCodes.ok);
    expect(stdout).toMatch(
      /^scheme +bits per weight +size +perplexity +over the original +divergence +took\noriginal /,
    );
    for (const scheme of ['rtn w2g16', 'rtn w2row', 'cherryq w2g16', 'cherryq w2row'])
      expect(stdout).toMatch(new RegExp(`^${scheme}( \\*)? +\\d`, 'm'));
    expect(stdout).toContain('rtn w2g512 failed: groupSize is 512');
    expect(stderr).toContain('scheme 6 of 6');
    expect(Object.keys(hashesOf(out)).sort()).toEqual(['comparison.json', 'manifest.json', 'report.html']);

    const again = await cherryq([...args, '--out', join(folder, 'compared-json'), '--json']);
    const { result, job } = JSON.parse(again.stdout) as { result: ComparisonResult; job: Job };
    expect(result.rows.map(({ error }) => error?.code ?? null)).toEqual([
      null,
      null,
      'group_size',
      null,
      null,
      'group_size',
    ]);
    expect(job.comparison?.axes?.groupSize).toEqual([16, 'row', 512]);
    expect(hashesOf(join(folder, 'compared-json'))).toEqual(hashesOf(out));
  });
});

describe('`cherryq evaluate`', () => {
  const json = async <Value>(...args: string[]): Promise<Value> => {
    const { exitCode, stdout, stderr } = await cherryq([...args, '--data-dir', join(folder, 'data'), '--json']);
    expect(exitCode, stderr).toBe(exitCodes.ok);
    return JSON.parse(stdout) as Value;
  };

  it('measures what a job has made, and the same files from a folder, as that job did', async () => {
    const out = join(folder, 'rounded');
    const flags = ['--method', 'rtn', '--bits', '3', '--group-size', '16', '--evaluation', evaluation, '--divergence'];
    const { job } = await json<{ job: Job }>('compress', model, ...flags, '--out', out);
    const about = ['--baseline', model, '--evaluation', evaluation];
    for (const which of [['--job', job.id], [out]]) {
      const args = ['evaluate', ...which, ...about, '--out', join(folder, `of-${which.length}`)];
      const { result } = await json<{ result: EvaluationResult }>(...args);
      expect({ ...result.measurement, baseline: result.baseline?.perplexity }).toEqual({
        ...job.result?.compressed,
        baseline: job.result?.baseline.perplexity,
      });
    }
    const local = await cherryq(['eval', out, '--text', evaluation, '--json']);
    expect(JSON.parse(local.stdout)).toMatchObject({ perplexity: job.result?.compressed.perplexity });
  });

  it('gives for the shipped model the perplexity of a NumPy forward pass in float64, to 1e-4', async () => {
    const reference = golden<{ perplexity: number; maxTokens: number }>('perplexity');
    const text = ['--evaluation', 'demo/test.txt', '--evaluation-tokens', String(reference.maxTokens)];
    const { result } = await json<{ result: EvaluationResult }>(
      ...['evaluate', 'demo/model', ...text, '--out', join(folder, 'golden')],
    );
    expect(Math.abs(Number(result.measurement.perplexity) / reference.perplexity - 1)).toBeLessThan(1e-4);
  });

  it('wants a model or a job', async () => {
    const { exitCode, stderr } = await cherryq(['evaluate', '--evaluation', evaluation, '--out', join(folder, 'none')]);
    expect(exitCode).toBe(exitCodes.input);
    expect(stderr).toContain('give a model, or --job in its place');
  });
});

describe('a comparison', () => {
  it('whose worker is killed in its rounding, its impact, its trainings and its measuring ends as if nothing had been', async () => {
    const options: Omit<CompareOptions, 'out'> = {
      model,
      calibration,
      evaluation,
      training,
      axes: { method: ['rtn', 'cherryq'], bits: [2, 3], groupSize: [16] },
    };
    const run = async (name: string, onJob: (id: string, dataDir: string, pid: number) => Promise<void>) => {
      const dataDir = join(folder, name);
      const server = await serve(dataDir, env);
      onTestFinished(async () => void (await server.stop()));
      let id: string | null = null;
      const client = new CherryQ({ baseUrl: server.url });
      const ended = compare(client, { ...options, out: join(folder, `${name}-out`), onJob: (job) => (id = job.id) });
      ended.catch(() => undefined);
      await onJob(await until('the job', () => id), dataDir, server.pid);
      return ended;
    };
    const whole = await run('undisturbed', () => Promise.resolve());

    const killed = new Set<number>();
    const disturbed = await run('disturbed', async (id, dataDir, server) => {
      const job = join(dataDir, 'tenants/local/jobs', id);
      const has = (path: string) => existsSync(join(job, path));
      const generations = (path: string) =>
        (has(path) ? readdirSync(join(job, path)) : []).some((name) => /^\d+-\d+$/.test(name));
      const moments: (() => boolean)[] = [
        () => has('checkpoints/variants/01.json'),
        () => generations('checkpoints/variants/03/impact') || generations('checkpoints/variants/03'),
        () => has('scratch/variants/03') || has('checkpoints/variants/03.json'),
        () => generations('checkpoints/variants/04') || has('checkpoints/variants/04.json'),
      ];
      for (const [index, moment] of moments.entries()) {
        const worker = await until(`worker ${index + 1}`, async () =>
          (await childrenOf(server)).find((child) => !killed.has(child)),
        );
        await until(`moment ${index + 1}`, moment);
        killed.add(worker);
        process.kill(worker, 'SIGKILL');
        await until('its end', () => !isAlive(worker));
      }
    });
    expect(killed.size).toBe(4);
    expect(disturbed.job.attempt).toBeGreaterThanOrEqual(4);
    expect(hashesOf(disturbed.folder)).toEqual(hashesOf(whole.folder));
    const figures = ({ rows }: ComparisonResult) => rows.map((row) => ({ ...row, seconds: 0 }));
    expect(figures(disturbed.result)).toEqual(figures(whole.result));
    expect(whole.result.rows.map(({ error }) => error)).toEqual([null, null, null, null]);
    expect(readFileSync(join(whole.folder, 'report.html'), 'utf8')).toContain('Comparison of 4 schemes');
  }, 120_000);
});

it('the SDK has a function for each kind, whose result has the kind’s own type', async () => {
  const server = await serve(join(folder, 'sdk'), env);
  onTestFinished(async () => void (await server.stop()));
  const client = new CherryQ({ baseUrl: server.url });
  const { job } = await compress(client, {
    model,
    scheme: { method: 'rtn', groupSize: 16 },
    out: join(folder, 'sdk-c'),
  });
  const of = { model: { jobId: job.id, format: 'hf' as const }, evaluation, evaluationTokens: 512 };
  const { result, manifest } = await evaluate(client, { ...of, baseline: job.modelId, out: join(folder, 'sdk-e') });
  expect(result.measurement.divergence).toBeGreaterThan(0);
  expect(manifest.kind).toBe('evaluate');
  const only = {
    model: job.modelId,
    evaluation,
    evaluationTokens: 512,
    schemes: [{ method: 'rtn' as const, groupSize: 16 }],
  };
  const compared = await compare(client, { ...only, out: join(folder, 'sdk-v') });
  expect(compared.result.rows[0]?.perplexityRatio).toBeCloseTo(result.perplexityRatio ?? 0, 2);
});
