/** The programs of the documentation, run as a reader would run them. */
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { spawn } from 'node:child_process';
import { openAsBlob, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { CherryQ } from 'cherryq';
import { compressUpload, uploadBlobs } from '../../docs/examples/upload-blobs.ts';
import { openTestApi } from '../support/api.ts';
import { clientOf } from '../sdk/support.ts';
import { fileFolder } from './folders.ts';
import { cherryq, hashesOf, serve, start, type ServerProcess } from './product.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const examples = readdirSync(join(root, 'docs/examples'));
const folder = fileFolder();
let server: ServerProcess;

beforeAll(async () => {
  // Often enough for a training of some seconds to be cancelled in its midst.
  server = await serve(join(folder, 'data'), { CHERRYQ_CHECKPOINT_SECONDS: '0.5' });
});
afterAll(() => server.stop());

/** Runs a program to its end, against the server.  @returns the lines that it prints */
async function run(name: string, ...args: string[]): Promise<string[]> {
  const words = ['--import', 'tsx', `docs/examples/${name}`, ...args];
  const { ended } = start(process.execPath, words, { cwd: root, env: { CHERRYQ_URL: server.url } });
  const { exitCode, stdout, stderr } = await ended;
  expect(exitCode, stderr).toBe(0);
  return stdout.trimEnd().split('\n');
}

const out = (name: string): string => join(folder, name);

describe('the programs of docs/examples', { timeout: 180_000 }, () => {
  it('are short, and named in the documentation', () => {
    const index = readFileSync(join(root, 'docs/README.md'), 'utf8');
    for (const name of examples.filter((each) => !each.endsWith('.py'))) {
      expect(readFileSync(join(root, 'docs/examples', name), 'utf8').split('\n').length, name).toBeLessThan(32);
      expect(index, name).toContain(`(examples/${name})`);
    }
  });

  it('compress-folder.ts compresses, and load-weights.ts reads what it made', async () => {
    const said = await run('compress-folder.ts', 'demo/model', out('rounded'));
    expect(said.at(-1)).toBe(`${out('rounded')}: 36.6 % of the original, 4.31 bits per weight`);
    expect(Object.keys(hashesOf(out('rounded')))).toContain('manifest.json');
    const weights = await run('load-weights.ts', out('rounded'));
    expect(weights[0]).toBe('29 weights, 4 bits');
    expect(weights).toHaveLength(30);
    expect(weights.join('\n')).toMatch(
      /layers\.0\.mlp\.up_proj\.weight \[512, 256\] in 65536 bytes and 2048 scales, 0 cherries/,
    );
  });

  it('follow-events.ts tells every event, and makes its job once', async () => {
    const said = await run('follow-events.ts');
    expect(said).toContain('job.started');
    expect(said.slice(-2)).toEqual(['job.succeeded', 'succeeded']);
    expect(await run('follow-events.ts')).toEqual(said);
    const jobs = await new CherryQ({ baseUrl: server.url }).jobs.list({ metadata: 'from=follow-events' });
    expect(jobs.data).toHaveLength(1);
  });

  it('compare-and-choose.ts takes the smallest scheme within its limit', async () => {
    const said = await run('compare-and-choose.ts', 'demo/model', 'demo/test.txt', out('chosen'));
    expect(said).toEqual([expect.stringMatching(/^3 bits: \d+ bytes$/), out('chosen')]);
    expect(Object.keys(hashesOf(out('chosen')))).toContain('hf/model.safetensors');
  });

  it('estimate-first.ts says what it will take, then does it', async () => {
    const said = await run('estimate-first.ts', 'demo/model', out('estimated'));
    expect(said.join('\n')).toMatch(/\d+ s\n\d+ bytes; the time is \w+\nit took [\d.]+ s$/);
  });

  it('cancel-and-retry.ts goes on from the checkpoint of the job that it has cancelled', async () => {
    const said = await run('cancel-and-retry.ts', 'demo/model', 'demo/calibration.txt', out('retried'));
    const [, step] = /^cancelled at step (\d+)$/.exec(said[0] ?? '') ?? [];
    expect(said.at(-1)).toBe('succeeded');
    const [, from] = /^goes on from step (\d+)$/.exec(said[1] ?? '') ?? [];
    expect(Number(from)).toBeGreaterThanOrEqual(Number(step));
    expect(Number(from)).toBeGreaterThan(0);
  });

  it('upload-blobs.ts uploads what a page has, and gives the weights as a Blob', async () => {
    const files = await Promise.all(
      readdirSync(join(root, 'demo/model')).map(
        async (name) => new File([await openAsBlob(join(root, 'demo/model', name))], name),
      ),
    );
    // Otherwise the server would find the model that another program has uploaded.
    files.push(new File(['none'], 'LICENSE'));
    const client = new CherryQ({ baseUrl: server.url });
    const shares: number[] = [];
    const model = await uploadBlobs(client, files, (share) => shares.push(share));
    expect(model).toMatchObject({ name: 'from a page', status: 'ready' });
    const lines: string[] = [];
    const weights = await compressUpload(client, model.id, (line) => lines.push(line));
    expect(lines.at(-1)).toBe('job.succeeded');
    expect(weights.size).toBeGreaterThan(1e6);
    expect(shares.at(-1)).toBe(1);
  });
});

describe('the quick start', { timeout: 120_000 }, () => {
  /** The commands that follow the mark of a page. */
  function commandsOf(page: string): string[] {
    const [, after = ''] = readFileSync(join(root, page), 'utf8').split('<!-- quickstart -->');
    return (/^```sh\n([^]*?)\n```/m.exec(after)?.[1] ?? '').split('\n');
  }

  it('leads to a compressed model of a folder in at most five commands, clone included', async () => {
    const commands = commandsOf('README.md');
    expect(commandsOf('docs/quickstart.md')).toEqual(commands);
    expect(commands.length).toBeLessThan(5);
    expect(commands[0]).toBe('npm ci');
    for (const command of commands.slice(1)) {
      const words = Array.from(command.matchAll(/"([^"]*)"|(\S+)/g), ([, quoted, plain]) => quoted ?? plain ?? '');
      expect(words.slice(0, 2)).toEqual(['npx', 'cherryq']);
      const args = words.slice(2).map((word) => (word === 'path/to/model' ? join(root, 'demo/model') : word));
      const { exitCode, stdout, stderr } = await cherryq(args, { cwd: folder });
      expect(exitCode, stderr).toBe(0);
      if (args.includes('generate')) expect(stdout).toMatch(/^Once upon a time./);
    }
    expect(Object.keys(hashesOf(join(folder, 'compressed/hf')))).toContain('model.safetensors');
  });
});

/** Runs a program of `docs/examples`, with a line that it prints at a time. */
function runExample(name: string, args: string[], env: Record<string, string>) {
  const path = new URL(`../../docs/examples/${name}`, import.meta.url).pathname;
  const program = spawn(process.execPath, [path, ...args], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  onTestFinished(() => void program.kill());
  const lines = createInterface({ input: program.stdout })[Symbol.asyncIterator]();
  return async (): Promise<string> => String((await lines.next()).value);
}

it('webhook-receiver.mjs takes what is signed with its secret, and nothing else', async () => {
  const api = await openTestApi();
  onTestFinished(api.close);
  const client = clientOf(api);
  const { id, secret } = await client.webhooks.create({ url: 'http://127.0.0.1:1/' });
  const line = runExample('webhook-receiver.mjs', ['0'], { WEBHOOK_SECRET: secret });
  const port = /^listening on (\d+)$/.exec(await line())?.[1];
  const url = `http://127.0.0.1:${port}/`;
  await client.webhooks.update(id, { url });
  expect((await client.webhooks.test(id)).status).toBe('delivered');
  expect(await line()).toBe(`webhook.test ${id}`);
  const forged = await fetch(url, { method: 'POST', body: '{"type":"job.succeeded"}' });
  expect(forged.status).toBe(400);
  expect(await forged.text()).toContain('webhook-id is missing');
});
