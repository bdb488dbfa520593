/** Token streams cut into training windows, and the order that training takes them in. */
import { InputError } from '../errors.ts';
import { createRandom, shuffledIndices } from '../numeric/random.ts';

/**
 * Cuts a stream into contiguous windows; what is left at the end is dropped.
 * @param tokenIds the stream; BOS is put before it, once, when there is one and the stream does not begin with it
 * @returns windows of exactly `sequenceLength` tokens; they share one buffer
 * @throws InputError when the text is too short for one window
 */
export function packWindows(tokenIds: Int32Array, sequenceLength: number, bosTokenId: number | null): Int32Array[] {
  const stream = bosTokenId === null || tokenIds[0] === bosTokenId ? tokenIds : withFirst(bosTokenId, tokenIds);
  const count = Math.floor(stream.length / sequenceLength);
  if (count === 0) {
    throw new InputError(
      'text_too_short',
      `The calibration text has ${stream.length} tokens; one window needs ${sequenceLength}. ` +
        'Give a longer text or a smaller sequenceLength.',
      'sequenceLength',
    );
  }
  return Array.from({ length: count }, (_, i) => stream.subarray(i * sequenceLength, (i + 1) * sequenceLength));
}

function withFirst(first: number, rest: Int32Array): Int32Array {
  const joined = new Int32Array(rest.length + 1);
  joined[0] = first;
  joined.set(rest, 1);
  return joined;
}

/**
 * The order of training windows over any number of epochs: in each epoch every window once, shuffled anew. A pure function
 * of seed and position, so a resumed run goes on with what an undisturbed one would have taken.
 * @param options.count windows, at least 1   @param options.seed whole number
 * @returns window index at a position from 0 on; fastest when positions ascend
 */
export function createSampler({ count, seed }: { count: number; seed: number }): (position: number) => number {
  if (!Number.isInteger(count) || count < 1) throw new RangeError(`A sampler needs at least one window; got ${count}.`);
  let currentEpoch = -1;
  let order: Uint32Array = new Uint32Array(0);
  return (position) => {
    const epoch = Math.floor(position / count);
    if (epoch !== currentEpoch) {
      order = shuffledIndices(count, createRandom(seed, epoch));
      currentEpoch = epoch;
    }
    return order[position % count];
  };
}
