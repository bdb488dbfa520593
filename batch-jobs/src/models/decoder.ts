/**
 * The streamed walk over a decoder (docs/architecture.md): only one block's weights are on the
 * device at a time, and the head goes over the tokens in chunks. Weights come from, and gradients go to, host memory.
 */
import * as tf from '@tensorflow/tfjs-core';
import type { Tensor, Tensor2D } from '@tensorflow/tfjs-core';
import type { BlockWeightName, DecoderConfig } from './decoder-config.ts';
import {
  blockPrefix,
  blockWeightNames,
  embeddingName,
  finalNormName,
  headName,
  tensorShapes,
} from './decoder-config.ts';
import type { BlockActivations, BlockWeights, KeyValueCache, Positions } from './layers.ts';
import {
  blockBackward,
  blockForward,
  createPositions,
  disposePositions,
  headLoss,
  headLossBackward,
  linear,
  oneHot,
  rmsNorm,
  rmsNormBackward,
} from './layers.ts';

/** Where the walk gets a tensor, by its full name, as float32 in row-major order. */
export interface WeightSource {
  read(name: string): Promise<Float32Array> | Float32Array;
}

/** Distribution that the tokens `from` to `until` (exclusive) should have, [tokens, vocabSize]; the caller disposes of it. */
type Wanted = (from: number, until: number) => Tensor2D;

/** Takes the gradient of one tensor; the array is the callee's. */
export type GradientConsumer = (name: string, gradient: Float32Array) => void;

export interface DecoderLimits {
  /** Logits of the head held at once. */
  readonly logits: number;
  /** Bytes of activations kept between the forward and the backward pass; above this a block is run again instead. */
  readonly keptBytes: number;
}

/** 16 MB of logits, 512 MB of activations. */
const defaultLimits: DecoderLimits = { logits: 4 * 1024 * 1024, keptBytes: 512 * 1024 * 1024 };

export class Decoder {
  private readonly shapes: Map<string, number[]>;

  constructor(
    readonly config: DecoderConfig,
    private readonly weights: WeightSource,
    private readonly limits: DecoderLimits = defaultLimits,
  ) {
    this.shapes = tensorShapes(config);
  }

  /**
   * Loss of a batch and its gradients, block by block from the last to the first.
   * @param windows token ids, all of one length; each token but a window's first is predicted from those before it
   * @param gradientScale factor on the sum of the tokens' losses before it is differentiated
   * @param teacher model of the same shape whose distribution is learned in place of the text's next tokens
   * @returns sum of the cross-entropies, in nats, over windows x (length - 1) tokens
   */
  async lossAndGradients(
    windows: readonly Int32Array[],
    gradientScale: number,
    consume: GradientConsumer,
    teacher: Decoder | null = null,
  ): Promise<number> {
    const { config } = this;
    const length = windows[0].length - 1;
    const positions = createPositions(config, windows.length, length);
    const embedding = await this.weights.read(embeddingName);
    const inputs = joinTokens(windows, 0, length);
    const keep = this.keptBytes(windows.length, length) <= this.limits.keptBytes;

    // 1. Forward: keep each block's input, or, where memory allows, all that its backward pass needs.
    let x = this.embed(embedding, inputs);
    const steps: (Tensor2D | BlockActivations)[] = [];
    for (let block = 0; block < config.numHiddenLayers; block++) {
      const weights = await this.upload(block);
      const input = x;
      const { y, step } = tf.tidy(() => {
        const { y, kept } = blockForward(config, weights, input, positions);
        return { y, step: keep ? kept : input };
      });
      steps.push(step);
      tf.dispose(Object.values(weights));
      x = y;
    }

    // 2. The final norm and the head, in chunks of tokens.
    const targets = joinTokens(windows, 1, length + 1);
    const taught = teacher && (await teacher.probabilities(inputs, positions));
    const wanted: Wanted = taught?.at ?? ((from, until) => oneHot(targets.slice(from, until), config.vocabSize));
    const tied = config.tieWordEmbeddings ? embedding : null;
    const head = await this.headBackward(x, wanted, gradientScale, tied, consume);
    taught?.dispose();
    x.dispose();
    let dy = head.dx;

    // 3. Backward: from the last block to the first, each gradient handed on at once.
    for (let block = config.numHiddenLayers - 1; block >= 0; block--) {
      const weights = await this.upload(block);
      const step = steps[block];
      const { dx, gradients } = tf.tidy(() => {
        const kept = step instanceof tf.Tensor ? blockForward(config, weights, step, positions).kept : step;
        return blockBackward(config, weights, kept, positions, dy);
      });
      for (const name of blockWeightNames) {
        consume(blockPrefix(block) + name, gradients[name].dataSync() as Float32Array);
      }
      tf.dispose([
        Object.values(weights),
        Object.values(gradients),
        step instanceof tf.Tensor ? step : Object.values(step),
        dy,
      ]);
      dy = dx;
    }

    // 4. The embedding: rows of dy are summed by token; a tied head adds its own.
    const dEmbedding = head.dTied ?? new Float32Array(embedding.length);
    addRowsByToken(dEmbedding, dy.dataSync() as Float32Array, inputs, config.hiddenSize);
    consume(embeddingName, dEmbedding);
    dy.dispose();
    disposePositions(positions);
    return head.loss;
  }

