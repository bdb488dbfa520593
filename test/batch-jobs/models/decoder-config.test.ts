import { describe, expect, it } from 'vitest';
import {
  isLinear,
  linearTensorNames,
  parameterKindOf,
  tensorShapes,
} from '../../../batch-jobs/src/models/decoder-config.ts';
import { parseModelConfig, supportedArchitectures } from '../../../batch-jobs/src/models/registry.ts';
import { tinyConfig } from '../../support/tiny-model.ts';

const families = supportedArchitectures.map((architecture) => ({
  architecture,
  config: parseModelConfig({ ...tinyConfig, architectures: [architecture], tie_word_embeddings: false, head_dim: 8 }),
}));

describe('linearTensorNames', () => {
  it.each(families)(
    'names the matrices of every block of $architecture, and isLinear knows no others',
    ({ config }) => {
      const named = Array.from({ length: config.numHiddenLayers }, (_, block) =>
        linearTensorNames(config, block),
      ).flat();
      const matrices = [...tensorShapes(config)].filter(([name, shape]) => /layers/.test(name) && shape.length === 2);
      expect(named).toEqual(matrices.map(([name]) => name));
      expect([...tensorShapes(config).keys()].filter(isLinear)).toEqual(named);
    },
  );

  it('names four matrices to a block where projections are fused, else seven', () => {
    const counts = families.map(({ architecture, config }) => [architecture, linearTensorNames(config, 0).length]);
    const expected = supportedArchitectures.map((architecture) => [
      architecture,
      architecture === 'Phi3ForCausalLM' ? 4 : 7,
    ]);
    expect(counts).toEqual(expected);
  });
});

describe('isLinear', () => {
  it.each([
    'lm_head.weight',
    'model.embed_tokens.weight',
    'model.layers.0.self_attn.q_proj.bias',
    'model.layers.0.self_attn.q_norm.weight',
    'model.layers.x.mlp.up_proj.weight',
    'model.layers.0.block_sparse_moe.up_proj.weight',
    'vision.model.layers.0.mlp.up_proj.weight',
  ])('does not take %s for one', (name) => {
    expect(isLinear(name)).toBe(false);
  });
});

describe('parameterKindOf', () => {
  it.each([
    ['model.embed_tokens.weight', 'embeddings'],
    ['lm_head.weight', 'head'],
    ['model.norm.weight', 'norms'],
    ['model.layers.3.input_layernorm.weight', 'norms'],
    ['model.layers.3.self_attn.k_norm.weight', 'norms'],
    ['model.layers.3.self_attn.qkv_proj.weight', 'linears'],
    ['model.layers.3.mlp.down_proj.weight', 'linears'],
    ['model.layers.3.self_attn.q_proj.bias', 'linears'],
  ])('counts %s among the %s', (name, kind) => {
    expect(parameterKindOf(name)).toBe(kind);
  });

  it.each(families)('knows the kind of every tensor of $architecture', ({ config }) => {
    const kinds = new Set([...tensorShapes(config).keys()].map(parameterKindOf));
    expect([...kinds].sort()).toEqual(['embeddings', 'head', 'linears', 'norms']);
  });

  it('refuses a name that no family has', () => {
    expect(() => parameterKindOf('model.layers.0.mixer.in_proj.weight')).toThrow(/mixer/);
  });
});
