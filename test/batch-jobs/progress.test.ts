import { describe, expect, it } from 'vitest';
import { progressSchema } from 'cherryq/contract';
import { ProgressMeter } from '../../batch-jobs/src/progress.ts';

const plan = [
  { phase: 'impact' as const, units: 4, unitCost: 10, unitTokens: 5 },
  { phase: 'train' as const, units: 10, unitCost: 5, unitTokens: 20 },
  { phase: 'export' as const, units: 1, unitCost: 10, unitTokens: 0 },
];

const pause = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 5));

describe('ProgressMeter', () => {
  it('gives the share of the whole job that is done, by cost', () => {
    const meter = new ProgressMeter(plan);
    const fractions = [
      meter.at('impact', 0),
      meter.at('impact', 2),
      meter.at('train', 0),
      meter.at('train', 10),
      meter.at('export', 1),
    ];
    expect(fractions.map(({ fraction }) => fraction)).toEqual([0, 0.2, 0.4, 0.9, 1]);
    for (const progress of fractions) progressSchema.parse(progress);
  });

  it('gives the rate of the phase and the time left once something is done', async () => {
    const meter = new ProgressMeter(plan);
    expect(meter.at('impact', 0)).toMatchObject({ tokensPerSecond: null, secondsLeft: null, loss: null });
    await pause();
    const half = meter.at('impact', 2);
    expect(half.tokensPerSecond).toBeGreaterThan(0);
    expect(half.secondsLeft).toBeGreaterThan(0);
    expect(meter.at('train', 0, 2.5)).toMatchObject({ tokensPerSecond: null, loss: 2.5, step: 0, totalSteps: 10 });
    await pause();
    expect(meter.at('train', 10).tokensPerSecond).toBeGreaterThan(0);
    expect(meter.at('export', 0.5)).toMatchObject({ step: 0, tokensPerSecond: null });
  });

  it('takes what an earlier attempt had done neither for speed nor for time', async () => {
    const meter = new ProgressMeter(plan);
    expect(meter.at('train', 8)).toMatchObject({ fraction: 0.8, secondsLeft: null, tokensPerSecond: null });
    await pause();
    const { secondsLeft, tokensPerSecond } = meter.at('train', 9);
    // One unit in at least 5 ms; what is left costs three times as much.
    expect(secondsLeft).toBeGreaterThanOrEqual(0.012);
    expect(tokensPerSecond).toBeLessThanOrEqual(20 / 0.004);
  });

  it('is whole where nothing is planned', () => {
    expect(
      new ProgressMeter([{ phase: 'report', units: 0, unitCost: 1, unitTokens: 0 }]).at('report', 0).fraction,
    ).toBe(1);
  });
});
