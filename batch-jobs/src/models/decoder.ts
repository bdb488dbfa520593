/**
 * The streamed walk over a decoder (docs/architecture.md): only one block's weights are on the
 * device at a time, and the head goes over the tokens in chunks. Weights come from, and gradients go to, host memory.
 */
import * as tf from '@tensorflow/tfjs-core';
import type { Tensor, Tensor2D } from '@tensorflow/tfjs-core';
import type { Wanted } from '../engine/fused.ts';
import { rmsNorm, rmsNormBackward } from '../engine/fused.ts';
import type { GradientConsumer, WeightSource } from './block-weights.ts';
import { addGradients, handOnGradients, linearInputs, uploadBlock, uploadFinalNorm } from './block-weights.ts';
import type { DecoderConfig } from './decoder-config.ts';
import { blockPrefix, blockTensors, embeddingName, finalNormName, headName } from './decoder-config.ts';
import type {
  BlockActivations,
  BlockGradients,
  BlockWeights,
  GradientReduction,
  KeyValueCache,
  Positions,
} from './layers.ts';
import {
  blockBackward,
  blockForward,
  createPositions,
  disposePositions,
  headDivergence,
  headLoss,
  headLossBackward,
  linear,
} from './layers.ts';
import { cacheHolds } from './rope.ts';

export type { GradientConsumer, WeightSource };

/** Tokens of hidden states that pass a block at once where they come from main memory. */
const tokensAtOnce = 2048;

/** What the tokens `from` to `until` (exclusive) should be; the caller disposes of it. */
type WantedAt = (from: number, until: number) => Wanted;

export interface GradientRequest {
  /** Factor on the sum of the tokens' losses of a part before it is differentiated. */
  readonly gradientScale: number;
  /** `sum` gives the gradient of every tensor, `sumOfSquares` that over windows, of the blocks' linear layers alone. */
  readonly reduction: GradientReduction;
  readonly consume: GradientConsumer;
  /** Model of the same shape whose distribution is learned in place of the text's next tokens. */
  readonly teacher?: Decoder | null;
  /**
   * Called in the forward pass, once for each part, with what each of the blocks' matrices is multiplied with, [tokens, in]; one
   * tensor for matrices that share it, which is the decoder's.
   */
  readonly observe?: (name: string, inputs: Tensor2D) => void;
}

/** Windows as they stand before a block: [windows x length, hiddenSize] of each. */
export interface BlockExamples {
  readonly hidden: Float32Array;
  /** What the block should make of them. */
  readonly target: Float32Array;
  readonly windows: number;
  readonly length: number;
}

/** Where the first value that is not finite was met. */
export interface NotFinite {
  /** Null outside of the blocks. */
  readonly block: number | null;
  /** Full name of the tensor that holds it, or of the matrix or norm whose output does. */
  readonly tensor: string;
}

