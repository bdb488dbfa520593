/** What every measurement does with a decoder: how much passes through it at once, and what happens when it gives no number. */
import { InputError } from '../errors.ts';
import type { Decoder } from '../models/decoder.ts';

/** Tokens whose hidden states wait in host memory together; bounds it whatever the text's length. */
export const tokensInHost = 65_536;
/** Tokens on the device at once. */
const tokensAtOnce = 1024;

/** @param length tokens in a window */
export function windowsAtOnce(length: number): number {
  return Math.max(1, Math.floor(tokensAtOnce / length));
}

/**
 * Refuses a window whose losses give no figure, with the place in the model where the first such value is met.
 * @throws InputError always
 */
export async function refuseLosses(decoder: Decoder, window: Int32Array): Promise<never> {
  const found = await decoder.firstNotFinite([[window]]);
  const where =
    found === null
      ? 'its losses are too large for a perplexity'
      : `the first value that is not finite comes from ${found.tensor}${found.block === null ? '' : ` of block ${found.block}`}`;
  throw new InputError(
    'not_finite',
    `The model cannot be measured: ${where}. Its weights are damaged, or larger than its number format holds; copy it again.`,
    found?.tensor ?? null,
  );
}
