import { beforeAll, describe, expect, it } from 'vitest';
import { openEngine } from '../../batch-jobs/src/engine/engine.ts';
import { loadImpactStudy, makeImpactStudy, saveImpactStudy } from '../../batch-jobs/src/impact-study.ts';
import type { ImpactStudy } from '../../batch-jobs/src/impact-study.ts';
import { isLinear } from '../../batch-jobs/src/models/decoder-config.ts';
import { parseModelConfig } from '../../batch-jobs/src/models/registry.ts';
import { heterogeneityScore } from '../../batch-jobs/src/numeric/heterogeneity.ts';
import { topPerRow } from '../../batch-jobs/src/numeric/quantizer.ts';
import { measureImpact } from '../../batch-jobs/src/training/impact.ts';
import { temporaryStore } from '../support/temporary-store.ts';
import { tinyConfig, tinyWeights } from '../support/tiny-model.ts';
import { testEngine } from '../support/engine.ts';

const config = parseModelConfig(tinyConfig);
const weights = tinyWeights();
const windows = [0, 1].map((start) => Int32Array.from({ length: 12 }, (_, i) => (start + 5 * i) % config.vocabSize));
const prefix = 'tenants/local/jobs/1/checkpoints/';
const q = 'model.layers.1.self_attn.q_proj.weight';

let study: ImpactStudy;
let impact: Map<string, Float32Array>;
beforeAll(async () => {
  await openEngine(testEngine);
  study = await makeImpactStudy(config, weights, windows, 0.05, async () => {});
  impact = await measureImpact(config, weights, windows, async () => {});
});

describe('an impact study', () => {
  it('keeps, in each row of every linear layer, the weights of highest impact', () => {
    expect([...study.cherries.keys()].sort()).toEqual([...weights.keys()].filter(isLinear).sort());
    for (const [name, cherries] of study.cherries) {
      const columns = name.endsWith('down_proj.weight') ? 44 : 32;
      expect(cherries, name).toEqual(topPerRow(impact.get(name) as Float32Array, columns, columns === 44 ? 3 : 2));
    }
  });

  it('scores each layer by impact and by magnitude', () => {
    const found = study.heterogeneity.find(({ matrix }) => matrix === q);
    expect(found).toEqual({
      matrix: q,
      byImpact: heterogeneityScore(impact.get(q) as Float32Array),
      byMagnitude: heterogeneityScore(weights.get(q) as Float32Array),
    });
    expect(study.heterogeneity).toHaveLength(14);
  });

  it('samples one layer of each kind in the middle block, with its cherries marked', () => {
    expect(study.samples.map(({ matrix }) => matrix).sort()).toEqual(
      [...weights.keys()].filter((name) => name.startsWith('model.layers.1.') && isLinear(name)).sort(),
    );
    const sampled = study.samples.find(({ matrix }) => matrix === q)?.samples ?? [];
    const { columns, perRow } = study.cherries.get(q) as { columns: Uint32Array; perRow: number };
    expect(sampled).toHaveLength(1024);
    sampled.forEach(({ impact: value, magnitude, cherry }, i) => {
      const row = Math.floor(i / 32);
      expect(value).toBe(impact.get(q)?.[i]);
      expect(magnitude).toBe(Math.abs((weights.get(q) as Float32Array)[i]));
      expect(cherry).toBe(columns.subarray(row * perRow, (row + 1) * perRow).includes(i % 32));
    });
    expect(sampled.filter(({ cherry }) => cherry)).toHaveLength(64);
  });

  it('is read back as it was saved', async () => {
    const store = await temporaryStore();
    await saveImpactStudy(store, prefix, 'same', study);
    expect(await loadImpactStudy(store, prefix, 'same')).toEqual(study);
  });

  it('of another identity, damaged, half-written or absent is none', async () => {
    const store = await temporaryStore();
    expect(await loadImpactStudy(store, prefix, 'same')).toBeNull();
    await saveImpactStudy(store, prefix, 'same', study);
    expect(await loadImpactStudy(store, prefix, 'other')).toBeNull();
    const bytes = (await store.get(`${prefix}cherries.safetensors`)) as Uint8Array;
    bytes[bytes.length - 1] ^= 1;
    await store.put(`${prefix}cherries.safetensors`, bytes);
    expect(await loadImpactStudy(store, prefix, 'same')).toBeNull();
    await saveImpactStudy(store, prefix, 'same', study);
    await store.put(`${prefix}impact.json`, new TextEncoder().encode('{"identity":"sa'));
    expect(await loadImpactStudy(store, prefix, 'same')).toBeNull();
    await store.delete(`${prefix}impact.json`);
    expect(await loadImpactStudy(store, prefix, 'same')).toBeNull();
  });
});
