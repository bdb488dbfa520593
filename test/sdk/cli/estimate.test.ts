import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { startServer } from '@cherryq/api/serve';
import { estimateSchema } from 'cherryq/contract';
import { CherryQ } from 'cherryq';
import { runCli } from '../../../sdk/src/cli/run.ts';
import { storeWorker } from '../../support/api.ts';
import { memoryIo } from './memory-io.ts';

const tiny = {
  architectures: ['LlamaForCausalLM'],
  hidden_size: 64,
  intermediate_size: 128,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  vocab_size: 256,
  max_position_embeddings: 512,
  rms_norm_eps: 1e-5,
};

async function open(config: object) {
  const folder = await mkdtemp(join(tmpdir(), 'cherryq-estimate-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  await writeFile(join(folder, 'config.json'), JSON.stringify(config));
  await writeFile(join(folder, 'model.safetensors'), 'not read, and not sent');
  const server = await startServer({
    storeFolder: join(folder, 'store'),
    port: 0,
    trainerEntry: storeWorker,
    logger: () => undefined,
  });
  onTestFinished(server.close);
  const estimate = async (...args: string[]) => {
    const { io, stdout, stderr } = memoryIo();
    const exitCode = await runCli(['estimate', folder, '--server', server.url, ...args], io);
    return { exitCode, stdout: stdout(), stderr: stderr() };
  };
  return { estimate, client: new CherryQ({ baseUrl: server.url }) };
}

it('says what a compression needs on each machine, and leaves no model behind', async () => {
  const { estimate, client } = await open(tiny);
  const { exitCode, stdout } = await estimate('--method', 'rtn', '--bits', '4');
  expect(stdout).toMatch(/^machine +fits +memory +GPU memory +time +price\nthis machine +yes /);
  expect(exitCode).toBe(0);
  expect((await client.models.list()).data).toEqual([]);
});

it('exits with 2 and says why where the job would be refused', async () => {
  const huge = { ...tiny, hidden_size: 65_536, intermediate_size: 262_144, num_hidden_layers: 400 };
  const { estimate } = await open(huge);
  const { exitCode, stdout } = await estimate('--method', 'rtn', '--json');
  const found = estimateSchema.parse(JSON.parse(stdout));
  expect(found).toMatchObject({ allowed: false, reason: expect.stringContaining('this machine has') as string });
  expect(exitCode).toBe(2);
});

it('asks for the calibration text that the method needs, as compress does', async () => {
  const { estimate } = await open(tiny);
  const { exitCode, stderr } = await estimate('--bits', '3');
  expect(exitCode).toBe(2);
  expect(stderr).toContain('give calibration');
});
