import { describe, expect, it } from 'vitest';
import { float16ToFloat32 } from '../../../batch-jobs/src/numeric/dtypes.ts';
import type { Cherries, Grid, LevelKind, QuantizedMatrix } from '../../../batch-jobs/src/numeric/quantizer.ts';
import {
  cherryCount,
  dequantizeMatrix,
  groupCount,
  noCherries,
  quantizeMatrix,
  storedBits,
} from '../../../batch-jobs/src/numeric/quantizer.ts';
import { fakeQuantizeRows } from '../../../batch-jobs/src/numeric/fake-quantize.ts';
import { createRandom } from '../../../batch-jobs/src/numeric/random.ts';
import { golden, unpack } from '../../support/golden.ts';
import { gridFor } from '../../support/grid.ts';

interface QuantizerGolden {
  matrices: Record<string, { rows: number; columns: number; weight: string }>;
  cases: {
    matrix: string;
    bits: number;
    groupSize: number | 'row';
    perRow: number;
    cherryColumns: string;
    qweight: string;
    scales: string;
    publishedScales: string;
    cherryWeight: string;
    values: string;
  }[];
}

interface VariantsGolden {
  columns: number;
  groupSize: number;
  weight: string;
  columnScales: string;
  cases: {
    bits: number;
    levels: LevelKind;
    aligned: boolean;
    shared: boolean;
    scaled: boolean;
    perRow: number;
    cherryColumns: string;
    qweight: string;
    scales: string;
    zeros: string;
    values: string;
  }[];
}

const { matrices, cases } = golden<QuantizerGolden>('quantizer');
const variants = golden<VariantsGolden>('quantizer_variants');
const bitWidths = [2, 3, 4, 8] as const;

function faked(
  weight: Float32Array,
  columns: number,
  grid: Grid,
  cherries: Cherries,
  columnScales: Float32Array | null = null,
): Float32Array {
  const into = new Float32Array(weight.length);
  const untilRow = weight.length / columns;
  fakeQuantizeRows({ weight, columns, fromRow: 0, untilRow, grid, cherries, columnScales, into });
  return into;
}

/** -0 and 0 are one value to a model. */
const withoutNegativeZero = (values: Float32Array): Float32Array => values.map((value) => value + 0);

describe.each(
  cases.map((one) => ({
    ...one,
    label: `${one.bits} bits, groups of ${one.groupSize}, ${one.perRow} cherries, ${one.matrix}`,
  })),
)('$label', (one) => {
  const { columns } = matrices[one.matrix];
  const weight = unpack(Float32Array, matrices[one.matrix].weight);
  const grid = gridFor(one.bits, one.groupSize === 'row' ? Infinity : one.groupSize);
  const cherries = { perRow: one.perRow, columns: unpack(Uint32Array, one.cherryColumns), shared: false };

  it('quantizes to the integers, scales and cherries of the published formulas', () => {
    const matrix = quantizeMatrix(weight, columns, grid, cherries);
    expect(matrix.qweight).toEqual(unpack(Uint8Array, one.qweight));
    expect(matrix.scales).toEqual(unpack(Uint16Array, one.scales));
    expect(matrix.cherryWeight).toEqual(unpack(Uint16Array, one.cherryWeight));
  });

  it('dequantizes to their values', () => {
    const values = dequantizeMatrix(quantizeMatrix(weight, columns, grid, cherries));
    expect(withoutNegativeZero(values)).toEqual(withoutNegativeZero(unpack(Float32Array, one.values)));
  });

  it('simulates in training exactly what is stored, but for the rounding of cherries', () => {
    const stored = dequantizeMatrix(quantizeMatrix(weight, columns, grid, cherries));
    for (let i = 0; i < cherries.columns.length; i++) {
      const at = Math.floor(i / cherries.perRow) * columns + cherries.columns[i];
      expect(Math.abs(stored[at] - weight[at])).toBeLessThanOrEqual(Math.abs(weight[at]) * 2 ** -11 + 2 ** -25);
      stored[at] = weight[at];
    }
    expect(withoutNegativeZero(faked(weight, columns, grid, cherries))).toEqual(withoutNegativeZero(stored));
  });

  it('has the published scale, rounded to float16', () => {
    const scales = float16ToFloat32(quantizeMatrix(weight, columns, grid, cherries).scales);
    unpack(Float64Array, one.publishedScales).forEach((published, i) => {
      const halfStep = Math.max(published * 2 ** -11, 2 ** -25);
      const leastScale = published < 2 ** -25 ? 2 ** -24 : 0;
      expect(Math.abs(scales[i] - published)).toBeLessThanOrEqual(Math.max(halfStep, leastScale));
    });
  });
});

