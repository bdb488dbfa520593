import { afterEach, describe, expect, it } from 'vitest';
import type { FolderStore } from '../../../batch-jobs/src/storage/index.ts';
import type { Moments, MomentsInMemory } from '../../../batch-jobs/src/numeric/train-tasks.ts';
import { openCheckpoint, saveCheckpoint } from '../../../batch-jobs/src/training/checkpoints.ts';
import type { MomentsSettings } from '../../../batch-jobs/src/training/moments.ts';
import { clearMoments, momentsBytes, setMoments } from '../../../batch-jobs/src/training/moments.ts';
import type { TrainState, TrainStateOptions } from '../../../batch-jobs/src/training/train.ts';
import { createTrainState } from '../../../batch-jobs/src/training/train.ts';
import { temporaryFolder, temporaryStore } from '../../support/temporary-store.ts';

const prefix = 'tenants/local/jobs/1/checkpoints/';
const identity = { job: 'same' };
const embedding = 'model.embed_tokens.weight';
const norm = 'model.norm.weight';

const made: TrainState[] = [];
afterEach(() => Promise.all(made.splice(0).map((state) => state.close())));

async function emptyState(options?: TrainStateOptions): Promise<TrainState> {
  const weights = new Map([
    [embedding, Float32Array.of(9, 9, 9)],
    [norm, Float32Array.of(8, 8)],
  ]);
  const state = await createTrainState(weights, options);
  made.push(state);
  return state;
}

/** A state after some steps, every number of it another. */
async function stateAt(step: number, options?: TrainStateOptions): Promise<TrainState> {
  const state = await emptyState(options);
  for (const name of state.changed) {
    state.latent.get(name)?.set(name === norm ? [1e-40, -step] : [step, 1 / 3, -0]);
    for (const part of ['first', 'second'] as const) {
      const fill = async (_: number, into: Uint8Array) => void into.set(into.map((__, i) => i + step + part.length));
      await setMoments(state.moments.get(name) as Moments, part, fill);
    }
  }
  for (let i = 1; i <= step; i++) state.records.push({ step: i, loss: 3 / i, learningRate: 1e-3, gradientNorm: i });
  return state;
}

/** All numbers of a state, wherever they are. */
async function contentOf({ latent, moments, changed, records }: TrainState) {
  const parts: Record<string, number[]> = {};
  for (const [name, own] of moments) {
    for (const part of ['first', 'second'] as const) {
      const bytes: number[] = (parts[`${part}.${name}`] = []);
      for await (const piece of momentsBytes(own, part)) bytes.push(...piece);
    }
  }
  return { latent: structuredClone(latent), parts, changed: [...changed].sort(), records };
}

const inFile = (): MomentsSettings => ({ dtype: 'bfloat16', folder: temporaryFolder() });

describe('a checkpoint', () => {
  it.each([
    ['of everything', () => ({})],
    ['of norms alone', () => ({ trainedParameters: ['norms' as const] })],
    ['with bfloat16 moments in a file', () => ({ moments: inFile() })],
  ])('%s gives back the state bit for bit', async (_, options) => {
    const store = await temporaryStore();
    await saveCheckpoint(store, prefix, identity, 1, await stateAt(3, options()));
    const checkpoint = await openCheckpoint(store, prefix, identity, 'auto', (message) => expect.fail(message));
    expect(checkpoint?.step).toBe(3);
    const state = await emptyState(options());
    await checkpoint?.restore(state);
    expect(await contentOf(state)).toEqual(await contentOf(await stateAt(3, options())));
  });

  it('made with moments in a file serves a state that has them in memory', async () => {
    const store = await temporaryStore();
    await saveCheckpoint(store, prefix, identity, 1, await stateAt(3, { moments: inFile() }));
    const state = await emptyState({ moments: { dtype: 'bfloat16', folder: null } });
    await (await openCheckpoint(store, prefix, identity, 'auto', (message) => expect.fail(message)))?.restore(state);
    expect((state.moments.get(norm) as MomentsInMemory).first).toBeInstanceOf(Uint16Array);
    expect(await contentOf(state)).toEqual(await contentOf(await stateAt(3, { moments: inFile() })));
  });

  it('keeps the arrays of the state that it is restored to', async () => {
    const store = await temporaryStore();
    await saveCheckpoint(store, prefix, identity, 1, await stateAt(2));
    const state = await stateAt(7);
    const before = { weight: state.latent.get(norm), moments: state.moments.get(norm) };
    for (const moments of state.moments.values()) await clearMoments(moments);
    await (await openCheckpoint(store, prefix, identity, 'auto', (message) => expect.fail(message)))?.restore(state);
    expect(state.latent.get(norm)).toBe(before.weight);
    expect(state.moments.get(norm)).toBe(before.moments);
    expect(await contentOf(state)).toEqual(await contentOf(await stateAt(2)));
  });

  it('holds only what training has changed', async () => {
    const store = await temporaryStore();
    const sizeOf = async (options?: TrainStateOptions): Promise<number> => {
      await saveCheckpoint(store, prefix, identity, 1, await stateAt(1, options));
      return (await store.head(`${prefix}000001-00000001/state.safetensors`))?.sizeBytes as number;
    };
    const saved = (await sizeOf()) - (await sizeOf({ trainedParameters: ['norms'] }));
    // The embedding's weight and two moments, and what the header says of them.
    expect(saved).toBeGreaterThanOrEqual(3 * 3 * 4);
  });

  it('is refused by a state of other shapes, naming the tensor', async () => {
    const store: FolderStore = await temporaryStore();
    await saveCheckpoint(store, prefix, identity, 1, await stateAt(1));
    const other = await createTrainState(new Map([[embedding, new Float32Array(4)]]));
    const checkpoint = await openCheckpoint(store, prefix, identity, 'auto', (message) => expect.fail(message));
    await expect(checkpoint?.restore(other)).rejects.toThrow(/latent\.model\.embed_tokens\.weight of 16 bytes/);
  });
});
