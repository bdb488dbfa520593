import { describe, expect, it } from 'vitest';
import { packRows } from '../../../batch-jobs/src/numeric/bit-packing.ts';
import type { FloatDtype } from '../../../batch-jobs/src/numeric/dtypes.ts';
import {
  bfloat16ToFloat32,
  float16ToFloat32,
  float32ToBfloat16,
  float32ToFloat16,
  floatBytes,
} from '../../../batch-jobs/src/numeric/dtypes.ts';
import { compareRows, halveNumbers, quantizeRows, roundRows } from '../../../batch-jobs/src/numeric/quantize-tasks.ts';
import { packedSizes } from '../../../batch-jobs/src/numeric/packed-rows.ts';
import type { Cherries } from '../../../batch-jobs/src/numeric/quantizer.ts';
import { dequantizeMatrix, noCherries, quantizeMatrix } from '../../../batch-jobs/src/numeric/quantizer.ts';
import { createRandom } from '../../../batch-jobs/src/numeric/random.ts';
import { topCherries } from '../../support/cherries.ts';
import { gridFor } from '../../support/grid.ts';

const dtypes: FloatDtype[] = ['F32', 'F16', 'BF16'];

/** Numbers in a type: their bytes, and what they are in float32. */
function inType(values: Float32Array, dtype: FloatDtype): { source: Uint8Array; exact: Float32Array } {
  if (dtype === 'F32') return { source: bytesOf(values), exact: values };
  const bits = dtype === 'F16' ? float32ToFloat16(values) : float32ToBfloat16(values);
  return { source: bytesOf(bits), exact: dtype === 'F16' ? float16ToFloat32(bits) : bfloat16ToFloat32(bits) };
}

const bytesOf = (values: Float32Array | Uint16Array): Uint8Array =>
  new Uint8Array(values.buffer, values.byteOffset, values.byteLength);

/** What a row can hold that rounding could get wrong. */
const kinds: Record<string, (index: number, random: () => number) => number> = {
  normal: (_, random) => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random()),
  small: (_, random) => (random() - 0.5) * 2e-6,
  // Quotients that are whole or halves: 0.078125 is a float16, and the largest multiple makes it the scale.
  ties: (index) => ([-256, 254, 256, -254][index % 37] ?? (index % 37) - 18) * 0.0390625,
  thirds: (index) => ((index % 16) - 8) * 0.25,
  zeros: (index) => (index % 2 === 0 ? 0 : -0),
  mostly: (index) => (index % 50 === 7 ? 3 : index % 3 === 0 ? -1e-30 : 1e-38 * (index % 5)),
  subnormal: (index) => (index % 2 === 0 ? 1 : -1) * (index % 9) * 2 ** -24,
  tiny: (index, random) => (index % 64 === 0 ? 1 : -(2 ** -(40 + Math.floor(20 * random()))) * (1 + random())),
  huge: (_, random) => (random() - 0.5) * 130_000,
};

const shapes: [number, number, number][] = [
  [3, 64, 16],
  [5, 129, 128],
  [4, 37, 5],
  [2, 1000, Infinity],
  [1, 1, 1],
  [20, 2048, 128],
];

function matrixOf(kind: string, rows: number, columns: number): Float32Array {
  const random = createRandom(rows, columns);
  return Float32Array.from({ length: rows * columns }, (_, i) => kinds[kind](i, random));
}

function quantized(
  source: Uint8Array,
  dtype: FloatDtype,
  rows: number,
  columns: number,
  bits: number,
  groupSize: number,
  cherries: Cherries,
) {
  const grid = gridFor(bits, groupSize);
  const sizes = packedSizes(rows, columns, grid, cherries.perRow);
  const into = {
    packed: new Uint8Array(sizes.packed),
    scales: new Uint8Array(sizes.scales),
    zeros: new Uint8Array(sizes.zeros),
    cherryWeight: new Uint8Array(sizes.cherryWeight),
  };
  const largest = quantizeRows({ source, dtype, rows, columns, grid, cherries, columnScales: null, into });
  return { into, largest };
}

