/**
 * Exact conversions between float32 and the 16-bit floats, on typed arrays. To 16 bits they round half to even, keep
 * subnormals and the sign of zero, overflow to infinity, and keep NaN a NaN; to float32 nothing is lost.
 * They work on the bits, so a NaN's payload passes unchanged.  @source IEEE 754-2019; the formats of safetensors
 */

/** The float types that weights come in, as safetensors names them. */
export type FloatDtype = 'F32' | 'F16' | 'BF16';

/** Bytes of one number. */
export const floatBytes: Readonly<Record<FloatDtype, number>> = { F32: 4, F16: 2, BF16: 2 };

/** Largest finite float16. */
export const float16Max = 65_504;

/** float32 bits of each of the 65,536 halves; made on first use. */
let halfToFloat: Uint32Array | undefined;

function makeHalfToFloat(): Uint32Array {
  const table = new Uint32Array(0x10000);
  const value = new Float32Array(1);
  const valueBits = new Uint32Array(value.buffer);
  for (let bits = 0; bits < 0x10000; bits++) {
    const sign = (bits & 0x8000) << 16;
    const exponent = (bits >>> 10) & 0x1f;
    const fraction = bits & 0x3ff;
    if (exponent === 0) {
      value[0] = fraction * 2 ** -24;
      table[bits] = sign | valueBits[0];
    } else {
      const wideExponent = exponent === 0x1f ? 0xff : exponent + 112;
      table[bits] = sign | (wideExponent << 23) | (fraction << 13);
    }
  }
  return table;
}

/** @param bits float16, one per element */
export function float16ToFloat32(bits: Uint16Array): Float32Array {
  halfToFloat ??= makeHalfToFloat();
  const values = new Float32Array(bits.length);
  const valueBits = new Uint32Array(values.buffer);
  for (let i = 0; i < bits.length; i++) valueBits[i] = halfToFloat[bits[i]];
  return values;
}

/** @returns float16 bits, one per element */
export function float32ToFloat16(values: Float32Array): Uint16Array {
  const valueBits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const bits = new Uint16Array(values.length);
  for (let i = 0; i < bits.length; i++) bits[i] = halfOf(valueBits[i]);
  return bits;
}

/** float16 bits of a float32 given by its bits. */
function halfOf(valueBits: number): number {
  const sign = (valueBits >>> 16) & 0x8000;
  const magnitude = valueBits & 0x7fffffff;
  if (magnitude >= 0x47800000) {
    // 2^16 and above, infinity, NaN (whose fraction must not become zero).
    if (magnitude <= 0x7f800000) return sign | 0x7c00;
    return sign | 0x7c00 | ((magnitude >>> 13) & 0x3ff || 1);
  }
  if (magnitude >= 0x38800000) {
    // Normal, 2^-14 and above; a carry out of the fraction raises the exponent, up to infinity.
    return sign | ((magnitude + 0xfff + ((magnitude >>> 13) & 1) - 0x38000000) >>> 13);
  }
  // Half of the least subnormal, 2^-25, is a tie with zero, and zero is even.
  if (magnitude <= 0x33000000) return sign;
  const shift = 126 - (magnitude >>> 23);
  const fraction = (magnitude & 0x7fffff) | 0x800000;
  const odd = (fraction >>> shift) & 1;
  return sign | ((fraction + (1 << (shift - 1)) - 1 + odd) >>> shift);
}

/** @param bits bfloat16, one per element */
export function bfloat16ToFloat32(bits: Uint16Array): Float32Array {
  const values = new Float32Array(bits.length);
  const valueBits = new Uint32Array(values.buffer);
  for (let i = 0; i < bits.length; i++) valueBits[i] = bits[i] << 16;
  return values;
}

/** @returns bfloat16 bits, one per element */
export function float32ToBfloat16(values: Float32Array): Uint16Array {
  const valueBits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const bits = new Uint16Array(values.length);
  for (let i = 0; i < bits.length; i++) {
    const wide = valueBits[i];
    const isNaN = (wide & 0x7fffffff) > 0x7f800000;
    // A NaN whose payload lies in the lower half alone must stay one: set the quiet bit.
    bits[i] = isNaN
      ? (wide >>> 16) | ((wide & 0x7f0000) === 0 ? 0x40 : 0)
      : (wide + 0x7fff + ((wide >>> 16) & 1)) >>> 16;
  }
  return bits;
}

const scalar = new Float64Array(1);
const scalarWords = new Uint32Array(scalar.buffer);
/** For each exponent from -14 to 15: added to a double and taken away again, it rounds to a multiple of 2^(exponent-10). */
const roundingConstants = Float64Array.from({ length: 30 }, (_, i) => 1.5 * 2 ** (i - 14 + 42));

/** The float16 nearest to a number of double precision, rounded once, half to even. */
export function roundToFloat16(x: number): number {
  const magnitude = Math.abs(x);
  // 65520 lies halfway between the largest float16, 65504, and 2^16.
  if (!(magnitude < 65520)) return magnitude >= 65520 ? Math.sign(x) * Infinity : NaN;
  scalar[0] = magnitude;
  const exponent = Math.max((scalarWords[1] >>> 20) - 1023, -14);
  const constant = roundingConstants[exponent + 14];
  const rounded = magnitude + constant - constant;
  return x < 0 || Object.is(x, -0) ? -rounded : rounded;
}

/** Numbers as they are in a file in float32; those of F32 are not copied where that can be avoided. */
export function toFloat32(bytes: Uint8Array, dtype: FloatDtype): Float32Array {
  // A typed array needs its buffer aligned, which bytes out of a store need not be.
  const { buffer, byteOffset } = bytes.byteOffset % floatBytes[dtype] === 0 ? bytes : bytes.slice();
  const count = bytes.length / floatBytes[dtype];
  if (dtype === 'F32') return new Float32Array(buffer, byteOffset, count);
  const bits = new Uint16Array(buffer, byteOffset, count);
  return dtype === 'F16' ? float16ToFloat32(bits) : bfloat16ToFloat32(bits);
}
