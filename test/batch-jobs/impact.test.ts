import { beforeAll, describe, expect, it } from 'vitest';
import { openEngine } from '../../batch-jobs/src/engine/engine.ts';
import { InterruptedError } from '../../batch-jobs/src/errors.ts';
import type { ImpactArtifact } from '../../batch-jobs/src/impact-artifact.ts';
import { impactIdentity } from '../../batch-jobs/src/impact-artifact.ts';
import type { ImpactOptions } from '../../batch-jobs/src/impact.ts';
import { impactOf } from '../../batch-jobs/src/impact.ts';
import { isLinear } from '../../batch-jobs/src/models/decoder-config.ts';
import { parseModelConfig } from '../../batch-jobs/src/models/registry.ts';
import { heterogeneityScore } from '../../batch-jobs/src/numeric/heterogeneity.ts';
import type { Store } from '../../batch-jobs/src/storage/index.ts';
import { measureImpact, sumImpact } from '../../batch-jobs/src/training/impact.ts';
import { temporaryStore } from '../support/temporary-store.ts';
import { tinyConfig, tinyWeights } from '../support/tiny-model.ts';
import { testEngine } from '../support/engine.ts';

const config = parseModelConfig(tinyConfig);
const weights = tinyWeights();
const read = (name: string): Float32Array => weights.get(name) as Float32Array;
/** Two walks: 64 windows of 32 tokens share one. */
const windows = Array.from({ length: 70 }, (_, w) =>
  Int32Array.from({ length: 32 }, (_, i) => (7 * w + 5 * i + i * i) % config.vocabSize),
);
const down = 'model.layers.1.mlp.down_proj.weight';

let impact: ReadonlyMap<string, Float32Array>;
beforeAll(async () => {
  await openEngine(testEngine);
  impact = await measureImpact(config, weights, windows);
});

const optionsOf = (store: Store, changes: Partial<ImpactOptions> = {}): ImpactOptions => ({
  store,
  tenantPrefix: 'tenants/local/',
  checkpointPrefix: 'tenants/local/jobs/1/checkpoints/',
  attempt: 1,
  resume: 'auto',
  config,
  weights: { read },
  windows,
  cherryFraction: 1 / 256,
  version: '1.0.0',
  engine: testEngine,
  modelFingerprint: 'model',
  warn: (message) => {
    throw new Error(message);
  },
  ...changes,
});
const folderOf = (options: ImpactOptions, fraction = 1 / 32): string =>
  `tenants/local/impact/${impactIdentity(options, fraction)}/`;
const bytesOf = async (store: Store, key: string): Promise<Uint8Array> => (await store.get(key)) as Uint8Array;

async function flipBit(store: Store, key: string, at: number): Promise<void> {
  const bytes = await bytesOf(store, key);
  bytes[at < 0 ? bytes.length + at : at] ^= 1;
  await store.put(key, bytes);
}

async function allOf(artifact: ImpactArtifact) {
  return Promise.all(
    [...artifact.matrices.keys()].map(async (name) => ({
      name,
      candidates: await artifact.candidates(name),
      columnMeans: await artifact.columnMeans(name),
      activations: await artifact.activations(name),
      samples: await artifact.samples(name),
    })),
  );
}

