/**
 * The native format: integers, scales and cherries in one safetensors file; docs/format.md specifies every byte. Reader and
 * writer stand side by side.
 */
import { InputError } from '../errors.ts';
import type { TensorInfo, TensorToWrite } from '../formats/safetensors.ts';
import { readTensor, readTensorBytes, readTensorInto } from '../formats/safetensors.ts';
import { packedBytes, unpackRows } from '../numeric/bit-packing.ts';
import { float32ToFloat16 } from '../numeric/dtypes.ts';
import { hostPool } from '../numeric/pool.ts';
import type { PackedRows } from '../numeric/packed-rows.ts';
import { packedSizes } from '../numeric/packed-rows.ts';
import type { Cherries, Grid, QuantizedMatrix } from '../numeric/quantizer.ts';
import {
  cherriesOfRows,
  cherryCount,
  dequantizeMatrix,
  groupCount,
  noCherries,
  storedColumns,
} from '../numeric/quantizer.ts';
import type { Store } from '../storage/store.ts';
import type { Exporter, WeightRanges } from './exporter.ts';
import { halfPrecision } from './exporter.ts';
import type { NativeConfig } from './native-config.ts';
import { gridOf, nativeConfig } from './native-config.ts';
import type { StoredRows } from './relative-errors.ts';
import type { RowWork } from './row-stream.ts';
import { RowStream, checkLargest, halfTensor } from './row-stream.ts';

const columnOffset = 32_768;

export const native: Exporter = {
  folder: '',
  metadata: { format: 'cherryq', format_version: '1' },
  config: (model) => ({
    ...model.configJson,
    ...halfPrecision,
    quantization_config: nativeConfig(model.scheme, model.keepsCherries),
  }),
  tensors({ shapes, weights, scheme, keepsCherries, isQuantized, cherries, columnScales }) {
    const grid = gridOf(nativeConfig(scheme, keepsCherries));
    const works: RowWork<void>[] = [];
    const add = (work: RowWork<void>): number => works.push(work) - 1;
    const stream = new RowStream(weights, works);
    const tensors = [...shapes].flatMap(([name, shape]) => {
      if (!isQuantized(name)) return [halfTensor(stream, add, weights, name, shape)];
      const own = { cherries: cherries.get(name) ?? noCherries, columnScales: columnScales.get(name) ?? null };
      return linearTensors(stream, add, weights, name, shape, grid, own);
    });
    // Bytes of an odd number come last, so that every 16-bit tensor starts at an even offset.
    const isOdd = ({ dtype, shape }: TensorToWrite): boolean => dtype === 'U8' && (shape[0] * shape[1]) % 2 === 1;
    return [...tensors.filter((tensor) => !isOdd(tensor)), ...tensors.filter(isOdd)];
  },
};

