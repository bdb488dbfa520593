import { describe, expect, it } from 'vitest';
import type { Scheme } from 'cherryq/contract';
import { schemeSchema } from 'cherryq/contract';
import type { CompressedModel } from '../../../batch-jobs/src/exporters/exporter.ts';
import { nativeConfig, parseNativeConfig } from '../../../batch-jobs/src/exporters/native-config.ts';
import { native } from '../../../batch-jobs/src/exporters/native.ts';
import { exporters } from '../../../batch-jobs/src/exporters/registry.ts';
import type { TensorInfo, TensorToWrite } from '../../../batch-jobs/src/formats/safetensors.ts';
import { openSafetensors, readTensorBytes, safetensorsBytes } from '../../../batch-jobs/src/formats/safetensors.ts';
import {
  meanStoredBits,
  openModel,
  schemeOf,
  weightsInFiles,
  weightsInMemory,
} from '../../../batch-jobs/src/model-weights.ts';
import { isLinear, tensorShapes } from '../../../batch-jobs/src/models/decoder-config.ts';
import { parseModelConfig } from '../../../batch-jobs/src/models/registry.ts';
import { float16ToFloat32, float32ToFloat16 } from '../../../batch-jobs/src/numeric/dtypes.ts';
import type { Grid } from '../../../batch-jobs/src/numeric/quantizer.ts';
import { dequantizeMatrix, noCherries, quantizeMatrix, storedBits } from '../../../batch-jobs/src/numeric/quantizer.ts';
import type { FolderStore } from '../../../batch-jobs/src/storage/index.ts';
import { compressTiny as compress, everyKindOfScheme } from '../../support/native-folder.ts';
import { temporaryStore } from '../../support/temporary-store.ts';
import { tinyConfig, tinyTokenizer, tinyWeights, writeTinyModel } from '../../support/tiny-model.ts';
import { gridFor } from '../../support/grid.ts';

const q = 'model.layers.0.self_attn.q_proj.weight';
const shapes = tensorShapes(parseModelConfig(tinyConfig));
const halfOf = (values: Float32Array): Float32Array => float16ToFloat32(float32ToFloat16(values));

interface Changes {
  config?: Record<string, unknown>;
  tensors?: (tensors: Map<string, TensorToWrite>) => void;
}

async function write(model: CompressedModel, format: 'native' | 'hf' = 'native', changes: Changes = {}) {
  const exporter = exporters[format];
  const tensors = new Map(exporter.tensors(model).map((tensor) => [tensor.name, tensor]));
  changes.tensors?.(tensors);
  const config = { ...exporter.config(model), ...changes.config };
  const store = await temporaryStore({
    'config.json': JSON.stringify(config),
    'tokenizer.json': JSON.stringify(tinyTokenizer),
  });
  await store.put('model.safetensors', safetensorsBytes([...tensors.values()], exporter.metadata).chunks);
  return store;
}

async function readAll(store: FolderStore): Promise<Map<string, Float32Array>> {
  const model = await openModel(store, '');
  const weights = new Map<string, Float32Array>();
  for (const name of model.shapes.keys()) weights.set(name, await model.weights.read(name));
  return weights;
}

/** What the file must hold, computed without it. */
function expectedValues(model: ReturnType<typeof compress>, name: string): Float32Array {
  const weight = model.values.get(name) as Float32Array;
  if (!isLinear(name)) return halfOf(weight);
  const [, columns] = model.shapes.get(name) as number[];
  const own = { cherries: model.cherries.get(name) ?? noCherries, scales: model.columnScales.get(name) ?? null };
  return dequantizeMatrix(quantizeMatrix(weight, columns, gridFrom(model.scheme), own.cherries, own.scales));
}

function gridFrom({ method, bits, groupSize, quantizer, groups }: Scheme): Grid {
  const published = method === 'rtn' ? { levels: 'asymmetric' as const } : {};
  const levels = quantizer === 'published' ? published : { levels: quantizer };
  return gridFor(bits, groupSize === 'row' ? Infinity : groupSize, { ...levels, aligned: groups === 'aligned' });
}

