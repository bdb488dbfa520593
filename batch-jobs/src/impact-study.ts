/**
 * What a job keeps of the impact of its weights: the cherries of every linear layer, and samples and scores for the report.
 * Made once, before training, and stored beside the checkpoints, so that a restarted job does not measure again.
 */
import { createHash } from 'node:crypto';
import { openSafetensors, readTensorBytes, safetensorsBytes } from './formats/safetensors.ts';
import type { DecoderConfig } from './models/decoder-config.ts';
import { blockPrefix, linearNames, tensorShapes } from './models/decoder-config.ts';
import { heterogeneityScore } from './numeric/heterogeneity.ts';
import type { Cherries } from './numeric/quantizer.ts';
import { cherryCount, topPerRow } from './numeric/quantizer.ts';
import type { Store } from './storage/store.ts';
import { measureImpact } from './training/impact.ts';

export interface ImpactStudy {
  /** By full name of each linear layer. */
  readonly cherries: ReadonlyMap<string, Cherries>;
  readonly samples: { matrix: string; samples: { impact: number; magnitude: number; cherry: boolean }[] }[];
  readonly heterogeneity: { matrix: string; byImpact: number; byMagnitude: number }[];
}

/** Weights sampled of each shown matrix, at even distances. */
const samplesPerMatrix = 1024;

/** @param windows calibration windows of one length   @param fraction of each row that is kept as cherries */
export async function makeImpactStudy(
  config: DecoderConfig,
  weights: ReadonlyMap<string, Float32Array>,
  windows: readonly Int32Array[],
  fraction: number,
  onWindow: (done: number) => Promise<void>,
): Promise<ImpactStudy> {
  const impact = await measureImpact(config, weights, windows, onWindow);
  const shapes = tensorShapes(config);
  const cherries = new Map<string, Cherries>();
  const heterogeneity: ImpactStudy['heterogeneity'] = [];
  for (const [name, scores] of impact) {
    const columns = (shapes.get(name) as number[])[1];
    cherries.set(name, topPerRow(scores, columns, cherryCount(columns, fraction)));
    const weight = weights.get(name) as Float32Array;
    heterogeneity.push({ matrix: name, byImpact: heterogeneityScore(scores), byMagnitude: heterogeneityScore(weight) });
  }
  // One of each kind of layer, from the middle of the model.
  const middle = blockPrefix(Math.floor(config.numHiddenLayers / 2));
  const samples = linearNames.map((linear) => {
    const name = middle + linear;
    return {
      matrix: name,
      samples: sampleOf(
        weights.get(name) as Float32Array,
        impact.get(name) as Float32Array,
        cherries.get(name) as Cherries,
        (shapes.get(name) as number[])[1],
      ),
    };
  });
  return { cherries, samples, heterogeneity };
}

/** Every k-th weight of the matrix; k is odd, so that the samples move through the columns. */
function sampleOf(
  weight: Float32Array,
  impact: Float32Array,
  cherries: Cherries,
  columns: number,
): ImpactStudy['samples'][number]['samples'] {
  const stride = Math.max(1, Math.floor(weight.length / samplesPerMatrix)) | 1;
  const samples = [];
  for (let i = 0; i < weight.length && samples.length < samplesPerMatrix; i += stride) {
    const row = Math.floor(i / columns);
    const own = cherries.columns.subarray(row * cherries.perRow, (row + 1) * cherries.perRow);
    samples.push({ impact: impact[i], magnitude: Math.abs(weight[i]), cherry: own.includes(i % columns) });
  }
  return samples;
}

interface StudyRecord {
  readonly identity: string;
  readonly sha256: string;
  readonly samples: ImpactStudy['samples'];
  readonly heterogeneity: ImpactStudy['heterogeneity'];
}

const cherriesFile = 'cherries.safetensors';
const recordFile = 'impact.json';

/** The record names the hash of the cherries and is written after them. */
export async function saveImpactStudy(
  store: Store,
  prefix: string,
  identity: string,
  study: ImpactStudy,
): Promise<void> {
  const tensors = [...study.cherries].map(([name, { perRow, columns }]) => ({
    name,
    dtype: 'U32' as const,
    shape: [columns.length / perRow, perRow],
    data: new Uint8Array(columns.buffer, columns.byteOffset, columns.byteLength),
  }));
  await store.put(prefix + cherriesFile, safetensorsBytes(tensors).chunks);
  const bytes = (await store.get(prefix + cherriesFile)) as Uint8Array;
  const record: StudyRecord = {
    identity,
    sha256: createHash('sha256').update(bytes).digest('hex'),
    samples: study.samples,
    heterogeneity: study.heterogeneity,
  };
  await store.put(prefix + recordFile, new TextEncoder().encode(JSON.stringify(record)));
}

/** @returns null when there is none, or not a whole one of this identity */
export async function loadImpactStudy(store: Store, prefix: string, identity: string): Promise<ImpactStudy | null> {
  const json = await store.get(prefix + recordFile);
  const bytes = await store.get(prefix + cherriesFile);
  if (json === null || bytes === null) return null;
  const record = parseRecord(json);
  if (record?.identity !== identity || record.sha256 !== createHash('sha256').update(bytes).digest('hex')) return null;
  const file = await openSafetensors(store, prefix + cherriesFile);
  const cherries = new Map<string, Cherries>();
  for (const info of file.tensors.values()) {
    const columns = new Uint32Array((await readTensorBytes(store, info)).slice().buffer);
    cherries.set(info.name, { perRow: info.shape[1], columns });
  }
  return { cherries, samples: record.samples, heterogeneity: record.heterogeneity };
}

/** @returns null for what is damaged */
function parseRecord(json: Uint8Array): StudyRecord | null {
  try {
    return JSON.parse(new TextDecoder().decode(json)) as StudyRecord;
  } catch {
    return null;
  }
}
