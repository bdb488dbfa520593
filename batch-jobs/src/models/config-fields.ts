/**
 * Reads fields of a config.json, which nobody has checked, and refuses by name what the layers cannot do. Defaults are
 * those of transformers' configuration classes, which leave fields out of config.json in the versions that do so.
 */
import { InputError } from '../errors.ts';
import type { DecoderConfig } from './decoder-config.ts';
import { plainFeatures } from './decoder-config.ts';
import type { RopeScaling } from './rope.ts';
import { ropeTypes } from './rope.ts';

export type ConfigJson = Readonly<Record<string, unknown>>;

/** The tensors of every layer are named before any is looked for, so a config must not ask for billions. */
const mostLayers = 10_000;

/** Where families' defaults differ. */
export interface FamilyDefaults {
  /** Null when a missing field means as many as there are query heads. */
  readonly numKeyValueHeads: number | null;
  /** Null when a missing field means the hidden size over the heads. */
  readonly headDim: number | null;
  readonly maxPositionEmbeddings: number;
  readonly rmsNormEps: number;
  readonly tieWordEmbeddings: boolean;
}

/**
 * The sizes, the rotary embedding and the head; every feature as a Llama has it, for the family to replace.
 * @throws InputError `bad_config` naming the field, what it is and what is supported
 */
export function readDecoderConfig(config: ConfigJson, architecture: string, defaults: FamilyDefaults): DecoderConfig {
  const hiddenSize = positiveInteger(config, 'hidden_size');
  const numAttentionHeads = positiveInteger(config, 'num_attention_heads');
  // Null says "as many as there are query heads" even where a missing field says otherwise.
  const fewer = config.num_key_value_heads === null ? null : defaults.numKeyValueHeads;
  const numKeyValueHeads = positiveInteger(config, 'num_key_value_heads', fewer ?? numAttentionHeads);
  const headDim = positiveInteger(config, 'head_dim', defaults.headDim ?? hiddenSize / numAttentionHeads);
  if (numAttentionHeads % numKeyValueHeads !== 0) {
    throw badConfig('num_key_value_heads', numKeyValueHeads, `a divisor of num_attention_heads (${numAttentionHeads})`);
  }
  if (headDim % 2 !== 0)
    throw badConfig('head_dim', headDim, 'an even number, as the rotary embedding pairs dimensions');
  const maxPositionEmbeddings = positiveInteger(config, 'max_position_embeddings', defaults.maxPositionEmbeddings);
  const numHiddenLayers = positiveInteger(config, 'num_hidden_layers', undefined, mostLayers);
  return {
    ...plainFeatures,
    architecture,
    vocabSize: positiveInteger(config, 'vocab_size'),
    hiddenSize,
    intermediateSize: positiveInteger(config, 'intermediate_size'),
    numHiddenLayers,
    numAttentionHeads,
    numKeyValueHeads,
    headDim,
    maxPositionEmbeddings,
    ...readRope(config, headDim, maxPositionEmbeddings),
    rmsNormEps: positiveNumber(config, 'rms_norm_eps', defaults.rmsNormEps),
    tieWordEmbeddings: boolean(config, 'tie_word_embeddings', defaults.tieWordEmbeddings),
    slidingWindows: new Array<null>(numHiddenLayers).fill(null),
  };
}

/** `rope_theta` and `rope_scaling`, or, in newer configs, both in `rope_parameters`. */
function readRope(
  config: ConfigJson,
  headDim: number,
  maxPositionEmbeddings: number,
): Pick<DecoderConfig, 'ropeTheta' | 'ropeScaling'> {
  requireOneOf(config, 'partial_rotary_factor', [1], 1);
  const field = isPresent(config.rope_scaling) ? 'rope_scaling' : 'rope_parameters';
  const found = config[field];
  if (isPresent(found) && (typeof found !== 'object' || Array.isArray(found)))
    throw badConfig(field, found, 'an object or null');
  const settings: ConfigJson = {};
  for (const [name, value] of Object.entries(found ?? {})) Object.assign(settings, { [`${field}.${name}`]: value });
  const named = (name: string): string => `${field}.${name}`;
  requireOneOf(settings, named('partial_rotary_factor'), [1], 1);
  const typeField = isPresent(settings[named('rope_type')]) ? named('rope_type') : named('type');
  const type = requireOneOf(settings, typeField, ropeTypes, 'default');
  const ropeTheta = isPresent(settings[named('rope_theta')])
    ? positiveNumber(settings, named('rope_theta'))
    : positiveNumber(config, 'rope_theta', 10_000);
  return { ropeTheta, ropeScaling: type === 'default' ? null : scaling(type) };

  function scaling(type: RopeScaling['type']): RopeScaling {
    if (type === 'linear') return { type, factor: positiveNumber(settings, named('factor')) };
    // Phi-3 keeps the original length beside the rotary embedding's settings.
    const originalMaxPositionEmbeddings = isPresent(config.original_max_position_embeddings)
      ? positiveInteger(config, 'original_max_position_embeddings')
      : positiveInteger(settings, named('original_max_position_embeddings'), maxPositionEmbeddings);
    if (type === 'llama3') {
      const factor = positiveNumber(settings, named('factor'));
      const lowFreqFactor = positiveNumber(settings, named('low_freq_factor'));
      const highFreqFactor = positiveNumber(settings, named('high_freq_factor'));
      if (highFreqFactor <= lowFreqFactor)
        throw badConfig(named('high_freq_factor'), highFreqFactor, `more than low_freq_factor (${lowFreqFactor})`);
      return { type, factor, lowFreqFactor, highFreqFactor, originalMaxPositionEmbeddings };
    }
    const shortFactors = positiveNumbers(settings, named('short_factor'), headDim / 2);
    const longFactors = positiveNumbers(settings, named('long_factor'), headDim / 2);
    const factor = positiveNumber(settings, named('factor'), maxPositionEmbeddings / originalMaxPositionEmbeddings);
    const usual = factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(originalMaxPositionEmbeddings));
    const attentionFactor = positiveNumber(settings, named('attention_factor'), usual);
    return { type, shortFactors, longFactors, attentionFactor, originalMaxPositionEmbeddings };
  }
}

