/** Makes a model folder of any size on the spot, in bfloat16 and in shards, as fast as the disk takes it. */
import { tensorShapes } from '../src/models/decoder-config.ts';
import { parseModelConfig } from '../src/models/registry.ts';
import { safetensorsBytes } from '../src/formats/safetensors.ts';
import type { TensorToWrite } from '../src/formats/safetensors.ts';
import { float32ToBfloat16 } from '../src/numeric/dtypes.ts';
import { createRandom } from '../src/numeric/random.ts';
import type { Store } from '../src/storage/index.ts';

export interface CheckpointShape {
  readonly label: string;
  readonly config: Readonly<Record<string, unknown>>;
  /** A shard ends with the tensor that reaches this size. */
  readonly shardBytes: number;
}

const llama = (sizes: Record<string, number>): Record<string, unknown> => ({
  architectures: ['LlamaForCausalLM'],
  vocab_size: 32_000,
  max_position_embeddings: 4096,
  rms_norm_eps: 1e-5,
  rope_theta: 10_000,
  tie_word_embeddings: false,
  torch_dtype: 'bfloat16',
  ...sizes,
});

/** `full` has the shapes of Llama-2-7B, 13.5 GB; `billion` those of TinyLlama, 2.2 GB; `small` 280 MB. */
export const checkpointShapes: Record<'full' | 'billion' | 'small', CheckpointShape> = {
  full: {
    label: '7B-shaped bfloat16 checkpoint',
    config: llama({ hidden_size: 4096, intermediate_size: 11_008, num_hidden_layers: 32, num_attention_heads: 32 }),
    shardBytes: 4e9,
  },
  billion: {
    label: '1.1B-parameter Llama',
    config: llama({
      hidden_size: 2048,
      intermediate_size: 5632,
      num_hidden_layers: 22,
      num_attention_heads: 32,
      num_key_value_heads: 4,
    }),
    shardBytes: 4e9,
  },
  small: {
    label: '140M-parameter bfloat16 checkpoint',
    config: llama({ hidden_size: 1024, intermediate_size: 2816, num_hidden_layers: 6, num_attention_heads: 16 }),
    shardBytes: 1e8,
  },
};

/** Values of the stretch that the tensors are cut from. */
const blockValues = 2 ** 22;
/** Tensors begin this much further into the stretch, one after another, so that no two are alike. */
const stride = 1_000_003;
const tokenizer = {
  version: '1.0',
  truncation: null,
  padding: null,
  added_tokens: [],
  normalizer: null,
  pre_tokenizer: null,
  post_processor: null,
  decoder: null,
  model: { type: 'BPE', vocab: { a: 0, b: 1 }, merges: [] },
};

/** Weights of norms are 1.  @param prefix ends in a slash   @returns bytes of the weights' files */
export async function writeCheckpoint(store: Store, prefix: string, shape: CheckpointShape): Promise<number> {
  const block = seededBlock();
  const ones = new Uint8Array(new Uint16Array(blockValues).fill(0x3f80).buffer);
  const shards: TensorToWrite[][] = [[]];
  let shardBytes = 0;
  let offset = 0;
  for (const [name, dimensions] of tensorShapes(parseModelConfig(shape.config))) {
    const bytes = 2 * dimensions.reduce((product, size) => product * size, 1);
    const start = 2 * ((offset += stride) % blockValues);
    if (shardBytes >= shape.shardBytes) {
      shards.push([]);
      shardBytes = 0;
    }
    shardBytes += bytes;
    shards[shards.length - 1].push({
      name,
      dtype: 'BF16',
      shape: dimensions,
      data: () => repeated(dimensions.length === 1 ? ones : block, start, bytes),
    });
  }
  const weightMap: Record<string, string> = {};
  let totalBytes = 0;
  for (const [index, tensors] of shards.entries()) {
    const number = (value: number): string => String(value).padStart(5, '0');
    const file = `model-${number(index + 1)}-of-${number(shards.length)}.safetensors`;
    for (const { name } of tensors) weightMap[name] = file;
    const { sizeBytes, chunks } = safetensorsBytes(tensors, { format: 'pt' });
    await store.put(prefix + file, chunks);
    totalBytes += sizeBytes;
  }
  const json = { 'model.safetensors.index.json': { metadata: {}, weight_map: weightMap }, 'tokenizer.json': tokenizer };
  for (const [file, content] of Object.entries({ ...json, 'config.json': shape.config })) {
    await store.put(prefix + file, new TextEncoder().encode(JSON.stringify(content)));
  }
  return totalBytes;
}

/** Near normal with a deviation of 0.02. Single precision, in which the peer rounds, is exact above 1e-5. */
function seededBlock(): Uint8Array {
  const random = createRandom(42);
  const values = new Float32Array(blockValues);
  for (let i = 0; i < blockValues; i++) {
    const value = 0.04 * (random() + random() + random() - 1.5);
    values[i] = Math.abs(value) < 1e-5 ? 0 : value;
  }
  return new Uint8Array(float32ToBfloat16(values).buffer);
}

async function* repeated(block: Uint8Array, start: number, bytes: number): AsyncGenerator<Uint8Array> {
  let from = start;
  for (let left = bytes; left > 0;) {
    const part = block.subarray(from, from + left);
    yield part;
    left -= part.length;
    from = 0;
  }
}
