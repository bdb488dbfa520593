import { describe, expect, it } from 'vitest';
import { assertFinite, openModelFolder } from '../../../batch-jobs/src/formats/model-folder.ts';
import { readTensor, safetensorsBytes } from '../../../batch-jobs/src/formats/safetensors.ts';
import { FolderStore } from '../../../batch-jobs/src/storage/index.ts';
import { hasSharedData, sharedData } from '../../support/shared-data.ts';
import { temporaryStore } from '../../support/temporary-store.ts';

async function weights(...names: string[]): Promise<Uint8Array> {
  const { chunks } = safetensorsBytes(
    names.map((name) => ({ name, dtype: 'F32', shape: [2], data: new Uint8Array(Float32Array.of(1, 2).buffer) })),
  );
  const parts: Uint8Array[] = [];
  for await (const chunk of chunks) parts.push(chunk);
  return Buffer.concat(parts);
}

const index = (map: Record<string, unknown>): string =>
  JSON.stringify({ metadata: { total_size: 1 }, weight_map: map });
const small = { 'm/config.json': '{"model_type":"llama"}', 'm/tokenizer.json': '{}' };
const [one, two] = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'];

const [model, second] = [await weights('a'), await weights('b')];

describe('openModelFolder', () => {
  it('opens a folder with one file of weights', async () => {
    const file = await weights('a', 'b');
    const store = await temporaryStore({ ...small, 'm/model.safetensors': file });
    const folder = await openModelFolder(store, 'm/');
    expect(folder).toMatchObject({ prefix: 'm/', format: 'original', configJson: { model_type: 'llama' } });
    expect([...folder.tensors.keys()]).toEqual(['a', 'b']);
    expect(folder.weightBytes).toBe(file.length);
  });

  it('opens a sharded folder and finds each tensor in its shard', async () => {
    const shards = [await weights('a', 'b'), await weights('c')];
    const store = await temporaryStore({
      ...small,
      [`m/${one}`]: shards[0],
      [`m/${two}`]: shards[1],
      'm/model.safetensors.index.json': index({ a: one, b: one, c: two }),
    });
    const folder = await openModelFolder(store, 'm/');
    expect([...folder.tensors.values()].map(({ name, key }) => [name, key])).toEqual([
      ['a', `m/${one}`],
      ['b', `m/${one}`],
      ['c', `m/${two}`],
    ]);
    expect(folder.weightBytes).toBe(shards[0].length + shards[1].length);
  });

  it('takes along the small files a copy needs, and neither weights nor config nor README', async () => {
    const side = [
      'LICENSE',
      'LICENSE.txt',
      'chat_template.jinja',
      'generation_config.json',
      'merges.txt',
      'special_tokens_map.json',
      'tokenizer.json',
      'tokenizer.model',
      'tokenizer_config.json',
      'vocab.json',
    ];
    const other = ['README.md', 'pytorch_model.bin', '.gitattributes', 'original/tokenizer.model', 'training_args.bin'];
    const store = await temporaryStore({
      ...small,
      ...Object.fromEntries([...side, ...other].map((path) => [`m/${path}`, 'x'])),
      'm/model.safetensors': await weights('a'),
    });
    expect((await openModelFolder(store, 'm/')).sideFiles).toEqual(side);
  });

  /** Repositories as they are published, without weights, config.json and README.md: what to take along, and what not. */
  it.each<[string, string[], string[]]>([
    [
      'Llama 3.2 1B Instruct',
      'LICENSE.txt USE_POLICY.md generation_config.json special_tokens_map.json tokenizer.json tokenizer_config.json'.split(
        ' ',
      ),
      'original/consolidated.00.pth original/params.json original/tokenizer.model'.split(' '),
    ],
    [
      'Mistral 7B Instruct v0.3',
      'chat_template.jinja generation_config.json special_tokens_map.json tokenizer.json tokenizer.model tokenizer.model.v3 tokenizer_config.json'.split(
        ' ',
      ),
      ['consolidated.safetensors', 'params.json'],
    ],
    [
      'Mistral Small 3.1',
      'generation_config.json preprocessor_config.json processor_config.json special_tokens_map.json tekken.json tokenizer.json tokenizer_config.json'.split(
        ' ',
      ),
      ['SYSTEM_PROMPT.txt', 'params.json'],
    ],
    [
      'Qwen2.5 0.5B Instruct',
      'LICENSE generation_config.json merges.txt tokenizer.json tokenizer_config.json vocab.json'.split(' '),
      [],
    ],
    [
      'Qwen3 0.6B, saved by transformers 5',
      'LICENSE additional_chat_templates/rag.jinja additional_chat_templates/tool_use.jinja chat_template.jinja generation_config.json merges.txt tokenizer.json tokenizer_config.json vocab.json'.split(
        ' ',
      ),
      ['additional_chat_templates/notes/draft.jinja', 'runs/events.out'],
    ],
    [
      'Gemma 3 4B',
      'added_tokens.json chat_template.json generation_config.json preprocessor_config.json processor_config.json special_tokens_map.json tokenizer.json tokenizer.model tokenizer_config.json'.split(
        ' ',
      ),
      [],
    ],
    [
      'Phi-3 mini',
      'LICENSE NOTICE.md added_tokens.json configuration_phi3.py generation_config.json modeling_phi3.py special_tokens_map.json tokenizer.json tokenizer.model tokenizer_config.json'.split(
        ' ',
      ),
      ['CODE_OF_CONDUCT.md', 'SECURITY.md', 'sample_finetune.py'],
    ],
  ])('takes along what %s has beside its weights', async (_, side, other) => {
    const store = await temporaryStore({
      ...Object.fromEntries([...side, ...other, 'README.md', '.gitattributes'].map((path) => [`m/${path}`, 'x'])),
      ...small,
      'm/model.safetensors': model,
    });
    expect((await openModelFolder(store, 'm/')).sideFiles).toEqual(side);
  });

  it('knows a model in CherryQ’s own format', async () => {
    const store = await temporaryStore({
      ...small,
      'm/config.json': '{"quantization_config":{"quant_method":"cherryq"}}',
      'm/model.safetensors': await weights('a'),
    });
    expect((await openModelFolder(store, 'm/')).format).toBe('native');
  });

  const missingShard = { [`m/${one}`]: model, 'm/model.safetensors.index.json': index({ a: one, b: two }) };
  const bothShards = { [`m/${one}`]: model, [`m/${two}`]: second };
  const withIndex = (map: Record<string, unknown>): Record<string, Uint8Array | string> => ({
    ...small,
    ...bothShards,
    'm/model.safetensors.index.json': index(map),
  });
  it.each<[string, string, string | null, RegExp, Record<string, Uint8Array | string>]>([
    ['that is empty', 'missing_file', 'config.json', /holds no file/, {}],
    ['without config.json', 'missing_file', 'config.json', /holds tokenizer.json/, { 'm/tokenizer.json': '{}' }],
    ['without weights', 'missing_file', 'model.safetensors', /no model.safetensors/, small],
    [
      'without a tokenizer',
      'missing_file',
      'tokenizer.json',
      /no tokenizer.json/,
      { 'm/config.json': '{}', 'm/model.safetensors': model },
    ],
    [
      'whose weights are pickled',
      'unsupported_weights',
      'pytorch_model.bin',
      /pytorch_model.bin; only safetensors/,
      { ...small, 'm/pytorch_model.bin': 'x' },
    ],
    [
      'with a missing shard',
      'missing_shard',
      two,
      new RegExp(`${two} is not there; the folder holds ${one}`),
      { ...small, ...missingShard },
    ],
    [
      'whose index names a tensor that no shard has',
      'index_mismatch',
      'c',
      /no shard has it/,
      withIndex({ a: one, b: two, c: two }),
    ],
    [
      'whose index puts a tensor into the wrong shard',
      'index_mismatch',
      'a',
      /but it is in model-00001/,
      withIndex({ a: two, b: one }),
    ],
    [
      'whose index leads out of the folder',
      'invalid_index',
      'a',
      /"\.\.\/x\.safetensors"/,
      withIndex({ a: '../x.safetensors' }),
    ],
    ['whose index has no weight_map', 'invalid_index', 'model.safetensors.index.json', /weight_map/, withIndex({})],
    [
      'whose config.json is damaged',
      'invalid_json',
      'm/config.json',
      /not valid JSON/,
      { ...small, 'm/config.json': '{"a":' },
    ],
    [
      'whose config.json is a list',
      'invalid_json',
      'm/config.json',
      /JSON object; it holds \[\]/,
      { ...small, 'm/config.json': '[]' },
    ],
    [
      'that is quantized by another method',
      'already_quantized',
      'config.json',
      /"gptq"/,
      { ...small, 'm/config.json': '{"quantization_config":{"quant_method":"gptq"}}' },
    ],
    [
      'whose weights are damaged',
      'safetensors_too_short',
      'm/model.safetensors',
      /3 bytes/,
      { ...small, 'm/model.safetensors': 'abc' },
    ],
  ])('refuses a folder %s', async (_, code, param, message, files) => {
    const store = await temporaryStore(files);
    await expect(openModelFolder(store, 'm/')).rejects.toMatchObject({
      name: 'InputError',
      code,
      param,
      message: expect.stringMatching(message),
    });
  });

  it('refuses a shard with a tensor that the index does not name, or that another shard has', async () => {
    const unnamed = await temporaryStore({ ...withIndex({ a: one, b: two }), [`m/${two}`]: await weights('b', 'x') });
    await expect(openModelFolder(unnamed, 'm/')).rejects.toMatchObject({ code: 'index_mismatch', param: 'x' });
    const doubled = await temporaryStore({ ...withIndex({ a: one, b: two }), [`m/${two}`]: await weights('b', 'a') });
    await expect(openModelFolder(doubled, 'm/')).rejects.toMatchObject({ code: 'index_mismatch', param: 'a' });
  });
});

