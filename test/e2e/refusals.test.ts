/**
 * Inputs that cannot be used: each gets a message of its own that names what is wrong, exit code 2 or a 4xx problem, and
 * nothing half-made can be seen afterwards.
 */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CherryQ } from 'cherryq';
import { exitCodes, problemSchema } from 'cherryq/contract';
import { tinyTokenizer } from '../support/tiny-model.ts';
import { fileFolder, writeModelFolder, writeText, type ModelForm } from './folders.ts';
import { cherryq, hashesOf, pathsIn, serve, type ServerProcess } from './product.ts';

const folder = fileFolder();
const dataDir = join(folder, 'data');
const unknownId = '01ARZ3NDEKTSV4RRFFQ69G5FAV';
let server: ServerProcess;
let client: CherryQ;
let calibration: string;
beforeAll(async () => {
  server = await serve(dataDir);
  client = new CherryQ({ baseUrl: server.url });
  calibration = writeText(folder, 'calibration.txt', 6000, 1);
});
afterAll(async () => {
  await server.stop();
});

interface Failure {
  code: string;
  message: string;
  param: string | null;
  exitCode: number;
}

/** What `--json` says of an error, which must also be on stderr, in full and without a stack. */
async function refusalOf(args: string[]): Promise<Failure> {
  const { exitCode, stdout, stderr } = await cherryq([...args, '--json']);
  expect(exitCode, stderr).toBe(exitCodes.input);
  const { error } = JSON.parse(stdout) as { error: Failure };
  expect(stderr).toContain(`cherryq: ${error.message}\n`);
  expect(stderr).not.toMatch(/^\s+at /m);
  expect(error.exitCode).toBe(exitCodes.input);
  return error;
}

