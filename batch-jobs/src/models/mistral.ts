/** Mistral: a Llama whose queries look back over `sliding_window` tokens, in every layer, unless that is null. */
import { readDecoderConfig, readSlidingWindow, requireOneOf } from './config-fields.ts';
import type { ModelFamily } from './decoder-config.ts';

export const mistral: ModelFamily = {
  architecture: 'MistralForCausalLM',
  parseConfig(config) {
    requireOneOf(config, 'hidden_act', ['silu', 'swish'], 'silu');
    const common = readDecoderConfig(config, mistral.architecture, {
      numKeyValueHeads: 8,
      headDim: null,
      maxPositionEmbeddings: 4096 * 32,
      rmsNormEps: 1e-6,
      tieWordEmbeddings: false,
    });
    return { ...common, slidingWindows: common.slidingWindows.map(() => readSlidingWindow(config, 4096)) };
  },
};
