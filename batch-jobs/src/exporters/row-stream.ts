/**
 * Work on the rows of many tensors, one after another, with bounded memory: while a part is being written, the next ones are
 * read and worked on by the host threads, across the borders of tensors. Parts come out in order, so the result does not
 * depend on which thread is faster.
 */
import { assertFloat16 } from '../formats/model-folder.ts';
import { float16Max, floatBytes, toFloat32 } from '../numeric/dtypes.ts';
import { hostPool, sharedBytes } from '../numeric/pool.ts';
import type { SourceRows } from '../numeric/quantize-tasks.ts';
import type { TensorToWrite } from '../formats/safetensors.ts';
import type { WeightRanges } from './exporter.ts';

/** What is to be done with the rows of one tensor. */
export interface RowWork<Result> {
  readonly name: string;
  readonly rows: number;
  readonly columns: number;
  /** Bytes that a row's result takes in `out`. */
  readonly outRowBytes: number;
  /** @param chunk rows in shared memory   @param out shared memory for their results, of exactly their length */
  run(chunk: RowChunk, out: Uint8Array): Promise<Result>;
}

export interface RowChunk extends SourceRows {
  /** Of the tensor. */
  readonly fromRow: number;
}

export interface FinishedRows<Result> {
  readonly fromRow: number;
  readonly rows: number;
  /** Valid until the next part is asked for. */
  readonly out: Uint8Array;
  readonly result: Result;
}

interface Slot {
  readonly source: Uint8Array;
  readonly out: Uint8Array;
}

interface Pending<Result> {
  readonly index: number;
  readonly fromRow: number;
  readonly rows: number;
  readonly slot: Slot;
  readonly done: Promise<Result>;
}

/** Bytes of a part, as it is read or as it is written, whichever is more. */
const partBytes = 2 ** 23;

export class RowStream<Result> {
  private free: Slot[] | null = null;
  private pending: Pending<Result>[] = [];
  /** Where reading goes on. */
  private next = { index: 0, row: 0 };

  /** @param works in the order in which they will be asked for, as far as that is known; may grow until then */
  constructor(
    private readonly weights: WeightRanges,
    private readonly works: readonly RowWork<Result>[],
  ) {}

  /** The results of one tensor.  @param index of its work */
  async *parts(index: number): AsyncGenerator<FinishedRows<Result>> {
    const [first] = this.pending;
    if (first ? first.index !== index || first.fromRow !== 0 : this.next.index !== index || this.next.row !== 0) {
      await this.stop();
      this.next = { index, row: 0 };
    }
    let isComplete = false;
    try {
      for (let row = 0; row < this.works[index].rows;) {
        this.start();
        const { fromRow, rows, slot, done } = this.pending[0];
        const result = await done;
        this.pending.shift();
        yield { fromRow, rows, out: this.outOf(index, slot, rows), result };
        this.free?.push(slot);
        row += rows;
      }
      isComplete = true;
    } finally {
      if (!isComplete) await this.stop();
    }
  }

  /** Begins with as many parts as there is room for. */
  private start(): void {
    this.free ??= this.createSlots();
    while (this.free.length > 0 && this.next.index < this.works.length) {
      const { index, row } = this.next;
      const work = this.works[index];
      const rows = Math.min(this.rowsAtOnce(work), work.rows - row);
      const slot = this.free.pop() as Slot;
      const done = this.work(work, row, rows, slot, this.outOf(index, slot, rows));
      // It is thrown where its turn comes.
      done.catch(() => undefined);
      this.pending.push({ index, fromRow: row, rows, slot, done });
      this.next = row + rows < work.rows ? { index, row: row + rows } : { index: index + 1, row: 0 };
    }
  }

  private async work(work: RowWork<Result>, row: number, rows: number, slot: Slot, out: Uint8Array): Promise<Result> {
    const { name, columns } = work;
    const dtype = this.weights.dtype(name);
    const source = slot.source.subarray(0, rows * columns * floatBytes[dtype]);
    await this.weights.read(name, row * columns, source);
    return work.run({ source, dtype, rows, columns, fromRow: row }, out);
  }

  /** Waits for what has begun and forgets it. */
  private async stop(): Promise<void> {
    await Promise.allSettled(this.pending.map(({ done }) => done));
    this.pending = [];
    this.free = null;
    this.next = { index: this.works.length, row: 0 };
  }

  /** One part for each thread, and one each that is being read, waits, and is being written. */
  private createSlots(): Slot[] {
    const most = (bytes: (work: RowWork<Result>) => number): number =>
      this.works.reduce((all, work) => Math.max(all, Math.min(work.rows, this.rowsAtOnce(work)) * bytes(work)), 0);
    const sourceBytes = most((work) => work.columns * floatBytes[this.weights.dtype(work.name)]);
    const outBytes = most((work) => work.outRowBytes);
    return Array.from({ length: hostPool().threads + 3 }, () => ({
      source: sharedBytes(sourceBytes),
      out: sharedBytes(outBytes),
    }));
  }

  private rowsAtOnce(work: RowWork<Result>): number {
    const rowBytes = Math.max(work.columns * floatBytes[this.weights.dtype(work.name)], work.outRowBytes);
    return Math.max(1, Math.floor(partBytes / rowBytes));
  }

  private outOf(index: number, slot: Slot, rows: number): Uint8Array {
    return slot.out.subarray(0, rows * this.works[index].outRowBytes);
  }
}

/**
 * A tensor that stays in 16 bits.
 * @param add puts its work into the stream's list and gives its index
 */
export function halfTensor(
  stream: RowStream<unknown>,
  add: (work: RowWork<void>) => number,
  weights: WeightRanges,
  name: string,
  shape: number[],
): TensorToWrite {
  const count = shape.reduce((product, size) => product * size, 1);
  const index = add({
    name,
    rows: count,
    columns: 1,
    outRowBytes: 2,
    async run({ source, dtype }, out) {
      const largest = await hostPool().run('halveNumbers', { source, dtype, into: out });
      await checkLargest(largest, weights, name, count);
    },
  });
  return { name, dtype: 'F16', shape, data: () => outputs(stream, index) };
}

/** The results of one tensor, as they lie in memory. */
export async function* outputs(stream: RowStream<unknown>, index: number): AsyncGenerator<Uint8Array> {
  for await (const { out } of stream.parts(index)) yield out;
}

/**
 * Looks closer at a tensor when some of its rows were found to hold what float16 cannot.
 * @param count values in the tensor   @throws InputError as `assertFloat16`
 */
export async function checkLargest(largest: number, weights: WeightRanges, name: string, count: number): Promise<void> {
  if (largest <= float16Max) return;
  const dtype = weights.dtype(name);
  const bytes = new Uint8Array(count * floatBytes[dtype]);
  await weights.read(name, 0, bytes);
  assertFloat16(toFloat32(bytes, dtype), name);
  throw new Error(`"${name}" changed while it was being read: it held ${largest}, and does no longer.`);
}
