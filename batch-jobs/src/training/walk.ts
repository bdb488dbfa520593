/** How many parts of a batch go over the model's blocks in one walk. */
import type { DecoderConfig } from '../models/decoder-config.ts';
import { tensorShapes } from '../models/decoder-config.ts';

export { partsOf, tokensAtOnce } from '../models/parts.ts';

const leastWalkBytes = 1024 ** 3;

/**
 * Host memory for the inputs of all blocks, which wait there for the backward pass: 1 GiB, or one byte for each parameter if
 * that is more. Every walk takes the weights to the device twice, so a larger model is worth longer walks; training holds 20
 * bytes for each of its parameters already.
 */
export function walkBytes(config: DecoderConfig): number {
  let parameters = 0;
  for (const shape of tensorShapes(config).values()) parameters += shape.reduce((product, size) => product * size, 1);
  return Math.max(leastWalkBytes, parameters);
}

/** Parts of this many tokens whose inputs of all blocks fit into `walkBytes`; at least one. */
export function walkLength(config: DecoderConfig, tokens: number): number {
  return Math.max(1, Math.floor(walkBytes(config) / (4 * config.numHiddenLayers * config.hiddenSize * tokens)));
}
