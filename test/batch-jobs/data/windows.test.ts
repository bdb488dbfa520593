import { describe, expect, it } from 'vitest';
import { WindowPacker, createSampler, evaluationSegments, packWindows } from '../../../batch-jobs/src/data/windows.ts';

const ids = (length: number): Int32Array => Int32Array.from({ length }, (_, i) => i + 10);

describe('packWindows', () => {
  it('cuts the stream into contiguous windows and drops the rest', () => {
    const windows = packWindows(ids(11), 4, null);
    expect(windows.map((window) => [...window])).toEqual([
      [10, 11, 12, 13],
      [14, 15, 16, 17],
    ]);
  });

  it('puts one BOS before the stream, unless it is there', () => {
    expect(packWindows(ids(5), 3, 1).map((window) => [...window])).toEqual([
      [1, 10, 11],
      [12, 13, 14],
    ]);
    expect(packWindows(Int32Array.of(1, 10, 11), 3, 1).map((window) => [...window])).toEqual([[1, 10, 11]]);
  });

  it('says how many tokens there are and how many one window needs', () => {
    expect(() => packWindows(ids(6), 8, 1)).toThrow(
      expect.objectContaining({
        name: 'InputError',
        code: 'text_too_short',
        message: expect.stringMatching(/7 tokens.*needs 8/),
      }),
    );
    expect(() => packWindows(new Int32Array(0), 8, null)).toThrow('0 tokens');
  });
});

describe('evaluationSegments', () => {
  it('has one BOS at the start, as the published protocol', () => {
    expect(evaluationSegments(ids(8), 4, 1, false).map((segment) => [...segment])).toEqual([
      [1, 10, 11, 12],
      [13, 14, 15, 16],
    ]);
  });

  it('begins every segment with BOS where the model needs it, in place of one token each', () => {
    const expected = [
      [1, 10, 11, 12],
      [1, 13, 14, 15],
    ];
    expect(evaluationSegments(ids(8), 4, 1, true).map((segment) => [...segment])).toEqual(expected);
    const begun = Int32Array.of(1, ...ids(8));
    expect(evaluationSegments(begun, 4, 1, true).map((segment) => [...segment])).toEqual(expected);
  });

  it('has none where the tokenizer has none', () => {
    expect(evaluationSegments(ids(4), 4, null, true).map((segment) => [...segment])).toEqual([[10, 11, 12, 13]]);
  });

  it('refuses a text that is too short for one', () => {
    expect(() => evaluationSegments(ids(2), 4, 1, true)).toThrow('2 tokens; one window needs 3');
  });
});

describe('createSampler', () => {
  it('takes every window once in each epoch, in another order each time', () => {
    const windowAt = createSampler({ count: 50, seed: 42 });
    const epochs = [0, 1, 2].map((epoch) => Array.from({ length: 50 }, (_, i) => windowAt(epoch * 50 + i)));
    for (const epoch of epochs) expect([...epoch].sort((a, b) => a - b)).toEqual([...Array(50).keys()]);
    expect(new Set(epochs.map(String)).size).toBe(3);
  });

  it('is a function of seed and position alone, so a resumed run goes on with the same windows', () => {
    const straight = createSampler({ count: 7, seed: 3 });
    const expected = Array.from({ length: 40 }, (_, position) => straight(position));
    for (const position of [39, 0, 20, 13, 14]) {
      expect(createSampler({ count: 7, seed: 3 })(position)).toBe(expected[position]);
      expect(straight(position)).toBe(expected[position]);
    }
    const other = createSampler({ count: 7, seed: 4 });
    expect(Array.from({ length: 40 }, (_, position) => other(position))).not.toEqual(expected);
  });

  it('refuses to sample from nothing', () => {
    expect(() => createSampler({ count: 0, seed: 1 })).toThrow('at least one window');
  });
});

describe('WindowPacker', () => {
  it('gives the same windows however the stream is parted', () => {
    for (const cut of [0, 1, 4, 7, 11]) {
      const packer = new WindowPacker(4);
      packer.append(ids(11).subarray(0, cut));
      packer.append(ids(11).subarray(cut));
      expect(packer.windows.map((window) => [...window])).toEqual([
        [10, 11, 12, 13],
        [14, 15, 16, 17],
      ]);
    }
  });

  it('begins every window with a token that takes its place in it, and does not double one that is there', () => {
    const packer = new WindowPacker(4, 1);
    packer.append(Int32Array.of(1, 10, 11, 12, 13, 14));
    packer.append(Int32Array.of(15, 1, 16, 17));
    expect(packer.windows.map((window) => [...window])).toEqual([
      [1, 10, 11, 12],
      [1, 13, 14, 15],
    ]);
  });
});
