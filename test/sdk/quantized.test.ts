import { readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { InputError, openQuantized, type FileSource } from 'cherryq';
import { loadQuantized } from 'cherryq/node';
import { openModel } from '../../batch-jobs/src/model-weights.ts';
import { FolderStore } from '../../batch-jobs/src/storage/index.ts';
import { compressTiny, everyKindOfScheme, writeNativeFolder } from '../support/native-folder.ts';
import { temporaryFolder } from '../support/temporary-store.ts';

const q = 'model.layers.0.self_attn.q_proj';

async function write(settings: (typeof everyKindOfScheme)[number]): Promise<string> {
  const folder = temporaryFolder();
  await writeNativeFolder(folder, compressTiny(settings));
  return folder;
}

describe.each(everyKindOfScheme)('a result of %j', (settings) => {
  it("is read as the trainer's own reader reads it", async () => {
    const folder = await write(settings);
    const model = await loadQuantized(folder);
    const own = await openModel(new FolderStore(folder), '');
    expect(model.names.toSorted()).toEqual([...own.shapes.keys()].toSorted());
    for (const [name, shape] of own.shapes) {
      expect(await model.dequantize(name), name).toEqual(await own.weights.read(name));
      expect((await model.read(name)).shape, name).toEqual(shape);
    }
  });
});

describe('loadQuantized', () => {
  it("gives a layer's parts as typed arrays", async () => {
    const model = await loadQuantized(await write({ method: 'cherryq', bits: 3, groupSize: 16, cherryFraction: 0.1 }));
    expect(model.quantization).toMatchObject({ bits: 3, group_size: 16, levels: 'midRise' });
    const tensor = await model.read(`${q}.weight`);
    if (tensor.kind !== 'quantized') throw new Error('it is quantized');
    expect(tensor).toMatchObject({ shape: [32, 32], packedZeros: null, columnScales: null, cherriesPerRow: 4 });
    // 28 integers of 3 bits, two groups, four cherries in each of 32 rows.
    expect(
      [tensor.packed, tensor.scales, tensor.cherryWeight, tensor.cherryColumns].map(({ length }) => length),
    ).toEqual([11, 2, 4, 4].map((each) => 32 * each));
    expect(await model.read('model.norm.weight')).toMatchObject({ kind: 'plain', shape: [32] });
  });

  it('reads from whatever has ranges of bytes, such as Blobs, and reads no more than it must', async () => {
    const folder = await write({ method: 'rtn', bits: 4 });
    const blobs = new Map<string, Blob>();
    for (const name of ['config.json', 'model.safetensors'])
      blobs.set(name, new Blob([await readFile(join(folder, name))]));
    let bytes = 0;
    const source: FileSource = {
      sizeOf: (path) => Promise.resolve(blobs.get(path)?.size ?? null),
      async read(path, start, end) {
        bytes += end - start;
        return new Uint8Array((await blobs.get(path)?.slice(start, end).arrayBuffer()) ?? new ArrayBuffer(0));
      },
    };
    const model = await openQuantized(source);
    const toOpen = bytes;
    expect(await model.dequantize(`${q}.weight`)).toEqual(
      await (await loadQuantized(folder)).dequantize(`${q}.weight`),
    );
    // 16 bytes and two scales and zero points for each of 32 rows.
    expect(bytes - toOpen).toBe(32 * (16 + 2 * 2 + 1));
  });

  it('names what is not there', async () => {
    const model = await loadQuantized(await write({ method: 'rtn', bits: 4 }));
    await expect(model.dequantize('model.layers.9.mlp.up_proj.weight')).rejects.toThrow(
      'tensor model.layers.9.mlp.up_proj.weight is not there',
    );
    await expect(loadQuantized(temporaryFolder())).rejects.toThrow('There is no config.json');
  });
});

/** Damages a folder's file.  @param change of its text, which must keep its length for the weights */
async function damaged(path: string, change: (text: string) => string): Promise<string> {
  const folder = await write({ method: 'cherryq', bits: 3, groupSize: 16, cherryFraction: 0.1 });
  const text = await readFile(join(folder, path), 'latin1');
  const changed = change(text);
  expect(changed).not.toBe(text);
  await writeFile(join(folder, path), changed, 'latin1');
  return folder;
}

const readAll = async (folder: string): Promise<void> => {
  const model = await loadQuantized(folder);
  for (const name of model.names) await model.dequantize(name);
};

describe('a damaged result is refused by name', () => {
  const config = (field: string, value: unknown) => (text: string) => {
    const all = JSON.parse(text) as { quantization_config: Record<string, unknown> } & Record<string, unknown>;
    if (field in all.quantization_config) all.quantization_config[field] = value;
    else all[field] = value;
    return JSON.stringify(all);
  };
  const tensor = (name: string, from: RegExp, to: string) => (text: string) => {
    const at = text.indexOf(`"${name}"`);
    return text.slice(0, at) + text.slice(at).replace(from, to);
  };
  it.each<[string, string, (text: string) => string, string]>([
    ['a width that there is not', 'config.json', config('bits', 5), 'quantization_config.bits is 5'],
    ['a version to come', 'config.json', config('format_version', 2), 'quantization_config.format_version is 2'],
    ['another width of bits', 'config.json', config('bits', 4), `${q.slice(0, 15)}`],
    ['another hidden size', 'config.json', config('hidden_size', 64), 'config.json asks for U8'],
    ['a hidden size of millions', 'config.json', config('hidden_size', 1e9), 'a whole number from 1 to 65,536'],
    ['a config that is no JSON', 'config.json', (text) => text.slice(1), 'config.json is not valid JSON'],
    [
      'a header longer than the file',
      'model.safetensors',
      (text) => `\xff${text.slice(1, 5)}\xff${text.slice(6)}`,
      'claims a header of',
    ],
    ['a dtype that there is not', 'model.safetensors', tensor(`${q}.scales`, /F16/, 'F99'), `${q}.scales is F99`],
    [
      'a shape that the bytes do not hold',
      'model.safetensors',
      tensor(`${q}.scales`, /\[32,2\]/, '[99,2]'),
      `tensor ${q}.scales lies at`,
    ],
    [
      'parts of other types',
      'model.safetensors',
      tensor(`${q}.cherry_weight`, /F16/, 'I16'),
      `${q}.cherry_weight is I16 [32, 4]`,
    ],
  ])('%s', async (_, path, change, message) => {
    const reading = readAll(await damaged(path, change));
    await expect(reading).rejects.toThrow(InputError);
    await expect(reading).rejects.toThrow(message);
  });

  it('columns of cherries that are not in the row, and scales that are no numbers', async () => {
    const folder = await write({ method: 'cherryq', bits: 3, groupSize: 16, cherryFraction: 0.1 });
    const path = join(folder, 'model.safetensors');
    const whole = await readFile(path);
    const header = JSON.parse(whole.toString('utf8', 8, 8 + whole.readUInt32LE())) as Record<
      string,
      { data_offsets: number[] }
    >;
    const startOf = (name: string): number => 8 + whole.readUInt32LE() + header[name].data_offsets[0];
    for (const [part, value, message] of [
      ['cherry_indices', 0x7fff, 'has the column 65535 in row 0; they must ascend below 32'],
      ['scales', 0x7c00, 'holds Infinity at 0'],
      ['cherry_weight', 0x7e00, 'holds NaN at 0'],
    ] as const) {
      const bytes = Buffer.from(whole);
      bytes.writeUInt16LE(value, startOf(`${q}.${part}`));
      await writeFile(path, bytes);
      await expect(readAll(folder)).rejects.toThrow(`tensor ${q}.${part} ${message}`);
    }
  });

  it('a file that was cut', async () => {
    const folder = await write({ method: 'rtn', bits: 2 });
    const path = join(folder, 'model.safetensors');
    const { length } = await readFile(path);
    for (const left of [0, 7, 100, length - 1]) {
      await truncate(path, left);
      await expect(readAll(folder), `${left} bytes`).rejects.toThrow(InputError);
    }
  });
});
