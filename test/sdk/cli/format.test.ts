import { describe, expect, it } from 'vitest';
import { schemeSchema, type JobResult } from 'cherryq/contract';
import {
  formatBytes,
  formatSeconds,
  recoveredShare,
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
  trainedTokens: 1024,
  evaluatedTokens: 4096,
  seconds: 75,
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
