// batch-jobs/src/errors.ts
var InputError = class extends Error {
  constructor(code, message, param = null, options) {
    super(message, options);
    this.code = code;
    this.param = param;
  }
  code;
  param;
  name = "InputError";
};

// batch-jobs/src/storage/folder-store.ts
import { randomUUID } from "node:crypto";
import { constants } from "node:fs";
import { link, lstat, mkdir, open, readdir, realpath, rename, rm, rmdir, stat, unlink } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";

// batch-jobs/src/storage/keys.ts
var maxKeyBytes = 1024;
var maxSegmentBytes = 255;
var temporaryFolder = ".tmp";
function segmentFault(segment) {
  if (segment === "") return "it begins or ends with a slash, or has two in a row";
  if (/^\.+$/.test(segment)) return `"${segment}" is not a name`;
  if (/[\\\0]/.test(segment)) return "it holds a backslash or a NUL";
  if (Buffer.byteLength(segment) > maxSegmentBytes) return `a segment has more than ${maxSegmentBytes} bytes`;
  return null;
}
function keyFault(segments, whole) {
  if (segments[0] === temporaryFolder) return `"${temporaryFolder}" is kept for the store's own files`;
  if (Buffer.byteLength(whole) > maxKeyBytes) return `it has more than ${maxKeyBytes} bytes`;
  for (const segment of segments) {
    const fault = segmentFault(segment);
    if (fault !== null) return fault;
  }
  return null;
}
function keySegments(key) {
  const segments = key.split("/");
  const fault = keyFault(segments, key);
  if (fault !== null) throw invalidKey("key", key, fault);
  return segments;
}
function prefixParts(prefix) {
  const folders = prefix.split("/");
  const nameStart = folders.pop() ?? "";
  const fault = folders.length > 0 ? keyFault(folders, prefix) : null;
  if (fault !== null) throw invalidKey("prefix", prefix, fault);
  return { folders, nameStart };
}
function isSegment(name2) {
  return segmentFault(name2) === null;
}
function invalidKey(what, value, fault) {
  return new InputError(
    "invalid_key",
    `${JSON.stringify(value.slice(0, 200))} cannot be a ${what} of the store: ${fault}. Allowed are names joined by single slashes, such as "models/a/config.json".`,
    what
  );
}
function compareKeys(a, b) {
  const shorter = Math.min(a.length, b.length);
  for (let i = 0; i < shorter; i++) {
    const left = a.charCodeAt(i);
    const right = b.charCodeAt(i);
    if (left !== right) return utf8Rank(left) - utf8Rank(right);
  }
  return a.length - b.length;
}
function utf8Rank(unit) {
  return unit >= 55296 && unit < 57344 ? unit + 65536 : unit;
}

// batch-jobs/src/storage/store.ts
var StorageFullError = class extends Error {
  name = "StorageFullError";
};

