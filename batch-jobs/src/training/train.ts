/**
 * Training of latent weights through a quantizer, end to end (Cui & Wang 2024, algorithm 1): in the forward pass the linear
 * layers are what they would be once quantized, in the backward pass the quantizer counts as the identity, and AdamW
 * updates every parameter. Without a quantizer the same loop trains a model in float32.
 */
import { DivergedError } from '../errors.ts';
import type { DecoderConfig, ParameterKind } from '../models/decoder-config.ts';
import { parameterKindOf } from '../models/decoder-config.ts';
import { Decoder } from '../models/decoder.ts';
import type { NotFinite, WeightSource } from '../models/decoder.ts';
import { isShared, sharedCopy, sharedFloat32 } from '../numeric/pool.ts';
import type { Moments } from '../numeric/train-tasks.ts';
import type { AdamWSettings } from './adamw.ts';
import { adamWConstants, clippingScale } from './adamw.ts';
import { HostWeights } from './host-weights.ts';
import type { MomentsSettings } from './moments.ts';
import { createMoments, float32InMemory } from './moments.ts';
import type { Quantizer } from './quantized-blocks.ts';
import type { ScheduleSettings } from './schedule.ts';
import { learningRateAt } from './schedule.ts';
import { tokensAtOnce, walkLength } from '../models/budgets.ts';
import { partsOf } from '../models/parts.ts';

/** What training end to end and block by block have in common. */
export interface CommonTrainOptions {
  readonly config: DecoderConfig;
  /** Null trains without rounding. */
  readonly quantizer: Quantizer | null;
  readonly schedule: ScheduleSettings;
  readonly adamW: AdamWSettings;
  readonly maxGradNorm: number;
  /** Windows of a step. */
  readonly batchSize: number;
}

export interface TrainOptions extends CommonTrainOptions {
  /** The original, when its distribution is learned (distillation); null learns the text's next tokens. */
  readonly teacher: WeightSource | null;
  /** Windows of the batch at a position of the data: the `index`-th window since the start. */
  readonly windowAt: (index: number) => Int32Array;
}

/** One entry of the loss curve. */
export interface StepRecord {
  readonly step: number;
  /** Of training block by block: which one. */
  readonly block?: number;
  /** End to end: mean over the batch's tokens, in nats. Block by block: see block-wise.ts. */
  readonly loss: number;
  readonly learningRate: number;
  readonly gradientNorm: number;
}

/** Everything that training changes. Arrays lie in shared memory and are updated in place. */
export interface TrainState {
  readonly latent: ReadonlyMap<string, Float32Array>;
  /** End to end by name of the tensor, for those that are trained; block by block by name within the block. */
  readonly moments: ReadonlyMap<string, Moments>;
  /** Names of the tensors that may differ from the original: what a checkpoint must hold. */
  readonly changed: Set<string>;
  readonly records: StepRecord[];
  /** Gives back what the moments take outside of memory; they are gone then. */
  close(): Promise<void>;
}

export interface TrainStateOptions {
  /** Kinds of parameters to train; all if absent, as published. */
  readonly trainedParameters?: readonly ParameterKind[];
  readonly moments?: MomentsSettings;
}

/**
 * A state before the first step. Tensors that are not trained take nothing beyond themselves.
 * @param weights arrays in shared memory are trained in place, others are copied
 * @throws StorageFullError when the moments' folder has no room for them
 */
export async function createTrainState(
  weights: ReadonlyMap<string, Float32Array>,
  { trainedParameters, moments = float32InMemory }: TrainStateOptions = {},
): Promise<TrainState> {
  const isTrained = (name: string): boolean => trainedParameters?.includes(parameterKindOf(name)) ?? true;
  const trained = [...weights].filter(([name]) => isTrained(name));
  const store = await createMoments(new Map(trained.map(([name, { length }]) => [name, length])), moments);
  const changed = new Set(trained.map(([name]) => name));
  return { latent: inSharedMemory(weights), moments: store.moments, changed, records: [], close: store.close };
}

/** The same arrays where they can be shared, else copies. */
export function inSharedMemory(weights: ReadonlyMap<string, Float32Array>): Map<string, Float32Array> {
  return new Map([...weights].map(([name, weight]) => [name, isShared(weight) ? weight : sharedCopy(weight)]));
}

export class Trainer {
  private readonly weights: HostWeights;
  private readonly decoder: Decoder;
  private readonly teacher: Decoder | null;

  constructor(
    private readonly options: TrainOptions,
    readonly state: TrainState,
  ) {
    this.weights = new HostWeights(options.config, state.latent, options.quantizer);
    const arrays = [...state.moments].map(([name, moments]) => {
      const { length } = state.latent.get(name) as Float32Array;
      return [name, { moments, gradient: sharedFloat32(length) }] as const;
    });
    this.weights.train(new Map(arrays));
    this.decoder = new Decoder(options.config, this.weights);
    this.teacher = options.teacher && new Decoder(options.config, options.teacher);
  }

  /** Steps done so far. */
  get step(): number {
    return this.state.records.length;
  }

  /**
   * One optimizer step.  @throws DivergedError when the loss or the gradient is not finite; the state is then as it was
   * before the step
   */
  async advance(): Promise<StepRecord> {
    const { options, step } = this;
    const { batchSize } = options;
    const windows = Array.from({ length: batchSize }, (_, i) => options.windowAt(step * batchSize + i));
    const length = windows[0].length;
    const predicted = batchSize * (length - 1);
    const parts = partsOf(windows, Math.max(1, Math.floor(tokensAtOnce / length)));

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
    if (!Number.isFinite(loss) || !Number.isFinite(norm)) throw await this.divergence(loss, norm, parts);

    const record = { step: step + 1, loss, ...(await takeStep(this.weights, options, norm, step)) };
    this.state.records.push(record);
    return record;
  }

  private async divergence(loss: number, norm: number, parts: readonly Int32Array[][]): Promise<DivergedError> {
    const found = (await this.decoder.firstNotFinite(parts)) ?? this.weights.firstNotFinite() ?? null;
    return divergedError(found, this.step + 1, loss, norm, this.options.schedule.peak);
  }
}

/** Where a value was first met that is not finite; the `squared error` is that of what the tensor gives. */
export type Divergence = Omit<NotFinite, 'what'> & { what: NotFinite['what'] | 'gradient' | 'squared error' };

/** @param found null where no such value was found   @param step counted from 1 */
export function divergedError(
  found: Divergence | null,
  step: number,
  loss: number,
  norm: number,
  peak: number,
): DivergedError {
  const block = found === null || found.block === null ? '' : ` in block ${found.block}`;
  const place = found === null ? '' : `${block}: the ${found.what} of ${found.tensor} is not finite`;
  const message =
    `Training diverged at step ${step}${place} (loss ${loss}, gradient norm ${norm}). The checkpoint before is kept. ` +
    `A lower training.learningRate than ${peak} usually mends this.`;
  return new DivergedError(message, step, found?.block ?? null, found?.tensor ?? null);
}

/** Updates the weights with the gradients brought.  @param step of the schedule, counted from 0 */
export async function takeStep(
  weights: HostWeights,
  { schedule, adamW, maxGradNorm }: CommonTrainOptions,
  gradientNorm: number,
  step: number,
): Promise<Pick<StepRecord, 'learningRate' | 'gradientNorm'>> {
  const learningRate = learningRateAt(step, schedule);
  await weights.update(adamWConstants(adamW, learningRate, clippingScale(gradientNorm, maxGradNorm), step + 1));
  return { learningRate, gradientNorm };
}
