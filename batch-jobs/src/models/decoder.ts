/**
 * The streamed walk over a decoder (docs/architecture.md): only one block's weights are on the device at a time, and the head
 * goes over the tokens in chunks. Weights come from, and gradients go to, host memory, where hidden states wait between
 * blocks: what is on the device does not depend on how many blocks or windows there are.
 */
import * as tf from '@tensorflow/tfjs-core';
import type { Tensor2D } from '@tensorflow/tfjs-core';
import type { GradientConsumer, WeightSource } from './block-weights.ts';
import { addGradients, handOnGradients, linearInputs, uploadBlock } from './block-weights.ts';
import type { DecoderLimits, GradientReduction } from './budgets.ts';
import { defaultLimits, mostWindows } from './budgets.ts';
import type { DecoderConfig } from './decoder-config.ts';
import { embeddingName, finalNormName, headName } from './decoder-config.ts';
import type { Ending } from './head.ts';
import { Head } from './head.ts';
import type { BlockActivations, BlockGradients, BlockWeights, KeyValueCache } from './layers.ts';
import { blockBackward, blockForward, createPositions, disposePositions } from './layers.ts';
import type { NotFinite } from './not-finite.ts';
import { allFinite, notFiniteInBlock, notFiniteInHead } from './not-finite.ts';
import type { Part, Rows } from './parts.ts';
import { addRowsByToken, embedRows, onDevice, partsOf, toHost, withParts } from './parts.ts';
import { cacheHolds } from './rope.ts';

export type { GradientConsumer, NotFinite, WeightSource };

/** A matrix of a block by its full name, and what it is multiplied with, [tokens, in]; matrices that share it have one tensor. */
export interface LinearInputs {
  readonly name: string;
  readonly inputs: Tensor2D;
}

export interface GradientRequest {
  /** Factor on the sum of the tokens' losses of a part before it is differentiated. */
  readonly gradientScale: number;
  /** `sum` gives the gradient of every tensor, `sumOfSquares` that over windows, of the blocks' linear layers alone. */
  readonly reduction: GradientReduction;
  readonly consume: GradientConsumer;
  /** Model of the same shape whose distribution is learned in place of the text's next tokens. */
  readonly teacher?: Decoder | null;
  /** Called in the forward pass, once for each part, with each matrix's inputs (as `LinearInputs`), which are the decoder's. */
  readonly observe?: (name: string, inputs: Tensor2D) => void;
}

/** Windows before a block, one after another, and what the block should make of them: [windows x length, hiddenSize] each. */
export interface BlockExamples {
  readonly hidden: Float32Array;
  readonly target: Float32Array;
  readonly windows: number;
  readonly length: number;
}

/** Of each part, what a block's backward pass starts from: its activations on the device, or its input in host memory. */
type Step = BlockActivations | Float32Array;

