/**
 * A model in the folder layout of Hugging Face: `config.json`, weights in `model.safetensors` or in shards with
 * `model.safetensors.index.json`, and `tokenizer.json`. Opening it reads headers only and says what is missing or does not
 * fit together; what a family's config means and which tensors it needs is checked in `models/`.
 */
import { InputError } from '../errors.ts';
import { float16Max } from '../numeric/dtypes.ts';
import type { ReadableStore } from '../storage/store.ts';
import { describeJson, isJsonObject, readJsonObject } from './json.ts';
import type { JsonObject } from './json.ts';
import { openSafetensors } from './safetensors.ts';
import type { TensorInfo } from './safetensors.ts';

export interface ModelFolder {
  /** Ends in a slash, or is empty. */
  readonly prefix: string;
  readonly configJson: JsonObject;
  /** `native` when the weights are in CherryQ's own packed format (docs/format.md). */
  readonly format: 'original' | 'native';
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /** Sum over the weights' files. */
  readonly weightBytes: number;
  /** Paths, relative to the prefix, of the small files that a compressed copy needs as well; ascending. */
  readonly sideFiles: readonly string[];
}

export const configFile = 'config.json';
export const weightsFile = 'model.safetensors';
export const indexFile = 'model.safetensors.index.json';
const tokenizerFile = 'tokenizer.json';
export const maxConfigBytes = 2 ** 24;
export const maxIndexBytes = 2 ** 26;
const maxSideFileBytes = 2 ** 26;

/** What a loader, a chat server or a lawyer looks for beside the weights. */
const sideFilePatterns: readonly RegExp[] = [
  // tokenizer.json, tokenizer.model, tokenizer.model.v3, tokenizer_config.json; Mistral's tekken.json.
  /^(tokenizer[^/]*|tekken\.json|vocab\.(json|txt)|merges\.txt)$/,
  /^(special_tokens_map|added_tokens|generation_config|(pre|video_pre)?processor_config)\.json$/,
  /^(chat_template[^/]*|additional_chat_templates\/[^/]+\.jinja)$/,
  // Code that config.json's auto_map names.
  /^(configuration|modeling|tokenization|processing)_[^/]*\.py$/,
  /^(LICEN[CS]E|NOTICE|USE_POLICY)[^/]*$/i,
];
const foreignWeightsPattern = /(\.(bin|pt|pth|ckpt|h5|msgpack|gguf|onnx)$)/;

/**
 * @param prefix where the folder's files lie in the store; ends in a slash, or is empty
 * @throws InputError naming the file or tensor that is missing, damaged or in a form that is not read
 */
export async function openModelFolder(store: ReadableStore, prefix: string): Promise<ModelFolder> {
  const files = await filesUnder(store, prefix);
  const configJson = await readConfig(store, prefix, files);
  const format = formatOf(configJson);
  const { tensors, weightBytes } = files.has(weightsFile)
    ? await readWeights(store, prefix, new Set([weightsFile]))
    : await readShards(store, prefix, files);
  if (!files.has(tokenizerFile)) throw missing(tokenizerFile, files);
  const sideFiles = [...files].filter(
    ([path, size]) => size <= maxSideFileBytes && sideFilePatterns.some((pattern) => pattern.test(path)),
  );
  return { prefix, configJson, format, tensors, weightBytes, sideFiles: sideFiles.map(([path]) => path) };
}

/** Value of a model's config.json.  @throws InputError as `openModelFolder` */
export async function readConfig(
  store: ReadableStore,
  prefix: string,
  files?: ReadonlyMap<string, number>,
): Promise<JsonObject> {
  const configJson = await readJsonObject(store, prefix + configFile, maxConfigBytes);
  if (configJson === null) throw missing(configFile, files ?? (await filesUnder(store, prefix)));
  return configJson;
}

/** Sizes of all files under a prefix by relative path, ascending. */
async function filesUnder(store: ReadableStore, prefix: string): Promise<Map<string, number>> {
  const files = new Map<string, number>();
  for (let after: string | undefined; ;) {
    const page = await store.list(prefix, { after });
    for (const { key, sizeBytes } of page) files.set(key.slice(prefix.length), sizeBytes);
    after = page.at(-1)?.key;
    if (after === undefined) return files;
  }
}

/** @throws InputError `already_quantized` for packed weights of others */
export function formatOf(configJson: JsonObject): 'original' | 'native' {
  const quantization = configJson.quantization_config;
  if (quantization === undefined || quantization === null) return 'original';
  const method = isJsonObject(quantization) ? quantization.quant_method : quantization;
  if (method === 'cherryq') return 'native';
  throw new InputError(
    'already_quantized',
    `${configFile} says that the model is quantized already (quant_method ${describeJson(method)}). ` +
      'Start from the original model in float32, float16 or bfloat16.',
    configFile,
  );
}

function missing(file: string, files: ReadonlyMap<string, number>): InputError {
  const needed = `${configFile}, ${weightsFile} (or shards with ${indexFile}) and ${tokenizerFile}`;
  return new InputError(
    'missing_file',
    `The model folder has no ${file}. A model needs ${needed}; this folder holds ${nameSome(files.keys())}.`,
    file,
  );
}

function nameSome(names: Iterable<string>): string {
  const all = [...names];
  if (all.length === 0) return 'no file';
  return all.length <= 10 ? all.join(', ') : `${all.slice(0, 10).join(', ')} and ${all.length - 10} more`;
}

