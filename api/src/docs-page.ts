/**
 * `GET /docs`: a page that reads `/openapi.json` in the browser, lists all operations and sends requests. It is served by the API
 * itself, loads nothing from elsewhere, and keeps the key in the page's memory only. Addresses are relative, so it also works
 * behind a gateway that puts a path before everything.
 */
import type { Api } from './openapi.ts';

const policy =
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

export function docsRoutes(app: Api): void {
  const files: Record<string, [type: string, text: string]> = {
    '/docs': ['text/html', docsHtml],
    '/docs/page.js': ['text/javascript', docsScript],
    '/docs/page.css': ['text/css', docsStyle],
  };
  for (const [path, [type, text]] of Object.entries(files))
    app.get(path, (c) =>
      c.body(text, 200, {
        'Content-Type': `${type}; charset=utf-8`,
        'Content-Security-Policy': policy,
        'Referrer-Policy': 'no-referrer',
      }),
    );
  app.get('/', (c) => c.redirect('docs', 302));
}

export const docsHtml = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>CherryQ API</title>
<link rel="stylesheet" href="docs/page.css">
</head>
<body>
<header>
<h1>CherryQ API</h1>
<p id="about">Reading the description of this server&hellip;</p>
<label>API key, kept in this page only <input id="key" type="password" autocomplete="off" placeholder="cq_..."></label>
<nav id="contents" aria-label="Operations"></nav>
</header>
<main id="operations"></main>
<noscript>This page needs JavaScript; <a href="openapi.json">openapi.json</a> has all that it shows.</noscript>
<script src="docs/page.js" defer></script>
</body>
</html>
`;

const docsStyle = `:root { --line: light-dark(#ddd, #3a3a3a); --soft: light-dark(#f6f6f6, #1e1e1e); --accent: light-dark(#a3123a, #ff8aa5); }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; font: 1rem/1.5 system-ui, sans-serif; color: light-dark(#1b1b1b, #eaeaea); background: light-dark(#fff, #121212); }
h1 { margin: 0; color: var(--accent); }
h2 { margin: 2rem 0 .5rem; text-transform: capitalize; }
h3 { margin: 1rem 0 .3rem; font-size: 1rem; }
a { color: var(--accent); }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1rem; margin-top: 1rem; }
details { border: 1px solid var(--line); border-radius: .4rem; margin: .4rem 0; padding: 0 .7rem; }
details details { background: var(--soft); }
summary { cursor: pointer; padding: .5rem 0; overflow-wrap: anywhere; }
summary b { display: inline-block; min-width: 4.8rem; color: var(--accent); }
summary span { display: block; opacity: .8; }
pre { background: var(--soft); border: 1px solid var(--line); border-radius: .3rem; padding: .6rem; overflow: auto; max-height: 26rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; }
label { display: block; margin: .5rem 0; }
input, textarea { display: block; width: 100%; padding: .4rem; font: .9rem ui-monospace, monospace; color: inherit; background: var(--soft); border: 1px solid var(--line); border-radius: .3rem; }
textarea { min-height: 9rem; }
button { margin: .5rem 0 1rem; padding: .5rem 1.2rem; font: inherit; color: light-dark(#fff, #121212); background: var(--accent); border: 0; border-radius: .3rem; cursor: pointer; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
`;

// In the language of browsers; all text reaches the page as text, never as markup.
export const docsScript = `'use strict';
(async () => {
  const base = new URL('.', location.href);
  const byId = (id) => document.getElementById(id);
  const make = (tag, props, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(props || {}))
      if (name in { className: 1, id: 1, textContent: 1 }) element[name] = value;
      else element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const pretty = (value) => (typeof value === 'string' ? value : JSON.stringify(value, null, 2));
  const folded = (title, ...children) => make('details', {}, make('summary', { textContent: title }), ...children);
  const block = (value) => make('pre', { tabindex: '0', textContent: pretty(value) });

  const answer = await fetch(new URL('openapi.json', base));
  const api = await answer.json();
  byId('about').textContent = api.info.description + ' Version ' + api.info.version + '.';

  const schemaOf = (media) => {
    const name = media.schema && media.schema.$ref && media.schema.$ref.split('/').pop();
    return name ? api.components.schemas[name] : media.schema;
  };
  const examplesOf = (media) =>
    media.examples ? Object.entries(media.examples).map(([name, one]) => [name, one.value]) : [['example', media.example]];
  const bodyOf = (operation) => Object.entries((operation.requestBody && operation.requestBody.content) || {})[0];

  const curlOf = (method, path, operation) => {
    const body = bodyOf(operation);
    const lines = ['curl -sS -X ' + method.toUpperCase() + " '" + new URL(path.slice(1), base) + "'", "-H 'Authorization: Bearer '$CHERRYQ_API_KEY"];
    if (body && body[0] === 'application/json')
      lines.push("-H 'Content-Type: application/json'", "-d '" + JSON.stringify(body[1].example) + "'");
    else if (body) lines.push('--data-binary @FILE');
    return lines.join(' \\\\\\n  ');
  };

  const form = (method, path, operation) => {
    const fields = (operation.parameters || []).map((parameter) => {
      const input = make('input', { autocomplete: 'off' });
      return { ...parameter, input, label: make('label', {}, parameter.name + (parameter.required ? ' (needed)' : ''), input) };
    });
    const body = bodyOf(operation);
    const text = body && make('textarea', { spellcheck: 'false' });
    if (text) text.value = pretty(body[1].example);
    const status = make('p', { role: 'status' });
    const shown = block('');
    shown.hidden = true;
    const button = make('button', { type: 'button', textContent: 'Send' });
    button.addEventListener('click', async () => {
      const valueOf = (place) => fields.filter((field) => field.in === place && field.input.value !== '');
      let address = path;
      for (const field of valueOf('path'))
        address = address.replace('{' + field.name + '}', field.input.value.split('/').map(encodeURIComponent).join('/'));
      const url = new URL(address.slice(1), base);
      for (const field of valueOf('query')) url.searchParams.set(field.name, field.input.value);
      const headers = new Headers();
      for (const field of valueOf('header')) headers.set(field.name, field.input.value);
      if (byId('key').value) headers.set('Authorization', 'Bearer ' + byId('key').value);
      if (body) headers.set('Content-Type', body[0]);
      status.textContent = 'Sending\\u2026';
      try {
        const began = performance.now();
        const got = await fetch(url, { method: method.toUpperCase(), headers, body: text && text.value });
        const isText = /json|text/.test(got.headers.get('content-type') || '');
        const content = isText ? await got.text() : (await got.arrayBuffer()).byteLength + ' bytes';
        status.textContent = got.status + ' ' + got.statusText + ', ' + Math.round(performance.now() - began) + ' ms, request ' + got.headers.get('x-request-id');
        try { shown.textContent = pretty(JSON.parse(content)); } catch { shown.textContent = content; }
        shown.hidden = content === '';
      } catch (error) {
        status.textContent = 'No answer: ' + error.message;
      }
    });
    return [...fields.map((field) => field.label), ...(text ? [make('label', {}, 'Body', text)] : []), button, status, shown];
  };

  const section = (method, path, operation) => {
    const title = make('summary', {}, make('b', { textContent: method.toUpperCase() }), make('code', { textContent: path }), make('span', { textContent: operation.summary }));
    const element = make('details', { id: operation.operationId }, title);
    // What is inside is made when it is first looked at.
    element.addEventListener('toggle', () => {
      if (element.childElementCount > 1) return;
      const body = bodyOf(operation);
      if (body && schemaOf(body[1])) element.append(folded('Schema of the request', block(schemaOf(body[1]))));
      for (const [code, response] of Object.entries(operation.responses)) {
        const parts = Object.entries(response.content || {}).flatMap(([type, media]) => [
          make('h3', { textContent: type }),
          ...examplesOf(media).map(([, value]) => block(value)),
          ...(code < '300' ? [folded('Schema', block(schemaOf(media)))] : []),
        ]);
        element.append(folded(code + ' ' + response.description, ...parts));
      }
      element.append(make('h3', { textContent: 'With curl' }), block(curlOf(method, path, operation)));
      const snippet = operation['x-sdk'];
      if (snippet) element.append(make('h3', { textContent: 'With the SDK' }), block(snippet));
      element.append(make('h3', { textContent: 'Try it' }), ...form(method, path, operation));
    });
    return element;
  };

  for (const tag of api.tags) {
    byId('contents').append(make('a', { href: '#' + tag.name, textContent: tag.name }));
    const heading = make('h2', { id: tag.name, textContent: tag.name });
    const all = Object.entries(api.paths).flatMap(([path, item]) =>
      Object.entries(item).filter(([, operation]) => operation.tags.includes(tag.name)).map(([method, operation]) => section(method, path, operation)));
    byId('operations').append(make('section', {}, heading, make('p', { textContent: tag.description }), ...all));
  }
  byId('contents').append(make('a', { href: 'openapi.json', textContent: 'openapi.json' }));
  // An address such as docs#createJob opens that operation.
  const named = location.hash && byId(location.hash.slice(1));
  if (named) {
    named.open = true;
    named.scrollIntoView();
  }
})().catch((error) => {
  document.getElementById('about').textContent = 'The description of this server cannot be read: ' + error.message;
});
`;
