/**
 * How a few weights of a matrix stand out from the rest, computed exactly in two passes over the matrix and no copy of it:
 * magnitudes of float32 order as their bits do, so a histogram of the upper bits, and one of the lower bits where a rank falls,
 * give every order statistic and every sum above it.
 */

/** Bits of a magnitude that the first pass counts by: the exponent and seven of the fraction. */
const upperCount = 2 ** 15;
const lowerCount = 2 ** 16;
const lowerMask = lowerCount - 1;
/** Upper bits of infinity and of what is not a number. */
const notFinite = 0x7f80;
/** Smallest positive float32: what stands in for a rest that is zero, so that a score stays finite. */
const leastFloat32 = 2 ** -149;

/** The `count` values of largest magnitude. */
export interface Largest {
  /** Smallest of their magnitudes. */
  readonly least: number;
  /** Sum of their magnitudes, in double precision. */
  readonly sum: number;
}

/**
 * The largest magnitudes, for each of several counts.
 * @param counts each from 1 to the number of values   @throws RangeError for another count, or a value that is not finite
 */
export function largestMagnitudes(values: Float32Array, counts: readonly number[]): Largest[] {
  for (const count of counts) {
    if (Number.isInteger(count) && count >= 1 && count <= values.length) continue;
    throw new RangeError(`The largest ${count} of ${values.length} values were asked for.`);
  }
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const upper = new Uint32Array(upperCount);
  const upperSums = new Float64Array(upperCount);
  for (let i = 0; i < bits.length; i++) {
    const bin = (bits[i] & 0x7fffffff) >>> 16;
    upper[bin]++;
    upperSums[bin] += Math.abs(values[i]);
  }
  for (let bin = notFinite; bin < upperCount; bin++) {
    if (upper[bin] > 0) throw new RangeError(`${upper[bin]} of ${values.length} values are not finite.`);
  }

  // The bin that each rank falls into, and what is above it.
  const ranks = counts.map((count) => {
    let bin = notFinite - 1;
    let above = 0;
    let sum = 0;
    while (above + upper[bin] < count) {
      above += upper[bin];
      sum += upperSums[bin--];
    }
    return { bin, left: count - above, sum };
  });
  const slots = new Int32Array(upperCount).fill(-1);
  let used = 0;
  for (const { bin } of ranks) if (slots[bin] < 0) slots[bin] = used++;
  const lower = new Uint32Array(used * lowerCount);
  for (let i = 0; i < bits.length; i++) {
    const slot = slots[(bits[i] & 0x7fffffff) >>> 16];
    if (slot >= 0) lower[slot * lowerCount + (bits[i] & lowerMask)]++;
  }
  return ranks.map(({ bin, left, sum }) => {
    let own = sum;
    let missing = left;
    for (let low = lowerMask; ; low--) {
      const count = lower[slots[bin] * lowerCount + low];
      if (count === 0) continue;
      const least = magnitudeOf(bin, low);
      const taken = Math.min(count, missing);
      own += taken * least;
      missing -= taken;
      if (missing === 0) return { least, sum: own };
    }
  });
}

const oneBits = new Uint32Array(1);
const oneFloat = new Float32Array(oneBits.buffer);

function magnitudeOf(upper: number, lower: number): number {
  oneBits[0] = (upper << 16) | lower;
  return oneFloat[0];
}

/** Weights that count as the top hundredth of `size`; at least one. */
const topHundredth = (size: number): number => Math.max(1, Math.round(size / 100));

/**
 *   score = mean(top 1 % of f) / max(bottom 99 % of f),  f the magnitudes of `values`
 * @source Cui & Wang 2024, equation 4
 */
export function heterogeneityScore(values: Float32Array): number {
  const top = topHundredth(values.length);
  const [{ sum }, next] = largestMagnitudes(values, top < values.length ? [top, top + 1] : [top]);
  return sum / top / Math.max(next?.least ?? 0, leastFloat32);
}

/** The score of a matrix whose rows are all `row`: every weight of a column counts as its input's activation does. */
export function heterogeneityOfRows(row: Float32Array, rows: number): number {
  const descending = Float32Array.from(row, Math.abs).sort().reverse();
  const top = topHundredth(row.length * rows);
  const whole = Math.floor(top / rows);
  let sum = 0;
  for (let column = 0; column < whole; column++) sum += rows * descending[column];
  // The hundredth may end within a column, whose other weights are then the largest of the rest.
  if (top > whole * rows) sum += (top - whole * rows) * descending[whole];
  return sum / top / Math.max(descending[whole] ?? 0, leastFloat32);
}
