/** What a suite measured: the rows that are printed and written, each with its repeats so that noise can be seen. */
export interface SuiteRow {
  /** What was done, e.g. `one QAT step, 15M Llama`. */
  readonly what: string;
  /** Of `ours` and `peer`: larger is better. */
  readonly unit: string;
  /** Median of the repeats. */
  readonly ours: number;
  readonly peer: number;
  /** ours / peer */
  readonly ratio: number;
  readonly repeats: { readonly ours: readonly number[]; readonly peer: readonly number[] };
  /** What else belongs to the figure: peak memory, a limit measured beside it. */
  readonly note?: string;
}

export interface SuiteResult {
  readonly name: string;
  /** Who the peer is, with its version. */
  readonly peer: string;
  readonly rows: readonly SuiteRow[];
}

export interface SuiteOptions {
  readonly repeats: number;
  /** Value for `CHERRYQ_ENGINE` of our side; undefined takes the best one present. */
  readonly engine: string | undefined;
  /** `small` keeps a run under a minute or so, for CI. */
  readonly size: 'full' | 'small';
  /** Where large files may lie while a suite runs. */
  readonly folder: string;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** A row from rates measured in turns. */
export function rowOf(
  what: string,
  unit: string,
  repeats: { ours: readonly number[]; peer: readonly number[] },
  note?: string,
): SuiteRow {
  const ours = median(repeats.ours);
  const peer = median(repeats.peer);
  return { what, unit, ours, peer, ratio: ours / peer, repeats, note };
}