/** `sliding_window`, which counts a query's own token.  @returns null where every token before it is seen */
export function readSlidingWindow(config: ConfigJson, fallback: number | null): number | null {
  const value = config.sliding_window === undefined ? fallback : config.sliding_window;
  return value === null ? null : positiveInteger({ sliding_window: value }, 'sliding_window');
}

/** Qwen's: the layers from `max_window_layers` on, or those that `layer_types` names, if `use_sliding_window` says so. */
export function readLayerWindows(config: ConfigJson, numHiddenLayers: number): (number | null)[] {
  const window = boolean(config, 'use_sliding_window', false) ? readSlidingWindow(config, 4096) : null;
  const slides = layersThatSlide(config, numHiddenLayers, window);
  return slides.map((slide) => (slide ? window : null));
}

function layersThatSlide(config: ConfigJson, numHiddenLayers: number, window: number | null): boolean[] {
  const types = config.layer_types;
  if (!isPresent(types)) {
    const full = isPresent(config.max_window_layers) ? wholeNumber(config, 'max_window_layers') : 28;
    return Array.from({ length: numHiddenLayers }, (_, layer) => layer >= full);
  }
  if (!Array.isArray(types) || types.length !== numHiddenLayers)
    throw badConfig('layer_types', types, `a list of ${numHiddenLayers}, one for each layer`);
  return types.map((type, layer) => {
    if (type === 'full_attention') return false;
    if (type === 'sliding_attention' && window !== null) return true;
    const allowed =
      window === null ? '"full_attention", as use_sliding_window is false' : '"full_attention" or "sliding_attention"';
    throw badConfig(`layer_types[${layer}]`, type, allowed);
  });
}

export function positiveInteger(config: ConfigJson, field: string, fallback?: number, largest = 2 ** 31): number {
  const value = config[field] ?? fallback;
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 1 || value > largest) {
    throw badConfig(field, value, `a whole number from 1 to ${largest}`);
  }
  return value;
}

function wholeNumber(config: ConfigJson, field: string): number {
  return config[field] === 0 ? 0 : positiveInteger(config, field);
}

function positiveNumber(config: ConfigJson, field: string, fallback?: number): number {
  const value = config[field] ?? fallback;
  if (!isPositive(value)) throw badConfig(field, value, 'a positive number');
  return value;
}

function positiveNumbers(config: ConfigJson, field: string, count: number): number[] {
  const values = config[field];
  if (!Array.isArray(values) || values.length !== count || !values.every(isPositive))
    throw badConfig(field, values, `a list of ${count} positive numbers, one for each pair of a head's dimensions`);
  return values;
}

function isPositive(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value) && value > 0;
}

export function boolean(config: ConfigJson, field: string, fallback: boolean): boolean {
  return requireOneOf(config, field, [true, false], fallback);
}

/** @throws InputError unless the field, or its default, is one of those that the layers can do */
export function requireOneOf<Value>(
  config: ConfigJson,
  field: string,
  allowed: readonly Value[],
  fallback: Value,
): Value {
  const value = config[field] ?? fallback;
  if (!allowed.includes(value as Value))
    throw badConfig(field, value, allowed.map((one) => JSON.stringify(one)).join(' or '));
  return value as Value;
}

function isPresent(value: unknown): boolean {
  return value !== undefined && value !== null;
}

function badConfig(field: string, received: unknown, allowed: string): InputError {
  return new InputError(
    'bad_config',
    `config.json: ${field} is ${JSON.stringify(received) ?? 'missing'}; it must be ${allowed}.`,
    field,
  );
}