/** Files that hold, or would hold, something of a result. */
function resultsIn(folderOfStore: string): string[] {
  return pathsIn(folderOfStore).filter((path) => /\/(artifacts|scratch)\//.test(path));
}

function changeJson(path: string, change: (json: Record<string, unknown>) => unknown): void {
  const json = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
  writeFileSync(path, JSON.stringify({ ...json, ...(change(json) as object) }));
}

/** Rewrites the header of model.safetensors; the data stays. */
function changeHeader(model: string, change: (header: Record<string, TensorEntry>) => void): void {
  const path = join(model, 'model.safetensors');
  const bytes = readFileSync(path);
  const dataStart = 8 + Number(bytes.readBigUInt64LE());
  const header = JSON.parse(bytes.toString('utf8', 8, dataStart)) as Record<string, TensorEntry>;
  change(header);
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(path, Buffer.concat([length, text, bytes.subarray(dataStart)]));
}
interface TensorEntry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

const query = 'model.layers.0.self_attn.q_proj.weight';
const config = (model: string): string => join(model, 'config.json');

interface BadModel {
  title: string;
  form?: ModelForm;
  /** Makes a sound folder a bad one. */
  spoil(model: string): void;
  args?: string[];
  code: string;
  param: string | RegExp;
  says: RegExp;
}

const badModels: BadModel[] = [
  {
    title: 'a missing shard',
    form: { shards: 2 },
    spoil: (model) => rmSync(join(model, 'model-00002-of-00002.safetensors')),
    code: 'invalid_model',
    param: 'model-00002-of-00002.safetensors',
    says: /names 2 shards, but model-00002-of-00002\.safetensors is not there/,
  },
  {
    title: 'a truncated safetensors file',
    spoil(model) {
      const path = join(model, 'model.safetensors');
      writeFileSync(path, readFileSync(path).subarray(0, -1000));
    },
    code: 'invalid_model',
    param: /./,
    says: /model\.safetensors .*(trunc|ends|bytes)/,
  },
  {
    title: 'overlapping tensors',
    spoil: (model) =>
      changeHeader(model, (header) => {
        const { data_offsets: offsets } = header[query];
        header[query].data_offsets = [offsets[0] - 4, offsets[1] - 4];
      }),
    code: 'invalid_model',
    param: /\.weight$/,
    says: /overlap/,
  },
  {
    title: 'a header that claims 2^60 bytes',
    spoil(model) {
      const path = join(model, 'model.safetensors');
      const bytes = readFileSync(path);
      bytes.writeBigUInt64LE(2n ** 60n);
      writeFileSync(path, bytes);
    },
    code: 'invalid_model',
    param: /model\.safetensors$/,
    says: /claims a header of 1152921504606846976 bytes/,
  },
  {
    title: 'an unknown architecture',
    spoil: (model) => changeJson(config(model), () => ({ architectures: ['MambaForCausalLM'] })),
    code: 'invalid_model',
    param: 'architectures',
    says: /MambaForCausalLM.*supported are .*LlamaForCausalLM/,
  },
  {
    title: 'a vocab_size above the rows of the embedding',
    spoil: (model) => changeJson(config(model), () => ({ vocab_size: 4096 })),
    code: 'invalid_model',
    param: 'vocab_size',
    says: /vocab_size 4096, but "model\.embed_tokens\.weight" has 106 rows/,
  },
  {
    title: 'a vocab_size below the rows of the embedding',
    spoil: (model) => changeJson(config(model), () => ({ vocab_size: 100 })),
    code: 'invalid_model',
    param: 'vocab_size',
    says: /vocab_size 100, but "model\.embed_tokens\.weight" has 106 rows/,
  },
  {
    title: 'a tokenizer with more tokens than the embedding has rows',
    spoil: (model) =>
      changeJson(join(model, 'tokenizer.json'), () => ({
        model: { ...tinyTokenizer.model, vocab: { ...tinyTokenizer.model.vocab, whale: 106 } },
      })),
    code: 'invalid_model',
    param: 'tokenizer.json',
    says: /tokenizer\.json has 107 tokens, but the embedding only 106 rows/,
  },
  {
    title: 'weights that are not numbers',
    spoil(model) {
      const path = join(model, 'model.safetensors');
      const bytes = readFileSync(path);
      bytes.writeFloatLE(NaN, bytes.length - 8);
      writeFileSync(path, bytes);
    },
    code: 'nan_weights',
    param: 'model.norm.weight',
    says: /"model\.norm\.weight" has 1 of 32 values that are not finite/,
  },
  {
    title: 'weights of a dtype that holds no weights',
    spoil: (model) => changeHeader(model, (header) => void (header[query].dtype = 'I32')),
    code: 'invalid_model',
    param: query,
    says: /is I32; weights must be F32, F16 or BF16/,
  },
  {
    title: 'a missing tokenizer',
    spoil: (model) => rmSync(join(model, 'tokenizer.json')),
    code: 'invalid_model',
    param: 'tokenizer.json',
    says: /no tokenizer\.json/,
  },
  {
    title: 'a group longer than the rows',
    spoil: () => undefined,
    args: ['--group-size', '33'],
    code: 'group_size',
    param: 'scheme.groupSize',
    says: /groupSize is 33, but the rows of ".*" have 32 weights/,
  },
];

interface BadText {
  title: string;
  content: Buffer;
  code: string;
  says: RegExp;
}

const badTexts: BadText[] = [
  { title: 'an empty calibration text', content: Buffer.alloc(0), code: 'empty_text', says: /is empty/ },
  { title: 'a blank calibration text', content: Buffer.from('\n \n'), code: 'empty_text', says: /only white space/ },
  {
    title: 'a calibration text that is a compressed file',
    content: Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0x4b, 0x4c]),
    code: 'binary_text',
    says: /NUL byte at offset 3, and begins like gzip/,
  },
  {
    title: 'a calibration text that is not UTF-8',
    content: Buffer.from('the caf\xe9 by the sea\n'.repeat(50), 'latin1'),
    code: 'binary_text',
    says: /offset 7 \(0xe9\.\.\.\) that are not UTF-8/,
  },
  {
    title: 'a calibration text too short for one window',
    content: Buffer.from('the sea'),
    code: 'text_too_short',
    says: /one window needs 32/,
  },
];

