import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { describe, expect, it, onTestFinished } from 'vitest';
import { startServer } from '@cherryq/api/serve';
import { capabilitiesSchema, datasetSchema, jobSchema, modelSchema } from 'cherryq/contract';
import { storeWorker } from '../../support/api.ts';
import { tinyModelFiles } from '../../support/tiny-model.ts';
import { cherryq, makeFolder } from './support.ts';

/** A server with a worker, a model folder and a text. */
async function open() {
  const folder = await makeFolder();
  const server = await startServer({
    storeFolder: join(folder, 'store'),
    port: 0,
    trainerEntry: storeWorker,
    graceMs: 300,
    logger: () => undefined,
  });
  onTestFinished(server.close);
  const model = join(folder, 'tiny');
  await mkdir(model);
  for (const [name, content] of Object.entries(await tinyModelFiles())) await writeFile(join(model, name), content);
  const text = join(folder, 'train.txt');
  await writeFile(text, 'Once upon a time, there was a text to train on.\n'.repeat(50));
  const run = (...args: string[]) => cherryq([...args, '--server', server.url]);
  const json = async (...args: string[]): Promise<unknown> => {
    const { exitCode, stdout, stderr } = await run(...args, '--json');
    expect(exitCode, stderr).toBe(0);
    expect(stderr).toBe('');
    return JSON.parse(stdout);
  };
  return { folder, model, text, run, json };
}

describe('cherryq capabilities', () => {
  it('shows machines and limits', async () => {
    const { run, json } = await open();
    const { machines } = capabilitiesSchema.parse(await json('capabilities'));
    const { stdout } = await run('capabilities');
    expect(stdout).toMatch(/^version +\S+\nmodels +Llama.*\njobs +compress, analyze, evaluate, compare\n/);
    expect(stdout).toContain(`\n${machines[0]?.name}  `);
  });
});

describe('cherryq models', () => {
  it('are uploaded once, listed, shown and deleted', async () => {
    const { model, run, json } = await open();
    const { id, name } = modelSchema.parse(await json('models', 'upload', model, '--name', 'mine'));
    expect(name).toBe('mine');
    expect(await json('models', 'upload', model)).toMatchObject({ id });
    expect((await run('models', 'list')).stdout).toMatch(new RegExp(`^id +status .*\n${id}  ready +mine `));
    const shown = await run('models', 'show', id);
    expect(shown.stdout).toMatch(new RegExp(`^model +${id}\nname +mine\nstatus +ready\n`));
    expect(shown.stdout).toMatch(/\nconfig\.json +[0-9a-f]{64} +yes +\d/);
    expect(modelSchema.parse(await json('models', 'show', id)).id).toBe(id);
    expect(await json('models', 'delete', id)).toEqual({ id, deleted: true });
    expect((await run('models', 'list')).stdout).toBe('No models.\n');
    expect((await run('models', 'show', id)).exitCode).toBe(2);
  });

  it('are listed page by page', async () => {
    const { model, run, json } = await open();
    const { id } = modelSchema.parse(await json('models', 'upload', model));
    await writeFile(join(model, 'LICENSE'), 'free');
    const { id: newer } = modelSchema.parse(await json('models', 'upload', model));
    const { stdout } = await run('models', 'list', '--limit', '1');
    expect(stdout).toContain(newer);
    expect(stdout).toMatch(new RegExp(`There are more: --after ${newer}\n$`));
    expect(await json('models', 'list', '--after', newer)).toMatchObject({ data: [{ id }] });
  });

  it('are imported', async () => {
    const { model, run } = await open();
    const source = pathToFileURL(model).href;
    const { exitCode, stdout, stderr } = await run('models', 'import', source);
    expect(exitCode, stderr).toBe(0);
    expect(stdout).toContain(`\nstatus    ready\n`);
    expect(stdout).toContain(`\nsource    ${source}\n`);
    const missing = await run('models', 'import', `${source}-not`);
    expect(missing.exitCode).toBe(2);
    expect((await run('models', 'import', './tiny')).stderr).toContain('hf://');
  });
});

describe('cherryq datasets', () => {
  it('are uploaded once, listed, shown and deleted', async () => {
    const { text, run, json } = await open();
    const { id } = datasetSchema.parse(await json('datasets', 'upload', text));
    expect((await run('datasets', 'upload', text)).stdout).toContain(`dataset   ${id}\n`);
    expect((await run('datasets', 'list')).stdout).toContain(`\n${id}  ready   train.txt`);
    expect(await json('datasets', 'show', id)).toMatchObject({ id, object: 'dataset' });
    expect((await run('datasets', 'delete', id)).stdout).toBe(`dataset ${id} is deleted\n`);
    expect((await run('datasets', 'upload', `${text}.not`)).exitCode).toBe(2);
  });
});

describe('--machine', () => {
  it('goes into the job, of each command that creates one', async () => {
    const { folder, model, text, run, json } = await open();
    const [machine] = capabilitiesSchema.parse(await json('capabilities')).machines;
    const out = join(folder, 'out');
    const commands = [
      ['compress', model, '--method', 'rtn'],
      ['analyze', model, '--calibration', text],
      ['compare', model, '--method', 'rtn', '--bits', '4', '--evaluation', text],
      ['evaluate', model, '--evaluation', text],
      ['estimate', model, '--method', 'rtn'],
    ];
    for (const command of commands) {
      const args = command[0] === 'estimate' ? command : [...command, '--out', out];
      const { exitCode, stderr } = await run(...args, '--machine', 'abacus');
      expect(exitCode, args[0]).toBe(2);
      expect(stderr, args[0]).toContain(`machine: there is no abacus; there is ${machine?.name}`);
    }
    const { data } = (await json('jobs', 'list')) as { data: unknown[] };
    expect(data).toEqual([]);
    expect(await json('estimate', model, '--method', 'rtn', '--machine', machine?.name ?? '')).toMatchObject({
      machine: machine?.name,
    });
  });

  it('is what the job then says', async () => {
    const { folder, model, run, json } = await open();
    const [machine] = capabilitiesSchema.parse(await json('capabilities')).machines;
    const args = ['compress', model, '--method', 'rtn', '--machine', machine?.name ?? '', '--out', join(folder, 'out')];
    await run(...args);
    const { data } = (await json('jobs', 'list')) as { data: unknown[] };
    const job = jobSchema.parse(data[0]);
    expect(job).toMatchObject({ machine: machine?.name });
    expect(await json('jobs', 'list', '--after', job.id)).toMatchObject({ data: [] });
  });
});
