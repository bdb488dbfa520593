/**
 * Rounding to integers, packing and conversions between float types, in AssemblyScript, compiled to WebAssembly with SIMD by
 * scripts/build.mjs. They work on chunks that numeric/quantize-tasks.ts and numeric/bit-packing.ts copy into this module's
 * memory; every result is bit for bit that of the plain functions in numeric/quantizer.ts and numeric/dtypes.ts.
 *
 * Loops run over whole vectors: what they read and write beyond the end of a row is overwritten by the next row, and each
 * array is followed by 64 bytes of room.
 */

/** Types of the numbers that come in; numeric/quantize-tasks.ts has the same. */
const float32: i32 = 0;
const float16: i32 = 1;

/** What a row is rounded with. */
let bits: i32 = 0;
let half: i32 = 0;
let scaleDivisor: f64 = 0;
let clip: f64 = 0;
let isNarrow: bool = false;

/**
 * Integers, scales and cherries of some rows.
 * @param source [rows, columns] of the type   @param cherries uint32[rows, perRow], ascending columns
 * @param row float32 scratch of `columns`   @param normals the same   @param levels bytes, scratch of `columns` + 64
 * @param packed [rows, rowBytes]   @param scales float16[rows, groups]   @param cherryWeight float16[rows, perRow]
 * @returns the bits of the largest magnitude as float32; 0x7f800000 and above for what is not finite
 */
export function quantizeRows(
  source: usize,
  type: i32,
  rows: i32,
  columns: i32,
  width: i32,
  groupSize: i32,
  cherries: usize,
  perRow: i32,
  row: usize,
  normals: usize,
  levels: usize,
  packed: usize,
  scales: usize,
  cherryWeight: usize,
): i32 {
  setLevels(type, width);
  const count = columns - perRow;
  const rowBytes = <usize>((count * width + 7) >> 3);
  const sourceBytes = (<usize>columns) << (type == float32 ? 2 : 1);
  const cherryBytes = (<usize>perRow) << 2;
  let largest: i32 = 0;
  for (let r: i32 = 0; r < rows; r++) {
    largest = max(largest, widen(source, type, columns, row));
    let work = row;
    if (perRow > 0) {
      takeNormals(row, columns, cherries, perRow, normals, cherryWeight);
      work = normals;
    }
    for (let start: i32 = 0; start < count; start += groupSize) {
      const scale = roundGroup(work + ((<usize>start) << 2), min(groupSize, count - start), levels + <usize>start);
      store<u16>(scales, halfOf(<f32>scale));
      scales += 2;
    }
    fillZero(levels + <usize>count);
    pack(levels, count, width, packed);
    source += sourceBytes;
    packed += rowBytes;
    cherries += cherryBytes;
    cherryWeight += cherryBytes >> 1;
  }
  return largest;
}

/** What `quantizeRows` gives, read back and rounded to float16 [rows, columns]; the other parameters are as there. */
export function roundRows(
  source: usize,
  type: i32,
  rows: i32,
  columns: i32,
  width: i32,
  groupSize: i32,
  cherries: usize,
  perRow: i32,
  row: usize,
  normals: usize,
  levels: usize,
  into: usize,
): i32 {
  setLevels(type, width);
  const count = columns - perRow;
  const sourceBytes = (<usize>columns) << (type == float32 ? 2 : 1);
  let largest: i32 = 0;
  for (let r: i32 = 0; r < rows; r++) {
    largest = max(largest, widen(source, type, columns, row));
    let work = row;
    if (perRow > 0) {
      takeNormals(row, columns, cherries, perRow, normals, 0);
      work = normals;
    }
    for (let start: i32 = 0; start < count; start += groupSize) {
      const length = min(groupSize, count - start);
      const values = work + ((<usize>start) << 2);
      const scale = roundGroup(values, length, levels + <usize>start);
      restoreGroup(levels + <usize>start, length, <f32>scale, values);
    }
    if (perRow > 0) putNormals(row, columns, cherries, perRow, normals);
    narrow(row, columns, into);
    source += sourceBytes;
    into += (<usize>columns) << 1;
    cherries += (<usize>perRow) << 2;
  }
  return largest;
}