/** A batch of windows between blocks, in main memory. */
interface WaitingBatch {
  hidden: Float32Array;
  readonly targets: Int32Array;
  readonly count: number;
}

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
  constructor(
    readonly config: DecoderConfig,
    private readonly weights: WeightSource,
    private readonly limits: DecoderLimits = defaultLimits,
  ) {}

  /**
   * Loss of a batch and its gradients, block by block from the last to the first. A block's weights are on the device once
   * for all parts of the batch, and its gradients leave it once.
   * @param parts of token ids, run one after another, all windows of one length; each token but a window's first is
   * predicted from those before it
   * @returns sum of the cross-entropies, in nats, over all windows x (length - 1) tokens
   */
  async lossAndGradients(
    parts: readonly (readonly Int32Array[])[],
    { gradientScale, reduction, consume, teacher = null, observe }: GradientRequest,
  ): Promise<number> {
    const { config } = this;
    const allPositions = new Map<number, Positions>();
    const batch = parts.map((windows) => this.partOf(windows, allPositions));
    const embedding = await this.weights.read(embeddingName);

    // 1. Forward: keep all that a block's backward pass needs as long as there is room, else its input, in main memory.
    let x = batch.map(({ inputs }) => this.embed(embedding, inputs));
    const steps: (Float32Array | BlockActivations)[][] = [];
    let room = this.limits.keptBytes;
    let weights: BlockWeights | null = null;
    for (let block = 0; block < config.numHiddenLayers; block++) {
      tf.dispose(Object.values(weights ?? {}));
      const own = (weights = await uploadBlock(config, block, this.weights));
      const kept: (BlockActivations | null)[] = [];
      const outputs = batch.map(({ positions }, part) =>
        tf.tidy(() => {
          const result = blockForward(config, block, own, x[part], positions);
          if (observe) for (const { name, inputs } of linearInputs(config, block, result.kept)) observe(name, inputs);
          const fits = bytesOf(result.kept) <= room;
          if (fits) {
            room -= bytesOf(result.kept);
            for (const tensor of Object.values(result.kept).flat()) tf.keep(tensor);
          }
          kept.push(fits ? result.kept : null);
          return result.y;
        }),
      );
      steps.push(kept.map((own, part) => own ?? takeFrom(x[part])));
      x = outputs;
    }

    // 2. The final norm and the head.
    const tied = config.tieWordEmbeddings ? embedding : null;
    const head = await this.headBackward(batch, x, gradientScale, tied, reduction === 'sum', teacher);
    const dy = head.dx;

    // 3. Backward: from the last block, whose weights are still there, to the first, each gradient handed on at once.
    for (let block = config.numHiddenLayers - 1; block >= 0; block--) {
      const own: BlockWeights = (weights ??= await uploadBlock(config, block, this.weights));
      let reduced: BlockGradients | null = null;
      for (const [part, { positions }] of batch.entries()) {
        const step = steps[block][part];
        const before: BlockGradients | null = reduced;
        const result: { dx: Tensor2D; gradients: BlockGradients } = tf.tidy(() => {
          const kept =
            step instanceof Float32Array ? blockForward(config, block, own, this.rows(step), positions).kept : step;
          const { dx, gradients } = blockBackward(config, block, own, kept, positions, dy[part], reduction);
          return { dx, gradients: before ? addGradients(before, gradients) : gradients };
        });
        steps[block][part] = new Float32Array(0);
        tf.dispose([step instanceof Float32Array ? [] : Object.values(step), dy[part], Object.values(before ?? {})]);
        dy[part] = result.dx;
        reduced = result.gradients;
      }
      tf.dispose(Object.values(own));
      weights = null;
      handOnGradients(config, block, reduced as unknown as BlockGradients, reduction, consume);
      tf.dispose(Object.values(reduced as unknown as BlockGradients));
    }

    // 4. The embedding: rows of dy are summed by token; a tied head adds its own.
    if (reduction === 'sum') {
      consume(finalNormName, head.dNorm);
      if (head.dHead && !tied) consume(headName, head.dHead);
      const dEmbedding = (tied && head.dHead) ?? new Float32Array(embedding.length);
      batch.forEach(({ inputs }, part) =>
        addRowsByToken(config, dEmbedding, dy[part].dataSync() as Float32Array, inputs),
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
    const { batches, embedding } = await this.finalStates(windows, windowsAtOnce, onBlock);
    const head = await this.uploadHead(config.tieWordEmbeddings ? embedding : null);
    const losses = new Float32Array(windows.length * (windows[0].length - 1));
    let done = 0;
    for (const batch of batches) {
      const x = this.normed(batch, head.norm);
      for (const { from, until } of this.chunks(batch.targets.length)) {
        const own = tf.tidy(() => headLoss(rowsOf(x, from, until), head.head, wantedIds(batch.targets)(from, until)));
        losses.set((await own.data()) as Float32Array, done + from);
        own.dispose();
      }
      x.dispose();
      done += batch.targets.length;
    }
    tf.dispose([head.norm, head.head]);
    onBlock(config.numHiddenLayers + 1, config.numHiddenLayers + 1);
    return losses;
  }

  /**
   * The losses, as `losses` gives them, and how far each predicted token's distribution is from another model's:
   * KL(original || this) = sum p (log p - log q), in nats; [windows x (length - 1)] of each.
   * @param original of the same vocabulary
   */
  async divergences(
    windows: readonly Int32Array[],
    windowsAtOnce: number,
    original: Decoder,
    onBlock: (done: number, total: number) => void,
  ): Promise<{ losses: Float32Array; divergences: Float32Array }> {
    const blocks = [this, original].map(({ config }) => config.numHiddenLayers);
    const total = blocks[0] + blocks[1] + 1;
    const own = await this.finalStates(windows, windowsAtOnce, (done) => onBlock(done, total));
    const other = await original.finalStates(windows, windowsAtOnce, (done) => onBlock(blocks[0] + done, total));
    const [head, otherHead] = await Promise.all([
      this.uploadHead(this.config.tieWordEmbeddings ? own.embedding : null),
      original.uploadHead(original.config.tieWordEmbeddings ? other.embedding : null),
    ]);
    const count = windows.length * (windows[0].length - 1);
    const losses = new Float32Array(count);
    const divergences = new Float32Array(count);
    let done = 0;
    for (const [index, batch] of own.batches.entries()) {
      const x = this.normed(batch, head.norm);
      const y = original.normed(other.batches[index], otherHead.norm);
      for (const { from, until } of this.chunks(batch.targets.length)) {
        const found = tf.tidy(() => {
          const wanted = wantedIds(batch.targets)(from, until);
          return headDivergence(rowsOf(x, from, until), head.head, rowsOf(y, from, until), otherHead.head, wanted);
        });
        losses.set((await found.losses.data()) as Float32Array, done + from);
        divergences.set((await found.divergences.data()) as Float32Array, done + from);
        tf.dispose([found.losses, found.divergences]);
      }
      tf.dispose([x, y]);
      done += batch.targets.length;
    }
    tf.dispose([head.norm, head.head, otherHead.norm, otherHead.head]);
    onBlock(total, total);
    return { losses, divergences };
  }

  /**
   * Runs windows forward, and shows what each block's matrices are multiplied with.
   * @param windows of one length, all at once on the device; their last tokens, which nothing follows, are left out
   * @param visit given each matrix's full name and inputs [tokens, in], which are the decoder's
   */
  async walkBlocks(
    windows: readonly Int32Array[],
    visit: (block: number, layers: readonly { name: string; inputs: Tensor2D }[]) => Promise<void>,
  ): Promise<void> {
    const { config } = this;
    const positions = createPositions(config, windows.length, windows[0].length - 1);
    const tokens = joinTokens(windows, 0, windows[0].length - 1);
    let x = this.embed(await this.weights.read(embeddingName), tokens);
    for (let block = 0; block < config.numHiddenLayers; block++) {
      const weights = await uploadBlock(config, block, this.weights);
      const { y, kept } = tf.tidy(() => {
        const { y, kept } = blockForward(config, block, weights, x, positions);
        return { y, kept };
      });
      tf.dispose(Object.values(weights));
      await visit(block, linearInputs(config, block, kept));
      tf.dispose(Object.values(kept));
      x = y;
    }
    x.dispose();
    disposePositions(positions);
  }

  /** What goes into the first block: [tokens, hiddenSize] of all windows but their last tokens. */
  async embedded(windows: readonly Int32Array[]): Promise<Float32Array> {
    const tokens = joinTokens(windows, 0, windows[0].length - 1);
    return embedRows(this.config, await this.weights.read(embeddingName), tokens);
  }

  /** What a block makes of hidden states.  @param hidden [windows x length, hiddenSize]   @returns the same shape */
  async blockOutputs(block: number, hidden: Float32Array, windows: number, length: number): Promise<Float32Array> {
    const { config } = this;
    const atOnce = Math.max(1, Math.floor(tokensAtOnce / length));
    const outputs = new Float32Array(hidden.length);
    const weights = await uploadBlock(config, block, this.weights);
    const size = length * config.hiddenSize;
    for (let from = 0; from < windows; from += atOnce) {
      const count = Math.min(atOnce, windows - from);
      const positions = createPositions(config, count, length);
      const y = tf.tidy(() => {
        const x = this.rows(hidden.subarray(from * size, (from + count) * size));
        return blockForward(config, block, weights, x, positions).y;
      });
      outputs.set((await y.data()) as Float32Array, from * size);
      y.dispose();
      disposePositions(positions);
    }
    tf.dispose(Object.values(weights));
    return outputs;
  }

  /**
   * Sum of the squared differences between what a block makes of hidden states and what it should, and the gradients of it,
   * times `gradientScale`, of each of the block's tensors.
   */
  async blockLossAndGradients(
    block: number,
    { hidden, target, windows, length }: BlockExamples,
    { gradientScale, consume }: Pick<GradientRequest, 'gradientScale' | 'consume'>,
  ): Promise<number> {
    const { config } = this;
    const weights = await uploadBlock(config, block, this.weights);
    const positions = createPositions(config, windows, length);
    const { loss, gradients } = tf.tidy(() => {
      const { y, kept } = blockForward(config, block, weights, this.rows(hidden), positions);
      const difference: Tensor2D = tf.sub(y, this.rows(target));
      const dy: Tensor2D = tf.mul(difference, 2 * gradientScale);
      const { gradients } = blockBackward(config, block, weights, kept, positions, dy);
      return { loss: tf.sum(tf.square(difference)), gradients };
    });
    const [sum] = await loss.data();
    handOnGradients(config, block, gradients, 'sum', consume);
    tf.dispose([loss, Object.values(gradients), Object.values(weights)]);
    disposePositions(positions);
    return sum;
  }

  /**
   * Walks forward until a value is not finite, to say where a loss that is not comes from; null where all are finite.
   * @param parts as of `lossAndGradients`
   */
  async firstNotFinite(parts: readonly (readonly Int32Array[])[]): Promise<NotFinite | null> {
    const { config } = this;
    const embedding = await this.weights.read(embeddingName);
    if (!allFinite(embedding)) return { block: null, tensor: embeddingName };
    const allPositions = new Map<number, Positions>();
    const batch = parts.map((windows) => this.partOf(windows, allPositions));
    let x = batch.map(({ inputs }) => this.embed(embedding, inputs));
    let found: NotFinite | null = null;
    for (let block = 0; block < config.numHiddenLayers && !found; block++) {
      found = await this.firstNotFiniteWeight(block);
      if (found) break;
      const weights = await uploadBlock(config, block, this.weights);
      const next: Tensor2D[] = [];
      for (const [part, { positions }] of batch.entries()) {
        const { y, kept } = tf.tidy(() => {
          const { y, kept } = blockForward(config, block, weights, x[part], positions);
          return { y, kept };
        });
        next.push(y);
        const outputs: { name: string; values: Tensor2D }[] = found ? [] : suspects(kept, y);
        const culprit = outputs.find(({ values }) => !allFinite(values.dataSync()))?.name;
        if (culprit !== undefined) found = { block, tensor: blockPrefix(block) + culprit };
        tf.dispose(Object.values(kept));
      }
      tf.dispose(Object.values(weights));
      x = next;
    }
    tf.dispose(x);
    allPositions.forEach(disposePositions);
    if (found) return found;
    for (const name of [finalNormName, ...(config.tieWordEmbeddings ? [] : [headName])]) {
      if (!allFinite(await this.weights.read(name))) return { block: null, tensor: name };
    }
    return null;
  }

  private async firstNotFiniteWeight(block: number): Promise<NotFinite | null> {
    for (const { name } of blockTensors(this.config)) {
      const tensor = blockPrefix(block) + name;
      if (!allFinite(await this.weights.read(tensor))) return { block, tensor };
    }
    return null;
  }

  /**
   * Logits of the token that follows `tokens`, with the keys and values of earlier tokens kept in `caches` (one per block,
   * replaced in place; null at the start).
   * @throws Error when the caches do not hold for a text as long as it becomes (`cacheHolds` in rope.ts)
   */
  async nextLogits(tokens: Int32Array, caches: (KeyValueCache | null)[], pastLength: number): Promise<Float32Array> {
    const { config } = this;
    if (!cacheHolds(config, pastLength, pastLength + tokens.length))
      throw new Error(
        `The text passes the model's original length after ${pastLength} tokens: begin again without caches.`,
      );
    const embedding = await this.weights.read(embeddingName);
    const positions = createPositions(config, 1, tokens.length, pastLength);
    let x = this.embed(embedding, tokens);
    for (let block = 0; block < config.numHiddenLayers; block++) {
      const weights = await uploadBlock(config, block, this.weights);
      const past = caches[block];
      const { y, cache } = tf.tidy(() => {
        const { y, cache } = blockForward(config, block, weights, x, positions, past);
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

  /** Runs windows through all blocks, each uploaded once for all of them; between blocks they wait in main memory. */
  private async finalStates(
    windows: readonly Int32Array[],
    windowsAtOnce: number,
    onBlock: (done: number, total: number) => void,
  ): Promise<{ batches: readonly WaitingBatch[]; embedding: Float32Array }> {
    const { config } = this;
    const length = windows[0].length - 1;
    const embedding = await this.weights.read(embeddingName);
    const batches: WaitingBatch[] = [];
    for (let from = 0; from < windows.length; from += windowsAtOnce) {
      const batch = windows.slice(from, from + windowsAtOnce);
      const hidden = embedRows(config, embedding, joinTokens(batch, 0, length));
      batches.push({ hidden, targets: joinTokens(batch, 1, length + 1), count: batch.length });
    }
    const allPositions = new Map<number, Positions>();
    for (const { count } of batches)
      if (!allPositions.has(count)) allPositions.set(count, createPositions(config, count, length));
    for (let block = 0; block < config.numHiddenLayers; block++) {
      const weights = await uploadBlock(config, block, this.weights);
      for (const batch of batches) {
        const positions = allPositions.get(batch.count) as Positions;
        const y = tf.tidy(() => blockForward(config, block, weights, this.rows(batch.hidden), positions).y);
        batch.hidden = (await y.data()) as Float32Array;
        y.dispose();
      }
      tf.dispose(Object.values(weights));
      onBlock(block + 1, config.numHiddenLayers + 1);
    }
    allPositions.forEach(disposePositions);
    return { batches, embedding };
  }

  /** After the final norm; the caller disposes of it. */
  private normed({ hidden }: WaitingBatch, norm: Tensor): Tensor2D {
    return tf.tidy(() => rmsNorm(this.rows(hidden), norm, this.config.rmsNormEps));
  }

  /** Hidden states on the device, [tokens, hiddenSize]. */
  private rows(hidden: Float32Array): Tensor2D {
    return tf.tensor2d(hidden, [hidden.length / this.config.hiddenSize, this.config.hiddenSize]);
  }

  /** What this model gives as next tokens of each part, chunk by chunk, so that its logits never exist whole. */
  private async logits(batch: readonly Part[]): Promise<{ at: readonly WantedAt[]; dispose(): void }> {
    const { config } = this;
    const embedding = await this.weights.read(embeddingName);
    let x = batch.map(({ inputs }) => this.embed(embedding, inputs));
    for (let block = 0; block < config.numHiddenLayers; block++) {
      const weights = await uploadBlock(config, block, this.weights);
      const y = batch.map(({ positions }, part) =>
        tf.tidy(() => blockForward(config, block, weights, x[part], positions).y),
      );
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
    return tf.tensor2d(embedRows(this.config, embedding, tokens), [tokens.length, hiddenSize]);
  }

  private async uploadHead(tied: Float32Array | null): Promise<{ norm: Tensor; head: Tensor2D }> {
    const { vocabSize, hiddenSize } = this.config;
    const head = tf.tensor2d(tied ?? (await this.weights.read(headName)), [vocabSize, hiddenSize]);
    return { norm: await uploadFinalNorm(this.config, this.weights), head };
  }
}

function wantedIds(targets: Int32Array): WantedAt {
  return (from, until) => ({ ids: tf.tensor1d(targets.subarray(from, until), 'int32') });
}

/** Reads a tensor back and disposes of it. */
function takeFrom(tensor: Tensor2D): Float32Array {
  // A plain JavaScript engine gives the tensor's own array, which is nobody else's from here on.
  const values = tensor.dataSync<'float32'>();
  tensor.dispose();
  return values;
}

function allFinite(values: Float32Array | Int32Array | Uint8Array): boolean {
  for (const value of values) if (!Number.isFinite(value)) return false;
  return true;
}

/** A block's outputs in the order in which they are computed, by the tensor that each comes out of. */
function suspects(kept: BlockActivations, y: Tensor2D): { name: string; values: Tensor2D }[] {
  return [
    { name: 'input_layernorm.weight', values: kept.normed },
    { name: 'self_attn.q_proj.weight', values: kept.queries },
    { name: 'self_attn.k_proj.weight', values: kept.keys },
    { name: 'self_attn.v_proj.weight', values: kept.values },
    { name: 'self_attn.o_proj.weight', values: kept.middle },
    { name: 'post_attention_layernorm.weight', values: kept.normedMiddle },
    { name: 'mlp.gate_proj.weight', values: kept.gate },
    { name: 'mlp.up_proj.weight', values: kept.up },
    { name: 'mlp.down_proj.weight', values: y },
  ];
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

function embedRows(config: DecoderConfig, embedding: Float32Array, tokens: Int32Array): Float32Array {
  const { hiddenSize, embeddingScale } = config;
  const rows = new Float32Array(tokens.length * hiddenSize);
  tokens.forEach((token, row) =>
    rows.set(embedding.subarray(token * hiddenSize, (token + 1) * hiddenSize), row * hiddenSize),
  );
  return embeddingScale === 1 ? rows : rows.map((value) => value * embeddingScale);
}

function addRowsByToken(config: DecoderConfig, into: Float32Array, rows: Float32Array, tokens: Int32Array): void {
  const { hiddenSize, embeddingScale } = config;
  tokens.forEach((token, row) => {
    for (let i = 0; i < hiddenSize; i++) {
      into[token * hiddenSize + i] += embeddingScale * rows[row * hiddenSize + i];
    }
  });
}