// batch-jobs/src/storage/folder-store.ts
var staleAfterMs = 36e5;
var maxTransferBytes = 2 ** 30;
var streamChunkBytes = 2 ** 18;
var flushEveryBytes = 2 ** 26;
var placeAttempts = 10;
var FolderStore = class {
  #root;
  #realRoot;
  #writable;
  /** @param rootFolder made by the first write if it does not exist; reading never changes anything in it */
  constructor(rootFolder) {
    this.#root = resolve(rootFolder);
  }
  async get(key, range) {
    const file = await this.#openObject(key);
    if (file === null) return null;
    try {
      const { start, end } = within((await file.stat()).size, range);
      const bytes = new Uint8Array(end - start);
      const length = await readFully(file, bytes, start);
      return length === bytes.length ? bytes : bytes.slice(0, length);
    } finally {
      await file.close();
    }
  }
  async read(key, start, into) {
    const file = await this.#openObject(key);
    if (file === null) return null;
    try {
      return await readFully(file, into, start);
    } finally {
      await file.close();
    }
  }
  async stream(key, range) {
    const file = await this.#openObject(key);
    if (file === null) return null;
    let position;
    let end;
    try {
      ({ start: position, end } = within((await file.stat()).size, range));
    } catch (error) {
      await file.close();
      throw error;
    }
    return new ReadableStream(
      {
        async pull(controller) {
          try {
            const chunk = new Uint8Array(Math.min(streamChunkBytes, end - position));
            const length = await readFully(file, chunk, position);
            position += length;
            if (length > 0) controller.enqueue(chunk.subarray(0, length));
            if (length < chunk.length || position >= end) {
              await file.close();
              controller.close();
            }
          } catch (error) {
            await file.close();
            controller.error(error);
          }
        },
        cancel: () => file.close()
      },
      { highWaterMark: 0 }
    );
  }
  async head(key) {
    const path = await this.#pathOf(key);
    const found = path === null ? null : await unlessMissing(lstat(path));
    return found?.isFile() ? { sizeBytes: found.size } : null;
  }
  async put(key, body, options = {}) {
    const segments = keySegments(key);
    let writtenBytes = 0;
    let flushedBytes = 0;
    let flushing = Promise.resolve();
    try {
      await this.#makeWritable();
      const temporary = join(this.#root, temporaryFolder, randomUUID());
      try {
        const file = await open(temporary, "wx");
        try {
          for await (const chunk of body instanceof Uint8Array ? [body] : body) {
            await writeFully(file, chunk, writtenBytes);
            writtenBytes += chunk.length;
            if (writtenBytes - flushedBytes < flushEveryBytes) continue;
            await flushing;
            flushedBytes = writtenBytes;
            flushing = file.datasync();
            flushing.catch(() => void 0);
          }
          await flushing;
          await file.sync();
        } finally {
          await flushing.catch(() => void 0);
          await file.close();
        }
        return await this.#place(temporary, segments, options.onlyIfAbsent ?? false);
      } finally {
        await rm(temporary, { force: true });
      }
    } catch (cause) {
      if (!hasCode(cause, "ENOSPC", "EDQUOT")) throw cause;
      const size = body instanceof Uint8Array ? `${body.length} bytes` : `more than ${writtenBytes} bytes`;
      throw new StorageFullError(
        `No room on the disk (${cause.code}) to write ${key}, ${size}. Nothing of it was kept. Free some space, or move the store to a larger disk, and try again.`,
        { cause }
      );
    }
  }
  async list(prefix, options = {}) {
    const { after = "", limit = 1e3 } = options;
    const { folders, nameStart } = prefixParts(prefix);
    const found = [];
    const base = await this.#existingFolder(folders);
    if (base !== null) {
      await this.#collect(base, folders.map((name2) => `${name2}/`).join(""), nameStart, after, limit, found);
    }
    return found;
  }
  async folders(prefix) {
    const { folders, nameStart } = prefixParts(prefix);
    if (nameStart !== "") {
      throw new InputError("invalid_key", `"${prefix}" does not end in a slash, so it has no folders.`, "prefix");
    }
    const base = await this.#existingFolder(folders);
    if (base === null) return [];
    const names = [];
    for (const { name: name2, isFolder: isFolder2 } of await this.#entries(base)) {
      if (isFolder2 && await this.#holdsObject(join(base, name2))) names.push(name2);
    }
    return names.sort(compareKeys);
  }
  async delete(key) {
    const path = await this.#pathOf(key);
    if (path === null) return;
    const found = await unlessMissing(lstat(path));
    if (!found?.isFile()) return;
    await unlessMissing(unlink(path));
    await this.#prune(dirname(path));
  }
  async deletePrefix(prefix) {
    const { folders, nameStart } = prefixParts(prefix);
    if (prefix === "") throw new InputError("invalid_key", "An empty prefix would delete the whole store.", "prefix");
    const base = await this.#existingFolder(folders);
    if (base === null) return;
    for (const { name: name2 } of await this.#entries(base)) {
      if (name2.startsWith(nameStart)) await rm(join(base, name2), { recursive: true, force: true, maxRetries: 5 });
    }
    await this.#prune(base);
  }
  /** The path of a folder that exists with no symbolic link in it below the root; else null. */
  async #existingFolder(segments) {
    this.#realRoot ??= await unlessMissing(realpath(this.#root)) ?? void 0;
    if (this.#realRoot === void 0) return null;
    const path = join(this.#realRoot, ...segments);
    return await unlessMissing(realpath(path)) === path ? path : null;
  }
  /** Where the object of a key is, if there is one; it may still be a link. Null when its folder does not exist. */
  async #pathOf(key) {
    const segments = keySegments(key);
    const folder2 = await this.#existingFolder(segments.slice(0, -1));
    return folder2 === null ? null : join(folder2, segments[segments.length - 1] ?? "");
  }
  async #openObject(key) {
    const path = await this.#pathOf(key);
    if (path === null) return null;
    const flags = constants.O_RDONLY | (constants.O_NOFOLLOW ?? 0) | (constants.O_NONBLOCK ?? 0);
    const file = await unlessMissing(open(path, flags), "ELOOP", "EMLINK", "ENXIO");
    if (file === null || (await file.stat()).isFile()) return file;
    await file.close();
    return null;
  }
  /** Makes the root and `.tmp/` and removes what crashed writers left there. Once per store, again after a failure. */
  async #makeWritable() {
    this.#writable ??= (async () => {
      const folder2 = join(this.#root, temporaryFolder);
      await mkdir(folder2, { recursive: true });
      const staleBefore = Date.now() - staleAfterMs;
      for (const name2 of await readdir(folder2)) {
        const path = join(folder2, name2);
        const found = await unlessMissing(lstat(path));
        if (found !== null && found.mtimeMs < staleBefore) await rm(path, { recursive: true, force: true });
      }
    })();
    try {
      await this.#writable;
    } catch (error) {
      this.#writable = void 0;
      throw error;
    }
  }
  /** Gives a finished temporary file its name.  @returns false when it must not replace and the name is taken */
  async #place(temporary, segments, onlyIfAbsent) {
    const root = this.#realRoot ??= await realpath(this.#root);
    const path = join(root, ...segments);
    const parent = dirname(path);
    for (let attempt = 1; ; attempt++) {
      try {
        const firstMade = await mkdir(parent, { recursive: true });
        if (await realpath(parent) !== parent) throw conflict(segments, "a folder above it is a symbolic link");
        if (onlyIfAbsent) await link(temporary, path);
        else await rename(temporary, path);
        await syncFolders(parent, firstMade === void 0 ? parent : dirname(firstMade));
        return true;
      } catch (error) {
        if (hasCode(error, "ENOENT") && attempt < placeAttempts) continue;
        if (hasCode(error, "EISDIR", "ENOTEMPTY") || hasCode(error, "EEXIST") && await isFolder(path)) {
          throw conflict(segments, "it is already a folder of other keys");
        }
        if (hasCode(error, "ENOTDIR") || hasCode(error, "EEXIST") && error.syscall === "mkdir") {
          throw conflict(segments, "a part of its path is already an object");
        }
        if (hasCode(error, "EEXIST")) return false;
        throw error;
      }
    }
  }
  /** Removes folders that have become empty, from `path` up to below the root: a bucket has no empty folders. */
  async #prune(path) {
    for (let folder2 = path; folder2 !== this.#realRoot; folder2 = dirname(folder2)) {
      try {
        await rmdir(folder2);
      } catch (error) {
        if (hasCode(error, "ENOTEMPTY", "EEXIST", "ENOENT", "ENOTDIR", "EBUSY", "EPERM", "EACCES")) return;
        throw error;
      }
    }
  }
  /** The files and folders in a folder that can be part of a key, in the order of the keys; none when it is missing. */
  async #entries(path) {
    const all = await unlessMissing(readdir(path, { withFileTypes: true }), "ENOTDIR") ?? [];
    return all.filter((entry) => (entry.isFile() || entry.isDirectory()) && isSegment(entry.name)).filter((entry) => entry.name !== temporaryFolder || path !== this.#realRoot).map((entry) => ({ name: entry.name, isFolder: entry.isDirectory() })).sort((a, b) => compareKeys(a.isFolder ? `${a.name}/` : a.name, b.isFolder ? `${b.name}/` : b.name));
  }
  /** Appends the objects under a folder in the order of their keys, leaving out whole sub-folders before `after`. */
  async #collect(path, keyPrefix, nameStart, after, limit, found) {
    for (const { name: name2, isFolder: isFolder2 } of await this.#entries(path)) {
      if (found.length >= limit) return;
      if (!name2.startsWith(nameStart)) continue;
      const key = keyPrefix + name2 + (isFolder2 ? "/" : "");
      if (compareKeys(key, after) <= 0 && !(isFolder2 && after.startsWith(key))) continue;
      if (isFolder2) {
        await this.#collect(join(path, name2), key, "", after, limit, found);
        continue;
      }
      const status = await unlessMissing(lstat(join(path, name2)));
      if (status !== null) found.push({ key, sizeBytes: status.size });
    }
  }
  async #holdsObject(path) {
    const entries = await this.#entries(path);
    if (entries.some((entry) => !entry.isFolder)) return true;
    for (const { name: name2 } of entries) if (await this.#holdsObject(join(path, name2))) return true;
    return false;
  }
};
function hasCode(error, ...codes) {
  return error instanceof Error && "code" in error && codes.includes(String(error.code));
}
async function unlessMissing(pending, ...codes) {
  try {
    return await pending;
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR", ...codes)) return null;
    throw error;
  }
}
async function isFolder(path) {
  return (await unlessMissing(stat(path)))?.isDirectory() ?? false;
}
function conflict(segments, reason) {
  const key = segments.join("/");
  return new InputError("invalid_key", `${key} cannot be written: ${reason}. Choose another key.`, "key");
}
function within(sizeBytes, range = { start: 0, end: sizeBytes }) {
  const { start, end } = range;
  if (!Number.isSafeInteger(start) || !Number.isSafeInteger(end) || start < 0 || end < start) {
    throw new RangeError(`A byte range must have 0 <= start <= end in whole numbers; got ${start} to ${end}.`);
  }
  return { start: Math.min(start, sizeBytes), end: Math.min(end, sizeBytes) };
}
async function readFully(file, bytes, position) {
  let length = 0;
  while (length < bytes.length) {
    const wanted = Math.min(bytes.length - length, maxTransferBytes);
    const { bytesRead } = await file.read(bytes, length, wanted, position + length);
    if (bytesRead === 0) break;
    length += bytesRead;
  }
  return length;
}
async function writeFully(file, bytes, position) {
  for (let written = 0; written < bytes.length; ) {
    const wanted = Math.min(bytes.length - written, maxTransferBytes);
    written += (await file.write(bytes, written, wanted, position + written)).bytesWritten;
  }
}
async function syncFolders(lowest, highest) {
  for (let folder2 = lowest; folder2.length >= highest.length; folder2 = dirname(folder2)) {
    let handle;
    try {
      handle = await open(folder2, "r");
    } catch (error) {
      if (hasCode(error, "EISDIR", "EPERM", "EACCES", "ENOENT")) return;
      throw error;
    }
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  }
}

