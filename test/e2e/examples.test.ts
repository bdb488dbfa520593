/** The programs of the documentation, run as a reader would run them. */
import { expect, it, onTestFinished } from 'vitest';
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { openTestApi } from '../support/api.ts';
import { clientOf } from '../sdk/support.ts';

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