async function readShards(
  store: ReadableStore,
  prefix: string,
  files: ReadonlyMap<string, number>,
): Promise<{ tensors: Map<string, TensorInfo>; weightBytes: number }> {
  const index = await readJsonObject(store, prefix + indexFile, maxIndexBytes);
  if (index === null) {
    const foreign = [...files.keys()].filter((path) => foreignWeightsPattern.test(path));
    if (foreign.length === 0) throw missing(weightsFile, files);
    throw new InputError(
      'unsupported_weights',
      `The weights are in ${nameSome(foreign)}; only safetensors is read. ` +
        'Save the model as safetensors first (in Python: model.save_pretrained(folder, safe_serialization=True)).',
      foreign[0],
    );
  }
  const shardOf = checkedWeightMap(index.weight_map);
  const shards = checkedShards(shardOf, files);
  const { tensors, weightBytes } = await readWeights(store, prefix, shards);
  for (const [name, shard] of shardOf) {
    const key = tensors.get(name)?.key;
    if (key === prefix + shard) continue;
    const where = key === undefined ? 'no shard has it' : `it is in ${key.slice(prefix.length)}`;
    throw indexMismatch(name, `${indexFile} says that tensor "${name}" is in ${shard}, but ${where}`);
  }
  for (const { name, key } of tensors.values()) {
    if (!shardOf.has(name)) {
      throw indexMismatch(name, `${key.slice(prefix.length)} holds tensor "${name}", which ${indexFile} does not name`);
    }
  }
  return { tensors, weightBytes };
}

/** Checks an index before the shards are there.  @param paths of the folder's files   @throws InputError as `openModelFolder` */
export function checkIndex(index: JsonObject, paths: Iterable<string>): void {
  checkedShards(checkedWeightMap(index.weight_map), new Map([...paths].map((path) => [path, 0])));
}

/** The files that an index names, all of which are there. */
function checkedShards(shardOf: ReadonlyMap<string, string>, files: ReadonlyMap<string, number>): Set<string> {
  const shards = new Set([...shardOf.values()].sort());
  const absent = [...shards].filter((shard) => !files.has(shard));
  if (absent.length === 0) return shards;
  const present = [...files.keys()].filter((path) => path.endsWith('.safetensors'));
  throw new InputError(
    'missing_shard',
    `${indexFile} names ${shards.size} shards, but ${nameSome(absent)} is not there; ` +
      `the folder holds ${nameSome(present)}. Copy what is missing.`,
    absent[0],
  );
}

function indexMismatch(tensor: string, what: string): InputError {
  return new InputError(
    'index_mismatch',
    `${what}. Index and shards come from different versions of the model; copy all of them again.`,
    tensor,
  );
}

function checkedWeightMap(value: unknown): Map<string, string> {
  const entries = isJsonObject(value) ? Object.entries(value) : [];
  if (entries.length === 0) {
    throw new InputError(
      'invalid_index',
      `${indexFile} must have a weight_map from tensor names to shard files; it has ${describeJson(value)}.`,
      indexFile,
    );
  }
  const shardOf = new Map<string, string>();
  for (const [name, shard] of entries) {
    if (typeof shard !== 'string' || !/^[^/\\]+\.safetensors$/.test(shard)) {
      throw new InputError(
        'invalid_index',
        `${indexFile} puts tensor "${name}" into ${describeJson(shard)}; a shard is a .safetensors file of the same folder.`,
        name,
      );
    }
    shardOf.set(name, shard);
  }
  return shardOf;
}

async function readWeights(
  store: ReadableStore,
  prefix: string,
  paths: ReadonlySet<string>,
): Promise<{ tensors: Map<string, TensorInfo>; weightBytes: number }> {
  const tensors = new Map<string, TensorInfo>();
  let weightBytes = 0;
  for (const path of paths) {
    const file = await openSafetensors(store, prefix + path);
    weightBytes += file.sizeBytes;
    for (const info of file.tensors.values()) {
      const other = tensors.get(info.name);
      if (other !== undefined) {
        throw indexMismatch(
          info.name,
          `Tensor "${info.name}" is in ${path} and also in ${other.key.slice(prefix.length)}`,
        );
      }
      tensors.set(info.name, info);
    }
  }
  return { tensors, weightBytes };
}

/**
 * Checks that the values can be written as float16, as every format does with some.
 * @throws InputError `nan_weights` as `assertFinite`, or `float16_overflow` naming the tensor and the first value beyond
 */
export function assertFloat16(values: Float32Array, tensorName: string): void {
  assertFinite(values, tensorName);
  const beyond = values.find((value) => Math.abs(value) > float16Max);
  if (beyond === undefined) return;
  throw new InputError(
    'float16_overflow',
    `"${tensorName}" holds ${beyond}; the result keeps it in float16, which ends at ${float16Max}.`,
    tensorName,
  );
}

/** @throws InputError `nan_weights` when a value is not finite, naming the tensor, the first such value and their count */
export function assertFinite(values: Float32Array, tensorName: string): void {
  let count = 0;
  let first = -1;
  for (let i = 0; i < values.length; i++) {
    // Zero for every finite number, NaN for the others.
    if (values[i] - values[i] === 0) continue;
    if (count === 0) first = i;
    count++;
  }
  if (count === 0) return;
  throw new InputError(
    'nan_weights',
    `Tensor "${tensorName}" has ${count} of ${values.length} values that are not finite numbers; the first, at index ` +
      `${first}, is ${values[first]}. The file is damaged or the model's training diverged; use another copy.`,
    tensorName,
  );
}
