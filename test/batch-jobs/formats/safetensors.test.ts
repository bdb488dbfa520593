import { describe, expect, it } from 'vitest';
import {
  openSafetensors,
  readTensor,
  readTensorBytes,
  safetensorsBytes,
} from '../../../batch-jobs/src/formats/safetensors.ts';
import type { TensorToWrite } from '../../../batch-jobs/src/formats/safetensors.ts';
import { FolderStore } from '../../../batch-jobs/src/storage/index.ts';
import { formatsGolden, goldenBytes, goldenNumber } from '../../support/golden.ts';
import { hasSharedData, sharedData } from '../../support/shared-data.ts';
import { temporaryStore } from '../../support/temporary-store.ts';

/** A file with this header text and so many bytes of data. */
function fileOf(header: string, dataBytes: number, claimedBytes?: bigint): Uint8Array {
  const json = new TextEncoder().encode(header);
  const file = new Uint8Array(8 + json.length + dataBytes);
  new DataView(file.buffer).setBigUint64(0, claimedBytes ?? BigInt(json.length), true);
  file.set(json, 8);
  return file;
}

async function collect(chunks: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for await (const chunk of chunks) parts.push(chunk);
  return new Uint8Array(Buffer.concat(parts));
}

const bytesOf = (values: Float32Array | Uint16Array): Uint8Array => new Uint8Array(values.buffer);

