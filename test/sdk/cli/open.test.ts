import { chmod, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { createPlannedJob, readJob, until } from '../../support/api.ts';
import { cherryq, makeFolder, serveApi } from './support.ts';

/** A server with a job that has ended, and a folder for programs that stands in for PATH. */
async function open(...plan: string[]) {
  const { api, url } = await serveApi({ concurrency: 1 });
  const { id } = await createPlannedJob(api, ...plan);
  const programs = await makeFolder();
  const ended = () =>
    until(
      () => readJob(api, id),
      ({ status }) => !['queued', 'running'].includes(status),
    );
  const run = (args: string[], isTTY = false) =>
    cherryq(['open', id, '--server', url, ...args], { isTTY, env: { PATH: programs, CHERRYQ_TEST: programs } });
  /** An opener that does this, in a shell. */
  const opener = async (script: string): Promise<void> => {
    const path = join(programs, process.platform === 'darwin' ? 'open' : 'xdg-open');
    await writeFile(path, `#!/bin/sh\n${script}\n`);
    await chmod(path, 0o755);
  };
  return { id, url, run, opener, programs, ended };
}

/** Content of a report, which is gone with its temporary folder when the test ends. */
function readReport(file: string): Promise<string> {
  onTestFinished(() => rm(dirname(file), { recursive: true }));
  return readFile(file, 'utf8');
}

const report = '<!doctype html><title>report</title>';

describe('cherryq open', () => {
  it('gives the report to the opener of the platform', async () => {
    const { run, opener, programs, ended } = await open('succeed');
    await ended();
    await opener('echo "$1" > "$CHERRYQ_TEST/opened"');
    const { exitCode, stdout, stderr } = await run([], true);
    expect(exitCode, stderr).toBe(0);
    expect(stdout).toBe('');
    const file = (await readFile(join(programs, 'opened'), 'utf8')).trim();
    expect(stderr).toBe(`Opened ${file}\n`);
    expect(await readReport(file)).toBe(report);
  });

  it.each([
    ['fails', 'exit 3', 'ended with 3'],
    ['is not there', null, 'ENOENT'],
  ])('prints where the report is when the opener %s', async (_, script, reason) => {
    const { run, opener, ended } = await open('succeed');
    await ended();
    if (script !== null) await opener(script);
    const { exitCode, stdout, stderr } = await run([], true);
    expect(exitCode).toBe(0);
    expect(stderr).toContain(reason);
    expect(await readReport(stdout.trim())).toBe(report);
  });

  it.each([
    ['--print', ['--print'], true],
    ['no terminal', [], false],
  ])('opens nothing with %s', async (_, args, isTTY) => {
    const { run, opener, programs, ended } = await open('succeed');
    await ended();
    await opener('echo "$1" > "$CHERRYQ_TEST/opened"');
    const output = join(await makeFolder(), 'new', 'mine.html');
    const { exitCode, stdout } = await run([...args, '--output', output], isTTY);
    expect(exitCode).toBe(0);
    expect(stdout).toBe(`${output}\n`);
    expect(await readFile(output, 'utf8')).toBe(report);
    expect(await readdir(join(output, '..'))).toEqual(['mine.html']);
    expect(await readdir(programs)).not.toContain('opened');
  });

  it('prints JSON alone for --json', async () => {
    const { run, id, ended } = await open('succeed');
    await ended();
    const { stdout, stderr } = await run(['--json'], true);
    expect(stderr).toBe('');
    const { jobId, report: file } = JSON.parse(stdout) as { jobId: string; report: string };
    expect(jobId).toBe(id);
    expect(await readReport(file)).toBe(report);
  });

  it('says why there is no report', async () => {
    const running = await open('wait');
    const early = await running.run([]);
    expect(early.exitCode).toBe(2);
    expect(early.stderr).toContain(`it has a report once it has ended: cherryq jobs wait ${running.id}`);
    const failed = await open('exit:2');
    await failed.ended();
    const late = await failed.run(['--json']);
    expect(late.exitCode).toBe(2);
    expect(late.stderr).toMatch(/is failed and has left no report: .*loss is not a number/);
    expect(JSON.parse(late.stdout)).toMatchObject({ error: { code: 'no_report', exitCode: 2 } });
  });
});
