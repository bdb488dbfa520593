import { readdirSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import type { Moments } from '../../../batch-jobs/src/numeric/train-tasks.ts';
import type { MomentsSettings } from '../../../batch-jobs/src/training/moments.ts';
import {
  clearMoments,
  createMoments,
  momentsBytes,
  momentsSize,
  setMoments,
} from '../../../batch-jobs/src/training/moments.ts';
import { temporaryFolder } from '../../support/temporary-store.ts';

// The first is longer than what is read at once.
const lengths = new Map([
  ['a', 1_500_001],
  ['b', 3],
]);
const places = ['float32', 'bfloat16'].flatMap((dtype) => [false, true].map((inFile) => ({ dtype, inFile })));

const settingsOf = ({ dtype, inFile }: (typeof places)[number]): MomentsSettings => ({
  dtype: dtype as MomentsSettings['dtype'],
  folder: inFile ? temporaryFolder() : null,
});

async function bytesOf(moments: Moments, part: 'first' | 'second'): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for await (const piece of momentsBytes(moments, part)) pieces.push(Buffer.from(piece));
  return Buffer.concat(pieces);
}

const pattern = (length: number, seed: number): Uint8Array => Uint8Array.from({ length }, (_, i) => (i * seed) % 251);

describe.each(places)('moments of $dtype, in a file: $inFile', (place) => {
  it('are zero at the start, give back what they are set to, each tensor its own, and can be cleared', async () => {
    const store = await createMoments(lengths, settingsOf(place));
    const size = place.dtype === 'float32' ? 4 : 2;
    const all = [...store.moments].flatMap(([name, moments], i) =>
      (['first', 'second'] as const).map((part, j) => ({ name, moments, part, seed: 2 * i + j + 1 })),
    );
    for (const { name, moments, part } of all) {
      const bytes = size * (lengths.get(name) as number);
      expect(momentsSize(moments)).toEqual({ dtype: place.dtype, bytes });
      expect((await bytesOf(moments, part)).equals(Buffer.alloc(bytes))).toBe(true);
    }
    for (const { moments, part, seed } of all) {
      const bytes = pattern(momentsSize(moments).bytes, seed);
      await setMoments(moments, part, async (start, into) => into.set(bytes.subarray(start, start + into.length)));
    }
    for (const { moments, part, seed } of all) {
      expect((await bytesOf(moments, part)).equals(pattern(momentsSize(moments).bytes, seed))).toBe(true);
    }
    await clearMoments(store.moments.get('a') as Moments);
    for (const { name, moments, part, seed } of all) {
      const { bytes } = momentsSize(moments);
      const expected = name === 'a' ? Buffer.alloc(bytes) : pattern(bytes, seed);
      expect((await bytesOf(moments, part)).equals(expected)).toBe(true);
    }
    await store.close();
  });
});

describe('a file of moments', () => {
  it('leaves nothing in its folder, even while it is open', async () => {
    const folder = temporaryFolder();
    const store = await createMoments(lengths, { dtype: 'bfloat16', folder });
    expect(readdirSync(folder)).toEqual([]);
    await store.close();
  });

  it('takes its room on the disk at the start', async () => {
    const store = await createMoments(lengths, { dtype: 'float32', folder: temporaryFolder() });
    const [moments] = store.moments.values();
    const { descriptor } = moments as { descriptor: number };
    const file = await open(`/proc/self/fd/${descriptor}`).catch(() => null);
    if (file === null) console.log('not tested: the room of an open file, which this system does not show');
    else {
      const { blocks } = await file.stat();
      expect(512 * blocks).toBeGreaterThanOrEqual(8 * 1_500_004);
      await file.close();
    }
    await store.close();
  });
});
