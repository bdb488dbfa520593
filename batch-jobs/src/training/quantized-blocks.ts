/**
 * What the blocks' matrices become once quantized, made on the host's threads when the walk over the blocks comes to them.
 * The first blocks keep theirs until the weights change, as far as there is room; all others share the memory of one block.
 */
import type { DecoderConfig } from '../models/decoder-config.ts';
import { blockPrefix, linearTensorNames, tensorShapes } from '../models/decoder-config.ts';
import { hostPool, sharedBytes, sharedCopy, sharedFloat32 } from '../numeric/pool.ts';
import type { Cherries, Grid } from '../numeric/quantizer.ts';
import { noCherries } from '../numeric/quantizer.ts';
import type { RoundedMatrix } from '../numeric/train-tasks.ts';
import { rangesOf } from './ranges.ts';

export interface Quantizer {
  readonly grid: Grid;
  /** By full name; a matrix that is missing has none. */
  readonly cherries: ReadonlyMap<string, Cherries>;
  /** By full name, one scale a column; a matrix that is missing has none. */
  readonly columnScales: ReadonlyMap<string, Float32Array>;
}

interface Block {
  /** By full name. */
  readonly matrices: ReadonlyMap<string, RoundedMatrix>;
  /** Whether its arrays are its own. */
  readonly isKept: boolean;
}

export class QuantizedBlocks {
  private readonly blocks: readonly Block[];
  private readonly blockOf = new Map<string, number>();
  /** Blocks whose arrays hold what their weights become, or will once the promise is kept. */
  private readonly ready = new Map<number, Promise<void>>();

  /** @param latent in shared memory   @param keptBytes for the blocks that keep theirs */
  constructor(
    config: DecoderConfig,
    latent: ReadonlyMap<string, Float32Array>,
    private readonly quantizer: Quantizer,
    keptBytes: number,
  ) {
    /** Of the blocks that keep nothing, by name within the block, since matrices of one name have one shape. */
    const shared = new Map<string, Float32Array>();
    const shapes = tensorShapes(config);
    let room = keptBytes;
    this.blocks = Array.from({ length: config.numHiddenLayers }, (_, block) => {
      const weights = linearTensorNames(config, block).map((name) => [name, latent.get(name) as Float32Array] as const);
      const bytes = weights.reduce((sum, [, weight]) => sum + weight.byteLength, 0);
      const isKept = bytes <= room;
      if (isKept) room -= bytes;
      const matrices = weights.map(([name, weight]): [string, RoundedMatrix] => {
        this.blockOf.set(name, block);
        const inBlock = name.slice(blockPrefix(block).length);
        const into = (isKept ? undefined : shared.get(inBlock)) ?? sharedFloat32(weight.length);
        if (!isKept) shared.set(inBlock, into);
        const columns = (shapes.get(name) as number[])[1];
        const { cherries = noCherries, scales = null } = inSharedMemory(quantizer, name);
        return [name, { weight, columns, cherries, columnScales: scales, into }];
      });
      return { matrices: new Map(matrices), isKept };
    });
  }

  /**
   * A matrix once quantized, or null for a tensor that is not. The array holds it until a matrix of another block is read, or
   * the weights change.
   */
  async read(name: string): Promise<Float32Array | null> {
    const block = this.blockOf.get(name);
    if (block === undefined) return null;
    let ready = this.ready.get(block);
    if (!ready) {
      const { matrices, isKept } = this.blocks[block];
      if (!isKept) for (const other of this.ready.keys()) if (!this.blocks[other].isKept) this.ready.delete(other);
      this.ready.set(block, (ready = this.quantize([...matrices.values()])));
    }
    await ready;
    return (this.blocks[block].matrices.get(name) as RoundedMatrix).into;
  }

  /** To be called when the weights have changed. */
  forget(): void {
    this.ready.clear();
  }

  private async quantize(matrices: readonly RoundedMatrix[]): Promise<void> {
    const pool = hostPool();
    const units = matrices.map((tensor) => ({
      tensor,
      units: tensor.weight.length / tensor.columns,
      size: tensor.columns,
    }));
    const { grid } = this.quantizer;
    await Promise.all(rangesOf(units, pool.threads).map((ranges) => pool.run('roundMatrices', { ranges, grid })));
  }
}

/** Copies that threads share; what is sent to them otherwise is copied each time. */
function inSharedMemory(
  { cherries, columnScales }: Quantizer,
  name: string,
): { cherries?: Cherries; scales?: Float32Array } {
  const own = cherries.get(name);
  const scales = columnScales.get(name);
  if (!own) return { scales: scales && sharedCopy(scales) };
  const columns = new Uint32Array(sharedBytes(own.columns.byteLength).buffer);
  columns.set(own.columns);
  return { cherries: { ...own, columns }, scales: scales && sharedCopy(scales) };
}
