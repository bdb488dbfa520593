import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { openEngine } from '../../../batch-jobs/src/engine/engine.ts';
import { addGradients, handOnGradients, uploadBlock } from '../../../batch-jobs/src/models/block-weights.ts';
import { linearTensorNames, tensorShapes } from '../../../batch-jobs/src/models/decoder-config.ts';
import { parseModelConfig, supportedArchitectures } from '../../../batch-jobs/src/models/registry.ts';
import { testEngine } from '../../support/engine.ts';
import { tinyConfig, tinyWeights } from '../../support/tiny-model.ts';

const open = (architecture: string) => {
  const json = { ...tinyConfig, architectures: [architecture], head_dim: 8 };
  const [config, weights] = [parseModelConfig(json), tinyWeights(json)];
  return { config, weights, source: { read: (name: string) => weights.get(name) as Float32Array } };
};

beforeAll(async () => {
  await openEngine(testEngine);
});

describe("a block's weights on the device", () => {
  it.each(supportedArchitectures)('come back from %s as they were, norms less the offset', async (architecture) => {
    const { config, weights, source } = open(architecture);
    const before = tf.memory().numTensors;
    const uploaded = await uploadBlock(config, 1, source);
    const back = new Map<string, Float32Array>();
    handOnGradients(config, 1, uploaded, 'sum', (name, values) => back.set(name, values));
    tf.dispose(Object.values(uploaded));
    expect(tf.memory().numTensors).toBe(before);

    const inBlock = [...tensorShapes(config).keys()].filter((name) => name.startsWith('model.layers.1.'));
    expect([...back.keys()].sort()).toEqual(inBlock.sort());
    for (const [name, values] of back) {
      const offset = name.endsWith('norm.weight') ? config.normOffset : 0;
      expect([...values], name).toEqual([...(weights.get(name) as Float32Array).map((value) => value + offset)]);
    }
  });

  it('hold the rows of a fused tensor in the order queries, keys, values', async () => {
    const { config, weights, source } = open('Phi3ForCausalLM');
    const uploaded = await uploadBlock(config, 0, source);
    const fused = weights.get('model.layers.0.self_attn.qkv_proj.weight') as Float32Array;
    const [queries, keys, values] = (['q', 'k', 'v'] as const).map((role) => uploaded[`self_attn.${role}_proj.weight`]);
    expect([queries.shape, keys.shape, values.shape]).toEqual([
      [32, 32],
      [16, 32],
      [16, 32],
    ]);
    expect([...keys.dataSync()]).toEqual([...fused.subarray(32 * 32, 48 * 32)]);
    tf.dispose(Object.values(uploaded));
  });
});

describe("a block's gradients", () => {
  it.each(supportedArchitectures)('are handed on for the matrices of %s alone when they are squares', async (name) => {
    const { config, source } = open(name);
    const uploaded = await uploadBlock(config, 0, source);
    const names: string[] = [];
    handOnGradients(config, 0, uploaded, 'sumOfSquares', (handedOn) => names.push(handedOn));
    tf.dispose(Object.values(uploaded));
    expect(names.sort()).toEqual(linearTensorNames(config, 0).sort());
  });

  it.each([
    [
      'Qwen3ForCausalLM',
      'mlp.down_proj mlp.up_proj mlp.gate_proj post_attention_layernorm self_attn.o_proj self_attn.v_proj ' +
        'self_attn.k_norm self_attn.k_proj self_attn.q_norm self_attn.q_proj input_layernorm',
    ],
    [
      'Phi3ForCausalLM',
      'mlp.down_proj mlp.gate_up_proj post_attention_layernorm self_attn.o_proj self_attn.qkv_proj input_layernorm',
    ],
  ])('of %s are handed on in the order in which the backward pass comes to them', async (name, order) => {
    const { config, source } = open(name);
    const uploaded = await uploadBlock(config, 1, source);
    const names: string[] = [];
    handOnGradients(config, 1, uploaded, 'sum', (handedOn) => names.push(handedOn));
    tf.dispose(Object.values(uploaded));
    expect(names).toEqual(order.split(' ').map((layer) => `model.layers.1.${layer}.weight`));
  });

  it('are added for every weight that the block has, and those that were added are gone', async () => {
    const { config, source } = open('Qwen2ForCausalLM');
    const before = tf.memory().numTensors;
    const terms = [await uploadBlock(config, 0, source), await uploadBlock(config, 0, source)] as const;
    const names = Object.keys(terms[0]);
    const bias = 'self_attn.k_proj.bias';
    const single = terms[0][bias]?.dataSync() ?? [];
    const sum = addGradients(...terms);
    expect(Object.keys(sum)).toEqual(names);
    expect([...(sum[bias]?.dataSync() ?? [])]).toEqual(Array.from(single, (value) => 2 * value));
    expect(tf.memory().numTensors).toBe(before + names.length);
    tf.dispose(Object.values(sum));
  });
});
