/**
 * Host kernels in AssemblyScript, compiled to WebAssembly with SIMD by scripts/build.mjs: what training does to the weights
 * between two passes over the device. They work on chunks that numeric/train-tasks.ts copies into this module's memory.
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

/**
 * What rows become once quantized (numeric/quantizer.ts gives the formula), cherries unchanged.
 * @param weight float32[rows, columns]   @param cherries uint32[rows, perRow], ascending columns
 * @param normals float32 scratch of `columns` + 1   @param into float32[rows, columns]
 */
export function fakeQuant(
  weight: usize,
  rows: i32,
  columns: i32,
  groupSize: i32,
  cherries: usize,
  perRow: i32,
  scaleDivisor: f64,
  offset: f64,
  clip: f64,
  normals: usize,
  into: usize,
): void {
  const rowBytes = (<usize>columns) << 2;
  const count = columns - perRow;
  for (let row: i32 = 0; row < rows; row++) {
    const from = weight + <usize>row * rowBytes;
    const to = into + <usize>row * rowBytes;
    const own = cherries + ((<usize>(row * perRow)) << 2);
    memory.copy(to, from, rowBytes);
    // Without cherries the row itself is rounded in place.
    const work = perRow == 0 ? to : normals;
    if (perRow > 0) moveNormals(from, normals, columns, own, perRow, true);
    for (let start: i32 = 0; start < count; start += groupSize) {
      const length = min(groupSize, count - start);
      roundGroup(work + ((<usize>start) << 2), length, scaleDivisor, offset, clip);
    }
    if (perRow > 0) moveNormals(to, normals, columns, own, perRow, false);
  }
}

/** Copies a row's normal weights to the front of `normals`, or back to the columns they came from. */
function moveNormals(row: usize, normals: usize, columns: i32, own: usize, perRow: i32, out: bool): void {
  let from: i32 = 0;
  let at = normals;
  for (let c: i32 = 0; c <= perRow; c++) {
    const until = c < perRow ? load<i32>(own + ((<usize>c) << 2)) : columns;
    const bytes = (<usize>(until - from)) << 2;
    const there = row + ((<usize>from) << 2);
    if (out) memory.copy(at, there, bytes);
    else memory.copy(there, at, bytes);
    at += bytes;
    from = until + 1;
  }
}

function roundGroup(values: usize, length: i32, scaleDivisor: f64, offset: f64, clip: f64): void {
  const scale = scaleOf(largestMagnitude(values, length), scaleDivisor);
  const scales = f64x2.splat(scale);
  const offsets = f64x2.splat(offset);
  const clips = f64x2.splat(clip);
  const negativeClips = f64x2.splat(-clip);
  let i: i32 = 0;
  for (; i + 2 <= length; i += 2) {
    const at = values + ((<usize>i) << 2);
    const clipped = f64x2.max(f64x2.min(f64x2.div(promote(at), scales), clips), negativeClips);
    const level = f64x2.nearest(f64x2.sub(clipped, offsets));
    v128.store64_lane(at, demote(f64x2.mul(f64x2.add(level, offsets), scales)), 0);
  }
  if (i < length) {
    const at = values + ((<usize>i) << 2);
    const clipped = max(min(<f64>load<f32>(at) / scale, clip), -clip);
    store<f32>(at, <f32>((nearest(clipped - offset) + offset) * scale));
  }
}

function largestMagnitude(values: usize, length: i32): f32 {
  let largest4 = f32x4.splat(0);
  let i: i32 = 0;
  for (; i + 4 <= length; i += 4) {
    largest4 = f32x4.pmax(largest4, f32x4.abs(v128.load(values + ((<usize>i) << 2))));
  }
  let largest = max(
    max(f32x4.extract_lane(largest4, 0), f32x4.extract_lane(largest4, 1)),
    max(f32x4.extract_lane(largest4, 2), f32x4.extract_lane(largest4, 3)),
  );
  for (; i < length; i++) largest = max(largest, abs(load<f32>(values + ((<usize>i) << 2))));
  return largest;
}

/** Rounded to float16, half to even; never below the least positive float16. */
function scaleOf(largest: f32, divisor: f64): f64 {
  const scale = (<f64>largest + 1e-6) / divisor;
  if (!(scale < 65520)) return scale >= 65520 ? Infinity : NaN;
  const exponent = max(<i64>((reinterpret<u64>(scale) >> 52) & 0x7ff) - 1023, -14);
  // 1.5 * 2^(exponent + 42): added and taken away again, it rounds a double to a multiple of 2^(exponent - 10).
  const constant = reinterpret<f64>((<u64>((exponent + 42 + 1023) << 52)) | 0x8000000000000);
  const rounded = scale + constant - constant;
  return rounded == 0 ? reinterpret<f64>(0x3e70000000000000) : rounded;
}

function promote(at: usize): v128 {
  return f64x2.promote_low_f32x4(v128.load64_zero(at));
}

function demote(pair: v128): v128 {
  return f32x4.demote_f64x2_zero(pair);
}
