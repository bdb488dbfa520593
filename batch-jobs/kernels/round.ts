/**
 * What rows of latent weights become once quantized, in AssemblyScript, compiled to WebAssembly with SIMD by scripts/build.mjs:
 * the published grid alone, which training rounds to at every step. Results are those of numeric/quantizer.ts to the bit.
 */

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
