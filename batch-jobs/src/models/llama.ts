/**
 * Llama: RMS norm, rotary embedding in the rotate-half layout, grouped-query attention, SwiGLU, no biases.
 * What other members of the family add (scaled rotary embedding, biases, sliding windows) is refused by name.
 */
import { InputError } from '../errors.ts';
import type { DecoderConfig, ModelFamily } from './decoder-config.ts';

/** The tensors of every layer are named before any is looked for, so a config must not ask for billions. */
const mostLayers = 10_000;

export const llama: ModelFamily = {
  architectures: ['LlamaForCausalLM'],
  parseConfig(config): DecoderConfig {
    const hiddenSize = positiveInteger(config, 'hidden_size');
    const numAttentionHeads = positiveInteger(config, 'num_attention_heads');
    const numKeyValueHeads = positiveInteger(config, 'num_key_value_heads', numAttentionHeads);
    const headDim = positiveInteger(config, 'head_dim', hiddenSize / numAttentionHeads);
    if (numAttentionHeads % numKeyValueHeads !== 0) {
      throw badConfig(
        'num_key_value_heads',
        numKeyValueHeads,
        `a divisor of num_attention_heads (${numAttentionHeads})`,
      );
    }
    if (headDim % 2 !== 0)
      throw badConfig('head_dim', headDim, 'an even number, as the rotary embedding pairs dimensions');
    requireOneOf(config, 'hidden_act', ['silu', 'swish'], 'silu');
    requireOneOf(config, 'attention_bias', [false], false);
    requireOneOf(config, 'mlp_bias', [false], false);
    return {
      architecture: 'LlamaForCausalLM',
      vocabSize: positiveInteger(config, 'vocab_size'),
      hiddenSize,
      intermediateSize: positiveInteger(config, 'intermediate_size'),
      numHiddenLayers: positiveInteger(config, 'num_hidden_layers', undefined, mostLayers),
      numAttentionHeads,
      numKeyValueHeads,
      headDim,
      maxPositionEmbeddings: positiveInteger(config, 'max_position_embeddings', 2048),
      ropeTheta: ropeTheta(config),
      rmsNormEps: positiveNumber(config, 'rms_norm_eps', 1e-6),
      tieWordEmbeddings: requireOneOf(config, 'tie_word_embeddings', [true, false], false),
    };
  },
};

/** `rope_theta`, or, in newer configs, `rope_parameters.rope_theta`; a scaled rotary embedding is refused. */
function ropeTheta(config: Record<string, unknown>): number {
  for (const field of ['rope_scaling', 'rope_parameters']) {
    const value = config[field];
    if (value === undefined || value === null) continue;
    const settings = (typeof value === 'object' ? value : {}) as Record<string, unknown>;
    const type = settings.rope_type ?? settings.type ?? 'default';
    if (type !== 'default')
      throw badConfig(`${field}.rope_type`, type, '"default"; scaled rotary embeddings are not supported yet');
    if (settings.rope_theta !== undefined) return positiveNumber(settings, 'rope_theta', 10_000);
  }
  return positiveNumber(config, 'rope_theta', 10_000);
}

function positiveInteger(config: Record<string, unknown>, field: string, fallback?: number, largest = 2 ** 31): number {
  const value = config[field] ?? fallback;
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 1 || value > largest) {
    throw badConfig(field, value, `a whole number from 1 to ${largest}`);
  }
  return value;
}

function positiveNumber(config: Record<string, unknown>, field: string, fallback: number): number {
  const value = config[field] ?? fallback;
  if (typeof value !== 'number' || !Number.isFinite(value) || value <= 0)
    throw badConfig(field, value, 'a positive number');
  return value;
}

function requireOneOf<Value>(
  config: Record<string, unknown>,
  field: string,
  allowed: readonly Value[],
  fallback: Value,
): Value {
  const value = config[field] ?? fallback;
  if (!allowed.includes(value as Value))
    throw badConfig(field, value, allowed.map((one) => JSON.stringify(one)).join(' or '));
  return value as Value;
}

function badConfig(field: string, received: unknown, allowed: string): InputError {
  return new InputError(
    'bad_config',
    `config.json: ${field} is ${JSON.stringify(received) ?? 'missing'}; it must be ${allowed}.`,
    field,
  );
}
