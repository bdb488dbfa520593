/** The end of a decoder: the final norm and the head, which goes over the tokens in chunks so that logits never exist whole. */
import * as tf from '@tensorflow/tfjs-core';
import type { Tensor, Tensor2D } from '@tensorflow/tfjs-core';
import type { Wanted } from '../engine/fused.ts';
import { rmsNorm, rmsNormBackward } from '../engine/fused.ts';
import type { WeightSource } from './block-weights.ts';
import { uploadFinalNorm } from './block-weights.ts';
import type { DecoderConfig } from './decoder-config.ts';
import { headName } from './decoder-config.ts';
import { klDivergences } from './divergence.ts';
import { headLoss, headLossBackward, linear } from './layers.ts';
import type { Part, Rows } from './parts.ts';
import { onDevice, rowsOf, toHost } from './parts.ts';

/** A model whose next-token distributions are looked at, and its hidden states after the last block, part by part. */
export interface Ending {
  readonly head: Head;
  readonly hidden: readonly Float32Array[];
}

export class Head {
  /** @param weight [vocabSize, hiddenSize]   @param logits held at once */
  private constructor(
    private readonly config: DecoderConfig,
    private readonly norm: Tensor,
    private readonly weight: Tensor2D,
    private readonly logits: number,
  ) {}

  /** @param tied the embedding, when it is the head's weight as well; else null   @param logits held at once */
  static async upload(
    config: DecoderConfig,
    source: WeightSource,
    tied: Float32Array | null,
    logits: number,
  ): Promise<Head> {
    const weight = tf.tensor2d(tied ?? (await source.read(headName)), [config.vocabSize, config.hiddenSize]);
    return new Head(config, await uploadFinalNorm(config, source), weight, logits);
  }

  dispose(): void {
    tf.dispose([this.norm, this.weight]);
  }

  /** Logits of the token after the last of `x`, [1, vocabSize]. */
  nextLogits(x: Tensor2D): Tensor2D {
    const [tokens] = x.shape;
    return tf.tidy(() => linear(this.normed(rowsOf(x, tokens - 1, tokens)), this.weight));
  }

  /** Cross-entropy of each token, in nats.  @param hidden [tokens, hiddenSize] */
  async losses(hidden: Float32Array, targets: Int32Array): Promise<Float32Array> {
    const normed = this.normedRows(hidden);
    const result = new Float32Array(targets.length);
    for (const { from, until } of this.chunks(targets.length)) {
      const losses = tf.tidy(() => headLoss(rowsOf(normed, from, until), this.weight, wantedIds(targets, from, until)));
      result.set(await toHost(losses), from);
    }
    normed.dispose();
    return result;
  }

  /**
   * How far the distribution after each token is from the original's, KL(original || this), in nats.
   * @param hidden,originalHidden [tokens, hiddenSize] of each model
   */
  async divergences(hidden: Float32Array, original: Head, originalHidden: Float32Array): Promise<Float32Array> {
    const normed = this.normedRows(hidden);
    const originalNormed = original.normedRows(originalHidden);
    const [tokens] = normed.shape;
    const result = new Float32Array(tokens);
    for (const { from, until } of this.chunks(tokens)) {
      const [expected, actual] = tf.tidy(() => [
        linear(rowsOf(originalNormed, from, until), original.weight),
        linear(rowsOf(normed, from, until), this.weight),
      ]);
      result.set(await klDivergences(expected, actual), from);
      tf.dispose([expected, actual]);
    }
    tf.dispose([normed, originalNormed]);
    return result;
  }

  /**
   * Loss of a batch and its gradients.
   * @param hidden of each part, after the last block; those on the device are disposed of
   * @param scale factor on the sum of the losses before it is differentiated   @param wantsWeight whether dWeight is needed
   * @param teacher whose distribution is wanted in place of the text's next tokens
   * @returns `dx` of each part lies where its `hidden` lay
   */
  async backward(
    batch: readonly Part[],
    hidden: readonly Rows[],
    scale: number,
    wantsWeight: boolean,
    teacher: Ending | null,
  ): Promise<{ loss: number; dx: Rows[]; dNorm: Float32Array; dWeight: Float32Array | null }> {
    const { config } = this;
    let loss = 0;
    let dWeight: Tensor2D | undefined;
    const dNorm = new Float32Array(config.hiddenSize);
    const dx: Rows[] = [];
    for (const [part, { targets }] of batch.entries()) {
      const x = onDevice(config, hidden[part]);
      const normed = this.normed(x);
      const taught = teacher && teacher.head.normedRows(teacher.hidden[part]);
      const dNormedChunks: Tensor2D[] = [];
      for (const { from, until } of this.chunks(targets.length)) {
        const soFar: Tensor2D | undefined = dWeight;
        const chunk: ReturnType<typeof headLossBackward> = tf.tidy(() => {
          const wanted =
            teacher && taught
              ? { logits: linear(rowsOf(taught, from, until), teacher.head.weight) }
              : wantedIds(targets, from, until);
          return headLossBackward(rowsOf(normed, from, until), this.weight, wanted, scale, wantsWeight, soFar);
        });
        for (const value of chunk.losses.dataSync()) loss += value;
        tf.dispose([soFar ?? [], chunk.losses]);
        dWeight = chunk.dHead;
        dNormedChunks.push(chunk.dx);
      }
      tf.dispose([normed, taught ?? []]);
      const own = tf.tidy(() => rmsNormBackward(x, this.norm, config.rmsNormEps, tf.concat(dNormedChunks, 0), null));
      tf.dispose([x, dNormedChunks]);
      (await toHost(own.dWeight)).forEach((value, i) => (dNorm[i] += value));
      dx.push(hidden[part] instanceof Float32Array ? await toHost(own.dx) : own.dx);
    }
    return { loss, dx, dNorm, dWeight: dWeight ? await toHost(dWeight) : null };
  }

  private normed(x: Tensor2D): Tensor2D {
    return rmsNorm(x, this.norm, this.config.rmsNormEps);
  }

  private normedRows(hidden: Float32Array): Tensor2D {
    return tf.tidy(() => this.normed(onDevice(this.config, hidden)));
  }

  private chunks(tokens: number): { from: number; until: number }[] {
    const size = Math.max(1, Math.min(tokens, Math.floor(this.logits / this.config.vocabSize)));
    const chunks = [];
    for (let from = 0; from < tokens; from += size) chunks.push({ from, until: Math.min(from + size, tokens) });
    return chunks;
  }
}

function wantedIds(targets: Int32Array, from: number, until: number): Wanted {
  return { ids: tf.tensor1d(targets.subarray(from, until), 'int32') };
}
