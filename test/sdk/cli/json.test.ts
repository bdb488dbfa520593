import { describe, expect, it } from 'vitest';
import type { ProblemCode } from 'cherryq/contract';
import type { Command } from '../../../sdk/src/cli/command.ts';
import { rootCommand, runCli } from '../../../sdk/src/cli/run.ts';
import { createPlannedJob, until } from '../../support/api.ts';
import { listen } from '../../support/listen.ts';
import { problem } from '../support.ts';
import { memoryIo } from './memory-io.ts';
import { cherryq, serveApi } from './support.ts';

function everyCommand(command: Command): Command[] {
  return [command, ...Object.values(command.children).flatMap(everyCommand)];
}
const commands = everyCommand(rootCommand(memoryIo().io));

describe('--json', () => {
  it.each(commands.map(({ name }) => name))(
    'of %s makes JSON of its errors, and words for people besides',
    async (name) => {
      const { exitCode, stdout, stderr } = await cherryq([...name.split(' ').slice(1), '--json', '--nonsense']);
      expect(exitCode).toBe(2);
      expect(JSON.parse(stdout)).toMatchObject({ error: { code: 'usage', exitCode: 2, goOn: null } });
      expect(stderr).toMatch(/^cherryq: .*\nUsage: cherryq/);
    },
  );

  /** A server that answers everything with one problem. */
  const refusing = (status: number, code: ProblemCode): Promise<string> =>
    listen((_, response) => {
      response.writeHead(status, { 'content-type': 'application/problem+json' });
      response.end(JSON.stringify(problem({ status, code })));
    });

  it.each<[number, number, ProblemCode]>([
    [1, 500, 'internal'],
    [2, 404, 'not_found'],
    [2, 422, 'invalid_model'],
    [3, 503, 'unavailable'],
  ])('tells exit code %i for %i %s', async (expected, status, code) => {
    const url = await refusing(status, code);
    const { exitCode, stdout } = await cherryq(['models', 'list', '--server', url, '--json']);
    expect(exitCode).toBe(expected);
    expect(JSON.parse(stdout)).toMatchObject({ error: { code, exitCode: expected, requestId: 'request-1' } });
  });

  it('tells exit code 0 by the answer alone', async () => {
    const { url } = await serveApi();
    const { exitCode, stdout, stderr } = await cherryq(['models', 'list', '--server', url, '--json']);
    expect([exitCode, stderr]).toEqual([0, '']);
    expect(JSON.parse(stdout)).toMatchObject({ object: 'list', data: [] });
  });

  it('tells exit code 75 with the command to go on with', async () => {
    const { api, url } = await serveApi({ concurrency: 1 });
    const { id } = await createPlannedJob(api, 'wait');
    const { io, interrupt, stdout } = memoryIo();
    const running = runCli(['jobs', 'wait', id, '--server', url, '--json'], io);
    await until(
      () => api.services.jobs.retrieve('local', id),
      ({ status }) => status === 'running',
    );
    interrupt.abort();
    expect(await running).toBe(75);
    expect(JSON.parse(stdout())).toMatchObject({
      error: { code: 'interrupted', exitCode: 75, goOn: `cherryq jobs wait ${id} --server ${url}` },
    });
  });
});
