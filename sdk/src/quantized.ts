/**
 * Reads what a compression made, the native format of docs/format.md, one tensor at a time, without the trainer: packed integers,
 * scales and cherries as typed arrays, and the weights that they mean. Files come from anywhere, so every length and offset is
 * checked before memory is taken for it.
 */
import { InputError } from './errors.ts';

/** Where the files of a result are: a folder (`loadQuantized` of `cherryq/node`), Blobs, a server that answers ranges. */
export interface FileSource {
  /** Null where there is no such file. */
  sizeOf(path: string): Promise<number | null>;
  /** Exactly the bytes from `start` to before `end`. */
  read(path: string, start: number, end: number): Promise<Uint8Array>;
}

/** `quantization_config` of config.json. */
export interface QuantizationConfig {
  readonly bits: 2 | 3 | 4 | 8;
  /** Weights that share a scale; -1: the whole row. */
  readonly group_size: number;
  /** 0: no cherries. */
  readonly cherry_fraction: number;
  readonly levels: 'midRise' | 'symmetric' | 'asymmetric';
  readonly aligned_groups: boolean;
  readonly cherry_mode: 'row' | 'column';
  readonly column_scales: boolean;
}

/** A weight that is not quantized: of embeddings, norms or the head. */
export interface PlainTensor {
  readonly kind: 'plain';
  readonly name: string;
  readonly shape: readonly number[];
  readonly values: Float32Array<ArrayBuffer>;
}

/** A linear layer's weight [rows, columns]. */
export interface QuantizedTensor {
  readonly kind: 'quantized';
  readonly name: string;
  readonly shape: readonly [number, number];
  /** Integers of `bits` bits, lowest bit first, each row from a byte on. */
  readonly packed: Uint8Array;
  /** [rows, groups] */
  readonly scales: Float32Array<ArrayBuffer>;
  /** Zero points, packed as the integers are; null unless levels are asymmetric. */
  readonly packedZeros: Uint8Array | null;
  /** [columns]; null without scaled columns. */
  readonly columnScales: Float32Array<ArrayBuffer> | null;
  /** 0 where there are none. */
  readonly cherriesPerRow: number;
  /** [rows, cherriesPerRow] */
  readonly cherryWeight: Float32Array<ArrayBuffer>;
  /** Columns of the cherries, ascending in each row: [rows, cherriesPerRow], or [1, cherriesPerRow] for whole columns. */
  readonly cherryColumns: Uint16Array<ArrayBuffer>;
}

export interface QuantizedModel {
  /** config.json as it is. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly quantization: QuantizationConfig;
  /** Of all weights, as the original model calls them, in the order of the file. */
  readonly names: readonly string[];
  /** @throws InputError when there is no such weight, or its parts do not fit the config */
  read(name: string): Promise<PlainTensor | QuantizedTensor>;
  /** The weight in float32, row by row.  @throws InputError */
  dequantize(name: string): Promise<Float32Array<ArrayBuffer>>;
}

interface Entry {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly start: number;
  readonly end: number;
}

const weightsFile = 'model.safetensors';
const configFile = 'config.json';
const maxHeaderBytes = 100_000_000;
const maxConfigBytes = 16_000_000;
const elementBytes: Readonly<Record<string, number>> = { U8: 1, I16: 2, F16: 2 };
const partNames = ['qweight', 'scales', 'zeros', 'column_scales', 'cherry_weight', 'cherry_indices'];
const columnOffset = 32_768;

/**
 * Opens a result wherever it is; nothing but config.json and the weights' header is read.
 * @example
 * const model = await openQuantized(source);
 * for (const name of model.names) console.log(name, (await model.dequantize(name)).length);
 * @throws InputError naming the file and the tensor or field that is wrong
 */
