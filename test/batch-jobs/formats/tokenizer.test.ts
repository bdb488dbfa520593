import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Tokenizer as LibraryTokenizer } from '@huggingface/tokenizers';
import { describe, expect, it } from 'vitest';
import { openTokenizer } from '../../../batch-jobs/src/formats/tokenizer.ts';
import type { Tokenizer } from '../../../batch-jobs/src/formats/tokenizer.ts';
import { FolderStore } from '../../../batch-jobs/src/storage/index.ts';
import { golden } from '../../support/golden.ts';
import { hasSharedData, sharedData } from '../../support/shared-data.ts';
import { temporaryStore } from '../../support/temporary-store.ts';

const special = (id: number, content: string): object => ({
  id,
  content,
  single_word: false,
  lstrip: false,
  rstrip: false,
  normalized: false,
  special: true,
});

/** A small Llama-like tokenizer: no pre-tokenizer, spaces become U+2581, one BOS. */
function llamaLike(): Record<string, unknown> & { model: Record<string, unknown> } {
  const pieces = ['<unk>', '<s>', '</s>', '▁', 'a', 'b', 'c', '\n', '▁a', 'ab', '▁▁', 'bc', '▁ab', 'c▁'];
  return {
    version: '1.0',
    added_tokens: [special(0, '<unk>'), special(1, '<s>'), special(2, '</s>')],
    normalizer: {
      type: 'Sequence',
      normalizers: [
        { type: 'Prepend', prepend: '▁' },
        { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
      ],
    },
    pre_tokenizer: null,
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
      pair: [],
      special_tokens: { '<s>': { id: '<s>', ids: [1], tokens: ['<s>'] } },
    },
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
        { type: 'Fuse' },
        { type: 'Strip', content: ' ', start: 1, stop: 0 },
      ],
    },
    model: {
      type: 'BPE',
      unk_token: '<unk>',
      fuse_unk: true,
      byte_fallback: false,
      vocab: Object.fromEntries(pieces.map((piece, id) => [piece, id])),
      merges: ['▁ a', 'a b', '▁ ▁', 'b c', '▁a b', 'c ▁'],
    },
  };
}

const open = async (files: Record<string, unknown>): Promise<Tokenizer> =>
  openTokenizer(
    await temporaryStore(Object.fromEntries(Object.entries(files).map(([k, v]) => [`m/${k}`, JSON.stringify(v)]))),
    'm/',
  );

