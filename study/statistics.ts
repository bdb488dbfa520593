/** Means and spreads over seeds, and what a difference between two methods says. */

export interface Spread {
  readonly mean: number;
  /** Standard deviation of the sample; 0 for one value. */
  readonly deviation: number;
  readonly count: number;
}

/** @throws RangeError for no values */
export function spreadOf(values: readonly number[]): Spread {
  if (values.length === 0) throw new RangeError('There is no value to take the mean of.');
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, deviation: values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : 0, count: values.length };
}

/** Of a list without order; of an even count the upper of both in the middle.  @returns NaN for no values */
export function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN;
}

/** Quantile 0.975 of Student's t by degrees of freedom, from 1 on.  @source any table of it */
const studentT = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262] as const;

export interface Comparison {
  /** Mean of a - b over pairs, and half the width of its 95 % interval. */
  readonly difference: number;
  readonly margin: number;
  /** `lower` and `higher`: the interval leaves out zero; `unclear`: it does not. */
  readonly verdict: 'lower' | 'higher' | 'unclear';
}

/** Pairs share what is not compared, such as the seed.  @throws RangeError unless there are 2 to 10 pairs */
export function compare(a: readonly number[], b: readonly number[]): Comparison {
  if (a.length !== b.length || a.length < 2 || a.length > studentT.length + 1) {
    throw new RangeError(
      `A comparison needs 2 to ${studentT.length + 1} pairs; got ${a.length} and ${b.length} values.`,
    );
  }
  const { mean, deviation } = spreadOf(a.map((value, index) => value - b[index]));
  const margin = (studentT[a.length - 2] * deviation) / Math.sqrt(a.length);
  const verdict = mean + margin < 0 ? 'lower' : mean - margin > 0 ? 'higher' : 'unclear';
  return { difference: mean, margin, verdict };
}
