/** How many parts of a batch go over the model's blocks in one walk. */
import type { DecoderConfig } from '../models/decoder-config.ts';

/** Tokens run through a block at once; a larger batch is cut into several such parts. */
export const tokensAtOnce = 2048;

/** Of the blocks' inputs, which wait in main memory for the backward pass. */
const inputBytes = 1024 ** 3;

/** Parts of this many tokens whose inputs of all blocks fit; at least one. */
export function walkLength(config: DecoderConfig, tokens: number): number {
  return Math.max(1, Math.floor(inputBytes / (4 * config.numHiddenLayers * config.hiddenSize * tokens)));
}

/** Consecutive parts of `size` items; the last may be shorter. */
export function partsOf<Item>(items: readonly Item[], size: number): Item[][] {
  return Array.from({ length: Math.ceil(items.length / size) }, (_, i) => items.slice(i * size, (i + 1) * size));
}
