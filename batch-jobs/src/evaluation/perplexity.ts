/**
 * Perplexity by the published protocol: the text's tokens, one BOS before them, cut into floor(n / length) segments; each
 * predicts its tokens but the first; exp of the mean negative log-likelihood. A rest shorter than a segment is left out.
 * @source evaluate_perplexity.py of the published CherryQ code, which follows the one of GPTQ
 */
import type { DecoderConfig } from '../models/decoder-config.ts';
import { Decoder } from '../models/decoder.ts';
import type { WeightSource } from '../models/decoder.ts';

export interface Perplexity {
  readonly perplexity: number;
  /** Tokens that were predicted. */
  readonly tokens: number;
}

/** Windows whose hidden states wait in host memory together; bounds it whatever the text's length. */
const tokensInHost = 65_536;
const tokensAtOnce = 1024;

/** @param segments token ids, all of one length   @param onProgress share done, 0 to 1 */
export async function measurePerplexity(
  config: DecoderConfig,
  weights: WeightSource,
  segments: readonly Int32Array[],
  onProgress: (fraction: number) => void = () => {},
): Promise<Perplexity> {
  const decoder = new Decoder(config, weights);
  const length = segments[0].length;
  const perPass = Math.max(1, Math.floor(tokensInHost / length));
  let total = 0;
  for (let from = 0; from < segments.length; from += perPass) {
    const pass = segments.slice(from, from + perPass);
    const losses = await decoder.losses(pass, Math.max(1, Math.floor(tokensAtOnce / length)), (done, blocks) =>
      onProgress((from + (pass.length * done) / blocks) / segments.length),
    );
    for (const loss of losses) total += loss;
  }
  const tokens = segments.length * (length - 1);
  return { perplexity: Math.exp(total / tokens), tokens };
}
