import { describe, expect, it } from 'vitest';
import { packRows, packedBytes, unpackRows } from '../../../batch-jobs/src/numeric/bit-packing.ts';
import { createRandom } from '../../../batch-jobs/src/numeric/random.ts';

const packBits = (values: Uint8Array | Uint16Array, bits: number) => packRows(values, 1, values.length, bits);
const unpackBits = (packed: Uint8Array, bits: number, count: number) => unpackRows(packed, 1, count, bits);
const widths = [1, 2, 3, 4, 5, 6, 7, 8];

function randomValues(count: number, bits: number): Uint8Array {
  const random = createRandom(count, bits);
  return Uint8Array.from({ length: count }, () => Math.floor(random() * 2 ** bits));
}

describe('one row', () => {
  it('puts eight 3-bit values into three bytes as the published code does', () => {
    // v0:0-2, v1:3-5, v2: low 2 bits at 6-7, high bit in byte 1 bit 0, v3:1-3, v4:4-6, v5: low bit at 7, upper 2 in byte 2 ...
    const [v0, v1, v2, v3, v4, v5, v6, v7] = [5, 2, 6, 1, 7, 3, 4, 5];
    expect([...packBits(Uint8Array.of(v0, v1, v2, v3, v4, v5, v6, v7), 3)]).toEqual([
      v0 | (v1 << 3) | ((v2 & 3) << 6),
      (v2 >> 2) | (v3 << 1) | (v4 << 4) | ((v5 & 1) << 7),
      (v5 >> 1) | (v6 << 2) | (v7 << 5),
    ]);
  });

  it.each(widths)('is the little-endian number whose digits are the values, at %i bits', (bits) => {
    const values = randomValues(13, bits);
    let expected = 0n;
    values.forEach((value, i) => (expected |= BigInt(value) << BigInt(i * bits)));
    const packed = packBits(values, bits);
    expect(packed).toHaveLength(Math.ceil((13 * bits) / 8));
    expect(packed.reduceRight((number, byte) => (number << 8n) | BigInt(byte), 0n)).toBe(expected);
  });

  it.each(widths)('comes back unchanged at %i bits for every length', (bits) => {
    for (let count = 0; count <= 40; count++) {
      const values = randomValues(count, bits);
      expect(unpackBits(packBits(values, bits), bits, count)).toEqual(values);
    }
  });

  it('takes 16-bit elements', () => {
    expect(packBits(Uint16Array.of(1, 2, 3), 2)).toEqual(Uint8Array.of(0b111001));
  });

  it('refuses a value that does not fit, and widths outside 1 to 8', () => {
    expect(() => packBits(Uint8Array.of(1, 8), 3)).toThrow('Value 8 at index 1 does not fit into 3 bits');
    for (const bits of [0, 9, 2.5]) expect(() => packBits(Uint8Array.of(0), bits)).toThrow('bits must be 1 to 8');
    expect(() => unpackBits(new Uint8Array(1), 0, 8)).toThrow('bits must be 1 to 8');
  });
});

describe('packRows', () => {
  it.each(widths)('starts every row at a byte and comes back unchanged on ragged rows at %i bits', (bits) => {
    for (const columns of [1, 3, 7, 8, 29]) {
      const values = randomValues(5 * columns, bits);
      const packed = packRows(values, 5, columns, bits);
      const rowBytes = packedBytes(columns, bits);
      expect(packed).toHaveLength(5 * rowBytes);
      expect(packed.subarray(3 * rowBytes, 4 * rowBytes)).toEqual(
        packBits(values.subarray(3 * columns, 4 * columns), bits),
      );
      expect(unpackRows(packed, 5, columns, bits)).toEqual(values);
    }
  });

  it.each([2, 3, 4, 8])('is the same for long and for many rows as value by value, at %i bits', (bits) => {
    // Longer than what goes through a kernel at once; rows that end inside a byte, and rows that do not.
    for (const [rows, columns] of [
      [1, 400_001],
      [3, 140_003],
      [900, 333],
      [700, 512],
    ]) {
      const values = randomValues(rows * columns, bits);
      const packed = packRows(values, rows, columns, bits);
      expect(Buffer.compare(packed, packRows(Uint16Array.from(values), rows, columns, bits))).toBe(0);
      expect(Buffer.compare(unpackRows(packed, rows, columns, bits), values)).toBe(0);
    }
  });

  it('writes into memory that the caller has', () => {
    const values = randomValues(64, 3);
    const memory = new Uint8Array(new SharedArrayBuffer(24));
    expect(packRows(values, 2, 32, 3, memory)).toBe(memory);
    expect(Uint8Array.from(memory)).toEqual(packRows(values, 2, 32, 3));
    expect(() => packRows(values, 2, 32, 3, new Uint8Array(25))).toThrow('Expected 24 packed bytes');
  });

  it('names the first value that does not fit, wherever it is', () => {
    const values = new Uint8Array(300_000);
    values[299_999] = 255;
    values[280_001] = 16;
    expect(() => packRows(values, 1, 300_000, 4)).toThrow('Value 16 at index 280001 does not fit into 4 bits');
    expect(() => packRows(values, 300, 1000, 3)).toThrow('Value 16 at index 280001 does not fit into 3 bits');
    expect(() => packRows(values, 100_000, 3, 2)).toThrow('Value 16 at index 280001 does not fit into 2 bits');
  });

  it('refuses another shape', () => {
    expect(() => packRows(new Uint8Array(7), 2, 4, 3)).toThrow('Expected 8 values');
    expect(() => unpackRows(new Uint8Array(3), 2, 4, 3)).toThrow('Expected 4 packed bytes');
  });
});
