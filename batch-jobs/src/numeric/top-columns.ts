/**
 * The columns of largest magnitude in each row, by a heap of as many: one comparison for most of a row's values, so that a
 * matrix is searched at about the speed of reading it.
 */

/**
 * @param values [rows, columns] row-major, finite   @param count of columns wanted in each row, 1 to `columns`
 * @returns [rows, count], by descending magnitude; of equal ones the lower column comes first
 */
export function topColumns(values: Float32Array, columns: number, count: number): Uint32Array {
  if (!Number.isInteger(count) || count < 1 || count > columns) {
    throw new RangeError(`The top ${count} of ${columns} columns were asked for.`);
  }
  const rows = values.length / columns;
  const top = new Uint32Array(rows * count);
  const magnitudes = new Float32Array(count);
  const heap = new Uint32Array(count);
  for (let row = 0; row < rows; row++) {
    const start = row * columns;
    for (let column = 0; column < count; column++) {
      magnitudes[column] = Math.abs(values[start + column]);
      heap[column] = column;
    }
    for (let at = (count >>> 1) - 1; at >= 0; at--) sink(magnitudes, heap, at, count);
    for (let column = count; column < columns; column++) {
      const magnitude = Math.abs(values[start + column]);
      // A later column must be larger to come in: of equal ones the lower is kept.
      if (!(magnitude > magnitudes[0])) continue;
      magnitudes[0] = magnitude;
      heap[0] = column;
      sink(magnitudes, heap, 0, count);
    }
    for (let left = count; left > 0; left--) {
      top[row * count + left - 1] = heap[0];
      magnitudes[0] = magnitudes[left - 1];
      heap[0] = heap[left - 1];
      sink(magnitudes, heap, 0, left - 1);
    }
  }
  return top;
}

/** Mean magnitude of each column, [in], summed in double precision. */
export function columnMeans(values: Float32Array, columns: number): Float32Array {
  const rows = values.length / columns;
  const sums = new Float64Array(columns);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) sums[column] += Math.abs(values[row * columns + column]);
  }
  return Float32Array.from(sums, (sum) => sum / rows);
}

/** Moves the element at `at` down until no child of it is less: of smaller magnitude or, if equal, of a higher column. */
function sink(magnitudes: Float32Array, heap: Uint32Array, at: number, size: number): void {
  if (size === 0) return;
  const magnitude = magnitudes[at];
  const column = heap[at];
  for (;;) {
    let child = 2 * at + 1;
    if (child >= size) break;
    const right = child + 1;
    if (right < size && isLess(magnitudes[right], heap[right], magnitudes[child], heap[child])) child = right;
    if (!isLess(magnitudes[child], heap[child], magnitude, column)) break;
    magnitudes[at] = magnitudes[child];
    heap[at] = heap[child];
    at = child;
  }
  magnitudes[at] = magnitude;
  heap[at] = column;
}

function isLess(magnitude: number, column: number, other: number, otherColumn: number): boolean {
  return magnitude < other || (magnitude === other && column > otherColumn);
}