describe('impactOf', () => {
  it('measures once: a second job starts from what is stored, and reads no weight', async () => {
    const store = await temporaryStore();
    const first = await impactOf(optionsOf(store));
    expect(first.source).toBe('measured');
    const unread = { read: (name: string): never => expect.fail(`${name} was read`) };
    const second = await impactOf(optionsOf(store, { weights: unread, cherryFraction: 1 / 40, attempt: 7 }));
    expect(second.source).toBe('stored');
    expect(second.artifact.sha256).toBe(first.artifact.sha256);
    expect(await allOf(second.artifact)).toEqual(await allOf(first.artifact));
    expect(await store.list('tenants/local/jobs/')).toEqual([]);
  });

  it('keeps the best columns of each row, the columns’ means, the inputs’ means and samples', async () => {
    const { artifact } = await impactOf(optionsOf(await temporaryStore(), { cherryFraction: 1 / 5 }));
    const sums = await sumImpact({ config, weights: { read }, windows });
    const tokens = 70 * 31;
    expect([...artifact.matrices.keys()].sort()).toEqual([...weights.keys()].filter(isLinear).sort());
    expect(artifact.windows).toBe(70);
    for (const { name, candidates, columnMeans, activations, samples } of await allOf(artifact)) {
      const own = impact.get(name) as Float32Array;
      const [rows, columns] = artifact.matrices.get(name)?.shape ?? [0, 0];
      expect(candidates.perRow).toBe(columns / 4);
      expect(candidates.columns).toBeInstanceOf(Uint16Array);
      for (let row = 0; row < rows; row++) {
        const scores = [...own.subarray(row * columns, (row + 1) * columns)];
        const order = scores.map((_, c) => c).sort((a, b) => scores[b] - scores[a] || a - b);
        const kept = candidates.columns.subarray(row * candidates.perRow, (row + 1) * candidates.perRow);
        expect([...kept], name).toEqual(order.slice(0, candidates.perRow));
      }
      columnMeans.forEach((mean, column) => {
        let sum = 0;
        for (let row = 0; row < rows; row++) sum += own[row * columns + column];
        expect(mean).toBe(Math.fround(sum / rows));
        expect(activations.magnitudes[column]).toBe(
          Math.fround((sums.inputs.get(name)?.magnitudes[column] ?? NaN) / tokens),
        );
        expect(activations.squares[column]).toBe(Math.fround((sums.inputs.get(name)?.squares[column] ?? NaN) / tokens));
      });
      expect(samples.index).toHaveLength(Math.min(4096, rows * columns));
      samples.index.forEach((place, i) => {
        expect(i === 0 || place > samples.index[i - 1]).toBe(true);
        expect(samples.impact[i]).toBe(own[place]);
        expect(samples.magnitude[i]).toBe(Math.abs(read(name)[place]));
      });
    }
  });

  it('keeps what each matrix’s impact is like', async () => {
    const { artifact } = await impactOf(optionsOf(await temporaryStore()));
    const own = impact.get(down) as Float32Array;
    const descending = own.toSorted().reverse();
    const total = own.reduce((sum, value) => sum + value, 0);
    const statistics = artifact.matrices.get(down);
    const { magnitudes } = await artifact.activations(down);
    expect(statistics).toMatchObject({ shape: [32, 44], maxImpact: descending[0] });
    expect(statistics?.meanImpact).toBeCloseTo(total / own.length, 10);
    expect(statistics?.byImpact).toBe(heterogeneityScore(own));
    expect(statistics?.byWeight).toBe(heterogeneityScore(read(down)));
    const activation = Float32Array.from(own, (_, i) => magnitudes[i % 44]);
    expect(statistics?.byActivation).toBeCloseTo(heterogeneityScore(activation), 5);
    expect(statistics?.tail).toHaveLength(10);
    statistics?.tail.forEach(({ fraction, least, share }, i) => {
      const count = Math.floor(1408 / 2 ** (i + 1));
      expect(fraction).toBe(count / 1408);
      expect(least).toBe(descending[count - 1]);
      const sum = descending.subarray(0, count).reduce((a, b) => a + b, 0);
      expect(share).toBeCloseTo(sum / total, 10);
    });
  });

  it('measures for itself with other windows, another model, engine or version', async () => {
    const base = optionsOf(await temporaryStore());
    const other = windows.map((window) => Int32Array.from(window));
    other[69][31] ^= 1;
    const changes = [
      {},
      { windows: other },
      { windows: windows.slice(1) },
      { modelFingerprint: 'other' },
      { engine: 'other' },
      { version: '1.0.1' },
    ];
    const identities = changes.map((change) => impactIdentity({ ...base, ...change }, 1 / 32));
    expect(new Set([...identities, impactIdentity(base, 1 / 8)]).size).toBe(7);
  });

  it('measures again for a fraction that the stored columns do not reach, and uses more than enough', async () => {
    const store = await temporaryStore();
    expect((await impactOf(optionsOf(store))).source).toBe('measured');
    expect((await impactOf(optionsOf(store, { cherryFraction: 0.2 }))).source).toBe('measured');
    const { source, artifact } = await impactOf(optionsOf(store, { cherryFraction: 0.1 }));
    expect(source).toBe('stored');
    expect(artifact.candidateFraction).toBe(1 / 4);
  });

  it.each(['impact.safetensors', 'impact.json'])(
    'measures again, with a warning, when a bit of %s is flipped',
    async (file) => {
      const store = await temporaryStore();
      const options = optionsOf(store);
      await impactOf(options);
      const folder = folderOf(options);
      const before = await Promise.all(
        ['impact.safetensors', 'impact.json'].map((name) => bytesOf(store, folder + name)),
      );
      // In the record, the first digit of a statistic.
      const text = new TextDecoder().decode(before[1]);
      const at = file === 'impact.json' ? text.indexOf('"meanImpact":') + 13 : -1;
      await flipBit(store, folder + file, at);
      const warnings: string[] = [];
      const again = await impactOf(optionsOf(store, { warn: (message) => warnings.push(message) }));
      expect(again.source).toBe('measured');
      expect(warnings).toEqual([expect.stringContaining(`The stored impact ${folder} cannot be used`)]);
      const after = await Promise.all(
        ['impact.safetensors', 'impact.json'].map((name) => bytesOf(store, folder + name)),
      );
      expect(after).toEqual(before);
    },
  );

  it('does not take a measurement that was not finished for one', async () => {
    const store = await temporaryStore();
    const options = optionsOf(store);
    await impactOf(options);
    await store.delete(`${folderOf(options)}impact.json`);
    expect((await impactOf(options)).source).toBe('measured');
  });

  it('writes the same bytes when two jobs measure at the same time', async () => {
    const [store, alone] = [await temporaryStore(), await temporaryStore()];
    const racing = ['1', '2'].map((job) =>
      impactOf(optionsOf(store, { checkpointPrefix: `tenants/local/jobs/${job}/checkpoints/` })),
    );
    const [first, second] = await Promise.all(racing);
    const { artifact } = await impactOf(optionsOf(alone));
    expect([first.artifact.sha256, second.artifact.sha256]).toEqual([artifact.sha256, artifact.sha256]);
  });
});

