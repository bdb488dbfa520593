/** `cherryq inspect`, `eval` and `generate`: one model folder on disk, of any format that CherryQ reads. */
import { access } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { openEngine } from './engine/engine.ts';
import { InputError } from './errors.ts';
import { measurePerplexity } from './evaluation/perplexity.ts';
import { assertFinite } from './formats/model-folder.ts';
import { openChatTemplate } from './formats/chat-template.ts';
import { segmentsOf } from './job-inputs.ts';
import { meanStoredBits, openModel, schemeOf } from './model-weights.ts';
import type { OpenedModel } from './model-weights.ts';
import { Decoder } from './models/decoder.ts';
import type { KeyValueCache } from './models/layers.ts';
import { cacheHolds } from './models/rope.ts';
import { createRandom } from './numeric/random.ts';

import { FolderStore } from './storage/index.ts';

export interface FolderInspection {
  readonly format: 'original' | 'native';
  readonly architecture: string;
  readonly parameters: number;
  /** Bytes of the weights' files. */
  readonly sizeBytes: number;
  /** Mean over the quantized layers, everything stored for them counted; null where nothing is quantized. */
  readonly bitsPerWeight: number | null;
  readonly scheme: ReturnType<typeof schemeOf> | null;
  readonly tensors: {
    name: string;
    dtype: string;
    shape: number[];
    sizeBytes: number;
    bitsPerWeight: number | null;
  }[];
}

export interface Evaluation {
  readonly perplexity: number;
  readonly tokens: number;
  readonly format: string;
  readonly engine: string;
  readonly seconds: number;
}

export interface Generation {
  readonly text: string;
  readonly tokens: number;
  readonly seconds: number;
}

/** What is in a folder, tensor by tensor; quantized layers are one line each.  @throws InputError */
export async function inspectFolder(folder: string): Promise<FolderInspection> {
  const model = await openModel(new FolderStore(folder), '');
  const tensors = [...model.shapes].map(([name, shape]) => {
    const bits = model.storedBits(name);
    const elements = shape.reduce((product, size) => product * size, 1);
    const plain = model.folder.tensors.get(name);
    return {
      name,
      dtype: plain?.dtype ?? `${model.native?.bits ?? '?'}-bit`,
      shape,
      sizeBytes: plain ? plain.end - plain.start : Math.round(((bits ?? 0) * elements) / 8),
      bitsPerWeight: bits,
    };
  });
  return {
    format: model.folder.format,
    architecture: model.config.architecture,
    parameters: model.parameters,
    sizeBytes: model.folder.weightBytes,
    bitsPerWeight: meanStoredBits(model),
    scheme: model.native ? schemeOf(model.native) : null,
    tensors,
  };
}

/** Perplexity of a folder on a text file, as jobs measure it.  @throws InputError */
export async function evaluateFolder(
  folder: string,
  textFile: string,
  options: { maxTokens?: number; onProgress?: (done: number, total: number) => void } = {},
): Promise<Evaluation> {
  const started = performance.now();
  await requireFile(textFile);
  const engine = await openEngine(process.env.CHERRYQ_ENGINE);
  const model = await openModel(new FolderStore(folder), '');
  const text = { tokenizer: model.tokenizer, template: await openChatTemplate(new FolderStore(folder), '') };
  const texts = new FolderStore(dirname(textFile));
  const segments = await segmentsOf(texts, basename(textFile), model, text, options.maxTokens);
  const total = segments.length * segments[0].length;
  const { perplexity, tokens } = await measurePerplexity(model.config, await cached(model), segments, {
    onProgress: (share) => options.onProgress?.(Math.round(share * total), total),
  });
  return {
    perplexity,
    tokens,
    format: model.folder.format,
    engine: engine.name,
    seconds: (performance.now() - started) / 1000,
  };
}

async function requireFile(path: string): Promise<void> {
  try {
    await access(path);
  } catch (cause) {
    throw new InputError(
      'missing_file',
      `The text file ${path} cannot be read: ${cause instanceof Error ? cause.message : String(cause)}.`,
      path,
      { cause },
    );
  }
}

/** Continues a prompt with the folder's weights, packed ones included.  @throws InputError */
export async function generateText(
  folder: string,
  prompt: string,
  options: { maxTokens: number; temperature: number; seed: number; onText?: (piece: string) => void },
): Promise<Generation> {
  const started = performance.now();
  await openEngine(process.env.CHERRYQ_ENGINE);
  const model = await openModel(new FolderStore(folder), '');
  const { tokenizer, config } = model;
  const decoder = new Decoder(config, await cached(model));
  const bos = tokenizer.bosTokenId;
  const promptIds = [...(bos === null ? [] : [bos]), ...tokenizer.encode(prompt, { addSpecialTokens: false })];
  if (promptIds.length === 0)
    throw new InputError(
      'empty_prompt',
      'The prompt is empty, and the tokenizer has no token to begin with. Give at least one word.',
      'prompt',
    );
  const room = config.maxPositionEmbeddings - promptIds.length;
  if (room < 1) {
    throw new InputError(
      'prompt_too_long',
      `The prompt has ${promptIds.length} tokens; the model's context ends at ${config.maxPositionEmbeddings}. Shorten it.`,
      'prompt',
    );
  }
  const random = createRandom(options.seed);
  const caches: (KeyValueCache | null)[] = new Array(config.numHiddenLayers).fill(null);
  const generated: number[] = [];
  let shown = '';
  let next = Int32Array.from(promptIds);
  let past = 0;
  while (generated.length < Math.min(options.maxTokens, room)) {
    if (!cacheHolds(config, past, past + next.length)) {
      disposeCaches(caches);
      next = Int32Array.from([...promptIds, ...generated]);
      past = 0;
    }
    const logits = await decoder.nextLogits(next, caches, past);
    past += next.length;
    const token = pick(logits, options.temperature, random);
    if (token === tokenizer.eosTokenId) break;
    generated.push(token);
    next = Int32Array.of(token);
    const text = tokenizer.decode(Int32Array.from(generated));
    // A character that takes several tokens is shown once it is whole.
    if (!text.endsWith('\uFFFD')) {
      options.onText?.(text.slice(shown.length));
      shown = text;
    }
  }
  const text = generated.length === 0 ? '' : tokenizer.decode(Int32Array.from(generated));
  return { text, tokens: generated.length, seconds: (performance.now() - started) / 1000 };
}

function disposeCaches(caches: (KeyValueCache | null)[]): void {
  for (const cache of caches) {
    cache?.keys.dispose();
    cache?.values.dispose();
  }
  caches.fill(null);
}

/** The likeliest token at temperature 0, else one drawn from softmax(logits / temperature). */
function pick(logits: Float32Array, temperature: number, random: () => number): number {
  let best = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i] > logits[best]) best = i;
  if (temperature === 0) return best;
  const weights = Float64Array.from(logits, (logit) => Math.exp((logit - logits[best]) / temperature));
  let left = random() * weights.reduce((sum, weight) => sum + weight, 0);
  for (let i = 0; i < weights.length; i++) if ((left -= weights[i]) < 0) return i;
  return best;
}

/** Weights kept in memory once read: tools read each of them many times.  @throws InputError naming one that is not finite */
async function cached(model: OpenedModel): Promise<{ read(name: string): Float32Array }> {
  const weights = new Map<string, Float32Array>();
  for (const name of model.shapes.keys()) {
    const values = await model.weights.read(name);
    assertFinite(values, name);
    weights.set(name, values);
  }
  return { read: (name) => weights.get(name) as Float32Array };
}
