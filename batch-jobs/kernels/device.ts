/**
 * Device kernels in AssemblyScript, compiled to WebAssembly with SIMD by scripts/build.mjs: the passes over activations
 * that tfjs-backend-wasm 4.22 runs slowly or not at all. They run inside the memory of that backend, on its tensors, so
 * nothing here allocates, holds static data or knows of tensors: pointers are byte addresses of float32 in row-major
 * order, strides are bytes. Callers are in batch-jobs/src/engine/wasm-kernels.ts.
 *
 * Every product is made of one tile, 4 x 8 sums in registers over packed panels, after Goto & van de Geijn 2008. A row
 * panel holds 4 rows as [steps][4], a column panel 8 columns as [steps][8]; what a panel lacks is zero.
 */

/** Math.log of the host. */
declare function log(x: f64): f64;

/** Blocks of a product: a packed block of the left operand is 128 KiB, one of the right 512 KiB, so both stay in L2. */
const blockRows: i32 = 128;
const blockSteps: i32 = 256;
const blockColumns: i32 = 512;
const leftBlockBytes: usize = 128 * 256 * 4;
const rightBlockBytes: usize = 256 * 512 * 4;

/** Queries whose gradients are summed into those of keys and values at once; a multiple of 8. */
const queriesAtOnce: i32 = 32;

const mostNegative: f32 = -3.4028234663852886e38;

/**
 * Memory that the kernels may use between calls: constants, a tile, a chunk of a row, then what a kernel needs, which its
 * `...WorkspaceBytes` tells with these included.
 */
let workspace: usize = 0;
const tileAt: usize = 256;
const chunkAt: usize = 512;
const chunkLength: i32 = 2048;
const reservedBytes: usize = 512 + 2048 * 4;

export function useWorkspace(at: usize): void {
  workspace = at;
  writeConstants(at);
}

/** What every kernel needs, and all that those need whose size is not told by a function of their own. */
export function leastWorkspaceBytes(): usize {
  return reservedBytes + leftBlockBytes + rightBlockBytes;
}

// ---------------------------------------------------------------------------------------------------------------------
// Products
// ---------------------------------------------------------------------------------------------------------------------

/**
 * c = a b, or c += a b.  a [m, k], b [k, n], either stored in any order that two strides describe; c [m, n] row-major.
 * @param aRow,aStep bytes from one row of a to the next, from one column to the next   @param bStep,bColumn the same of b
 */
export function matMul(
  m: i32,
  n: i32,
  k: i32,
  a: usize,
  aRow: usize,
  aStep: usize,
  b: usize,
  bStep: usize,
  bColumn: usize,
  c: usize,
  add: bool,
): void {
  if (k == 0) {
    if (!add) memory.fill(c, 0, (<usize>m * <usize>n) << 2);
    return;
  }
  if (m < 4 && aStep == 4 && bStep == 4) return dotProducts(m, n, k, a, aRow, b, bColumn, c, add);
  const left = workspace + reservedBytes;
  const right = left + leftBlockBytes;
  const cRow = (<usize>n) << 2;
  for (let firstColumn = 0; firstColumn < n; firstColumn += blockColumns) {
    const columns = min(blockColumns, n - firstColumn);
    for (let firstStep = 0; firstStep < k; firstStep += blockSteps) {
      const steps = min(blockSteps, k - firstStep);
      packColumns(b + <usize>firstStep * bStep + <usize>firstColumn * bColumn, bStep, bColumn, steps, columns, right);
      for (let firstRow = 0; firstRow < m; firstRow += blockRows) {
        const rows = min(blockRows, m - firstRow);
        packRows(a + <usize>firstRow * aRow + <usize>firstStep * aStep, aRow, aStep, rows, steps, left);
        for (let j = 0; j < columns; j += 8) {
          const panel = right + ((<usize>j * <usize>steps) << 2);
          for (let i = 0; i < rows; i += 4) {
            const from = left + ((<usize>i * <usize>steps) << 2);
            const to = c + <usize>(firstRow + i) * cRow + ((<usize>(firstColumn + j)) << 2);
            const more = add || firstStep > 0;
            if (i + 4 <= rows && j + 8 <= columns) tile(from, panel, steps, to, cRow, more);
            else edgeTile(from, panel, steps, to, cRow, rows - i, columns - j, more);
          }
        }
      }
    }
  }
}

/** The sums of a 4 x 8 tile of c over packed panels.  @param add to what c holds */
function tile(a: usize, b: usize, steps: i32, c: usize, cRow: usize, add: bool): void {
  let c00 = f32x4.splat(0);
  let c01 = c00;
  let c10 = c00;
  let c11 = c00;
  let c20 = c00;
  let c21 = c00;
  let c30 = c00;
  let c31 = c00;
  const end = b + ((<usize>steps) << 5);
  while (b < end) {
    const b0 = v128.load(b);
    const b1 = v128.load(b, 16);
    const a0 = v128.load32_splat(a);
    c00 = f32x4.add(c00, f32x4.mul(a0, b0));
    c01 = f32x4.add(c01, f32x4.mul(a0, b1));
    const a1 = v128.load32_splat(a, 4);
    c10 = f32x4.add(c10, f32x4.mul(a1, b0));
    c11 = f32x4.add(c11, f32x4.mul(a1, b1));
    const a2 = v128.load32_splat(a, 8);
    c20 = f32x4.add(c20, f32x4.mul(a2, b0));
    c21 = f32x4.add(c21, f32x4.mul(a2, b1));
    const a3 = v128.load32_splat(a, 12);
    c30 = f32x4.add(c30, f32x4.mul(a3, b0));
    c31 = f32x4.add(c31, f32x4.mul(a3, b1));
    b += 32;
    a += 16;
  }
  const row1 = c + cRow;
  const row2 = row1 + cRow;
  const row3 = row2 + cRow;
  if (add) {
    c00 = f32x4.add(c00, v128.load(c));
    c01 = f32x4.add(c01, v128.load(c, 16));
    c10 = f32x4.add(c10, v128.load(row1));
    c11 = f32x4.add(c11, v128.load(row1, 16));
    c20 = f32x4.add(c20, v128.load(row2));
    c21 = f32x4.add(c21, v128.load(row2, 16));
    c30 = f32x4.add(c30, v128.load(row3));
    c31 = f32x4.add(c31, v128.load(row3, 16));
  }
  v128.store(c, c00);
  v128.store(c, c01, 16);
  v128.store(row1, c10);
  v128.store(row1, c11, 16);
  v128.store(row2, c20);
  v128.store(row2, c21, 16);
  v128.store(row3, c30);
  v128.store(row3, c31, 16);
}

/** A tile of which only some rows or columns exist. */
function edgeTile(a: usize, b: usize, steps: i32, c: usize, cRow: usize, rows: i32, columns: i32, add: bool): void {
  const whole = workspace + tileAt;
  tile(a, b, steps, whole, 32, false);
  const columnBytes = (<usize>min(columns, 8)) << 2;
  for (let i: usize = 0; i < <usize>min(rows, 4); i++) {
    for (let j: usize = 0; j < columnBytes; j += 4) {
      const value = load<f32>(whole + (i << 5) + j);
      const to = c + i * cRow + j;
      store<f32>(to, add ? load<f32>(to) + value : value);
    }
  }
}