describe.each(everyKindOfScheme)('a native folder of %j', (settings) => {
  const model = compress(settings);

  it('reads back exactly as it was quantized', async () => {
    const weights = await readAll(await write(model));
    expect([...weights.keys()]).toEqual([...shapes.keys()]);
    for (const [name, values] of weights) expect(values, name).toEqual(expectedValues(model, name));
  });

  it('has the same bytes when it is written again', async () => {
    const [a, b] = [await write(model), await write(model)];
    expect(await b.get('model.safetensors')).toEqual(await a.get('model.safetensors'));
  });

  it('says what it was made with, and what a weight costs', async () => {
    const opened = await openModel(await write(model), '');
    const { method, bits, groupSize, cherryFraction } = model.scheme;
    expect(schemeOf(nativeConfig(model.scheme, model.keepsCherries))).toEqual({
      method,
      bits,
      groupSize,
      cherryFraction: model.keepsCherries ? cherryFraction : 0,
    });
    const grid = gridFrom(model.scheme);
    let total = 0;
    let count = 0;
    for (const [name, [rows, columns]] of shapes) {
      const own = isLinear(name)
        ? storedBits({
            rows,
            columns,
            grid,
            cherries: model.cherries.get(name) ?? noCherries,
            columnScales: model.columnScales.get(name),
          })
        : null;
      if (own === null) expect(opened.storedBits(name), name).toBeNull();
      else expect(opened.storedBits(name), name).toBeCloseTo(own, 10);
      if (own !== null) total += own * rows * columns;
      if (own !== null) count += rows * columns;
    }
    expect(meanStoredBits(opened)).toBeCloseTo(total / count, 10);
  });

  it('has an hf copy with the same weights in float16', async () => {
    const copy = await write(model, 'hf');
    expect((await openModel(copy, '')).native).toBeNull();
    for (const [name, values] of await readAll(copy)) expect(values, name).toEqual(halfOf(expectedValues(model, name)));
  });
});

describe('the native file', () => {
  it('is the same from an original in its file as from one in memory', async () => {
    const store = await temporaryStore();
    const original = tinyWeights();
    await writeTinyModel(store, 'm/', { weights: original });
    const opened = await openModel(store, 'm/');
    const model = compress({ method: 'rtn', bits: 3 });
    const streamed = await write({ ...model, weights: weightsInFiles(store, opened.folder) });
    const fromMemory = await write(model);
    expect(await streamed.get('model.safetensors')).toEqual(await fromMemory.get('model.safetensors'));
  });

  it('has its 16-bit tensors at even offsets, though rows and their bytes be odd in number', async () => {
    const names = ['a.weight', 'b.weight', 'c.weight'];
    const weights = new Map(names.map((name) => [name, Float32Array.from({ length: 21 }, (_, i) => i - 10)]));
    const model = {
      ...compress({ method: 'qat', bits: 8, groupSize: 4 }),
      shapes: new Map(names.map((name) => [name, [3, 7]])),
      weights: weightsInMemory(weights),
      isQuantized: (name: string) => name !== 'b.weight',
    };
    const store = await temporaryStore();
    await store.put('file', safetensorsBytes(native.tensors(model)).chunks);
    const { tensors } = await openSafetensors(store, 'file');
    expect([...tensors.keys()]).toEqual(['a.scales', 'b.weight', 'c.scales', 'a.qweight', 'c.qweight']);
    for (const { dtype, start } of tensors.values()) if (dtype === 'F16') expect(start % 2).toBe(0);
    const matrix = quantizeMatrix(weights.get('c.weight') as Float32Array, 7, gridFor(8, 4), noCherries);
    const info = tensors.get('c.qweight') as TensorInfo;
    expect(await readTensorBytes(store, info)).toEqual(matrix.qweight);
  });
});

const refusal = (code: string, param: string, message: RegExp) =>
  expect.objectContaining({ name: 'InputError', code, param, message: expect.stringMatching(message) });

describe('quantization_config', () => {
  const config = nativeConfig(schemeSchema.parse({}), true);

  it('is read as it was written', () => {
    expect(parseNativeConfig(structuredClone(config))).toEqual(config);
  });

  it.each([
    ['format_version', 2],
    ['format_version', undefined],
    ['bits', 5],
    ['bits', '3'],
    ['bits', null],
    ['group_size', 0],
    ['group_size', -2],
    ['group_size', 1.5],
    ['group_size', undefined],
    ['cherry_fraction', -0.1],
    ['cherry_fraction', 0.5],
    ['cherry_fraction', '1/256'],
    ['method', 'gptq'],
    ['levels', 'published'],
    ['aligned_groups', 'no'],
    ['cherry_mode', 'both'],
    ['column_scales', undefined],
  ])('with a %s of %j is refused by name', async (field, value) => {
    const changed = { ...config, [field]: value };
    const expected = refusal('bad_config', `quantization_config.${field}`, /this version reads/);
    expect(() => parseNativeConfig(changed)).toThrow(expected);
    const store = await write(compress({}), 'native', { config: { quantization_config: changed } });
    await expect(openModel(store, '')).rejects.toEqual(expected);
  });

  it.each([null, [], 'cherryq', 3])('that is %j is refused', (value) => {
    expect(() => parseNativeConfig(value)).toThrow(
      refusal('bad_config', 'quantization_config.format_version', /missing/),
    );
  });
});

