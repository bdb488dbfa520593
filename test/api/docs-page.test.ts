import { parseHTML } from 'linkedom';
import { runInNewContext } from 'node:vm';
import { afterEach, expect, it } from 'vitest';
import { docsHtml, docsScript } from '../../api/src/docs-page.ts';
import { openTestApi, type TestApi } from '../support/api.ts';

const page = 'https://cherryq.example/stage/docs';
let api: TestApi;
afterEach(() => api.close());

/** The page after its script ran, on the API under `/stage`. */
async function open(): Promise<Document> {
  api = await openTestApi();
  const { document } = parseHTML(docsHtml);
  const app = (url: URL, init?: RequestInit) => api.app.request(url.pathname.replace('/stage', '') + url.search, init);
  const context = { document, location: { href: page }, fetch: app, URL, Headers, performance };
  await runInNewContext(docsScript.replace('(async', 'globalThis.done = (async'), context);
  await (context as unknown as { done: Promise<void> }).done;
  return document;
}

it('loads nothing from elsewhere and runs nothing inline', async () => {
  api = await openTestApi();
  for (const [path, type] of [
    ['/docs', 'text/html'],
    ['/docs/page.js', 'text/javascript'],
    ['/docs/page.css', 'text/css'],
  ]) {
    const answer = await api.app.request(path ?? '');
    expect(answer.status).toBe(200);
    expect(answer.headers.get('content-type')).toContain(type);
    expect(answer.headers.get('content-security-policy')).toMatch(/^default-src 'none'; script-src 'self';/);
    expect(await answer.text()).not.toMatch(/https?:\/\/|\son\w+=|style=|unsafe|innerHTML/);
  }
  expect((await api.app.request('/')).headers.get('location')).toBe('docs');
});

it('shows every operation, its examples, and how to call it', async () => {
  const document = await open();
  const { paths } = (await (await api.app.request('/openapi.json')).json()) as {
    paths: Record<string, Record<string, { operationId: string; 'x-sdk': string; summary: string }>>;
  };
  for (const [path, item] of Object.entries(paths))
    for (const [method, operation] of Object.entries(item)) {
      const section = document.getElementById(operation.operationId);
      expect(section, `${method} ${path}`).not.toBeNull();
      section?.dispatchEvent(new (document.defaultView as unknown as { Event: typeof Event }).Event('toggle'));
      const text = section?.textContent ?? '';
      for (const part of [path, operation.summary, operation['x-sdk'], 'curl -sS', 'urn:cherryq:problem:internal'])
        expect(text).toContain(part);
    }
});

it('sends a request and shows the answer, a problem too', async () => {
  const document = await open();
  const send = async (id: string, body?: string): Promise<string> => {
    const section = document.getElementById(id);
    section?.dispatchEvent(new (document.defaultView as unknown as { Event: typeof Event }).Event('toggle'));
    const text = section?.querySelector('textarea');
    if (text && body !== undefined) text.value = body;
    section?.querySelector('button')?.click();
    const status = section?.querySelector('[role=status]');
    while (!/^\d|No answer/.test(status?.textContent ?? '')) await new Promise((resolve) => setTimeout(resolve, 5));
    await new Promise((resolve) => setTimeout(resolve, 5));
    return `${status?.textContent}\n${status?.nextElementSibling?.textContent}`;
  };
  expect(await send('readCapabilities')).toMatch(/^200 [^]*"methods"/);
  expect(await send('createJob', '{"modelId":"nope"}')).toMatch(/^400 [^]*"invalid_request"/);
});
