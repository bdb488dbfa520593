import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { readDataset, readTokens } from '../../../batch-jobs/src/data/dataset.ts';
import type { DatasetOptions, DatasetProgress, TextModel } from '../../../batch-jobs/src/data/dataset.ts';
import { openChatTemplate } from '../../../batch-jobs/src/formats/chat-template.ts';
import { openTokenizer } from '../../../batch-jobs/src/formats/tokenizer.ts';
import type { Tokenizer } from '../../../batch-jobs/src/formats/tokenizer.ts';
import { FolderStore } from '../../../batch-jobs/src/storage/index.ts';
import { golden } from '../../support/golden.ts';
import { hasSharedData, sharedData } from '../../support/shared-data.ts';
import { temporaryStore } from '../../support/temporary-store.ts';

/** Characters as ids; the special ids are below 10. */
function characterTokenizer(special: Partial<Tokenizer> & { endOfText?: number } = {}): Tokenizer {
  return {
    vocabSize: 256,
    bosTokenId: null,
    eosTokenId: null,
    encode: (text) => Int32Array.from(text, (character) => character.charCodeAt(0)),
    decode: (ids) => String.fromCharCode(...Array.from(ids)),
    tokenId: () => special.endOfText ?? null,
    ...special,
  };
}

const withBos: TextModel = { tokenizer: characterTokenizer({ bosTokenId: 1, eosTokenId: 2 }), template: null };
const [a, b, c] = [97, 98, 99];
const lists = (windows: readonly Int32Array[]): number[][] => windows.map((window) => [...window]);
const hashOf = (windows: readonly Int32Array[]): string => {
  const hash = createHash('sha256');
  for (const window of windows) for (const id of window) hash.update(Uint8Array.of(id, id >> 8, id >> 16, id >> 24));
  return hash.digest('hex');
};
const jsonl = (...records: unknown[]): string => records.map((record) => `${JSON.stringify(record)}\n`).join('');

async function read(files: Record<string, string>, options: Partial<DatasetOptions> = {}) {
  const store = await temporaryStore(files);
  return readDataset(store, 'd/', { ...withBos, windows: 'packed', sequenceLength: 3, ...options });
}

describe('packed windows', () => {
  const text = 'aaa<|endoftext|>bb<|endoftext|>cccc';

  it('cut documents one after another, BOS first and between, and leave the rest out', async () => {
    const dataset = await read({ 'd/a.txt': text });
    expect(lists(dataset.windows)).toEqual([
      [1, a, a],
      [a, 1, b],
      [b, 1, c],
      [c, c, c],
    ]);
    expect(dataset).toMatchObject({ documents: 3, usedDocuments: 3, tokens: 9, sha256: hashOf(dataset.windows) });
  });

  it('prefer the tokenizer’s own <|endoftext|> between documents, use EOS without BOS, and nothing without either', async () => {
    const streams = [{ bosTokenId: 1, endOfText: 0 }, { eosTokenId: 2 }, {}].map(async (special) => {
      const tokenizer = characterTokenizer(special);
      return (
        await readTokens(await temporaryStore({ 'd/a.txt': 'a<|endoftext|>b' }), 'd/', { tokenizer, template: null })
      ).ids;
    });
    expect(lists(await Promise.all(streams))).toEqual([
      [1, a, 0, b],
      [a, 2, b],
      [a, b],
    ]);
  });

  it('are the same however the documents lie in files', async () => {
    const whole = await read({ 'd/a.txt': text });
    const parts = { 'd/1.jsonl': jsonl({ text: 'aaa' }, { text: 'bb' }), 'd/2.txt': 'cccc' };
    expect((await read(parts)).sha256).toBe(whole.sha256);
    expect((await read({ 'd/a.txt': `${text}ccc` })).sha256).not.toBe(whole.sha256);
    expect((await read({ 'd/a.txt': `${text}cc` })).sha256).toBe(whole.sha256);
  });

  it('lie whole where they are longer than a chunk of memory, and where chunks end', async () => {
    const long = 'ab'.repeat(700_000);
    for (const sequenceLength of [1000, 1_100_000]) {
      const { windows } = await read({ 'd/a.txt': long }, { sequenceLength });
      expect(windows).toHaveLength(Math.floor((long.length + 1) / sequenceLength));
      expect(windows.every((window) => window.length === sequenceLength)).toBe(true);
      expect([...windows[windows.length - 1].subarray(-2)]).toEqual([b, a]);
    }
  });

  it('say how many tokens there are when they are too few', async () => {
    await expect(read({ 'd/a.txt': 'abc' }, { sequenceLength: 8 })).rejects.toMatchObject({
      code: 'text_too_short',
      param: 'sequenceLength',
      message: 'The text has 4 tokens; one window needs 8. Give a longer text or a smaller sequenceLength.',
    });
  });
});

