/**
 * The streamed walk over a decoder (docs/architecture.md): only one block's weights are on the
 * device at a time, and the head goes over the tokens in chunks. Weights come from, and gradients go to, host memory.
 */
import * as tf from '@tensorflow/tfjs-core';
import type { Tensor, Tensor2D } from '@tensorflow/tfjs-core';
import type { Wanted } from '../engine/fused.ts';
import { rmsNorm, rmsNormBackward } from '../engine/fused.ts';
import type { BlockWeightName, DecoderConfig } from './decoder-config.ts';
import {
  blockPrefix,
  blockWeightNames,
  embeddingName,
  finalNormName,
  headName,
  linearNames,
  tensorShapes,
} from './decoder-config.ts';
import type { BlockActivations, BlockWeights, GradientReduction, KeyValueCache, Positions } from './layers.ts';
import {
  blockBackward,
  blockForward,
  createPositions,
  disposePositions,
  headLoss,
  headLossBackward,
  linear,
} from './layers.ts';

/** Where the walk gets a tensor, by its full name, as float32 in row-major order. */
export interface WeightSource {
  read(name: string): Promise<Float32Array> | Float32Array;
}

/** What the tokens `from` to `until` (exclusive) should be; the caller disposes of it. */
type WantedAt = (from: number, until: number) => Wanted;

/** Takes the gradient of one tensor, or the sum of its squares; the array is the callee's. */
export type GradientConsumer = (name: string, gradient: Float32Array) => void;

export interface GradientRequest {
  /** Factor on the sum of the tokens' losses of a part before it is differentiated. */
  readonly gradientScale: number;
  /** `sum` gives the gradient of every tensor, `sumOfSquares` that over windows, of the blocks' linear layers alone. */
  readonly reduction: GradientReduction;
  readonly consume: GradientConsumer;
  /** Model of the same shape whose distribution is learned in place of the text's next tokens. */
  readonly teacher?: Decoder | null;
}

type BlockGradients = Record<BlockWeightName, Tensor>;

/** Windows that run through the model together. */
interface Part {
  readonly inputs: Int32Array;
  readonly targets: Int32Array;
  readonly positions: Positions;
}

