import { describe, expect, it } from 'vitest';
import { schemeSchema, type JobResult } from 'cherryq/contract';
import {
  formatBytes,
  formatSeconds,
  recoveredShare,
  renderAnalysis,
  renderResult,
  renderTable,
  schemeLabel,
} from '../../../sdk/src/cli/format.ts';

const scheme = schemeSchema.parse({});
const unmeasured = { divergence: null, tasks: [] };
const result: JobResult = {
  engine: 'wasm',
  engineReason: 'the best one present',
  parameters: 1_000_000,
  baseline: { perplexity: 20, sizeBytes: 4_000_000, ...unmeasured },
  rounding: { perplexity: 30, sizeBytes: 500_000, ...unmeasured },
  compressed: { perplexity: 22, sizeBytes: 512_345, bitsPerWeight: 3.254, ...unmeasured },
  hf: null,
  peakHostBytes: null,
  trainedTokens: 1024,
  evaluatedTokens: 4096,
  seconds: 75,
  phaseSeconds: {},
};

describe('renderResult', () => {
  it('compares original, rounding and compressed', () => {
    expect(renderResult(result, scheme).split('\n')).toEqual([
      '                   size  ratio  perplexity  bits per weight',
      'original        4.00 MB  1.00x      20.000             32.0',
      'rounding         500 kB  8.00x      30.000                -',
      'cherryq w3g128   512 kB  7.81x      22.000             3.25',
    ]);
  });

  it('has a dash for what was not measured', () => {
    const unmeasured = { ...result, baseline: { ...result.baseline, perplexity: null }, rounding: null };
    expect(renderResult(unmeasured, scheme)).toContain('original        4.00 MB  1.00x           -');
  });
});

describe('recoveredShare', () => {
  it('is the part of the loss by rounding that was won back', () => {
    expect(recoveredShare(result)).toBeCloseTo(0.8);
    expect(recoveredShare({ ...result, rounding: null })).toBeNull();
    expect(recoveredShare({ ...result, rounding: { perplexity: 19, sizeBytes: 1, ...unmeasured } })).toBeNull();
  });
});

describe('formats', () => {
  it('write sizes, times and schemes', () => {
    expect([0, 999, 1000, 1_234_567, 8e9].map(formatBytes)).toEqual(['0 B', '999 B', '1.00 kB', '1.23 MB', '8.00 GB']);
    expect([0.25, 42, 75, 3700].map(formatSeconds)).toEqual(['0.3 s', '42 s', '1 m 15 s', '1 h 1 m']);
    expect(schemeLabel({ ...scheme, method: 'rtn', bits: 4, groupSize: 'row' })).toBe('rtn w4row');
    expect(
      renderTable(
        ['a', 'n'],
        [
          ['long', '1'],
          ['b', '22'],
        ],
      ),
    ).toBe('a      n\nlong   1\nb     22');
  });
});

describe('renderResult, where more was measured', () => {
  const tasks = [{ name: 'arc_easy', questions: 400, acc: 0.5125, accNorm: 0.5, accStderr: 0.025 }];
  const measured = { ...result, compressed: { ...result.compressed, divergence: 0.0312, tasks } };

  it('adds divergences and the scores of tasks', () => {
    const lines = renderResult(measured, scheme).split('\n');
    expect(lines).toContain('cherryq w3g128                      0.0312');
    expect(lines).toContain('arc_easy  cherryq w3g128        400  51.2 %  2.5    50.0 %');
  });
});

describe('renderAnalysis', () => {
  it('shows the median heterogeneity of each kind of layer, and overlaps against chance', () => {
    const score = (block: number, byImpact: number) => ({
      matrix: `model.layers.${block}.mlp.down_proj.weight`,
      byImpact,
      byWeight: 1.25,
      byActivation: 2,
    });
    const lines = renderAnalysis({
      engine: 'wasm',
      engineReason: 'the best one present',
      parameters: 1000,
      heterogeneity: [score(0, 30), score(1, 10), score(2, 20)],
      overlaps: [{ first: 'a, draw 1', second: 'b, draw 1', sameSet: false, share: 0.415, byChance: 1 / 256 }],
      seconds: 3,
      phaseSeconds: {},
    }).split('\n');
    expect(lines).toContain('mlp.down_proj               20.00       1.25           2.00');
    expect(lines).toContain('a, draw 1 / b, draw 1  41.5 %      0.4 %');
  });
});
