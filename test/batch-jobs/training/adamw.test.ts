import { describe, expect, it } from 'vitest';
import type { AdamWConstants } from '../../../batch-jobs/src/numeric/train-tasks.ts';
import type { Moments } from '../../../batch-jobs/src/numeric/train-tasks.ts';
import type { AdamWSettings } from '../../../batch-jobs/src/training/adamw.ts';
import { bfloat16ToFloat32, float32ToBfloat16 } from '../../../batch-jobs/src/numeric/dtypes.ts';
import { createRandom } from '../../../batch-jobs/src/numeric/random.ts';
import { squareSums, updateWeights } from '../../../batch-jobs/src/numeric/train-tasks.ts';
import { adamWConstants, clippingScale } from '../../../batch-jobs/src/training/adamw.ts';
import { createMoments, momentsInMemory } from '../../../batch-jobs/src/training/moments.ts';
import { golden } from '../../support/golden.ts';
import { plainAdamW, plainMoments } from '../../support/plain.ts';
import { temporaryFolder } from '../../support/temporary-store.ts';

/** One step of the kernel on a tensor. */
function adamWStep(weight: Float32Array, gradient: Float32Array, moments: Moments, adamW: AdamWConstants): void {
  const tensor = { weight, gradient, moments };
  updateWeights({ ranges: [{ tensor, from: 0, until: weight.length }], adamW });
}

interface AdamWGolden {
  maxNorm: number;
  rates: number[];
  start: number[][];
  gradients: number[][][];
  runs: { settings: AdamWSettings; norms: number[]; weights: number[][][] }[];
}

const { maxNorm, rates, start, gradients, runs } = golden<AdamWGolden>('adamw');

describe('AdamW with clipping', () => {
  it.each(runs)('takes the steps of torch.optim.AdamW with $settings', ({ settings, norms, weights }) => {
    const parameters = start.map((values) => Float32Array.from(values));
    const moments = start.map((values) => momentsInMemory(values.length));
    rates.forEach((rate, step) => {
      const own = gradients[step].map((values) => Float32Array.from(values));
      const norm = Math.sqrt(squareSums(own).reduce((sum, value) => sum + value, 0));
      const scale = clippingScale(norm, maxNorm);
      expect(norm).toBeCloseTo(norms[step], 6);
      expect(scale).toBe(norm > maxNorm ? maxNorm / (norm + 1e-6) : 1);
      const adamW = adamWConstants(settings, rate, scale, step + 1);
      parameters.forEach((weight, i) => adamWStep(weight, own[i], moments[i], adamW));
      parameters.forEach((weight, i) =>
        weight.forEach((value, j) => expect(value).toBeCloseTo(weights[step][i][j], 6)),
      );
    });
  });

  it('is reached by some steps of the golden run and not by others', () => {
    expect(runs[0].norms.some((norm) => norm > maxNorm)).toBe(true);
    expect(runs[0].norms.some((norm) => norm < maxNorm)).toBe(true);
  });

  it('leaves the gradient alone', () => {
    const gradient = Float32Array.of(3, 4);
    adamWStep(new Float32Array(2), gradient, momentsInMemory(2), adamWConstants(runs[0].settings, 0.1, 0.5, 1));
    expect(gradient).toEqual(Float32Array.of(3, 4));
  });
});

describe('AdamW on many weights', () => {
  const settings = { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.01 };
  // More than a chunk of the kernel, more than is read from a file at once, and odd.
  const length = 300_001;
  const random = createRandom(5);
  const draw = (): Float32Array => Float32Array.from({ length }, () => (random() - 0.5) * 10 ** (4 * random() - 4));
  const start = draw();
  const gradients = [draw(), draw(), draw()];

  /** Three steps of the kernel, in two uneven ranges. */
  function trained(moments: Moments): Float32Array {
    const weight = start.slice();
    gradients.forEach((gradient, step) => {
      const tensor = { weight, gradient, moments };
      const ranges = [0, 77_777, length].slice(0, 2).map((from, i, [, cut]) => {
        return { tensor, from, until: i === 0 ? cut : length };
      });
      updateWeights({ ranges, adamW: adamWConstants(settings, 1e-3, 0.5, step + 1) });
    });
    return weight;
  }

  /** The same steps written out, moments rounded to bfloat16 after each where asked. */
  function plain(dtype: 'float32' | 'bfloat16') {
    const weight = start.slice();
    const moments = plainMoments(length);
    gradients.forEach((gradient, step) => {
      plainAdamW(weight, gradient, moments, settings, 1e-3, 0.5, step + 1);
      if (dtype === 'float32') return;
      moments.first.set(bfloat16ToFloat32(float32ToBfloat16(moments.first)));
      moments.second.set(bfloat16ToFloat32(float32ToBfloat16(moments.second)));
    });
    return { weight, ...moments };
  }

  it.each(['float32', 'bfloat16'] as const)('with moments in %s gives the bits of the formula', (dtype) => {
    const moments = momentsInMemory(length, dtype) as { first: Float32Array | Uint16Array; second: typeof start };
    const expected = plain(dtype);
    expect(trained(moments)).toEqual(expected.weight);
    const stored = (values: Float32Array) => (dtype === 'float32' ? values : float32ToBfloat16(values));
    expect([...moments.first]).toEqual([...stored(expected.first)]);
    expect([...moments.second]).toEqual([...stored(expected.second)]);
  });

  it.each(['float32', 'bfloat16'] as const)('with moments of %s in a file gives the same bits', async (dtype) => {
    const lengths = new Map([
      ['before', 7],
      ['this', length],
      ['after', 9],
    ]);
    const store = await createMoments(lengths, { dtype, folder: temporaryFolder() });
    expect(trained(store.moments.get('this') as Moments)).toEqual(trained(momentsInMemory(length, dtype)));
    await store.close();
  });
});

describe('clippingScale', () => {
  it('leaves gradients of a smaller norm as they are', () => {
    expect(clippingScale(5, 10)).toBe(1);
    expect(clippingScale(0, 1)).toBe(1);
  });
});

describe('squareSums', () => {
  it('sums each array, whatever its length', () => {
    const arrays = [1, 2, 3, 5, 16_384, 40_001].map((length) => Float32Array.from({ length }, (_, i) => (i % 7) - 3));
    const sums = squareSums(arrays);
    arrays.forEach((values, i) => expect(sums[i]).toBe(values.reduce((sum, value) => sum + value * value, 0)));
  });

  it('does not hide a value that is not finite', () => {
    expect(squareSums([Float32Array.of(1, NaN), Float32Array.of(1, Infinity, 0)])).toEqual([NaN, Infinity]);
  });
});