describe('openSafetensors', () => {
  it('reads what the Python library wrote: names, dtypes, shapes, metadata and every value', async () => {
    const store = await temporaryStore({ 'formats.safetensors': goldenBytes('formats.safetensors') });
    const { metadata, tensors } = await openSafetensors(store, 'formats.safetensors');
    const golden = formatsGolden().tensors;
    expect(metadata).toEqual({ format: 'np', note: 'golden' });
    expect([...tensors.keys()].sort()).toEqual(Object.keys(golden).sort());
    for (const [name, info] of tensors) {
      expect(info.shape).toEqual(golden[name].shape);
      if (!['F32', 'F16', 'BF16'].includes(info.dtype)) continue;
      expect([...(await readTensor(store, info))]).toEqual(golden[name].values.map(goldenNumber));
    }
    const integers = tensors.get('1');
    expect(integers?.dtype).toBe('I8');
    if (integers) {
      expect([...new Int8Array((await readTensorBytes(store, integers)).buffer)]).toEqual(golden['1'].values);
    }
  });

  it('refuses a file that is not there', async () => {
    await expect(openSafetensors(await temporaryStore(), 'model.safetensors')).rejects.toThrow(
      expect.objectContaining({ code: 'missing_file', param: 'model.safetensors' }),
    );
  });

  const f32 = (shape: string, offsets: string): string => `{"dtype":"F32","shape":${shape},"data_offsets":${offsets}}`;
  const [a, b] = [f32('[2]', '[0,8]'), f32('[2]', '[8,16]')];
  it.each<[string, string, RegExp, Uint8Array]>([
    ['shorter than 8 bytes', 'safetensors_too_short', /5 bytes/, new Uint8Array(5)],
    ['with a header of 0 bytes', 'safetensors_header_length', /a header of 0 bytes/, fileOf('', 100)],
    ['claiming 2^60 bytes', 'safetensors_header_length', /1152921504606846976 bytes/, fileOf('{}', 0, 2n ** 60n)],
    ['claiming more than 100 MB', 'safetensors_header_length', /limit is 100000000/, fileOf('{}', 0, 100_000_001n)],
    ['cut within the header', 'safetensors_header_length', /of 500 bytes; 2 follow/, fileOf('{}', 0, 500n)],
    ['whose header is no JSON', 'safetensors_header_json', /not valid JSON/, fileOf('{"a":', 0)],
    ['whose header is no UTF-8', 'safetensors_header_json', /UTF-8/, fileOf('{"a"', 0).fill(0xff, 9)],
    ['whose header is an array', 'safetensors_header_json', /JSON object; it is \[1\]/, fileOf('[1]', 0)],
    ['whose header begins with a space', 'safetensors_header_json', /JSON object/, fileOf(' {}', 0)],
    ['with metadata that are no strings', 'safetensors_metadata', /{"a":1}/, fileOf('{"__metadata__":{"a":1}}', 0)],
    ['naming a tensor twice', 'safetensors_duplicate_name', /"a" twice/, fileOf(`{"a":${a},"a":${b}}`, 16)],
    [
      'naming a tensor twice by an escape',
      'safetensors_duplicate_name',
      /"a" twice/,
      fileOf(`{"a":${a},"\\u0061":${b}}`, 16),
    ],
    ['with a tensor that is a number', 'safetensors_tensor_entry', /described by 3/, fileOf('{"a":3}', 0)],
    [
      'with an unknown dtype',
      'safetensors_dtype',
      /dtype "F31"; known are/,
      fileOf(`{"a":${a.replace('F32', 'F31')}}`, 8),
    ],
    [
      'with a dtype of the object prototype',
      'safetensors_dtype',
      /toString/,
      fileOf(`{"a":${a.replace('F32', 'toString')}}`, 8),
    ],
    ['with a negative size', 'safetensors_shape', /\[-2\]/, fileOf(`{"a":${f32('[-2]', '[0,8]')}}`, 8)],
    ['with a size that is not whole', 'safetensors_shape', /\[0.5\]/, fileOf(`{"a":${f32('[0.5]', '[0,2]')}}`, 2)],
    ['with a size beyond 2^53', 'safetensors_shape', /shape/, fileOf(`{"a":${f32('[1e17]', '[0,8]')}}`, 8)],
    [
      'whose sizes overflow',
      'safetensors_shape',
      /more bytes than any file/,
      fileOf(`{"a":${f32('[3e9,3e9]', '[0,8]')}}`, 8),
    ],
    ['with three offsets', 'safetensors_offsets', /\[0,8,9\]/, fileOf(`{"a":${f32('[2]', '[0,8,9]')}}`, 8)],
    ['with offsets in reverse', 'safetensors_offsets', /\[8,0\]/, fileOf(`{"a":${f32('[2]', '[8,0]')}}`, 8)],
    ['with a negative offset', 'safetensors_offsets', /\[-8,0\]/, fileOf(`{"a":${f32('[2]', '[-8,0]')}}`, 8)],
    ['without offsets', 'safetensors_offsets', /data_offsets nothing/, fileOf('{"a":{"dtype":"F32","shape":[2]}}', 8)],
    [
      'whose data is not as long as its shape',
      'safetensors_size_mismatch',
      /has 8 bytes.*needs 12/,
      fileOf(`{"a":${f32('[3]', '[0,8]')}}`, 8),
    ],
    [
      'cut within the data',
      'safetensors_truncated',
      /ends at byte 16 of the data.*only 15/,
      fileOf(`{"a":${a},"b":${b}}`, 15),
    ],
    [
      'with offsets far beyond it',
      'safetensors_truncated',
      /only 8/,
      fileOf(`{"a":${f32('[2]', '[4503599627370488,4503599627370496]')}}`, 8),
    ],
    [
      'with overlapping tensors',
      'safetensors_overlap',
      /"b" overlaps tensor "a"/,
      fileOf(`{"a":${a},"b":${f32('[2]', '[4,12]')}}`, 12),
    ],
    ['with two tensors in one place', 'safetensors_overlap', /overlaps/, fileOf(`{"a":${a},"b":${a}}`, 8)],
    [
      'with a hole',
      'safetensors_hole',
      /4 bytes between tensor "a" and tensor "b"/,
      fileOf(`{"a":${a},"b":${f32('[2]', '[12,20]')}}`, 20),
    ],
    ['with a hole before the first tensor', 'safetensors_hole', /8 bytes between the header/, fileOf(`{"b":${b}}`, 16)],
    ['with bytes after the last tensor', 'safetensors_hole', /3 bytes after tensor "a"/, fileOf(`{"a":${a}}`, 11)],
  ])('refuses a file %s', async (_, code, message, file) => {
    const store = await temporaryStore({ 'm.safetensors': file });
    const failure = openSafetensors(store, 'm.safetensors');
    await expect(failure).rejects.toMatchObject({ name: 'InputError', code, message: expect.stringMatching(message) });
    await expect(failure).rejects.toThrow('m.safetensors is not a valid safetensors file');
  });

  it('names the tensor in the error’s param', async () => {
    const store = await temporaryStore({
      m: fileOf('{"layer.weight":{"dtype":"F3","shape":[],"data_offsets":[0,4]}}', 4),
    });
    await expect(openSafetensors(store, 'm')).rejects.toMatchObject({ param: 'layer.weight' });
  });

  it('takes any order of tensors in the header, empty tensors, scalars and no tensor at all', async () => {
    const empty = f32('[0,7]', '[8,8]');
    const store = await temporaryStore({
      mixed: fileOf(`{"b":${b},"none":${empty},"a":${a}} `, 16),
      scalar: fileOf(`{"s":${f32('[]', '[0,4]')}}`, 4),
      nothing: fileOf('{}', 0),
    });
    expect([...(await openSafetensors(store, 'mixed')).tensors.keys()]).toEqual(['a', 'none', 'b']);
    expect((await openSafetensors(store, 'scalar')).tensors.get('s')?.shape).toEqual([]);
    expect((await openSafetensors(store, 'nothing')).tensors.size).toBe(0);
  });
});

