import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { brotliCompressSync, gzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { readDocuments } from '../../../batch-jobs/src/data/documents.ts';
import type { Document } from '../../../batch-jobs/src/data/records.ts';
import { FolderStore } from '../../../batch-jobs/src/storage/index.ts';
import type { Store } from '../../../batch-jobs/src/storage/index.ts';
import { golden } from '../../support/golden.ts';
import { hasSharedData, sharedData } from '../../support/shared-data.ts';
import { temporaryStore } from '../../support/temporary-store.ts';

async function read(store: Store, prefix = 'd/'): Promise<Document[]> {
  const documents: Document[] = [];
  for await (const document of readDocuments(store, prefix)) documents.push(document);
  return documents;
}

type Files = Record<string, Uint8Array | string>;
const readFiles = async (files: Files): Promise<Document[]> => read(await temporaryStore(files));
const textsOf = (documents: readonly Document[]): string[] =>
  documents.map((document) => (document.kind === 'text' ? document.text : 'a conversation'));
const messagesOf = (documents: readonly Document[]): unknown[] =>
  documents.map((document) => (document.kind === 'conversation' ? document.messages : 'a text'));
const lines = (...records: unknown[]): string => records.map((record) => `${JSON.stringify(record)}\n`).join('');
const user = (content: string): object => ({ role: 'user', content });
const assistant = (content: string): object => ({ role: 'assistant', content });

describe('plain text', () => {
  it('is one document as it is, without its byte order mark', async () => {
    const text = '\n = Title = \r\n\nzwölf Boxkämpfer \u{1F600}\n';
    expect(textsOf(await readFiles({ 'd/a.txt': `\uFEFF${text}` }))).toEqual([text]);
  });

  it('is parted by <|endoftext|>, without the white space around it and without empty parts', async () => {
    const text = ' one\n<|endoftext|>\n two <|endoftext|>\n<|endoftext|> three ';
    expect(textsOf(await readFiles({ 'd/a.txt': text }))).toEqual(['one', 'two', 'three']);
  });

  it('is the same wherever its chunks are cut, characters and separators included', async () => {
    // More than the chunks of a store, so that separators and characters of 2 to 4 bytes fall on their ends.
    const documents = Array.from({ length: 9000 }, (_, i) => `é${'你🙂a'.repeat(1 + (i % 7))}-${i}`);
    const text = documents.join('<|endoftext|>');
    expect(Buffer.byteLength(text)).toBeGreaterThan(3 * 2 ** 17);
    expect(textsOf(await readFiles({ 'd/a.txt': text }))).toEqual(documents);
    const odd = Buffer.concat([Buffer.from('x'), Buffer.from(text)]);
    expect(textsOf(await readFiles({ 'd/a.txt': odd }))).toEqual([`x${documents[0]}`, ...documents.slice(1)]);
  });

  it('comes in the order of the paths, from any depth, or from the one file that is named', async () => {
    const store = await temporaryStore({
      'd/b.txt': '3',
      'd/a/1.txt': '1',
      'd/a/2.md': '2',
      'e/other.txt': '4',
      'd/b.txt2': '5',
    });
    expect(textsOf(await read(store))).toEqual(['1', '2', '3', '5']);
    expect(textsOf(await read(store, 'd/b.txt'))).toEqual(['3']);
  });

  it('may be compressed with gzip', async () => {
    expect(textsOf(await readFiles({ 'd/a.txt.gz': gzipSync('one<|endoftext|>two') }))).toEqual(['one', 'two']);
    const text = 'Long enough for several chunks. '.repeat(20_000);
    expect(textsOf(await readFiles({ 'd/a.gz': gzipSync(text) }))).toEqual([text]);
  });
});

describe('JSON', () => {
  it('has a record a line in .jsonl and .ndjson, empty lines left out', async () => {
    const files = {
      'd/a.jsonl': `{"text":" one\\n","url":"x"}\r\n\n{"content":"two"}`,
      'd/b.ndjson.gz': gzipSync('{"text":"three"}\n'),
    };
    expect(textsOf(await readFiles(files))).toEqual([' one\n', 'two', 'three']);
  });

  it('has an array, or lines, in .json', async () => {
    const array = JSON.stringify([{ text: 'one' }, { text: 'two' }], null, 2);
    expect(
      textsOf(await readFiles({ 'd/a.json': `\n ${array}`, 'd/b.json.gz': gzipSync(lines({ text: 'three' })) })),
    ).toEqual(['one', 'two', 'three']);
  });

  it('has texts that are parted as plain text is', async () => {
    expect(textsOf(await readFiles({ 'd/a.jsonl': lines({ text: 'a<|endoftext|> b' }) }))).toEqual(['a', 'b']);
  });
});

describe('conversations', () => {
  const chat = async (...records: unknown[]): Promise<unknown[]> =>
    messagesOf(await readFiles({ 'd/a.jsonl': lines(...records) }));

  it('are OpenAI’s messages, null fields left out, parts of text joined, arguments of calls parsed', async () => {
    const call = (args: unknown): object => ({ id: 'c1', type: 'function', function: { name: 'f', arguments: args } });
    const parts = [
      { type: 'text', text: 'a' },
      { type: 'text', text: 'b' },
    ];
    expect(
      await chat({
        messages: [
          { role: 'system', content: 'Short.', name: null },
          { role: 'user', content: parts },
          { role: 'assistant', content: null, tool_calls: [call('{"x":1}')] },
          { role: 'tool', content: '2', tool_call_id: 'c1' },
        ],
      }),
    ).toEqual([
      [
        { role: 'system', content: 'Short.' },
        user('ab'),
        { role: 'assistant', content: '', tool_calls: [call({ x: 1 })] },
        { role: 'tool', content: '2', tool_call_id: 'c1' },
      ],
    ]);
  });

  it('are ShareGPT’s turns, roles by other names, calls and observations included', async () => {
    const conversations = [
      { from: 'human', value: 'Hi' },
      { from: 'function_call', value: '{"name":"f","arguments":{"x":1}}' },
      { from: 'observation', value: '7' },
      { from: 'gpt', value: 'Seven' },
    ];
    const tools = '[{"name":"f","parameters":{}}]';
    const [first] = await readFiles({ 'd/a.json': JSON.stringify([{ conversations, system: 'Be kind.', tools }]) });
    expect(first).toEqual({
      kind: 'conversation',
      messages: [
        { role: 'system', content: 'Be kind.' },
        user('Hi'),
        {
          role: 'assistant',
          content: '',
          tool_calls: [{ type: 'function', function: { name: 'f', arguments: { x: 1 } } }],
        },
        { role: 'tool', content: '7' },
        assistant('Seven'),
      ],
      tools: [{ type: 'function', function: { name: 'f', parameters: {} } }],
      place: { path: 'a.json', unit: 'record', number: 1 },
    });
  });

  it('are prompts with completions, instructions with outputs, and questions alone', async () => {
    expect(
      await chat(
        { prompt: 'p', completion: 'c' },
        { prompt: [user('p')], completion: [assistant('c')] },
        { instruction: 'Add', input: '1 and 2', output: '3' },
        { instruction: 'Say hi', input: '', output: 'hi' },
        { turns: ['First?', 'Second?'] },
      ),
    ).toEqual([
      [user('p'), assistant('c')],
      [user('p'), assistant('c')],
      [user('Add\n\n1 and 2'), assistant('3')],
      [user('Say hi'), assistant('hi')],
      [user('First?')],
      [user('Second?')],
    ]);
  });

  it('come before a text in the same record', async () => {
    expect(await chat({ text: 'User: Hi', messages: [user('Hi')] })).toEqual([[user('Hi')]]);
  });
});

describe('Parquet', () => {
  const { texts, conversations, files } = golden<{
    texts: string[];
    conversations: object[][];
    files: Record<string, string>;
  }>('parquet');
  const file = (name: string): Buffer => Buffer.from(files[name], 'base64');

  it.each(['none', 'snappy', 'gzip', 'zstd', 'brotli', 'lz4', 'pages_v2'])(
    'gives what pyarrow wrote (%s)',
    async (name) => {
      expect(textsOf(await readFiles({ 'd/a.parquet': file(name) }))).toEqual(texts);
    },
  );

  it('gives conversations', async () => {
    expect(messagesOf(await readFiles({ 'd/a.parquet': file('chat') }))).toEqual(conversations);
  });

  it('reads the needed columns only, row group by row group', async () => {
    const whole = await temporaryStore({ 'd/a.parquet': file('none') });
    const asked: number[] = [];
    const counting: Store = Object.assign(Object.create(whole) as Store, {
      get: async (key: string, range: { start: number; end: number }) => {
        asked.push(range.end - range.start);
        return whole.get(key, range);
      },
      list: whole.list.bind(whole),
    });
    const documents = readDocuments(counting, 'd/');
    await documents.next();
    const [ending, footer, ...first] = asked;
    expect([ending, footer]).toEqual([8, file('none').length]);
    const firstBytes = first.reduce((sum, bytes) => sum + bytes, 0);
    for await (const document of documents) expect(document.kind).toBe('text');
    expect(firstBytes).toBeGreaterThan(0);
    expect(asked.slice(2).reduce((sum, bytes) => sum + bytes, 0)).toBeGreaterThan(firstBytes);
    expect(asked.slice(2).reduce((sum, bytes) => sum + bytes, 0)).toBeLessThan(file('none').length / 2);
  });

  it.each<[string, string, RegExp, Uint8Array]>([
    ['cut short', 'invalid_parquet', /a\.parquet is not a Parquet file .*PAR1/, file('snappy').subarray(0, 400)],
    ['of some bytes', 'invalid_parquet', /a\.parquet is not a Parquet file/, Buffer.from('PAR1')],
    ['empty', 'invalid_parquet', /a\.parquet is not a Parquet file/, new Uint8Array(0)],
    [
      'with a footer longer than itself',
      'invalid_parquet',
      /exceeds available/,
      Buffer.from('PAR1....\xff\xff\0\0PAR1', 'latin1'),
    ],
    [
      'with a huge footer',
      'parquet_too_large',
      /a footer of 2147483647 bytes/,
      Buffer.from('PAR1....\xff\xff\xff\x7fPAR1', 'latin1'),
    ],
    ['with damaged pages', 'invalid_parquet', /a\.parquet is not a Parquet file/, file('zstd').fill(0xee, 4, 500)],
    [
      'with a damaged footer',
      'invalid_parquet',
      /a\.parquet is not a Parquet file/,
      file('zstd').fill(0xee, file('zstd').length - 300, file('zstd').length - 9),
    ],
    [
      'without a column to read',
      'invalid_record',
      /a\.parquet has no column to read; it has "question", "answer"\. Read are "messages"/,
      file('no_text'),
    ],
    [
      'with numbers as text',
      'invalid_record',
      /"text" must be a string; in row 1 of a\.parquet it is 1\./,
      file('numbers'),
    ],
    ['with a text missing', 'invalid_record', /row 2 of a\.parquet has "text" \(null\)\./, file('missing_texts')],
  ])('is refused when it is %s', async (_, code, message, bytes) => {
    await expect(readFiles({ 'd/a.parquet': bytes })).rejects.toMatchObject({
      name: 'InputError',
      code,
      param: 'a.parquet',
      message: expect.stringMatching(message),
    });
  });

  it('does not take the store’s own errors for the file’s', async () => {
    const whole = await temporaryStore({ 'd/a.parquet': file('none') });
    const failing: Store = Object.assign(Object.create(whole) as Store, {
      get: () => Promise.reject(new Error('the network is down')),
      list: whole.list.bind(whole),
    });
    await expect(read(failing)).rejects.toThrow('the network is down');
  });
});

describe('readDocuments', () => {
  const messages = (value: unknown): string => lines({ messages: value });
  it.each<[string, string, RegExp, Files]>([
    ['no file', 'empty_text', /no text file under d\//, {}],
    ['an empty file', 'empty_text', /a\.txt is empty \(0 bytes\)/, { 'd/a.txt': '' }],
    ['white space', 'empty_text', /a\.txt holds only white space .*\(4 bytes\)/, { 'd/a.txt': ' \n\t ' }],
    ['empty records', 'empty_text', /a\.jsonl holds only/, { 'd/a.jsonl': '{"text":" "}\n' }],
    ['an empty array', 'empty_text', /a\.json holds only/, { 'd/a.json': '[]' }],
    ['an empty .json', 'empty_text', /a\.json is empty/, { 'd/a.json': '' }],
    ['an empty file among others', 'empty_text', /b\.txt is empty/, { 'd/a.txt': 'x', 'd/b.txt': '' }],
    ['a NUL byte', 'binary_text', /a\.txt is not text: it has a NUL byte at offset 3/, { 'd/a.txt': 'abc\0def' }],
    [
      'bytes that are not UTF-8',
      'binary_text',
      /offset 4 \(0xfc/,
      { 'd/a.txt': Uint8Array.of(0xc3, 0xbc, 0x62, 0x63, 0xfc, 0x64) },
    ],
    ['a cut character', 'binary_text', /offset 2 \(0xe2/, { 'd/a.txt': Uint8Array.of(0x61, 0x62, 0xe2, 0x82) }],
    [
      'a wrong byte far into the file',
      'binary_text',
      /offset 300001 \(0xff/,
      { 'd/a.txt': Buffer.concat([Buffer.from(`\u00e9${'a'.repeat(299_999)}`), Uint8Array.of(0xff)]) },
    ],
    ['UTF-16', 'binary_text', /begins like UTF-16/, { 'd/a.txt': Uint8Array.of(0xff, 0xfe, 0x61, 0) }],
    ['gzip by another name', 'binary_text', /begins like gzip \(name it \.gz\)/, { 'd/a.txt': gzipSync('text') }],
    [
      'text by the name of gzip',
      'invalid_gzip',
      /a\.txt\.gz is not a whole gzip file \(incorrect header/,
      { 'd/a.txt.gz': 'text' },
    ],
    [
      'gzip that is cut short',
      'invalid_gzip',
      /is not a whole gzip file \(unexpected end/,
      { 'd/a.txt.gz': gzipSync('text '.repeat(999)).subarray(0, 30) },
    ],
    [
      'gzip with a damaged middle',
      'invalid_gzip',
      /is not a whole gzip file/,
      { 'd/a.txt.gz': gzipSync(brotliCompressSync(Buffer.alloc(99))).fill(0, 12, 20) },
    ],
    [
      'gzip made to fill memory',
      'invalid_gzip',
      /expands to more than 256 times its \d+ bytes/,
      { 'd/a.txt.gz': gzipSync(Buffer.alloc(2 ** 25, ' ')) },
    ],
    [
      'a line that is no JSON',
      'invalid_jsonl',
      /Line 2 of a\.jsonl is not JSON .* begins {"text":/,
      { 'd/a.jsonl': '{"text":"x"}\n{"text":' },
    ],
    ['an array cut short', 'invalid_json', /a\.json is not valid JSON/, { 'd/a.json': '[{"text":"x"},' }],
    ['a single object over lines', 'invalid_jsonl', /Line 1 of a\.json is not JSON/, { 'd/a.json': '{\n"text":"x"}' }],
    [
      'a record without text',
      'invalid_record',
      /line 1 of a\.jsonl has "title", "url"\./,
      { 'd/a.jsonl': lines({ title: 'x', url: 'y' }) },
    ],
    [
      'a record that is no object',
      'invalid_record',
      /record 2 of a\.json is "b"\./,
      { 'd/a.json': '[{"text":"a"},"b"]' },
    ],
    [
      'a text that is a number',
      'invalid_record',
      /"text" must be a string; in line 1 of a\.jsonl it is 7/,
      { 'd/a.jsonl': lines({ text: 7 }) },
    ],
    [
      'a conversation without messages',
      'invalid_conversation',
      /conversation of line 2 of a\.jsonl has no messages/,
      { 'd/a.jsonl': messages([user('x')]) + messages([]) },
    ],
    ['messages that are no array', 'invalid_conversation', /has "hi" as "messages"/, { 'd/a.jsonl': messages('hi') }],
    [
      'a message without a role',
      'invalid_conversation',
      /has {"content":"x"} among its messages/,
      { 'd/a.jsonl': messages([{ content: 'x' }]) },
    ],
    [
      'a message without content',
      'invalid_conversation',
      /has nothing as a content/,
      { 'd/a.jsonl': messages([{ role: 'user' }]) },
    ],
    [
      'an image in a message',
      'invalid_conversation',
      /it must be text/,
      { 'd/a.jsonl': messages([{ role: 'user', content: [{ type: 'image' }] }]) },
    ],
    [
      'an unknown role',
      'invalid_conversation',
      /has a turn from "narrator"; read are human, user/,
      { 'd/a.jsonl': lines({ conversations: [{ from: 'narrator', value: 'x' }] }) },
    ],
    [
      'tools that are no list',
      'invalid_conversation',
      /as "tools"/,
      { 'd/a.jsonl': lines({ messages: [user('x')], tools: '{' }) },
    ],
  ])('refuses %s', async (_, code, message, files) => {
    await expect(readFiles(files)).rejects.toMatchObject({
      name: 'InputError',
      code,
      message: expect.stringMatching(message),
    });
  });

  it('says how many of the stored bytes are read', async () => {
    const files: Files = {
      'd/a.txt': 'x'.repeat(300_000),
      'd/b.jsonl.gz': gzipSync(lines({ text: 'y' })),
      'd/c.parquet': Buffer.from(golden<{ files: Record<string, string> }>('parquet').files.zstd, 'base64'),
    };
    let readBytes = 0;
    for await (const document of readDocuments(await temporaryStore(files), 'd/', (bytes) => (readBytes += bytes))) {
      expect(document.kind).toBe('text');
    }
    expect(readBytes).toBe(Object.values(files).reduce((sum, file) => sum + file.length, 0));
  });

  it('lets a reader stop in the middle', async () => {
    const store = await temporaryStore({ 'd/a.txt.gz': gzipSync(`${'text '.repeat(99)}<|endoftext|>`.repeat(9999)) });
    for await (const document of readDocuments(store, 'd/')) {
      expect(document.kind).toBe('text');
      break;
    }
  });
});

const shared = sharedData('published datasets');
describe.runIf(hasSharedData)('published datasets', () => {
  const corpus = (path: string): Promise<Document[]> => read(new FolderStore(shared), `corpora/${path}`);

  it('gives the 1000 documents of C4 as they are', async () => {
    const raw = readFileSync(join(shared, 'corpora/c4/c4_en_train00000_first1000.jsonl'), 'utf8').trimEnd().split('\n');
    expect(textsOf(await corpus('c4/'))).toEqual(raw.map((line) => (JSON.parse(line) as { text: string }).text));
  });

  it('gives the 300 conversations of Glaive, with calls and tools', async () => {
    const conversations = await corpus('chat/glaive_toolcall_en_demo.sharegpt.json');
    expect(conversations).toHaveLength(300);
    const [{ messages: first }] = conversations.flatMap((document) =>
      document.kind === 'conversation' ? [document] : [],
    );
    expect(first.slice(0, 5).map(({ role }) => role)).toEqual(['user', 'assistant', 'user', 'assistant', 'tool']);
    expect(first[3].tool_calls).toEqual([
      {
        type: 'function',
        function: { name: 'search_recipes', arguments: { ingredients: ['chicken', 'bell peppers', 'rice'] } },
      },
    ]);
    const withTools = conversations.filter((document) => document.kind === 'conversation' && document.tools !== null);
    expect(withTools.length).toBeGreaterThan(100);
  });

  it('gives the two questions of each of MT-bench’s 80', async () => {
    expect(await corpus('chat/mt_bench_80.jsonl')).toHaveLength(160);
  });

  it('gives WikiText-2 as one document, byte for byte', async () => {
    const raw = readFileSync(join(shared, 'corpora/wikitext2/wiki.test.raw'), 'utf8');
    expect(textsOf(await corpus('wikitext2/wiki.test.raw'))).toEqual([raw]);
  });
});