export async function openQuantized(source: FileSource): Promise<QuantizedModel> {
  const config = await readJson(source, configFile, 0, await sizeOf(source, configFile), maxConfigBytes);
  const quantization = checkedQuantization(config['quantization_config']);
  const entries = await readHeader(source);
  const modules = [...entries.keys()].map((name) => ({ name, ...split(name) }));
  const names = modules.flatMap(({ name, module, part }) => {
    if (part === 'qweight') return [`${module}.weight`];
    return partNames.includes(part) && entries.has(`${module}.qweight`) ? [] : [name];
  });
  const bytesOf = ({ start, end }: Entry): Promise<Uint8Array> => source.read(weightsFile, start, end);

  async function read(name: string): Promise<PlainTensor | QuantizedTensor> {
    const plain = entries.get(name);
    if (plain && names.includes(name)) {
      if (plain.dtype !== 'F16')
        throw wrong('tensor_dtype', `is ${plain.dtype}; weights that are not quantized are F16`, name);
      return { kind: 'plain', name, shape: plain.shape, values: finite(halves(await bytesOf(plain)), name) };
    }
    if (!names.includes(name))
      throw wrong('missing_tensor', `is not there; there are ${names.slice(0, 3).join(', ')} and others`, name);
    return readLayer(name.slice(0, -'.weight'.length));
  }

  async function readLayer(module: string): Promise<QuantizedTensor> {
    const { bits, group_size: groupSize, cherry_fraction: fraction, cherry_mode: cherryMode } = quantization;
    const columns = inputWidth(module, config);
    const rows = entries.get(`${module}.qweight`)?.shape[0] ?? 0;
    const wanted = Math.ceil(columns * fraction);
    const perRow = Math.floor(wanted / 8) * 8 || wanted;
    const stored = quantization.aligned_groups ? columns : columns - perRow;
    const groups = groupSize === -1 ? 1 : Math.ceil(stored / groupSize);
    const part = (suffix: string, dtype: string, ...shape: number[]): Promise<Uint8Array> => {
      const name = `${module}.${suffix}`;
      const entry = entries.get(name);
      const fits = entry?.shape.length === shape.length && shape.every((size, axis) => size === entry.shape[axis]);
      if (entry?.dtype === dtype && fits) return bytesOf(entry);
      const found = entry ? `${entry.dtype} [${entry.shape.join(', ')}]` : 'missing';
      throw wrong('tensor_shape', `is ${found}; config.json asks for ${dtype} [${shape.join(', ')}]`, name);
    };
    const packed = await part('qweight', 'U8', rows, packedBytes(stored, bits));
    const name = `${module}.weight`;
    const scales = finite(halves(await part('scales', 'F16', rows, groups)), `${module}.scales`);
    const isAsymmetric = quantization.levels === 'asymmetric';
    const packedZeros = isAsymmetric ? await part('zeros', 'U8', rows, packedBytes(groups, bits)) : null;
    const columnScales = quantization.column_scales ? halves(await part('column_scales', 'F16', columns)) : null;
    if (columnScales?.some((scale) => !(scale > 0 && scale < Infinity)))
      throw wrong('bad_column_scale', 'holds a scale that is not above 0 and finite', `${module}.column_scales`);
    const common = {
      kind: 'quantized',
      name,
      shape: [rows, columns],
      packed,
      scales,
      packedZeros,
      columnScales,
    } as const;
    if (perRow === 0)
      return { ...common, cherriesPerRow: 0, cherryWeight: new Float32Array(0), cherryColumns: new Uint16Array(0) };
    const cherryWeight = finite(halves(await part('cherry_weight', 'F16', rows, perRow)), `${module}.cherry_weight`);
    const indices = await part('cherry_indices', 'I16', cherryMode === 'column' ? 1 : rows, perRow);
    const cherryColumns = Uint16Array.from(words(indices), (index) => index ^ columnOffset);
    checkColumns(cherryColumns, perRow, columns, `${module}.cherry_indices`);
    return { ...common, cherriesPerRow: perRow, cherryWeight, cherryColumns };
  }

  return {
    config,
    quantization,
    names,
    read,
    async dequantize(name) {
      const tensor = await read(name);
      return tensor.kind === 'plain' ? tensor.values : dequantizeTensor(tensor, quantization);
    },
  };
}

/** The weight [rows, columns] that integers, scales and cherries mean: `(q + shift) · scale`, exact in float32. */
function dequantizeTensor(tensor: QuantizedTensor, quantization: QuantizationConfig): Float32Array<ArrayBuffer> {
  const { shape, packed, scales, packedZeros, columnScales, cherriesPerRow, cherryWeight, cherryColumns } = tensor;
  const { bits, levels, aligned_groups: isAligned } = quantization;
  const [rows, columns] = shape;
  const stored = isAligned ? columns : columns - cherriesPerRow;
  const groupSize = quantization.group_size === -1 ? stored : quantization.group_size;
  const groups = rows === 0 ? 0 : scales.length / rows;
  const [rowBytes, zeroBytes] = [packedBytes(stored, bits), packedBytes(groups, bits)];
  const middle = (levels === 'midRise' ? 0.5 : 0) - 2 ** (bits - 1);
  const weight = new Float32Array(rows * columns);
  const isCherry = new Uint8Array(columns);
  const areShared = cherryColumns.length === cherriesPerRow;
  for (let row = 0; row < rows; row++) {
    const from = areShared ? 0 : row * cherriesPerRow;
    const own = cherryColumns.subarray(from, from + cherriesPerRow);
    own.forEach((column) => (isCherry[column] = 1));
    let scale = 0;
    let shift = middle;
    for (let column = 0, i = 0; column < columns; column++) {
      if (isCherry[column] === 1 && !isAligned) continue;
      if (i % groupSize === 0) {
        const group = i / groupSize;
        scale = scales[row * groups + group] ?? 0;
        if (packedZeros) shift = -integerAt(packedZeros, row * zeroBytes, group, bits);
      }
      const value = Math.fround((integerAt(packed, row * rowBytes, i++, bits) + shift) * scale);
      weight[row * columns + column] = columnScales ? value / (columnScales[column] ?? 1) : value;
    }
    own.forEach((column, c) => {
      weight[row * columns + column] = cherryWeight[row * cherriesPerRow + c] ?? 0;
      isCherry[column] = 0;
    });
  }
  return weight;
}

