/** The model families that CherryQ compresses, and the checks that a folder really holds the model its config describes. */
import { InputError } from '../errors.ts';
import type { DecoderConfig, ModelFamily } from './decoder-config.ts';
import { embeddingName, headName, isLinear, tensorShapes } from './decoder-config.ts';
import { gemma } from './gemma.ts';
import { llama } from './llama.ts';
import { mistral } from './mistral.ts';
import { phi3 } from './phi3.ts';
import { qwen2 } from './qwen2.ts';
import { qwen3 } from './qwen3.ts';

const families = [llama, mistral, qwen2, qwen3, gemma, phi3] satisfies readonly ModelFamily[];

export const supportedArchitectures: readonly string[] = families.map((family) => family.architecture);

/** @throws InputError `unknown_architecture` before any work, or `bad_config` naming the field */
export function parseModelConfig(config: Record<string, unknown>): DecoderConfig {
  const named = Array.isArray(config.architectures) ? config.architectures : [];
  const family = families.find((candidate) => named.includes(candidate.architecture));
  if (!family) {
    throw new InputError(
      'unknown_architecture',
      `config.json: architectures is ${JSON.stringify(config.architectures) ?? 'missing'}; supported are ${supportedArchitectures.join(', ')}. ` +
        'Convert the model to one of these, or ask for its family.',
      'architectures',
    );
  }
  return family.parseConfig(config);
}

/** What the checks need to know of a tensor in a file. */
interface StoredTensor {
  readonly name: string;
  readonly shape: readonly number[];
}

/**
 * Checks that every tensor is there with the right shape.  @param tensors of an original or `hf` folder, by name
 * @throws InputError `missing_tensor`, `tensor_shape`, `vocab_mismatch` or `unexpected_tensor`
 */
export function checkTensors(config: DecoderConfig, tensors: ReadonlyMap<string, StoredTensor>): void {
  for (const problem of tensorProblems(config, tensors)) throw problem;
}

/** All that `checkTensors` would throw, one after another. */
export function* tensorProblems(
  config: DecoderConfig,
  tensors: ReadonlyMap<string, StoredTensor>,
): Generator<InputError> {
  const wanted = tensorShapes(config);
  for (const [name, shape] of wanted) {
    const found = tensors.get(name);
    if (!found) {
      const hint =
        name === headName
          ? ' If the head is tied to the embedding, config.json needs "tie_word_embeddings": true.'
          : '';
      yield new InputError(
        'missing_tensor',
        `The weights hold no tensor "${name}", which config.json asks for with shape [${shape.join(', ')}].${hint}`,
        name,
      );
      continue;
    }
    if (found.shape.length === shape.length && found.shape.every((size, axis) => size === shape[axis])) continue;
    if ((name === embeddingName || name === headName) && found.shape[0] !== config.vocabSize) {
      yield new InputError(
        'vocab_mismatch',
        `config.json says vocab_size ${config.vocabSize}, but "${name}" has ${found.shape[0]} rows. Set vocab_size to the embedding's rows, or use the weights that belong to this config.`,
        'vocab_size',
      );
      continue;
    }
    yield new InputError(
      'tensor_shape',
      `"${name}" has shape [${found.shape.join(', ')}]; config.json asks for [${shape.join(', ')}]. The config and the weights are not of the same model.`,
      name,
    );
  }
  for (const name of tensors.keys()) {
    // Rotary tables and a stored copy of a tied head are derived from what is read already.
    if (wanted.has(name) || name.endsWith('.rotary_emb.inv_freq') || name === headName) continue;
    yield new InputError(
      'unexpected_tensor',
      `The weights hold "${name}", which ${config.architecture} does not have. ${isLinear(name) ? 'num_hidden_layers may be too low.' : 'The model may be of another family than config.json says.'}`,
      name,
    );
  }
}

/** @throws InputError `vocab_mismatch` when the tokenizer can produce an id that the embedding has no row for */
export function checkVocabulary(config: DecoderConfig, tokenizerSize: number): void {
  if (tokenizerSize <= config.vocabSize) return;
  throw new InputError(
    'vocab_mismatch',
    `tokenizer.json has ${tokenizerSize} tokens, but the embedding only ${config.vocabSize} rows. Use the tokenizer that the model was trained with.`,
    'tokenizer.json',
  );
}