/** Numbers of a type as float16.  @param row float32 scratch of 2048   @returns as `quantizeRows` */
export function halve(source: usize, type: i32, length: i32, row: usize, into: usize): i32 {
  let largest: i32 = 0;
  for (let from: i32 = 0; from < length; from += 2048) {
    const count = min(2048, length - from);
    const part = source + ((<usize>from) << (type == float32 ? 2 : 1));
    const to = into + ((<usize>from) << 1);
    largest = max(largest, widen(part, type, count, row));
    if (type == float16) memory.copy(to, part, (<usize>count) << 1);
    else narrow(row, count, to);
  }
  return largest;
}

/**
 * How far packed rows are from the numbers that they were made of: adds to two doubles the sums of (stored - source)^2 and
 * of source^2, in an order that depends on the shape alone.  @param row float32 scratch   @param stored the same
 */
export function compareRows(
  source: usize,
  type: i32,
  rows: i32,
  columns: i32,
  width: i32,
  groupSize: i32,
  cherries: usize,
  perRow: i32,
  row: usize,
  normals: usize,
  levels: usize,
  packed: usize,
  scales: usize,
  cherryWeight: usize,
  sums: usize,
): void {
  const sourceBytes = (<usize>columns) << (type == float32 ? 2 : 1);
  const rowBytes = <usize>(((columns - perRow) * width + 7) >> 3);
  const groups = (columns - perRow + groupSize - 1) / groupSize;
  const stored = normals + ((<usize>columns) << 2) + 64;
  for (let r: i32 = 0; r < rows; r++) {
    widen(source, type, columns, row);
    restoreRow(packed, scales, cherries, cherryWeight, columns, width, groupSize, perRow, levels, normals, stored);
    compare(row, stored, columns, sums);
    source += sourceBytes;
    packed += rowBytes;
    scales += (<usize>groups) << 1;
    cherries += (<usize>perRow) << 2;
    cherryWeight += (<usize>perRow) << 1;
  }
}

/** The same for numbers that are not packed.  @param row float32 scratch of 2048, and `storedRow` too */
export function compareNumbers(
  source: usize,
  type: i32,
  stored: usize,
  storedType: i32,
  length: i32,
  row: usize,
  storedRow: usize,
  sums: usize,
): void {
  for (let from: i32 = 0; from < length; from += 2048) {
    const count = min(2048, length - from);
    widen(source + ((<usize>from) << (type == float32 ? 2 : 1)), type, count, row);
    widen(stored + ((<usize>from) << (storedType == float32 ? 2 : 1)), storedType, count, storedRow);
    compare(row, storedRow, count, sums);
  }
}

function compare(row: usize, stored: usize, length: i32, sums: usize): void {
  const bytes = (<usize>length) << 2;
  fillZero(row + bytes);
  fillZero(stored + bytes);
  let error = f64x2.splat(0);
  let norm = f64x2.splat(0);
  for (let at: usize = 0; at < bytes; at += 8) {
    const x = promote(row + at);
    const d = f64x2.sub(promote(stored + at), x);
    error = f64x2.add(error, f64x2.mul(d, d));
    norm = f64x2.add(norm, f64x2.mul(x, x));
  }
  store<f64>(sums, load<f64>(sums) + f64x2.extract_lane(error, 0) + f64x2.extract_lane(error, 1));
  store<f64>(sums + 8, load<f64>(sums + 8) + f64x2.extract_lane(norm, 0) + f64x2.extract_lane(norm, 1));
}

/** Packs rows of bytes.  @returns all values or-ed, so that one which does not fit shows */
export function packRows(values: usize, rows: i32, columns: i32, width: i32, levels: usize, packed: usize): i32 {
  const rowBytes = <usize>((columns * width + 7) >> 3);
  let all: i32 = 0;
  for (let r: i32 = 0; r < rows; r++) {
    // The vectors of a row that ends inside one must see zeros behind it.
    let from = values;
    if (columns & 63) {
      memory.copy(levels, values, <usize>columns);
      fillZero(levels + <usize>columns);
      from = levels;
    }
    all |= pack(from, columns, width, packed);
    values += <usize>columns;
    packed += rowBytes;
  }
  return all;
}