/** The integer `index` of a row that begins at byte `start`. */
function integerAt(packed: Uint8Array, start: number, index: number, bits: number): number {
  const at = index * bits;
  const byte = start + (at >>> 3);
  return (((packed[byte] ?? 0) | ((packed[byte + 1] ?? 0) << 8)) >>> (at & 7)) & (2 ** bits - 1);
}

const packedBytes = (count: number, bits: number): number => Math.ceil((count * bits) / 8);

/** Columns of a layer, which the file holds only up to the padding of a row's last byte. */
function inputWidth(module: string, config: Readonly<Record<string, unknown>>): number {
  const sized = (field: string): number => {
    const value = config[field];
    if (Number.isInteger(value) && (value as number) >= 1 && (value as number) <= 65_536) return value as number;
    throw badConfig(field, value, 'a whole number from 1 to 65,536');
  };
  if (module.endsWith('down_proj')) return sized('intermediate_size');
  if (!module.endsWith('o_proj')) return sized('hidden_size');
  const heads = sized('num_attention_heads');
  const headDim = typeof config['head_dim'] === 'number' ? sized('head_dim') : Math.floor(sized('hidden_size') / heads);
  return heads * headDim;
}

function checkedQuantization(value: unknown): QuantizationConfig {
  const config = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>;
  const check = (field: string, isFine: boolean, allowed: string): void => {
    if (!isFine) throw badConfig(`quantization_config.${field}`, config[field], allowed);
  };
  const { group_size: groupSize, cherry_fraction: fraction } = config;
  check('quant_method', config['quant_method'] === 'cherryq', '"cherryq"; give the folder of a native result');
  check('format_version', config['format_version'] === 1, '1');
  check('bits', [2, 3, 4, 8].includes(config['bits'] as number), '2, 3, 4 or 8');
  check(
    'group_size',
    Number.isInteger(groupSize) && (groupSize === -1 || (groupSize as number) > 0),
    'a whole number from 1, or -1',
  );
  check(
    'cherry_fraction',
    typeof fraction === 'number' && fraction >= 0 && fraction <= 0.25,
    'a number from 0 to 0.25',
  );
  check(
    'levels',
    ['midRise', 'symmetric', 'asymmetric'].includes(config['levels'] as string),
    'midRise, symmetric or asymmetric',
  );
  check('aligned_groups', typeof config['aligned_groups'] === 'boolean', 'true or false');
  check('cherry_mode', config['cherry_mode'] === 'row' || config['cherry_mode'] === 'column', '"row" or "column"');
  check('column_scales', typeof config['column_scales'] === 'boolean', 'true or false');
  return config as unknown as QuantizationConfig;
}

