/**
 * Perplexity by the published protocol: the text's tokens, one BOS before them, cut into floor(n / length) segments; each
 * predicts its tokens but the first; exp of the mean negative log-likelihood. A rest shorter than a segment is left out.
 * With it, where asked for, the mean Kullback-Leibler divergence of each predicted token's distribution from the original's.
 * @source evaluate_perplexity.py of the published CherryQ code, which follows the one of GPTQ
 */
import type { DecoderConfig } from '../models/decoder-config.ts';
import { Decoder } from '../models/decoder.ts';
import type { WeightSource } from '../models/decoder.ts';
import { refuseLosses, tokensInHost, windowsAtOnce } from './losses.ts';

export interface Perplexity {
  readonly perplexity: number;
  /** KL(original || model), in nats a token; null without an original. */
  readonly divergence: number | null;
  /** Tokens that were predicted. */
  readonly tokens: number;
}

export interface PerplexityOptions {
  /** The original's weights, of the same config, to measure the divergence from. */
  readonly original?: WeightSource;
  /** Told the share done, 0 to 1. */
  readonly onProgress?: (fraction: number) => void;
}

/**
 * @param segments token ids, all of one length
 * @throws InputError `not_finite`, naming the tensor, when the model gives losses that are no numbers
 */
export async function measurePerplexity(
  config: DecoderConfig,
  weights: WeightSource,
  segments: readonly Int32Array[],
  { original, onProgress = () => undefined }: PerplexityOptions = {},
): Promise<Perplexity> {
  const decoder = new Decoder(config, weights);
  const other = original && new Decoder(config, original);
  const length = segments[0].length;
  const atOnce = windowsAtOnce(length);
  const perPass = Math.max(1, Math.floor(tokensInHost / (other ? 2 : 1) / length));
  let total = 0;
  let apart = 0;
  for (let from = 0; from < segments.length; from += perPass) {
    const pass = segments.slice(from, from + perPass);
    const onBlock = (done: number, all: number): void =>
      onProgress((from + (pass.length * done) / all) / segments.length);
    const { losses, divergences } = other
      ? await decoder.divergences(pass, atOnce, other, onBlock)
      : { losses: await decoder.losses(pass, atOnce, onBlock), divergences: [] };
    const unfit = losses.findIndex((loss) => !Number.isFinite(loss));
    if (unfit >= 0) await refuseLosses(decoder, pass[Math.floor(unfit / (length - 1))]);
    for (const loss of losses) total += loss;
    for (const divergence of divergences) apart += divergence;
  }
  const tokens = segments.length * (length - 1);
  return { perplexity: Math.exp(total / tokens), divergence: other ? apart / tokens : null, tokens };
}