/** Unpacks rows to bytes. */
export function unpackRows(packed: usize, rows: i32, columns: i32, width: i32, values: usize): void {
  const rowBytes = <usize>((columns * width + 7) >> 3);
  for (let r: i32 = 0; r < rows; r++) {
    unpack(packed, columns, width, values);
    packed += rowBytes;
    values += <usize>columns;
  }
}

function setLevels(type: i32, width: i32): void {
  bits = width;
  half = 1 << (width - 1);
  scaleDivisor = <f64>(width <= 4 ? half : half - 1);
  clip = width <= 4 ? <f64>half - 0.01 : <f64>(half - 1);
  isNarrow = type != float32;
}

/** A row as float32.  @returns as `quantizeRows` */
function widen(source: usize, type: i32, length: i32, into: usize): i32 {
  const magnitude = i32x4.splat(0x7fffffff);
  let largest = i32x4.splat(0);
  let i: i32 = 0;
  if (type == float32) {
    for (; i + 4 <= length; i += 4) {
      const values = v128.load(source + ((<usize>i) << 2));
      largest = i32x4.max_u(largest, v128.and(values, magnitude));
      v128.store(into + ((<usize>i) << 2), values);
    }
  } else if (type == float16) {
    for (; i + 4 <= length; i += 4) {
      const values = halfToFloat(v128.load64_zero(source + ((<usize>i) << 1)));
      largest = i32x4.max_u(largest, v128.and(values, magnitude));
      v128.store(into + ((<usize>i) << 2), values);
    }
  } else {
    for (; i + 8 <= length; i += 8) {
      const values = v128.load(source + ((<usize>i) << 1));
      const low = i32x4.shl(i32x4.extend_low_i16x8_u(values), 16);
      const high = i32x4.shl(i32x4.extend_high_i16x8_u(values), 16);
      largest = i32x4.max_u(largest, v128.and(low, magnitude));
      largest = i32x4.max_u(largest, v128.and(high, magnitude));
      v128.store(into + ((<usize>i) << 2), low);
      v128.store(into + ((<usize>i) << 2) + 16, high);
    }
  }
  let all = max(
    max(<u32>i32x4.extract_lane(largest, 0), <u32>i32x4.extract_lane(largest, 1)),
    max(<u32>i32x4.extract_lane(largest, 2), <u32>i32x4.extract_lane(largest, 3)),
  );
  for (; i < length; i++) {
    let value: i32;
    if (type == float32) value = load<i32>(source + ((<usize>i) << 2));
    else if (type == float16)
      value = i32x4.extract_lane(halfToFloat(i32x4.splat(load<u16>(source + ((<usize>i) << 1)))), 0);
    else value = (<i32>load<u16>(source + ((<usize>i) << 1))) << 16;
    all = max(all, <u32>(value & 0x7fffffff));
    store<i32>(into + ((<usize>i) << 2), value);
  }
  return <i32>all;
}

/** The lower four float16 as float32; infinities and NaN become infinities and NaN. */
function halfToFloat(values: v128): v128 {
  const wide = i32x4.extend_low_i16x8_u(values);
  const sign = i32x4.shl(v128.and(wide, i32x4.splat(0x8000)), 16);
  const magnitude = i32x4.shl(v128.and(wide, i32x4.splat(0x7fff)), 13);
  // A product with 2^112 moves the exponent and makes subnormals normal, exactly.
  const scaled = f32x4.mul(magnitude, f32x4.splat(5192296858534827628530496329220096.0));
  const isSpecial = i32x4.ge_s(magnitude, i32x4.splat(0x0f800000));
  return v128.or(sign, v128.or(scaled, v128.and(isSpecial, i32x4.splat(0x7f800000))));
}

/** float32 as float16, half to even; NaN is not kept. */
function narrow(values: usize, length: i32, into: usize): void {
  let i: i32 = 0;
  for (; i + 8 <= length; i += 8) {
    const at = values + ((<usize>i) << 2);
    v128.store(
      into + ((<usize>i) << 1),
      i16x8.narrow_i32x4_u(floatToHalf(v128.load(at)), floatToHalf(v128.load(at + 16))),
    );
  }
  for (; i < length; i++) store<u16>(into + ((<usize>i) << 1), halfOf(load<f32>(values + ((<usize>i) << 2))));
}

