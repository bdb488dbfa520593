/** Models that no job could use: refused when they are completed, or while they come in. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { modelSchema, type Problem } from 'cherryq/contract';
import { safetensorsBytes } from '../../batch-jobs/src/formats/safetensors.ts';
import {
  declarationOf,
  jsonRequest,
  openTestApi,
  read,
  readProblem,
  uploadModel,
  type TestApi,
} from '../support/api.ts';
import { tinyConfig, tinyModelFiles, tinyTokenizer, tinyWeights } from '../support/tiny-model.ts';

let api: TestApi;
beforeAll(async () => (api = await openTestApi()));
afterAll(() => api.close());

type Files = Record<string, Uint8Array<ArrayBuffer>>;
const json = (value: unknown): Uint8Array<ArrayBuffer> => new TextEncoder().encode(JSON.stringify(value));
const tiny = await tinyModelFiles();

async function declare(files: Files): Promise<string> {
  const request = jsonRequest('POST', { name: 'bad', files: declarationOf(files) });
  return (await read(await api.app.request('/v1/models', request), 201, modelSchema)).id;
}
const put = async (id: string, path: string, body: BodyInit): Promise<Response> =>
  api.app.request(`/v1/models/${id}/files/${path}`, { method: 'PUT', body });
const complete = async (id: string): Promise<Response> =>
  api.app.request(`/v1/models/${id}/complete`, { method: 'POST' });

/** What is said of a model at the end, all of its files having been taken. */
async function refusalOf(files: Files): Promise<Problem> {
  const id = await declare(files);
  for (const [path, body] of Object.entries(files)) expect((await put(id, path, body)).status, path).toBe(204);
  const problem = await readProblem(await complete(id), 'invalid_model');
  const { status } = await read(await api.app.request(`/v1/models/${id}`), 200, modelSchema);
  expect(status).toBe('uploading');
  return problem;
}

/** Weights in two files, and the index that names them. */
async function inShards(): Promise<Files> {
  const weights = [...tinyWeights()];
  const files = without(tiny, 'model.safetensors');
  const shardOf: Record<string, string> = {};
  for (const [index, part] of [weights.slice(0, 7), weights.slice(7)].entries()) {
    const path = `model-0000${index + 1}-of-00002.safetensors`;
    for (const [name] of part) shardOf[name] = path;
    files[path] = await weightsFile(new Map(part));
  }
  return { ...files, 'model.safetensors.index.json': json({ weight_map: shardOf }) };
}

const without = (files: Files, path: string): Files =>
  Object.fromEntries(Object.entries(files).filter(([name]) => name !== path));

async function weightsFile(
  weights: ReadonlyMap<string, Float32Array>,
  dtype: 'F32' | 'I32' = 'F32',
): Promise<Uint8Array<ArrayBuffer>> {
  const tensors = [...weights].map(([name, values]) => ({
    name,
    dtype,
    shape: name.endsWith('norm.weight') ? [32] : [values.length / columnsOf(name), columnsOf(name)],
    data: new Uint8Array(values.buffer),
  }));
  const pieces: Uint8Array[] = [];
  for await (const piece of safetensorsBytes(tensors).chunks) pieces.push(piece);
  return new Uint8Array(Buffer.concat(pieces));
}
const columnsOf = (name: string): number => (name.endsWith('down_proj.weight') ? 44 : 32);

