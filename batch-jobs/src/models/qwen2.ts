/** Qwen 2 and 2.5: a Llama with biases on queries, keys and values, and a sliding window in its upper layers if asked for. */
import { readDecoderConfig, readLayerWindows, requireOneOf } from './config-fields.ts';
import type { ModelFamily } from './decoder-config.ts';

export const qwen2: ModelFamily = {
  architecture: 'Qwen2ForCausalLM',
  parseConfig(config) {
    requireOneOf(config, 'hidden_act', ['silu', 'swish'], 'silu');
    const common = readDecoderConfig(config, qwen2.architecture, {
      numKeyValueHeads: 32,
      headDim: null,
      maxPositionEmbeddings: 32_768,
      rmsNormEps: 1e-6,
      tieWordEmbeddings: false,
    });
    return {
      ...common,
      biases: ['self_attn.q_proj.weight', 'self_attn.k_proj.weight', 'self_attn.v_proj.weight'],
      slidingWindows: readLayerWindows(config, common.numHiddenLayers),
    };
  },
};
