/**
 * The scales of the 2-bit variant: each column of a matrix is multiplied by its scale before it is rounded and divided by it
 * after, so that columns which meet large inputs lose less.  Q'(w) = Q(w s) / s, cherries left as they are
 *
 *   s_j = a_j^alpha, a_j the mean magnitude of input j, divided by sqrt(max s * min s); alpha from 0, 0.05, ... 0.95
 *
 * For each matrix the alpha whose rounded matrix gives outputs nearest to the original's, || X W^T - X Q'(W)^T ||^2, on the
 * inputs X that it has in the original model. Alpha 0, no scaling, is one of them, so none is made worse. The scales are
 * frozen then.
 * @source Cui & Wang, NeurIPS 2024, section 6.4, which names AWQ's search; its grid: mit-han-lab/llm-awq,
 * awq/quantize/auto_scale.py; differs: each matrix by itself, since its scales are stored with it and not folded into the
 * layer before; scales are rounded to float16, as they are stored
 */
import * as tf from '@tensorflow/tfjs-core';
import type { Tensor2D } from '@tensorflow/tfjs-core';
import type { DecoderConfig } from '../models/decoder-config.ts';
import type { WeightSource } from '../models/decoder.ts';
import { Decoder } from '../models/decoder.ts';
import { roundToFloat16 } from '../numeric/dtypes.ts';
import { hostPool, isShared, sharedCopy, sharedFloat32 } from '../numeric/pool.ts';
import type { Cherries, Grid } from '../numeric/quantizer.ts';
import { noCherries } from '../numeric/quantizer.ts';

/** Candidates for alpha, as AWQ has them. */
const candidates = 20;
/** AWQ's floor of a_j^alpha: an input that is always zero would give none. */
const leastPower = 1e-4;
/** Normal float16. */
const leastScale = 2 ** -14;
const largestScale = 65_504;
/**
 * Tokens whose inputs the search looks at, from the start of the windows. AWQ takes up to 65,536; one number is chosen for a
 * whole matrix, which needs few, and the inputs of a block wait on the device: 23,000 floats a token for Llama-2-7B.
 */
const searchTokens = 4096;

/** What the search chose for a matrix. */
export interface ColumnScaleChoice {
  /** [in], rounded to float16. */
  readonly scales: Float32Array;
  readonly alpha: number;
  /** Mean squared difference of the outputs with these scales, and with none. */
  readonly error: number;
  readonly errorUnscaled: number;
}

export interface ColumnScaleSearch {
  readonly config: DecoderConfig;
  /** Of the original. */
  readonly weights: WeightSource;
  readonly grid: Grid;
  readonly cherries: ReadonlyMap<string, Cherries>;
  /** Calibration windows, all of one length. */
  readonly windows: readonly Int32Array[];
  /** Choices of an earlier call with the same arguments, which are not searched for again. */
  readonly known?: ReadonlyMap<string, ColumnScaleChoice>;
  /** Called after each block with all choices so far; what it throws ends the search. */
  readonly onBlock?: (found: ReadonlyMap<string, ColumnScaleChoice>, done: number, blocks: number) => Promise<void>;
}

/** The windows that the search runs: at least one, and no more tokens than it looks at. */
export function searchWindows(windows: readonly Int32Array[]): readonly Int32Array[] {
  return windows.slice(0, Math.max(1, Math.floor(searchTokens / windows[0].length)));
}

/** Chooses the scales of every linear layer, by its full name, block after block. */
export async function searchColumnScales(search: ColumnScaleSearch): Promise<Map<string, ColumnScaleChoice>> {
  const { config, weights, grid, cherries, onBlock } = search;
  const found = new Map(search.known);
  const decoder = new Decoder(config, weights);
  await decoder.walkBlocks(searchWindows(search.windows), async (block, layers) => {
    for (const { name, inputs } of layers) {
      if (found.has(name)) continue;
      found.set(name, await chooseScales(await weights.read(name), inputs, grid, cherries.get(name) ?? noCherries));
    }
    await onBlock?.(found, block + 1, config.numHiddenLayers);
  });
  return found;
}

/** @param weight [out, in]   @param inputs [tokens, in] */
export async function chooseScales(
  weight: Float32Array,
  inputs: Tensor2D,
  grid: Grid,
  cherries: Cherries,
): Promise<ColumnScaleChoice> {
  const columns = inputs.shape[1];
  const shared = isShared(weight) ? weight : sharedCopy(weight);
  const rounded = sharedFloat32(weight.length);
  const magnitudes = await meanMagnitudes(inputs);
  const original = tf.tensor2d(weight, [weight.length / columns, columns]);
  let best: Omit<ColumnScaleChoice, 'errorUnscaled'> | null = null;
  let errorUnscaled = NaN;
  for (let i = 0; i < candidates; i++) {
    const alpha = i / candidates;
    const scales = scalesAt(magnitudes, alpha, cherries);
    await fakeQuantize(shared, columns, grid, cherries, scales, rounded);
    const error = outputError(inputs, original, rounded);
    if (best === null) errorUnscaled = error;
    if (best === null || error < best.error) best = { scales, alpha, error };
  }
  original.dispose();
  return { ...(best as Omit<ColumnScaleChoice, 'errorUnscaled'>), errorUnscaled };
}

/** a^alpha, normalized as AWQ does; columns that are all cherries are never scaled and take no part. */
export function scalesAt(magnitudes: Float32Array, alpha: number, cherries: Cherries): Float32Array {
  const left = new Set(cherries.shared ? cherries.columns.subarray(0, cherries.perRow) : []);
  let least = Infinity;
  let largest = 0;
  const powers = Array.from(magnitudes, (magnitude, column) => {
    const power = Math.max(magnitude ** alpha, leastPower);
    if (!left.has(column)) {
      least = Math.min(least, power);
      largest = Math.max(largest, power);
    }
    return power;
  });
  const middle = Math.sqrt(largest * least);
  return Float32Array.from(powers, (power, column) =>
    left.has(column) ? 1 : roundToFloat16(Math.min(Math.max(power / middle, leastScale), largestScale)),
  );
}

async function meanMagnitudes(inputs: Tensor2D): Promise<Float32Array> {
  const means = tf.tidy(() => tf.mean(tf.abs(inputs), 0));
  const values = (await means.data()) as Float32Array;
  means.dispose();
  return values;
}

async function fakeQuantize(
  weight: Float32Array,
  columns: number,
  grid: Grid,
  cherries: Cherries,
  columnScales: Float32Array,
  into: Float32Array,
): Promise<void> {
  const rows = weight.length / columns;
  const pool = hostPool();
  const parts = Math.min(pool.threads, rows);
  await Promise.all(
    Array.from({ length: parts }, (_, part) => {
      const fromRow = Math.floor((rows * part) / parts);
      const untilRow = Math.floor((rows * (part + 1)) / parts);
      return pool.run('fakeQuantizeRows', { weight, columns, fromRow, untilRow, grid, cherries, columnScales, into });
    }),
  );
}

/** Mean of (X W^T - X Q^T)^2. */
function outputError(inputs: Tensor2D, original: Tensor2D, rounded: Float32Array): number {
  const error = tf.tidy(() => {
    const difference: Tensor2D = tf.sub(tf.tensor2d(rounded, original.shape), original);
    return tf.mean(tf.square(tf.matMul(inputs, difference, false, true)));
  });
  const [value] = error.dataSync();
  error.dispose();
  return value;
}