describe('a damaged native folder', () => {
  const rows = 32;
  const model = compress({ method: 'cherryq', bits: 3, groupSize: 16, cherryFraction: 0.06 });
  const perRow = 2;
  const module = q.slice(0, -'.weight'.length);
  const readDamaged = async (changes: Changes): Promise<unknown> => readAll(await write(model, 'native', changes));
  const replaced =
    (suffix: string, change: Partial<TensorToWrite>): Changes['tensors'] =>
    (tensors) => {
      const name = `${module}.${suffix}`;
      tensors.set(name, { ...(tensors.get(name) as TensorToWrite), ...change });
    };
  const indices = (...row: number[]): Uint8Array => {
    const all = Int16Array.from({ length: rows * perRow }, (_, i) => (i < perRow ? i : row[i % perRow]) - 32_768);
    return new Uint8Array(all.buffer);
  };

  it.each(['qweight', 'scales', 'cherry_weight', 'cherry_indices'])('without its %s is refused', async (suffix) => {
    const expected =
      suffix === 'qweight'
        ? refusal('missing_tensor', q, /q_proj/)
        : refusal('tensor_shape', `${module}.${suffix}`, /missing/);
    await expect(readDamaged({ tensors: (tensors) => tensors.delete(`${module}.${suffix}`) })).rejects.toEqual(
      expected,
    );
  });

  it.each([
    ['qweight', { shape: [rows, 11], data: new Uint8Array(rows * 11) }, /U8 \[32, 11\].*U8 \[32, 12\]/],
    ['qweight', { shape: [rows * 12], data: new Uint8Array(rows * 12) }, /U8 \[384\]/],
    ['qweight', { dtype: 'I8' }, /I8 \[32, 12\]/],
    ['scales', { shape: [rows, 3], data: new Uint8Array(rows * 6) }, /F16 \[32, 3\].*F16 \[32, 2\]/],
    ['scales', { dtype: 'BF16' }, /BF16/],
    ['cherry_weight', { shape: [rows / 2, 4] }, /F16 \[16, 4\].*F16 \[32, 2\]/],
    ['cherry_indices', { dtype: 'U16' }, /U16/],
  ] satisfies [string, Partial<TensorToWrite>, RegExp][])(
    'with its %s as %j is refused',
    async (suffix, change, message) => {
      await expect(readDamaged({ tensors: replaced(suffix, change) })).rejects.toEqual(
        refusal('tensor_shape', `${module}.${suffix}`, message),
      );
    },
  );

  it.each([
    ['beyond the row', [3, 32], 32],
    ['far beyond the row', [3, 65_535], 65_535],
    ['twice', [3, 3], 3],
    ['out of order', [3, 2], 2],
  ])('with a cherry %s is refused', async (_, row, column) => {
    await expect(readDamaged({ tensors: replaced('cherry_indices', { data: indices(...row) }) })).rejects.toEqual(
      refusal('bad_cherry_index', q, new RegExp(`row 1 has the cherry column ${column};`)),
    );
  });

  it('reads cherries in the first and the last column', async () => {
    const weights = (await readDamaged({ tensors: replaced('cherry_indices', { data: indices(0, 31) }) })) as Map<
      string,
      Float32Array
    >;
    expect(weights.get(q)).toHaveLength(32 * 32);
  });

  it.each([
    ['model.embed_tokens.weight', [53, 64]],
    ['model.norm.weight', [16, 2]],
  ])('whose %s has the shape %j is refused', async (name, shape) => {
    const tensors: Changes['tensors'] = (all) => all.set(name, { ...(all.get(name) as TensorToWrite), shape });
    await expect(readDamaged({ tensors })).rejects.toEqual(refusal('tensor_shape', name, /config\.json asks for/));
  });

  it.each(['model.embed_tokens.weight', 'model.norm.weight'])('without %s is refused', async (name) => {
    await expect(readDamaged({ tensors: (tensors) => tensors.delete(name) })).rejects.toEqual(
      refusal('missing_tensor', name, /holds? no tensor/),
    );
  });

  it('whose config is of a wider model is refused', async () => {
    await expect(readDamaged({ config: { hidden_size: 64, head_dim: 8 } })).rejects.toEqual(
      refusal('tensor_shape', 'model.embed_tokens.weight', /\[106, 32\].*\[106, 64\]/),
    );
  });
});