function floatToHalf(values: v128): v128 {
  const magnitude = v128.and(values, i32x4.splat(0x7fffffff));
  const sign = i32x4.shr_u(v128.xor(values, magnitude), 16);
  const odd = v128.and(i32x4.shr_u(magnitude, 13), i32x4.splat(1));
  const normal = i32x4.shr_u(i32x4.add(i32x4.add(magnitude, odd), i32x4.splat(0xfff - 0x38000000)), 13);
  // The sum with 0.5 is rounded to a multiple of 2^-24, the least subnormal.
  const subnormal = i32x4.sub(f32x4.add(magnitude, f32x4.splat(0.5)), i32x4.splat(0x3f000000));
  const finite = v128.bitselect(subnormal, normal, i32x4.lt_s(magnitude, i32x4.splat(0x38800000)));
  const isBeyond = i32x4.ge_s(magnitude, i32x4.splat(0x47800000));
  return v128.or(sign, v128.bitselect(i32x4.splat(0x7c00), finite, isBeyond));
}

function halfOf(value: f32): u16 {
  return <u16>i32x4.extract_lane(floatToHalf(f32x4.splat(value)), 0);
}

/** Copies a row's normal weights to the front of `normals` and its cherries, as float16, to `cherryWeight` unless that is 0. */
function takeNormals(
  row: usize,
  columns: i32,
  cherries: usize,
  perRow: i32,
  normals: usize,
  cherryWeight: usize,
): void {
  let from: i32 = 0;
  for (let c: i32 = 0; c <= perRow; c++) {
    const until = c < perRow ? load<i32>(cherries + ((<usize>c) << 2)) : columns;
    const bytes = (<usize>(until - from)) << 2;
    memory.copy(normals, row + ((<usize>from) << 2), bytes);
    normals += bytes;
    if (c < perRow && cherryWeight != 0) {
      store<u16>(cherryWeight + ((<usize>c) << 1), halfOf(load<f32>(row + ((<usize>until) << 2))));
    }
    from = until + 1;
  }
}

/** Copies normal weights back to the columns that they came from. */
function putNormals(row: usize, columns: i32, cherries: usize, perRow: i32, normals: usize): void {
  let from: i32 = 0;
  for (let c: i32 = 0; c <= perRow; c++) {
    const until = c < perRow ? load<i32>(cherries + ((<usize>c) << 2)) : columns;
    const bytes = (<usize>(until - from)) << 2;
    memory.copy(row + ((<usize>from) << 2), normals, bytes);
    normals += bytes;
    from = until + 1;
  }
}

/** The integers of a group, less the lowest one, as bytes.  @returns its scale */
function roundGroup(values: usize, length: i32, levels: usize): f64 {
  const scale = scaleOf(largestMagnitude(values, length));
  if (!isNarrow) roundWide(values, length, scale, levels);
  else if (bits <= 4) roundMidRise(values, length, <f32>scale, levels);
  else roundNearest(values, length, <f32>scale, levels);
  return scale;
}

function largestMagnitude(values: usize, length: i32): f32 {
  let largest4 = f32x4.splat(0);
  let other4 = f32x4.splat(0);
  let i: i32 = 0;
  for (; i + 8 <= length; i += 8) {
    largest4 = f32x4.pmax(largest4, f32x4.abs(v128.load(values + ((<usize>i) << 2))));
    other4 = f32x4.pmax(other4, f32x4.abs(v128.load(values + ((<usize>i) << 2) + 16)));
  }
  largest4 = f32x4.pmax(largest4, other4);
  let largest = max(
    max(f32x4.extract_lane(largest4, 0), f32x4.extract_lane(largest4, 1)),
    max(f32x4.extract_lane(largest4, 2), f32x4.extract_lane(largest4, 3)),
  );
  for (; i < length; i++) largest = max(largest, abs(load<f32>(values + ((<usize>i) << 2))));
  return largest;
}