/** The tensors that one linear layer becomes.  @param name of the layer's weight, ending in `.weight` */
function linearTensors(
  stream: RowStream<void>,
  add: (work: RowWork<void>) => number,
  weights: WeightRanges,
  name: string,
  [rows, columns]: number[],
  grid: Grid,
  { cherries, columnScales }: { readonly cherries: Cherries; readonly columnScales: Float32Array | null },
): TensorToWrite[] {
  const module = name.slice(0, -'.weight'.length);
  const { perRow, shared } = cherries;
  const groups = groupCount(columns, perRow, grid);
  const sizes = packedSizes(rows, columns, grid, perRow);
  const rowSizes = packedSizes(1, columns, grid, perRow);
  const index = add({
    name,
    rows,
    columns,
    outRowBytes: totalOf(rowSizes),
    async run({ fromRow, ...chunk }, out) {
      const own = cherriesOfRows(cherries, fromRow, chunk.rows);
      const into = packedParts(out, packedSizes(chunk.rows, columns, grid, perRow));
      const largest = await hostPool().run('quantizeRows', { ...chunk, grid, cherries: own, columnScales, into });
      await checkLargest(largest, weights, name, rows * columns);
    },
  });
  // The small parts are kept from when the packed ones are written until their own turn.
  let kept: Record<SmallPart, Uint8Array> | null = null;
  async function* packed(): AsyncGenerator<Uint8Array> {
    const all = {
      scales: new Uint8Array(sizes.scales),
      zeros: new Uint8Array(sizes.zeros),
      cherryWeight: new Uint8Array(sizes.cherryWeight),
    };
    for await (const part of stream.parts(index)) {
      const own = packedParts(part.out, packedSizes(part.rows, columns, grid, perRow));
      for (const small of smallParts) all[small].set(own[small], part.fromRow * rowSizes[small]);
      yield own.packed;
    }
    kept = all;
  }
  async function keptPart(small: SmallPart): Promise<Uint8Array> {
    if (kept === null) for await (const part of packed()) void part;
    return (kept as unknown as Record<SmallPart, Uint8Array>)[small];
  }
  const tensors: TensorToWrite[] = [
    { name: `${module}.qweight`, dtype: 'U8', shape: [rows, rowSizes.packed], data: packed },
    {
      name: `${module}.scales`,
      dtype: 'F16',
      shape: [rows, groups],
      data: () => keptPart('scales'),
    },
  ];
  if (grid.levels === 'asymmetric') {
    const shape = [rows, packedBytes(groups, grid.bits)];
    tensors.push({ name: `${module}.zeros`, dtype: 'U8', shape, data: () => keptPart('zeros') });
  }
  if (columnScales) {
    const data = bytesOf(float32ToFloat16(columnScales));
    tensors.push({ name: `${module}.column_scales`, dtype: 'F16', shape: [columns], data });
  }
  if (perRow > 0) {
    const stored = shared ? cherries.columns.subarray(0, perRow) : cherries.columns;
    const indices = Int16Array.from(stored, (column) => column - columnOffset);
    tensors.push(
      {
        name: `${module}.cherry_weight`,
        dtype: 'F16',
        shape: [rows, perRow],
        data: () => keptPart('cherryWeight'),
      },
      {
        name: `${module}.cherry_indices`,
        dtype: 'I16',
        shape: [shared ? 1 : rows, perRow],
        data: bytesOf(indices),
      },
    );
  }
  return tensors;
}

/** The parts that are small beside the packed integers. */
const smallParts = ['scales', 'zeros', 'cherryWeight'] as const;
type SmallPart = (typeof smallParts)[number];

const totalOf = (sizes: ReturnType<typeof packedSizes>): number =>
  sizes.packed + sizes.scales + sizes.zeros + sizes.cherryWeight;

/** Divides one stretch of memory among the parts. */
function packedParts(out: Uint8Array, sizes: ReturnType<typeof packedSizes>): PackedRows {
  const scalesAt = sizes.packed;
  const zerosAt = scalesAt + sizes.scales;
  const cherriesAt = zerosAt + sizes.zeros;
  return {
    packed: out.subarray(0, scalesAt),
    scales: out.subarray(scalesAt, zerosAt),
    zeros: out.subarray(zerosAt, cherriesAt),
    cherryWeight: out.subarray(cherriesAt, cherriesAt + sizes.cherryWeight),
  };
}

