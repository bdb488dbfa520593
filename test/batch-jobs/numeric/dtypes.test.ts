import { describe, expect, it } from 'vitest';
import {
  bfloat16ToFloat32,
  float16ToFloat32,
  float32ToBfloat16,
  float32ToFloat16,
  roundToFloat16,
} from '../../../batch-jobs/src/numeric/dtypes.ts';
import { formatsGolden, goldenNumber } from '../../support/golden.ts';

const allBits = Uint16Array.from({ length: 0x10000 }, (_, bits) => bits);
const bitsOf = (values: Float32Array): Uint32Array => new Uint32Array(values.buffer, values.byteOffset, values.length);
const fromBits = (bits: ArrayLike<number>): Float32Array => new Float32Array(Uint32Array.from(bits).buffer);
const golden = formatsGolden();
const singles = fromBits(golden.float32Bits);

describe('float16', () => {
  it('decodes every finite half to sign * 2^exponent * fraction', () => {
    const values = float16ToFloat32(allBits);
    for (const bits of allBits) {
      const exponent = (bits >>> 10) & 31;
      if (exponent === 31) continue;
      const fraction = (bits & 0x3ff) / 1024;
      const magnitude = exponent === 0 ? fraction * 2 ** -14 : (1 + fraction) * 2 ** (exponent - 15);
      const expected = bits >= 0x8000 ? -magnitude : magnitude;
      if (!Object.is(values[bits], expected)) expect.fail(`0x${bits.toString(16)} is ${values[bits]}, not ${expected}`);
    }
  });

  it('decodes infinities and keeps NaN a NaN', () => {
    expect([...float16ToFloat32(Uint16Array.of(0x7c00, 0xfc00))]).toEqual([Infinity, -Infinity]);
    for (const bits of allBits.filter((b) => (b & 0x7c00) === 0x7c00 && (b & 0x3ff) !== 0)) {
      expect(float16ToFloat32(Uint16Array.of(bits))[0]).toBeNaN();
    }
  });

  it('brings all 65,536 halves back unchanged through float32, NaN payloads included', () => {
    expect(float32ToFloat16(float16ToFloat32(allBits))).toEqual(allBits);
  });

  it('rounds as NumPy does, ties to even, subnormals, overflow and signed zeros included', () => {
    expect([...float32ToFloat16(singles)]).toEqual(golden.float16Bits);
  });

  it('rounds halfway between neighbours to the even one and just beside it to the nearer', () => {
    const halves = float16ToFloat32(allBits);
    const ties: number[] = [];
    for (let bits = 0; bits < 0x7bff; bits++) ties.push((halves[bits] + halves[bits + 1]) / 2);
    const down = fromBits(bitsOf(Float32Array.from(ties)).map((bits) => bits - 1));
    const up = fromBits(bitsOf(Float32Array.from(ties)).map((bits) => bits + 1));
    const indices = allBits.subarray(0, 0x7bff);
    expect(float32ToFloat16(Float32Array.from(ties))).toEqual(indices.map((bits) => bits + (bits & 1)));
    expect(float32ToFloat16(down)).toEqual(indices);
    expect(float32ToFloat16(up)).toEqual(indices.map((bits) => bits + 1));
  });

  it('keeps a NaN whose payload does not fit a NaN', () => {
    expect([...float32ToFloat16(fromBits([0x7f800001, 0xff800001]))]).toEqual([0x7c01, 0xfc01]);
  });

  it('reads a view in the middle of a buffer', () => {
    const values = Float32Array.of(1, 2, 3, 4).subarray(1, 3);
    expect([...float32ToFloat16(values)]).toEqual([0x4000, 0x4200]);
  });
});

describe('bfloat16', () => {
  it('brings all 65,536 values back unchanged through float32', () => {
    expect(float32ToBfloat16(bfloat16ToFloat32(allBits))).toEqual(allBits);
  });

  it('is the upper half of a float32', () => {
    expect(bitsOf(bfloat16ToFloat32(allBits))).toEqual(Uint32Array.from(allBits, (bits) => bits * 0x10000));
  });

  it('rounds as ml_dtypes does, ties to even', () => {
    expect([...float32ToBfloat16(singles)]).toEqual(golden.bfloat16Bits);
  });

  it('keeps a NaN whose payload does not fit a NaN', () => {
    expect([...float32ToBfloat16(fromBits([0x7f800001, 0xffffffff]))]).toEqual([0x7fc0, 0xffff]);
  });
});

describe('roundToFloat16', () => {
  it('agrees with the conversion of float32 bits', () => {
    const rounded = float16ToFloat32(float32ToFloat16(singles));
    singles.forEach((value, i) => {
      if (!Object.is(roundToFloat16(value), rounded[i]))
        expect.fail(`${value}: ${roundToFloat16(value)}, not ${rounded[i]}`);
    });
  });

  it('rounds a double once, where going through float32 would round it twice', () => {
    expect(golden.doubles.map(roundToFloat16)).toEqual(golden.doublesAsFloat16.map(goldenNumber));
    const justAboveTie = 1 + 2 ** -11 + 2 ** -40;
    expect(Math.fround(justAboveTie)).toBe(1 + 2 ** -11);
    expect(roundToFloat16(justAboveTie)).toBe(1 + 2 ** -10);
  });

  it('keeps the sign of zero and passes what is not finite', () => {
    expect(roundToFloat16(-0)).toBe(-0);
    expect(roundToFloat16(-1e-9)).toBe(-0);
    expect(roundToFloat16(65519.9)).toBe(65504);
    expect(roundToFloat16(-65520)).toBe(-Infinity);
    expect(roundToFloat16(Infinity)).toBe(Infinity);
    expect(roundToFloat16(NaN)).toBeNaN();
  });
});