describe('openTokenizer', () => {
  it('encodes with and without the template’s BOS and decodes back', async () => {
    const tokenizer = await open({ 'tokenizer.json': llamaLike() });
    expect([...tokenizer.encode('ab c')]).toEqual([1, 12, 3, 6]);
    expect([...tokenizer.encode('ab c', { addSpecialTokens: false })]).toEqual([12, 3, 6]);
    expect(tokenizer.decode(tokenizer.encode('ab c'))).toBe('ab c');
    expect(tokenizer.decode([])).toBe('');
    expect(tokenizer.vocabSize).toBe(14);
    expect(tokenizer.tokenId('</s>')).toBe(2);
    expect(tokenizer.tokenId('nothing')).toBeNull();
  });

  it('encodes long texts to the tokens that the library gives for the whole', async () => {
    const tokenizer = await open({ 'tokenizer.json': llamaLike() });
    const library = new LibraryTokenizer(llamaLike(), {});
    let seed = 1;
    const text = Array.from({ length: 20_000 }, () => {
      seed = (seed * 48271) % 2147483647;
      return 'aabbcc  \nd'[seed % 10];
    }).join('');
    expect([...tokenizer.encode(text)]).toEqual(library.encode(text).ids);
  });

  it('takes BOS and EOS from tokenizer_config.json, then config.json, then the template', async () => {
    const json = llamaLike();
    const ids = async (files: Record<string, unknown>): Promise<(number | null)[]> => {
      const { bosTokenId, eosTokenId } = await open({ 'tokenizer.json': json, ...files });
      return [bosTokenId, eosTokenId];
    };
    expect(await ids({})).toEqual([1, null]);
    expect(await ids({ 'config.json': { bos_token_id: 5, eos_token_id: [2, 4] } })).toEqual([5, 2]);
    const named = { bos_token: { content: '<s>' }, eos_token: '</s>' };
    expect(await ids({ 'tokenizer_config.json': named, 'config.json': { bos_token_id: 5 } })).toEqual([1, 2]);
    expect(await ids({ 'tokenizer_config.json': { bos_token: null } })).toEqual([null, null]);
  });

  it('takes names from special_tokens_map.json where tokenizer_config.json has none', async () => {
    const map = { bos_token: { content: 'a' }, eos_token: '</s>' };
    const { bosTokenId, eosTokenId } = await open({
      'tokenizer.json': llamaLike(),
      'tokenizer_config.json': { bos_token: '<s>' },
      'special_tokens_map.json': map,
    });
    expect([bosTokenId, eosTokenId]).toEqual([1, 2]);
  });

  it('begins no text with BOS where the model says that it was trained without', async () => {
    const phi = { 'tokenizer.json': llamaLike(), 'tokenizer_config.json': { bos_token: '<s>', add_bos_token: false } };
    expect((await open(phi)).bosTokenId).toBeNull();
    const qwen = { 'tokenizer_config.json': { bos_token: null }, 'config.json': { bos_token_id: 5 } };
    expect((await open({ 'tokenizer.json': llamaLike(), ...qwen })).bosTokenId).toBeNull();
  });

  it('does not take what a template puts at the end for BOS', async () => {
    const json = llamaLike();
    json.post_processor = {
      type: 'TemplateProcessing',
      single: [{ Sequence: { id: 'A', type_id: 0 } }, { SpecialToken: { id: '</s>', type_id: 0 } }],
      pair: [],
      special_tokens: { '</s>': { id: '</s>', ids: [2], tokens: ['</s>'] } },
    };
    const tokenizer = await open({ 'tokenizer.json': json });
    expect([...tokenizer.encode('a')]).toEqual([8, 2]);
    expect(tokenizer.bosTokenId).toBeNull();
  });

  it('counts ids, not tokens, for the size of the vocabulary', async () => {
    const json = { ...llamaLike(), added_tokens: [special(1, '<s>'), special(40, '<pad>')] };
    expect((await open({ 'tokenizer.json': json })).vocabSize).toBe(41);
  });

  it('refuses to decode an id outside the vocabulary', async () => {
    const tokenizer = await open({ 'tokenizer.json': llamaLike() });
    for (const id of [14, -1, 0.5]) expect(() => tokenizer.decode([id])).toThrow(RangeError);
  });

  const broken = (change: (json: ReturnType<typeof llamaLike>) => void): unknown => {
    const json = llamaLike();
    change(json);
    return json;
  };
  it.each<[string, RegExp, unknown]>([
    ['that has no model', /must have a vocab; it has nothing/, {}],
    ['with an empty vocabulary', /vocabulary is empty/, { model: { vocab: {} }, added_tokens: [] }],
    ['with a huge id', /the id 4000000000/, broken((json) => (json.model.vocab = { a: 4e9 }))],
    ['with an id that is no number', /"a" with the id "7"/, broken((json) => (json.model.vocab = { a: '7' }))],
    ['without added_tokens', /added_tokens must be an array/, broken((json) => delete json.added_tokens)],
    ['of an unknown model', /its model is "Markov"/, broken((json) => (json.model.type = 'Markov'))],
    ['of an unknown pre-tokenizer', /cannot be used/, broken((json) => (json.pre_tokenizer = { type: 'Magic' }))],
    ['with a merge of one token', /cannot be used.*"ab"/, broken((json) => (json.model.merges = ['ab']))],
    ['without merges', /cannot be used/, broken((json) => delete json.model.merges)],
    [
      'whose template names an unknown token',
      /tokens that its vocabulary does not have/,
      broken((json) => {
        json.post_processor = { type: 'TemplateProcessing', single: [{ SpecialToken: { id: '<x>' } }], pair: [] };
        json.model.unk_token = null;
      }),
    ],
  ])('refuses a tokenizer %s', async (_, message, json) => {
    await expect(open({ 'tokenizer.json': json })).rejects.toMatchObject({
      name: 'InputError',
      code: 'invalid_tokenizer',
      param: 'tokenizer.json',
      message: expect.stringMatching(message),
    });
  });

  it('refuses a missing tokenizer.json and one that is no JSON', async () => {
    await expect(open({})).rejects.toMatchObject({ code: 'missing_file', param: 'tokenizer.json' });
    const damaged = await temporaryStore({ 'tokenizer.json': '{"version":' });
    await expect(openTokenizer(damaged, '')).rejects.toMatchObject({ code: 'invalid_json' });
  });
});

