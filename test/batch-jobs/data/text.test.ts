import { describe, expect, it } from 'vitest';
import { encodeText, readText } from '../../../batch-jobs/src/data/text.ts';
import { splitDocuments } from '../../../batch-jobs/src/data/separator.ts';
import type { Tokenizer } from '../../../batch-jobs/src/formats/tokenizer.ts';
import { temporaryStore } from '../../support/temporary-store.ts';

describe('readText', () => {
  it('gives one file as it is', async () => {
    const text = '\n = Title = \r\n\nzwölf Boxkämpfer \u{1F600}\n';
    expect(await readText(await temporaryStore({ 'd/a.txt': text }), 'd/')).toBe(text);
  });

  it('joins files in the order of their paths, and the lines of .jsonl, as documents', async () => {
    const store = await temporaryStore({
      'd/b.txt': 'third',
      'd/a/1.txt': 'first',
      'd/a/2.jsonl': '{"text":"second\\nline","url":"x"}\n\n{"text":"and more"}\n',
      'e/other.txt': 'not read',
    });
    expect(await readText(store, 'd/')).toBe('first<|endoftext|>second\nline<|endoftext|>and more<|endoftext|>third');
  });

  it('leaves out a byte order mark', async () => {
    expect(await readText(await temporaryStore({ 'd/a.txt': '\uFEFFtext' }), 'd/')).toBe('text');
  });

  it.each<[string, string, RegExp, Record<string, Uint8Array | string>]>([
    ['no file', 'empty_text', /no text file under d\//, {}],
    ['an empty file', 'empty_text', /a\.txt is empty \(0 bytes\)/, { 'd/a.txt': '' }],
    ['white space', 'empty_text', /a\.txt holds only white space \(4 bytes\)/, { 'd/a.txt': ' \n\t ' }],
    ['no document in .jsonl', 'empty_text', /a\.jsonl holds only/, { 'd/a.jsonl': '{"text":" "}\n' }],
    ['a NUL byte', 'binary_text', /a\.txt is not text: it has a NUL byte at offset 3/, { 'd/a.txt': 'abc\0def' }],
    [
      'bytes that are not UTF-8',
      'binary_text',
      /offset 4 \(0xfc/,
      { 'd/a.txt': Uint8Array.of(0xc3, 0xbc, 0x62, 0x63, 0xfc, 0x64) },
    ],
    ['a cut character', 'binary_text', /offset 2 \(0xe2/, { 'd/a.txt': Uint8Array.of(0x61, 0x62, 0xe2, 0x82) }],
    ['UTF-16', 'binary_text', /begins like UTF-16/, { 'd/a.txt': Uint8Array.of(0xff, 0xfe, 0x61, 0) }],
    ['gzip', 'binary_text', /begins like gzip/, { 'd/a.txt': Uint8Array.of(0x1f, 0x8b, 8, 0) }],
    [
      'a broken line',
      'invalid_jsonl',
      /Line 2 of a\.jsonl .* it is {"text":/,
      { 'd/a.jsonl': '{"text":"x"}\n{"text":' },
    ],
    ['a line without text', 'invalid_jsonl', /Line 1 of a\.jsonl/, { 'd/a.jsonl': '{"content":"x"}' }],
  ])('refuses %s', async (_, code, message, files) => {
    await expect(readText(await temporaryStore(files), 'd/')).rejects.toMatchObject({
      name: 'InputError',
      code,
      message: expect.stringMatching(message),
    });
  });

  it('names the bad one of many files', async () => {
    const store = await temporaryStore({ 'd/a.txt': 'good', 'd/b.txt': 'bad\0' });
    await expect(readText(store, 'd/')).rejects.toMatchObject({ param: 'b.txt' });
  });
});

describe('splitDocuments', () => {
  it('leaves a text without separators as it is', () => {
    expect(splitDocuments('  one \n')).toEqual(['  one \n']);
  });

  it('trims documents and drops empty ones', () => {
    expect(splitDocuments('one\n<|endoftext|>\n two\n<|endoftext|>\n\n')).toEqual(['one', 'two']);
  });
});

/** Characters as ids; the special ids are below 10. */
function characterTokenizer(special: Partial<Tokenizer> & { endOfText?: number }): Tokenizer {
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

describe('encodeText', () => {
  const text = 'a<|endoftext|>b<|endoftext|>c';
  const [a, b, c] = [97, 98, 99];

  it('puts BOS first and between documents', () => {
    expect([...encodeText(text, characterTokenizer({ bosTokenId: 1, eosTokenId: 2 }))]).toEqual([1, a, 1, b, 1, c]);
  });

  it('prefers the tokenizer’s own <|endoftext|> between documents', () => {
    expect([...encodeText(text, characterTokenizer({ bosTokenId: 1, endOfText: 0 }))]).toEqual([1, a, 0, b, 0, c]);
  });

  it('uses EOS where there is no BOS, and nothing where there is neither', () => {
    expect([...encodeText(text, characterTokenizer({ eosTokenId: 2 }))]).toEqual([a, 2, b, 2, c]);
    expect([...encodeText(text, characterTokenizer({}))]).toEqual([a, b, c]);
  });

  it('puts BOS once before a text without separators', () => {
    expect([...encodeText('ab', characterTokenizer({ bosTokenId: 1 }))]).toEqual([1, a, b]);
  });
});