/** Row panels of `rows` rows: [ceil(rows / 4)][steps][4]. */
function packRows(from: usize, row: usize, step: usize, rows: i32, steps: i32, to: usize): void {
  let i = 0;
  for (; i + 4 <= rows; i += 4) {
    if (row == 4) copyPanel4(from, step, steps, to);
    else if (step == 4) transposePanel(from, row, steps, to, 16);
    else gatherPanel(from, row, step, 4, steps, to, 4);
    from += 4 * row;
    to += (<usize>steps) << 4;
  }
  if (i < rows) gatherPanel(from, row, step, rows - i, steps, to, 4);
}

/** Column panels of `columns` columns: [ceil(columns / 8)][steps][8]. */
function packColumns(from: usize, step: usize, column: usize, steps: i32, columns: i32, to: usize): void {
  let j = 0;
  for (; j + 8 <= columns; j += 8) {
    if (column == 4) copyPanel8(from, step, steps, to);
    else if (step == 4) {
      transposePanel(from, column, steps, to, 32);
      transposePanel(from + 4 * column, column, steps, to + 16, 32);
    } else gatherPanel(from, column, step, 8, steps, to, 8);
    from += 8 * column;
    to += (<usize>steps) << 5;
  }
  if (j < columns) gatherPanel(from, column, step, columns - j, steps, to, 8);
}

function copyPanel4(from: usize, step: usize, steps: i32, to: usize): void {
  for (const end = to + ((<usize>steps) << 4); to < end; to += 16) {
    v128.store(to, v128.load(from));
    from += step;
  }
}

function copyPanel8(from: usize, step: usize, steps: i32, to: usize): void {
  for (const end = to + ((<usize>steps) << 5); to < end; to += 32) {
    v128.store(to, v128.load(from));
    v128.store(to, v128.load(from, 16), 16);
    from += step;
  }
}

/** Four lines of contiguous steps become steps of four.  @param toStep bytes from one step to the next */
function transposePanel(from: usize, line: usize, steps: i32, to: usize, toStep: usize): void {
  let l = 0;
  for (; l + 4 <= steps; l += 4) {
    const r0 = v128.load(from);
    const r1 = v128.load(from + line);
    const r2 = v128.load(from + 2 * line);
    const r3 = v128.load(from + 3 * line);
    const low01 = v128.shuffle<f32>(r0, r1, 0, 4, 1, 5);
    const high01 = v128.shuffle<f32>(r0, r1, 2, 6, 3, 7);
    const low23 = v128.shuffle<f32>(r2, r3, 0, 4, 1, 5);
    const high23 = v128.shuffle<f32>(r2, r3, 2, 6, 3, 7);
    v128.store(to, v128.shuffle<f32>(low01, low23, 0, 1, 4, 5));
    v128.store(to + toStep, v128.shuffle<f32>(low01, low23, 2, 3, 6, 7));
    v128.store(to + 2 * toStep, v128.shuffle<f32>(high01, high23, 0, 1, 4, 5));
    v128.store(to + 3 * toStep, v128.shuffle<f32>(high01, high23, 2, 3, 6, 7));
    from += 16;
    to += 4 * toStep;
  }
  for (; l < steps; l++) {
    for (let i: usize = 0; i < 4; i++) store<f32>(to + (i << 2), load<f32>(from + i * line));
    from += 4;
    to += toStep;
  }
}

/** Any panel, and those that lack lines.  @param width lines of the panel, of which `lines` exist */
function gatherPanel(from: usize, line: usize, step: usize, lines: i32, steps: i32, to: usize, width: i32): void {
  for (let l = 0; l < steps; l++) {
    let i = 0;
    for (; i < lines; i++) {
      store<f32>(to, load<f32>(from + <usize>i * line));
      to += 4;
    }
    for (; i < width; i++) {
      store<f32>(to, 0);
      to += 4;
    }
    from += step;
  }
}

/** Few rows times a matrix stored transposed, as when text is generated token by token: packing would not pay. */
function dotProducts(
  m: i32,
  n: i32,
  k: i32,
  a: usize,
  aRow: usize,
  b: usize,
  bColumn: usize,
  c: usize,
  add: bool,
): void {
  for (let j = 0; j < n; j++) {
    const column = b + <usize>j * bColumn;
    for (let i = 0; i < m; i++) {
      const at = c + ((<usize>i * <usize>n + <usize>j) << 2);
      const value = dot(a + <usize>i * aRow, column, k);
      store<f32>(at, add ? load<f32>(at) + value : value);
    }
  }
}

function dot(a: usize, b: usize, length: i32): f32 {
  let sum0 = f32x4.splat(0);
  let sum1 = sum0;
  let sum2 = sum0;
  let sum3 = sum0;
  let i = 0;
  for (; i + 16 <= length; i += 16) {
    sum0 = f32x4.add(sum0, f32x4.mul(v128.load(a), v128.load(b)));
    sum1 = f32x4.add(sum1, f32x4.mul(v128.load(a, 16), v128.load(b, 16)));
    sum2 = f32x4.add(sum2, f32x4.mul(v128.load(a, 32), v128.load(b, 32)));
    sum3 = f32x4.add(sum3, f32x4.mul(v128.load(a, 48), v128.load(b, 48)));
    a += 64;
    b += 64;
  }
  let sum = sumOfLanes(f32x4.add(f32x4.add(sum0, sum1), f32x4.add(sum2, sum3)));
  for (; i < length; i++) {
    sum += load<f32>(a) * load<f32>(b);
    a += 4;
    b += 4;
  }
  return sum;
}

// ---------------------------------------------------------------------------------------------------------------------
// Exponential
// ---------------------------------------------------------------------------------------------------------------------

/** The constants of the exponential, four times each: loaded once before a loop, they stay in registers. */
function writeConstants(at: usize): void {
  v128.store(at, f32x4.splat(-86.9));
  v128.store(at, f32x4.splat(88.72), 16);
  v128.store(at, f32x4.splat(12582912), 32);
  v128.store(at, f32x4.splat(1.44269504), 48);
  v128.store(at, f32x4.splat(0.693359375), 64);
  v128.store(at, f32x4.splat(-2.1219444e-4), 80);
  v128.store(at, f32x4.splat(1.98756915e-4), 96);
  v128.store(at, f32x4.splat(1.3981999507e-3), 112);
  v128.store(at, f32x4.splat(8.3334519073e-3), 128);
  v128.store(at, f32x4.splat(4.1665795894e-2), 144);
  v128.store(at, f32x4.splat(1.6666665459e-1), 160);
  v128.store(at, f32x4.splat(5.0000001201e-1), 176);
  v128.store(at, f32x4.splat(1), 192);
}

