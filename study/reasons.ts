/** Why cherries matter as much or as little as they do: how uneven a model's impact is, and what large weights do to the scales. */
import { readFile } from 'node:fs/promises';
import { openModel } from '../batch-jobs/src/model-weights.ts';
import { isLinear } from '../batch-jobs/src/models/decoder-config.ts';
import type { Cherries, Grid } from '../batch-jobs/src/numeric/quantizer.ts';
import { cherryCount, dequantizeMatrix, noCherries, quantizeMatrix } from '../batch-jobs/src/numeric/quantizer.ts';
import { createRandom, shuffledIndices } from '../batch-jobs/src/numeric/random.ts';
import { topColumns } from '../batch-jobs/src/numeric/top-columns.ts';
import { FolderStore } from '../batch-jobs/src/storage/index.ts';
import type { Subject } from './plan.ts';
import { centre } from './plan.ts';
import { median } from './statistics.ts';

/** Medians over a model's matrices. */
export interface Reasons {
  /** Part of the sum of all impact that the weights of highest impact have, by their share of the weights: 1/256 and 1/32. */
  readonly impactHeld: { readonly [fraction in '1/256' | '1/32']: number };
  /** Squared rounding error on the study's centre with 1/32 kept, over that with none kept: the largest weights, and any. */
  readonly errorLeft: { readonly byWeight: number; readonly byChance: number };
}

/** @param analysisFolder where the model's `analyze` job wrote its files */
export async function reasonsOf(subject: Subject, analysisFolder: string): Promise<Reasons> {
  const { matrices } = JSON.parse(await readFile(`${analysisFolder}/analysis.json`, 'utf8')) as {
    matrices: { tail: { fraction: number; share: number }[] }[];
  };
  const held = (fraction: number): number =>
    median(matrices.map(({ tail }) => tail.find((part) => part.fraction === fraction)?.share ?? NaN));
  const model = await openModel(new FolderStore(subject.model), '');
  const byWeight: number[] = [];
  const byChance: number[] = [];
  const { bits, groupSize } = centre(subject);
  const grid: Grid = { bits, groupSize, levels: 'midRise', aligned: false };
  for (const [name, [rows, columns]] of model.shapes) {
    if (!isLinear(name)) continue;
    const weight = await model.weights.read(name);
    const perRow = cherryCount(columns, 1 / 32);
    const random = createRandom(1, byChance.length);
    const any = Array.from({ length: rows }, () => [...shuffledIndices(columns, random).subarray(0, perRow)]).flat();
    const none = squaredError(weight, columns, grid, noCherries);
    byWeight.push(squaredError(weight, columns, grid, sorted(topColumns(weight, columns, perRow), perRow)) / none);
    byChance.push(squaredError(weight, columns, grid, sorted(Uint32Array.from(any), perRow)) / none);
  }
  return {
    impactHeld: { '1/256': held(1 / 256), '1/32': held(1 / 32) },
    errorLeft: { byWeight: median(byWeight), byChance: median(byChance) },
  };
}

function squaredError(weight: Float32Array, columns: number, grid: Grid, cherries: Cherries): number {
  const rounded = dequantizeMatrix(quantizeMatrix(weight, columns, grid, cherries));
  return weight.reduce((sum, value, i) => sum + (value - rounded[i]) ** 2, 0);
}

/** Columns of each row in ascending order, as a matrix stores them. */
function sorted(columns: Uint32Array, perRow: number): Cherries {
  for (let at = 0; at < columns.length; at += perRow) columns.subarray(at, at + perRow).sort();
  return { perRow, columns, shared: false };
}