// batch-jobs/src/models/decoder-config.ts
var plainFeatures = {
  ropeScaling: null,
  activation: "silu",
  biases: [],
  qkNorm: false,
  fusedProjections: false,
  normOffset: 0,
  embeddingScale: 1,
  bosPerSegment: false
};
var embeddingName = "model.embed_tokens.weight";
var finalNormName = "model.norm.weight";
var headName = "lm_head.weight";
var linearNames = [
  "self_attn.q_proj.weight",
  "self_attn.k_proj.weight",
  "self_attn.v_proj.weight",
  "self_attn.o_proj.weight",
  "mlp.gate_proj.weight",
  "mlp.up_proj.weight",
  "mlp.down_proj.weight"
];
var attentionLinears = linearNames.slice(0, 4);
var feedForwardLinears = linearNames.slice(4);
var normNames = ["input_layernorm.weight", "post_attention_layernorm.weight"];
var headNormNames = ["self_attn.q_norm.weight", "self_attn.k_norm.weight"];
var blockPrefix = (block) => `model.layers.${block}.`;
var fusedNames = ["self_attn.qkv_proj.weight", "mlp.gate_up_proj.weight"];
function blockTensors(config) {
  const { hiddenSize, intermediateSize, headDim } = config;
  const queries = config.numAttentionHeads * headDim;
  const keys = config.numKeyValueHeads * headDim;
  const linears = {
    "self_attn.q_proj.weight": [queries, hiddenSize],
    "self_attn.k_proj.weight": [keys, hiddenSize],
    "self_attn.v_proj.weight": [keys, hiddenSize],
    "self_attn.o_proj.weight": [hiddenSize, queries],
    "mlp.gate_proj.weight": [intermediateSize, hiddenSize],
    "mlp.up_proj.weight": [intermediateSize, hiddenSize],
    "mlp.down_proj.weight": [hiddenSize, intermediateSize]
  };
  const vector = (name2, size) => ({
    name: name2,
    shape: [size],
    parts: [{ name: name2, rows: size }]
  });
  const matrix = (name2, parts) => {
    const rows = parts.map((part) => ({ name: part, rows: linears[part][0] }));
    return { name: name2, shape: [rows.reduce((sum, part) => sum + part.rows, 0), linears[parts[0]][1]], parts: rows };
  };
  const [q, k, v, o, gate, up, down] = linearNames;
  const groups = config.fusedProjections ? [
    [fusedNames[0], [q, k, v]],
    [o, [o]],
    [fusedNames[1], [gate, up]],
    [down, [down]]
  ] : linearNames.map((name2) => [name2, [name2]]);
  return [
    ...normNames.map((name2) => vector(name2, hiddenSize)),
    ...config.qkNorm ? headNormNames.map((name2) => vector(name2, headDim)) : [],
    ...groups.map(([name2, parts]) => matrix(name2, parts)),
    ...config.biases.map((name2) => vector(biasOf(name2), linears[name2][0]))
  ];
}
function biasOf(name2) {
  return name2.replace(/weight$/, "bias");
}
function tensorShapes(config) {
  const shapes = /* @__PURE__ */ new Map([[embeddingName, [config.vocabSize, config.hiddenSize]]]);
  const inBlock = blockTensors(config);
  for (let block = 0; block < config.numHiddenLayers; block++) {
    for (const { name: name2, shape } of inBlock) shapes.set(blockPrefix(block) + name2, [...shape]);
  }
  shapes.set(finalNormName, [config.hiddenSize]);
  if (!config.tieWordEmbeddings) shapes.set(headName, [config.vocabSize, config.hiddenSize]);
  return shapes;
}
var quantizedNames = /* @__PURE__ */ new Set([...linearNames, ...fusedNames]);

