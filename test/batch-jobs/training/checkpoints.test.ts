import { describe, expect, it } from 'vitest';
import type { FolderStore } from '../../../batch-jobs/src/storage/index.ts';
import { loadCheckpoint, saveCheckpoint } from '../../../batch-jobs/src/training/checkpoints.ts';
import type { TrainState } from '../../../batch-jobs/src/training/train.ts';
import { createTrainState } from '../../../batch-jobs/src/training/train.ts';
import { temporaryStore } from '../../support/temporary-store.ts';

const prefix = 'tenants/local/jobs/1/checkpoints/';

/** A state after some steps, every number of it another. */
function stateAt(step: number): TrainState {
  const state = createTrainState(
    new Map([
      ['a.weight', Float32Array.of(step, 1 / 3, -0)],
      ['b.first.weight', Float32Array.of(1e-40, -step)],
    ]),
  );
  for (const [name, moments] of state.moments) {
    moments.first.fill(step + name.length);
    moments.second.fill(step / 7);
  }
  for (let i = 1; i <= step; i++) state.records.push({ step: i, loss: 3 / i, learningRate: 1e-3, gradientNorm: i });
  return state;
}

async function load(store: FolderStore, identity = 'same') {
  const damages: string[] = [];
  const state = await loadCheckpoint(store, prefix, identity, (message) => damages.push(message));
  return { state, damages };
}

const save = (store: FolderStore, step: number, attempt = 1, identity = 'same'): Promise<void> =>
  saveCheckpoint(store, prefix, identity, attempt, stateAt(step));

async function current(store: FolderStore): Promise<string> {
  return new TextDecoder().decode((await store.get(`${prefix}CURRENT`)) ?? undefined);
}

async function damage(store: FolderStore, generation: string, file: string, at: number): Promise<void> {
  const key = `${prefix}${generation}/${file}`;
  const bytes = (await store.get(key)) as Uint8Array;
  bytes[at < 0 ? bytes.length + at : at] ^= 1;
  await store.put(key, bytes);
}

describe('a checkpoint', () => {
  it('gives back the state bit for bit', async () => {
    const store = await temporaryStore();
    await save(store, 3);
    expect(await load(store)).toEqual({ state: stateAt(3), damages: [] });
  });

  it('is absent before the first was saved', async () => {
    expect(await load(await temporaryStore())).toEqual({ state: null, damages: [] });
  });

  it('is the newest of those saved, and one before it is kept', async () => {
    const store = await temporaryStore();
    for (const step of [1, 2, 9, 10]) await save(store, step);
    expect((await load(store)).state).toEqual(stateAt(10));
    expect(await store.folders(prefix)).toHaveLength(2);
  });

  it.each([
    ['a flipped bit in its tensors', 'state.safetensors', -1, /hash/],
    ['a flipped bit in its header', 'state.safetensors', 12, /hash/],
    ['a damaged record', 'checkpoint.json', 0, /JSON/],
  ])('with %s is passed over for the one before, and says so', async (_, file, at, reason) => {
    const store = await temporaryStore();
    await save(store, 4);
    await save(store, 8);
    const newest = await current(store);
    await damage(store, newest, file, at);
    const { state, damages } = await load(store);
    expect(state).toEqual(stateAt(4));
    expect(damages).toEqual([expect.stringMatching(reason)]);
    expect(damages[0]).toContain(newest);
  });

  it.each(['state.safetensors', 'checkpoint.json'])('without its %s is passed over', async (file) => {
    const store = await temporaryStore();
    await save(store, 4);
    await save(store, 8);
    await store.delete(`${prefix}${await current(store)}/${file}`);
    const { state, damages } = await load(store);
    expect(state).toEqual(stateAt(4));
    expect(damages).toHaveLength(1);
  });

  it('that was half written when the worker died is not looked at', async () => {
    const store = await temporaryStore();
    await save(store, 4);
    const [generation] = await store.folders(prefix);
    await store.put(`${prefix}${generation.replace('4', '6')}/state.safetensors`, new Uint8Array(10));
    expect(await load(store)).toEqual({ state: stateAt(4), damages: [] });
  });

  it('of another identity is refused', async () => {
    const store = await temporaryStore();
    await save(store, 4);
    const { state, damages } = await load(store, 'another scheme');
    expect(state).toBeNull();
    expect(damages).toEqual([expect.stringContaining('it is of another job')]);
  });

  it('is kept when an attempt begins anew behind steps that an earlier one had saved', async () => {
    const store = await temporaryStore();
    await save(store, 20, 1, 'older version');
    await save(store, 25, 1, 'older version');
    await save(store, 5, 2);
    expect((await load(store)).state).toEqual(stateAt(5));
    await save(store, 6, 2);
    expect((await load(store)).state).toEqual(stateAt(6));
    expect(await store.folders(prefix)).toHaveLength(2);
    await damage(store, await current(store), 'state.safetensors', -1);
    expect((await load(store)).state).toEqual(stateAt(5));
  });
});
