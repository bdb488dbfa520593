import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it, onTestFinished } from 'vitest';
import { startServer } from '@cherryq/api/serve';
import { CherryQ, type Job } from 'cherryq';
import type { Command } from '../../../sdk/src/cli/command.ts';
import { rootCommand, runCli } from '../../../sdk/src/cli/run.ts';
import { storeWorker, until } from '../../support/api.ts';
import { listen } from '../../support/listen.ts';
import { tinySources } from '../../support/tiny-model.ts';
import { jobId, problem } from '../support.ts';
import { memoryIo } from './memory-io.ts';

const repository = fileURLToPath(new URL('../../../', import.meta.url));

async function cherryq(args: string[], options: Parameters<typeof memoryIo>[0] = {}) {
  const { io, stdout, stderr } = memoryIo(options);
  const exitCode = await runCli(args, io);
  return { exitCode, stdout: stdout(), stderr: stderr() };
}

async function makeFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'cherryq-cli-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** A real server with workers that follow a plan. */
async function openServer() {
  const dataDir = await makeFolder();
  const server = await startServer({
    storeFolder: dataDir,
    port: 0,
    trainerEntry: storeWorker,
    graceMs: 300,
    logger: () => undefined,
  });
  onTestFinished(server.close);
  const client = new CherryQ({ baseUrl: server.url });
  const createJob = async (...plan: string[]): Promise<Job> => {
    const { id } = await client.models.upload({ name: 'tiny', files: await tinySources() });
    return client.jobs.create({ modelId: id, scheme: { method: 'rtn' }, metadata: { plan: JSON.stringify(plan) } });
  };
  return { dataDir, server, client, createJob };
}

/** A server that answers everything with one problem. */
const refusing = (fields: Parameters<typeof problem>[0]): Promise<string> =>
  listen((_, response) => {
    response.writeHead(fields.status ?? 500, { 'content-type': 'application/problem+json' });
    response.end(JSON.stringify(problem(fields)));
  });

function leaves(command: Command): Command[] {
  const children = Object.values(command.children);
  return children.length === 0 ? [command] : children.flatMap(leaves);
}
const commands = leaves(rootCommand(memoryIo().io));

describe('--help', () => {
  it.each(commands.map((command) => [command.name, command] as const))(
    'of %s has an example and --json',
    async (name) => {
      const { exitCode, stdout, stderr } = await cherryq([...name.split(' ').slice(1), '--help']);
      expect(exitCode).toBe(0);
      expect(stderr).toBe('');
      expect(stdout).toContain(`USAGE ${name}`);
      expect(stdout).toMatch(new RegExp(`EXAMPLES\n\n  ${name} `));
      expect(stdout).toContain('--json');
      expect(stdout).not.toContain('\u001B');
    },
  );

  it('of the whole lists the commands', async () => {
    for (const args of [[], ['--help']]) {
      const { exitCode, stdout } = await cherryq(args);
      expect(exitCode).toBe(0);
      for (const name of ['compress', 'analyze', 'jobs', 'serve', 'inspect', 'eval', 'generate'])
        expect(stdout).toContain(name);
    }
  });

  it('of compress shows what the contract allows', async () => {
    const { stdout } = await cherryq(['compress', '--help']);
    expect(stdout).toContain('--group-size=<N|row>');
    expect(stdout).toContain('2, 3, 4 or 8; default 3');
  });

  it('of the examples names only flags that exist', () => {
    for (const { examples, args } of commands)
      for (const example of examples)
        for (const [, flag] of example.matchAll(/ --([\w-]+)/g)) expect(Object.keys(args), example).toContain(flag);
  });
});

