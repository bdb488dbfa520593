/** Windows of token ids cut into parts that run through a block together, and where their hidden states wait between blocks. */
import * as tf from '@tensorflow/tfjs-core';
import type { Tensor, Tensor2D } from '@tensorflow/tfjs-core';
import type { DecoderConfig } from './decoder-config.ts';
import type { Positions } from './layers.ts';
import { createPositions, disposePositions } from './layers.ts';

/** Windows, all of one length, that run through the model together; a window's last token is only predicted. */
export interface Part {
  /** [windows x (length - 1)] */
  readonly inputs: Int32Array;
  /** The token after each of them. */
  readonly targets: Int32Array;
  readonly positions: Positions;
}

/** Hidden states, [tokens, hiddenSize]: in host memory, where they wait, or on the device. */
export type Rows = Float32Array | Tensor2D;

/** Consecutive parts of `size` items; the last may be shorter. */
export function partsOf<Item>(items: readonly Item[], size: number): Item[][] {
  return Array.from({ length: Math.ceil(items.length / size) }, (_, i) => items.slice(i * size, (i + 1) * size));
}

/** Gives `use` the parts of a batch, and disposes of what they hold on the device. */
export async function withParts<Result>(
  config: DecoderConfig,
  batch: readonly (readonly Int32Array[])[],
  use: (parts: readonly Part[]) => Promise<Result>,
): Promise<Result> {
  const positions = new Map<number, Positions>();
  const parts = batch.map((windows): Part => {
    const length = windows[0].length - 1;
    const own = positions.get(windows.length) ?? createPositions(config, windows.length, length);
    positions.set(windows.length, own);
    return { inputs: joinTokens(windows, 0, length), targets: joinTokens(windows, 1, length + 1), positions: own };
  });
  try {
    return await use(parts);
  } finally {
    positions.forEach(disposePositions);
  }
}

/** Tokens `from` to `until` (exclusive) of each window, one window after another. */
function joinTokens(windows: readonly Int32Array[], from: number, until: number): Int32Array {
  const joined = new Int32Array(windows.length * (until - from));
  windows.forEach((window, index) => joined.set(window.subarray(from, until), index * (until - from)));
  return joined;
}

/** What goes into the first block, [tokens, hiddenSize].  @param embedding [vocabSize, hiddenSize] */
export function embedRows(config: DecoderConfig, embedding: Float32Array, tokens: Int32Array): Float32Array {
  const { hiddenSize, embeddingScale } = config;
  const rows = new Float32Array(tokens.length * hiddenSize);
  for (let row = 0; row < tokens.length; row++) {
    const from = tokens[row] * hiddenSize;
    rows.set(embedding.subarray(from, from + hiddenSize), row * hiddenSize);
  }
  if (embeddingScale !== 1) for (let i = 0; i < rows.length; i++) rows[i] *= embeddingScale;
  return rows;
}

/** Adds the gradient of `embedRows`: each row goes to its token's.  @param into [vocabSize, hiddenSize] */
export function addRowsByToken(
  config: DecoderConfig,
  into: Float32Array,
  rows: Float32Array,
  tokens: Int32Array,
): void {
  const { hiddenSize, embeddingScale } = config;
  for (let row = 0, from = 0; row < tokens.length; row++, from += hiddenSize) {
    const at = tokens[row] * hiddenSize;
    for (let i = 0; i < hiddenSize; i++) into[at + i] += embeddingScale * rows[from + i];
  }
}

/** The rows as a tensor: a new one, or the one that they are. */
export function onDevice({ hiddenSize }: DecoderConfig, rows: Rows): Tensor2D {
  return rows instanceof Float32Array ? tf.tensor2d(rows, [rows.length / hiddenSize, hiddenSize]) : rows;
}

/** Its values; it is disposed of. */
export async function toHost(tensor: Tensor): Promise<Float32Array> {
  const values = await tensor.data<'float32'>();
  tensor.dispose();
  return values;
}

/** Rows `from` to `until` (exclusive). */
export function rowsOf(x: Tensor2D, from: number, until: number): Tensor2D {
  return tf.slice(x, [from, 0], [until - from, x.shape[1]]);
}
