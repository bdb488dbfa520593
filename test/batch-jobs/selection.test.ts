import { describe, expect, it } from 'vitest';
import type { ImpactArtifact } from '../../batch-jobs/src/impact-artifact.ts';
import { cherryCount } from '../../batch-jobs/src/numeric/quantizer.ts';
import { createRandom } from '../../batch-jobs/src/numeric/random.ts';
import { columnMeans, topColumns } from '../../batch-jobs/src/numeric/top-columns.ts';
import { cherriesOf, needsImpact, selectCherries } from '../../batch-jobs/src/selection.ts';

const name = 'model.layers.0.self_attn.q_proj.weight';
const norm = 'model.layers.0.input_layernorm.weight';
const [rows, columns] = [5, 64];
const random = createRandom(11);
const draw = (size: number): Float32Array => Float32Array.from({ length: size }, () => random() - 0.4);
const weight = draw(rows * columns);
const impact = draw(rows * columns).map(Math.abs);
const magnitudes = draw(columns).map(Math.abs);
const weights = { read: () => weight };

/** What an artifact of this matrix would give; the quarter of each row as candidates. */
const artifact: ImpactArtifact = {
  sha256: '',
  windows: 1,
  candidateFraction: 1 / 4,
  matrices: new Map(),
  candidates: async () => ({ perRow: 16, columns: Uint16Array.from(topColumns(impact, columns, 16)) }),
  columnMeans: async () => columnMeans(impact, columns),
  activations: async () => ({ magnitudes, squares: magnitudes }),
  samples: async () => ({ index: new Uint32Array(0), impact: new Float32Array(0), magnitude: new Float32Array(0) }),
};

/** The highest of some scores, by sorting; ties to the lower column, ascending. */
const best = (scores: readonly number[], count: number): number[] =>
  scores
    .map((_, column) => column)
    .sort((a, b) => scores[b] - scores[a] || a - b)
    .slice(0, count)
    .sort((a, b) => a - b);
const rowOf = (values: Float32Array, row: number): number[] =>
  Array.from(values.subarray(row * columns, (row + 1) * columns), Math.abs);
const meanOf = (values: Float32Array): number[] =>
  Array.from({ length: columns }, (_, column) => {
    let sum = 0;
    for (let row = 0; row < rows; row++) sum += Math.abs(values[row * columns + column]);
    return sum;
  });
const everyRow = (of: (row: number) => number[]): Uint32Array =>
  Uint32Array.from(Array.from({ length: rows }, (_, row) => of(row)).flat());

describe('cherriesOf', () => {
  it.each([1 / 256, 0.05, 1 / 8, 0.25])(
    'takes, in row mode, the best of each row by its criterion, fraction %d',
    async (cherryFraction) => {
      const count = cherryCount(columns, cherryFraction);
      const expected = {
        impact: everyRow((row) => best(rowOf(impact, row), count)),
        weight: everyRow((row) => best(rowOf(weight, row), count)),
        activation: everyRow(() => best([...magnitudes], count)),
      };
      for (const criterion of ['impact', 'weight', 'activation'] as const) {
        const selection = { criterion, cherryMode: 'row' as const, cherryFraction };
        const cherries = await cherriesOf(name, [rows, columns], artifact, weights, selection);
        expect(cherries, criterion).toEqual({ perRow: count, columns: expected[criterion], shared: false });
      }
    },
  );

  it.each([1 / 256, 0.05, 1 / 8, 0.25])(
    'takes, in column mode, the columns of highest mean, fraction %d',
    async (cherryFraction) => {
      const count = cherryCount(columns, cherryFraction);
      const expected = {
        impact: best(meanOf(impact), count),
        weight: best(meanOf(weight), count),
        activation: best([...magnitudes], count),
      };
      for (const criterion of ['impact', 'weight', 'activation'] as const) {
        const selection = { criterion, cherryMode: 'column' as const, cherryFraction };
        const cherries = await cherriesOf(name, [rows, columns], artifact, weights, selection);
        expect(cherries, criterion).toEqual({
          perRow: count,
          columns: everyRow(() => expected[criterion]),
          shared: true,
        });
      }
    },
  );

  it('refuses a fraction that the artifact has too few columns for', async () => {
    const selection = { criterion: 'impact', cherryMode: 'row', cherryFraction: 0.4 } as const;
    await expect(cherriesOf(name, [rows, columns], artifact, weights, selection)).rejects.toThrow('24 cherries a row');
  });
});

describe('selectCherries', () => {
  it('chooses for linear layers alone, and needs no impact to choose by weight', async () => {
    const shapes = new Map([
      [norm, [columns]],
      [name, [rows, columns]],
    ]);
    const selection = { criterion: 'weight', cherryMode: 'row', cherryFraction: 1 / 8 } as const;
    expect(needsImpact(selection)).toBe(false);
    expect([...(await selectCherries(null, weights, shapes, selection)).keys()]).toEqual([name]);
    for (const criterion of ['impact', 'activation'] as const) {
      expect(needsImpact({ criterion })).toBe(true);
      await expect(selectCherries(null, weights, shapes, { ...selection, criterion })).rejects.toThrow(
        'needs the impact',
      );
    }
  });
});
