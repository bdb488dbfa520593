/**
 * How far the layers of a written model are from the weights that they were made of: sqrt(sum (stored - weight)^2 / sum
 * weight^2). Both are read a part at a time, the written one from its file.
 */
import { hostPool } from '../numeric/pool.ts';
import type { Difference } from '../numeric/quantize-tasks.ts';
import type { WeightRanges } from './exporter.ts';
import type { RowChunk, RowWork } from './row-stream.ts';
import { RowStream } from './row-stream.ts';

/** A layer as it was written. */
export interface StoredRows {
  /** Bytes that `compare` needs for each row. */
  readonly rowBytes: number;
  /** @param chunk rows of the weights   @param memory shared, for what is read of the same rows */
  compare(chunk: RowChunk, memory: Uint8Array): Promise<Difference>;
}

/** @param layers by full name: shape, and the layer as it was written   @returns by full name; 0 for a layer of zeros */
export async function relativeErrors(
  weights: WeightRanges,
  layers: ReadonlyMap<string, { readonly shape: readonly number[]; readonly stored: StoredRows }>,
): Promise<Map<string, number>> {
  const works = [...layers].map(([name, { shape, stored }]): RowWork<Difference> => ({
    name,
    rows: shape[0],
    columns: shape[1],
    outRowBytes: stored.rowBytes,
    run: (chunk, memory) => stored.compare(chunk, memory),
  }));
  const stream = new RowStream(weights, works);
  const errors = new Map<string, number>();
  for (const [index, { name }] of works.entries()) {
    let error = 0;
    let norm = 0;
    for await (const { result } of stream.parts(index)) {
      error += result.error;
      norm += result.norm;
    }
    errors.set(name, norm === 0 ? 0 : Math.sqrt(error / norm));
  }
  return errors;
}

/** A layer that was written as plain numbers. */
export function plainRows(written: WeightRanges, name: string, columns: number): StoredRows {
  return {
    rowBytes: 2 * columns,
    async compare({ source, dtype, fromRow }, memory) {
      await written.read(name, fromRow * columns, memory);
      return hostPool().run('compareNumbers', { source, dtype, stored: memory });
    },
  };
}