describe('assertFinite', () => {
  it('passes finite values, extremes and zeros included', () => {
    assertFinite(Float32Array.of(0, -0, 3.4e38, -3.4e38, 1e-45), 'w');
    assertFinite(new Float32Array(0), 'w');
  });

  it('names the tensor, the first bad value and how many there are', () => {
    expect(() => assertFinite(Float32Array.of(1, NaN, 2, Infinity, -Infinity), 'layer.weight')).toThrow(
      expect.objectContaining({
        code: 'nan_weights',
        param: 'layer.weight',
        message: expect.stringMatching(/"layer.weight" has 3 of 5 values .* index 1, is NaN/),
      }),
    );
  });
});

const shared = sharedData('model folders of other projects');
describe.runIf(hasSharedData)('models of other projects', () => {
  it.each([
    ['stories260K', 260_032],
    ['babyllama-tok105', 936_448],
  ])('opens %s with its %i parameters, all finite', async (name, parameters) => {
    const store = new FolderStore(shared);
    const folder = await openModelFolder(store, `models/${name}/`);
    expect(folder.format).toBe('original');
    expect(folder.sideFiles).toEqual(['generation_config.json', 'tokenizer.json', 'tokenizer_config.json']);
    let count = 0;
    for (const info of folder.tensors.values()) {
      const values = await readTensor(store, info);
      assertFinite(values, info.name);
      count += values.length;
    }
    expect(count).toBe(parameters);
  });
});
