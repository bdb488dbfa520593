import { describe, expect, it } from 'vitest';
import { learningRateAt, publishedFloor } from '../../../batch-jobs/src/training/schedule.ts';

const settings = { peak: 2e-5, totalSteps: 400, warmupFraction: 0.05, floor: 0.25 };
const warmupSteps = 20;

describe('learningRateAt', () => {
  it('rises linearly over the warm-up, from above zero to the peak', () => {
    for (let step = 0; step <= warmupSteps; step++) {
      expect(learningRateAt(step, settings)).toBeCloseTo((2e-5 * (step + 1)) / (warmupSteps + 1), 15);
    }
    expect(learningRateAt(warmupSteps, settings)).toBe(2e-5);
  });

  it('follows 1 - (1 - r)(1 - floor) of the peak after it, with r the cosine factor', () => {
    for (const step of [21, 100, 210, 305, 399]) {
      const r = (1 + Math.cos((Math.PI * (step - warmupSteps)) / (400 - warmupSteps))) / 2;
      expect(learningRateAt(step, settings)).toBeCloseTo(2e-5 * (1 - (1 - r) * (1 - 0.25)), 15);
    }
    expect(learningRateAt(210, settings)).toBeCloseTo((2e-5 * (1 + 0.25)) / 2, 15);
  });

  it.each([0, 0.1, 0.25, 1])('ends at the floor of %f of the peak', (floor) => {
    expect(learningRateAt(400, { ...settings, floor })).toBeCloseTo(2e-5 * floor, 18);
    expect(learningRateAt(399, { ...settings, floor })).toBeGreaterThanOrEqual(2e-5 * floor);
  });

  it('never rises after the warm-up', () => {
    for (let step = warmupSteps; step < 400; step++) {
      expect(learningRateAt(step + 1, settings)).toBeLessThan(learningRateAt(step, settings));
    }
  });

  it.each([
    [1, 0.05],
    [1, 0],
    [3, 1],
    [2, 0.5],
  ])(
    'gives a positive rate of at most the peak at each of %i steps with a warm-up of %f',
    (totalSteps, warmupFraction) => {
      for (let step = 0; step < totalSteps; step++) {
        const rate = learningRateAt(step, { ...settings, totalSteps, warmupFraction });
        expect(rate).toBeGreaterThan(0);
        expect(rate).toBeLessThanOrEqual(2e-5);
      }
    },
  );
});

describe('the published run of 391 steps at 2e-5 with a warm-up of 5 %', () => {
  // The published trainer's rule on Hugging Face's cosine schedule, worked out apart from this code: step, 3 bits, 4 bits.
  it.each([
    [20, 2.0e-5, 2.0e-5],
    [21, 1.999973e-5, 1.999968e-5],
    [113, 1.779206e-5, 1.735047e-5],
    [205, 1.253175e-5, 1.103811e-5],
    [298, 7.207938e-6, 4.649526e-6],
    [390, 5.000269e-6, 2.000323e-6],
  ])('has at step %i the rate %f for 3 bits and %f for 4', (step, threeBits, fourBits) => {
    for (const [bits, rate] of [
      [3, threeBits],
      [4, fourBits],
    ]) {
      const own = { peak: 2e-5, totalSteps: 391, warmupFraction: 0.05, floor: publishedFloor(bits) };
      expect(learningRateAt(step, own) / rate).toBeCloseTo(1, 6);
    }
  });

  it('warms up over 20 steps, one step of the ramp ahead of it, so that no step has the rate 0', () => {
    const own = { peak: 2e-5, totalSteps: 391, warmupFraction: 0.05, floor: 0.25 };
    const rates = [0, 9, 19, 20].map((step) => learningRateAt(step, own));
    [9.5238095e-7, 9.5238095e-6, 1.9047619e-5, 2e-5].forEach((rate, i) => expect(rates[i] / rate).toBeCloseTo(1, 6));
  });
});

describe('publishedFloor', () => {
  it('is a quarter for 2 and 3 bits, a tenth for more', () => {
    expect([2, 3, 4, 8].map(publishedFloor)).toEqual([0.25, 0.25, 0.1, 0.1]);
  });
});
