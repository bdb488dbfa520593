import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { PassThrough } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { runCli } from '../../../sdk/src/cli/run.ts';
import { createPlannedJob } from '../../support/api.ts';
import { listen } from '../../support/listen.ts';
import { memoryIo } from './memory-io.ts';
import { cherryq, makeFolder, serveApi } from './support.ts';

/** A server that asks for keys, a key of it, and a home without profiles. */
async function open() {
  const { api, url } = await serveApi({ withKeys: true });
  const { secret, id } = await api.keyring.create('acme', { name: 'laptop', scope: 'write' });
  const home = await makeFolder();
  const file = join(home, '.config', 'cherryq', 'config.json');
  const env = { HOME: home };
  const run = (args: string[], stdin = '', more: Record<string, string> = {}) =>
    cherryq(args, { env: { ...env, ...more }, stdin });
  return { api, url, secret, id, file, env, run };
}

const write = async (file: string, text: string): Promise<void> => {
  await mkdir(dirname(file), { recursive: true });
  await writeFile(file, text);
};

describe('cherryq login', () => {
  it('checks a key from stdin and saves it where only its owner can read it', async () => {
    const { url, secret, file, run } = await open();
    const { exitCode, stdout, stderr } = await run(
      ['login', '--server', `${url}/`, '--profile', 'team'],
      `${secret}\n`,
    );
    expect(stderr).toBe('');
    expect(exitCode).toBe(0);
    expect(stdout).toContain(`Logged in to ${url}; profile team is the current one.\n`);
    expect(stdout).not.toContain(secret);
    expect((await stat(file)).mode & 0o777).toBe(0o600);
    expect(await readdir(dirname(file))).toEqual(['config.json']);
    expect(JSON.parse(await readFile(file, 'utf8'))).toEqual({
      current: 'team',
      profiles: { team: { server: url, apiKey: secret } },
    });
    expect((await run(['jobs', 'list'])).stdout).toBe('No jobs.\n');
  });

  it('asks for it on a terminal and shows nothing of it', async () => {
    const { url, secret, env, file } = await open();
    const raw: boolean[] = [];
    const stdin = Object.assign(new PassThrough(), { isTTY: true, setRawMode: (mode: boolean) => raw.push(mode) });
    const { io, stdout, stderr } = memoryIo({ env, stdin, isTTY: true });
    const running = runCli(['login', '--server', url], io);
    stdin.write(`wrong\u007F\u007F\u007F\u007F\u007F${secret}\r`);
    expect(await running, stderr()).toBe(0);
    expect(raw).toEqual([true, false]);
    expect(stderr()).toBe('API key (not shown): \n');
    expect(stdout()).not.toContain(secret);
    expect(await readFile(file, 'utf8')).toContain(secret);
  });

  it('ends with Ctrl-C at the question', async () => {
    const { url, env, file } = await open();
    const stdin = Object.assign(new PassThrough(), { isTTY: true });
    const { io } = memoryIo({ env, stdin, isTTY: true });
    const running = runCli(['login', '--server', url], io);
    stdin.write('cq_\u0003');
    expect(await running).toBe(130);
    await expect(stat(file)).rejects.toThrow('ENOENT');
  });

  it('saves nothing of a key that the server refuses, and says nothing of it', async () => {
    const { url, file, run } = await open();
    for (const [key, said] of [
      ['cq_01JZ8Q3V5X9Y2W4T6R8P0N1M3K_nonsense', 'key'],
      ['zwei Wörter', 'the API key must be one word of ASCII characters'],
      ['', 'no API key was given on stdin'],
    ]) {
      const { exitCode, stdout, stderr } = await run(['login', '--server', url, '--json'], key);
      expect(exitCode, stderr).toBe(2);
      expect(stderr).toContain(said);
      if (key !== '') expect(stdout + stderr).not.toContain(key);
    }
    await expect(stat(file)).rejects.toThrow('ENOENT');
  });

  it('asks for no key where the server needs none', async () => {
    const { run } = await open();
    const { url } = await serveApi();
    const { exitCode, stdout } = await run(['login', '--server', url, '--profile', 'here', '--json']);
    expect(exitCode).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ name: 'here', server: url, hasKey: false, usage: { object: 'usage' } });
    expect((await run(['jobs', 'list'])).stdout).toBe('No jobs.\n');
  });

  it('takes the host as the name, and the same profile for the same server again', async () => {
    const { url, secret, run, file } = await open();
    const { host } = new URL(url);
    await run(['login', '--server', url], secret);
    await run(['login', '--server', url], secret);
    expect(Object.keys((JSON.parse(await readFile(file, 'utf8')) as { profiles: object }).profiles)).toEqual([
      host.replace(':', '-'),
    ]);
    expect((await run(['login', '--profile', host.replace(':', '-')], secret)).exitCode).toBe(0);
    expect((await run(['login', '--server', `${url}/other`], secret)).stderr).toContain('give --profile');
  });

  it('warns before a key goes over a network unencrypted', async () => {
    const { run } = await open();
    // Any address that is not loopback by its name, and yet is of this machine.
    const url = await listen((_, response) => {
      response.writeHead(401, { 'content-type': 'application/problem+json' });
      response.end('{}');
    });
    const { port } = new URL(url);
    const exposed = await run(['login', '--server', `http://0.0.0.0:${port}`], 'cq_key');
    expect(exposed.stderr).toContain(`warning: http://0.0.0.0:${port} is not https`);
    expect((await run(['login', '--server', url], 'cq_key')).stderr).not.toContain('warning');
  });

  it.each([
    [['login'], 'which server?'],
    [['login', '--server', 'cherryq.example'], 'it must begin with http:// or https://'],
    [['login', '--server', 'http://127.0.0.1:9', '--profile', '../x'], 'the name of a profile must be 1 to 64 letters'],
  ])('refuses %j', async (args, message) => {
    const { run } = await open();
    const { exitCode, stderr } = await run(args, 'cq_key');
    expect(exitCode).toBe(2);
    expect(stderr).toContain(message);
  });

  it('needs a home', async () => {
    const { url, secret } = await open();
    const { exitCode, stderr } = await cherryq(['login', '--server', url], { stdin: secret });
    expect(exitCode).toBe(2);
    expect(stderr).toContain('set HOME or XDG_CONFIG_HOME');
  });
});

