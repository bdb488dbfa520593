/**
 * Thousands of requests that schemathesis makes from our own OpenAPI document, over all operations, with keys of two tenants:
 * no 5xx, no undocumented status, header or body, nothing of the other tenant. Most ids that it makes up are replaced on their way by
 * ids that exist, half of them the other tenant's, so that requests get past the first look-up.
 */
import { createAdaptorServer } from '@hono/node-server';
import { createHash } from 'node:crypto';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { promisify } from 'node:util';
import { dirname, join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { CherryQ } from 'cherryq';
import type { KeyScope } from 'cherryq/contract';
import { pythonWith } from '../../batch-jobs/bench/peers/environment.ts';
import { openTestApi } from '../support/api.ts';
import { tinyConfig, tinySources } from '../support/tiny-model.ts';

const leastRequests = 5000;
const idPattern = /\b[0-7][0-9A-HJKMNP-TV-Z]{25}\b/g;

/** @returns null, after a line that says why, where it cannot be had; in CI (`CHERRYQ_TEST_NATIVE`) that is an error */
async function pythonWithSchemathesis(): Promise<string | null> {
  try {
    return await pythonWith(['schemathesis==4.32.5'], { kept: 'fuzz', given: 'CHERRYQ_SCHEMATHESIS_PYTHON' });
  } catch (error) {
    if (process.env.CHERRYQ_TEST_NATIVE) throw error;
    console.log(`not run: the fuzzer (${String(error)})`);
    return null;
  }
}
const python = await pythonWithSchemathesis();

const keyPaths = '^/v1/(keys|usage)';
/** In place of every address in a body: webhooks are called, and nobody out there asked for that. */
const nowhere = 'http://127.0.0.1:1/';

it.runIf(python !== null)('the API keeps its word under fuzzing, for two tenants', { timeout: 400_000 }, async () => {
  const api = await openTestApi({ withKeys: true });
  onTestFinished(api.close);
  const statuses = new Map<number, number>();
  const operations = new Set<string>();
  const leaks: string[] = [];
  /** Of the run under way: what it may not see, and what its ids become. */
  let hidden = 'nothing is hidden';
  let ids: string[] = [];

  const server = createAdaptorServer({
    fetch: async (request: Request) => {
      const choose = (id: string): string =>
        ids.length === 0 ? id : (ids[createHash('md5').update(id).digest()[0] % ids.length] ?? id);
      const url = request.url.replace(idPattern, choose);
      const { method } = request;
      const isJson = request.headers.get('content-type')?.includes('json');
      const text = isJson
        ? (await request.text()).replace(idPattern, choose).replaceAll(/"https?:[^"]*"/g, `"${nowhere}"`)
        : null;
      const body = method === 'GET' || method === 'HEAD' ? undefined : (text ?? request.body);
      // `fetch` forbids TRACE to those who make a request, not to those who get one.
      const sent =
        method === 'TRACE'
          ? request
          : new Request(url, { method, headers: request.headers, body, duplex: 'half' } as RequestInit);
      const answer = await api.app.fetch(sent);
      statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1);
      operations.add(
        `${method} ${new URL(url).pathname.replace(idPattern, '{id}').replace(/(files|artifacts)\/.+/, '$1/{path}')}`,
      );
      const content = await answer.clone().text();
      if (content.includes(hidden)) leaks.push(`${method} ${url}: ${content.slice(0, 300)}`);
      return answer;
    },
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => void server.close());
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;

  /** Something of each kind, called after its owner.  @returns the ids */
  async function furnish(tenant: string): Promise<string[]> {
    const { secret } = await api.keyring.create(tenant, { name: `of-${tenant}`, scope: 'admin' });
    const client = new CherryQ({ baseUrl: url, apiKey: secret });
    const name = `of-${tenant}`;
    const config = { ...tinyConfig, of: tenant };
    const files = await tinySources({ config });
    const model = await client.models.upload({ name, files });
    const dataset = await client.datasets.upload({ name, files: [{ path: 'text.txt', content: name }] });
    const settings = { modelId: model.id, scheme: { method: 'rtn' }, metadata: { name } } as const;
    const webhook = await client.webhooks.create({ url: nowhere, description: name });
    const jobs = [await client.jobs.create(settings), await client.jobs.create(settings)];
    await client.jobs.cancel(jobs[1].id, { keepCheckpoint: true });
    return [model.id, dataset.id, webhook.id, ...jobs.map(({ id }) => id)];
  }
  async function run(tenant: 'ours' | 'theirs', scope: KeyScope, paths: string[], examples: number): Promise<void> {
    const other = tenant === 'ours' ? 'theirs' : 'ours';
    const { secret } = await api.keyring.create(tenant, { name: 'fuzz', scope });
    ids = [];
    hidden = 'nothing yet';
    const furnished = [await furnish(tenant), await furnish(other)].flat();
    hidden = `of-${other}`;
    // Whoever may revoke keys may revoke its own, so ids stay what they are then.
    if (!paths.includes(keyPaths)) ids = furnished;
    const args = [
      // By the interpreter: the script's own first line names the folder that it was installed in, before that was moved.
      ...[join(dirname(python ?? ''), 'schemathesis'), 'run'],
      ...[`${url}/openapi.json`, '--header', `Authorization: Bearer ${secret}`, ...paths],
      ...['--checks', 'not_a_server_error,status_code_conformance,content_type_conformance'],
      ...['--checks', 'response_schema_conformance,response_headers_conformance'],
      ...['--max-examples', String(examples), '--phases', 'coverage,fuzzing,stateful', '--request-timeout', '20'],
      ...['--generation-database', 'none', '--continue-on-failure', '--no-color'],
    ];
    const { stdout } = await promisify(execFile)(python ?? '', args, { cwd: api.folder, maxBuffer: 2 ** 26 }).catch(
      (error: Error & { stdout?: string }) => {
        throw new Error(`schemathesis found something: ${String(error)}\n${error.stdout?.slice(-6000)}`);
      },
    );
    expect(stdout).toMatch(/generated, \d+ passed/);
  }
  const most = ['--exclude-path-regex', '^/v1/(keys|usage|webhooks)'];
  await run('ours', 'write', most, 30);
  await run('theirs', 'write', most, 30);
  await run('ours', 'read', most, 5);
  await run('ours', 'admin', ['--include-path-regex', keyPaths], 30);
  await run('ours', 'admin', ['--include-path-regex', '^/v1/webhooks'], 20);

  const count = [...statuses.values()].reduce((sum, each) => sum + each, 0);
  console.log(`${count} requests, by status: ${JSON.stringify(Object.fromEntries([...statuses].sort()))}`);
  expect(leaks).toEqual([]);
  expect(count).toBeGreaterThanOrEqual(leastRequests);
  expect([...statuses.keys()].filter((status) => status >= 500)).toEqual([]);
  // It got somewhere: not only refusals.
  for (const status of [200, 201, 202, 204, 400, 403, 404, 409])
    expect(statuses.get(status), `${status}`).toBeGreaterThan(0);
  expect(api.log.filter(({ level }) => level === 'error')).toEqual([]);
});
