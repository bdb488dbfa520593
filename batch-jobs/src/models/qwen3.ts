/** Qwen 3, dense: as Qwen 2, with an RMS norm over each head's queries and keys in place of the biases. */
import { boolean, readDecoderConfig, readLayerWindows, requireOneOf } from './config-fields.ts';
import type { ModelFamily } from './decoder-config.ts';
import { attentionLinears } from './decoder-config.ts';

export const qwen3: ModelFamily = {
  architecture: 'Qwen3ForCausalLM',
  parseConfig(config) {
    requireOneOf(config, 'hidden_act', ['silu', 'swish'], 'silu');
    const common = readDecoderConfig(config, qwen3.architecture, {
      numKeyValueHeads: 32,
      headDim: 128,
      maxPositionEmbeddings: 32_768,
      rmsNormEps: 1e-6,
      tieWordEmbeddings: false,
    });
    return {
      ...common,
      biases: boolean(config, 'attention_bias', false) ? attentionLinears : [],
      qkNorm: true,
      slidingWindows: readLayerWindows(config, common.numHiddenLayers),
    };
  },
};