describe.each(dtypes)('rows of %s', (dtype) => {
  describe.each([2, 3, 4, 8])('at %i bits', (bits) => {
    it.each(Object.keys(kinds))('are rounded and packed bit for bit as in plain code: %s', (kind) => {
      for (const [rows, columns, groupSize] of shapes) {
        const { source, exact } = inType(matrixOf(kind, rows, columns), dtype);
        for (const perRow of columns > 8 ? [0, 3] : [0]) {
          const cherries = perRow === 0 ? noCherries : topCherries(exact, columns, perRow);
          const grid = gridFor(bits, groupSize);
          const expected = quantizeMatrix(exact, columns, grid, cherries);
          const { into, largest } = quantized(source, dtype, rows, columns, bits, groupSize, cherries);
          const where = `${rows} x ${columns}, groups of ${groupSize}, ${perRow} cherries`;
          expect(Buffer.compare(into.scales, bytesOf(expected.scales)), where).toBe(0);
          expect(Buffer.compare(into.packed, packRows(expected.qweight, rows, columns - perRow, bits)), where).toBe(0);
          expect(Buffer.compare(into.cherryWeight, bytesOf(expected.cherryWeight)), where).toBe(0);
          expect(largest, where).toBe(exact.reduce((most, value) => Math.max(most, Math.abs(value)), 0));

          const restored = dequantizeMatrix(expected);
          const copy = new Uint8Array(2 * rows * columns);
          roundRows({ source, dtype, rows, columns, grid, cherries, columnScales: null, into: copy });
          const before = perRow === 0 ? restored : withCherries(restored, exact, columns, cherries);
          expect(Buffer.compare(copy, bytesOf(float32ToFloat16(before))), where).toBe(0);

          const { error, norm } = compareRows({
            source,
            dtype,
            rows,
            columns,
            grid,
            cherries,
            columnScales: null,
            stored: into,
          });
          let plainError = 0;
          let plainNorm = 0;
          exact.forEach((value, i) => {
            plainError += (restored[i] - value) ** 2;
            plainNorm += value ** 2;
          });
          expect(Math.abs(error - plainError), where).toBeLessThanOrEqual(1e-12 * plainError);
          expect(Math.abs(norm - plainNorm), where).toBeLessThanOrEqual(1e-12 * plainNorm);
        }
      }
    });
  });

  it('become float16 as in plain code', () => {
    const random = createRandom(7);
    for (const count of [0, 1, 7, 40_000]) {
      const values = Float32Array.from({ length: count }, () => (random() - 0.5) * 2 ** Math.floor(60 * random() - 42));
      const { source, exact } = inType(values, dtype);
      const into = new Uint8Array(2 * count);
      const largest = halveNumbers({ source, dtype, into });
      expect(Buffer.compare(into, bytesOf(float32ToFloat16(exact)))).toBe(0);
      expect(largest).toBe(exact.reduce((most, value) => Math.max(most, Math.abs(value)), 0));
    }
  });

  it.each([NaN, Infinity, -Infinity])('that hold %d say so', (wrong) => {
    for (const index of [0, 3, 8, 99]) {
      const values = matrixOf('normal', 1, 100);
      values[index] = wrong;
      const { source } = inType(values, dtype);
      const { largest } = quantized(source, dtype, 1, 100, 3, 16, noCherries);
      const into = new Uint8Array(200);
      for (const magnitude of [largest, halveNumbers({ source, dtype, into })]) {
        expect(Number.isFinite(magnitude)).toBe(false);
      }
    }
  });

  it('are the same however they are divided', () => {
    const [rows, columns] = [48, 1000];
    const { source } = inType(matrixOf('normal', rows, columns), dtype);
    const whole = quantized(source, dtype, rows, columns, 3, 64, noCherries).into.packed;
    const rowBytes = columns * floatBytes[dtype];
    const parts = [0, 1, 20, 48].slice(1).map((until, i) => {
      const from = [0, 1, 20][i];
      return quantized(
        source.subarray(from * rowBytes, until * rowBytes),
        dtype,
        until - from,
        columns,
        3,
        64,
        noCherries,
      ).into.packed;
    });
    expect(Buffer.compare(Buffer.concat(parts), whole)).toBe(0);
  });
});

/** Cherries that are not rounded to float16 before. */
function withCherries(values: Float32Array, exact: Float32Array, columns: number, cherries: Cherries): Float32Array {
  const all = values.slice();
  cherries.columns.forEach((column, i) => {
    const at = Math.floor(i / cherries.perRow) * columns + column;
    all[at] = exact[at];
  });
  return all;
}
