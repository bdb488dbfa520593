/**
 * Dense streams of small unsigned integers: value i takes bits `i * bits` and up, least significant bit first, and bit k
 * of the stream is bit `k % 8` of byte `k / 8`. Unused bits of the last byte are zero.
 *
 * @source the published CherryQ code packs 3 bits so: 8 values in 3 bytes
 */
import { loadKernels } from './kernel-module.ts';

/** Bytes that `count` values take. */
export function packedBytes(count: number, bits: number): number {
  return Math.ceil((count * bits) / 8);
}

/**
 * Packs a matrix so that every row starts at a byte.
 * @param values [rows, columns] row-major   @param into where the result goes, of exactly its length
 * @returns `into`: [rows, ceil(columns * bits / 8)]
 * @throws RangeError for a width outside 1 to 8, another shape, or a value that does not fit
 */
export function packRows(
  values: Uint8Array | Uint16Array,
  rows: number,
  columns: number,
  bits: number,
  into: Uint8Array = new Uint8Array(rows * packedBytes(columns, bits)),
): Uint8Array {
  checkWidth(bits);
  checkLength('values', values.length, rows * columns);
  checkLength('packed bytes', into.length, rows * packedBytes(columns, bits));
  if (!(values instanceof Uint8Array) || !kernelWidths.has(bits)) packEach(values, rows, columns, bits, into);
  else if (bits === 8) copyBytes(values, into);
  else packByKernel(values, rows, columns, bits, into);
  return into;
}

/**
 * The inverse of `packRows`.
 * @param packed [rows, ceil(columns * bits / 8)]   @returns [rows, columns] row-major
 * @throws RangeError for a width outside 1 to 8 or another shape
 */
export function unpackRows(packed: Uint8Array, rows: number, columns: number, bits: number): Uint8Array {
  checkWidth(bits);
  checkLength('packed bytes', packed.length, rows * packedBytes(columns, bits));
  const values = new Uint8Array(rows * columns);
  if (!kernelWidths.has(bits)) unpackEach(packed, rows, columns, bits, values);
  else if (bits === 8) copyBytes(packed, values);
  else unpackByKernel(packed, rows, columns, bits, values);
  return values;
}

/** Widths that are stored, and so are worth a kernel each (batch-jobs/kernels/quantize.ts). */
const kernelWidths: ReadonlySet<number> = new Set([2, 3, 4, 8]);

interface PackingKernels {
  packRows(values: number, rows: number, columns: number, bits: number, scratch: number, packed: number): number;
  unpackRows(packed: number, rows: number, columns: number, bits: number, values: number): void;
}

/** Values that pass through a kernel's memory together: a multiple of 64, so that they begin and end at a byte. */
const valuesAtOnce = 131_072;
const copiedAtOnce = 262_144;
/** Kernels work in whole vectors, up to this far beyond an array's end. */
const slack = 64;

/** Copies in pieces that stay in a core's own cache, which is faster than one long move. */
function copyBytes(from: Uint8Array, into: Uint8Array): void {
  for (let at = 0; at < from.length; at += copiedAtOnce) into.set(from.subarray(at, at + copiedAtOnce), at);
}

/** Parts of a matrix that a kernel takes at once: whole rows, or a piece of one. */
function* pieces(
  rows: number,
  columns: number,
  bits: number,
): Generator<{ rows: number; columns: number; from: number; to: number }> {
  // Rows that end at a byte follow each other as one long row.
  const isOne = (columns * bits) % 8 === 0;
  const rowCount = isOne ? 1 : rows;
  const rowLength = isOne ? rows * columns : columns;
  const rowBytes = packedBytes(rowLength, bits);
  const rowsAtOnce = Math.max(1, Math.floor(valuesAtOnce / Math.max(1, rowLength)));
  for (let row = 0; row < rowCount; row += rowsAtOnce) {
    for (let column = 0; column < rowLength; column += valuesAtOnce) {
      yield {
        rows: Math.min(rowsAtOnce, rowCount - row),
        columns: Math.min(valuesAtOnce, rowLength - column),
        from: row * rowLength + column,
        to: row * rowBytes + (column * bits) / 8,
      };
    }
  }
}