/** Entries of a safetensors file, in the order of their data, which they must fill. */
async function readHeader(source: FileSource): Promise<ReadonlyMap<string, Entry>> {
  const sizeBytes = await sizeOf(source, weightsFile);
  if (sizeBytes < 8) throw damaged(`it has ${sizeBytes} bytes; the length of its header alone takes 8`);
  const prefix = await source.read(weightsFile, 0, 8);
  const length = new DataView(prefix.buffer, prefix.byteOffset).getBigUint64(0, true);
  if (length > BigInt(sizeBytes - 8))
    throw damaged(`it claims a header of ${length} bytes; ${sizeBytes - 8} follow in the file`);
  const dataStart = 8 + Number(length);
  const header = await readJson(source, weightsFile, 8, dataStart, maxHeaderBytes);
  const entries: [string, Entry][] = [];
  for (const [name, value] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    const { dtype, shape, data_offsets: offsets } = (value ?? {}) as Record<string, unknown>;
    if (!isCounts(shape) || !isCounts(offsets) || offsets.length !== 2 || typeof dtype !== 'string')
      throw wrong('safetensors_entry', 'has no dtype, shape and data_offsets of whole numbers', name);
    const bytes = elementBytes[dtype];
    if (bytes === undefined) throw wrong('tensor_dtype', `is ${dtype}; the format has U8, I16 and F16`, name);
    const [start = 0, end = 0] = offsets;
    const needed = shape.reduce((product, size) => product * size, bytes);
    if (end - start !== needed || end > sizeBytes - dataStart)
      throw wrong(
        'safetensors_offsets',
        `lies at ${start} to ${end} of ${sizeBytes - dataStart} bytes; its shape takes ${needed}`,
        name,
      );
    entries.push([name, { dtype, shape, start: dataStart + start, end: dataStart + end }]);
  }
  entries.sort(([, a], [, b]) => a.start - b.start || a.end - b.end);
  let at = dataStart;
  for (const [name, { start, end }] of entries) {
    if (start !== at)
      throw wrong('safetensors_layout', `begins at ${start - dataStart}, and ${at - dataStart} is next`, name);
    at = end;
  }
  if (at !== sizeBytes) throw damaged(`${sizeBytes - at} bytes at its end belong to no tensor`);
  return new Map(entries);
}

const isCounts = (value: unknown): value is number[] =>
  Array.isArray(value) && value.every((count) => Number.isSafeInteger(count) && (count as number) >= 0);

async function sizeOf(source: FileSource, path: string): Promise<number> {
  const sizeBytes = await source.sizeOf(path);
  if (sizeBytes !== null) return sizeBytes;
  throw new InputError('missing_file', `There is no ${path}; give the folder of a compressed model`, path);
}

async function readJson(
  source: FileSource,
  path: string,
  start: number,
  end: number,
  maxBytes: number,
): Promise<Record<string, unknown>> {
  if (end - start > maxBytes)
    throw new InputError('bad_json', `${path} has ${end - start} bytes of JSON; the limit is ${maxBytes}`, path);
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(await source.read(path, start, end)));
  } catch (cause) {
    if (cause instanceof InputError) throw cause;
    throw new InputError('bad_json', `${path} is not valid JSON in UTF-8`, path, { cause });
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new InputError('bad_json', `${path} does not hold a JSON object`, path);
}

function checkColumns(columns: Uint16Array, perRow: number, width: number, name: string): void {
  for (let i = 0; i < columns.length; i++) {
    const [before = 0, column = 0] = [columns[i - 1], columns[i]];
    if (column < width && (i % perRow === 0 || column > before)) continue;
    const row = Math.floor(i / perRow);
    throw wrong('bad_cherry_index', `has the column ${column} in row ${row}; they must ascend below ${width}`, name);
  }
}

function finite(values: Float32Array<ArrayBuffer>, name: string): Float32Array<ArrayBuffer> {
  const index = values.findIndex((value) => !Number.isFinite(value));
  if (index < 0) return values;
  throw wrong('not_finite', `holds ${values[index]} at ${index}; every number must be finite`, name);
}

/** Words of 16 bits, wherever the bytes begin in memory; every runtime's machine is little-endian, as the file is. */
function words(bytes: Uint8Array): Uint16Array<ArrayBuffer> {
  return new Uint16Array(new Uint8Array(bytes).buffer);
}

/** float16, exactly. */
function halves(bytes: Uint8Array): Float32Array<ArrayBuffer> {
  const bits = words(bytes);
  const values = new Float32Array(bits.length);
  bits.forEach((half, index) => {
    const sign = half & 0x8000 ? -1 : 1;
    const [exponent, fraction] = [(half >>> 10) & 0x1f, half & 0x3ff];
    if (exponent === 0x1f) values[index] = fraction === 0 ? sign * Infinity : NaN;
    else values[index] = sign * (exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * (powers[exponent] ?? 0));
  });
  return values;
}
const powers = Float64Array.from({ length: 31 }, (_, exponent) => 2 ** (exponent - 25));

function split(name: string): { module: string; part: string } {
  const dot = name.lastIndexOf('.');
  return { module: name.slice(0, dot), part: name.slice(dot + 1) };
}

const wrong = (code: string, what: string, name: string): InputError =>
  new InputError(
    code,
    `${weightsFile}: tensor ${name} ${what}. The file is damaged, or its config.json is of another`,
    name,
  );

const damaged = (what: string): InputError => new InputError('damaged_file', `${weightsFile}: ${what}`, weightsFile);

function badConfig(field: string, value: unknown, allowed: string): InputError {
  const received = JSON.stringify(value) ?? 'missing';
  return new InputError('bad_config', `${configFile}: ${field} is ${received}; it must be ${allowed}`, field);
}