describe('B15, B17: `cherryq compress` refuses', () => {
  const messages = new Map<string, string>();
  let testFolder: string;
  let count = 0;
  beforeEach(() => {
    testFolder = join(folder, `case-${++count}`);
    mkdirSync(testFolder);
  });

  /** Compresses what is refused in the job, and looks for what it must not leave. */
  async function refusedJob(model: string, args: string[]): Promise<Failure> {
    const out = join(testFolder, 'out');
    const flags = ['--bits', '3', '--out', out, '--server', server.url];
    const failure = await refusalOf(['compress', model, ...flags, ...args]);
    expect(existsSync(out)).toBe(false);
    expect(resultsIn(dataDir)).toEqual([]);
    for (const job of (await client.jobs.list({ limit: 1 })).data)
      await expect(client.artifacts.list(job.id)).rejects.toMatchObject({ status: 409 });
    expect(await client.health.live()).toMatchObject({ status: 'ok' });
    const twin = messages.get(failure.message);
    expect(twin, failure.message).toBeUndefined();
    messages.set(failure.message, testFolder);
    return failure;
  }

  it.each(badModels)('$title', async ({ form, spoil, args = [], code, param, says }) => {
    const model = await writeModelFolder(testFolder, 'model', form);
    spoil(model);
    const failure = await refusedJob(model, ['--method', 'rtn', '--group-size', '16', ...args]);
    expect(failure).toMatchObject({ code, message: expect.stringMatching(says), param: expect.stringMatching(param) });
  });

  it.each(badTexts)('$title', async ({ content, code, says }) => {
    const text = join(testFolder, 'notes.txt');
    writeFileSync(text, content);
    const model = await writeModelFolder(folder, 'sound');
    const flags = ['--group-size', '16', '--sequence-length', '32', '--calibration', text];
    const failure = await refusedJob(model, flags);
    expect(failure).toMatchObject({ code, message: expect.stringMatching(says) });
    expect(failure.message).toMatch(/calibration text|notes\.txt/);
  });

  it.each([
    ['--bits', '0', /--bits.*2, 3, 4 or 8.*0/],
    ['--bits', '5', /--bits.*2, 3, 4 or 8.*5/],
    ['--group-size', '0', /--group-size.*at least 1.*0/],
    ['--method', 'gptq', /--method.*rtn.*qat.*cherryq.*gptq/],
    ['--bitz', '3', /--bitz/],
  ])('%s %s before anything is sent', async (flag, value, says) => {
    const out = join(testFolder, 'out');
    const ownData = join(testFolder, 'data');
    const failure = await refusalOf(['compress', folder, '--out', out, '--data-dir', ownData, flag, value]);
    expect(failure).toMatchObject({ code: 'usage', param: flag, message: expect.stringMatching(says) });
    expect(readdirSync(testFolder)).toEqual([]);
  });
});

describe('the API refuses', () => {
  let modelId: string;
  let calibrationDatasetId: string;
  beforeAll(async () => {
    const { uploadModelFolder, uploadTextFile } = await import('cherryq/node');
    modelId = (await uploadModelFolder(client, await writeModelFolder(folder, 'uploaded'))).id;
    calibrationDatasetId = (await uploadTextFile(client, calibration)).id;
  });

  it.each([
    {
      title: 'an unknown field',
      body: { bitz: 3 },
      param: 'bitz',
      says: /bitz is an unknown field; known are kind, modelId/,
    },
    { title: 'an unknown field of the scheme', body: { scheme: { width: 3 } }, param: 'scheme.width', says: /unknown/ },
    { title: 'bits 0', body: { scheme: { bits: 0 } }, param: 'scheme.bits', says: /must be 2, 3, 4 or 8; got 0/ },
    { title: 'bits 5', body: { scheme: { bits: 5 } }, param: 'scheme.bits', says: /must be 2, 3, 4 or 8; got 5/ },
    {
      title: 'a group size of 0',
      body: { scheme: { groupSize: 0 } },
      param: 'scheme.groupSize',
      says: /at least 1.*; got 0/,
    },
    {
      title: 'a group size of 1.5',
      body: { scheme: { groupSize: 1.5 } },
      param: 'scheme.groupSize',
      says: /got 1\.5/,
    },
    { title: 'no calibration', body: { calibrationDatasetId: undefined }, param: 'calibrationDatasetId', says: /rtn/ },
    { title: 'an unknown model', body: { modelId: unknownId }, param: 'modelId', says: /upload it first/, status: 404 },
  ])('a job with $title, and makes none', async ({ body, param, says, status = 400 }) => {
    const before = (await client.jobs.list({ limit: 100 })).data.length;
    const response = await fetch(`${server.url}/v1/jobs`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ modelId, calibrationDatasetId, ...body }),
    });
    expect(response.headers.get('content-type')).toBe('application/problem+json');
    const problem = problemSchema.parse(await response.json());
    expect(problem).toMatchObject({ status, param, detail: expect.stringMatching(says), retryable: false });
    expect((await client.jobs.list({ limit: 100 })).data).toHaveLength(before);
  });

  it.each(['', '/events', '/artifacts', '/artifacts/manifest.json'])(
    'an unknown job: GET /v1/jobs/<id>%s',
    async (path) => {
      const response = await fetch(`${server.url}/v1/jobs/${unknownId}${path}`);
      const problem = problemSchema.parse(await response.json());
      expect(problem).toMatchObject({ status: 404, code: 'not_found', detail: expect.stringContaining(unknownId) });
    },
  );

  it('an unknown job of the command line', async () => {
    const failure = await refusalOf(['jobs', 'show', unknownId, '--server', server.url]);
    expect(failure).toMatchObject({ code: 'not_found', message: expect.stringContaining(unknownId) });
  });
});

