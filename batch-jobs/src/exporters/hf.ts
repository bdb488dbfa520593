/**
 * The compressed weights dequantized to float16, as a plain Hugging Face model: opens everywhere, saves no space. Its values
 * are those of the native file rounded once more to float16.
 */
import { float32ToFloat16 } from '../numeric/dtypes.ts';
import { dequantizeMatrix, noCherries, quantizeMatrix } from '../numeric/quantizer.ts';
import type { Exporter } from './exporter.ts';
import { halfPrecision } from './exporter.ts';
import { gridOf, nativeConfig } from './native.ts';

export const hf: Exporter = {
  folder: 'hf/',
  metadata: { format: 'pt' },
  config: (model) => ({ ...model.configJson, ...halfPrecision }),
  tensors(model) {
    const grid = gridOf(nativeConfig(model.scheme, model.keepsCherries));
    return [...model.shapes].map(([name, shape]) => ({
      name,
      dtype: 'F16',
      shape,
      data: async () => {
        const weight = model.weights.get(name) as Float32Array;
        const values = model.isQuantized(name)
          ? dequantizeMatrix(quantizeMatrix(weight, shape[1], grid, model.cherries.get(name) ?? noCherries))
          : weight;
        return new Uint8Array(float32ToFloat16(values).buffer);
      },
    }));
  },
};
