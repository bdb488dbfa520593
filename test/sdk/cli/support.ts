/** The command line in this process, and the API of this process where it can be called over HTTP. */
import { createAdaptorServer } from '@hono/node-server';
import { mkdtemp, rm } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { runCli } from '../../../sdk/src/cli/run.ts';
import { openTestApi, type TestApiOptions } from '../../support/api.ts';
import { memoryIo } from './memory-io.ts';

export async function cherryq(args: string[], options: Parameters<typeof memoryIo>[0] = {}) {
  const { io, stdout, stderr } = memoryIo(options);
  const exitCode = await runCli(args, io);
  return { exitCode, stdout: stdout(), stderr: stderr() };
}

export async function makeFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'cherryq-cli-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** Until the test ends. */
export async function serveApi(options: TestApiOptions = {}) {
  const api = await openTestApi(options);
  onTestFinished(api.close);
  const server = createAdaptorServer({ fetch: api.app.fetch });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(async () => {
    await new Promise((resolve) => server.close(resolve));
  });
  return { api, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
}
