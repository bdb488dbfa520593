/**
 * Phi-3 and 3.5: a Llama whose files hold queries, keys and values as one tensor and gate and up as another, with a sliding
 * window in every layer unless that is null, and `longrope` in the variants for long texts.
 */
import { readDecoderConfig, readSlidingWindow, requireOneOf } from './config-fields.ts';
import type { ConfigJson } from './config-fields.ts';
import type { ModelFamily } from './decoder-config.ts';

export const phi3: ModelFamily = {
  architecture: 'Phi3ForCausalLM',
  parseConfig(config) {
    requireOneOf(config, 'hidden_act', ['silu', 'swish'], 'silu');
    const common = readDecoderConfig(withCurrentNames(config), phi3.architecture, {
      numKeyValueHeads: null,
      headDim: null,
      maxPositionEmbeddings: 4096,
      rmsNormEps: 1e-5,
      tieWordEmbeddings: false,
    });
    return {
      ...common,
      fusedProjections: true,
      slidingWindows: common.slidingWindows.map(() => readSlidingWindow(config, null)),
    };
  },
};

/**
 * Early files call `longrope` "su" or "yarn", and the original length is 4096 unless they say otherwise, wherever they may.
 * @source transformers' Phi3Config
 */
function withCurrentNames(config: ConfigJson): ConfigJson {
  const scaling = config.rope_scaling as Record<string, unknown> | null | undefined;
  const type = scaling?.rope_type ?? scaling?.type;
  const early = type === 'su' || type === 'yarn';
  return {
    ...config,
    original_max_position_embeddings: config.original_max_position_embeddings ?? 4096,
    ...(early ? { rope_scaling: { ...scaling, rope_type: 'longrope' } } : {}),
  };
}
