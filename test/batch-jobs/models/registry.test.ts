import { describe, expect, it } from 'vitest';
import { tensorShapes } from '../../../batch-jobs/src/models/decoder-config.ts';
import {
  checkTensors,
  checkVocabulary,
  parseModelConfig,
  supportedArchitectures,
} from '../../../batch-jobs/src/models/registry.ts';
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
      ropeScaling: null,
      rmsNormEps: 1e-6,
      tieWordEmbeddings: false,
      activation: 'silu',
      slidingWindows: [null, null, null, null, null],
      biases: [],
      qkNorm: false,
      fusedProjections: false,
      normOffset: 0,
      embeddingScale: 1,
      bosPerSegment: false,
    });
  });

  const sizes = {
    vocab_size: 100,
    hidden_size: 64,
    intermediate_size: 172,
    num_hidden_layers: 3,
    num_attention_heads: 32,
  };
  // What config.json may leave out, after transformers' configuration classes.
  it.each([
    ['MistralForCausalLM', { numKeyValueHeads: 8, headDim: 2, slidingWindows: [4096, 4096, 4096] }],
    ['Qwen2ForCausalLM', { numKeyValueHeads: 32, maxPositionEmbeddings: 32_768, slidingWindows: [null, null, null] }],
    ['Qwen3ForCausalLM', { numKeyValueHeads: 32, headDim: 128, qkNorm: true, biases: [], tieWordEmbeddings: false }],
    [
      'GemmaForCausalLM',
      { numKeyValueHeads: 16, headDim: 256, tieWordEmbeddings: true, embeddingScale: 8, normOffset: 1 },
    ],
    [
      'Phi3ForCausalLM',
      { numKeyValueHeads: 32, rmsNormEps: 1e-5, fusedProjections: true, slidingWindows: [null, null, null] },
    ],
  ])('fills in what a config of %s leaves out', (architecture, fields) => {
    expect(parseModelConfig({ ...sizes, architectures: [architecture] })).toMatchObject({ architecture, ...fields });
  });

  it('takes null for the key heads as "one for each query head" in every family', () => {
    for (const architecture of supportedArchitectures) {
      const config = parseModelConfig({ ...sizes, architectures: [architecture], num_key_value_heads: null });
      expect(config.numKeyValueHeads, architecture).toBe(32);
    }
  });

  it('begins the segments of a Gemma alone with BOS', () => {
    const withBos = supportedArchitectures.filter(
      (architecture) => parseModelConfig({ ...sizes, architectures: [architecture] }).bosPerSegment,
    );
    expect(withBos).toEqual(['GemmaForCausalLM']);
  });

  it.each([
    [{}, [null, null, null]],
    [{ sliding_window: 16 }, [null, null, null]],
    [{ use_sliding_window: true, sliding_window: 16, max_window_layers: 1 }, [null, 16, 16]],
    [{ use_sliding_window: true, sliding_window: 16, max_window_layers: 0 }, [16, 16, 16]],
    [{ use_sliding_window: true, max_window_layers: 28 }, [null, null, null]],
    [{ use_sliding_window: true, sliding_window: null, max_window_layers: 0 }, [null, null, null]],
    [
      {
        use_sliding_window: true,
        sliding_window: 16,
        max_window_layers: 28,
        layer_types: ['sliding_attention', 'full_attention', 'full_attention'],
      },
      [16, null, null],
    ],
  ])('finds the sliding windows of the layers of a Qwen in %j', (fields, windows) => {
    for (const architecture of ['Qwen2ForCausalLM', 'Qwen3ForCausalLM'])
      expect(parseModelConfig({ ...sizes, architectures: [architecture], ...fields }).slidingWindows).toEqual(windows);
  });

  it.each([
    ['Qwen2ForCausalLM', 'layer_types', { layer_types: ['full_attention'] }],
    ['Qwen2ForCausalLM', 'layer_types[1]', { layer_types: ['full_attention', 'chunked_attention', 'full_attention'] }],
    ['Qwen3ForCausalLM', 'layer_types[0]', { layer_types: new Array(3).fill('sliding_attention') }],
    ['Qwen2ForCausalLM', 'max_window_layers', { use_sliding_window: true, max_window_layers: -1 }],
    ['Qwen2ForCausalLM', 'use_sliding_window', { use_sliding_window: 'yes' }],
    ['MistralForCausalLM', 'sliding_window', { sliding_window: 0 }],
    ['Phi3ForCausalLM', 'sliding_window', { sliding_window: '2047' }],
    ['MistralForCausalLM', 'hidden_act', { hidden_act: 'gelu' }],
    ['GemmaForCausalLM', 'hidden_act', { hidden_act: 'silu' }],
    ['GemmaForCausalLM', 'hidden_activation', { hidden_activation: 'relu' }],
    ['GemmaForCausalLM', 'use_bidirectional_attention', { use_bidirectional_attention: true }],
    ['Phi3ForCausalLM', 'partial_rotary_factor', { partial_rotary_factor: 0.75 }],
    ['Phi3ForCausalLM', 'rope_parameters.partial_rotary_factor', { rope_parameters: { partial_rotary_factor: 0.5 } }],
    ['Phi3ForCausalLM', 'rope_scaling.short_factor', { rope_scaling: { type: 'su', short_factor: [1, 2] } }],
    ['Qwen2ForCausalLM', 'rope_scaling.type', { rope_scaling: { type: 'yarn', factor: 4 } }],
    ['LlamaForCausalLM', 'rope_scaling', { rope_scaling: 'linear' }],
  ])('refuses, in %s, %s of %j', (architecture, field, fields) => {
    expect(() => parseModelConfig({ ...sizes, architectures: [architecture], ...fields })).toThrow(
      refusal('bad_config', field, /^config\.json: .* it must be /),
    );
  });

  const scaling = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192 };
  it('reads the same scaled rotary embedding under its old and its new names', () => {
    const expected = {
      ropeTheta: 500_000,
      ropeScaling: {
        type: 'llama3',
        factor: 8,
        lowFreqFactor: 1,
        highFreqFactor: 4,
        originalMaxPositionEmbeddings: 8192,
      },
    };
    for (const fields of [
      { rope_theta: 500_000, rope_scaling: { ...scaling, rope_type: 'llama3' } },
      { rope_theta: 500_000, rope_scaling: { ...scaling, type: 'llama3' } },
      { rope_parameters: { ...scaling, rope_type: 'llama3', rope_theta: 500_000 } },
    ])
      expect(parseModelConfig({ ...tinyConfig, rope_theta: undefined, ...fields })).toMatchObject(expected);
  });

  it('takes the early names of longrope, and the original length beside it', () => {
    const factors = { short_factor: [1], long_factor: [2] };
    for (const type of ['su', 'yarn', 'longrope']) {
      const config = { ...sizes, max_position_embeddings: 131_072, original_max_position_embeddings: 4096 };
      const { ropeScaling } = parseModelConfig({
        ...config,
        architectures: ['Phi3ForCausalLM'],
        rope_scaling: { type, ...factors },
      });
      // The factor that Phi-3-mini-128k's own code gives for these lengths.
      expect(ropeScaling).toEqual({
        type: 'longrope',
        shortFactors: [1],
        longFactors: [2],
        attentionFactor: Math.sqrt(1 + Math.log(32) / Math.log(4096)),
        originalMaxPositionEmbeddings: 4096,
      });
    }
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
        refusal('unknown_architecture', 'architectures', /Llama.*Mistral.*Qwen2.*Qwen3.*Gemma.*Phi3ForCausalLM/),
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
    ['attention_bias', 'yes'],
    ['mlp_bias', 1],
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
    ['rope_scaling.type', { type: 'dynamic', factor: 2 }, /"dynamic"; it must be "default" or "linear" or "llama3"/],
    ['rope_scaling.rope_type', { rope_type: 'yarn', factor: 2 }, /"yarn"/],
    ['rope_scaling.factor', { type: 'linear' }, /missing; it must be a positive number/],
    ['rope_scaling.factor', { type: 'linear', factor: -2 }, /-2/],
    ['rope_scaling.low_freq_factor', { rope_type: 'llama3', factor: 8 }, /missing/],
    ['rope_scaling.high_freq_factor', { ...scaling, type: 'llama3', high_freq_factor: 1 }, /more than low_freq_factor/],
    [
      'rope_scaling.long_factor',
      { type: 'longrope', short_factor: [1, 1, 1, 1], long_factor: [1, 0, 1, 1] },
      /list of 4/,
    ],
  ])('refuses a rotary embedding whose %s the layers cannot follow: %j', (param, rope, message) => {
    expect(() => parseModelConfig({ ...tinyConfig, rope_scaling: rope })).toThrow(
      refusal('bad_config', param, message),
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

describe('checkTensors of other families', () => {
  const named = (fields: Record<string, unknown>) => [
    ...tensorShapes(parseModelConfig({ ...tinyConfig, ...fields })).keys(),
  ];
  const attention = (...names: string[]) => names.map((name) => `model.layers.1.self_attn.${name}`);

  it('asks for the biases that the config asks for', () => {
    const biases = ['q_proj.bias', 'k_proj.bias', 'v_proj.bias'];
    expect(named({ architectures: ['Qwen2ForCausalLM'] })).toEqual(expect.arrayContaining(attention(...biases)));
    expect(named({ attention_bias: true })).toEqual(expect.arrayContaining(attention(...biases, 'o_proj.bias')));
    expect(named({ mlp_bias: true })).toContain('model.layers.0.mlp.down_proj.bias');
    expect(named({}).filter((name) => name.endsWith('.bias'))).toEqual([]);
  });

  it('asks for the norms of queries and keys of a Qwen 3', () => {
    expect(named({ architectures: ['Qwen3ForCausalLM'], head_dim: 8 })).toEqual(
      expect.arrayContaining(attention('q_norm.weight', 'k_norm.weight')),
    );
  });

  it('asks for the fused tensors of a Phi-3 in place of their parts', () => {
    const shapes = tensorShapes(parseModelConfig({ ...tinyConfig, architectures: ['Phi3ForCausalLM'] }));
    expect(shapes.get('model.layers.0.self_attn.qkv_proj.weight')).toEqual([32 + 16 + 16, 32]);
    expect(shapes.get('model.layers.0.mlp.gate_up_proj.weight')).toEqual([88, 32]);
    expect(shapes.has('model.layers.0.self_attn.q_proj.weight')).toBe(false);
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