// batch-jobs/src/models/rope.ts
var ropeTypes = ["default", "linear", "llama3", "longrope"];

// batch-jobs/src/models/config-fields.ts
var mostLayers = 1e4;
function readDecoderConfig(config, architecture, defaults) {
  const hiddenSize = positiveInteger(config, "hidden_size");
  const numAttentionHeads = positiveInteger(config, "num_attention_heads");
  const fewer = config.num_key_value_heads === null ? null : defaults.numKeyValueHeads;
  const numKeyValueHeads = positiveInteger(config, "num_key_value_heads", fewer ?? numAttentionHeads);
  const headDim = positiveInteger(config, "head_dim", defaults.headDim ?? hiddenSize / numAttentionHeads);
  if (numAttentionHeads % numKeyValueHeads !== 0) {
    throw badConfig("num_key_value_heads", numKeyValueHeads, `a divisor of num_attention_heads (${numAttentionHeads})`);
  }
  if (headDim % 2 !== 0)
    throw badConfig("head_dim", headDim, "an even number, as the rotary embedding pairs dimensions");
  const maxPositionEmbeddings = positiveInteger(config, "max_position_embeddings", defaults.maxPositionEmbeddings);
  const numHiddenLayers = positiveInteger(config, "num_hidden_layers", void 0, mostLayers);
  return {
    ...plainFeatures,
    architecture,
    vocabSize: positiveInteger(config, "vocab_size"),
    hiddenSize,
    intermediateSize: positiveInteger(config, "intermediate_size"),
    numHiddenLayers,
    numAttentionHeads,
    numKeyValueHeads,
    headDim,
    maxPositionEmbeddings,
    ...readRope(config, headDim, maxPositionEmbeddings),
    rmsNormEps: positiveNumber(config, "rms_norm_eps", defaults.rmsNormEps),
    tieWordEmbeddings: boolean(config, "tie_word_embeddings", defaults.tieWordEmbeddings),
    slidingWindows: new Array(numHiddenLayers).fill(null)
  };
}
function readRope(config, headDim, maxPositionEmbeddings) {
  requireOneOf(config, "partial_rotary_factor", [1], 1);
  const field = isPresent(config.rope_scaling) ? "rope_scaling" : "rope_parameters";
  const found = config[field];
  if (isPresent(found) && (typeof found !== "object" || Array.isArray(found)))
    throw badConfig(field, found, "an object or null");
  const settings = {};
  for (const [name2, value] of Object.entries(found ?? {})) Object.assign(settings, { [`${field}.${name2}`]: value });
  const named = (name2) => `${field}.${name2}`;
  requireOneOf(settings, named("partial_rotary_factor"), [1], 1);
  const typeField = isPresent(settings[named("rope_type")]) ? named("rope_type") : named("type");
  const type = requireOneOf(settings, typeField, ropeTypes, "default");
  const ropeTheta = isPresent(settings[named("rope_theta")]) ? positiveNumber(settings, named("rope_theta")) : positiveNumber(config, "rope_theta", 1e4);
  return { ropeTheta, ropeScaling: type === "default" ? null : scaling(type) };
  function scaling(type2) {
    if (type2 === "linear") return { type: type2, factor: positiveNumber(settings, named("factor")) };
    const originalMaxPositionEmbeddings = isPresent(config.original_max_position_embeddings) ? positiveInteger(config, "original_max_position_embeddings") : positiveInteger(settings, named("original_max_position_embeddings"), maxPositionEmbeddings);
    if (type2 === "llama3") {
      const factor2 = positiveNumber(settings, named("factor"));
      const lowFreqFactor = positiveNumber(settings, named("low_freq_factor"));
      const highFreqFactor = positiveNumber(settings, named("high_freq_factor"));
      if (highFreqFactor <= lowFreqFactor)
        throw badConfig(named("high_freq_factor"), highFreqFactor, `more than low_freq_factor (${lowFreqFactor})`);
      return { type: type2, factor: factor2, lowFreqFactor, highFreqFactor, originalMaxPositionEmbeddings };
    }
    const shortFactors = positiveNumbers(settings, named("short_factor"), headDim / 2);
    const longFactors = positiveNumbers(settings, named("long_factor"), headDim / 2);
    const factor = positiveNumber(settings, named("factor"), maxPositionEmbeddings / originalMaxPositionEmbeddings);
    const usual = factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(originalMaxPositionEmbeddings));
    const attentionFactor = positiveNumber(settings, named("attention_factor"), usual);
    return { type: type2, shortFactors, longFactors, attentionFactor, originalMaxPositionEmbeddings };
  }
}
function readSlidingWindow(config, fallback) {
  const value = config.sliding_window === void 0 ? fallback : config.sliding_window;
  return value === null ? null : positiveInteger({ sliding_window: value }, "sliding_window");
}
function readLayerWindows(config, numHiddenLayers) {
  const window = boolean(config, "use_sliding_window", false) ? readSlidingWindow(config, 4096) : null;
  const slides = layersThatSlide(config, numHiddenLayers, window);
  return slides.map((slide) => slide ? window : null);
}
function layersThatSlide(config, numHiddenLayers, window) {
  const types = config.layer_types;
  if (!isPresent(types)) {
    const full = isPresent(config.max_window_layers) ? wholeNumber(config, "max_window_layers") : 28;
    return Array.from({ length: numHiddenLayers }, (_, layer) => layer >= full);
  }
  if (!Array.isArray(types) || types.length !== numHiddenLayers)
    throw badConfig("layer_types", types, `a list of ${numHiddenLayers}, one for each layer`);
  return types.map((type, layer) => {
    if (type === "full_attention") return false;
    if (type === "sliding_attention" && window !== null) return true;
    const allowed = window === null ? '"full_attention", as use_sliding_window is false' : '"full_attention" or "sliding_attention"';
    throw badConfig(`layer_types[${layer}]`, type, allowed);
  });
}
function positiveInteger(config, field, fallback, largest = 2 ** 31) {
  const value = config[field] ?? fallback;
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 1 || value > largest) {
    throw badConfig(field, value, `a whole number from 1 to ${largest}`);
  }
  return value;
}
function wholeNumber(config, field) {
  return config[field] === 0 ? 0 : positiveInteger(config, field);
}
function positiveNumber(config, field, fallback) {
  const value = config[field] ?? fallback;
  if (!isPositive(value)) throw badConfig(field, value, "a positive number");
  return value;
}
function positiveNumbers(config, field, count) {
  const values = config[field];
  if (!Array.isArray(values) || values.length !== count || !values.every(isPositive))
    throw badConfig(field, values, `a list of ${count} positive numbers, one for each pair of a head's dimensions`);
  return values;
}
function isPositive(value) {
  return typeof value === "number" && Number.isFinite(value) && value > 0;
}
function boolean(config, field, fallback) {
  return requireOneOf(config, field, [true, false], fallback);
}
function requireOneOf(config, field, allowed, fallback) {
  const value = config[field] ?? fallback;
  if (!allowed.includes(value))
    throw badConfig(field, value, allowed.map((one) => JSON.stringify(one)).join(" or "));
  return value;
}
function isPresent(value) {
  return value !== void 0 && value !== null;
}
function badConfig(field, received, allowed) {
  return new InputError(
    "bad_config",
    `config.json: ${field} is ${JSON.stringify(received) ?? "missing"}; it must be ${allowed}.`,
    field
  );
}