describe('documents as windows', () => {
  const files = { 'd/a.jsonl': jsonl({ text: 'ab' }, { text: 'abc' }, { text: 'a' }, { text: 'cccccc' }) };

  it('are the beginnings of the documents that are long enough, BOS included', async () => {
    const dataset = await read(files, { windows: 'documents' });
    expect(lists(dataset.windows)).toEqual([
      [1, a, b],
      [1, a, b],
      [1, c, c],
    ]);
    expect(dataset).toMatchObject({ documents: 4, usedDocuments: 3, tokens: 12, sha256: hashOf(dataset.windows) });
  });

  it('have no BOS where the tokenizer has none', async () => {
    const { windows } = await read(files, { windows: 'documents', tokenizer: characterTokenizer() });
    expect(lists(windows)).toEqual([
      [a, b, c],
      [c, c, c],
    ]);
  });

  it('name the longest document when none is long enough', async () => {
    await expect(read(files, { windows: 'documents', sequenceLength: 8 })).rejects.toMatchObject({
      code: 'text_too_short',
      message:
        'None of the 4 documents has the 8 tokens of a window; the longest has 7. Give a longer text or a smaller ' +
        'sequenceLength, or windows: packed.',
    });
  });

  it('are the first ones where a bound is given, and nothing after them is read', async () => {
    const broken = { ...files, 'd/b.jsonl': '{' };
    const { windows, documents } = await read(broken, { windows: 'documents', maxWindows: 2 });
    expect(lists(windows)).toEqual([
      [1, a, b],
      [1, a, b],
    ]);
    expect(documents).toBe(2);
    await expect(read(broken, { windows: 'documents' })).rejects.toMatchObject({ code: 'invalid_jsonl' });
    expect((await read({ 'd/a.txt': 'abcabcabc' }, { maxWindows: 2 })).windows).toHaveLength(2);
  });
});

describe('conversations', () => {
  const messages = [
    { role: 'user', content: 'b' },
    { role: 'assistant', content: 'c' },
  ];
  const files = { 'd/a.jsonl': jsonl({ messages }, { messages: [messages[0]] }) };
  const open = async (chatTemplate: string): Promise<TextModel> => {
    const config = { bos_token: '\u0001', chat_template: chatTemplate };
    const template = await openChatTemplate(
      await temporaryStore({ 'tokenizer_config.json': JSON.stringify(config) }),
      '',
    );
    return { ...withBos, template };
  };

  it('are what the template writes, with no token added before or between', async () => {
    const model = await open('{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}');
    const store = await temporaryStore(files);
    expect([...(await readTokens(store, 'd/', model)).ids]).toEqual([1, b, c, 1, b]);
    expect(lists((await read(files, { ...model, windows: 'documents' })).windows)).toEqual([[1, b, c]]);
    const without = await open('{% for m in messages %}{{ m.content }}{% endfor %}');
    expect([...(await readTokens(store, 'd/', without)).ids]).toEqual([b, c, b]);
  });

  it('may stand beside texts', async () => {
    const model = await open('{{ bos_token }}{{ messages[0].content }}');
    const store = await temporaryStore({ ...files, 'd/b.txt': 'a' });
    expect([...(await readTokens(store, 'd/', model)).ids]).toEqual([1, b, 1, b, 1, a]);
  });

  it('are refused by a model without a template, saying what to do', async () => {
    await expect(read(files)).rejects.toMatchObject({
      code: 'no_chat_template',
      param: 'a.jsonl',
      message: expect.stringMatching(
        /conversation in line 1 of a\.jsonl, but the model has no chat template .* Add the chat_template\.jinja/,
      ),
    });
  });

  it('that a template refuses are named', async () => {
    const model = await open("{% if messages | length < 2 %}{{ raise_exception('too short') }}{% endif %}");
    await expect(read(files, model)).rejects.toMatchObject({
      code: 'chat_template_failed',
      message: expect.stringContaining('refuses line 2 of a.jsonl: too short'),
    });
  });

  it('give the ids that the template’s special tokens have, once each', async () => {
    const { kinds } = golden<{ kinds: Record<string, { tokenizer: unknown }> }>('tokenizers');
    const { templates } = golden<{ templates: Record<string, string> }>('chat_templates');
    const store = await temporaryStore({
      ...files,
      'm/tokenizer.json': JSON.stringify(kinds.llama2.tokenizer),
      'm/tokenizer_config.json': JSON.stringify({
        bos_token: '<s>',
        eos_token: '</s>',
        chat_template: templates.llama2,
      }),
    });
    const model = { tokenizer: await openTokenizer(store, 'm/'), template: await openChatTemplate(store, 'm/') };
    const ids = [...(await readTokens(store, 'd/', model)).ids];
    expect(ids.filter((id) => id === 1)).toHaveLength(2);
    expect(ids.filter((id) => id === 2)).toHaveLength(1);
    expect(model.tokenizer.decode(ids)).toContain('[INST] b [/INST] c');
  });
});

