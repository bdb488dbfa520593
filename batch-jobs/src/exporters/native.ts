/**
 * The native format: integers, scales and cherries in one safetensors file; docs/format.md specifies every byte. Reader and
 * writer stand side by side.
 */
import type { Scheme } from 'cherryq/contract';
import { InputError } from '../errors.ts';
import type { TensorInfo, TensorToWrite } from '../formats/safetensors.ts';
import { readTensor, readTensorBytes } from '../formats/safetensors.ts';
import { packRows, unpackRows } from '../numeric/bit-packing.ts';
import { float32ToFloat16 } from '../numeric/dtypes.ts';
import type { Cherries, Grid, QuantizedMatrix } from '../numeric/quantizer.ts';
import { cherryCount, dequantizeMatrix, groupCount, noCherries, quantizeMatrix } from '../numeric/quantizer.ts';
import type { Store } from '../storage/store.ts';
import type { Exporter } from './exporter.ts';
import { halfPrecision } from './exporter.ts';

/** Value of `quantization_config` in config.json. */
export interface NativeConfig {
  readonly quant_method: 'cherryq';
  readonly format_version: 1;
  readonly method: Scheme['method'];
  readonly bits: Scheme['bits'];
  /** -1: the whole row. */
  readonly group_size: number;
  /** 0 where the method keeps no cherries. */
  readonly cherry_fraction: number;
}

const columnOffset = 32_768;

export function nativeConfig(scheme: Scheme, keepsCherries: boolean): NativeConfig {
  return {
    quant_method: 'cherryq',
    format_version: 1,
    method: scheme.method,
    bits: scheme.bits,
    group_size: scheme.groupSize === 'row' ? -1 : scheme.groupSize,
    cherry_fraction: keepsCherries ? scheme.cherryFraction : 0,
  };
}

/** @throws InputError naming the field of a `quantization_config` that this version does not read */
export function parseNativeConfig(value: unknown): NativeConfig {
  const config = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>;
  const check = (field: string, fine: boolean, allowed: string): void => {
    if (fine) return;
    const received = JSON.stringify(config[field]) ?? 'missing';
    const message = `config.json: quantization_config.${field} is ${received}; this version reads ${allowed}.`;
    throw new InputError('bad_config', message, `quantization_config.${field}`);
  };
  check('format_version', config.format_version === 1, '1');
  check('bits', [2, 3, 4, 8].includes(config.bits as number), '2, 3, 4 or 8');
  const groupSize = config.group_size;
  check(
    'group_size',
    Number.isInteger(groupSize) && ((groupSize as number) > 0 || groupSize === -1),
    'a positive whole number, or -1 for the row',
  );
  const fraction = config.cherry_fraction;
  check(
    'cherry_fraction',
    typeof fraction === 'number' && fraction >= 0 && fraction <= 0.25,
    'a number from 0 to 0.25',
  );
  check('method', ['rtn', 'qat', 'cherryq'].includes(config.method as string), '"rtn", "qat" or "cherryq"');
  return config as unknown as NativeConfig;
}

export function gridOf(config: Pick<NativeConfig, 'bits' | 'group_size'>): Grid {
  return { bits: config.bits, groupSize: config.group_size === -1 ? Infinity : config.group_size };
}

export const native: Exporter = {
  folder: '',
  metadata: { format: 'cherryq', format_version: '1' },
  config: (model) => ({
    ...model.configJson,
    ...halfPrecision,
    quantization_config: nativeConfig(model.scheme, model.keepsCherries),
  }),
  tensors(model) {
    const grid = gridOf(nativeConfig(model.scheme, model.keepsCherries));
    const tensors = [...model.shapes].flatMap(([name, shape]) => {
      const weight = model.weights.get(name) as Float32Array;
      if (!model.isQuantized(name)) return [halfTensor(name, shape, weight)];
      return nativeLinear(name, weight, shape[1], grid, model.cherries.get(name) ?? noCherries);
    });
    // Bytes last, so that every 16-bit tensor starts at an even offset.
    return [...tensors.filter(({ dtype }) => dtype !== 'U8'), ...tensors.filter(({ dtype }) => dtype === 'U8')];
  },
};

