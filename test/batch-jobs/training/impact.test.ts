import { beforeAll, describe, expect, it } from 'vitest';
import { openEngine } from '../../../batch-jobs/src/engine/engine.ts';
import { isLinear } from '../../../batch-jobs/src/models/decoder-config.ts';
import { parseModelConfig } from '../../../batch-jobs/src/models/registry.ts';
import { measureImpact } from '../../../batch-jobs/src/training/impact.ts';
import { golden, unpack } from '../../support/golden.ts';
import { testEngine } from '../../support/engine.ts';

interface ImpactGolden {
  models: Record<
    string,
    {
      config: Record<string, unknown>;
      windows: number[][];
      weights: Record<string, string>;
      impact: Record<string, string>;
    }
  >;
}

const { models } = golden<ImpactGolden>('decoder');

beforeAll(async () => {
  await openEngine(testEngine);
});

describe('measureImpact', () => {
  it.each(Object.entries(models))('is the mean squared gradient that PyTorch has, model %s', async (_, model) => {
    const weights = new Map(Object.entries(model.weights).map(([name, text]) => [name, unpack(Float32Array, text)]));
    const windows = model.windows.map((window) => Int32Array.from(window));
    const done: number[] = [];
    const impact = await measureImpact(parseModelConfig(model.config), weights, windows, async (count) => {
      done.push(count);
    });
    expect(done).toEqual([3]);
    expect([...impact.keys()].sort()).toEqual([...weights.keys()].filter(isLinear).sort());
    for (const [name, text] of Object.entries(model.impact)) {
      const expected = unpack(Float32Array, text);
      const largest = Math.max(...expected);
      impact.get(name)?.forEach((value, i) => {
        expect(value).toBeGreaterThanOrEqual(0);
        expect(Math.abs(value - expected[i]) / largest, name).toBeLessThan(1e-5);
      });
    }
  });
});