// batch-jobs/src/models/gemma.ts
var activations = ["gelu_pytorch_tanh", "gelu"];
var gemma = {
  architecture: "GemmaForCausalLM",
  parseConfig(config) {
    requireOneOf(config, "hidden_act", activations, "gelu_pytorch_tanh");
    requireOneOf(config, "hidden_activation", activations, "gelu_pytorch_tanh");
    requireOneOf(config, "use_bidirectional_attention", [false], false);
    const common = readDecoderConfig(config, gemma.architecture, {
      numKeyValueHeads: 16,
      headDim: 256,
      maxPositionEmbeddings: 8192,
      rmsNormEps: 1e-6,
      tieWordEmbeddings: true
    });
    return {
      ...common,
      activation: "geluTanh",
      biases: boolean(config, "attention_bias", false) ? attentionLinears : [],
      normOffset: 1,
      embeddingScale: Math.sqrt(common.hiddenSize),
      bosPerSegment: true
    };
  }
};

// batch-jobs/src/models/llama.ts
var llama = {
  architecture: "LlamaForCausalLM",
  parseConfig(config) {
    requireOneOf(config, "hidden_act", ["silu", "swish"], "silu");
    return {
      ...readDecoderConfig(config, llama.architecture, {
        numKeyValueHeads: null,
        headDim: null,
        maxPositionEmbeddings: 2048,
        rmsNormEps: 1e-6,
        tieWordEmbeddings: false
      }),
      biases: [
        ...boolean(config, "attention_bias", false) ? attentionLinears : [],
        ...boolean(config, "mlp_bias", false) ? feedForwardLinears : []
      ]
    };
  }
};

