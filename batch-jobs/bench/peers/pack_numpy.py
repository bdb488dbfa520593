"""Packs small integers with NumPy as docs/format.md says, for the suite `pack`.

    python pack_numpy.py VALUES BITS CALLS PACKED

Loads VALUES (bytes, each below 2^BITS), then packs them CALLS times for each line of standard input and prints the
seconds of all. The first result is saved to PACKED, which the suite compares with its own. Whole words at a time, in blocks that fit the cache,
with every array made beforehand: the fastest of the ways that were tried (strided slices reach a third of it).
"""

import sys
import time

import numpy as np

BLOCK = 65536


def packer(values, bits):
    """A function that packs the values into an array, and the array."""
    count = len(values)
    if bits == 8:
        packed = np.zeros(count, np.uint8)
        return lambda: np.copyto(packed, values), packed
    # So many values make a whole number of bytes, and the word that they lie in.
    per_word, word = {2: (4, np.uint32), 3: (8, np.uint64), 4: (2, np.uint16)}[bits]
    word_bytes = per_word * bits // 8
    packed = np.zeros((count // per_word, word_bytes), np.uint8)
    a = np.empty(BLOCK // per_word, word)
    b = np.empty(BLOCK // per_word, word)

    def pack():
        for start in range(0, count, BLOCK):
            words = values[start : start + BLOCK].view(word)
            into = packed[start // per_word : (start + BLOCK) // per_word]
            if bits == 4:
                np.right_shift(words, 4, out=a)
                np.bitwise_or(a, words, out=a)
            elif bits == 2:
                np.right_shift(words, 6, out=a)
                np.bitwise_or(a, words, out=a)
                np.right_shift(a, 12, out=b)
                np.bitwise_or(a, b, out=a)
            else:
                np.right_shift(words, 5, out=a)
                np.bitwise_or(a, words, out=a)
                np.bitwise_and(a, 0x003F003F003F003F, out=a)
                np.right_shift(a, 10, out=b)
                np.bitwise_or(a, b, out=a)
                np.bitwise_and(a, 0x00000FFF00000FFF, out=a)
                np.right_shift(a, 20, out=b)
                np.bitwise_or(a, b, out=a)
            if word_bytes == 1:
                np.copyto(into[:, 0], a, casting="unsafe")
            else:
                np.copyto(into, a.view(np.uint8).reshape(-1, 8)[:, :word_bytes])

    return pack, packed


def main():
    values_file, bits, calls, packed_file = sys.argv[1:]
    values = np.fromfile(values_file, np.uint8)
    pack, packed = packer(values, int(bits))
    pack()
    packed.tofile(packed_file)
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(calls)):
            pack()
        print(time.perf_counter() - start, flush=True)


main()