describe('while a file comes in', () => {
  it.each([
    ['B15: a header of no JSON', 'model.safetensors', new Uint8Array(64).fill(32), /claims a header of/],
    ['B15: a header cut short', 'model.safetensors', tiny['model.safetensors'].slice(0, 500), /claims a header of/],
    ['B15: data cut short', 'model.safetensors', tiny['model.safetensors'].slice(0, -8), /cut short: copy it again/],
    ['B15: too few bytes for a header', 'model.safetensors', new Uint8Array(3), /has 3 bytes/],
    ['a family that is not read', 'config.json', json({ architectures: ['MambaForCausalLM'] }), /supported are/],
    ['a config without a field', 'config.json', json({ ...tinyConfig, hidden_size: undefined }), /hidden_size/],
    ['weights packed by others', 'config.json', json({ quantization_config: { quant_method: 'gptq' } }), /gptq/],
    ['a config that is no JSON', 'config.json', new TextEncoder().encode('{"architectures"'), /not valid JSON/],
  ])('%s is refused, and nothing kept', async (_, path, content, says) => {
    const id = await declare({ ...tiny, [path]: content });
    const problem = await readProblem(await put(id, path, content), 'invalid_model');
    expect(problem.detail).toMatch(says);
    expect(problem.detail).toContain('Create the upload anew');
    expect(await api.store.list(`tenants/local/models/${id}/files/`)).toEqual([]);
  });

  it('B14: an index that names shards that are not declared is refused before any of them is sent', async () => {
    const files = without(await inShards(), 'model-00002-of-00002.safetensors');
    const id = await declare(files);
    const path = 'model.safetensors.index.json';
    const problem = await readProblem(await put(id, path, files[path]), 'invalid_model');
    expect(problem.param).toBe('model-00002-of-00002.safetensors');
    expect(problem.detail).toContain('names 2 shards, but model-00002-of-00002.safetensors is not there');
  });

  it('a header is read across pieces of any size', async () => {
    const id = await declare(tiny);
    const weights = tiny['model.safetensors'];
    const pieces = new ReadableStream<Uint8Array>({
      start(controller) {
        for (let at = 0; at < weights.length; at += at < 3000 ? 3 : 1 << 16)
          controller.enqueue(weights.slice(at, at + (at < 3000 ? 3 : 1 << 16)));
        controller.close();
      },
    });
    const init = { method: 'PUT', body: pieces, duplex: 'half' };
    expect((await api.app.request(`/v1/models/${id}/files/model.safetensors`, init)).status).toBe(204);
  });
});

describe('when it is completed, a model is refused', () => {
  it('without its tokenizer', async () => {
    const problem = await refusalOf(without(tiny, 'tokenizer.json'));
    expect(problem).toMatchObject({
      param: 'tokenizer.json',
      detail: expect.stringContaining('has no tokenizer.json'),
    });
  });

  it('without weights', async () => {
    expect((await refusalOf(without(tiny, 'model.safetensors'))).param).toBe('model.safetensors');
  });

  it('with all that is wrong at once', async () => {
    const weights = tinyWeights();
    weights.delete('model.norm.weight');
    weights.delete('model.layers.1.mlp.up_proj.weight');
    weights.set('model.layers.2.input_layernorm.weight', new Float32Array(32));
    const vocab = { ...tinyTokenizer.model.vocab, whale: 106 };
    const problem = await refusalOf({
      ...tiny,
      'model.safetensors': await weightsFile(weights),
      'tokenizer.json': json({ ...tinyTokenizer, model: { ...tinyTokenizer.model, vocab } }),
    });
    expect(problem.detail).toContain('and 3 more problems');
    expect(problem.errors?.map(({ pointer }) => pointer)).toEqual([
      '/model.layers.1.mlp.up_proj.weight',
      '/model.norm.weight',
      '/model.layers.2.input_layernorm.weight',
      '/tokenizer.json',
    ]);
  });

  it('with a head of its own that config.json does not ask for, or the other way round', async () => {
    const problem = await refusalOf({ ...tiny, 'config.json': json({ ...tinyConfig, tie_word_embeddings: false }) });
    expect(problem.detail).toMatch(/no tensor "lm_head.weight".*tie_word_embeddings": true/);
  });

  it('with numbers of a kind that is not read', async () => {
    const problem = await refusalOf({ ...tiny, 'model.safetensors': await weightsFile(tinyWeights(), 'I32') });
    expect(problem.detail).toContain('is I32; weights must be F32, F16 or BF16');
  });

  it('whose index puts a tensor into the wrong shard', async () => {
    const files = await inShards();
    const path = 'model.safetensors.index.json';
    const { weight_map: shardOf } = JSON.parse(new TextDecoder().decode(files[path])) as {
      weight_map: Record<string, string>;
    };
    shardOf['model.embed_tokens.weight'] = 'model-00002-of-00002.safetensors';
    const problem = await refusalOf({ ...files, [path]: json({ weight_map: shardOf }) });
    expect(problem.param).toBe('model.embed_tokens.weight');
  });

  it('but not one in shards that fit together', async () => {
    expect(await uploadModel(api, 'sharded', await inShards())).toMatchObject({ status: 'ready' });
  });
});