/** Rounded to float16, half to even; never below the least positive float16. */
function scaleOf(largest: f32): f64 {
  const scale = (<f64>largest + 1e-6) / scaleDivisor;
  if (!(scale < 65520)) return scale >= 65520 ? Infinity : NaN;
  const exponent = max(<i64>((reinterpret<u64>(scale) >> 52) & 0x7ff) - 1023, -14);
  // 1.5 * 2^(exponent + 42): added and taken away again, it rounds a double to a multiple of 2^(exponent - 10).
  const constant = reinterpret<f64>((<u64>((exponent + 42 + 1023) << 52)) | 0x8000000000000);
  const rounded = scale + constant - constant;
  return rounded == 0 ? reinterpret<f64>(0x3e70000000000000) : rounded;
}

/** In double precision, for float32 weights. */
function roundWide(values: usize, length: i32, scale: f64, levels: usize): void {
  const scales = f64x2.splat(scale);
  const offset = f64x2.splat(bits <= 4 ? 0.5 : 0);
  const most = f64x2.splat(clip);
  const least = f64x2.splat(-clip);
  const shift = i32x4.splat(half);
  for (let i: i32 = 0; i < length; i += 8) {
    const at = values + ((<usize>i) << 2);
    const a = i32x4.add(roundPairs(at, scales, least, most, offset), shift);
    const b = i32x4.add(roundPairs(at + 16, scales, least, most, offset), shift);
    const words = i16x8.narrow_i32x4_s(a, b);
    v128.store64_lane(levels + <usize>i, i8x16.narrow_i16x8_u(words, words), 0);
  }
}

function roundPairs(at: usize, scales: v128, least: v128, most: v128, offset: v128): v128 {
  const a = f64x2.max(f64x2.min(f64x2.div(promote(at), scales), most), least);
  const b = f64x2.max(f64x2.min(f64x2.div(promote(at + 8), scales), most), least);
  const low = i32x4.trunc_sat_f64x2_s_zero(f64x2.nearest(f64x2.sub(a, offset)));
  const high = i32x4.trunc_sat_f64x2_s_zero(f64x2.nearest(f64x2.sub(b, offset)));
  return v128.shuffle<u64>(low, high, 0, 2);
}

/**
 * Up to 4 bits, for weights that have at most 11 significant bits, as float16 and bfloat16 have. A scale has 11 too, so a
 * quotient that is not a whole number is at least 2^-18 of it away from one, and single precision is enough to tell the two
 * apart. round(t - 0.5), ties to even, is then floor(t), less one where t is a whole odd number. In double precision the
 * difference t - 0.5 is -0.5 for every t from -2^-54 to 0, and its rounding 0; so is that of such a t here.
 */
function roundMidRise(values: usize, length: i32, scale: f32, levels: usize): void {
  const scales = f32x4.splat(scale);
  // 1.5 * 2^23: added to a whole number, it leaves that in the lowest bits.
  const magic = f32x4.splat(12582912.0);
  const lowest = i32x4.splat(0x4b400000 - half);
  const highest = i8x16.splat(<i8>(2 * half - 1));
  for (let i: i32 = 0; i < length; i += 16) {
    const at = values + ((<usize>i) << 2);
    const a = i32x4.sub(midRise(v128.load(at), scales, magic), lowest);
    const b = i32x4.sub(midRise(v128.load(at, 16), scales, magic), lowest);
    const c = i32x4.sub(midRise(v128.load(at, 32), scales, magic), lowest);
    const d = i32x4.sub(midRise(v128.load(at, 48), scales, magic), lowest);
    const bytes = i8x16.narrow_i16x8_u(i16x8.narrow_i32x4_s(a, b), i16x8.narrow_i32x4_s(c, d));
    v128.store(levels + <usize>i, i8x16.min_u(bytes, highest));
  }
}

function midRise(values: v128, scales: v128, magic: v128): v128 {
  const quotient = f32x4.div(values, scales);
  const t = v128.and(quotient, f32x4.gt(f32x4.abs(quotient), f32x4.splat(reinterpret<f32>(0x24800000))));
  const floored = f32x4.floor(t);
  const whole = f32x4.add(floored, magic);
  const oddTie = v128.and(v128.and(f32x4.eq(t, floored), i32x4.splat(1)), whole);
  return i32x4.sub(whole, oddTie);
}