/** Progress of a walk, in blocks; the head counts as one. */
type OnBlock = (done: number, total: number) => void;

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
    return withParts(config, parts, async (batch) => {
      const taught = teacher && (await teacher.ending(batch));
      const embedding = await this.weights.read(embeddingName);
      const { steps, hidden, lastBlock } = await this.forward(batch, embedding, observe);

      const tied = config.tieWordEmbeddings ? embedding : null;
      const head = await this.uploadHead(tied);
      const ending = await head.backward(batch, hidden, gradientScale, reduction === 'sum', taught);
      head.dispose();
      taught?.head.dispose();
      if (reduction === 'sum') {
        consume(finalNormName, ending.dNorm);
        if (ending.dWeight && !tied) consume(headName, ending.dWeight);
      }

      const dy = ending.dx;
      await this.backward(batch, steps, dy, lastBlock, reduction, consume);

      if (reduction === 'sum') {
        // A tied head's gradient is part of the embedding's.
        const dEmbedding = (tied && ending.dWeight) ?? new Float32Array(embedding.length);
        for (const [part, { inputs }] of batch.entries()) {
          const rows = dy[part];
          const values = rows instanceof Float32Array ? rows : rows.dataSync<'float32'>();
          addRowsByToken(config, dEmbedding, values, inputs);
        }
        consume(embeddingName, dEmbedding);
      }
      tf.dispose(dy.filter((rows) => rows instanceof tf.Tensor));
      return ending.loss;
    });
  }

  /**
   * Negative log-likelihood, in nats, of each predicted token: windows.length rows of length - 1.
   * Each block is uploaded once for all windows, which wait in host memory between blocks.
   */
  async losses(windows: readonly Int32Array[], windowsAtOnce: number, onBlock: OnBlock): Promise<Float32Array> {
    return withParts(this.config, partsOf(windows, windowsAtOnce), async (batch) => {
      const { head, hidden } = await this.ending(batch, onBlock);
      const losses: Float32Array[] = [];
      for (const [part, { targets }] of batch.entries()) losses.push(await head.losses(hidden[part], targets));
      head.dispose();
      onBlock(this.config.numHiddenLayers + 1, this.config.numHiddenLayers + 1);
      return joined(losses);
    });
  }

  /**
   * The same, and beside it how far the distribution over each predicted token is from another model's: KL(original || this),
   * in nats. Both models' hidden states wait in host memory.
   * @param original of the same shape
   */
  async divergences(
    windows: readonly Int32Array[],
    windowsAtOnce: number,
    original: Decoder,
    onBlock: OnBlock,
  ): Promise<{ losses: Float32Array; divergences: Float32Array }> {
    const blocks = this.config.numHiddenLayers;
    const total = 2 * blocks + 1;
    return withParts(this.config, partsOf(windows, windowsAtOnce), async (batch) => {
      const expected = await original.ending(batch, (done) => onBlock(done, total));
      const { head, hidden } = await this.ending(batch, (done) => onBlock(blocks + done, total));
      const losses: Float32Array[] = [];
      const divergences: Float32Array[] = [];
      for (const [part, { targets }] of batch.entries()) {
        losses.push(await head.losses(hidden[part], targets));
        divergences.push(await head.divergences(hidden[part], expected.head, expected.hidden[part]));
      }
      head.dispose();
      expected.head.dispose();
      onBlock(total, total);
      return { losses: joined(losses), divergences: joined(divergences) };
    });
  }

  /**
   * Walks forward and shows each block's matrices what they are multiplied with.
   * @param windows all of one length; their last tokens, which nothing follows, are left out
   * @param visit called once for each block with its matrices' inputs on all windows, which are the decoder's
   */
  async walkBlocks(
    windows: readonly Int32Array[],
    visit: (block: number, layers: readonly LinearInputs[]) => Promise<void>,
  ): Promise<void> {
    const { config } = this;
    await withParts(config, partsOf(windows, mostWindows(windows[0].length)), async (batch) => {
      const hidden = await this.embedParts(batch);
      for (let block = 0; block < config.numHiddenLayers; block++) {
        const weights = await uploadBlock(config, block, this.weights);
        const inputs: LinearInputs[][] = [];
        for (const [part, { positions }] of batch.entries()) {
          const { y, layers } = tf.tidy(() => {
            const { y, kept } = blockForward(config, block, weights, onDevice(config, hidden[part]), positions);
            return { y, layers: linearInputs(config, block, kept) };
          });
          hidden[part] = await toHost(y);
          inputs.push(layers);
        }
        tf.dispose(Object.values(weights));
        const layers = inputs.length === 1 ? inputs[0] : joinedInputs(inputs);
        try {
          await visit(block, layers);
        } finally {
          tf.dispose(layers.map(({ inputs }) => inputs));
        }
      }
    });
  }

  /** What goes into the first block: [windows x (length - 1), hiddenSize] of all tokens but the windows' last. */
  async embedded(windows: readonly Int32Array[]): Promise<Float32Array> {
    return withParts(this.config, [windows], async (batch) => (await this.embedParts(batch))[0]);
  }

  /** What a block makes of hidden states.  @param hidden [windows x length, hiddenSize], left as it is   @returns the same shape */
  async blockOutputs(block: number, hidden: Float32Array, windows: number, length: number): Promise<Float32Array> {
    const { config } = this;
    const outputs = new Float32Array(hidden.length);
    const size = length * config.hiddenSize;
    const weights = await uploadBlock(config, block, this.weights);
    const atOnce = Math.min(windows, mostWindows(length));
    for (let from = 0; from < windows; from += atOnce) {
      const until = Math.min(from + atOnce, windows);
      const positions = createPositions(config, until - from, length);
      const rows = hidden.subarray(from * size, until * size);
      const y = tf.tidy(() => blockForward(config, block, weights, onDevice(config, rows), positions).y);
      outputs.set(await toHost(y), from * size);
      disposePositions(positions);
    }
    tf.dispose(Object.values(weights));
    return outputs;
  }

  /**
   * A block against what it should make of some windows, which run at once.
   * @returns sum of the squared differences; its gradients, times `gradientScale`, go to `consume` for each of the block's tensors
   */
  async blockLossAndGradients(
    block: number,
    { hidden, target, windows, length }: BlockExamples,
    { gradientScale, consume }: Pick<GradientRequest, 'gradientScale' | 'consume'>,
  ): Promise<number> {
    const { config } = this;
    const weights = await uploadBlock(config, block, this.weights);
    const positions = createPositions(config, windows, length);
    const { squares, gradients } = tf.tidy(() => {
      const { y, kept } = blockForward(config, block, weights, onDevice(config, hidden), positions);
      const difference: Tensor2D = tf.sub(y, onDevice(config, target));
      const dy: Tensor2D = tf.mul(difference, 2 * gradientScale);
      const { gradients } = blockBackward(config, block, weights, kept, positions, dy);
      return { squares: tf.sum(tf.square(difference), 1), gradients };
    });
    disposePositions(positions);
    tf.dispose(Object.values(weights));
    handOnGradients(config, block, gradients, 'sum', consume);
    tf.dispose(Object.values(gradients));
    let loss = 0;
    for (const square of await toHost(squares)) loss += square;
    return loss;
  }

  /**
   * Where the forward pass first gives a value that is not finite: to be called once a loss is not, so that its error can say
   * where from. Null when all values are finite, as when only a gradient overflows.
   * @param parts as of `lossAndGradients`
   */
  async firstNotFinite(parts: readonly (readonly Int32Array[])[]): Promise<NotFinite | null> {
    const { config } = this;
    return withParts(config, parts, async (batch) => {
      const hidden = await this.embedParts(batch);
      if (!hidden.every(allFinite)) {
        const what = allFinite(await this.weights.read(embeddingName)) ? 'output' : 'values';
        return { block: null, tensor: embeddingName, what };
      }
      for (let block = 0; block < config.numHiddenLayers; block++) {
        const outputs = [...hidden];
        await this.runBlock(block, batch, outputs);
        const part = outputs.findIndex((rows) => !allFinite(rows));
        if (part >= 0) return notFiniteInBlock(config, block, this.weights, hidden[part], batch[part].positions);
        hidden.splice(0, hidden.length, ...outputs);
      }
      return notFiniteInHead(config, this.weights, batch, hidden, this.limits.logits);
    });
  }

  /** The same of one block.  @param hidden finite, else as of `blockOutputs` */
  async firstNotFiniteInBlock(
    block: number,
    hidden: Float32Array,
    windows: number,
    length: number,
  ): Promise<NotFinite | null> {
    const { config } = this;
    const size = length * config.hiddenSize;
    const atOnce = mostWindows(length);
    for (let from = 0; from < windows; from += atOnce) {
      const until = Math.min(from + atOnce, windows);
      const rows = hidden.subarray(from * size, until * size);
      if (allFinite(await this.blockOutputs(block, rows, until - from, length))) continue;
      const positions = createPositions(config, until - from, length);
      const found = await notFiniteInBlock(config, block, this.weights, rows, positions);
      disposePositions(positions);
      return found;
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
    let x = onDevice(config, embedRows(config, embedding, tokens));
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
    disposePositions(positions);
    const head = await this.uploadHead(config.tieWordEmbeddings ? embedding : null);
    const logits = head.nextLogits(x);
    head.dispose();
    x.dispose();
    return toHost(logits);
  }

  /**
   * Forward to the last block, whose weights stay on the device. Of each block and part it keeps all that the backward pass
   * needs as long as there is room, else the input, in host memory; its output then waits there as well.
   */
  private async forward(
    batch: readonly Part[],
    embedding: Float32Array,
    observe: GradientRequest['observe'],
  ): Promise<{ steps: Step[][]; hidden: Rows[]; lastBlock: BlockWeights }> {
    const { config } = this;
    const hidden: Rows[] = batch.map(({ inputs }) => embedRows(config, embedding, inputs));
    const steps: Step[][] = [];
    let room = this.limits.keptBytes;
    let weights: BlockWeights | null = null;
    for (let block = 0; block < config.numHiddenLayers; block++) {
      tf.dispose(Object.values(weights ?? {}));
      const own = (weights = await uploadBlock(config, block, this.weights));
      const ofBlock: Step[] = [];
      for (const [part, { positions }] of batch.entries()) {
        const input = hidden[part];
        const x = onDevice(config, input);
        const { y, step } = tf.tidy(() => {
          const { y, kept } = blockForward(config, block, own, x, positions);
          if (observe) for (const { name, inputs } of linearInputs(config, block, kept)) observe(name, inputs);
          return { y, step: bytesOf(kept) <= room ? kept : x };
        });
        if (step instanceof tf.Tensor) {
          ofBlock.push(input instanceof Float32Array ? input : await x.data<'float32'>());
          x.dispose();
          hidden[part] = await toHost(y);
        } else {
          ofBlock.push(step);
          room -= bytesOf(step);
          hidden[part] = y;
        }
      }
      steps.push(ofBlock);
    }
    return { steps, hidden, lastBlock: weights as BlockWeights };
  }

  /**
   * Backward through all blocks, each gradient handed on at once; disposes of the last block's weights and of all steps.
   * @param dy of the last block's output, replaced by that of the first block's input; waits where the steps do
   */
  private async backward(
    batch: readonly Part[],
    steps: Step[][],
    dy: Rows[],
    lastBlock: BlockWeights,
    reduction: GradientReduction,
    consume: GradientConsumer,
  ): Promise<void> {
    const { config } = this;
    let weights: BlockWeights | null = lastBlock;
    for (let block = config.numHiddenLayers - 1; block >= 0; block--) {
      const own: BlockWeights = (weights ??= await uploadBlock(config, block, this.weights));
      const ofBlock = steps.pop() as Step[];
      let sum: BlockGradients | null = null;
      for (const [part, { positions }] of batch.entries()) {
        const step = ofBlock[part];
        const dOutput = onDevice(config, dy[part]);
        const { dx, gradients } = tf.tidy(() => {
          const kept =
            step instanceof Float32Array
              ? blockForward(config, block, own, onDevice(config, step), positions).kept
              : step;
          return blockBackward(config, block, own, kept, positions, dOutput, reduction);
        });
        tf.dispose([dOutput, step instanceof Float32Array ? [] : Object.values(step)]);
        dy[part] = step instanceof Float32Array ? await toHost(dx) : dx;
        sum = sum ? addGradients(sum, gradients) : gradients;
      }
      tf.dispose(Object.values(own));
      weights = null;
      const gradients = sum as unknown as BlockGradients;
      handOnGradients(config, block, gradients, reduction, consume);
      tf.dispose(Object.values(gradients));
    }
  }

  /** Forward through all blocks, each uploaded once for all parts, which wait in host memory between blocks. */
  private async ending(batch: readonly Part[], onBlock: OnBlock = () => {}): Promise<Ending> {
    const { config } = this;
    const embedding = await this.weights.read(embeddingName);
    const hidden = batch.map(({ inputs }) => embedRows(config, embedding, inputs));
    for (let block = 0; block < config.numHiddenLayers; block++) {
      await this.runBlock(block, batch, hidden);
      onBlock(block + 1, config.numHiddenLayers + 1);
    }
    return { head: await this.uploadHead(config.tieWordEmbeddings ? embedding : null), hidden };
  }

  /** Replaces each part's hidden states by what a block makes of them. */
  private async runBlock(block: number, batch: readonly Part[], hidden: Float32Array[]): Promise<void> {
    const { config } = this;
    const weights = await uploadBlock(config, block, this.weights);
    for (const [part, { positions }] of batch.entries()) {
      const y = tf.tidy(() => blockForward(config, block, weights, onDevice(config, hidden[part]), positions).y);
      hidden[part] = await toHost(y);
    }
    tf.dispose(Object.values(weights));
  }

  private async embedParts(batch: readonly Part[]): Promise<Float32Array[]> {
    const embedding = await this.weights.read(embeddingName);
    return batch.map(({ inputs }) => embedRows(this.config, embedding, inputs));
  }

  private uploadHead(tied: Float32Array | null): Promise<Head> {
    return Head.upload(this.config, this.weights, tied, this.limits.logits);
  }
}

function bytesOf(activations: BlockActivations): number {
  return (
    4 *
    Object.values(activations)
      .flat()
      .reduce((sum, { size }) => sum + size, 0)
  );
}

function joined(parts: readonly Float32Array[]): Float32Array {
  const whole = new Float32Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** The inputs of all parts as one, part after part; tensors that are shared stay shared, and the parts' are disposed of. */
function joinedInputs(parts: readonly (readonly LinearInputs[])[]): LinearInputs[] {
  const whole = new Map<number, Tensor2D>();
  return parts[0].map(({ name, inputs: { id } }, layer) => {
    const inputs =
      whole.get(id) ??
      tf.concat2d(
        parts.map((layers) => layers[layer].inputs),
        0,
      );
    if (!whole.has(id)) tf.dispose(parts.map((layers) => layers[layer].inputs));
    whole.set(id, inputs);
    return { name, inputs };
  });
}
