/**
 * The compressed weights dequantized to float16, as a plain Hugging Face model: opens everywhere, saves no space. Its values
 * are those of the native file rounded once more to float16.
 */
import { hostPool } from '../numeric/pool.ts';
import { cherriesOfRows, noCherries } from '../numeric/quantizer.ts';
import type { Exporter } from './exporter.ts';
import { halfPrecision } from './exporter.ts';
import { gridOf, nativeConfig } from './native-config.ts';
import type { RowWork } from './row-stream.ts';
import { RowStream, checkLargest, halfTensor, outputs } from './row-stream.ts';

export const hf: Exporter = {
  folder: 'hf/',
  metadata: { format: 'pt' },
  config: (model) => ({ ...model.configJson, ...halfPrecision }),
  tensors({ shapes, weights, scheme, keepsCherries, isQuantized, cherries, columnScales }) {
    const grid = gridOf(nativeConfig(scheme, keepsCherries));
    const works: RowWork<void>[] = [];
    const add = (work: RowWork<void>): number => works.push(work) - 1;
    const stream = new RowStream(weights, works);
    return [...shapes].map(([name, shape]) => {
      if (!isQuantized(name)) return halfTensor(stream, add, weights, name, shape);
      const [rows, columns] = shape;
      const own = cherries.get(name) ?? noCherries;
      const scales = columnScales.get(name) ?? null;
      const index = add({
        name,
        rows,
        columns,
        outRowBytes: 2 * columns,
        async run({ fromRow, ...chunk }, out) {
          const part = cherriesOfRows(own, fromRow, chunk.rows);
          const largest = await hostPool().run('roundRows', {
            ...chunk,
            grid,
            cherries: part,
            columnScales: scales,
            into: out,
          });
          await checkLargest(largest, weights, name, rows * columns);
        },
      });
      return { name, dtype: 'F16', shape, data: () => outputs(stream, index) };
    });
  },
};
