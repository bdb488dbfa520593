import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { analyze, commonShare, drawWindows, isCherry } from '../../batch-jobs/src/analysis.ts';
import { createSampler } from '../../batch-jobs/src/data/windows.ts';
import { openEngine } from '../../batch-jobs/src/engine/engine.ts';
import type { ImpactArtifact } from '../../batch-jobs/src/impact-artifact.ts';
import { impactOf } from '../../batch-jobs/src/impact.ts';
import { tensorShapes } from '../../batch-jobs/src/models/decoder-config.ts';
import { parseModelConfig } from '../../batch-jobs/src/models/registry.ts';
import type { Cherries } from '../../batch-jobs/src/numeric/quantizer.ts';
import { createRandom, shuffledIndices } from '../../batch-jobs/src/numeric/random.ts';
import { selectCherries } from '../../batch-jobs/src/selection.ts';
import { FolderStore } from '../../batch-jobs/src/storage/index.ts';
import { tinyConfig, tinyWeights } from '../support/tiny-model.ts';
import { testEngine } from '../support/engine.ts';

const config = parseModelConfig(tinyConfig);
const shapes = tensorShapes(config);
const tensors = tinyWeights();
const weights = { read: (name: string) => tensors.get(name) as Float32Array };
const windowsFrom = (start: number, count: number): Int32Array[] =>
  Array.from({ length: count }, (_, w) =>
    Int32Array.from({ length: 16 }, (_, i) => (start + 7 * w + 5 * i + i * i) % config.vocabSize),
  );
const cherriesOf = (perRow: number, columns: readonly number[]): Cherries => ({
  perRow,
  columns: Uint32Array.from(columns),
  shared: false,
});

const root = mkdtempSync(join(tmpdir(), 'cherryq-test-'));
const store = new FolderStore(root);

async function artifactOf(windows: readonly Int32Array[]): Promise<ImpactArtifact> {
  const { artifact } = await impactOf({
    store,
    tenantPrefix: 'tenants/local/',
    checkpointPrefix: 'tenants/local/jobs/1/checkpoints/',
    attempt: 1,
    resume: 'auto',
    config,
    weights,
    windows,
    cherryFraction: 1 / 16,
    version: '1.0.0',
    engine: testEngine,
    modelFingerprint: 'model',
    warn: (message) => expect.fail(message),
  });
  return artifact;
}