describe('readTokens', () => {
  it('ends after the tokens that are asked for, and reads no further', async () => {
    const store = await temporaryStore({ 'd/a.txt': 'abc', 'd/b.jsonl': '{' });
    const { ids, sha256, documents } = await readTokens(store, 'd/', { ...withBos, maxTokens: 3 });
    expect([...ids]).toEqual([1, a, b]);
    expect([sha256, documents]).toEqual([hashOf([ids]), 1]);
  });

  it('may give less than one window', async () => {
    expect([...(await readTokens(await temporaryStore({ 'd/a.txt': 'a' }), 'd/a.txt', withBos)).ids]).toEqual([1, a]);
  });
});

it('tells how far it is while it reads', async () => {
  const heard: DatasetProgress[] = [];
  // Slow enough for several reports.
  const tokenizer: Tokenizer = {
    ...withBos.tokenizer,
    encode(text) {
      const untilMs = performance.now() + 30;
      while (performance.now() < untilMs);
      return withBos.tokenizer.encode(text);
    },
  };
  const files = { 'd/a.txt': Array.from({ length: 20 }, () => 'a'.repeat(30_000)).join('<|endoftext|>') };
  await read(files, { tokenizer, onProgress: (progress) => heard.push(progress) });
  expect(heard.length).toBeGreaterThan(1);
  for (const [index, { documents, tokens, tokensPerSecond, fraction }] of heard.entries()) {
    expect(tokens).toBe(30_000 * documents);
    expect(documents).toBeGreaterThan(heard[index - 1]?.documents ?? 0);
    expect(tokensPerSecond).toBeGreaterThan(0);
    expect(fraction).toBeGreaterThanOrEqual(heard[index - 1]?.fraction ?? 0);
    expect(fraction).toBeLessThanOrEqual(1);
  }
});

const shared = sharedData('published datasets by the published rule');
describe.runIf(hasSharedData)('published datasets', () => {
  it('give the windows of C4 that Python’s tokenizers give, by Llama 2’s tokenizer', async () => {
    const store = new FolderStore(shared);
    const tokenizer = await openTokenizer(store, 'models/llama2-tokenizer/');
    const dataset = await readDataset(store, 'corpora/c4/', {
      tokenizer,
      template: null,
      windows: 'documents',
      sequenceLength: 2048,
    });
    // By tokenizers 0.23.3: documents of at least 2048 tokens, BOS included, cut to these; the hash of their int32.
    expect(dataset).toMatchObject({
      documents: 1000,
      usedDocuments: 36,
      tokens: 546_361,
      sha256: '45e233985c15b11821e38c31c1ca6f1bf887577489955b9d7ac10c1694e81cd5',
    });
  });
});
