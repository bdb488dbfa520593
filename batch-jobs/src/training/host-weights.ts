/**
 * The weights in main memory as training sees them: latent weights, moments, gradients of the step, and what each linear
 * layer becomes once quantized. The threads of the host (numeric/pool.ts) share the work on them.
 */
import type { DecoderConfig } from '../models/decoder-config.ts';
import { isLinear, tensorShapes } from '../models/decoder-config.ts';
import type { WeightSource } from '../models/decoder.ts';
import { hostPool, sharedFloat32 } from '../numeric/pool.ts';
import type { Cherries, Grid } from '../numeric/quantizer.ts';
import { noCherries } from '../numeric/quantizer.ts';
import type { AdamWConstants, RowRange, TrainedTensor } from '../numeric/train-tasks.ts';
import type { Moments } from './adamw.ts';

export interface Quantizer {
  readonly grid: Grid;
  readonly cherries: ReadonlyMap<string, Cherries>;
}

export class HostWeights implements WeightSource {
  private readonly tensors: ReadonlyMap<string, TrainedTensor>;
  /** Gradients that this step has brought so far: the first sets the sum, the others are added. */
  private readonly brought = new Set<string>();
  private isQuantized = false;

  /** @param latent, moments in shared memory; changed in place by `update` */
  constructor(
    config: DecoderConfig,
    latent: ReadonlyMap<string, Float32Array>,
    moments: ReadonlyMap<string, Moments>,
    private readonly quantizer: Quantizer | null,
  ) {
    const shapes = tensorShapes(config);
    this.tensors = new Map(
      [...latent].map(([name, weight]) => {
        const shape = shapes.get(name) as number[];
        const { first, second } = moments.get(name) as Moments;
        const rounded = quantizer !== null && isLinear(name);
        return [
          name,
          {
            weight,
            first,
            second,
            gradient: sharedFloat32(weight.length),
            columns: shape[shape.length - 1],
            quantized: rounded
              ? { into: sharedFloat32(weight.length), cherries: quantizer.cherries.get(name) ?? noCherries }
              : null,
          },
        ];
      }),
    );
  }

  /** A tensor as the forward pass sees it.  @throws Error before `quantize` has run */
  read(name: string): Float32Array {
    if (this.quantizer && !this.isQuantized) throw new Error('the weights have not been quantized yet');
    const tensor = this.tensors.get(name) as TrainedTensor;
    return tensor.quantized?.into ?? tensor.weight;
  }

  /** Sets what the linear layers become once quantized; after the first time, `update` does it. */
  async quantize(): Promise<void> {
    if (this.isQuantized || !this.quantizer) return;
    await this.run(null);
    this.isQuantized = true;
  }

  addGradient(name: string, gradient: Float32Array): void {
    const sum = (this.tensors.get(name) as TrainedTensor).gradient;
    if (!this.brought.has(name)) {
      sum.set(gradient);
      this.brought.add(name);
    } else for (let i = 0; i < sum.length; i++) sum[i] += gradient[i];
  }

  /** Norm of all gradients of the step together. */
  async gradientNorm(): Promise<number> {
    const arrays = [...this.tensors.values()].map(({ gradient }) => gradient);
    const { threads } = hostPool();
    const shares = divide(
      arrays.map((array) => ({ item: array, size: array.length })),
      threads,
    );
    const sums = new Map<Float32Array, number>();
    await Promise.all(
      shares.map(async (share) => {
        const part = await hostPool().run('squareSums', share);
        share.forEach((array, index) => sums.set(array, part[index]));
      }),
    );
    // Added in the order of the tensors, so that the result does not depend on the threads.
    return Math.sqrt(arrays.reduce((sum, array) => sum + (sums.get(array) as number), 0));
  }

  /** Takes an AdamW step with the gradients brought, quantizes anew, and begins the next step. */
  async update(constants: AdamWConstants): Promise<void> {
    await this.run(constants);
    this.brought.clear();
  }

  /** Forgets the gradients brought so far. */
  discardGradients(): void {
    this.brought.clear();
  }

  /** Name of the first tensor whose gradient has a value that is not finite. */
  firstNotFinite(): string | undefined {
    for (const [name, { gradient }] of this.tensors) {
      if (gradient.some((value) => !Number.isFinite(value))) return name;
    }
    return undefined;
  }

  private async run(adamW: AdamWConstants | null): Promise<void> {
    const grid = this.quantizer?.grid ?? null;
    const pool = hostPool();
    const shares = rowShares([...this.tensors.values()], pool.threads);
    await Promise.all(shares.map((ranges) => pool.run('updateRows', { ranges, adamW, grid })));
  }
}

/** Cuts the rows of all tensors, one after another, into `count` shares of about equal size. */
function rowShares(tensors: readonly TrainedTensor[], count: number): RowRange<TrainedTensor>[][] {
  const total = tensors.reduce((sum, { weight }) => sum + weight.length, 0);
  const shares: RowRange<TrainedTensor>[][] = Array.from({ length: count }, () => []);
  let before = 0;
  for (const tensor of tensors) {
    const { columns, weight } = tensor;
    const rows = weight.length / columns;
    let fromRow = 0;
    while (fromRow < rows) {
      const share = Math.min(count - 1, Math.floor(((before + fromRow * columns) * count) / total));
      const shareEnd = share === count - 1 ? Infinity : (total * (share + 1)) / count;
      const untilRow = Math.min(rows, Math.max(fromRow + 1, Math.ceil((shareEnd - before) / columns)));
      shares[share].push({ tensor, fromRow, untilRow });
      fromRow = untilRow;
    }
    before += weight.length;
  }
  return shares.filter((share) => share.length > 0);
}

/** Puts each item, largest first, into the share that has least. */
function divide<Item>(items: readonly { item: Item; size: number }[], count: number): Item[][] {
  const shares = Array.from({ length: count }, () => ({ items: [] as Item[], size: 0 }));
  for (const { item, size } of [...items].sort((a, b) => b.size - a.size)) {
    const least = shares.reduce((best, share) => (share.size < best.size ? share : best));
    least.items.push(item);
    least.size += size;
  }
  return shares.filter((share) => share.items.length > 0).map((share) => share.items);
}