/** The tensors that one linear layer becomes.  @param name of the layer's weight, ending in `.weight` */
export function nativeLinear(
  name: string,
  weight: Float32Array,
  columns: number,
  grid: Grid,
  cherries: Cherries,
): TensorToWrite[] {
  const matrix = quantizeMatrix(weight, columns, grid, cherries);
  const { rows } = matrix;
  const module = name.slice(0, -'.weight'.length);
  const normalCount = columns - cherries.perRow;
  const tensors: TensorToWrite[] = [
    {
      name: `${module}.qweight`,
      dtype: 'U8',
      shape: [rows, Math.ceil((normalCount * grid.bits) / 8)],
      data: packRows(matrix.qweight, rows, normalCount, grid.bits),
    },
    {
      name: `${module}.scales`,
      dtype: 'F16',
      shape: [rows, groupCount(columns, cherries.perRow, grid)],
      data: bytesOf(matrix.scales),
    },
  ];
  if (cherries.perRow > 0) {
    const indices = Int16Array.from(cherries.columns, (column) => column - columnOffset);
    const shape = [rows, cherries.perRow];
    tensors.push(
      { name: `${module}.cherry_weight`, dtype: 'F16', shape, data: bytesOf(matrix.cherryWeight) },
      { name: `${module}.cherry_indices`, dtype: 'I16', shape, data: bytesOf(indices) },
    );
  }
  return tensors;
}

/** A tensor that stays in 16 bits. */
export function halfTensor(name: string, shape: number[], values: Float32Array): TensorToWrite {
  return { name, dtype: 'F16', shape, data: bytesOf(float32ToFloat16(values)) };
}

function bytesOf(values: Uint16Array | Int16Array): Uint8Array {
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
): { read(name: string): Promise<Float32Array>; storedBits(name: string): number | null } {
  const part = (name: string, suffix: string): TensorInfo | undefined =>
    tensors.get(`${name.slice(0, -'.weight'.length)}.${suffix}`);
  return {
    async read(name) {
      const plain = tensors.get(name);
      if (plain) {
        checkShape(plain, shape(name));
        return readTensor(store, plain);
      }
      return dequantizeMatrix(await readMatrix(store, name, shape(name), config, (suffix) => part(name, suffix)));
    },
    storedBits(name) {
      const wanted = shape(name);
      if (tensors.has(name) || !wanted || wanted.length !== 2) return null;
      const bytes = ['qweight', 'scales', 'cherry_weight', 'cherry_indices']
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

async function readMatrix(
  store: Store,
  name: string,
  shape: number[] | undefined,
  config: NativeConfig,
  part: (suffix: string) => TensorInfo | undefined,
): Promise<QuantizedMatrix> {
  if (!shape || shape.length !== 2 || !part('qweight')) {
    throw new InputError('missing_tensor', `The weights hold no tensor "${name}", packed or not.`, name);
  }
  const [rows, columns] = shape;
  const grid = gridOf(config);
  const perRow = config.cherry_fraction > 0 ? cherryCount(columns, config.cherry_fraction) : 0;
  const normalCount = columns - perRow;
  const bytes = async (suffix: string, dtype: string, width: number): Promise<Uint8Array> => {
    const info = part(suffix);
    if (info && info.dtype === dtype && info.shape.length === 2 && info.shape[0] === rows && info.shape[1] === width) {
      return readTensorBytes(store, info);
    }
    const found = info ? `${info.dtype} [${info.shape.join(', ')}]` : 'missing';
    throw new InputError(
      'tensor_shape',
      `"${name}": its ${suffix} is ${found}; quantization_config asks for ${dtype} [${rows}, ${width}]. The config is of another file, or the file is damaged.`,
      `${name.slice(0, -'.weight'.length)}.${suffix}`,
    );
  };
  const packed = await bytes('qweight', 'U8', Math.ceil((normalCount * grid.bits) / 8));
  const scales = toUint16(await bytes('scales', 'F16', groupCount(columns, perRow, grid)));
  const cherryWeight = perRow > 0 ? toUint16(await bytes('cherry_weight', 'F16', perRow)) : new Uint16Array(0);
  const indices = perRow > 0 ? toUint16(await bytes('cherry_indices', 'I16', perRow)) : new Uint16Array(0);
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
  return {
    rows,
    columns,
    grid,
    cherries: { perRow, columns: cherryColumns },
    qweight: unpackRows(packed, rows, normalCount, grid.bits),
    scales,
    cherryWeight,
  };
}

function toUint16(bytes: Uint8Array): Uint16Array {
  return new Uint16Array(bytes.slice().buffer);
}
