/**
 * Host kernels in AssemblyScript, compiled to WebAssembly with SIMD by scripts/build.mjs: what training does to the weights
 * between two passes over the device, but for their rounding (round.ts). They work on chunks that numeric/train-tasks.ts copies into this module's memory.
 * Arithmetic is in double precision and rounded once to float32, as in test/support/plain.ts, which tests compare bit for bit.
 */

/**
 * AdamW, in place, two weights at a time; the formula is in training/adamw.ts. Pointers are to float32[length]; an odd
 * length touches one more element of each.
 */
export function adamW(
  weight: usize,
  gradient: usize,
  first: usize,
  second: usize,
  length: i32,
  gradientScale: f64,
  beta1: f64,
  beta2: f64,
  stepSize: f64,
  decay: f64,
  rootCorrection2: f64,
  epsilon: f64,
): void {
  const scales = f64x2.splat(gradientScale);
  const beta1s = f64x2.splat(beta1);
  const beta2s = f64x2.splat(beta2);
  const rest1 = f64x2.splat(1 - beta1);
  const rest2 = f64x2.splat(1 - beta2);
  const stepSizes = f64x2.splat(stepSize);
  const decays = f64x2.splat(decay);
  const roots = f64x2.splat(rootCorrection2);
  const epsilons = f64x2.splat(epsilon);
  for (let i: i32 = 0; i < length; i += 2) {
    const at = (<usize>i) << 2;
    const g = f64x2.mul(promote(gradient + at), scales);
    const m = f64x2.add(f64x2.mul(beta1s, promote(first + at)), f64x2.mul(rest1, g));
    const v = f64x2.add(f64x2.mul(beta2s, promote(second + at)), f64x2.mul(f64x2.mul(rest2, g), g));
    const step = f64x2.div(f64x2.mul(stepSizes, m), f64x2.add(f64x2.div(f64x2.sqrt(v), roots), epsilons));
    const w = f64x2.sub(f64x2.mul(promote(weight + at), decays), step);
    v128.store64_lane(first + at, demote(m), 0);
    v128.store64_lane(second + at, demote(v), 0);
    v128.store64_lane(weight + at, demote(w), 0);
  }
}

/** Sum of the squares of float32[length], in double precision, always added in the same order. */
export function squareSum(values: usize, length: i32): f64 {
  let even = f64x2.splat(0);
  let odd = f64x2.splat(0);
  const whole = length & ~3;
  let i: i32 = 0;
  for (; i < whole; i += 4) {
    const at = values + ((<usize>i) << 2);
    const a = promote(at);
    const b = promote(at + 8);
    even = f64x2.add(even, f64x2.mul(a, a));
    odd = f64x2.add(odd, f64x2.mul(b, b));
  }
  const both = f64x2.add(even, odd);
  let sum = f64x2.extract_lane(both, 0) + f64x2.extract_lane(both, 1);
  for (; i < length; i++) {
    const value = <f64>load<f32>(values + ((<usize>i) << 2));
    sum += value * value;
  }
  return sum;
}

/** float32[length] from bfloat16[length]; a length that is no multiple of 4 touches up to three more elements of each. */
export function widenBfloat16(bits: usize, length: i32, into: usize): void {
  for (let i: i32 = 0; i < length; i += 4) {
    const wide = i32x4.extend_low_i16x8_u(v128.load64_zero(bits + ((<usize>i) << 1)));
    v128.store(into + ((<usize>i) << 2), i32x4.shl(wide, 16));
  }
}

/** bfloat16[length] from float32[length], none of it NaN, to nearest, half to even; lengths as above. */
export function narrowToBfloat16(values: usize, length: i32, into: usize): void {
  const half = i32x4.splat(0x7fff);
  const one = i32x4.splat(1);
  for (let i: i32 = 0; i < length; i += 4) {
    const wide = v128.load(values + ((<usize>i) << 2));
    const odd = v128.and(i32x4.shr_u(wide, 16), one);
    const rounded = i32x4.shr_u(i32x4.add(i32x4.add(wide, half), odd), 16);
    v128.store64_lane(into + ((<usize>i) << 1), i16x8.narrow_i32x4_u(rounded, rounded), 0);
  }
}

function promote(at: usize): v128 {
  return f64x2.promote_low_f32x4(v128.load64_zero(at));
}

function demote(pair: v128): v128 {
  return f32x4.demote_f64x2_zero(pair);
}