describe('exit code 2', () => {
  it.each([
    [['compress', 'm', '--bitz', '3', '--out', 'o'], 'unknown flag --bitz', 'cherryq compress'],
    [['compress', 'm', '--out', 'o', '-x'], 'unknown flag -x', 'cherryq compress'],
    [['compress', 'm'], '--out is required', 'cherryq compress'],
    [['compress', '--out', 'o'], 'missing <model>', 'cherryq compress'],
    [['compress', 'm', '--out'], '--out needs a value', 'cherryq compress'],
    [['compress', 'm', '--out', '--bits'], '--out needs a value', 'cherryq compress'],
    [['compress', 'm', 'n', '--out', 'o'], 'unexpected argument "n"', 'cherryq compress'],
    [['compress', 'm', '--out', 'o', '--bits', '5'], '--bits must be 2, 3, 4 or 8; got "5"', 'cherryq compress'],
    [
      ['jobs', 'list', '--status', 'done'],
      '--status must be queued, running, paused, succeeded, failed or cancelled',
      'cherryq jobs list',
    ],
    [['serve', '--port', '99999'], '--port must be a whole number from 0 to 65535', 'cherryq serve'],
    [['generate', 'm'], 'missing <prompt>', 'cherryq generate'],
    [
      ['jobs'],
      'cherryq jobs needs a command; it has list, show, wait, download, cancel, pause, resume, retry, delete, events',
      'cherryq jobs',
    ],
    [['jobs', 'stop'], '"stop" is not a command of cherryq jobs', 'cherryq jobs'],
    [['squeeze'], '"squeeze" is not a command of cherryq', 'cherryq'],
  ])('for %j', async (args, message, name) => {
    const { exitCode, stdout, stderr } = await cherryq(args);
    expect(exitCode).toBe(2);
    expect(stdout).toBe('');
    expect(stderr).toContain(message);
    expect(stderr).toContain(`Usage: ${name} --help\n`);
  });

  it('for a model folder that is not there, with the error as JSON for --json', async () => {
    const { server } = await openServer();
    const args = ['compress', './nowhere', '--method', 'rtn', '--out', './out', '--server', server.url, '--json'];
    const { exitCode, stdout, stderr } = await cherryq(args);
    expect(exitCode).toBe(2);
    expect(stderr).toMatch(/^cherryq: \.\/nowhere is not a folder that can be read; .*\n$/);
    expect(JSON.parse(stdout)).toMatchObject({ error: { code: 'missing_folder', param: './nowhere', exitCode: 2 } });
  });

  it('for an unknown job', async () => {
    const { server } = await openServer();
    const { exitCode, stderr } = await cherryq(['jobs', 'show', jobId, '--server', server.url]);
    expect(exitCode).toBe(2);
    expect(stderr).toContain(`there is no job ${jobId}`);
  });

  it('for a job that failed by its own fault, as the queue tells', async () => {
    const { server, createJob } = await openServer();
    const { id } = await createJob('exit:2');
    const { exitCode, stderr } = await cherryq(['jobs', 'wait', id, '--server', server.url]);
    expect(exitCode).toBe(2);
    expect(stderr).toContain('loss is not a number in block 3');
  });

  it('for a full store', async () => {
    const url = await refusing({ status: 507, code: 'storage_full', detail: 'the disk of the store is full' });
    expect((await cherryq(['jobs', 'list', '--server', url])).exitCode).toBe(2);
  });

  it('for a data folder without jobs, which is not made', async () => {
    const dataDir = join(await makeFolder(), 'none');
    const { exitCode, stderr } = await cherryq(['jobs', 'list', '--data-dir', dataDir]);
    expect(exitCode).toBe(2);
    expect(stderr).toContain(`${dataDir} does not exist and no server runs on it`);
  });

  it('for a port that is taken', async () => {
    const { server } = await openServer();
    const { port } = new URL(server.url);
    const { exitCode, stderr } = await cherryq(['serve', '--port', port, '--data-dir', await makeFolder()]);
    expect(exitCode).toBe(2);
    expect(stderr).toContain(`port ${port} on 127.0.0.1 is taken`);
  });

  it('for a folder to inspect that is not there', async () => {
    const { exitCode, stderr } = await cherryq(['inspect', join(await makeFolder(), 'none')]);
    expect(exitCode, stderr).toBe(2);
  });
});

describe('other exit codes', () => {
  it('are 3 for a server that is not there', async () => {
    const { exitCode, stderr } = await cherryq(['jobs', 'list', '--server', 'http://127.0.0.1:9']);
    expect(exitCode).toBe(3);
    expect(stderr).toContain('Is the server running at http://127.0.0.1:9?');
  });

  it('are 3 for a server that cannot now', async () => {
    const url = await refusing({ status: 503, code: 'unavailable', retryable: true });
    expect((await cherryq(['jobs', 'list'], { env: { CHERRYQ_URL: url } })).exitCode).toBe(3);
  });

  it('are 1 for a bug of the server, with the request to look for', async () => {
    const url = await refusing({ status: 500, code: 'internal', requestId: 'r-42' });
    const { exitCode, stderr } = await cherryq(['jobs', 'list', '--server', url]);
    expect(exitCode).toBe(1);
    expect(stderr).toContain('(request r-42)');
  });

  it('are 1 for a job that failed by our fault', async () => {
    const { server, createJob } = await openServer();
    const { id } = await createJob('exit:1');
    expect((await cherryq(['jobs', 'wait', id, '--server', server.url])).exitCode).toBe(1);
  });

  it('are 130 for Ctrl-C before anything was started', async () => {
    const { io, interrupt, stderr } = memoryIo();
    interrupt.abort();
    const { server } = await openServer();
    const args = ['compress', './nowhere', '--method', 'rtn', '--out', './out', '--server', server.url];
    expect(await runCli(args, io)).toBe(130);
    expect(stderr()).toContain('nothing was started');
  });

  it('are 75 for Ctrl-C while a job runs, and say how to go on', async () => {
    const { dataDir, createJob, client } = await openServer();
    const { id } = await createJob('wait');
    const { io, interrupt, stderr } = memoryIo();
    const running = runCli(['jobs', 'wait', id, '--data-dir', dataDir, '--out', './my out'], io);
    await until(
      () => Promise.resolve(stderr()),
      (text) => text.includes('started on none'),
    );
    interrupt.abort();
    expect(await running).toBe(75);
    expect(stderr()).toContain(`Go on with: cherryq jobs wait ${id} --data-dir ${dataDir} --out './my out'\n`);
    expect((await client.jobs.retrieve(id)).status).toBe('running');
  });
});