/**
 * y = e^(x - shift) for pairs of vectors, each with its shift, to 2e-7 of its value: 0 where the exponent is below -86.9,
 * the largest float or so above 88.72, NaN of NaN.
 * x = n ln 2 + r, |r| <= ln 2 / 2; e^r by a polynomial, 2^n by adding n to the exponent; n is rounded by adding 1.5 * 2^23.
 * @source the coefficients are those of Cephes' expf (Moshier)
 */
function exponentialPairs(x: usize, y: usize, pairs: i32, shift0: v128, shift1: v128): void {
  const least = v128.load(workspace);
  const most = v128.load(workspace, 16);
  const rounding = v128.load(workspace, 32);
  const perLog2 = v128.load(workspace, 48);
  const log2High = v128.load(workspace, 64);
  const log2Low = v128.load(workspace, 80);
  const c7 = v128.load(workspace, 96);
  const c6 = v128.load(workspace, 112);
  const c5 = v128.load(workspace, 128);
  const c4 = v128.load(workspace, 144);
  const c3 = v128.load(workspace, 160);
  const c2 = v128.load(workspace, 176);
  const one = v128.load(workspace, 192);
  for (const end = x + ((<usize>pairs) << 5); x < end; x += 32) {
    const x0 = f32x4.sub(v128.load(x), shift0);
    const x1 = f32x4.sub(v128.load(x, 16), shift1);
    const bounded0 = f32x4.pmin(f32x4.pmax(x0, least), most);
    const bounded1 = f32x4.pmin(f32x4.pmax(x1, least), most);
    const shifted0 = f32x4.add(f32x4.mul(bounded0, perLog2), rounding);
    const shifted1 = f32x4.add(f32x4.mul(bounded1, perLog2), rounding);
    const n0 = f32x4.sub(shifted0, rounding);
    const n1 = f32x4.sub(shifted1, rounding);
    const r0 = f32x4.sub(f32x4.sub(bounded0, f32x4.mul(n0, log2High)), f32x4.mul(n0, log2Low));
    const r1 = f32x4.sub(f32x4.sub(bounded1, f32x4.mul(n1, log2High)), f32x4.mul(n1, log2Low));
    let p0 = f32x4.add(f32x4.mul(c7, r0), c6);
    let p1 = f32x4.add(f32x4.mul(c7, r1), c6);
    p0 = f32x4.add(f32x4.mul(p0, r0), c5);
    p1 = f32x4.add(f32x4.mul(p1, r1), c5);
    p0 = f32x4.add(f32x4.mul(p0, r0), c4);
    p1 = f32x4.add(f32x4.mul(p1, r1), c4);
    p0 = f32x4.add(f32x4.mul(p0, r0), c3);
    p1 = f32x4.add(f32x4.mul(p1, r1), c3);
    p0 = f32x4.add(f32x4.mul(p0, r0), c2);
    p1 = f32x4.add(f32x4.mul(p1, r1), c2);
    p0 = f32x4.add(f32x4.add(f32x4.mul(f32x4.mul(p0, r0), r0), r0), one);
    p1 = f32x4.add(f32x4.add(f32x4.mul(f32x4.mul(p1, r1), r1), r1), one);
    v128.store(y, v128.andnot(i32x4.add(p0, i32x4.shl(shifted0, 23)), f32x4.lt(x0, least)));
    v128.store(y, v128.andnot(i32x4.add(p1, i32x4.shl(shifted1, 23)), f32x4.lt(x1, least)), 16);
    y += 32;
  }
}

/** y = e^(x - shift).  x, y [length], which may be one */
export function exponential(x: usize, y: usize, length: i32, shift: f32): void {
  const shifts = f32x4.splat(shift);
  exponentialPairs(x, y, length >> 3, shifts, shifts);
  const rest = (<usize>(length & 7)) << 2;
  if (rest == 0) return;
  const done = (<usize>(length & ~7)) << 2;
  const last = workspace + tileAt;
  memory.copy(last, x + done, rest);
  exponentialPairs(last, last, 1, shifts, shifts);
  memory.copy(y + done, last, rest);
}

function sumOfLanes(x: v128): f32 {
  return f32x4.extract_lane(x, 0) + f32x4.extract_lane(x, 1) + (f32x4.extract_lane(x, 2) + f32x4.extract_lane(x, 3));
}

// ---------------------------------------------------------------------------------------------------------------------
// RMS norm
// ---------------------------------------------------------------------------------------------------------------------

/** y = x / sqrt(mean(x^2) + eps) * weight.  x, y [rows, columns], weight [columns] */
export function rmsNorm(x: usize, weight: usize, y: usize, rows: i32, columns: i32, eps: f32): void {
  for (let row = 0; row < rows; row++) {
    const r = inverseRms(x, columns, eps);
    const scale = f32x4.splat(r);
    let w = weight;
    let j = 0;
    for (; j + 4 <= columns; j += 4) {
      v128.store(y, f32x4.mul(f32x4.mul(v128.load(x), scale), v128.load(w)));
      x += 16;
      y += 16;
      w += 16;
    }
    for (; j < columns; j++) {
      store<f32>(y, load<f32>(x) * r * load<f32>(w));
      x += 4;
      y += 4;
      w += 4;
    }
  }
}

function inverseRms(x: usize, columns: i32, eps: f32): f32 {
  return 1 / sqrt<f32>(dot(x, x, columns) / <f32>columns + eps);
}

/**
 * With r = 1/rms: dx = r (dy w) - x r^3 mean(dy w x), dw = sum over rows of dy x r.
 * @param residual added to dx, or 0 for none
 */
