/**
 * The weights in main memory as training sees them: latent weights, what the blocks' matrices become once quantized, and, of
 * the tensors that are trained, moments and the gradients of the step. The threads of the host (numeric/pool.ts) share the work.
 */
import { keptQuantizedBytes } from '../models/budgets.ts';
import type { DecoderConfig } from '../models/decoder-config.ts';
import type { WeightSource } from '../models/decoder.ts';
import { hostPool } from '../numeric/pool.ts';
import type { AdamWConstants, Moments, TrainedTensor } from '../numeric/train-tasks.ts';
import type { Quantizer } from './quantized-blocks.ts';
import { QuantizedBlocks } from './quantized-blocks.ts';
import { divide, rangesOf } from './ranges.ts';

/** What training a tensor takes besides the tensor; in shared memory. */
export interface TrainingArrays {
  readonly gradient: Float32Array;
  readonly moments: Moments;
}

export class HostWeights implements WeightSource {
  private trained: ReadonlyMap<string, TrainedTensor> = new Map();
  private readonly quantized: QuantizedBlocks | null;
  /** Gradients that this step has brought so far: the first sets the sum, the others are added. */
  private readonly brought = new Set<string>();

  /** @param latent in shared memory; those that are trained are changed in place by `update` */
  constructor(
    config: DecoderConfig,
    private readonly latent: ReadonlyMap<string, Float32Array>,
    quantizer: Quantizer | null,
    keptBytes = keptQuantizedBytes,
  ) {
    this.quantized = quantizer && new QuantizedBlocks(config, latent, quantizer, keptBytes);
  }

  /** Sets which tensors are trained, by name, and begins a step; gradients of others are passed over. */
  train(tensors: ReadonlyMap<string, TrainingArrays>): void {
    this.trained = new Map([...tensors].map(([name, own]) => [name, { ...own, weight: this.weight(name) }]));
    this.brought.clear();
  }

  /** A tensor as the forward pass sees it; a quantized one stays as it is until a matrix of another block is read. */
  async read(name: string): Promise<Float32Array> {
    return (await this.quantized?.read(name)) ?? this.weight(name);
  }

  addGradient(name: string, gradient: Float32Array): void {
    const sum = this.trained.get(name)?.gradient;
    if (!sum) return;
    if (!this.brought.has(name)) {
      sum.set(gradient);
      this.brought.add(name);
    } else for (let i = 0; i < sum.length; i++) sum[i] += gradient[i];
  }

  /** Forgets the gradients brought so far. */
  discardGradients(): void {
    this.brought.clear();
  }

  /** Norm of all gradients of the step together.  @throws Error when a trained tensor has none */
  async gradientNorm(): Promise<number> {
    for (const name of this.trained.keys()) if (!this.brought.has(name)) throw new Error(`no gradient of ${name}`);
    const arrays = [...this.trained.values()].map(({ gradient }) => gradient);
    const pool = hostPool();
    const shares = divide(
      arrays.map((array) => ({ item: array, size: array.length })),
      pool.threads,
    );
    const sums = new Map<Float32Array, number>();
    await Promise.all(
      shares.map(async (share) => {
        const part = await pool.run('squareSums', share);
        share.forEach((array, index) => sums.set(array, part[index]));
      }),
    );
    // Added in the order of the tensors, so that the result does not depend on the threads.
    return Math.sqrt(arrays.reduce((sum, array) => sum + (sums.get(array) as number), 0));
  }

  /** Takes an AdamW step with the gradients brought, and begins the next step. */
  async update(adamW: AdamWConstants): Promise<void> {
    const pool = hostPool();
    const units = [...this.trained.values()].map((tensor) => ({ tensor, units: tensor.weight.length, size: 1 }));
    await Promise.all(rangesOf(units, pool.threads).map((ranges) => pool.run('updateWeights', { ranges, adamW })));
    this.quantized?.forget();
    this.brought.clear();
  }

  /** The first tensor, in the order of the backward pass, whose gradient has a value that is not finite. */
  firstNotFinite(): { block: number | null; tensor: string; what: 'gradient' } | undefined {
    const isNotFinite = (value: number): boolean => !Number.isFinite(value);
    const tensor = [...this.brought].find((name) => this.trained.get(name)?.gradient.some(isNotFinite));
    if (tensor === undefined) return undefined;
    const [, block] = /^model\.layers\.(\d+)\./.exec(tensor) ?? [];
    return { block: block === undefined ? null : Number(block), tensor, what: 'gradient' };
  }

  private weight(name: string): Float32Array {
    const weight = this.latent.get(name);
    if (!weight) throw new Error(`the model has no tensor ${name}`);
    return weight;
  }
}
