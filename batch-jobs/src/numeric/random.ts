/**
 * The one source of randomness: every random choice of a job comes from a seed through here, so a run can be repeated.
 * xoshiro128** with its four words of state taken from splitmix32. Not for secrets.
 *
 * @source Blackman & Vigna, "Scrambled linear pseudorandom number generators" (2021); splitmix32 is the 32-bit finalizer of
 * MurmurHash3 over a Weyl sequence
 */

/**
 * @param seed whole number, 0 to 2^32 - 1   @param stream another whole number: independent sequences of one seed
 * @returns a generator of uniform numbers in [0, 1), multiples of 2^-32
 */
export function createRandom(seed: number, stream = 0): () => number {
  const nextWord = splitmix32(splitmix32(seed)() ^ splitmix32(~stream)());
  const generate = xoshiro128([nextWord(), nextWord(), nextWord(), nextWord()]);
  return () => generate() / 2 ** 32;
}

function splitmix32(seed: number): () => number {
  let counter = seed | 0;
  return () => {
    counter = (counter + 0x9e3779b9) | 0;
    let word = counter ^ (counter >>> 16);
    word = Math.imul(word, 0x85ebca6b);
    word = Math.imul(word ^ (word >>> 13), 0xc2b2ae35);
    return (word ^ (word >>> 16)) >>> 0;
  };
}

/** xoshiro128** 1.1: 32-bit unsigned words.  @param state four words, not all zero */
export function xoshiro128(state: readonly [number, number, number, number]): () => number {
  let [a, b, c, d] = state;
  return () => {
    const scrambled = Math.imul(rotateLeft(Math.imul(b, 5), 7), 9) >>> 0;
    const shifted = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= shifted;
    d = rotateLeft(d, 11);
    return scrambled;
  };
}

function rotateLeft(word: number, count: number): number {
  return (word << count) | (word >>> (32 - count));
}

/** Numbers 0 to count - 1 in random order, each order equally likely (Fisher-Yates). */
export function shuffledIndices(count: number, random: () => number): Uint32Array {
  const indices = Uint32Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    const moved = indices[i];
    indices[i] = indices[j];
    indices[j] = moved;
  }
  return indices;
}