describe('the server of a command', () => {
  /** Two profiles, of servers that can be told apart: only the open one has a job. */
  async function withProfiles() {
    const opened = await open();
    const { run, url, secret } = opened;
    const other = await serveApi();
    await run(['login', '--server', other.url, '--profile', 'open']);
    await run(['login', '--server', url, '--profile', 'team'], secret);
    const isOpen = async (args: string[], env: Record<string, string> = {}): Promise<boolean> => {
      const { exitCode, stdout, stderr } = await run(['jobs', 'list', '--json', ...args], '', env);
      expect(exitCode, stderr).toBe(0);
      return (JSON.parse(stdout) as { data: unknown[] }).data.length > 0;
    };
    await createPlannedJob(other.api, 'succeed');
    return { ...opened, other, isOpen };
  }

  it('is told by --server, CHERRYQ_URL, the profile, and the current profile, in this order', async () => {
    const { url, secret, other, isOpen, run } = await withProfiles();
    expect(await isOpen([])).toBe(false);
    expect(await isOpen(['--profile', 'open'])).toBe(true);
    expect(await isOpen([], { CHERRYQ_PROFILE: 'open' })).toBe(true);
    expect(await isOpen(['--profile', 'team'], { CHERRYQ_PROFILE: 'open' })).toBe(false);
    expect(await isOpen([], { CHERRYQ_PROFILE: 'open', CHERRYQ_URL: url, CHERRYQ_API_KEY: secret })).toBe(false);
    expect(await isOpen(['--server', other.url], { CHERRYQ_URL: url, CHERRYQ_API_KEY: secret })).toBe(true);
    const { stderr } = await run(['jobs', 'list', '--profile', 'team'], '', { CHERRYQ_URL: other.url });
    expect(stderr).toBe('CHERRYQ_URL is set and goes before --profile team\n');
    // The key that was saved for the very address, and of no other.
    expect(await isOpen(['--server', `${url}/`])).toBe(false);
  });

  it('is the one of --data-dir where that is given', async () => {
    const { run } = await withProfiles();
    const dataDir = await makeFolder();
    for (const env of [undefined, { CHERRYQ_PROFILE: 'open' }])
      expect((await run(['jobs', 'list', '--data-dir', dataDir], '', env)).stdout).toBe('No jobs.\n');
    const { exitCode, stderr } = await run(['jobs', 'list', '--data-dir', dataDir, '--profile', 'open']);
    expect(exitCode).toBe(2);
    expect(stderr).toContain('--profile and --data-dir both name a server');
  });

  it('is not one of a profile that there is not', async () => {
    const { run } = await withProfiles();
    const { exitCode, stderr } = await run(['jobs', 'list', '--profile', 'nowhere']);
    expect(exitCode).toBe(2);
    expect(stderr).toContain('there is no profile "nowhere"; there are open, team');
    expect((await run(['jobs', 'list', '--profile', 'constructor'])).stderr).toContain('there is no profile');
  });

  it('is in the command to go on with', async () => {
    const { other, env } = await withProfiles();
    const { data } = await other.api.services.jobs.list('local', { limit: 1 });
    const { io, interrupt, stderr } = memoryIo({ env });
    const running = runCli(['jobs', 'wait', data[0]?.id ?? '', '--profile', 'open'], io);
    setTimeout(() => interrupt.abort(), 200);
    expect(await running).toBe(75);
    expect(stderr()).toContain(`Go on with: cherryq jobs wait ${data[0]?.id} --profile open\n`);
  });

  it('whose key is no longer good tells how to log in', async () => {
    const { api, id, run, url, secret } = await open();
    await run(['login', '--server', url, '--profile', 'team'], secret);
    await run(['logout']);
    const { exitCode, stdout, stderr } = await run(['jobs', 'list', '--profile', 'team', '--json']);
    expect(exitCode).toBe(2);
    expect(stderr).toMatch(/; log in with: cherryq login --profile team\n$/);
    expect(JSON.parse(stdout)).toMatchObject({ error: { exitCode: 2 } });
    await api.keyring.revoke('acme', id);
    const { stderr: again } = await run(['jobs', 'list', '--server', url]);
    expect(again).toContain(`log in with: cherryq login --server ${url}`);
  });

  it('gets no key that would break a header', async () => {
    const { run, url } = await open();
    const { exitCode, stderr } = await run(['jobs', 'list', '--server', url], '', { CHERRYQ_API_KEY: 'cq_a\ncq_b' });
    expect(exitCode).toBe(2);
    expect(stderr).toContain('CHERRYQ_API_KEY must be one word');
    expect(stderr).not.toContain('cq_a');
  });
});

