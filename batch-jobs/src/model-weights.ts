/** A model folder opened for use: its config understood, its tensors checked, its weights readable as float32. */
import type { Scheme } from 'cherryq/contract';
import type { WeightRanges } from './exporters/exporter.ts';
import type { NativeConfig } from './exporters/native-config.ts';
import { parseNativeConfig } from './exporters/native-config.ts';
import { nativeWeights } from './exporters/native.ts';
import type { StoredRows } from './exporters/relative-errors.ts';
import { plainRows } from './exporters/relative-errors.ts';
import type { ModelFolder } from './formats/model-folder.ts';
import { assertFloat16, openModelFolder } from './formats/model-folder.ts';
import type { TensorInfo } from './formats/safetensors.ts';
import { floatDtype, readTensor, readTensorInto } from './formats/safetensors.ts';
import type { Tokenizer } from './formats/tokenizer.ts';
import { openTokenizer } from './formats/tokenizer.ts';
import type { DecoderConfig } from './models/decoder-config.ts';
import { isLinear, tensorShapes } from './models/decoder-config.ts';
import type { WeightSource } from './models/decoder.ts';
import { checkTensors, checkVocabulary, parseModelConfig } from './models/registry.ts';
import { InputError } from './errors.ts';
import { floatBytes } from './numeric/dtypes.ts';
import { sharedCopy } from './numeric/pool.ts';
import type { Store } from './storage/store.ts';

export interface OpenedModel {
  readonly folder: ModelFolder;
  readonly config: DecoderConfig;
  readonly shapes: ReadonlyMap<string, number[]>;
  readonly parameters: number;
  readonly weights: WeightSource & { read(name: string): Promise<Float32Array> };
  readonly tokenizer: Tokenizer;
  /** Null for an original or an `hf` folder. */
  readonly native: NativeConfig | null;
  /** Bits that one weight of a quantized layer costs in the file; null for every other tensor. */
  storedBits(name: string): number | null;
  /** A layer that compression has written, for comparison; packed, or as float16. */
  storedRows(name: string): Promise<StoredRows>;
}

/** @throws InputError for whatever is wrong with the folder, naming the file, the tensor or the field */
export async function openModel(store: Store, prefix: string): Promise<OpenedModel> {
  const folder = await openModelFolder(store, prefix);
  const config = parseModelConfig(folder.configJson);
  const shapes = tensorShapes(config);
  const tokenizer = await openTokenizer(store, prefix);
  if (folder.format !== 'native') checkTensors(config, folder.tensors);
  checkVocabulary(config, tokenizer.vocabSize);
  const parameters = [...shapes.values()].reduce(
    (sum, shape) => sum + shape.reduce((product, size) => product * size, 1),
    0,
  );
  const shared = { folder, config, shapes, parameters, tokenizer };
  if (folder.format === 'native') {
    const native = parseNativeConfig(folder.configJson.quantization_config);
    const { read, ...stored } = nativeWeights(store, folder.tensors, native, (name) => shapes.get(name));
    return { ...shared, native, weights: { read }, ...stored };
  }
  const read = async (name: string): Promise<Float32Array> => {
    const info = folder.tensors.get(name);
    if (!info) throw missingTensor(name);
    return readTensor(store, info);
  };
  const storedRows = async (name: string): Promise<StoredRows> =>
    plainRows(weightsInFiles(store, folder), name, (shapes.get(name) ?? [])[1]);
  return { ...shared, native: null, weights: { read }, storedBits: () => null, storedRows };
}

/** Every tensor as float32, checked to be finite and within float16.  @throws InputError naming the tensor */
export async function readAllWeights(model: OpenedModel): Promise<Map<string, Float32Array>> {
  const weights = new Map<string, Float32Array>();
  for (const name of model.shapes.keys()) {
    const values = await model.weights.read(name);
    assertFloat16(values, name);
    weights.set(name, sharedCopy(values));
  }
  return weights;
}

/** An original's weights as they lie in its files, for exporters, which check what they read. */
export function weightsInFiles(store: Store, folder: ModelFolder): WeightRanges {
  const infoOf = (name: string): TensorInfo => {
    const info = folder.tensors.get(name);
    if (!info) throw missingTensor(name);
    return info;
  };
  return {
    dtype: (name) => floatDtype(infoOf(name)),
    read(name, start, into) {
      const info = infoOf(name);
      return readTensorInto(store, info, start * floatBytes[floatDtype(info)], into);
    },
  };
}

/** Weights in main memory, for exporters. */
export function weightsInMemory(weights: ReadonlyMap<string, Float32Array>): WeightRanges {
  return {
    dtype: () => 'F32',
    async read(name, start, into) {
      const values = weights.get(name);
      if (!values) throw missingTensor(name);
      into.set(new Uint8Array(values.buffer, values.byteOffset + 4 * start, into.length));
    },
  };
}

function missingTensor(name: string): InputError {
  return new InputError('missing_tensor', `The weights hold no tensor "${name}".`, name);
}

/** Mean bits of one weight over the quantized layers, weighted by their sizes; null where nothing is quantized. */
export function meanStoredBits(model: OpenedModel): number | null {
  let bits = 0;
  let count = 0;
  for (const [name, [rows, columns]] of model.shapes) {
    const each = model.storedBits(name);
    if (each === null) continue;
    bits += each * rows * columns;
    count += rows * columns;
  }
  return count === 0 ? null : bits / count;
}

/** The scheme that a native folder was made with, as far as its config says. */
export function schemeOf(native: NativeConfig): Pick<Scheme, 'method' | 'bits' | 'groupSize' | 'cherryFraction'> {
  return {
    method: native.method,
    bits: native.bits,
    groupSize: native.group_size === -1 ? 'row' : native.group_size,
    cherryFraction: native.cherry_fraction,
  };
}

/** @throws InputError `group_size` when a group would be longer than the shortest row that is quantized */
export function checkGroupSize(model: OpenedModel, groupSize: Scheme['groupSize']): void {
  if (groupSize === 'row') return;
  const [name, shape] = [...model.shapes]
    .filter(([tensor]) => isLinear(tensor))
    .reduce((a, b) => (b[1][1] < a[1][1] ? b : a));
  if (groupSize <= shape[1]) return;
  throw new InputError(
    'group_size',
    `groupSize is ${groupSize}, but the rows of "${name}" have ${shape[1]} weights. Use a group size from 1 to ${shape[1]}, or "row" for one scale per row.`,
    'scheme.groupSize',
  );
}