export interface DecoderLimits {
  /** Logits of the head held at once. */
  readonly logits: number;
  /** Bytes of activations kept between the forward and the backward pass; a block that finds no room is run again. */
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
   * Loss of a batch and its gradients, block by block from the last to the first. A block's weights are on the device once
   * for all parts of the batch, and its gradients leave it once.
   * @param parts of token ids, run one after another, all windows of one length; each token but a window's first is
   * predicted from those before it
   * @returns sum of the cross-entropies, in nats, over all windows x (length - 1) tokens
   */
  async lossAndGradients(
    parts: readonly (readonly Int32Array[])[],
    { gradientScale, reduction, consume, teacher = null }: GradientRequest,
  ): Promise<number> {
    const { config } = this;
    const allPositions = new Map<number, Positions>();
    const batch = parts.map((windows) => this.partOf(windows, allPositions));
    const embedding = await this.weights.read(embeddingName);

    // 1. Forward: keep each block's input, or, as long as there is room, all that its backward pass needs.
    let x = batch.map(({ inputs }) => this.embed(embedding, inputs));
    const steps: (Tensor2D | BlockActivations)[][] = [];
    let room = this.limits.keptBytes;
    let weights: BlockWeights | null = null;
    for (let block = 0; block < config.numHiddenLayers; block++) {
      tf.dispose(Object.values(weights ?? {}));
      const own = (weights = await this.upload(block));
      const results = batch.map(({ positions }, part) =>
        tf.tidy(() => {
          const { y, kept } = blockForward(config, own, x[part], positions);
          const fits = bytesOf(kept) <= room;
          if (fits) room -= bytesOf(kept);
          return { y, step: fits ? kept : x[part] };
        }),
      );
      steps.push(results.map(({ step }) => step));
      x = results.map(({ y }) => y);
    }

    // 2. The final norm and the head.
    const tied = config.tieWordEmbeddings ? embedding : null;
    const head = await this.headBackward(batch, x, gradientScale, tied, reduction === 'sum', teacher);
    const dy = head.dx;

    // 3. Backward: from the last block, whose weights are still there, to the first, each gradient handed on at once.
    for (let block = config.numHiddenLayers - 1; block >= 0; block--) {
      const own: BlockWeights = (weights ??= await this.upload(block));
      let reduced: BlockGradients | null = null;
      for (const [part, { positions }] of batch.entries()) {
        const step = steps[block][part];
        const before: BlockGradients | null = reduced;
        const result: { dx: Tensor2D; gradients: BlockGradients } = tf.tidy(() => {
          const kept = step instanceof tf.Tensor ? blockForward(config, own, step, positions).kept : step;
          const { dx, gradients } = blockBackward(config, own, kept, positions, dy[part], reduction);
          return { dx, gradients: before ? addGradients(before, gradients) : gradients };
        });
        tf.dispose([step, dy[part], Object.values(before ?? {})]);
        dy[part] = result.dx;
        reduced = result.gradients;
      }
      tf.dispose(Object.values(own));
      weights = null;
      for (const name of reduction === 'sum' ? blockWeightNames : linearNames) {
        const gradient = (reduced as unknown as BlockGradients)[name];
        consume(blockPrefix(block) + name, gradient.dataSync() as Float32Array);
      }
      tf.dispose(Object.values(reduced as unknown as BlockGradients));
    }

    // 4. The embedding: rows of dy are summed by token; a tied head adds its own.
    if (reduction === 'sum') {
      consume(finalNormName, head.dNorm);
      if (head.dHead && !tied) consume(headName, head.dHead);
      const dEmbedding = (tied && head.dHead) ?? new Float32Array(embedding.length);
      batch.forEach(({ inputs }, part) =>
        addRowsByToken(dEmbedding, dy[part].dataSync() as Float32Array, inputs, config.hiddenSize),
      );
      consume(embeddingName, dEmbedding);
    }
    tf.dispose(dy);
    allPositions.forEach(disposePositions);
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
        const losses = tf.tidy(() => headLoss(rowsOf(x, from, until), head, wantedIds(batch.targets)(from, until)));
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

  /** What this model gives as next tokens of each part, chunk by chunk, so that its logits never exist whole. */
  private async logits(batch: readonly Part[]): Promise<{ at: readonly WantedAt[]; dispose(): void }> {
    const { config } = this;
    const embedding = await this.weights.read(embeddingName);
    let x = batch.map(({ inputs }) => this.embed(embedding, inputs));
    for (let block = 0; block < config.numHiddenLayers; block++) {
      const weights = await this.upload(block);
      const y = batch.map(({ positions }, part) => tf.tidy(() => blockForward(config, weights, x[part], positions).y));
      tf.dispose([Object.values(weights), x]);
      x = y;
    }
    const { norm, head } = await this.uploadHead(config.tieWordEmbeddings ? embedding : null);
    const normed = x.map((rows) => rmsNorm(rows, norm, config.rmsNormEps));
    tf.dispose([norm, x]);
    return {
      at: normed.map((rows) => (from, until) => ({
        logits: tf.tidy(() => linear(rowsOf(rows, from, until), head)),
      })),
      dispose: () => tf.dispose([normed, head]),
    };
  }

  /** Disposes of `x`.  @param wantsHead whether dHead is needed */
  private async headBackward(
    batch: readonly Part[],
    x: readonly Tensor2D[],
    scale: number,
    tied: Float32Array | null,
    wantsHead: boolean,
    teacher: Decoder | null,
  ): Promise<{ loss: number; dx: Tensor2D[]; dNorm: Float32Array; dHead: Float32Array | null }> {
    const { config } = this;
    const taught = teacher && (await teacher.logits(batch));
    const { norm, head } = await this.uploadHead(tied);
    let loss = 0;
    let dHead: Tensor2D | undefined;
    const dNorm = new Float32Array(config.hiddenSize);
    const dx: Tensor2D[] = [];
    for (const [part, { targets }] of batch.entries()) {
      const wanted = taught?.at[part] ?? wantedIds(targets);
      const normed = rmsNorm(x[part], norm, config.rmsNormEps);
      const dNormedChunks: Tensor2D[] = [];
      for (const { from, until } of this.chunks(targets.length)) {
        const soFar: Tensor2D | undefined = dHead;
        const chunk: ReturnType<typeof headLossBackward> = tf.tidy(() =>
          headLossBackward(rowsOf(normed, from, until), head, wanted(from, until), scale, wantsHead, soFar),
        );
        for (const value of chunk.losses.dataSync()) loss += value;
        tf.dispose([soFar ?? [], chunk.losses]);
        dHead = chunk.dHead;
        dNormedChunks.push(chunk.dx);
      }
      const own = tf.tidy(() => rmsNormBackward(x[part], norm, config.rmsNormEps, tf.concat(dNormedChunks, 0), null));
      own.dWeight.dataSync().forEach((value, i) => (dNorm[i] += value));
      dx.push(own.dx);
      tf.dispose([x[part], normed, dNormedChunks, own.dWeight]);
    }
    const headGradient = (dHead?.dataSync() as Float32Array | undefined) ?? null;
    tf.dispose([norm, head, dHead ?? []]);
    taught?.dispose();
    return { loss, dx, dNorm, dHead: headGradient };
  }

  private partOf(windows: readonly Int32Array[], positions: Map<number, Positions>): Part {
    const length = windows[0].length - 1;
    let own = positions.get(windows.length);
    if (!own) positions.set(windows.length, (own = createPositions(this.config, windows.length, length)));
    return { inputs: joinTokens(windows, 0, length), targets: joinTokens(windows, 1, length + 1), positions: own };
  }

  private chunks(tokens: number): { from: number; until: number }[] {
    const size = Math.max(1, Math.min(tokens, Math.floor(this.limits.logits / this.config.vocabSize)));
    const chunks = [];
    for (let from = 0; from < tokens; from += size) chunks.push({ from, until: Math.min(from + size, tokens) });
    return chunks;
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

function addGradients(sum: BlockGradients, gradients: BlockGradients): BlockGradients {
  const sums: Partial<BlockGradients> = {};
  for (const name of blockWeightNames) sums[name] = tf.add(sum[name], gradients[name]);
  return sums as BlockGradients;
}

function wantedIds(targets: Int32Array): WantedAt {
  return (from, until) => ({ ids: tf.tensor1d(targets.subarray(from, until), 'int32') });
}

function bytesOf(activations: BlockActivations): number {
  return (
    4 *
    Object.values(activations)
      .flat()
      .reduce((sum, { size }) => sum + size, 0)
  );
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