// batch-jobs/src/models/mistral.ts
var mistral = {
  architecture: "MistralForCausalLM",
  parseConfig(config) {
    requireOneOf(config, "hidden_act", ["silu", "swish"], "silu");
    const common = readDecoderConfig(config, mistral.architecture, {
      numKeyValueHeads: 8,
      headDim: null,
      maxPositionEmbeddings: 4096 * 32,
      rmsNormEps: 1e-6,
      tieWordEmbeddings: false
    });
    return { ...common, slidingWindows: common.slidingWindows.map(() => readSlidingWindow(config, 4096)) };
  }
};

// batch-jobs/src/models/phi3.ts
var phi3 = {
  architecture: "Phi3ForCausalLM",
  parseConfig(config) {
    requireOneOf(config, "hidden_act", ["silu", "swish"], "silu");
    const common = readDecoderConfig(withCurrentNames(config), phi3.architecture, {
      numKeyValueHeads: null,
      headDim: null,
      maxPositionEmbeddings: 4096,
      rmsNormEps: 1e-5,
      tieWordEmbeddings: false
    });
    return {
      ...common,
      fusedProjections: true,
      slidingWindows: common.slidingWindows.map(() => readSlidingWindow(config, null))
    };
  }
};
function withCurrentNames(config) {
  const scaling = config.rope_scaling;
  const type = scaling?.rope_type ?? scaling?.type;
  const early = type === "su" || type === "yarn";
  return {
    ...config,
    original_max_position_embeddings: config.original_max_position_embeddings ?? 4096,
    ...early ? { rope_scaling: { ...scaling, rope_type: "longrope" } } : {}
  };
}

// batch-jobs/src/models/qwen2.ts
var qwen2 = {
  architecture: "Qwen2ForCausalLM",
  parseConfig(config) {
    requireOneOf(config, "hidden_act", ["silu", "swish"], "silu");
    const common = readDecoderConfig(config, qwen2.architecture, {
      numKeyValueHeads: 32,
      headDim: null,
      maxPositionEmbeddings: 32768,
      rmsNormEps: 1e-6,
      tieWordEmbeddings: false
    });
    return {
      ...common,
      biases: ["self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"],
      slidingWindows: readLayerWindows(config, common.numHiddenLayers)
    };
  }
};

