/** How work on tensors in main memory is divided among the host's threads. */
import type { Range } from '../numeric/train-tasks.ts';

/** A tensor that can be cut between its units: elements, or rows. */
export interface Divisible<Tensor> {
  readonly tensor: Tensor;
  readonly units: number;
  /** Elements of a unit. */
  readonly size: number;
}

/** Cuts all tensors, one after another, into at most `count` shares of about equal size. */
export function rangesOf<Tensor>(tensors: readonly Divisible<Tensor>[], count: number): Range<Tensor>[][] {
  const total = tensors.reduce((sum, { units, size }) => sum + units * size, 0);
  const shares: Range<Tensor>[][] = Array.from({ length: count }, () => []);
  let before = 0;
  for (const { tensor, units, size } of tensors) {
    for (let from = 0; from < units;) {
      const share = Math.min(count - 1, Math.floor(((before + from * size) * count) / total));
      const end = share === count - 1 ? Infinity : (total * (share + 1)) / count;
      const until = Math.min(units, Math.max(from + 1, Math.ceil((end - before) / size)));
      shares[share].push({ tensor, from, until });
      from = until;
    }
    before += units * size;
  }
  return shares.filter((share) => share.length > 0);
}

/** Puts each item, largest first, into the share that has least. */
export function divide<Item>(items: readonly { item: Item; size: number }[], count: number): Item[][] {
  const shares = Array.from({ length: count }, () => ({ items: [] as Item[], size: 0 }));
  for (const { item, size } of [...items].sort((a, b) => b.size - a.size)) {
    const least = shares.reduce((best, share) => (share.size < best.size ? share : best));
    least.items.push(item);
    least.size += size;
  }
  return shares.filter((share) => share.items.length > 0).map((share) => share.items);
}