describe.each(
  variants.cases.map((one) => ({
    ...one,
    label: [
      `${one.bits} bits, ${one.levels}, ${one.perRow} cherries`,
      one.aligned ? 'aligned groups' : 'compacted groups',
      one.shared ? 'in columns' : 'in rows',
      one.scaled ? 'scaled columns' : 'plain columns',
    ].join(', '),
  })),
)('$label', (one) => {
  const { columns, groupSize } = variants;
  const weight = unpack(Float32Array, variants.weight);
  const columnScales = one.scaled ? unpack(Float32Array, variants.columnScales) : null;
  const grid = gridFor(one.bits, groupSize, { levels: one.levels, aligned: one.aligned });
  const cherries = { perRow: one.perRow, columns: unpack(Uint32Array, one.cherryColumns), shared: one.shared };
  const matrix = quantizeMatrix(weight, columns, grid, cherries, columnScales);

  it('has the integers, scales and zero points that NumPy finds by the formulas', () => {
    expect(matrix.qweight).toEqual(unpack(Uint8Array, one.qweight));
    expect(matrix.scales).toEqual(unpack(Uint16Array, one.scales));
    expect(matrix.zeros).toEqual(unpack(Uint8Array, one.zeros));
  });

  it('reads back to their values, which training simulates', () => {
    const values = dequantizeMatrix(matrix);
    expect(withoutNegativeZero(values)).toEqual(withoutNegativeZero(unpack(Float32Array, one.values)));
    const simulated = faked(weight, columns, grid, cherries, columnScales);
    cherries.columns.forEach((column, i) => {
      const at = Math.floor(i / cherries.perRow) * columns + column;
      expect(simulated[at]).toBe(weight[at]);
      values[at] = weight[at];
    });
    expect(withoutNegativeZero(simulated)).toEqual(withoutNegativeZero(values));
  });
});

describe('the grid', () => {
  it.each([
    [2, 0.75],
    [3, 0.875],
    [4, 0.9375],
  ])('of %i bits has no zero and gives the largest weight back times %f', (bits, share) => {
    const weight = Float32Array.of(-1, 0, 0.5, 1);
    const values = faked(weight, 4, gridFor(bits, 4), noCherries);
    expect(values[0]).toBeCloseTo(-share, 4);
    expect(values[3]).toBeCloseTo(share, 4);
    expect(values.every((value) => value !== 0)).toBe(true);
    expect(new Set(values).size).toBeLessThanOrEqual(2 ** bits);
  });

  it('of 8 bits keeps zero and the largest weight', () => {
    const values = faked(Float32Array.of(-1, 0, 0.5, 1), 4, gridFor(8, 4), noCherries);
    expect(values[1] + 0).toBe(0);
    expect(values[3]).toBeCloseTo(1, 3);
  });

  it.each(bitWidths)('of %i bits stays finite and in range for rows of zeros and of the least float32', (bits) => {
    for (const weight of [new Float32Array(16), new Float32Array(16).fill(2 ** -149)]) {
      const matrix = quantizeMatrix(weight, 16, gridFor(bits, 8), noCherries);
      expect(matrix.scales.every((scale) => scale > 0)).toBe(true);
      const values = dequantizeMatrix(matrix);
      expect(values.every((value) => Math.abs(value) < 1e-5)).toBe(true);
    }
  });

  it.each(bitWidths)('of %i bits moves no weight by more than its share of the scale', (bits) => {
    const random = createRandom(6, bits);
    const weight = Float32Array.from({ length: 8 * 96 }, () => (random() - 0.5) ** 3);
    const values = faked(weight, 96, gridFor(bits, 32), noCherries);
    for (let group = 0; group < weight.length / 32; group++) {
      const own = weight.subarray(32 * group, 32 * group + 32);
      const largest = own.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      const scale = (largest + 1e-6) / (bits <= 4 ? 2 ** (bits - 1) : 127);
      own.forEach((value, i) =>
        expect(Math.abs(values[32 * group + i] - value)).toBeLessThanOrEqual(scale * (0.5 + 2 ** -8)),
      );
    }
  });
});

