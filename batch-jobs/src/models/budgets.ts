/** How work is cut, and what may wait in memory meanwhile: known from shapes alone, before anything runs. */
import type { DecoderConfig } from './decoder-config.ts';
import { tensorShapes } from './decoder-config.ts';

/** Tokens run through a block at once; more are cut into several parts. */
export const tokensAtOnce = 2048;

/** Windows of `length` tokens that run at once; at least one. */
export function mostWindows(length: number): number {
  return Math.max(1, Math.floor(tokensAtOnce / length));
}

export interface DecoderLimits {
  /** Logits of the head held at once. */
  readonly logits: number;
  /**
   * Bytes on the device for activations kept between the forward and the backward pass. A block that finds no room has its
   * input wait in host memory, and is run again; 0 keeps one block's on the device, whatever the depth.
   */
  readonly keptBytes: number;
}

/** 16 MB of logits, 512 MB of activations. */
export const defaultLimits: DecoderLimits = { logits: 4 * 1024 * 1024, keptBytes: 512 * 1024 * 1024 };

/** Bytes of quantized matrices that are kept for a step; what is beyond is quantized whenever it is read. */
export const keptQuantizedBytes = 512 * 1024 * 1024;

/** Training block by block: for the hidden states of both chains, and of one of them once more while it moves on. */
export const defaultHiddenBytes = 2 * 1024 ** 3;

/** Bytes of one number of AdamW's moments. */
export const momentBytes = { float32: 4, bfloat16: 2 } as const;

/** What becomes of a layer's weight gradient, dy^T x of each window: their sum, or the sum of their squares. */
export type GradientReduction = 'sum' | 'sumOfSquares';

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

/** Parts of this many tokens that go over the blocks in one walk: their inputs of all blocks fit into `walkBytes`; at least one. */
export function walkLength(config: DecoderConfig, tokens: number): number {
  return Math.max(1, Math.floor(walkBytes(config) / (4 * config.numHiddenLayers * config.hiddenSize * tokens)));
}

/** Windows of an impact measurement that share a walk over the blocks: a walk is what a stop must wait for. */
const mostImpactWindows = 8;

/** Windows of `length` tokens that share a walk, as impact is measured. */
export function windowsInWalk(config: DecoderConfig, length: number): number {
  return Math.max(Math.floor(tokensAtOnce / length), Math.min(mostImpactWindows, walkLength(config, length)));
}
