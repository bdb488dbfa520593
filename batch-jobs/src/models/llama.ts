/**
 * Llama 2, 3 and what shares their architecture: RMS norm, rotary embedding in the rotate-half layout, plain or scaled,
 * grouped-query attention, SwiGLU; biases where `attention_bias` and `mlp_bias` ask for them.
 */
import { boolean, readDecoderConfig, requireOneOf } from './config-fields.ts';
import type { ModelFamily } from './decoder-config.ts';
import { attentionLinears, feedForwardLinears } from './decoder-config.ts';

export const llama: ModelFamily = {
  architecture: 'LlamaForCausalLM',
  parseConfig(config) {
    requireOneOf(config, 'hidden_act', ['silu', 'swish'], 'silu');
    return {
      ...readDecoderConfig(config, llama.architecture, {
        numKeyValueHeads: null,
        headDim: null,
        maxPositionEmbeddings: 2048,
        rmsNormEps: 1e-6,
        tieWordEmbeddings: false,
      }),
      biases: [
        ...(boolean(config, 'attention_bias', false) ? attentionLinears : []),
        ...(boolean(config, 'mlp_bias', false) ? feedForwardLinears : []),
      ],
    };
  },
};
