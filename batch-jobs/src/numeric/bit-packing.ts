/**
 * Dense streams of small unsigned integers: value i takes bits `i * bits` and up, least significant bit first, and bit k
 * of the stream is bit `k % 8` of byte `k / 8`. Unused bits of the last byte are zero.
 *
 * @source the published CherryQ code packs 3 bits so: 8 values in 3 bytes
 */

/** Bytes that `count` values take. */
export function packedBytes(count: number, bits: number): number {
  return Math.ceil((count * bits) / 8);
}

/**
 * @param values each below `2 ** bits`   @param bits 1 to 8
 * @throws RangeError for another width or a value that does not fit
 */
export function packBits(values: Uint8Array | Uint16Array, bits: number): Uint8Array {
  return packRows(values, 1, values.length, bits);
}

/** @throws RangeError for a width outside 1 to 8 or when `packed` is not of exactly `packedBytes(count, bits)` bytes */
export function unpackBits(packed: Uint8Array, bits: number, count: number): Uint8Array {
  return unpackRows(packed, 1, count, bits);
}

/**
 * Packs a matrix so that every row starts at a byte.
 * @param values [rows, columns] row-major   @returns [rows, ceil(columns * bits / 8)]
 * @throws RangeError for a width outside 1 to 8, another shape, or a value that does not fit
 */
export function packRows(values: Uint8Array | Uint16Array, rows: number, columns: number, bits: number): Uint8Array {
  checkWidth(bits);
  checkLength('values', values.length, rows * columns);
  const rowBytes = packedBytes(columns, bits);
  const packed = new Uint8Array(rows * rowBytes);
  let from = 0;
  for (let row = 0; row < rows; row++) {
    let to = row * rowBytes;
    let pending = 0;
    let pendingBits = 0;
    for (const until = from + columns; from < until; from++) {
      const value = values[from];
      if (value >>> bits !== 0) throw new RangeError(`Value ${value} at index ${from} does not fit into ${bits} bits.`);
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
  return packed;
}

/**
 * The inverse of `packRows`.
 * @param packed [rows, ceil(columns * bits / 8)]   @returns [rows, columns] row-major
 * @throws RangeError for a width outside 1 to 8 or another shape
 */
export function unpackRows(packed: Uint8Array, rows: number, columns: number, bits: number): Uint8Array {
  checkWidth(bits);
  const rowBytes = packedBytes(columns, bits);
  checkLength('packed bytes', packed.length, rows * rowBytes);
  const values = new Uint8Array(rows * columns);
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
  return values;
}

function checkWidth(bits: number): void {
  if (!Number.isInteger(bits) || bits < 1 || bits > 8) throw new RangeError(`bits must be 1 to 8; got ${bits}.`);
}

function checkLength(what: string, length: number, expected: number): void {
  if (length !== expected) throw new RangeError(`Expected ${expected} ${what} for this shape; got ${length}.`);
}