describe('`cherryq serve` refuses', () => {
  it('a port that is taken, and leaves the data folder as it was', async () => {
    const other = createServer().listen(0, '127.0.0.1');
    await once(other, 'listening');
    const { port } = other.address() as AddressInfo;
    const ownData = join(folder, 'port');
    const failure = await refusalOf(['serve', '--port', String(port), '--data-dir', ownData]);
    other.close();
    expect(failure).toMatchObject({ code: 'port_taken', message: expect.stringContaining(`port ${port}`) });
    expect(hashesOf(ownData)).toEqual({});
  });
});

const canMount = tryToMount();

/** Whether this process may make a small file system of its own: as root, on Linux. */
function tryToMount(): boolean {
  const target = mkdtempSync(join(tmpdir(), 'cherryq-mount-'));
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', target], { stdio: 'ignore' });
    execFileSync('umount', [target], { stdio: 'ignore' });
    return true;
  } catch {
    console.log('not run: a full disk (a tmpfs can only be mounted as root, on Linux)');
    return false;
  } finally {
    rmSync(target, { recursive: true });
  }
}

describe.runIf(canMount)('B14, B16: on a full disk', () => {
  let mount: string;
  let model: string;
  let full: ServerProcess | null = null;
  beforeEach(async () => {
    mount = mkdtempSync(join(tmpdir(), 'cherryq-full-'));
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', mount]);
    model = await writeModelFolder(folder, 'model-for-a-full-disk');
  });
  afterEach(async () => {
    await full?.stop();
    full = null;
    execFileSync('umount', [mount]);
    rmSync(mount, { recursive: true });
  });

  /** Leaves so many KiB. */
  function fill(leftKib: number): void {
    const { bavail, bsize } = statfsSync(mount);
    writeFileSync(join(mount, 'filler'), Buffer.alloc(bavail * bsize - leftKib * 1024));
  }

  it.each([
    { when: 'the model is declared', leftKib: 60, code: 'does_not_fit' },
    { when: 'the model is uploaded', leftKib: 92, code: 'storage_full' },
    { when: 'the job is created', leftKib: 184, code: 'does_not_fit' },
    { when: 'the job begins', leftKib: 184, code: 'storage_full', method: 'rtn' },
    { when: 'the job saves a checkpoint', leftKib: 700, code: 'storage_full' },
  ])('when $when: the command says so, the server answers on, and the next try succeeds', async (given) => {
    const { leftKib, code, method = 'cherryq' } = given;
    full = await serve(join(mount, 'data'), { CHERRYQ_CHECKPOINT_SECONDS: '0' });
    fill(leftKib);
    const out = join(mount, 'out');
    const learns = ['--calibration', calibration, '--sequence-length', '32', '--tokens', '4096'];
    const more = ['--method', method, ...(method === 'rtn' ? [] : learns), '--out', out, '--server', full.url];
    const failure = await refusalOf(['compress', model, '--bits', '3', '--group-size', '16', ...more]);
    expect(failure).toMatchObject({ code, message: expect.stringMatching(/room.*free some space/i) });
    expect(existsSync(out)).toBe(false);
    const unfinished = /\/(artifacts|scratch|checkpoints|\.tmp)\//;
    expect(pathsIn(mount).filter((path) => unfinished.test(path))).toEqual([]);

    const own = new CherryQ({ baseUrl: full.url });
    expect(await own.health.live()).toMatchObject({ status: 'ok' });
    for (const job of (await own.jobs.list()).data) expect(job).toMatchObject({ status: 'failed', result: null });

    rmSync(join(mount, 'filler'));
    const again = await cherryq(['compress', model, '--bits', '3', '--group-size', '16', ...more]);
    expect(again.exitCode, again.stderr).toBe(exitCodes.ok);
  });

  it('under --out: the command says so, leaves nothing that looks finished, and finishes later', async () => {
    fill(40);
    const out = join(mount, 'out');
    const flags = ['--bits', '3', '--group-size', '16', '--sequence-length', '32', '--tokens', '4096'];
    const texts = ['--calibration', calibration, '--out', out, '--server', server.url];
    const failure = await refusalOf(['compress', model, ...flags, ...texts]);
    expect(failure).toMatchObject({ code: 'disk_full', message: expect.stringMatching(/has room for \d+ bytes/) });
    expect(hashesOf(out)).toEqual({});

    rmSync(join(mount, 'filler'));
    const [job] = (await client.jobs.list({ limit: 1 })).data;
    const again = await cherryq(['jobs', 'wait', job.id, '--out', out, '--server', server.url]);
    expect(again.exitCode, again.stderr).toBe(exitCodes.ok);
    expect(pathsIn(out)).toContain('manifest.json');
  });
});