// batch-jobs/src/models/qwen3.ts
var qwen3 = {
  architecture: "Qwen3ForCausalLM",
  parseConfig(config) {
    requireOneOf(config, "hidden_act", ["silu", "swish"], "silu");
    const common = readDecoderConfig(config, qwen3.architecture, {
      numKeyValueHeads: 32,
      headDim: 128,
      maxPositionEmbeddings: 32768,
      rmsNormEps: 1e-6,
      tieWordEmbeddings: false
    });
    return {
      ...common,
      biases: boolean(config, "attention_bias", false) ? attentionLinears : [],
      qkNorm: true,
      slidingWindows: readLayerWindows(config, common.numHiddenLayers)
    };
  }
};

// batch-jobs/src/models/registry.ts
var families = [llama, mistral, qwen2, qwen3, gemma, phi3];
var supportedArchitectures = families.map((family) => family.architecture);
function parseModelConfig(config) {
  const named = Array.isArray(config.architectures) ? config.architectures : [];
  const family = families.find((candidate) => named.includes(candidate.architecture));
  if (!family) {
    throw new InputError(
      "unknown_architecture",
      `config.json: architectures is ${JSON.stringify(config.architectures) ?? "missing"}; supported are ${supportedArchitectures.join(", ")}. Convert the model to one of these, or ask for its family.`,
      "architectures"
    );
  }
  return family.parseConfig(config);
}

// batch-jobs/src/numeric/dtypes.ts
function float32ToBfloat16(values) {
  const valueBits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const bits = new Uint16Array(values.length);
  for (let i = 0; i < bits.length; i++) {
    const wide = valueBits[i];
    const isNaN = (wide & 2147483647) > 2139095040;
    bits[i] = isNaN ? wide >>> 16 | ((wide & 8323072) === 0 ? 64 : 0) : wide + 32767 + (wide >>> 16 & 1) >>> 16;
  }
  return bits;
}
var scalar = new Float64Array(1);
var scalarWords = new Uint32Array(scalar.buffer);
var roundingConstants = Float64Array.from({ length: 30 }, (_, i) => 1.5 * 2 ** (i - 14 + 42));

// batch-jobs/src/formats/safetensors.ts
var dtypeBytes = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  F8_E8M0: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8,
  C64: 8
};
var lengthBytes = 8;
var metadataName = "__metadata__";
function isCounts(value) {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && item >= 0);
}
function safetensorsBytes(tensors, metadata = {}) {
  const names = /* @__PURE__ */ new Set([metadataName]);
  const fields = Object.keys(metadata).length > 0 ? [`"${metadataName}":${JSON.stringify(metadata)}`] : [];
  let dataBytes = 0;
  for (const { name: name2, dtype, shape, data } of tensors) {
    if (names.has(name2)) throw new Error(`Two tensors of one safetensors file have the name "${name2}".`);
    if (!isCounts(shape)) throw new Error(`Tensor "${name2}" cannot have the shape [${String(shape)}].`);
    names.add(name2);
    const begin = dataBytes;
    dataBytes += tensorBytes(dtype, shape);
    if (typeof data !== "function") checkDataLength(name2, data.length, dataBytes - begin);
    fields.push(`${JSON.stringify(name2)}:${JSON.stringify({ dtype, shape, data_offsets: [begin, dataBytes] })}`);
  }
  const json = new TextEncoder().encode(`{${fields.join(",")}}`);
  const headerBytes = Math.ceil(json.length / 8) * 8;
  const head = new Uint8Array(lengthBytes + headerBytes).fill(32);
  new DataView(head.buffer).setBigUint64(0, BigInt(headerBytes), true);
  head.set(json, lengthBytes);
  async function* chunks() {
    yield head;
    for (const { name: name2, dtype, shape, data } of tensors) {
      const expectedBytes = tensorBytes(dtype, shape);
      let length = 0;
      for await (const part of partsOf(data)) {
        length += part.length;
        if (length > expectedBytes) break;
        yield part;
      }
      checkDataLength(name2, length, expectedBytes);
    }
  }
  return { sizeBytes: head.length + dataBytes, chunks: { [Symbol.asyncIterator]: chunks } };
}
function tensorBytes(dtype, shape) {
  return shape.reduce((product, size) => product * size, dtypeBytes[dtype]);
}
async function* partsOf(data) {
  const made = typeof data === "function" ? data() : data;
  if (Symbol.asyncIterator in made) yield* made;
  else yield await made;
}
function checkDataLength(name2, length, expectedBytes) {
  if (length === expectedBytes) return;
  throw new Error(`Tensor "${name2}" has ${length} bytes of data; its dtype and shape need ${expectedBytes}.`);
}