export function rmsNormBackward(
  x: usize,
  weight: usize,
  dy: usize,
  residual: usize,
  dx: usize,
  dWeight: usize,
  rows: i32,
  columns: i32,
  eps: f32,
): void {
  memory.fill(dWeight, 0, (<usize>columns) << 2);
  const rowBytes = (<usize>columns) << 2;
  const vectorBytes = rowBytes & ~15;
  for (let row = 0; row < rows; row++) {
    const r = inverseRms(x, columns, eps);
    let sums = f32x4.splat(0);
    let at: usize = 0;
    for (; at < vectorBytes; at += 16) {
      sums = f32x4.add(sums, f32x4.mul(f32x4.mul(v128.load(dy + at), v128.load(weight + at)), v128.load(x + at)));
    }
    let sum = sumOfLanes(sums);
    for (; at < rowBytes; at += 4) sum += load<f32>(dy + at) * load<f32>(weight + at) * load<f32>(x + at);

    const projection = (sum * r * r) / <f32>columns;
    const scales = f32x4.splat(r);
    const projections = f32x4.splat(projection);
    for (at = 0; at < vectorBytes; at += 16) {
      const dys = v128.load(dy + at);
      const xs = v128.load(x + at);
      const slopes = f32x4.sub(f32x4.mul(dys, v128.load(weight + at)), f32x4.mul(xs, projections));
      let result = f32x4.mul(slopes, scales);
      if (residual) result = f32x4.add(result, v128.load(residual + at));
      v128.store(dx + at, result);
      v128.store(dWeight + at, f32x4.add(v128.load(dWeight + at), f32x4.mul(dys, f32x4.mul(xs, scales))));
    }
    for (; at < rowBytes; at += 4) {
      const d = load<f32>(dy + at);
      const value = load<f32>(x + at);
      const result = (d * load<f32>(weight + at) - value * projection) * r;
      store<f32>(dx + at, residual ? result + load<f32>(residual + at) : result);
      store<f32>(dWeight + at, load<f32>(dWeight + at) + d * (value * r));
    }
    x += rowBytes;
    dy += rowBytes;
    dx += rowBytes;
    if (residual) residual += rowBytes;
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// SwiGLU
// ---------------------------------------------------------------------------------------------------------------------

/** y = gate sigmoid(gate) up.  All [length] */
export function swiGlu(gate: usize, up: usize, y: usize, length: i32): void {
  for (let first = 0; first < length; first += chunkLength) {
    const count = min(chunkLength, length - first);
    const bytes = (<usize>count) << 2;
    const sigmoids = takeSigmoids(gate, count);
    let at: usize = 0;
    for (const end = bytes & ~15; at < end; at += 16) {
      const silu = f32x4.mul(v128.load(gate + at), v128.load(sigmoids + at));
      v128.store(y + at, f32x4.mul(silu, v128.load(up + at)));
    }
    for (; at < bytes; at += 4)
      store<f32>(y + at, load<f32>(gate + at) * load<f32>(sigmoids + at) * load<f32>(up + at));
    gate += bytes;
    up += bytes;
    y += bytes;
  }
}

/** dUp = dy silu(gate), dGate = dy up (s + silu(gate) (1 - s)) with s = sigmoid(gate).  All [length] */
export function swiGluBackward(gate: usize, up: usize, dy: usize, dGate: usize, dUp: usize, length: i32): void {
  const one = f32x4.splat(1);
  for (let first = 0; first < length; first += chunkLength) {
    const count = min(chunkLength, length - first);
    const bytes = (<usize>count) << 2;
    const sigmoids = takeSigmoids(gate, count);
    let at: usize = 0;
    for (const end = bytes & ~15; at < end; at += 16) {
      const s = v128.load(sigmoids + at);
      const silu = f32x4.mul(v128.load(gate + at), s);
      const d = v128.load(dy + at);
      v128.store(dUp + at, f32x4.mul(d, silu));
      const slope = f32x4.add(s, f32x4.mul(silu, f32x4.sub(one, s)));
      v128.store(dGate + at, f32x4.mul(f32x4.mul(d, v128.load(up + at)), slope));
    }
    for (; at < bytes; at += 4) {
      const s = load<f32>(sigmoids + at);
      const silu = load<f32>(gate + at) * s;
      const d = load<f32>(dy + at);
      store<f32>(dUp + at, d * silu);
      store<f32>(dGate + at, d * load<f32>(up + at) * (s + silu * (1 - s)));
    }
    gate += bytes;
    up += bytes;
    dy += bytes;
    dGate += bytes;
    dUp += bytes;
  }
}

/** 1 / (1 + e^-x) of a chunk.  @returns where they are */
function takeSigmoids(x: usize, count: i32): usize {
  const chunk = workspace + chunkAt;
  const bytes = (<usize>count) << 2;
  let at: usize = 0;
  for (const end = bytes & ~15; at < end; at += 16) v128.store(chunk + at, f32x4.neg(v128.load(x + at)));
  for (; at < bytes; at += 4) store<f32>(chunk + at, -load<f32>(x + at));
  return invertedPlusOne(chunk, count);
}

// ---------------------------------------------------------------------------------------------------------------------
// GeGLU
// ---------------------------------------------------------------------------------------------------------------------
//
// gelu(x) = x/2 (1 + tanh u) = x s with s = sigmoid(2 u) and u = sqrt(2/pi) (x + 0.044715 x^3).

const geluCubic: f32 = 0.044715;
const geluSlope: f32 = 1.5957691216057308; // 2 sqrt(2/pi)

/** y = gelu(gate) up.  All [length] */
export function geGlu(gate: usize, up: usize, y: usize, length: i32): void {
  for (let first = 0; first < length; first += chunkLength) {
    const count = min(chunkLength, length - first);
    const bytes = (<usize>count) << 2;
    const sigmoids = takeGeluSigmoids(gate, count);
    let at: usize = 0;
    for (const end = bytes & ~15; at < end; at += 16) {
      const gelu = f32x4.mul(v128.load(gate + at), v128.load(sigmoids + at));
      v128.store(y + at, f32x4.mul(gelu, v128.load(up + at)));
    }
    for (; at < bytes; at += 4)
      store<f32>(y + at, load<f32>(gate + at) * load<f32>(sigmoids + at) * load<f32>(up + at));
    gate += bytes;
    up += bytes;
    y += bytes;
  }
}

/** dUp = dy gelu(gate), dGate = dy up (s + gelu(gate) (1 - s) 2 u').  All [length] */
export function geGluBackward(gate: usize, up: usize, dy: usize, dGate: usize, dUp: usize, length: i32): void {
  const one = f32x4.splat(1);
  const cubic = f32x4.splat(3 * geluCubic);
  const slopes = f32x4.splat(geluSlope);
  for (let first = 0; first < length; first += chunkLength) {
    const count = min(chunkLength, length - first);
    const bytes = (<usize>count) << 2;
    const sigmoids = takeGeluSigmoids(gate, count);
    let at: usize = 0;
    for (const end = bytes & ~15; at < end; at += 16) {
      const s = v128.load(sigmoids + at);
      const x = v128.load(gate + at);
      const gelu = f32x4.mul(x, s);
      const d = v128.load(dy + at);
      v128.store(dUp + at, f32x4.mul(d, gelu));
      const inner = f32x4.mul(f32x4.add(f32x4.mul(f32x4.mul(x, x), cubic), one), slopes);
      const slope = f32x4.add(s, f32x4.mul(f32x4.mul(gelu, f32x4.sub(one, s)), inner));
      v128.store(dGate + at, f32x4.mul(f32x4.mul(d, v128.load(up + at)), slope));
    }
    for (; at < bytes; at += 4) {
      const s = load<f32>(sigmoids + at);
      const x = load<f32>(gate + at);
      const gelu = x * s;
      const d = load<f32>(dy + at);
      store<f32>(dUp + at, d * gelu);
      const inner = (x * x * (3 * geluCubic) + 1) * geluSlope;
      store<f32>(dGate + at, d * load<f32>(up + at) * (s + gelu * (1 - s) * inner));
    }
    gate += bytes;
    up += bytes;
    dy += bytes;
    dGate += bytes;
    dUp += bytes;
  }
}

/** sigmoid(2 u) of a chunk.  @returns where they are */
function takeGeluSigmoids(x: usize, count: i32): usize {
  const chunk = workspace + chunkAt;
  const one = f32x4.splat(1);
  const cubic = f32x4.splat(geluCubic);
  const slopes = f32x4.splat(-geluSlope);
  const bytes = (<usize>count) << 2;
  let at: usize = 0;
  for (const end = bytes & ~15; at < end; at += 16) {
    const value = v128.load(x + at);
    const inner = f32x4.add(f32x4.mul(f32x4.mul(value, value), cubic), one);
    v128.store(chunk + at, f32x4.mul(f32x4.mul(value, inner), slopes));
  }
  for (; at < bytes; at += 4) {
    const value = load<f32>(x + at);
    store<f32>(chunk + at, value * (value * value * geluCubic + 1) * -geluSlope);
  }
  return invertedPlusOne(chunk, count);
}

/** 1 / (1 + e^x) of a chunk, in place.  @returns where it is */
function invertedPlusOne(chunk: usize, count: i32): usize {
  const one = f32x4.splat(1);
  const bytes = (<usize>count) << 2;
  exponential(chunk, chunk, count, 0);
  // The chunk has room for whole vectors; what lies behind its end is not used.
  for (let at: usize = 0; at < bytes; at += 16) {
    v128.store(chunk + at, f32x4.div(one, f32x4.add(one, v128.load(chunk + at))));
  }
  return chunk;
}

// ---------------------------------------------------------------------------------------------------------------------
// Cross-entropy
// ---------------------------------------------------------------------------------------------------------------------

/**
 * losses = log(sum(exp(logits))) - logits[id] for each row; dLogits = (softmax(logits) - 1 at id) * scale.
 * logits [rows, columns], ids int32 [rows]; an id that is no column gives a loss of NaN.
 * @param dLogits [rows, columns], or 0 when only the losses are wanted
 */
export function crossEntropy(
  logits: usize,
  ids: usize,
  losses: usize,
  dLogits: usize,
  rows: i32,
  columns: i32,
  scale: f32,
): void {
  const rowBytes = (<usize>columns) << 2;
  for (let row = 0; row < rows; row++) {
    const id = load<u32>(ids + ((<usize>row) << 2));
    const largest = largestOf(logits, columns);
    const sum = sumOfExponentials(logits, columns, largest, dLogits);
    const known = id < <u32>columns;
    const loss = known ? <f64>largest + log(sum) - <f64>load<f32>(logits + ((<usize>id) << 2)) : f64.NaN;
    store<f32>(losses + ((<usize>row) << 2), <f32>loss);
    if (dLogits) {
      multiply(dLogits, columns, <f32>(<f64>scale / sum));
      if (known) {
        const at = dLogits + ((<usize>id) << 2);
        store<f32>(at, load<f32>(at) - scale);
      }
      dLogits += rowBytes;
    }
    logits += rowBytes;
  }
}

export function distillationWorkspaceBytes(columns: i32): usize {
  return reservedBytes + ((<usize>columns) << 2);
}

/**
 * The same against a distribution, the softmax of another model's logits:
 * losses = log(sum(exp(logits))) - sum(softmax(wanted) logits); dLogits = (softmax(logits) - softmax(wanted)) * scale.
 * @param wanted [rows, columns], logits   @param dLogits [rows, columns], or 0 when only the losses are wanted
 */
export function distillation(
  logits: usize,
  wanted: usize,
  losses: usize,
  dLogits: usize,
  rows: i32,
  columns: i32,
  scale: f32,
): void {
  const rowBytes = (<usize>columns) << 2;
  const vectorBytes = rowBytes & ~15;
  const exponentials = workspace + reservedBytes;
  for (let row = 0; row < rows; row++) {
    const largest = largestOf(logits, columns);
    const sum = sumOfExponentials(logits, columns, largest, dLogits);
    const wantedSum = sumOfExponentials(wanted, columns, largestOf(wanted, columns), exponentials);
    const expected = <f64>dot(exponentials, logits, columns) / wantedSum;
    store<f32>(losses + ((<usize>row) << 2), <f32>(<f64>largest + log(sum) - expected));
    if (dLogits) {
      const factor = <f32>(<f64>scale / sum);
      const wantedFactor = <f32>(<f64>scale / wantedSum);
      const factors = f32x4.splat(factor);
      const wantedFactors = f32x4.splat(wantedFactor);
      let at: usize = 0;
      for (; at < vectorBytes; at += 16) {
        const own = f32x4.mul(v128.load(dLogits + at), factors);
        v128.store(dLogits + at, f32x4.sub(own, f32x4.mul(v128.load(exponentials + at), wantedFactors)));
      }
      for (; at < rowBytes; at += 4) {
        const own = load<f32>(dLogits + at) * factor;
        store<f32>(dLogits + at, own - load<f32>(exponentials + at) * wantedFactor);
      }
      dLogits += rowBytes;
    }
    logits += rowBytes;
    wanted += rowBytes;
  }
}

function largestOf(x: usize, length: i32): f32 {
  let largest4 = f32x4.splat(mostNegative);
  let i = 0;
  for (; i + 4 <= length; i += 4) {
    largest4 = f32x4.pmax(largest4, v128.load(x));
    x += 16;
  }
  let largest = max<f32>(
    max<f32>(f32x4.extract_lane(largest4, 0), f32x4.extract_lane(largest4, 1)),
    max<f32>(f32x4.extract_lane(largest4, 2), f32x4.extract_lane(largest4, 3)),
  );
  for (; i < length; i++) {
    largest = max<f32>(largest, load<f32>(x));
    x += 4;
  }
  return largest;
}

/** Sum of e^(x - largest), in double precision.  @param into receives the terms, or 0 */
function sumOfExponentials(x: usize, length: i32, largest: f32, into: usize): f64 {
  let sum: f64 = 0;
  for (let first = 0; first < length; first += chunkLength) {
    const count = min(chunkLength, length - first);
    const bytes = (<usize>count) << 2;
    const terms = into ? into : workspace + chunkAt;
    exponential(x, terms, count, largest);
    let low = f64x2.splat(0);
    let high = low;
    let at: usize = 0;
    for (const end = bytes & ~15; at < end; at += 16) {
      const e = v128.load(terms + at);
      low = f64x2.add(low, f64x2.promote_low_f32x4(e));
      high = f64x2.add(high, f64x2.promote_low_f32x4(v128.shuffle<f32>(e, e, 2, 3, 2, 3)));
    }
    const both = f64x2.add(low, high);
    sum += f64x2.extract_lane(both, 0) + f64x2.extract_lane(both, 1);
    for (; at < bytes; at += 4) sum += <f64>load<f32>(terms + at);
    x += bytes;
    if (into) into += bytes;
  }
  return sum;
}

function multiply(x: usize, length: i32, factor: f32): void {
  const factors = f32x4.splat(factor);
  let i = 0;
  for (; i + 4 <= length; i += 4) {
    v128.store(x, f32x4.mul(v128.load(x), factors));
    x += 16;
  }
  for (; i < length; i++) {
    store<f32>(x, load<f32>(x) * factor);
    x += 4;
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Causal attention with rotary embedding
// ---------------------------------------------------------------------------------------------------------------------
//
// Nothing of size [length, width] is kept. Queries are taken 8 at a time, as a column panel, so that scores come out as
// [keys][8]: the softmax then runs down the lanes, and the probabilities are again a column panel for the product with the
// values. Keys that no query of a panel may see, ahead of it or behind its sliding window, are not computed. The backward pass computes the probabilities again from
// the row maximum and the inverse of the row sum.  @source the recomputation is that of Dao et al. 2022 (FlashAttention)

function roundUp(value: i32, multiple: i32): i32 {
  return ((value + multiple - 1) / multiple) * multiple;
}

export function attentionWorkspaceBytes(headDim: i32, width: i32): usize {
  const dims = <usize>roundUp(headDim, 8);
  const keys = <usize>roundUp(width, 4);
  return reservedBytes + 4 * (3 * keys * dims + 8 * keys + 3 * 8 * dims);
}

/**
 * out = softmax(rotated(q) rotated(k)^T / sqrt(headDim), causal) v for each window and head.
 * q, out [windows * length, heads * headDim]; k, v [windows * width, keyValueHeads * headDim]: keys of the whole text so
 * far, of which the queries are the last `length`. cos, sin [width, headDim / 2].
 * @param stats [windows, heads, ceil(length / 8), 2, 8] receives each row's maximum and inverse sum
 * @param slidingWindow positions that a query may look at, its own the last of them, at most `width`, which is all
 */
export function attention(
  q: usize,
  k: usize,
  v: usize,
  cos: usize,
  sin: usize,
  out: usize,
  stats: usize,
  windows: i32,
  heads: i32,
  keyValueHeads: i32,
  headDim: i32,
  length: i32,
  width: i32,
  slidingWindow: i32,
): void {
  const dims = roundUp(headDim, 8);
  const keys = roundUp(width, 4);
  const matrixBytes = (<usize>keys * <usize>dims) << 2;
  const panelBytes = (<usize>dims) << 5;
  const rows = workspace + reservedBytes;
  const keyRows = rows + matrixBytes;
  const valueDims = keyRows + matrixBytes;
  const scores = valueDims + matrixBytes;
  const queryRows = scores + ((<usize>keys) << 5);
  const queryPanel = queryRows + panelBytes;
  const outPanel = queryPanel + panelBytes;

  const headBytes = (<usize>headDim) << 2;
  const queryStride = <usize>heads * headBytes;
  const keyStride = <usize>keyValueHeads * headBytes;
  const shared = heads / keyValueHeads;
  const past = width - length;
  const scale: f32 = 1 / sqrt<f32>(<f32>headDim);
  for (let group = 0; group < windows * keyValueHeads; group++) {
    const window = group / keyValueHeads;
    const keyHead = group % keyValueHeads;
    const keyAt = <usize>(window * width) * keyStride + <usize>keyHead * headBytes;
    rotateRows(k + keyAt, keyStride, cos, sin, width, headDim, scale, 1, rows, (<usize>dims) << 2);
    packRows(rows, (<usize>dims) << 2, 4, width, headDim, keyRows);
    packRows(v + keyAt, 4, keyStride, headDim, width, valueDims);
    for (let head = keyHead * shared; head < (keyHead + 1) * shared; head++) {
      const queryAt = <usize>(window * length) * queryStride + <usize>head * headBytes;
      for (let first = 0; first < length; first += 8) {
        const count = min(8, length - first);
        const limit = min(keys, roundUp(past + first + 8, 4));
        const at = queryAt + <usize>first * queryStride;
        takeQueries(q + at, queryStride, cos, sin, past + first, count, headDim, dims, queryRows, queryPanel);
        const start = firstKeySeen(past + first, slidingWindow);
        const own = scores + ((<usize>start) << 5);
        const ownCount = limit - start;
        scorePanel(keyRows, queryPanel, headDim, start, limit, past + first, slidingWindow, scores);
        const largest0 = largestDown(own, ownCount);
        const largest1 = largestDown(own + 16, ownCount);
        exponentialPairs(own, own, ownCount, largest0, largest1);
        const inverse0 = inverseSumDown(own, ownCount);
        const inverse1 = inverseSumDown(own + 16, ownCount);
        v128.store(stats, largest0);
        v128.store(stats, largest1, 16);
        v128.store(stats, inverse0, 32);
        v128.store(stats, inverse1, 48);
        stats += 64;
        const seen = min(limit, width) - start;
        for (let d = 0; d < headDim; d += 4) {
          const to = outPanel + ((<usize>d) << 5);
          tile(valueDims + ((<usize>d * <usize>width) << 2) + ((<usize>start) << 4), own, seen, to, 32, false);
        }
        for (let d: usize = 0; d < <usize>headDim; d++) {
          const column = outPanel + (d << 5);
          v128.store(column, f32x4.mul(v128.load(column), inverse0));
          v128.store(column, f32x4.mul(v128.load(column, 16), inverse1), 16);
          for (let r: usize = 0; r < <usize>count; r++) {
            store<f32>(out + at + r * queryStride + (d << 2), load<f32>(column + (r << 2)));
          }
        }
      }
    }
  }
}

export function attentionBackwardWorkspaceBytes(headDim: i32, width: i32): usize {
  const dims = <usize>roundUp(headDim, 8);
  const keys = <usize>roundUp(width, 4);
  return reservedBytes + 4 * (6 * keys * dims + 16 * keys + 2 * keys * queriesAtOnce + (3 * queriesAtOnce + 24) * dims);
}

/** @param dOut [windows * length, heads * headDim]   @param dq,dk,dv receive the gradients, in the shapes of q, k and v */
export function attentionBackward(
  q: usize,
  k: usize,
  v: usize,
  cos: usize,
  sin: usize,
  stats: usize,
  dOut: usize,
  dq: usize,
  dk: usize,
  dv: usize,
  windows: i32,
  heads: i32,
  keyValueHeads: i32,
  headDim: i32,
  length: i32,
  width: i32,
  slidingWindow: i32,
): void {
  const dims = roundUp(headDim, 8);
  const keys = roundUp(width, 4);
  const rowBytes = (<usize>dims) << 2;
  const matrixBytes = <usize>keys * rowBytes;
  const panelBytes = rowBytes << 3;
  const tileBytes = <usize>queriesAtOnce * rowBytes;
  const packedBytes = (<usize>keys * queriesAtOnce) << 2;
  const rows = workspace + reservedBytes;
  const keyRows = rows + matrixBytes;
  const keyDims = keyRows + matrixBytes;
  const valueRows = keyDims + matrixBytes;
  const dKeys = valueRows + matrixBytes;
  const dValues = dKeys + matrixBytes;
  const probabilities = dValues + matrixBytes;
  const dScores = probabilities + ((<usize>keys) << 5);
  const packedProbabilities = dScores + ((<usize>keys) << 5);
  const packedDScores = packedProbabilities + packedBytes;
  const queryRows = packedDScores + packedBytes;
  const queryDims = queryRows + tileBytes;
  const dOutDims = queryDims + tileBytes;
  const queryPanel = dOutDims + tileBytes;
  const dOutPanel = queryPanel + panelBytes;
  const dQueryPanel = dOutPanel + panelBytes;

  const headBytes = (<usize>headDim) << 2;
  const queryStride = <usize>heads * headBytes;
  const keyStride = <usize>keyValueHeads * headBytes;
  const halfBytes = headBytes >> 1;
  const shared = heads / keyValueHeads;
  const past = width - length;
  const scale: f32 = 1 / sqrt<f32>(<f32>headDim);
  for (let group = 0; group < windows * keyValueHeads; group++) {
    const window = group / keyValueHeads;
    const keyHead = group % keyValueHeads;
    const keyAt = <usize>(window * width) * keyStride + <usize>keyHead * headBytes;
    rotateRows(k + keyAt, keyStride, cos, sin, width, headDim, scale, 1, rows, rowBytes);
    packRows(rows, rowBytes, 4, width, headDim, keyRows);
    packRows(rows, 4, rowBytes, headDim, width, keyDims);
    packRows(v + keyAt, keyStride, 4, width, headDim, valueRows);
    memory.fill(dKeys, 0, 2 * matrixBytes);
    for (let head = keyHead * shared; head < (keyHead + 1) * shared; head++) {
      const queryAt = <usize>(window * length) * queryStride + <usize>head * headBytes;
      for (let firstOfTile = 0; firstOfTile < length; firstOfTile += queriesAtOnce) {
        const tileCount = min(queriesAtOnce, length - firstOfTile);
        const tileSteps = roundUp(tileCount, 8);
        for (let offset = 0; offset < tileCount; offset += 8) {
          const first = firstOfTile + offset;
          const count = min(8, length - first);
          const limit = min(keys, roundUp(past + first + 8, 4));
          const at = queryAt + <usize>first * queryStride;
          const rowsOfPanel = queryRows + <usize>offset * rowBytes;
          takeQueries(q + at, queryStride, cos, sin, past + first, count, headDim, dims, rowsOfPanel, queryPanel);
          packColumns(dOut + at, 4, queryStride, headDim, count, dOutPanel);

          // The probabilities again, then dScores = probabilities (dProbabilities - their mean under the probabilities).
          const start = firstKeySeen(past + first, slidingWindow);
          const startBytes = (<usize>start) << 5;
          const own = probabilities + startBytes;
          const ownDScores = dScores + startBytes;
          const ownCount = limit - start;
          scorePanel(keyRows, queryPanel, headDim, start, limit, past + first, slidingWindow, probabilities);
          scorePanelUnmasked(valueRows, dOutPanel, headDim, start, limit, dScores);
          exponentialPairs(own, own, ownCount, v128.load(stats), v128.load(stats, 16));
          scoreGradientDown(own, ownDScores, ownCount, v128.load(stats, 32));
          scoreGradientDown(own + 16, ownDScores + 16, ownCount, v128.load(stats, 48));
          stats += 64;

          const seen = min(limit, width) - start;
          for (let d = 0; d < headDim; d += 4) {
            const to = dQueryPanel + ((<usize>d) << 5);
            tile(keyDims + ((<usize>d * <usize>width) << 2) + (startBytes >> 1), ownDScores, seen, to, 32, false);
          }
          for (let r = 0; r < count; r++) {
            const angle = <usize>(past + first + r) * halfBytes;
            const to = dq + at + <usize>r * queryStride;
            rotateColumn(dQueryPanel + ((<usize>r) << 2), cos + angle, sin + angle, headDim, to);
          }
          // Each four keys of the panel become steps of a row panel.
          for (let key = start; key < limit; key += 4) {
            const from = (<usize>key) << 5;
            const to = (((<usize>key * queriesAtOnce) >> 2) + <usize>offset) << 4;
            transposePanel(probabilities + from, 32, 8, packedProbabilities + to, 16);
            transposePanel(dScores + from, 32, 8, packedDScores + to, 16);
          }
        }

        packColumns(queryRows, rowBytes, 4, tileSteps, dims, queryDims);
        packTileOfRows(
          dOut + queryAt + <usize>firstOfTile * queryStride,
          queryStride,
          tileCount,
          headDim,
          dims,
          tileSteps,
          queryRows,
          dOutDims,
        );
        const tileLimit = min(keys, roundUp(past + firstOfTile + tileSteps, 4));
        for (let key = firstKeySeen(past + firstOfTile, slidingWindow); key < tileLimit; key += 4) {
          // Panels of queries that see none of these four keys hold nothing for them.
          const skipped = max(0, key - past - firstOfTile) & ~7;
          const lastToSee = key + 2 + slidingWindow - past - firstOfTile;
          const steps = min(tileSteps, (lastToSee & ~7) + 8) - skipped;
          const from = ((<usize>key * queriesAtOnce) << 2) + ((<usize>skipped) << 4);
          for (let d = 0; d < dims; d += 8) {
            const to = <usize>key * rowBytes + ((<usize>d) << 2);
            const column = ((<usize>d * <usize>tileSteps) << 2) + ((<usize>skipped) << 5);
            tile(packedDScores + from, queryDims + column, steps, dKeys + to, rowBytes, true);
            tile(packedProbabilities + from, dOutDims + column, steps, dValues + to, rowBytes, true);
          }
        }
      }
    }
    rotateRows(dKeys, rowBytes, cos, sin, width, headDim, scale, -1, dk + keyAt, keyStride);
    for (let row = 0; row < width; row++) {
      memory.copy(dv + keyAt + <usize>row * keyStride, dValues + <usize>row * rowBytes, headBytes);
    }
  }
}

/** Rows of one head turned by their positions' angles, pairs (i, i + headDim / 2), and scaled.  @param direction -1 turns back */
function rotateRows(
  from: usize,
  fromStride: usize,
  cos: usize,
  sin: usize,
  rows: i32,
  headDim: i32,
  scale: f32,
  direction: f32,
  to: usize,
  toStride: usize,
): void {
  const half = (<usize>headDim) << 1;
  const vectorBytes = half & ~15;
  const scales = f32x4.splat(scale);
  const turns = f32x4.splat(scale * direction);
  for (let row = 0; row < rows; row++) {
    let at: usize = 0;
    for (; at < vectorBytes; at += 16) {
      const c = f32x4.mul(v128.load(cos + at), scales);
      const s = f32x4.mul(v128.load(sin + at), turns);
      const x = v128.load(from + at);
      const y = v128.load(from + half + at);
      v128.store(to + at, f32x4.sub(f32x4.mul(x, c), f32x4.mul(y, s)));
      v128.store(to + half + at, f32x4.add(f32x4.mul(y, c), f32x4.mul(x, s)));
    }
    for (; at < half; at += 4) {
      const c = load<f32>(cos + at) * scale;
      const s = load<f32>(sin + at) * (scale * direction);
      const x = load<f32>(from + at);
      const y = load<f32>(from + half + at);
      store<f32>(to + at, x * c - y * s);
      store<f32>(to + half + at, y * c + x * s);
    }
    from += fromStride;
    to += toStride;
    cos += half;
    sin += half;
  }
}

/** A gradient of one query, a column of a panel [headDim][8], turned back and written as a row. */
function rotateColumn(from: usize, cos: usize, sin: usize, headDim: i32, to: usize): void {
  const half = (<usize>headDim) << 1;
  for (let at: usize = 0; at < half; at += 4) {
    const c = load<f32>(cos + at);
    const s = load<f32>(sin + at);
    const x = load<f32>(from + (at << 3));
    const y = load<f32>(from + ((half + at) << 3));
    store<f32>(to + at, x * c + y * s);
    store<f32>(to + half + at, y * c - x * s);
  }
}

/** Up to 8 queries, turned: as rows [8, dims], zero where there is none, and as a column panel [headDim][8]. */
function takeQueries(
  from: usize,
  stride: usize,
  cos: usize,
  sin: usize,
  position: i32,
  count: i32,
  headDim: i32,
  dims: i32,
  rows: usize,
  panel: usize,
): void {
  const rowBytes = (<usize>dims) << 2;
  const angle = (<usize>position * <usize>headDim) << 1;
  if (count < 8 || dims > headDim) memory.fill(rows, 0, rowBytes << 3);
  rotateRows(from, stride, cos + angle, sin + angle, count, headDim, 1, 1, rows, rowBytes);
  packColumns(rows, 4, rowBytes, headDim, 8, panel);
}

/** Rows of one head as column panels over the tile's queries, [dims / 8][tileSteps][8], by way of `rows` [tileSteps, dims]. */
function packTileOfRows(
  from: usize,
  stride: usize,
  count: i32,
  headDim: i32,
  dims: i32,
  tileSteps: i32,
  rows: usize,
  to: usize,
): void {
  const rowBytes = (<usize>dims) << 2;
  if (count < tileSteps || dims > headDim) memory.fill(rows, 0, <usize>tileSteps * rowBytes);
  for (let r = 0; r < count; r++) {
    memory.copy(rows + <usize>r * rowBytes, from + <usize>r * stride, (<usize>headDim) << 2);
  }
  packColumns(rows, rowBytes, 4, tileSteps, dims, to);
}

/** The first key that the query at a position may look at, rounded down to a whole tile. */
function firstKeySeen(position: i32, slidingWindow: i32): i32 {
  return max(0, position - slidingWindow + 1) & ~3;
}

/**
 * scores[key][query] for keys from `start` to below `limit`; those that a query may not look at, after its own position or
 * before its window, are the most negative number.
 */
function scorePanel(
  keyRows: usize,
  queryPanel: usize,
  headDim: i32,
  start: i32,
  limit: i32,
  position: i32,
  slidingWindow: i32,
  scores: usize,
): void {
  scorePanelUnmasked(keyRows, queryPanel, headDim, start, limit, scores);
  const lanes0 = i32x4(0, 1, 2, 3);
  const lanes1 = i32x4(4, 5, 6, 7);
  const masked = f32x4.splat(mostNegative);
  for (let key = position + 1; key < limit; key++) {
    const at = scores + ((<usize>key) << 5);
    const ahead = i32x4.splat(key - position);
    v128.store(at, v128.bitselect(masked, v128.load(at), i32x4.gt_s(ahead, lanes0)));
    v128.store(at, v128.bitselect(masked, v128.load(at, 16), i32x4.gt_s(ahead, lanes1)), 16);
  }
  for (let key = start; key < min(limit, position + 8 - slidingWindow); key++) {
    const at = scores + ((<usize>key) << 5);
    const behind = i32x4.splat(key + slidingWindow - position);
    v128.store(at, v128.bitselect(masked, v128.load(at), i32x4.le_s(behind, lanes0)));
    v128.store(at, v128.bitselect(masked, v128.load(at, 16), i32x4.le_s(behind, lanes1)), 16);
  }
}

function scorePanelUnmasked(
  keyRows: usize,
  queryPanel: usize,
  headDim: i32,
  start: i32,
  limit: i32,
  scores: usize,
): void {
  for (let key = start; key < limit; key += 4) {
    const from = keyRows + ((<usize>key * <usize>headDim) << 2);
    tile(from, queryPanel, headDim, scores + ((<usize>key) << 5), 32, false);
  }
}

/** The largest of each lane.  @param at [limit][8], four lanes of it */
function largestDown(at: usize, limit: i32): v128 {
  let largest = f32x4.splat(mostNegative);
  for (const end = at + ((<usize>limit) << 5); at < end; at += 32) largest = f32x4.pmax(largest, v128.load(at));
  return largest;
}

/** The inverse of each lane's sum.  @param at [limit][8], four lanes of it */
function inverseSumDown(at: usize, limit: i32): v128 {
  let sum = f32x4.splat(0);
  for (const end = at + ((<usize>limit) << 5); at < end; at += 32) sum = f32x4.add(sum, v128.load(at));
  return f32x4.div(f32x4.splat(1), sum);
}

/** Exponentials become probabilities, the probabilities' gradients those of the scores.  Four lanes of [limit][8] each */
function scoreGradientDown(exponentials: usize, gradients: usize, limit: i32, inverse: v128): void {
  const bytes = (<usize>limit) << 5;
  let mean = f32x4.splat(0);
  for (let at: usize = 0; at < bytes; at += 32) {
    const p = f32x4.mul(v128.load(exponentials + at), inverse);
    v128.store(exponentials + at, p);
    mean = f32x4.add(mean, f32x4.mul(p, v128.load(gradients + at)));
  }
  for (let at: usize = 0; at < bytes; at += 32) {
    const p = v128.load(exponentials + at);
    v128.store(gradients + at, f32x4.mul(p, f32x4.sub(v128.load(gradients + at), mean)));
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Sums of rows by segment
// ---------------------------------------------------------------------------------------------------------------------

/**
 * into[id] = sum of the rows with that id.  x [rows, columns], ids int32 [rows], into [segments, columns]
 * @returns the first row whose id is `segments` or more, -1 when there is none; negative ids are left out
 */
export function segmentSum(x: usize, ids: usize, into: usize, rows: i32, columns: i32, segments: i32): i32 {
  const rowBytes = (<usize>columns) << 2;
  memory.fill(into, 0, <usize>segments * rowBytes);
  for (let row = 0; row < rows; row++) {
    const id = load<i32>(ids + ((<usize>row) << 2));
    if (id >= segments) return row;
    if (id >= 0) {
      const to = into + <usize>id * rowBytes;
      let at: usize = 0;
      for (const end = rowBytes & ~15; at < end; at += 16) {
        v128.store(to + at, f32x4.add(v128.load(to + at), v128.load(x + at)));
      }
      for (; at < rowBytes; at += 4) store<f32>(to + at, load<f32>(to + at) + load<f32>(x + at));
    }
    x += rowBytes;
  }
  return -1;
}
