import { describe, expect, it } from 'vitest';
import type { Measurement } from 'cherryq/contract';
import { missedLimits } from '../../../batch-jobs/src/evaluation/gate.ts';

const measured = (perplexity: number | null, divergence: number | null = null): Measurement => ({
  perplexity,
  divergence,
  tasks: [],
  sizeBytes: 1,
});
const original = measured(10, 0);

describe('limits on the quality', () => {
  it('are kept by a result at them, and by any where none is set', () => {
    expect(
      missedLimits({ perplexityRatio: 1.5, divergence: 0.25 }, { original, result: measured(15, 0.25) }),
    ).toBeNull();
    expect(missedLimits({}, { original, result: measured(1e9, 1e9) })).toBeNull();
  });

  it('are missed by perplexity, which the message gives with the original, the ratio and the limit', () => {
    expect(missedLimits({ perplexityRatio: 1.5 }, { original, result: measured(15.5) })).toMatch(
      /perplexity is 15\.500, 1\.550 times the original's 10\.000; evaluation\.limits\.perplexityRatio allows 1\.5\. .*kept apart/,
    );
  });

  it('are missed by divergence', () => {
    const message = missedLimits({ divergence: 0.1 }, { original, result: measured(10, 0.2) });
    expect(message).toMatch(
      /divergence from the original is 0\.2000 nats a token; evaluation\.limits\.divergence allows 0\.1/,
    );
  });

  it('are both named when both are missed', () => {
    const message = missedLimits({ perplexityRatio: 1, divergence: 0.1 }, { original, result: measured(11, 0.2) });
    expect(message).toMatch(/perplexityRatio allows 1; and its divergence/);
  });

  it('are missed by figures that are no numbers', () => {
    expect(missedLimits({ perplexityRatio: 1.5 }, { original, result: measured(NaN) })).not.toBeNull();
    expect(missedLimits({ divergence: 1.5 }, { original, result: measured(1, NaN) })).not.toBeNull();
  });
});