/** Above 4 bits, for the same weights: the sum with 1.5 * 2^23 is rounded half to even. */
function roundNearest(values: usize, length: i32, scale: f32, levels: usize): void {
  const scales = f32x4.splat(scale);
  const magic = f32x4.splat(12582912.0);
  const lowest = i32x4.splat(0x4b400000 - half);
  const least = i8x16.splat(1);
  const most = i8x16.splat(<i8>(2 * half - 1));
  for (let i: i32 = 0; i < length; i += 16) {
    const at = values + ((<usize>i) << 2);
    const a = i32x4.sub(f32x4.add(f32x4.div(v128.load(at), scales), magic), lowest);
    const b = i32x4.sub(f32x4.add(f32x4.div(v128.load(at, 16), scales), magic), lowest);
    const c = i32x4.sub(f32x4.add(f32x4.div(v128.load(at, 32), scales), magic), lowest);
    const d = i32x4.sub(f32x4.add(f32x4.div(v128.load(at, 48), scales), magic), lowest);
    const bytes = i8x16.narrow_i16x8_u(i16x8.narrow_i32x4_s(a, b), i16x8.narrow_i32x4_s(c, d));
    v128.store(levels + <usize>i, i8x16.max_u(i8x16.min_u(bytes, most), least));
  }
}

/** One row read back to float32. */
function restoreRow(
  packed: usize,
  scales: usize,
  cherries: usize,
  cherryWeight: usize,
  columns: i32,
  width: i32,
  groupSize: i32,
  perRow: i32,
  levels: usize,
  normals: usize,
  into: usize,
): void {
  setLevels(float32, width);
  const count = columns - perRow;
  const work = perRow > 0 ? normals : into;
  unpack(packed, count, width, levels);
  for (let start: i32 = 0; start < count; start += groupSize) {
    const scale = f32x4.extract_lane(halfToFloat(i32x4.splat(load<u16>(scales))), 0);
    restoreGroup(levels + <usize>start, min(groupSize, count - start), scale, work + ((<usize>start) << 2));
    scales += 2;
  }
  if (perRow == 0) return;
  putNormals(into, columns, cherries, perRow, normals);
  for (let c: i32 = 0; c < perRow; c++) {
    const column = <usize>load<u32>(cherries + ((<usize>c) << 2));
    const value = halfToFloat(i32x4.splat(load<u16>(cherryWeight + ((<usize>c) << 1))));
    store<f32>(into + (column << 2), f32x4.extract_lane(value, 0));
  }
}

/** (level - half + offset) * scale; the product is exact. */
function restoreGroup(levels: usize, length: i32, scale: f32, into: usize): void {
  const scales = f32x4.splat(scale);
  const shift = f32x4.splat((bits <= 4 ? 0.5 : 0) - <f32>half);
  let i: i32 = 0;
  for (; i + 4 <= length; i += 4) {
    const words = i16x8.extend_low_i8x16_u(v128.load32_zero(levels + <usize>i));
    const level = f32x4.convert_i32x4_u(i32x4.extend_low_i16x8_u(words));
    v128.store(into + ((<usize>i) << 2), f32x4.mul(f32x4.add(level, shift), scales));
  }
  for (; i < length; i++) {
    store<f32>(into + ((<usize>i) << 2), (<f32>load<u8>(levels + <usize>i) + f32x4.extract_lane(shift, 0)) * scale);
  }
}

