/**
 * The rotary embedding's angles, plain and scaled.
 *
 * @source transformers' modeling_rope_utils: `linear` is position interpolation (Chen et al. 2023), `llama3` is Llama 3.1's,
 * `longrope` Phi-3's (Ding et al. 2024). `dynamic` and `yarn` are not here.
 */
export type RopeScaling =
  | { readonly type: 'linear'; readonly factor: number }
  | {
      readonly type: 'llama3';
      readonly factor: number;
      readonly lowFreqFactor: number;
      readonly highFreqFactor: number;
      readonly originalMaxPositionEmbeddings: number;
    }
  | {
      readonly type: 'longrope';
      /** What each pair's frequency is divided by, [headDim / 2], in texts up to the original length and in longer ones. */
      readonly shortFactors: readonly number[];
      readonly longFactors: readonly number[];
      /** Factor on the queries and the keys. */
      readonly attentionFactor: number;
      readonly originalMaxPositionEmbeddings: number;
    };

export const ropeTypes = ['default', 'linear', 'llama3', 'longrope'] as const;

/** What of a model's config the angles depend on. */
export interface RopeSettings {
  readonly ropeTheta: number;
  readonly ropeScaling: RopeScaling | null;
  readonly headDim: number;
}

/** @returns cosines and sines of the angles of positions 0 to width - 1, [width, headDim / 2], times any attention factor */
export function rotaryTables(settings: RopeSettings, width: number): { cos: Float32Array; sin: Float32Array } {
  const half = settings.headDim / 2;
  const scale = settings.ropeScaling?.type === 'longrope' ? settings.ropeScaling.attentionFactor : 1;
  const cos = new Float32Array(width * half);
  const sin = new Float32Array(width * half);
  for (let i = 0; i < half; i++) {
    const frequency = frequencyOf(settings, i, width);
    for (let position = 0; position < width; position++) {
      cos[position * half + i] = scale * Math.cos(position * frequency);
      sin[position * half + i] = scale * Math.sin(position * frequency);
    }
  }
  return { cos, sin };
}

/**
 * Whether what was computed for the first tokens of a text, `past` of them, is the same once the text is `width` long.
 * `longrope` has other angles for texts longer than the original length, at every position: such a text begins again.
 */
export function cacheHolds({ ropeScaling }: Pick<RopeSettings, 'ropeScaling'>, past: number, width: number): boolean {
  if (past === 0 || ropeScaling?.type !== 'longrope') return true;
  const { originalMaxPositionEmbeddings: original } = ropeScaling;
  return past > original === width > original;
}

/** Radians that a pair of dimensions turns from one position to the next, in a text of `width` tokens. */
function frequencyOf({ ropeTheta, ropeScaling: scaling, headDim }: RopeSettings, pair: number, width: number): number {
  const frequency = ropeTheta ** ((-2 * pair) / headDim);
  switch (scaling?.type) {
    case undefined:
      return frequency;
    case 'linear':
      return frequency / scaling.factor;
    case 'longrope': {
      const factors = width > scaling.originalMaxPositionEmbeddings ? scaling.longFactors : scaling.shortFactors;
      return frequency / factors[pair];
    }
    case 'llama3': {
      // Pairs that turn often within the original length keep their frequency, slow ones get it divided, between it is mixed.
      const turns = (scaling.originalMaxPositionEmbeddings * frequency) / (2 * Math.PI);
      const { lowFreqFactor: low, highFreqFactor: high } = scaling;
      const kept = Math.min(1, Math.max(0, (turns - low) / (high - low)));
      return kept * frequency + ((1 - kept) * frequency) / scaling.factor;
    }
  }
}
