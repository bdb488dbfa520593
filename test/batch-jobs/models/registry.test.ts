import { describe, expect, it } from 'vitest';
import { tensorShapes } from '../../../batch-jobs/src/models/decoder-config.ts';
import { checkTensors, checkVocabulary, parseModelConfig } from '../../../batch-jobs/src/models/registry.ts';
import { tinyConfig } from '../../support/tiny-model.ts';

const refusal = (code: string, param: string, message: RegExp) =>
  expect.objectContaining({ name: 'InputError', code, param, message: expect.stringMatching(message) });

describe('parseModelConfig', () => {
  it('reads a Llama config and fills in what it leaves to the defaults', () => {
    expect(
      parseModelConfig({
        architectures: ['LlamaForCausalLM'],
        vocab_size: 100,
        hidden_size: 64,
        intermediate_size: 172,
        num_hidden_layers: 5,
        num_attention_heads: 8,
      }),
    ).toEqual({
      architecture: 'LlamaForCausalLM',
      vocabSize: 100,
      hiddenSize: 64,
      intermediateSize: 172,
      numHiddenLayers: 5,
      numAttentionHeads: 8,
      numKeyValueHeads: 8,
      headDim: 8,
      maxPositionEmbeddings: 2048,
      ropeTheta: 10_000,
      rmsNormEps: 1e-6,
      tieWordEmbeddings: false,
    });
  });

  it('takes a width of head that the hidden size does not give', () => {
    expect(parseModelConfig({ ...tinyConfig, head_dim: 6 }).headDim).toBe(6);
  });

  it.each([
    [{ rope_theta: 500_000 }, 500_000],
    [{ rope_theta: 1, rope_parameters: { rope_type: 'default', rope_theta: 500_000 } }, 500_000],
    [{ rope_theta: 1234, rope_scaling: null }, 1234],
    [{ rope_theta: 1234, rope_scaling: { type: 'default' } }, 1234],
  ])('finds the base of the rotary embedding in %j', (fields, theta) => {
    expect(parseModelConfig({ ...tinyConfig, ...fields }).ropeTheta).toBe(theta);
  });

  it.each([[['GPT2LMHeadModel']], [[]], ['LlamaForCausalLM'], [undefined], [{}]])(
    'refuses the architectures %j and names those that it knows',
    (architectures) => {
      expect(() => parseModelConfig({ ...tinyConfig, architectures })).toThrow(
        refusal('unknown_architecture', 'architectures', /LlamaForCausalLM/),
      );
    },
  );

  it.each([
    ['hidden_size', 0],
    ['hidden_size', -32],
    ['hidden_size', 32.5],
    ['hidden_size', '32'],
    ['hidden_size', undefined],
    ['hidden_size', 2 ** 40],
    ['vocab_size', null],
    ['intermediate_size', NaN],
    ['num_hidden_layers', 0],
    ['num_hidden_layers', 2 ** 30],
    ['num_attention_heads', []],
    ['num_key_value_heads', 3],
    ['num_key_value_heads', 8],
    ['head_dim', 7],
    ['max_position_embeddings', 0],
    ['rms_norm_eps', 0],
    ['rms_norm_eps', '1e-5'],
    ['rope_theta', -1],
    ['hidden_act', 'gelu'],
    ['attention_bias', true],
    ['mlp_bias', true],
    ['tie_word_embeddings', 'yes'],
  ])('refuses a %s of %j and names the field', (field, value) => {
    expect(() => parseModelConfig({ ...tinyConfig, [field]: value })).toThrow(
      refusal('bad_config', field, new RegExp(`^config.json: ${field} is `)),
    );
  });

  it('refuses a hidden size that the heads do not divide', () => {
    expect(() => parseModelConfig({ ...tinyConfig, num_attention_heads: 3, num_key_value_heads: 1 })).toThrow(
      refusal('bad_config', 'head_dim', /10\.66/),
    );
  });

  it.each([
    ['rope_scaling', { type: 'linear', factor: 2 }],
    ['rope_scaling', { rope_type: 'llama3', factor: 8 }],
    ['rope_parameters', { rope_type: 'yarn', rope_theta: 10_000 }],
  ])('refuses a scaled rotary embedding in %s: %j', (field, value) => {
    expect(() => parseModelConfig({ ...tinyConfig, [field]: value })).toThrow(
      refusal('bad_config', `${field}.rope_type`, /not supported/),
    );
  });
});

describe('checkTensors', () => {
  const config = parseModelConfig(tinyConfig);
  const complete = () => new Map([...tensorShapes(config)].map(([name, shape]) => [name, { name, shape }]));
  const changed = (name: string, shape: number[]) => complete().set(name, { name, shape });

  it('takes a model that has what its config asks for', () => {
    checkTensors(config, complete());
  });

  it('takes rotary tables and a stored copy of a tied head as well', () => {
    const tensors = changed('lm_head.weight', [106, 32]);
    const table = 'model.layers.0.self_attn.rotary_emb.inv_freq';
    checkTensors(config, tensors.set(table, { name: table, shape: [4] }));
  });

  it('names a tensor that is missing', () => {
    const tensors = complete();
    tensors.delete('model.layers.1.mlp.up_proj.weight');
    expect(() => checkTensors(config, tensors)).toThrow(
      refusal('missing_tensor', 'model.layers.1.mlp.up_proj.weight', /\[44, 32\]/),
    );
  });

  it('says of a missing head that it may be tied', () => {
    const untied = parseModelConfig({ ...tinyConfig, tie_word_embeddings: false });
    expect(() => checkTensors(untied, complete())).toThrow(
      refusal('missing_tensor', 'lm_head.weight', /tie_word_embeddings/),
    );
  });

  it('tells a wrong vocabulary from a wrong shape', () => {
    expect(() => checkTensors(config, changed('model.embed_tokens.weight', [90, 32]))).toThrow(
      refusal('vocab_mismatch', 'vocab_size', /vocab_size 106.*90 rows/),
    );
    expect(() => checkTensors(config, changed('model.embed_tokens.weight', [106, 33]))).toThrow(
      refusal('tensor_shape', 'model.embed_tokens.weight', /\[106, 33\].*\[106, 32\]/),
    );
    expect(() => checkTensors(config, changed('model.norm.weight', [32, 1]))).toThrow(
      refusal('tensor_shape', 'model.norm.weight', /\[32, 1\].*\[32\]/),
    );
  });

  it('names a tensor that the architecture does not have', () => {
    expect(() => checkTensors(config, changed('model.layers.0.self_attn.q_proj.bias', [32]))).toThrow(
      refusal('unexpected_tensor', 'model.layers.0.self_attn.q_proj.bias', /another family/),
    );
    expect(() => checkTensors(config, changed('model.layers.2.mlp.up_proj.weight', [44, 32]))).toThrow(
      refusal('unexpected_tensor', 'model.layers.2.mlp.up_proj.weight', /num_hidden_layers/),
    );
  });
});

describe('checkVocabulary', () => {
  const config = parseModelConfig(tinyConfig);

  it('takes a tokenizer with as many tokens as the embedding has rows, or fewer', () => {
    checkVocabulary(config, 106);
    checkVocabulary(config, 90);
  });

  it('refuses one with more', () => {
    expect(() => checkVocabulary(config, 107)).toThrow(refusal('vocab_mismatch', 'tokenizer.json', /107.*106/));
  });
});