function packByKernel(values: Uint8Array, rows: number, columns: number, bits: number, into: Uint8Array): void {
  const { kernels, arena } = loadKernels<PackingKernels>('quantize', 3 * (valuesAtOnce + slack + 16));
  const chunk = arena.bytes(valuesAtOnce + slack);
  const scratch = arena.bytes(valuesAtOnce + slack);
  const packed = arena.bytes(valuesAtOnce + slack);
  for (const piece of pieces(rows, columns, bits)) {
    const count = piece.rows * piece.columns;
    chunk.set(values.subarray(piece.from, piece.from + count));
    // A piece whose last vector is not whole sees zeros there.
    chunk.fill(0, count, count + slack);
    const all = kernels.packRows(
      chunk.byteOffset,
      piece.rows,
      piece.columns,
      bits,
      scratch.byteOffset,
      packed.byteOffset,
    );
    if (all >>> bits !== 0) throw misfit(values, piece.from, bits);
    into.set(packed.subarray(0, piece.rows * packedBytes(piece.columns, bits)), piece.to);
  }
}

function unpackByKernel(packed: Uint8Array, rows: number, columns: number, bits: number, values: Uint8Array): void {
  const { kernels, arena } = loadKernels<PackingKernels>('quantize', 2 * (valuesAtOnce + slack + 16));
  const chunk = arena.bytes(valuesAtOnce + slack);
  const unpacked = arena.bytes(valuesAtOnce + slack);
  for (const piece of pieces(rows, columns, bits)) {
    const bytes = piece.rows * packedBytes(piece.columns, bits);
    chunk.set(packed.subarray(piece.to, piece.to + bytes));
    kernels.unpackRows(chunk.byteOffset, piece.rows, piece.columns, bits, unpacked.byteOffset);
    values.set(unpacked.subarray(0, piece.rows * piece.columns), piece.from);
  }
}

/** @param from where in `values` one is known to follow */
function misfit(values: Uint8Array | Uint16Array, from: number, bits: number): RangeError {
  let index = from;
  while (values[index] >>> bits === 0) index++;
  return new RangeError(`Value ${values[index]} at index ${index} does not fit into ${bits} bits.`);
}

function packEach(
  values: Uint8Array | Uint16Array,
  rows: number,
  columns: number,
  bits: number,
  packed: Uint8Array,
): void {
  const rowBytes = packedBytes(columns, bits);
  let from = 0;
  for (let row = 0; row < rows; row++) {
    let to = row * rowBytes;
    let pending = 0;
    let pendingBits = 0;
    for (const until = from + columns; from < until; from++) {
      const value = values[from];
      if (value >>> bits !== 0) throw misfit(values, from, bits);
      pending |= value << pendingBits;
      pendingBits += bits;
      if (pendingBits >= 8) {
        packed[to++] = pending;
        pending >>>= 8;
        pendingBits -= 8;
      }
    }
    if (pendingBits > 0) packed[to] = pending;
  }
}

function unpackEach(packed: Uint8Array, rows: number, columns: number, bits: number, values: Uint8Array): void {
  const rowBytes = packedBytes(columns, bits);
  const mask = 2 ** bits - 1;
  let to = 0;
  for (let row = 0; row < rows; row++) {
    let from = row * rowBytes;
    let pending = 0;
    let pendingBits = 0;
    for (const until = to + columns; to < until; to++) {
      if (pendingBits < bits) {
        pending |= packed[from++] << pendingBits;
        pendingBits += 8;
      }
      values[to] = pending & mask;
      pending >>>= bits;
      pendingBits -= bits;
    }
  }
}

function checkWidth(bits: number): void {
  if (!Number.isInteger(bits) || bits < 1 || bits > 8) throw new RangeError(`bits must be 1 to 8; got ${bits}.`);
}

function checkLength(what: string, length: number, expected: number): void {
  if (length !== expected) throw new RangeError(`Expected ${expected} ${what} for this shape; got ${length}.`);
}