describe('cherryq jobs', () => {
  it('finds the server that runs on a data folder', async () => {
    const { dataDir, createJob } = await openServer();
    const { id } = await createJob('succeed');
    const { exitCode, stdout } = await cherryq(['jobs', 'list', '--data-dir', dataDir]);
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(new RegExp(`^id +status.*\n${id} .*tiny +compress +rtn w3g128`));
  });

  it('wait downloads the result', async () => {
    const { dataDir, createJob } = await openServer();
    const { id } = await createJob('succeed');
    const out = await makeFolder();
    const { exitCode, stdout } = await cherryq(['jobs', 'wait', id, '--data-dir', dataDir, '--out', out]);
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(/original +16 B +1.00x/);
    expect(stdout).toContain(`Report: ${join(out, 'report.html')}`);
    expect((await readdir(out)).sort()).toEqual(['manifest.json', 'model', 'report.html']);
  });

  it.each(['list', 'show', 'wait', 'cancel'])('%s prints JSON alone for --json', async (name) => {
    const { dataDir, createJob } = await openServer();
    const { id } = await createJob(name === 'wait' ? 'succeed' : 'wait');
    const args = name === 'list' ? [] : [id];
    const { exitCode, stdout, stderr } = await cherryq(['jobs', name, ...args, '--data-dir', dataDir, '--json']);
    expect(exitCode).toBe(0);
    expect(stderr).toBe('');
    expect(JSON.parse(stdout)).toMatchObject(name === 'list' ? { data: [{ id }] } : { id });
  });

  it('events prints one JSON object a line, up to the end with --follow', async () => {
    const { dataDir, createJob } = await openServer();
    const { id } = await createJob('succeed');
    const typesOf = (stdout: string): string[] =>
      stdout
        .trim()
        .split('\n')
        .map((line) => (JSON.parse(line) as { type: string }).type);
    const followed = await cherryq(['jobs', 'events', id, '--follow', '--data-dir', dataDir]);
    expect(typesOf(followed.stdout)).toEqual(['job.queued', 'job.started', 'progress', 'job.succeeded']);
    const listed = await cherryq(['jobs', 'events', id, '--data-dir', dataDir]);
    expect(listed.stdout).toBe(followed.stdout);
  });

  it('looks into a folder without a server, and starts no work', async () => {
    const { dataDir, server, createJob } = await openServer();
    const { id } = await createJob('wait');
    await server.close();
    const { exitCode, stdout } = await cherryq(['jobs', 'show', id, '--data-dir', dataDir, '--json']);
    expect(exitCode).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ id, attempt: expect.any(Number) as number });
    expect((await readFile(join(dataDir, 'worker.log'), 'utf8').catch(() => '')).split('\n').length).toBeLessThan(3);
    expect(await readdir(dataDir)).not.toContain('server.json');
  });

  it('passes over the server.json of a server that is gone', async () => {
    const dataDir = await makeFolder();
    const gone = { pid: 2 ** 22 + 1, processStart: '1', url: 'http://127.0.0.1:9' };
    await writeFile(join(dataDir, 'server.json'), JSON.stringify(gone));
    const { exitCode, stdout } = await cherryq(['jobs', 'list', '--data-dir', dataDir]);
    expect(exitCode).toBe(0);
    expect(stdout).toBe('No jobs.\n');
  });
});

describe('colours', () => {
  it('are on a terminal only, and not with NO_COLOR', async () => {
    expect((await cherryq(['jobs'], { isTTY: true })).stderr).toContain('\u001B[31m');
    expect((await cherryq(['jobs'], { isTTY: true, env: { NO_COLOR: '1' } })).stderr).not.toContain('\u001B');
    expect((await cherryq(['jobs'])).stderr).not.toContain('\u001B');
  });
});

describe('the process', () => {
  it('serves until Ctrl-C and then ends in good order', async () => {
    const dataDir = await makeFolder();
    const args = ['--import', 'tsx', 'sdk/src/cli/main.ts', 'serve', '--port', '0', '--data-dir', dataDir, '--json'];
    const child = spawn(process.execPath, args, { cwd: repository, stdio: ['ignore', 'pipe', 'pipe'] });
    onTestFinished(() => void child.kill('SIGKILL'));
    let stdout = '';
    child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
    await until(
      () => Promise.resolve(stdout),
      (text) => text.endsWith('\n'),
    );
    const { url } = JSON.parse(stdout) as { url: string };
    expect((await new CherryQ({ baseUrl: url }).health.live()).status).toBe('ok');
    child.kill('SIGINT');
    const [exitCode] = (await once(child, 'exit')) as [number];
    expect(exitCode).toBe(0);
    expect(await readdir(dataDir)).not.toContain('server.json');
  });
});