  /**
   * Negative log-likelihood, in nats, of each predicted token: windows.length rows of length - 1.
   * Each block is uploaded once for all windows, which wait in host memory between blocks.
   */
  async losses(
    windows: readonly Int32Array[],
    windowsAtOnce: number,
    onBlock: (done: number, total: number) => void,
  ): Promise<Float32Array> {
    const { config } = this;
    const length = windows[0].length - 1;
    const embedding = await this.weights.read(embeddingName);
    const batches: { hidden: Float32Array; targets: Int32Array; count: number }[] = [];
    for (let from = 0; from < windows.length; from += windowsAtOnce) {
      const batch = windows.slice(from, from + windowsAtOnce);
      const rows = embedRows(embedding, joinTokens(batch, 0, length), config.hiddenSize);
      batches.push({ hidden: rows, targets: joinTokens(batch, 1, length + 1), count: batch.length });
    }
    const allPositions = new Map<number, Positions>();
    for (const { count } of batches)
      if (!allPositions.has(count)) allPositions.set(count, createPositions(config, count, length));

    for (let block = 0; block < config.numHiddenLayers; block++) {
      const weights = await this.upload(block);
      for (const batch of batches) {
        const positions = allPositions.get(batch.count) as Positions;
        const y = tf.tidy(() => {
          const x = tf.tensor2d(batch.hidden, [batch.count * length, config.hiddenSize]);
          return blockForward(config, weights, x, positions).y;
        });
        batch.hidden = (await y.data()) as Float32Array;
        y.dispose();
      }
      tf.dispose(Object.values(weights));
      onBlock(block + 1, config.numHiddenLayers + 1);
    }
    allPositions.forEach(disposePositions);

    const { norm, head } = await this.uploadHead(config.tieWordEmbeddings ? embedding : null);
    const result = new Float32Array(windows.length * length);
    let done = 0;
    for (const batch of batches) {
      const x = tf.tidy(() =>
        rmsNorm(tf.tensor2d(batch.hidden, [batch.count * length, config.hiddenSize]), norm, config.rmsNormEps),
      );
      for (const { from, until } of this.chunks(batch.targets.length)) {
        const losses = tf.tidy(() =>
          headLoss(rowsOf(x, from, until), head, oneHot(batch.targets.slice(from, until), config.vocabSize)),
        );
        result.set((await losses.data()) as Float32Array, done + from);
        losses.dispose();
      }
      x.dispose();
      done += batch.targets.length;
    }
    tf.dispose([norm, head]);
    onBlock(config.numHiddenLayers + 1, config.numHiddenLayers + 1);
    return result;
  }

  /**
   * Logits of the token that follows `tokens`, with the keys and values of earlier tokens kept in `caches` (one per block,
   * replaced in place; null at the start).
   */
  async nextLogits(tokens: Int32Array, caches: (KeyValueCache | null)[], pastLength: number): Promise<Float32Array> {
    const { config } = this;
    const embedding = await this.weights.read(embeddingName);
    const positions = createPositions(config, 1, tokens.length, pastLength);
    let x = this.embed(embedding, tokens);
    for (let block = 0; block < config.numHiddenLayers; block++) {
      const weights = await this.upload(block);
      const past = caches[block];
      const { y, cache } = tf.tidy(() => {
        const { y, cache } = blockForward(config, weights, x, positions, past);
        return { y, cache };
      });
      tf.dispose([Object.values(weights), x, past ? [past.keys, past.values] : []]);
      caches[block] = cache;
      x = y;
    }
    const { norm, head } = await this.uploadHead(config.tieWordEmbeddings ? embedding : null);
    const logits = tf.tidy(() =>
      linear(rmsNorm(rowsOf(x, tokens.length - 1, tokens.length), norm, config.rmsNormEps), head),
    );
    const values = (await logits.data()) as Float32Array;
    tf.dispose([logits, norm, head, x]);
    disposePositions(positions);
    return values;
  }

  /** What this model gives as next tokens, chunk by chunk, so that its probabilities never exist whole. */
  private async probabilities(tokens: Int32Array, positions: Positions): Promise<{ at: Wanted; dispose(): void }> {
    const { config } = this;
    const embedding = await this.weights.read(embeddingName);
    let x = this.embed(embedding, tokens);
    for (let block = 0; block < config.numHiddenLayers; block++) {
      const weights = await this.upload(block);
      const input = x;
      x = tf.tidy(() => blockForward(config, weights, input, positions).y);
      tf.dispose([Object.values(weights), input]);
    }
    const { norm, head } = await this.uploadHead(config.tieWordEmbeddings ? embedding : null);
    const normed = tf.tidy(() => rmsNorm(x, norm, config.rmsNormEps));
    tf.dispose([norm, x]);
    return {
      at: (from, until) => tf.tidy(() => tf.softmax(linear(rowsOf(normed, from, until), head))),
      dispose: () => tf.dispose([normed, head]),
    };
  }