describe('cherryq profiles', () => {
  it('are listed without their keys, chosen and removed', async () => {
    const { url, secret, run, file } = await open();
    await run(['login', '--server', url, '--profile', 'team'], secret);
    await run(['login', '--server', url, '--profile', 'lab'], secret);
    const listed = await run(['profiles', 'list']);
    expect(listed.stdout).toMatch(/^ +name +server +key\n +team +\S+ +yes\n\* +lab +\S+ +yes\n$/);
    expect((await run(['profiles', 'use', 'team', '--json'])).stdout).toContain('"current": "team"');
    expect((await run(['logout'])).stdout).toContain('The key of profile team is forgotten');
    const { stdout } = await run(['profiles', 'list', '--json']);
    expect(JSON.parse(stdout)).toEqual({
      file,
      data: [
        { name: 'team', server: url, hasKey: false, current: false },
        { name: 'lab', server: url, hasKey: true, current: false },
      ],
    });
    expect((await run(['profiles', 'use', 'lab'])).exitCode).toBe(0);
    expect((await run(['profiles', 'remove', 'lab'])).stdout).toBe('profile lab is removed\n');
    expect((await run(['profiles', 'use', 'lab'])).stderr).toContain('there is no profile "lab"; there are team');
    expect((await run(['profiles', 'use', '--none'])).exitCode).toBe(0);
    expect((await run(['profiles', 'use'])).exitCode).toBe(2);
    expect((await run(['logout'])).exitCode).toBe(2);
    expect(await readFile(file, 'utf8')).not.toContain(secret);
  });

  it.each([
    ['{"profiles": {"team": {"server": "cq_secret', 'is not JSON'],
    ['{"profiles": {"team": {"server": "cq_secret"}}}', 'profiles.team.server: must be an address'],
    [
      '{"profiles": {"team": {"server": "http://a", "apiKey": "cq_secret b"}}}',
      'profiles.team.apiKey: must be one word',
    ],
    ['{"current": "team"}', 'current: must be the name of one of the profiles'],
    ['{"profile": {}}', 'Unrecognized key: "profile"'],
    ['[]', 'the whole: '],
  ])('are refused of a file that holds %s', async (text, message) => {
    const { file, run } = await open();
    await write(file, text);
    for (const args of [
      ['jobs', 'list'],
      ['login', '--server', 'http://127.0.0.1:9'],
      ['profiles', 'list'],
    ]) {
      const { exitCode, stderr } = await run(args, 'cq_key');
      expect(exitCode, stderr).toBe(2);
      expect(stderr).toContain(file);
      expect(stderr).toContain(message);
      expect(stderr).not.toContain('cq_secret');
    }
    expect(await readFile(file, 'utf8')).toBe(text);
  });

  it('are where XDG_CONFIG_HOME says', async () => {
    const { url, secret, run } = await open();
    const folder = await makeFolder();
    const { stdout } = await run(['login', '--server', url], secret, { XDG_CONFIG_HOME: folder });
    expect(stdout).toContain(join(folder, 'cherryq', 'config.json'));
  });
});