/** Packs one row of `count` bytes, which zeros follow.  @returns all of them or-ed */
function pack(values: usize, count: i32, width: i32, packed: usize): i32 {
  let all = i32x4.splat(0);
  const until = values + <usize>count;
  if (width == 8) {
    memory.copy(packed, values, <usize>count);
    return 0;
  }
  if (width == 4) {
    for (; values < until; values += 32, packed += 16) {
      const a = v128.load(values);
      const b = v128.load(values, 16);
      all = v128.or(all, v128.or(a, b));
      v128.store(packed, i8x16.narrow_i16x8_u(pairs4(a), pairs4(b)));
    }
  } else if (width == 2) {
    for (; values < until; values += 64, packed += 16) {
      const a = v128.load(values);
      const b = v128.load(values, 16);
      const c = v128.load(values, 32);
      const d = v128.load(values, 48);
      all = v128.or(all, v128.or(v128.or(a, b), v128.or(c, d)));
      const low = i16x8.narrow_i32x4_u(quads2(a), quads2(b));
      const high = i16x8.narrow_i32x4_u(quads2(c), quads2(d));
      v128.store(packed, i8x16.narrow_i16x8_u(low, high));
    }
  } else {
    // 3 bits: each half of a vector gives 24 bits, so 32 values give 12 bytes.
    for (; values < until; values += 32, packed += 12) {
      const a = v128.load(values);
      const b = v128.load(values, 16);
      all = v128.or(all, v128.or(a, b));
      // prettier-ignore
      const bytes = v128.shuffle<u8>(octets3(a), octets3(b), 0, 1, 2, 8, 9, 10, 16, 17, 18, 24, 25, 26, 0, 0, 0, 0);
      v128.store(packed, bytes);
    }
  }
  const either = i64x2.extract_lane(all, 0) | i64x2.extract_lane(all, 1);
  let folded = <i32>(either | (either >> 32));
  folded |= folded >> 16;
  folded |= folded >> 8;
  return folded & 0xff;
}

function pairs4(values: v128): v128 {
  return v128.and(v128.or(values, i16x8.shr_u(values, 4)), i16x8.splat(0xff));
}

function quads2(values: v128): v128 {
  const pairs = v128.or(values, i16x8.shr_u(values, 6));
  return v128.and(v128.or(pairs, i32x4.shr_u(pairs, 12)), i32x4.splat(0xff));
}

function octets3(values: v128): v128 {
  const pairs = v128.and(v128.or(values, i16x8.shr_u(values, 5)), i16x8.splat(0x3f));
  const quads = v128.and(v128.or(pairs, i32x4.shr_u(pairs, 10)), i32x4.splat(0xfff));
  return v128.or(quads, i64x2.shr_u(quads, 20));
}

/** Unpacks one row to `count` bytes. */
function unpack(packed: usize, count: i32, width: i32, values: usize): void {
  if (width == 8) {
    memory.copy(values, packed, <usize>count);
    return;
  }
  const until = values + <usize>count;
  if (width == 4) {
    const mask = i8x16.splat(15);
    for (; values < until; values += 32, packed += 16) {
      const bytes = v128.load(packed);
      const low = v128.and(bytes, mask);
      const high = i8x16.shr_u(bytes, 4);
      // prettier-ignore
      v128.store(values, v128.shuffle<u8>(low, high, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
      // prettier-ignore
      v128.store(values, v128.shuffle<u8>(low, high, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31), 16);
    }
  } else if (width == 2) {
    const quads = i8x16(0, -1, -1, -1, 1, -1, -1, -1, 2, -1, -1, -1, 3, -1, -1, -1);
    for (; values < until; values += 16, packed += 4) {
      const wide = i8x16.swizzle(v128.load32_zero(packed), quads);
      const pairs = v128.and(v128.or(wide, i32x4.shl(wide, 12)), i16x8.splat(0x0f));
      v128.store(values, v128.and(v128.or(pairs, i16x8.shl(pairs, 6)), i8x16.splat(3)));
    }
  } else {
    const octets = i8x16(0, 1, 2, -1, -1, -1, -1, -1, 3, 4, 5, -1, -1, -1, -1, -1);
    for (; values < until; values += 16, packed += 6) {
      const wide = i8x16.swizzle(v128.load64_zero(packed), octets);
      const quads = v128.and(v128.or(wide, i64x2.shl(wide, 20)), i32x4.splat(0xfff));
      const pairs = v128.and(v128.or(quads, i32x4.shl(quads, 10)), i16x8.splat(0x3f));
      v128.store(values, v128.and(v128.or(pairs, i16x8.shl(pairs, 5)), i8x16.splat(7)));
    }
  }
}

/** 64 zero bytes. */
function fillZero(at: usize): void {
  const zero = i32x4.splat(0);
  v128.store(at, zero);
  v128.store(at, zero, 16);
  v128.store(at, zero, 32);
  v128.store(at, zero, 48);
}

function promote(at: usize): v128 {
  return f64x2.promote_low_f32x4(v128.load64_zero(at));
}
