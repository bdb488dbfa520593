import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { describe, expect, it } from 'vitest';
import type { JobState } from 'cherryq/contract';
import { exitCodes, jobStateSchema } from 'cherryq/contract';
import { FolderStore } from '../../batch-jobs/src/storage/index.ts';
import { temporaryFolder } from '../support/temporary-store.ts';
import type { TinyJob } from '../support/tiny-model.ts';
import { tinyModelPrefix, tinyWeights, writeTinyJob, writeTinyModel } from '../support/tiny-model.ts';
import { testEngine } from '../support/engine.ts';

const repository = fileURLToPath(new URL('../../', import.meta.url));

/** The trainer in a process of its own.  @param stopWhen asked now and then; true sends SIGTERM */
async function runTrainer(variables: Record<string, string>, stopWhen?: () => Promise<boolean>) {
  const trainer = spawn(process.execPath, ['--import', 'tsx', join(repository, 'batch-jobs/src/main.ts')], {
    cwd: repository,
    env: { ...process.env, CHERRYQ_ENGINE: testEngine, CHERRYQ_STORE: '', CHERRYQ_JOB: '', ...variables },
    stdio: ['ignore', 'inherit', 'pipe'],
  });
  let stderr = '';
  trainer.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  const exit = once(trainer, 'exit');
  if (stopWhen) {
    while (trainer.exitCode === null && !(await stopWhen())) await new Promise((resolve) => setTimeout(resolve, 20));
    trainer.kill('SIGTERM');
  }
  const [code] = await exit;
  return { code: code as number | null, stderr };
}

async function prepare(job: TinyJob = {}, weights = tinyWeights()) {
  const root = temporaryFolder();
  const store = new FolderStore(root);
  await writeTinyModel(store, tinyModelPrefix, { weights });
  const prefix = await writeTinyJob(store, job);
  // The queue gives the prefix without its slash.
  const variables = { CHERRYQ_STORE: pathToFileURL(root).href, CHERRYQ_JOB: prefix.slice(0, -1) };
  const lastState = async (): Promise<JobState> => {
    const keys = (await store.list(`${prefix}state/`)).map(({ key }) => key);
    return jobStateSchema.parse(
      JSON.parse(new TextDecoder().decode((await store.get(keys.at(-1) as string)) ?? undefined)),
    );
  };
  return { store, prefix, variables, lastState };
}

describe('the trainer as a process', () => {
  it('exits with 0 from a job that succeeds', async () => {
    const { store, prefix, variables, lastState } = await prepare({ scheme: { method: 'rtn' } });
    expect(await runTrainer(variables)).toEqual({ code: exitCodes.ok, stderr: '' });
    expect(await lastState()).toMatchObject({ status: 'succeeded', attempt: 1 });
    expect(await store.head(`${prefix}artifacts/manifest.json`)).not.toBeNull();
  });

  it('exits with 2 from bad input, which the failed state names, and publishes nothing', async () => {
    const weights = tinyWeights();
    const name = 'model.layers.1.mlp.down_proj.weight';
    weights.get(name)?.fill(NaN, 7, 9);
    const { store, prefix, variables, lastState } = await prepare({}, weights);
    const { code, stderr } = await runTrainer(variables);
    expect(code).toBe(exitCodes.input);
    const { status, error } = await lastState();
    expect(status).toBe('failed');
    expect(error).toMatchObject({ fault: 'user', code: 'nan_weights', param: name });
    expect(stderr).toBe(`${error?.message}\n`);
    expect(await store.list(`${prefix}artifacts/`)).toEqual([]);
  });

  it('stops on SIGTERM with 75 and a checkpoint of the step it had reached', async () => {
    const { store, prefix, variables, lastState } = await prepare({ training: { tokens: 2 ** 20 } });
    const training = async (): Promise<boolean> => {
      for (const { key } of await store.list(`${prefix}events/`)) {
        const lines = new TextDecoder().decode((await store.get(key)) ?? undefined);
        if (/"phase":"train","step":[1-9]/.test(lines)) return true;
      }
      return false;
    };
    expect((await runTrainer(variables, training)).code).toBe(exitCodes.interrupted);
    expect(await lastState()).toMatchObject({ status: 'running', attempt: 1 });
    const current = new TextDecoder().decode((await store.get(`${prefix}checkpoints/CURRENT`)) ?? undefined);
    expect(Number(current.split('-')[1])).toBeGreaterThan(0);
    const events = (await store.list(`${prefix}events/`)).at(-1)?.key as string;
    expect(new TextDecoder().decode((await store.get(events)) ?? undefined)).toContain('"job.interrupted"');
  });

  it('exits with 2 and a hint when it is not told its job', async () => {
    const withoutJob = await runTrainer({ CHERRYQ_STORE: pathToFileURL(temporaryFolder()).href });
    expect(withoutJob).toEqual({ code: exitCodes.input, stderr: expect.stringContaining('CHERRYQ_JOB is not set') });
  });
});
