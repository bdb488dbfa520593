import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { columnScalesOf, scalesOf } from '../../batch-jobs/src/column-scales.ts';
import type { ColumnScalesOptions } from '../../batch-jobs/src/column-scales.ts';
import { openEngine } from '../../batch-jobs/src/engine/engine.ts';
import { InterruptedError } from '../../batch-jobs/src/errors.ts';
import { parseModelConfig } from '../../batch-jobs/src/models/registry.ts';
import { closeHostPool } from '../../batch-jobs/src/numeric/pool.ts';
import type { Store } from '../../batch-jobs/src/storage/index.ts';
import { searchColumnScales } from '../../batch-jobs/src/training/column-scales.ts';
import { temporaryStore } from '../support/temporary-store.ts';
import { tinyConfig, tinyWeights } from '../support/tiny-model.ts';
import { testEngine } from '../support/engine.ts';

const config = parseModelConfig(tinyConfig);
const weights = tinyWeights();
const search = {
  config,
  weights: { read: (name: string) => weights.get(name) as Float32Array },
  grid: { bits: 2, groupSize: 16, levels: 'asymmetric', aligned: false } as const,
  cherries: new Map(),
  windows: [0, 1, 2].map((w) => Int32Array.from({ length: 16 }, (_, i) => (7 * w + 5 * i + i * i) % 97)),
};

beforeAll(async () => {
  await openEngine(testEngine);
});
afterAll(closeHostPool);

const optionsOf = (store: Store, changes: Partial<ColumnScalesOptions> = {}): ColumnScalesOptions => ({
  ...search,
  store,
  checkpointPrefix: 'tenants/local/jobs/1/checkpoints/',
  attempt: 1,
  identity: { model: 'a' },
  warn: (message) => expect.fail(message),
  ...changes,
});

describe('columnScalesOf', () => {
  it('searches once: a later attempt reads what was found', async () => {
    const store = await temporaryStore();
    const found = await columnScalesOf(optionsOf(store));
    expect(found).toEqual(await searchColumnScales(search));
    const unread = { read: (name: string): never => expect.fail(`${name} was read`) };
    expect(await columnScalesOf(optionsOf(store, { attempt: 2, weights: unread }))).toEqual(found);
    expect(scalesOf(found).get('model.layers.0.mlp.up_proj.weight')).toHaveLength(32);
  });

  it('goes on after the last block of a stopped search, with the same result', async () => {
    const store = await temporaryStore();
    const stopping = columnScalesOf(optionsOf(store, { stopRequested: async () => true }));
    await expect(stopping).rejects.toThrow(InterruptedError);
    const done: number[] = [];
    const found = await columnScalesOf(optionsOf(store, { attempt: 2, onBlock: (count) => done.push(count) }));
    expect(done).toEqual([2]);
    expect(found).toEqual(await searchColumnScales(search));
  });

  it('refuses scales that were searched for something else', async () => {
    const store = await temporaryStore();
    await columnScalesOf(optionsOf(store));
    await expect(columnScalesOf(optionsOf(store, { identity: { model: 'b' } }))).rejects.toMatchObject({
      code: 'checkpoint_mismatch',
      param: 'model',
    });
  });
});
