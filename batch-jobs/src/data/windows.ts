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
      `The text has ${stream.length} tokens; one window needs ${sequenceLength}. ` +
        'Give a longer text or a smaller sequenceLength.',
      'sequenceLength',
    );
  }
  return Array.from({ length: count }, (_, i) => stream.subarray(i * sequenceLength, (i + 1) * sequenceLength));
}

/**
 * Segments that perplexity is measured on: the text from its start, in pieces of equal length, the rest left out.
 * @param tokenIds the text's stream, with or without BOS at its start   @param length tokens in a segment
 * @param bosPerSegment whether every segment begins with BOS, which then takes one token's place in it; some models
 *   (Gemma) give far worse figures without. Otherwise BOS stands once at the start.
 * @throws InputError when the text is too short for one segment
 * @source methods.md 1.9; the published code, `evaluate_perplexity.py`
 */
export function evaluationSegments(
  tokenIds: Int32Array,
  length: number,
  bosTokenId: number | null,
  bosPerSegment: boolean,
): Int32Array[] {
  if (!bosPerSegment || bosTokenId === null) return packWindows(tokenIds, length, bosTokenId);
  const text = tokenIds[0] === bosTokenId ? tokenIds.subarray(1) : tokenIds;
  return packWindows(text, length - 1, null).map((segment) => withFirst(bosTokenId, segment));
}

/** Cuts a stream that comes in parts into contiguous windows; they lie in chunks of about 4 MB, and nothing is copied later. */
export class WindowPacker {
  readonly windows: Int32Array[] = [];
  /** Tokens so far, those of an unfinished window included. */
  length = 0;
  readonly #sequenceLength: number;
  #chunk = new Int32Array(0);
  #filled = 0;

  /** @param first token that every window begins with; null for none */
  constructor(
    sequenceLength: number,
    private readonly first: number | null = null,
  ) {
    this.#sequenceLength = sequenceLength;
  }

  append(tokenIds: Int32Array): void {
    this.length += tokenIds.length;
    for (let position = 0; position < tokenIds.length;) {
      if (this.#filled === this.#chunk.length) {
        this.#chunk = new Int32Array(Math.max(1, Math.floor(2 ** 20 / this.#sequenceLength)) * this.#sequenceLength);
        this.#filled = 0;
      }
      if (this.first !== null && this.#filled % this.#sequenceLength === 0) {
        this.#chunk[this.#filled++] = this.first;
        if (tokenIds[position] === this.first) position++;
      }
      // To the end of the present window at most.
      const room = this.#sequenceLength - (this.#filled % this.#sequenceLength);
      const part = tokenIds.subarray(position, position + room);
      this.#chunk.set(part, this.#filled);
      position += part.length;
      this.#filled += part.length;
      if (part.length === room)
        this.windows.push(this.#chunk.subarray(this.#filled - this.#sequenceLength, this.#filled));
    }
  }
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