  private async headBackward(
    x: Tensor2D,
    wanted: Wanted,
    scale: number,
    tied: Float32Array | null,
    consume: GradientConsumer,
  ): Promise<{ loss: number; dx: Tensor2D; dTied: Float32Array | null }> {
    const { config } = this;
    const { norm, head } = await this.uploadHead(tied);
    const normed = tf.tidy(() => rmsNorm(x, norm, config.rmsNormEps));
    let loss = 0;
    let dHead: Tensor2D = tf.zeros(head.shape);
    const dNormedChunks: Tensor2D[] = [];
    for (const { from, until } of this.chunks(x.shape[0])) {
      const part = tf.tidy(() => headLossBackward(rowsOf(normed, from, until), head, wanted(from, until), scale));
      for (const value of part.losses.dataSync()) loss += value;
      const sum: Tensor2D = tf.add(dHead, part.dHead);
      tf.dispose([dHead, part.dHead, part.losses]);
      dHead = sum;
      dNormedChunks.push(part.dx);
    }
    const { dx, dWeight } = tf.tidy(() => rmsNormBackward(x, norm, config.rmsNormEps, tf.concat(dNormedChunks, 0)));
    consume(finalNormName, dWeight.dataSync() as Float32Array);
    const headGradient = dHead.dataSync() as Float32Array;
    if (!tied) consume(headName, headGradient);
    tf.dispose([norm, head, normed, dHead, dWeight, dNormedChunks]);
    return { loss, dx, dTied: tied ? headGradient : null };
  }

  private chunks(tokens: number): { from: number; until: number }[] {
    const size = Math.max(1, Math.min(tokens, Math.floor(this.limits.logits / this.config.vocabSize)));
    const chunks = [];
    for (let from = 0; from < tokens; from += size) chunks.push({ from, until: Math.min(from + size, tokens) });
    return chunks;
  }

  /** Bytes of the activations of all blocks of a batch, as `BlockActivations` lists them. */
  private keptBytes(windows: number, length: number): number {
    const { hiddenSize, intermediateSize, numAttentionHeads, numKeyValueHeads, headDim, numHiddenLayers } = this.config;
    const perToken = 4 * hiddenSize + 3 * intermediateSize + (2 * numAttentionHeads + 2 * numKeyValueHeads) * headDim;
    return 4 * numHiddenLayers * windows * length * (perToken + numAttentionHeads * length);
  }

  private embed(embedding: Float32Array, tokens: Int32Array): Tensor2D {
    const { hiddenSize } = this.config;
    return tf.tensor2d(embedRows(embedding, tokens, hiddenSize), [tokens.length, hiddenSize]);
  }

  private async upload(block: number): Promise<BlockWeights> {
    const weights: Partial<Record<BlockWeightName, Tensor>> = {};
    for (const name of blockWeightNames) weights[name] = await this.uploadOne(blockPrefix(block) + name);
    return weights as BlockWeights;
  }

  private async uploadHead(tied: Float32Array | null): Promise<{ norm: Tensor; head: Tensor2D }> {
    const { vocabSize, hiddenSize } = this.config;
    const head = tied ? tf.tensor2d(tied, [vocabSize, hiddenSize]) : ((await this.uploadOne(headName)) as Tensor2D);
    return { norm: await this.uploadOne(finalNormName), head };
  }

  private async uploadOne(name: string): Promise<Tensor> {
    return tf.tensor(await this.weights.read(name), this.shapes.get(name) as number[]);
  }
}

function rowsOf(x: Tensor2D, from: number, until: number): Tensor2D {
  return tf.slice(x, [from, 0], [until - from, x.shape[1]]);
}

/** Tokens `from` to `until` (exclusive) of each window, one window after another. */
function joinTokens(windows: readonly Int32Array[], from: number, until: number): Int32Array {
  const joined = new Int32Array(windows.length * (until - from));
  windows.forEach((window, index) => joined.set(window.subarray(from, until), index * (until - from)));
  return joined;
}

function embedRows(embedding: Float32Array, tokens: Int32Array, hiddenSize: number): Float32Array {
  const rows = new Float32Array(tokens.length * hiddenSize);
  tokens.forEach((token, row) =>
    rows.set(embedding.subarray(token * hiddenSize, (token + 1) * hiddenSize), row * hiddenSize),
  );
  return rows;
}

function addRowsByToken(into: Float32Array, rows: Float32Array, tokens: Int32Array, hiddenSize: number): void {
  tokens.forEach((token, row) => {
    for (let i = 0; i < hiddenSize; i++) into[token * hiddenSize + i] += rows[row * hiddenSize + i];
  });
}
