/**
 * Gemma, the first: norms that multiply by one plus their weight, an embedding scaled by the root of the hidden size, GELU
 * in its tanh form for the gate, a tied head, and texts that begin with BOS. Gemma 2 and 3 have other blocks.
 */
import { boolean, readDecoderConfig, requireOneOf } from './config-fields.ts';
import type { ModelFamily } from './decoder-config.ts';
import { attentionLinears } from './decoder-config.ts';

/** `gelu` is what the first releases say and, after transformers, means the tanh form as well. */
const activations = ['gelu_pytorch_tanh', 'gelu'] as const;

export const gemma: ModelFamily = {
  architecture: 'GemmaForCausalLM',
  parseConfig(config) {
    requireOneOf(config, 'hidden_act', activations, 'gelu_pytorch_tanh');
    requireOneOf(config, 'hidden_activation', activations, 'gelu_pytorch_tanh');
    requireOneOf(config, 'use_bidirectional_attention', [false], false);
    const common = readDecoderConfig(config, gemma.architecture, {
      numKeyValueHeads: 16,
      headDim: 256,
      maxPositionEmbeddings: 8192,
      rmsNormEps: 1e-6,
      tieWordEmbeddings: true,
    });
    return {
      ...common,
      activation: 'geluTanh',
      biases: boolean(config, 'attention_bias', false) ? attentionLinears : [],
      normOffset: 1,
      embeddingScale: Math.sqrt(common.hiddenSize),
      bosPerSegment: true,
    };
  },
};