describe('a server that is asked', () => {
  it('makes, lists and revokes keys for who has an admin key', async () => {
    const { api, url, run } = await open();
    const { secret } = await api.keyring.create('acme', { name: 'admin', scope: 'admin' });
    await run(['login', '--server', url, '--profile', 'team'], secret);
    const made = await run(['keys', 'create', '--name', 'ci', '--scope', 'read', '--profile', 'team']);
    expect(made.exitCode, made.stderr).toBe(0);
    expect(await api.keyring.authenticate(made.stdout.trim())).toMatchObject({ tenant: 'acme', scope: 'read' });
    const listed = await run(['keys', 'list', '--server', url, '--json']);
    const { data } = JSON.parse(listed.stdout) as { data: { id: string; name: string }[] };
    expect(data.map(({ name }) => name)).toEqual(['laptop', 'admin', 'ci']);
    const revoked = await run(['keys', 'revoke', data[2]?.id ?? '', '--profile', 'team']);
    expect(revoked.stdout).toContain('is revoked');
    const { exitCode, stderr } = await run(['keys', 'list', '--profile', 'team', '--tenant', 'other']);
    expect(exitCode).toBe(2);
    expect(stderr).toContain('--tenant is for a store');
  });

  it('tells what is used of it', async () => {
    const { url, secret, run } = await open();
    await run(['login', '--server', url], secret);
    expect((await run(['usage'])).stdout).toMatch(
      /^this month +used +of\nopen jobs +0 +no limit\nstored +0 B +no limit\n/,
    );
    expect(JSON.parse((await run(['usage', '--json'])).stdout)).toMatchObject({ object: 'usage', openJobs: 0 });
  });
});