describe('readTensor', () => {
  it('refuses to read integers as weights, naming the tensor and its dtype', async () => {
    const store = await temporaryStore({ m: fileOf('{"packed":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}}', 4) });
    const info = (await openSafetensors(store, 'm')).tensors.get('packed');
    expect(info).toBeDefined();
    if (info) {
      await expect(readTensor(store, info)).rejects.toMatchObject({
        code: 'unsupported_dtype',
        param: 'packed',
        message: expect.stringContaining('I32'),
      });
    }
  });

  it('says so when the file has become shorter since it was opened', async () => {
    const file = fileOf('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8);
    const store = await temporaryStore({ m: file });
    const info = (await openSafetensors(store, 'm')).tensors.get('a');
    await store.put('m', file.subarray(0, file.length - 3));
    if (info) await expect(readTensor(store, info)).rejects.toMatchObject({ code: 'file_changed', param: 'm' });
  });
});

describe('safetensorsBytes', () => {
  const tensors: TensorToWrite[] = [
    { name: '10', dtype: 'F32', shape: [2, 1], data: bytesOf(Float32Array.of(1.5, -2)) },
    { name: '2', dtype: 'F16', shape: [3], data: async () => bytesOf(Uint16Array.of(0x3c00, 0xc000, 1)) },
    { name: 'empty', dtype: 'U8', shape: [0], data: new Uint8Array(0) },
    { name: 'bf', dtype: 'BF16', shape: [1], data: bytesOf(Uint16Array.of(0x4049)) },
  ];

  it('writes what the reader reads, in the order given, with data at a multiple of 8', async () => {
    const { sizeBytes, chunks } = safetensorsBytes(tensors, { format: 'pt' });
    const store = await temporaryStore();
    await store.put('m', chunks);
    const file = await openSafetensors(store, 'm');
    expect(file.sizeBytes).toBe(sizeBytes);
    expect(file.metadata).toEqual({ format: 'pt' });
    const infos = [...file.tensors.values()];
    expect(infos.map((info) => info.name)).toEqual(['10', '2', 'empty', 'bf']);
    expect(infos[0].start % 8).toBe(0);
    const values = await Promise.all([infos[0], infos[1], infos[3]].map((info) => readTensor(store, info)));
    expect(values.map((value) => [...value])).toEqual([[1.5, -2], [1, -2, 2 ** -24], [3.140625]]);
  });

  it('gives equal bytes for equal arguments, each time it is read', async () => {
    const once = safetensorsBytes(tensors);
    expect(await collect(once.chunks)).toEqual(await collect(once.chunks));
    expect(await collect(safetensorsBytes(tensors).chunks)).toEqual(await collect(once.chunks));
  });

  it('writes the very bytes that the Python library wrote', async () => {
    const expected = goldenBytes('formats.safetensors');
    const store = await temporaryStore({ golden: expected });
    expect(await rewritten(store, 'golden')).toEqual(expected);
  });

  it('refuses doubled names and data of another length', async () => {
    const four = { dtype: 'F32', shape: [1], data: new Uint8Array(4) } as const;
    expect(() =>
      safetensorsBytes([
        { name: 'a', ...four },
        { name: 'a', ...four },
      ]),
    ).toThrow('the name "a"');
    expect(() => safetensorsBytes([{ name: '__metadata__', ...four }])).toThrow('__metadata__');
    expect(() => safetensorsBytes([{ name: 'a', ...four, shape: [2] }])).toThrow('has 4 bytes of data');
    expect(() => safetensorsBytes([{ name: 'a', ...four, shape: [-1] }])).toThrow('cannot have the shape [-1]');
    const late = safetensorsBytes([{ name: 'a', ...four, data: async () => new Uint8Array(5) }]);
    await expect(collect(late.chunks)).rejects.toThrow('has 5 bytes of data');
  });

  it('takes a tensor in parts, and refuses too few or too many bytes of them', async () => {
    const inParts = (...lengths: number[]) =>
      async function* (): AsyncGenerator<Uint8Array> {
        for (const length of lengths) yield new Uint8Array(length).fill(length);
      };
    const file = (...lengths: number[]) =>
      collect(safetensorsBytes([{ name: 'a', dtype: 'U8', shape: [4], data: inParts(...lengths) }]).chunks);
    expect([...(await file(1, 0, 3)).subarray(-4)]).toEqual([1, 3, 3, 3]);
    await expect(file(1, 2)).rejects.toThrow('has 3 bytes of data');
    await expect(file(3, 2)).rejects.toThrow('has 5 bytes of data');
    await expect(file()).rejects.toThrow('has 0 bytes of data');
  });
});

/** A file read and written again by our own code. */
async function rewritten(store: FolderStore, key: string): Promise<Uint8Array> {
  const { metadata, tensors } = await openSafetensors(store, key);
  const again = [...tensors.values()].map((info) => ({ ...info, data: () => readTensorBytes(store, info) }));
  return collect(safetensorsBytes(again, metadata).chunks);
}

const folder = sharedData('safetensors files of other projects');
describe.runIf(hasSharedData)('files of other projects', () => {
  it.each([
    'fixtures/hadamards.safetensors',
    'models/stories260K/model.safetensors',
    'models/babyllama-tok105/model.safetensors',
  ])('reads %s and writes its data again byte for byte', async (path) => {
    const store = new FolderStore(folder);
    const original = await openSafetensors(store, path);
    expect(original.tensors.size).toBeGreaterThan(10);
    const copies = await temporaryStore({ copy: await rewritten(store, path) });
    const copy = await openSafetensors(copies, 'copy');
    expect(copy.metadata).toEqual(original.metadata);
    expect([...copy.tensors.keys()]).toEqual([...original.tensors.keys()]);
    for (const [name, info] of original.tensors) {
      const copied = copy.tensors.get(name);
      expect(copied).toMatchObject({ dtype: info.dtype, shape: info.shape });
      if (copied === undefined) continue;
      const [before, after] = [await readTensorBytes(store, info), await readTensorBytes(copies, copied)];
      expect(Buffer.compare(before, after)).toBe(0);
    }
  });

  it('finds 66 int8 matrices with metadata in the Hadamard fixture', async () => {
    const { tensors, metadata } = await openSafetensors(new FolderStore(folder), 'fixtures/hadamards.safetensors');
    expect(tensors.size).toBe(66);
    expect(Object.keys(metadata).length).toBeGreaterThan(0);
    for (const { dtype, shape } of tensors.values()) {
      expect(dtype).toBe('I8');
      expect(shape[0]).toBe(shape[1]);
    }
  });
});