let artifacts: ImpactArtifact[];
beforeAll(async () => {
  await openEngine(testEngine);
  artifacts = [];
  for (const start of [0, 3, 50]) artifacts.push(await artifactOf(windowsFrom(start, 3)));
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

describe('commonShare', () => {
  it('is the mean over the rows of what both have over what each has', () => {
    const first = cherriesOf(2, [0, 1, 2, 3, 4, 9]);
    expect(commonShare(first, first)).toBe(1);
    expect(commonShare(first, cherriesOf(2, [0, 1, 3, 9, 5, 6]))).toBe((1 + 0.5 + 0) / 3);
    expect(commonShare(cherriesOf(2, [0, 1, 3, 9, 5, 6]), first)).toBe(0.5);
    expect(commonShare(first, cherriesOf(2, [7, 8, 0, 1, 0, 1]))).toBe(0);
  });

  it('refuses choices of other sizes', () => {
    expect(() => commonShare(cherriesOf(1, [0]), cherriesOf(2, [0, 1]))).toThrow('no share in common');
    expect(() => commonShare(cherriesOf(1, [0]), cherriesOf(1, [0, 1]))).toThrow('no share in common');
  });
});

describe('isCherry', () => {
  it('finds each cherry of each row, and no other weight', () => {
    const cherries = cherriesOf(3, [0, 4, 9, 1, 2, 8]);
    const found = Array.from({ length: 20 }, (_, place) => place).filter((place) => isCherry(cherries, place, 10));
    expect(found).toEqual([0, 4, 9, 11, 12, 18]);
    expect(isCherry(cherriesOf(0, []), 3, 10)).toBe(false);
  });
});

describe('drawWindows', () => {
  const windows = windowsFrom(0, 10);

  it('draws disjoint lots, the first being what training with the same seed begins with', () => {
    const drawn = drawWindows(windows, { draws: 3, samples: 3, seed: 42 });
    expect(drawn.map((draw) => draw.length)).toEqual([3, 3, 3]);
    expect(new Set(drawn.flat()).size).toBe(9);
    const sampler = createSampler({ count: 10, seed: 42 });
    expect(drawn[0]).toEqual([0, 1, 2].map((position) => windows[sampler(position)]));
  });

  it('draws fewer where the text is short, and refuses one that is too short', () => {
    expect(drawWindows(windows, { draws: 4, samples: 128, seed: 1 }).map((draw) => draw.length)).toEqual([2, 2, 2, 2]);
    expect(() => drawWindows(windows.slice(0, 3), { draws: 4, samples: 1, seed: 1 })).toThrow(
      expect.objectContaining({ code: 'text_too_short', param: 'analysis.draws' }),
    );
  });
});

describe('analyze', () => {
  const selection = { criterion: 'impact', cherryMode: 'row', cherryFraction: 1 / 16 } as const;
  const setsOf = () => [
    { name: 'tales', draws: [artifacts[0], artifacts[1]] },
    { name: 'news', draws: [artifacts[2]] },
  ];

  it('compares every pair of draws, weighting each matrix by its rows', async () => {
    const { overlaps, sets } = await analyze({ sets: setsOf(), weights, selection });
    const chosen = await Promise.all(artifacts.map((artifact) => selectCherries(artifact, weights, shapes, selection)));
    const pairs = [
      [0, 1],
      [0, 2],
      [1, 2],
    ];
    expect(overlaps.map(({ first, second, sameSet }) => [first, second, sameSet])).toEqual([
      ['tales #1', 'tales #2', true],
      ['tales #1', 'news', false],
      ['tales #2', 'news', false],
    ]);
    for (const [i, [a, b]] of pairs.entries()) {
      const shares: number[] = [];
      const chances: number[] = [];
      for (const [name, { perRow, columns }] of chosen[a]) {
        const others = chosen[b].get(name)?.columns ?? new Uint32Array(0);
        for (let start = 0; start < columns.length; start += perRow) {
          const other = new Set(others.subarray(start, start + perRow));
          shares.push(columns.subarray(start, start + perRow).filter((column) => other.has(column)).length / perRow);
          chances.push(perRow / (shapes.get(name) ?? [])[1]);
        }
      }
      const mean = (values: number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
      expect(overlaps[i].share).toBeCloseTo(mean(shares), 12);
      expect(overlaps[i].byChance).toBeCloseTo(mean(chances), 12);
      expect(overlaps[i].share).toBeGreaterThan(overlaps[i].byChance);
    }
    expect(sets).toEqual([
      { name: 'tales', draws: 2, windows: 3 },
      { name: 'news', draws: 1, windows: 3 },
    ]);
  });

  it('finds random choices to agree as chance says', async () => {
    // With random scores for impacts, the share in common is perRow / columns in the mean.
    const random = (seed: number): ImpactArtifact => ({
      ...artifacts[0],
      async candidates(name) {
        const [rows, columns] = shapes.get(name) as [number, number];
        const next = createRandom(seed, name.length);
        const orders = Array.from({ length: rows }, () => [...shuffledIndices(columns, next)]);
        return { perRow: columns, columns: Uint32Array.from(orders.flat()) };
      },
    });
    const { overlaps } = await analyze({
      sets: [{ name: 'random', draws: [random(1), random(2)] }],
      weights,
      selection: { ...selection, cherryFraction: 1 / 4 },
    });
    expect(overlaps[0].byChance).toBeCloseTo(0.25, 1);
    expect(Math.abs(overlaps[0].share - overlaps[0].byChance)).toBeLessThan(0.03);
  });

  it('numbers sets of one name apart, and has nothing to compare with a single draw', async () => {
    const twice = [
      { name: 'tales', draws: [artifacts[0]] },
      { name: 'tales', draws: [artifacts[1]] },
    ];
    const { overlaps } = await analyze({ sets: twice, weights, selection });
    expect(overlaps).toMatchObject([{ first: 'tales #1', second: 'tales #2', sameSet: false }]);
    expect((await analyze({ sets: twice.slice(1), weights, selection })).overlaps).toEqual([]);
  });

  it('gives each matrix its scores, its samples with the cherries marked, and the cut', async () => {
    const done: number[] = [];
    const { matrices, heterogeneity } = await analyze({
      sets: setsOf(),
      weights,
      selection,
      onMatrix: async (count, total) => {
        expect(total).toBe(14);
        done.push(count);
      },
    });
    expect(done).toEqual(Array.from({ length: 14 }, (_, i) => i + 1));
    const chosen = await selectCherries(artifacts[0], weights, shapes, selection);
    for (const [i, { matrix, shape, cut, samples, cherriesPerRow, tail }] of matrices.entries()) {
      const { perRow, columns } = chosen.get(matrix) as Cherries;
      const { byImpact, byWeight, byActivation } = artifacts[0].matrices.get(matrix) ?? {};
      expect(heterogeneity[i]).toEqual({ matrix, byImpact, byWeight, byActivation });
      expect([cherriesPerRow, shape]).toEqual([perRow, shapes.get(matrix)]);
      samples.index.forEach((place, sample) => {
        const row = Math.floor(place / shape[1]);
        const own = columns.subarray(row * perRow, (row + 1) * perRow);
        expect(samples.cherry[sample]).toBe(own.includes(place % shape[1]));
      });
      // All weights of these small matrices are sampled, so the cut can be counted: a step of the tail is a factor of two.
      const above = samples.impact.filter((value) => value >= (cut ?? Infinity)).length / samples.impact.length;
      expect(above / (perRow / shape[1])).toBeGreaterThan(0.9);
      expect(above / (perRow / shape[1])).toBeLessThan(1.1);
      expect(tail[0].share).toBeGreaterThan(tail[5].share);
    }
  });

  it('draws no cut of impact where cherries are chosen by something else', async () => {
    const { matrices } = await analyze({ sets: setsOf(), weights, selection: { ...selection, criterion: 'weight' } });
    expect(matrices.every(({ cut }) => cut === null)).toBe(true);
  });
});