// batch-jobs/src/numeric/random.ts
function createRandom(seed, stream = 0) {
  const nextWord = splitmix32(splitmix32(seed)() ^ splitmix32(~stream)());
  const generate = xoshiro128([nextWord(), nextWord(), nextWord(), nextWord()]);
  return () => generate() / 2 ** 32;
}
function splitmix32(seed) {
  let counter = seed | 0;
  return () => {
    counter = counter + 2654435769 | 0;
    let word = counter ^ counter >>> 16;
    word = Math.imul(word, 2246822507);
    word = Math.imul(word ^ word >>> 13, 3266489909);
    return (word ^ word >>> 16) >>> 0;
  };
}
function xoshiro128(state) {
  let [a, b, c, d] = state;
  return () => {
    const scrambled = Math.imul(rotateLeft(Math.imul(b, 5), 7), 9) >>> 0;
    const shifted = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= shifted;
    d = rotateLeft(d, 11);
    return scrambled;
  };
}
function rotateLeft(word, count) {
  return word << count | word >>> 32 - count;
}

// batch-jobs/bench/checkpoint.ts
var llama2 = (sizes) => ({
  architectures: ["LlamaForCausalLM"],
  vocab_size: 32e3,
  max_position_embeddings: 4096,
  rms_norm_eps: 1e-5,
  rope_theta: 1e4,
  tie_word_embeddings: false,
  torch_dtype: "bfloat16",
  ...sizes
});
var checkpointShapes = {
  full: {
    label: "7B-shaped bfloat16 checkpoint",
    config: llama2({ hidden_size: 4096, intermediate_size: 11008, num_hidden_layers: 32, num_attention_heads: 32 }),
    shardBytes: 4e9
  },
  billion: {
    label: "1.1B-parameter Llama",
    config: llama2({
      hidden_size: 2048,
      intermediate_size: 5632,
      num_hidden_layers: 22,
      num_attention_heads: 32,
      num_key_value_heads: 4
    }),
    shardBytes: 4e9
  },
  small: {
    label: "140M-parameter bfloat16 checkpoint",
    config: llama2({ hidden_size: 1024, intermediate_size: 2816, num_hidden_layers: 6, num_attention_heads: 16 }),
    shardBytes: 1e8
  }
};
var blockValues = 2 ** 22;
var stride = 1000003;
var tokenizer = {
  version: "1.0",
  truncation: null,
  padding: null,
  added_tokens: [],
  normalizer: null,
  pre_tokenizer: null,
  post_processor: null,
  decoder: null,
  model: { type: "BPE", vocab: { a: 0, b: 1 }, merges: [] }
};
async function writeCheckpoint(store, prefix, shape) {
  const block = seededBlock();
  const ones = new Uint8Array(new Uint16Array(blockValues).fill(16256).buffer);
  const shards = [[]];
  let shardBytes = 0;
  let offset = 0;
  for (const [name2, dimensions] of tensorShapes(parseModelConfig(shape.config))) {
    const bytes = 2 * dimensions.reduce((product, size) => product * size, 1);
    const start = 2 * ((offset += stride) % blockValues);
    if (shardBytes >= shape.shardBytes) {
      shards.push([]);
      shardBytes = 0;
    }
    shardBytes += bytes;
    shards[shards.length - 1].push({
      name: name2,
      dtype: "BF16",
      shape: dimensions,
      data: () => repeated(dimensions.length === 1 ? ones : block, start, bytes)
    });
  }
  const weightMap = {};
  let totalBytes = 0;
  for (const [index, tensors] of shards.entries()) {
    const number = (value) => String(value).padStart(5, "0");
    const file = `model-${number(index + 1)}-of-${number(shards.length)}.safetensors`;
    for (const { name: name2 } of tensors) weightMap[name2] = file;
    const { sizeBytes, chunks } = safetensorsBytes(tensors, { format: "pt" });
    await store.put(prefix + file, chunks);
    totalBytes += sizeBytes;
  }
  const json = { "model.safetensors.index.json": { metadata: {}, weight_map: weightMap }, "tokenizer.json": tokenizer };
  for (const [file, content] of Object.entries({ ...json, "config.json": shape.config })) {
    await store.put(prefix + file, new TextEncoder().encode(JSON.stringify(content)));
  }
  return totalBytes;
}
function seededBlock() {
  const random = createRandom(42);
  const values = new Float32Array(blockValues);
  for (let i = 0; i < blockValues; i++) {
    const value = 0.04 * (random() + random() + random() - 1.5);
    values[i] = Math.abs(value) < 1e-5 ? 0 : value;
  }
  return new Uint8Array(float32ToBfloat16(values).buffer);
}
async function* repeated(block, start, bytes) {
  let from = start;
  for (let left = bytes; left > 0; ) {
    const part = block.subarray(from, from + left);
    yield part;
    left -= part.length;
    from = 0;
  }
}

// ../../tmp/d/mk.ts
var [, , name, folder, layers] = process.argv;
var s = checkpointShapes[name];
console.log(await writeCheckpoint(new FolderStore(folder), "model/", layers ? { ...s, config: { ...s.config, num_hidden_layers: Number(layers) } } : s));
