/**
 * Training of latent weights through a quantizer, end to end (Cui & Wang 2024, algorithm 1): in the forward pass the linear
 * layers are what they would be once quantized, in the backward pass the quantizer counts as the identity, and AdamW
 * updates every parameter. Without a quantizer the same loop trains a model in float32.
 */
import type { DecoderConfig } from '../models/decoder-config.ts';
import { Decoder } from '../models/decoder.ts';
import type { WeightSource } from '../models/decoder.ts';
import { isShared, sharedCopy } from '../numeric/pool.ts';
import type { AdamWSettings, Moments } from './adamw.ts';
import { adamWConstants, clippingScale, createMoments } from './adamw.ts';
import type { Quantizer } from './host-weights.ts';
import { HostWeights } from './host-weights.ts';
import type { ScheduleSettings } from './schedule.ts';
import { learningRateAt } from './schedule.ts';
import { partsOf, tokensAtOnce, walkLength } from './walk.ts';

export interface TrainOptions {
  readonly config: DecoderConfig;
  /** Null trains without rounding. */
  readonly quantizer: Quantizer | null;
  /** The original, when its distribution is learned (distillation); null learns the text's next tokens. */
  readonly teacher: WeightSource | null;
  readonly schedule: ScheduleSettings;
  readonly adamW: AdamWSettings;
  readonly maxGradNorm: number;
  readonly batchSize: number;
  /** Windows of the batch at a position of the data: the `index`-th window since the start. */
  readonly windowAt: (index: number) => Int32Array;
}

/** One entry of the loss curve: mean over the batch's tokens, in nats. */
export interface StepRecord {
  readonly step: number;
  readonly loss: number;
  readonly learningRate: number;
  readonly gradientNorm: number;
}

/** Everything a checkpoint must hold to go on exactly. Arrays lie in shared memory and are updated in place. */
export interface TrainState {
  readonly latent: ReadonlyMap<string, Float32Array>;
  readonly moments: ReadonlyMap<string, Moments>;
  readonly records: StepRecord[];
}

/** @param weights arrays in shared memory are trained in place, others are copied */
export function createTrainState(weights: ReadonlyMap<string, Float32Array>): TrainState {
  const latent = new Map([...weights].map(([name, weight]) => [name, isShared(weight) ? weight : sharedCopy(weight)]));
  const moments = new Map([...latent].map(([name, weight]) => [name, createMoments(weight.length)]));
  return { latent, moments, records: [] };
}

export class Trainer {
  private readonly weights: HostWeights;
  private readonly decoder: Decoder;
  private readonly teacher: Decoder | null;

  constructor(
    private readonly options: TrainOptions,
    readonly state: TrainState,
  ) {
    this.weights = new HostWeights(options.config, state.latent, state.moments, options.quantizer);
    this.decoder = new Decoder(options.config, this.weights);
    this.teacher = options.teacher && new Decoder(options.config, options.teacher);
  }

  /** Steps done so far. */
  get step(): number {
    return this.state.records.length;
  }

  /**
   * One optimizer step.  @throws Error naming the step when the loss or the gradient is not finite; the state is then as
   * it was before the step
   */
  async advance(): Promise<StepRecord> {
    const { options, state, step } = this;
    const { batchSize, schedule } = options;
    const windows = Array.from({ length: batchSize }, (_, i) => options.windowAt(step * batchSize + i));
    const length = windows[0].length;
    const predicted = batchSize * (length - 1);
    const parts = partsOf(windows, Math.max(1, Math.floor(tokensAtOnce / length)));

    await this.weights.quantize();
    this.weights.discardGradients();
    let loss = 0;
    for (const walk of partsOf(parts, walkLength(options.config, parts[0].length * length))) {
      loss += await this.decoder.lossAndGradients(walk, {
        gradientScale: 1 / predicted,
        reduction: 'sum',
        consume: (name, gradient) => this.weights.addGradient(name, gradient),
        teacher: this.teacher,
      });
    }
    loss /= predicted;
    const norm = await this.weights.gradientNorm();
    if (!Number.isFinite(loss) || !Number.isFinite(norm)) throw this.divergence(loss, norm);

    const learningRate = learningRateAt(step, schedule);
    const scale = clippingScale(norm, options.maxGradNorm);
    await this.weights.update(adamWConstants(options.adamW, learningRate, scale, step + 1));
    const record = { step: step + 1, loss, learningRate, gradientNorm: norm };
    state.records.push(record);
    return record;
  }

  private divergence(loss: number, norm: number): Error {
    const culprit = this.weights.firstNotFinite();
    return new Error(
      `Training diverged at step ${this.step + 1}: loss ${loss}, gradient norm ${norm}` +
        `${culprit ? `, first in ${culprit}` : ''}. A lower learningRate than ${this.options.schedule.peak} usually mends this.`,
    );
  }
}