describe('tokenizers of the families', () => {
  const { texts, kinds } = golden<{
    texts: string[];
    kinds: Record<string, { tokenizer: unknown; cases: { ids: number[]; plain: number[]; decoded: string }[] }>;
  }>('tokenizers');

  it.each<[string, number | null]>([
    ['llama3', 422],
    ['qwen', null],
    ['llama2', 1],
    ['mistral', 1],
    ['gemma', 1],
    ['phi3', null],
    ['unigram', null],
  ])(
    'give the ids of Hugging Face tokenizers, of the kind of %s, whose texts begin with %s',
    async (kind, bosTokenId) => {
      const tokenizer = await open({ 'tokenizer.json': kinds[kind].tokenizer });
      for (const [index, { ids, plain, decoded }] of kinds[kind].cases.entries()) {
        expect([...tokenizer.encode(texts[index])]).toEqual(ids);
        expect([...tokenizer.encode(texts[index], { addSpecialTokens: false })]).toEqual(plain);
        expect(tokenizer.decode(plain)).toBe(decoded);
      }
      expect(tokenizer.bosTokenId).toBe(bosTokenId);
    },
  );
});

const shared = sharedData('tokenizers of other projects');
describe.runIf(hasSharedData)('tokenizers of other projects', () => {
  const store = new FolderStore(shared);
  const json = (path: string): { [field: string]: unknown } => JSON.parse(readFileSync(join(shared, path), 'utf8'));

  it.each(['stories260K', 'babyllama-tok105'])('gives the ids that NumPy’s reference of %s used', async (name) => {
    const tokenizer = await openTokenizer(store, `models/${name}/`);
    const reference = json(`models/${name}/reference.json`);
    expect([...tokenizer.encode(String(reference.text))]).toEqual(reference.ids);
    expect([tokenizer.bosTokenId, tokenizer.eosTokenId]).toEqual([1, 2]);
    expect(tokenizer.vocabSize).toBe(json(`models/${name}/config.json`).vocab_size);
    expect(tokenizer.decode(tokenizer.encode(String(reference.text)))).toBe(reference.text);
  });

  it('gives the ids that llama2.c’s own test expects of Llama 2’s tokenizer, which has no other file', async () => {
    const tokenizer = await openTokenizer(store, 'models/llama2-tokenizer/');
    const { cases } = json('fixtures/llama2_tokenizer_cases.json') as { cases: { text: string; ids: number[] }[] };
    for (const { text, ids } of cases) expect([...tokenizer.encode(text)]).toEqual(ids);
    expect(tokenizer.bosTokenId).toBe(1);
  });

  it('encodes a megabyte of text in seconds', async () => {
    const tokenizer = await openTokenizer(store, 'models/llama2-tokenizer/');
    const text = readFileSync(join(shared, 'corpora/shakespeare/tinyshakespeare.txt'), 'utf8');
    const startMs = performance.now();
    // Python's tokenizers 0.23.3 gives as many, the same ones.
    expect(tokenizer.encode(text)).toHaveLength(368_634);
    expect(performance.now() - startMs).toBeLessThan(20_000);
  });
});