function bytesOf(values: Int16Array | Uint16Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

/**
 * Reads the weights of a native file as float32, checking each layer's parts before they are used.
 * @param shape of the weight by its full name, as the model's config gives it
 */
export function nativeWeights(
  store: Store,
  tensors: ReadonlyMap<string, TensorInfo>,
  config: NativeConfig,
  shape: (name: string) => number[] | undefined,
): {
  read(name: string): Promise<Float32Array>;
  storedBits(name: string): number | null;
  /** Of a quantized layer. */
  storedRows(name: string): Promise<StoredRows>;
} {
  const part = (name: string, suffix: string): TensorInfo | undefined =>
    tensors.get(`${name.slice(0, -'.weight'.length)}.${suffix}`);
  const open = (name: string): Promise<LayerParts> =>
    openLayer(store, name, shape(name), config, (suffix) => part(name, suffix));
  return {
    async read(name) {
      const plain = tensors.get(name);
      if (plain) {
        checkShape(plain, shape(name));
        return readTensor(store, plain);
      }
      return dequantizeMatrix(await readMatrix(store, await open(name)));
    },
    async storedRows(name) {
      return comparedLayer(store, await open(name));
    },
    storedBits(name) {
      const wanted = shape(name);
      if (tensors.has(name) || !wanted || wanted.length !== 2) return null;
      const bytes = layerParts
        .map((suffix) => part(name, suffix))
        .reduce((sum, info) => sum + (info ? info.end - info.start : 0), 0);
      return (8 * bytes) / (wanted[0] * wanted[1]);
    },
  };
}

function checkShape(info: TensorInfo, wanted: readonly number[] | undefined): void {
  if (wanted && info.shape.length === wanted.length && wanted.every((size, axis) => size === info.shape[axis])) return;
  throw new InputError(
    'tensor_shape',
    `"${info.name}" has shape [${info.shape.join(', ')}]; config.json asks for ${wanted ? `[${wanted.join(', ')}]` : 'none'}. The config is of another file, or the file is damaged.`,
    info.name,
  );
}

/** Endings of the tensors that a layer may have. */
const layerParts = ['qweight', 'scales', 'zeros', 'column_scales', 'cherry_weight', 'cherry_indices'] as const;

/** Where the parts of a layer are, each checked against the config, and its cherries. */
interface LayerParts {
  readonly rows: number;
  readonly columns: number;
  readonly grid: Grid;
  readonly cherries: Cherries;
  readonly columnScales: Float32Array | null;
  readonly qweight: TensorInfo;
  readonly scales: TensorInfo;
  /** Null unless levels are asymmetric. */
  readonly zeros: TensorInfo | null;
  /** Null where there are no cherries. */
  readonly cherryWeight: TensorInfo | null;
}

async function openLayer(
  store: Store,
  name: string,
  shape: number[] | undefined,
  config: NativeConfig,
  part: (suffix: string) => TensorInfo | undefined,
): Promise<LayerParts> {
  if (!shape || shape.length !== 2 || !part('qweight')) {
    throw new InputError('missing_tensor', `The weights hold no tensor "${name}", packed or not.`, name);
  }
  const [rows, columns] = shape;
  const grid = gridOf(config);
  const perRow = config.cherry_fraction > 0 ? cherryCount(columns, config.cherry_fraction) : 0;
  const groups = groupCount(columns, perRow, grid);
  const checked = (suffix: string, dtype: string, ...wanted: number[]): TensorInfo => {
    const info = part(suffix);
    const fits = info?.shape.length === wanted.length && wanted.every((size, axis) => size === info.shape[axis]);
    if (info && info.dtype === dtype && fits) return info;
    const found = info ? `${info.dtype} [${info.shape.join(', ')}]` : 'missing';
    throw new InputError(
      'tensor_shape',
      `"${name}": its ${suffix} is ${found}; quantization_config asks for ${dtype} [${wanted.join(', ')}]. The config is of another file, or the file is damaged.`,
      `${name.slice(0, -'.weight'.length)}.${suffix}`,
    );
  };
  const qweight = checked('qweight', 'U8', rows, packedBytes(storedColumns(columns, perRow, grid), grid.bits));
  const scales = checked('scales', 'F16', rows, groups);
  const zeros = grid.levels === 'asymmetric' ? checked('zeros', 'U8', rows, packedBytes(groups, grid.bits)) : null;
  const columnScales = config.column_scales
    ? await readColumnScales(store, name, checked('column_scales', 'F16', columns))
    : null;
  const cherryWeight = perRow > 0 ? checked('cherry_weight', 'F16', rows, perRow) : null;
  const common = { rows, columns, grid, columnScales, qweight, scales, zeros, cherryWeight };
  if (cherryWeight === null) return { ...common, cherries: noCherries };
  const shared = config.cherry_mode === 'column';
  const indices = toUint16(await readTensorBytes(store, checked('cherry_indices', 'I16', shared ? 1 : rows, perRow)));
  // Two's complement: index - 32768 as a signed number is the index with its top bit flipped.
  const cherryColumns = Uint32Array.from(indices, (index) => index ^ columnOffset);
  for (let i = 0; i < cherryColumns.length; i++) {
    const ascending = i % perRow === 0 || cherryColumns[i] > cherryColumns[i - 1];
    if (cherryColumns[i] < columns && ascending) continue;
    throw new InputError(
      'bad_cherry_index',
      `"${name}": row ${Math.floor(i / perRow)} has the cherry column ${cherryColumns[i]}; columns must ascend and be below ${columns}. The file is damaged.`,
      name,
    );
  }
  const all = shared ? new Uint32Array(rows * perRow) : cherryColumns;
  if (shared) for (let row = 0; row < rows; row++) all.set(cherryColumns, row * perRow);
  return { ...common, cherries: { perRow, columns: all, shared } };
}

/** @throws InputError `bad_column_scale` for a scale that nothing can be divided by */
async function readColumnScales(store: Store, name: string, info: TensorInfo): Promise<Float32Array> {
  const scales = await readTensor(store, info);
  const column = scales.findIndex((scale) => !(scale > 0 && Number.isFinite(scale)));
  if (column < 0) return scales;
  throw new InputError(
    'bad_column_scale',
    `"${name}": the scale of column ${column} is ${scales[column]}; it must be above 0 and finite. The file is damaged.`,
    info.name,
  );
}

async function readMatrix(store: Store, layer: LayerParts): Promise<QuantizedMatrix> {
  const { rows, columns, grid, cherries, columnScales } = layer;
  const packed = await readTensorBytes(store, layer.qweight);
  const scales = toUint16(await readTensorBytes(store, layer.scales));
  const cherryWeight = layer.cherryWeight
    ? toUint16(await readTensorBytes(store, layer.cherryWeight))
    : new Uint16Array(0);
  const qweight = unpackRows(packed, rows, storedColumns(columns, cherries.perRow, grid), grid.bits);
  const groups = groupCount(columns, cherries.perRow, grid);
  const zeros = layer.zeros
    ? unpackRows(await readTensorBytes(store, layer.zeros), rows, groups, grid.bits)
    : new Uint8Array(0);
  return { rows, columns, grid, cherries, columnScales, qweight, scales, zeros, cherryWeight };
}

/** Compares rows of a layer in the file with those that it was made of. */
function comparedLayer(store: Store, { columns, grid, cherries, columnScales, ...infos }: LayerParts): StoredRows {
  const { perRow } = cherries;
  const rowSizes = packedSizes(1, columns, grid, perRow);
  return {
    rowBytes: totalOf(rowSizes),
    async compare({ fromRow, ...chunk }, memory) {
      const stored = packedParts(memory, packedSizes(chunk.rows, columns, grid, perRow));
      await readTensorInto(store, infos.qweight, fromRow * rowSizes.packed, stored.packed);
      await readTensorInto(store, infos.scales, fromRow * rowSizes.scales, stored.scales);
      if (infos.zeros) await readTensorInto(store, infos.zeros, fromRow * rowSizes.zeros, stored.zeros);
      if (infos.cherryWeight) {
        await readTensorInto(store, infos.cherryWeight, fromRow * rowSizes.cherryWeight, stored.cherryWeight);
      }
      const own = cherriesOfRows(cherries, fromRow, chunk.rows);
      return hostPool().run('compareRows', { ...chunk, grid, cherries: own, columnScales, stored });
    },
  };
}

function toUint16(bytes: Uint8Array): Uint16Array {
  return new Uint16Array(bytes.slice().buffer);
}