describe('cherries', () => {
  it.each([
    [172, 1],
    [256, 1],
    [512, 2],
    [2048, 8],
    [4096, 16],
    [5120, 16],
    [11_008, 40],
    [13_824, 48],
  ])('of a row of %i columns are %i at the published fraction', (columns, count) => {
    expect(cherryCount(columns, 1 / 256)).toBe(count);
  });

  it('pass through training untouched and do not count in the scale of their group', () => {
    const weight = Float32Array.of(0.1, 100, -0.2, 0.3, 0.15, -0.25, 0.05, -100);
    const cherries = { perRow: 2, columns: Uint32Array.of(1, 7), shared: false };
    const values = faked(weight, 8, gridFor(3, 3), cherries);
    expect([values[1], values[7]]).toEqual([100, -100]);
    expect(Math.max(...values.filter((_, i) => i !== 1 && i !== 7).map(Math.abs))).toBeLessThan(0.3);
  });

  it('are removed before groups are cut, so the last group is shorter', () => {
    expect(groupCount(4096, 16, gridFor(3, 128))).toBe(32);
    expect(groupCount(11_008, 40, gridFor(3, 128))).toBe(86);
    expect(groupCount(172, 1, gridFor(3, 64))).toBe(3);
    expect(groupCount(172, 1, gridFor(3, Infinity))).toBe(1);
  });
});

describe('storedBits', () => {
  const of = (bits: number, groupSize: number, columns: number, perRow: number): number =>
    storedBits({
      rows: 1,
      columns,
      grid: gridFor(bits, groupSize),
      cherries: { perRow, columns: new Uint32Array(perRow), shared: false },
    });

  it.each([
    [2, 128, 2.242, 2.125],
    [2, 64, 2.367, 2.25],
    [3, 128, 3.238, 3.125],
    [3, 64, 3.363, 3.25],
    [4, 128, 4.234, 4.125],
    [4, 64, 4.359, 4.25],
  ])(
    'at %i bits in groups of %i is %f with cherries and %f without, in rows of 4096',
    (bits, groupSize, row, plain) => {
      expect(of(bits, groupSize, 4096, 16)).toBeCloseTo(row, 3);
      expect(of(bits, groupSize, 4096, 0)).toBe(plain);
    },
  );

  it('counts indices of whole columns and scales of columns once for all rows, and zero points at the width of integers', () => {
    const cherries = { perRow: 16, columns: new Uint32Array(16 * 64), shared: true };
    const grid = gridFor(3, 128);
    const plain = storedBits({ rows: 64, columns: 4096, grid, cherries: { ...cherries, shared: false } });
    expect(plain - storedBits({ rows: 64, columns: 4096, grid, cherries })).toBeCloseTo((16 * 16 * 63) / 64 / 4096, 10);
    const asymmetric = { ...grid, levels: 'asymmetric' as const };
    const own = { rows: 64, columns: 4096, grid: asymmetric, cherries: noCherries };
    expect(storedBits(own)).toBeCloseTo(3 + (16 * 32 + 3 * 32) / 4096, 10);
    expect(storedBits({ ...own, columnScales: new Float32Array(4096) }) - storedBits(own)).toBeCloseTo(16 / 64, 10);
  });

  it('counts every byte that quantizeMatrix makes', () => {
    for (const { matrix: name, bits, groupSize, perRow, cherryColumns } of cases) {
      const { rows, columns } = matrices[name];
      const cherries = { perRow, columns: unpack(Uint32Array, cherryColumns), shared: false };
      const grid = gridFor(bits, groupSize === 'row' ? Infinity : groupSize);
      const matrix: QuantizedMatrix = quantizeMatrix(
        unpack(Float32Array, matrices[name].weight),
        columns,
        grid,
        cherries,
      );
      const packed = rows * Math.ceil(((columns - perRow) * bits) / 8);
      const bytes = packed + 2 * matrix.scales.length + 4 * matrix.cherryWeight.length;
      expect(storedBits(matrix)).toBeCloseTo((8 * bytes) / (rows * columns), 10);
    }
  });
});
