import { describe, expect, it } from 'vitest';
import type { WeightRanges } from '../../../batch-jobs/src/exporters/exporter.ts';
import type { RowWork } from '../../../batch-jobs/src/exporters/row-stream.ts';
import { RowStream } from '../../../batch-jobs/src/exporters/row-stream.ts';
import { weightsInMemory } from '../../../batch-jobs/src/model-weights.ts';

const names = ['a', 'b', 'c'];
/** More than one part of each, the last one short. */
const [rows, columns] = [2600, 2048];
const values = new Map(
  names.map((name, index) => [name, Float32Array.from({ length: rows * columns }, (_, i) => (i % 9973) + index)]),
);
const rowSum = (name: string, row: number): number =>
  (values.get(name) as Float32Array)
    .subarray(row * columns, (row + 1) * columns)
    .reduce((sum, value) => sum + value, 0);

/** Sums each row, the later parts of a tensor sooner than the earlier ones. */
function summing(name: string): RowWork<number> {
  return {
    name,
    rows,
    columns,
    outRowBytes: 8,
    async run({ source, rows: count, fromRow }, out) {
      await new Promise((resolve) => setTimeout(resolve, 20 - (fromRow / rows) * 20));
      const numbers = new Float32Array(source.slice().buffer);
      const sums = Float64Array.from({ length: count }, (_, row) =>
        numbers.subarray(row * columns, (row + 1) * columns).reduce((sum, value) => sum + value, 0),
      );
      out.set(new Uint8Array(sums.buffer));
      return fromRow;
    },
  };
}

async function sumsOf(stream: RowStream<number>, index: number): Promise<number[]> {
  const sums: number[] = [];
  for await (const part of stream.parts(index)) {
    expect(part.fromRow).toBe(sums.length);
    expect(part.result).toBe(part.fromRow);
    sums.push(...new Float64Array(part.out.slice().buffer));
  }
  return sums;
}

const expected = (name: string): number[] => Array.from({ length: rows }, (_, row) => rowSum(name, row));

describe('a stream of rows', () => {
  it('gives every part once and in order, whichever is done first', async () => {
    const stream = new RowStream(weightsInMemory(values), names.map(summing));
    for (const [index, name] of names.entries()) expect(await sumsOf(stream, index)).toEqual(expected(name));
  });

  it('may be asked for a tensor again, or not for one', async () => {
    const stream = new RowStream(weightsInMemory(values), names.map(summing));
    for (const index of [0, 2, 1, 1]) expect(await sumsOf(stream, index)).toEqual(expected(names[index]));
  });

  it('goes on after a reader that left in the middle', async () => {
    const stream = new RowStream(weightsInMemory(values), names.map(summing));
    for await (const part of stream.parts(0)) if (part.fromRow > 0) break;
    expect(await sumsOf(stream, 1)).toEqual(expected('b'));
  });

  it('throws what went wrong at its turn, and nothing of what was begun beyond it', async () => {
    const memory = weightsInMemory(values);
    const failing: WeightRanges = {
      dtype: memory.dtype,
      async read(name, start, into) {
        if (name !== 'a') throw new Error(`${name} cannot be read`);
        return memory.read(name, start, into);
      },
    };
    const stream = new RowStream(failing, names.map(summing));
    expect(await sumsOf(stream, 0)).toEqual(expected('a'));
    await expect(sumsOf(stream, 1)).rejects.toThrow('b cannot be read');
  });

  it('reads only a few parts ahead', async () => {
    const memory = weightsInMemory(values);
    let readBytes = 0;
    const counting: WeightRanges = {
      dtype: memory.dtype,
      read(name, start, into) {
        readBytes += into.length;
        return memory.read(name, start, into);
      },
    };
    const many = Array.from({ length: 40 }, () => summing('a'));
    const reader = new RowStream(counting, many).parts(0);
    await reader.next();
    expect(readBytes).toBeGreaterThan(0);
    expect(readBytes).toBeLessThan(40 * 4 * rows * columns * 0.25);
    await reader.return(undefined);
  });
});
