/** A Llama of about 20,000 random weights with a tokenizer and texts: small enough for whole jobs within a test. */
import type { JobSpec, Scheme, Training } from 'cherryq/contract';
import { jobSpecSchema } from 'cherryq/contract';
import { tensorShapes } from '../../batch-jobs/src/models/decoder-config.ts';
import { parseModelConfig } from '../../batch-jobs/src/models/registry.ts';
import { safetensorsBytes } from '../../batch-jobs/src/formats/safetensors.ts';
import { createRandom } from '../../batch-jobs/src/numeric/random.ts';
import type { Store } from '../../batch-jobs/src/storage/index.ts';

/** Every printable ASCII character, as byte-level tokenizers write them, and the line end. */
const characters = Array.from({ length: 94 }, (_, i) => String.fromCharCode(33 + i)).concat('Ġ', 'Ċ');
const merges = ['t h', 'th e', 'Ġ the', 'Ġ s', 'i n', 'in g', 'Ġ a', 'e r'];
const vocabulary = ['<s>', '</s>', ...characters, ...merges.map((merge) => merge.replace(' ', ''))];

export const tinyConfig: Readonly<Record<string, unknown>> = {
  architectures: ['LlamaForCausalLM'],
  vocab_size: vocabulary.length,
  hidden_size: 32,
  intermediate_size: 44,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-5,
  rope_theta: 10_000,
  tie_word_embeddings: true,
  torch_dtype: 'float32',
};

/** Byte-level BPE with a few merges. */
export const tinyTokenizer = {
  version: '1.0',
  truncation: null,
  padding: null,
  added_tokens: ['<s>', '</s>'].map((content, id) => ({
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  })),
  normalizer: null,
  pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
  post_processor: null,
  decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
  model: { type: 'BPE', vocab: Object.fromEntries(vocabulary.map((token, id) => [token, id])), merges },
};

/** Random weights with the shapes that a config asks for; norms near one. */
export function tinyWeights(configJson: Readonly<Record<string, unknown>> = tinyConfig, seed = 1) {
  const random = createRandom(seed);
  const weights = new Map<string, Float32Array>();
  for (const [name, shape] of tensorShapes(parseModelConfig(configJson))) {
    const size = shape.reduce((product, length) => product * length, 1);
    const centre = shape.length === 1 ? 1 : 0;
    // The sum of three uniform numbers: close to normal, and never far out.
    const draw = (): number => centre + 0.3 * (random() + random() + random() - 1.5);
    weights.set(name, Float32Array.from({ length: size }, draw));
  }
  return weights;
}

const words = 'the sea and ship of whale a sailor saw in calm water again while singing to stars'.split(' ');

/** Sentences of a few words, no two seeds alike. */
export function tinyText(length: number, seed: number): string {
  const random = createRandom(seed, 7);
  let text = '';
  while (text.length < length) {
    const sentence = Array.from(
      { length: 4 + Math.floor(random() * 6) },
      () => words[Math.floor(random() * words.length)],
    );
    text += `${sentence.join(' ')}.\n`;
  }
  return text.slice(0, length);
}

export interface TinyModel {
  config?: Readonly<Record<string, unknown>>;
  weights?: ReadonlyMap<string, Float32Array>;
  tokenizer?: unknown;
}

/** Writes a model folder in float32; what is given replaces the default of its kind. */
export async function writeTinyModel(store: Store, prefix: string, model: TinyModel = {}): Promise<void> {
  for (const [path, content] of Object.entries(await tinyModelFiles(model))) await store.put(prefix + path, content);
}

/** The files of such a folder, by path. */
export async function tinyModelFiles(model: TinyModel = {}): Promise<Record<string, Uint8Array<ArrayBuffer>>> {
  const config = model.config ?? tinyConfig;
  const weights = model.weights ?? tinyWeights(config);
  const shapes = tensorShapes(parseModelConfig(config));
  const tensors = [...weights].map(([name, values]) => ({
    name,
    dtype: 'F32' as const,
    shape: shapes.get(name) ?? [values.length],
    data: new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
  }));
  const pieces: Uint8Array[] = [];
  for await (const piece of safetensorsBytes(tensors).chunks) pieces.push(piece);
  return {
    'model.safetensors': new Uint8Array(Buffer.concat(pieces)),
    'config.json': encode(config),
    'tokenizer.json': encode(model.tokenizer ?? tinyTokenizer),
    'tokenizer_config.json': encode({ bos_token: '<s>', eos_token: '</s>' }),
  };
}

/** The same for a client to upload. */
export async function tinySources(
  model: TinyModel = {},
): Promise<{ path: string; content: Uint8Array<ArrayBuffer> }[]> {
  return Object.entries(await tinyModelFiles(model)).map(([path, content]) => ({ path, content }));
}

export interface TinyJob {
  scheme?: Partial<Scheme>;
  training?: Partial<Training>;
  formats?: JobSpec['formats'];
  /** Other fields of the spec. */
  spec?: Partial<JobSpec>;
  /** False: the job has no such text. */
  calibration?: Uint8Array | string | false;
  evaluation?: Uint8Array | string | false;
}

const ids = { job: '0'.repeat(25) + 'J', model: '0'.repeat(25) + 'M', calibration: '0'.repeat(25) + 'C' };
const evaluationId = '0'.repeat(25) + 'E';

/** Where `writeTinyJob` puts the model that the job compresses. */
export const tinyModelPrefix = `tenants/local/models/${ids.model}/`;

/**
 * Writes the texts and the spec of a job on the model at `tinyModelPrefix`, as the API would.
 * @returns the job's prefix, ending in a slash
 */
export async function writeTinyJob(store: Store, job: TinyJob = {}): Promise<string> {
  const texts = `tenants/local/datasets/`;
  const calibration = job.calibration ?? tinyText(6000, 1);
  const evaluation = job.evaluation ?? tinyText(1500, 2);
  if (calibration !== false) await store.put(`${texts}${ids.calibration}/text.txt`, bytesOf(calibration));
  if (evaluation !== false) await store.put(`${texts}${evaluationId}/text.txt`, bytesOf(evaluation));
  const spec = jobSpecSchema.parse({
    id: ids.job,
    createdAt: '2026-01-01T00:00:00.000Z',
    modelId: ids.model,
    modelName: 'tiny',
    modelPrefix: tinyModelPrefix,
    calibrationDatasetId: calibration === false ? undefined : ids.calibration,
    calibrationPrefix: calibration === false ? null : `${texts}${ids.calibration}/`,
    evaluation: evaluation === false ? undefined : { datasetId: evaluationId },
    evaluationPrefix: evaluation === false ? null : `${texts}${evaluationId}/`,
    scheme: { method: 'cherryq', bits: 3, groupSize: 16, ...job.scheme },
    training: { tokens: 1024, sequenceLength: 32, batchSize: 4, learningRate: 5e-3, impactSamples: 4, ...job.training },
    formats: job.formats ?? ['native', 'hf'],
    tasks: [],
    analysisPrefixes: [],
    ...job.spec,
  });
  const prefix = `tenants/local/jobs/${ids.job}/`;
  await store.put(`${prefix}spec.json`, encode(spec));
  return prefix;
}

const encode = (value: unknown): Uint8Array<ArrayBuffer> => new TextEncoder().encode(JSON.stringify(value));
const bytesOf = (value: Uint8Array | string): Uint8Array =>
  typeof value === 'string' ? new TextEncoder().encode(value) : value;
