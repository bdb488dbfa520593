/**
 * Training of latent weights through a quantizer, end to end (Cui & Wang 2024, algorithm 1): in the forward pass the linear
 * layers are what they would be once quantized, in the backward pass the quantizer counts as the identity, and AdamW
 * updates every parameter. Without a quantizer the same loop trains a model in float32.
 */
import type { DecoderConfig } from '../models/decoder-config.ts';
import { isLinear, tensorShapes } from '../models/decoder-config.ts';
import { Decoder } from '../models/decoder.ts';
import type { WeightSource } from '../models/decoder.ts';
import type { Cherries, Grid } from '../numeric/quantizer.ts';
import { fakeQuant, noCherries } from '../numeric/quantizer.ts';
import type { AdamWSettings, Moments } from './adamw.ts';
import { adamWStep, clippingScale, createMoments } from './adamw.ts';
import type { ScheduleSettings } from './schedule.ts';
import { learningRateAt } from './schedule.ts';

/** Tokens run through the model at once; a larger batch is summed over several such runs. */
const tokensAtOnce = 2048;

export interface TrainOptions {
  readonly config: DecoderConfig;
  /** Null trains without rounding. */
  readonly quantizer: { readonly grid: Grid; readonly cherries: ReadonlyMap<string, Cherries> } | null;
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

/** Everything a checkpoint must hold to go on exactly. Arrays are updated in place. */
export interface TrainState {
  readonly latent: ReadonlyMap<string, Float32Array>;
  readonly moments: ReadonlyMap<string, Moments>;
  readonly records: StepRecord[];
}

export function createTrainState(latent: ReadonlyMap<string, Float32Array>): TrainState {
  const moments = new Map([...latent].map(([name, weight]) => [name, createMoments(weight.length)]));
  return { latent, moments, records: [] };
}

export class Trainer {
  private readonly gradients: Map<string, Float32Array>;
  private readonly quantized: QuantizedView;
  private readonly decoder: Decoder;
  private readonly teacher: Decoder | null;

  constructor(
    private readonly options: TrainOptions,
    readonly state: TrainState,
  ) {
    this.gradients = new Map([...state.latent].map(([name, weight]) => [name, new Float32Array(weight.length)]));
    this.quantized = new QuantizedView(options, state.latent);
    this.decoder = new Decoder(options.config, this.quantized);
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
    const atOnce = Math.max(1, Math.floor(tokensAtOnce / length));

    for (const gradient of this.gradients.values()) gradient.fill(0);
    let loss = 0;
    for (let from = 0; from < batchSize; from += atOnce) {
      const part = windows.slice(from, from + atOnce);
      const add = (name: string, gradient: Float32Array): void =>
        addInto(this.gradients.get(name) as Float32Array, gradient);
      loss += await this.decoder.lossAndGradients(part, 1 / predicted, add, this.teacher);
    }
    loss /= predicted;
    const { norm, scale } = clippingScale(this.gradients.values(), options.maxGradNorm);
    if (!Number.isFinite(loss) || !Number.isFinite(norm)) throw this.divergence(loss, norm);

    const learningRate = learningRateAt(step, schedule);
    for (const [name, weight] of state.latent) {
      const gradient = this.gradients.get(name) as Float32Array;
      adamWStep(weight, gradient, state.moments.get(name) as Moments, options.adamW, learningRate, scale, step + 1);
    }
    this.quantized.invalidate();
    const record = { step: step + 1, loss, learningRate, gradientNorm: norm };
    state.records.push(record);
    return record;
  }

  private divergence(loss: number, norm: number): Error {
    const culprit = [...this.gradients].find(([, gradient]) => gradient.some((value) => !Number.isFinite(value)));
    return new Error(
      `Training diverged at step ${this.step + 1}: loss ${loss}, gradient norm ${norm}` +
        `${culprit ? `, first in ${culprit[0]}` : ''}. A lower learningRate than ${this.options.schedule.peak} usually mends this.`,
    );
  }
}

/** The latent weights as the forward pass sees them; each linear layer is quantized once per step. */
class QuantizedView implements WeightSource {
  private readonly buffers = new Map<string, Float32Array>();
  private readonly valid = new Set<string>();
  private readonly shapes: Map<string, number[]>;

  constructor(
    private readonly options: TrainOptions,
    private readonly latent: ReadonlyMap<string, Float32Array>,
  ) {
    this.shapes = tensorShapes(options.config);
  }

  read(name: string): Float32Array {
    const { quantizer } = this.options;
    const weight = this.latent.get(name) as Float32Array;
    if (!quantizer || !isLinear(name)) return weight;
    let buffer = this.buffers.get(name);
    if (!buffer) this.buffers.set(name, (buffer = new Float32Array(weight.length)));
    if (!this.valid.has(name)) {
      const columns = (this.shapes.get(name) as number[])[1];
      fakeQuant(weight, columns, quantizer.grid, quantizer.cherries.get(name) ?? noCherries, buffer);
      this.valid.add(name);
    }
    return buffer;
  }

  invalidate(): void {
    this.valid.clear();
  }
}

function addInto(sum: Float32Array, values: Float32Array): void {
  for (let i = 0; i < sum.length; i++) sum[i] += values[i];
}
