/** What users install, the packed tarball, in an empty project: in each runtime that can be had, with TypeScript, bundled. */
import { execFile } from 'node:child_process';
import { cpSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { promisify } from 'node:util';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startServer, type RunningServer } from '@cherryq/api/serve';
import { CherryQ } from 'cherryq';
import { uploadModelFolder } from 'cherryq/node';
import { messageOf } from '../../batch-jobs/src/errors.ts';
import { openPage } from '../support/chromium.ts';
import { listen } from '../support/listen.ts';
import { npmTool } from '../support/npm-tools.ts';
import { fileFolder, writeModelFolder } from './folders.ts';

const run = promisify(execFile);
const folder = fileFolder();
const app = join(folder, 'app');
const programs = new URL('package/', import.meta.url).pathname;
const most = 15_000;
let tarball: string;
let server: RunningServer;
let modelId: string;

beforeAll(async () => {
  // As `npm pack` in sdk/ would, without building again what other tests use at the same time.
  const stage = join(folder, 'stage');
  for (const name of ['package.json', 'README.md', 'LICENSE', 'bin', 'dist'])
    cpSync(join('sdk', name), join(stage, name), { recursive: true });
  await run(process.execPath, ['scripts/sdk-types.mjs', join(stage, 'dist/types')]);
  await run('npm', ['pack', '--ignore-scripts', '--loglevel=error', '--pack-destination', folder], { cwd: stage });
  tarball = join(folder, 'cherryq-0.1.0.tgz');
  mkdirSync(app);
  writeFileSync(join(app, 'package.json'), '{"type": "module", "private": true}');
  await run('npm', ['install', '--offline', '--no-audit', '--no-fund', '--loglevel=error', tarball], { cwd: app });
  cpSync(programs, app, { recursive: true });
  server = await startServer({ storeFolder: join(folder, 'store'), port: 0 });
  modelId = (await uploadModelFolder(new CherryQ({ baseUrl: server.url }), await writeModelFolder(folder, 'model'))).id;
});
afterAll(() => server.close());

const expected = {
  status: 'ok',
  dataset: 16,
  job: 'succeeded',
  first: 'job.queued',
  last: 'job.succeeded',
  architecture: 'LlamaForCausalLM',
  error: 'not_found',
};

async function inRuntime(command: string, ...args: string[]): Promise<unknown> {
  const env = { ...process.env, BASE_URL: server.url, MODEL_ID: modelId };
  const { stdout } = await run(command, [...args, 'main.mjs'], { cwd: app, env });
  return JSON.parse(stdout);
}

/** With the compiler's strictest checks, of the package's declarations too, and no types but the package's. */
async function compile(entry: string, moduleResolution: string, module: string): Promise<void> {
  const libraries = ['es2023', 'dom', 'dom.iterable'];
  const options = { strict: true, noEmit: true, target: 'es2022', lib: libraries, types: [], moduleResolution, module };
  const project = join(app, `tsconfig.${moduleResolution}.json`);
  writeFileSync(project, JSON.stringify({ compilerOptions: options, files: [entry] }));
  const tsc = join(process.cwd(), 'node_modules/typescript/bin/tsc');
  await run(process.execPath, [tsc, '-p', project], { cwd: app }).catch((error: unknown) => {
    throw new Error((error as { stdout?: string }).stdout ?? messageOf(error), { cause: error });
  });
}

describe('the packed package', () => {
  it('holds the client and nothing that it was made from', async () => {
    const { stdout } = await run('tar', ['-tzf', tarball]);
    const files = stdout.trim().split('\n');
    expect(files).toContain('package/README.md');
    expect(files).toContain('package/LICENSE');
    expect(files).toContain('package/dist/THIRD-PARTY-LICENSES.txt');
    expect(files.filter((file) => !/^package\/(package\.json|README\.md|LICENSE|bin\/|dist\/)/.test(file))).toEqual([]);
    expect(files.filter((file) => /(?<!\.d)\.ts$/.test(file))).toEqual([]);
  });

  it('is clean to publint and attw', async () => {
    const lint = await run('node_modules/.bin/publint', ['run', '--strict', tarball]);
    expect(lint.stdout).toContain('All good!');
    const types = await run('node_modules/.bin/attw', [tarball, '--profile', 'esm-only', '--format', 'json']);
    expect(JSON.parse(types.stdout)).not.toHaveProperty('error');
  });

  it.each([
    ['nodenext', 'nodenext'],
    ['bundler', 'esnext'],
  ])('compiles under strict with %s, and refuses what is wrong', async (resolution, module) => {
    await compile('app.ts', resolution, module);
  });

  it("has the contract's types for those who have no zod", async () => {
    const withZod = join(app, 'node_modules/zod');
    symlinkSync(join(process.cwd(), 'node_modules/zod'), withZod);
    await compile('same-types.ts', 'nodenext', 'nodenext');
  });

  it(`is under ${most} bytes bundled, minified and gzipped, and runs in Chromium`, async () => {
    const bundle = async (entry: string): Promise<Uint8Array> => {
      const options = { bundle: true, minify: true, format: 'esm', platform: 'browser', write: false } as const;
      const { outputFiles } = await build({ ...options, entryPoints: [join(app, entry)], absWorkingDir: app });
      return outputFiles[0].contents;
    };
    writeFileSync(join(app, 'client.mjs'), "export { CherryQ } from 'cherryq';");
    const size = gzipSync(await bundle('client.mjs'), { level: 9 }).length;
    console.log(`the client is ${size} bytes, bundled, minified and gzipped`);
    expect(size).toBeLessThan(most);

    const script = await bundle('page.mjs');
    let tell: (seen: string) => void;
    const seen = new Promise<string>((resolve) => (tell = resolve));
    // The page and the server under one address, as behind a proxy.
    const address = await listen((request, response) => {
      if (request.url === '/seen') return void text(request).then((body) => response.end(tell(body)));
      if (request.url === '/page.js')
        return void response.writeHead(200, { 'content-type': 'text/javascript' }).end(script);
      if (request.url?.startsWith('/?'))
        return void response
          .writeHead(200, { 'content-type': 'text/html' })
          .end('<!doctype html><script type="module" src="/page.js"></script>');
      const headers = { ...request.headers, host: new URL(server.url).host, origin: server.url };
      const passed = httpRequest(`${server.url}${request.url}`, { method: request.method, headers }, (answer) => {
        response.writeHead(answer.statusCode ?? 502, answer.headers);
        answer.pipe(response);
      });
      request.pipe(passed);
    });
    const page = await openPage(`${address}/?model=${modelId}`).catch((error: unknown) =>
      console.log(`not run: the client in Chromium (${messageOf(error)})`),
    );
    if (!page) return;
    try {
      const ended = page.ended.then((why) => {
        throw new Error(`Chromium has not opened the page: ${why}`);
      });
      expect(JSON.parse(await Promise.race([seen, ended]))).toEqual(expected);
    } finally {
      await page.close();
    }
  });

  it('runs in Node.js', async () => {
    expect(await inRuntime(process.execPath)).toEqual(expected);
  });

  it.each([
    ['deno@2.9.6', 'deno', ['run', '--no-prompt', '--allow-net', '--allow-env', '--node-modules-dir=manual']],
    ['bun@1.4.5', 'bun', []],
  ])('runs in %s', async (name, command, args) => {
    const tool = await npmTool(name).catch((error: unknown) =>
      console.log(`not run: the client in ${name} (${messageOf(error)})`),
    );
    if (!tool) return;
    expect(await inRuntime(join(tool, 'node_modules/.bin', command), ...args)).toEqual(expected);
  });
});
