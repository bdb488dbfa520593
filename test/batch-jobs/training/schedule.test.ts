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

describe('publishedFloor', () => {
  it('is a quarter for 2 and 3 bits, a tenth for more', () => {
    expect([2, 3, 4, 8].map(publishedFloor)).toEqual([0.25, 0.25, 0.1, 0.1]);
  });
});