describe('a measurement that is stopped', () => {
  /** Runs until the first walk is done, with a checkpoint. */
  async function stopped(store: Store, attempt: number): Promise<void> {
    const stopping = impactOf(optionsOf(store, { attempt, stopRequested: async () => true }));
    await expect(stopping).rejects.toThrow(InterruptedError);
  }

  async function continued(store: Store) {
    const done: number[] = [];
    const warnings: string[] = [];
    const { artifact } = await impactOf(
      optionsOf(store, {
        attempt: 3,
        onWindows: (count) => done.push(count),
        warn: (message) => warnings.push(message),
      }),
    );
    const { artifact: undisturbed } = await impactOf(optionsOf(await temporaryStore()));
    expect(artifact.sha256).toBe(undisturbed.sha256);
    return { done, warnings };
  }

  it('goes on from its checkpoint, with the same bytes, and removes it', async () => {
    const store = await temporaryStore();
    await stopped(store, 1);
    expect(await continued(store)).toEqual({ done: [64, 70], warnings: [] });
    expect(await store.list('tenants/local/jobs/')).toEqual([]);
  });

  it('saves now and then, so that a crash costs little', async () => {
    const store = await temporaryStore();
    const crashing = impactOf(
      optionsOf(store, {
        checkpointGapMs: 0,
        onWindows: (done) => {
          if (done === 70) throw new Error('killed');
        },
      }),
    );
    await expect(crashing).rejects.toThrow('killed');
    expect((await continued(store)).done).toEqual([64, 70]);
  });

  it('begins anew, and names the checkpoint, when it has a flipped bit', async () => {
    const store = await temporaryStore();
    await stopped(store, 1);
    const files = await store.list('tenants/local/jobs/1/checkpoints/impact/');
    const tensors = files.find(({ key }) => key.endsWith('.safetensors'))?.key as string;
    await flipBit(store, tensors, -1);
    const { done, warnings } = await continued(store);
    expect(done).toEqual([0, 64, 70]);
    expect(warnings[0]).toContain('Checkpoint 000001-00000064 is damaged');
  });

  it('refuses to go on with other windows, and begins anew where that is asked for', async () => {
    const store = await temporaryStore();
    await stopped(store, 1);
    const other = { windows: windows.slice(0, 66) };
    await expect(impactOf(optionsOf(store, other))).rejects.toMatchObject({
      code: 'checkpoint_mismatch',
      param: 'impactWindows',
    });
    const done: number[] = [];
    await impactOf(optionsOf(store, { ...other, resume: 'never', onWindows: (count) => done.push(count) }));
    expect(done).toEqual([0, 64, 66]);
  });
});
