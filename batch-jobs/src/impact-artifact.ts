/**
 * What is kept of the impact of a model's weights, once for all jobs of a tenant on the same model and calibration windows:
 * enough to choose cherries by impact or activation with any scheme, and to draw the analyses, in about a thirtieth of the
 * weights' own size.
 *
 *   <tenant>/impact/<identity>/impact.safetensors    the tensors below, for each linear layer
 *   <tenant>/impact/<identity>/impact.json           statistics, and the SHA-256 of the tensors and of itself; written last
 *
 * The identity is a hash over all that the bytes depend on, so jobs that race write the same. A damaged artifact is
 * measured again.
 */
import { messageOf } from './errors.ts';
import { createHash } from 'node:crypto';
import { z } from 'zod';
import type { Dtype, TensorToWrite } from './formats/safetensors.ts';
import { openSafetensors, readTensor, readTensorBytes, safetensorsBytes } from './formats/safetensors.ts';
import type { DecoderConfig } from './models/decoder-config.ts';
import { tensorShapes } from './models/decoder-config.ts';
import type { WeightSource } from './models/decoder.ts';
import { heterogeneityOfRows, heterogeneityScore, largestMagnitudes } from './numeric/heterogeneity.ts';
import { createRandom } from './numeric/random.ts';
import { columnMeans, topColumns } from './numeric/top-columns.ts';
import type { Store } from './storage/store.ts';
import type { ImpactSums } from './training/impact.ts';
import { impactFrom } from './training/impact.ts';

/**
 * Shares of each row whose columns an artifact may hold: the least that is enough for the job is measured, and any that is
 * enough is used. The last is the largest fraction that a scheme may have.
 */
export const candidateFractions = [1 / 32, 1 / 8, 1 / 4] as const;

/** Weights sampled of each matrix; as many as in the paper's figure 1. */
const samplesPerMatrix = 4096;
/** Of the sampled places, which are the same in all models of one shape. */
const sampleSeed = 1;
/** Order statistics are kept of the largest 1/2, 1/4, ... of a matrix, down to this power. */
const tailPowers = 16;

const tailSchema = z.object({
  /** Of the matrix's weights, those of highest impact. */
  fraction: z.number(),
  /** The least impact among them. */
  least: z.number(),
  /** Their part of the sum over the matrix; 0 where that is 0. */
  share: z.number(),
});

const statisticsSchema = z.object({
  shape: z.tuple([z.int().min(1), z.int().min(1)]),
  meanImpact: z.number(),
  maxImpact: z.number(),
  tail: z.array(tailSchema),
  byImpact: z.number(),
  byWeight: z.number(),
  byActivation: z.number(),
});

const recordSchema = z.object({
  formatVersion: z.literal(1),
  identity: z.string(),
  /** Of the tensors' file. */
  sha256: z.string(),
  /** Calibration windows, and tokens in each. */
  windows: z.int().min(1),
  sequenceLength: z.int().min(2),
  candidateFraction: z.number(),
  matrices: z.record(z.string(), statisticsSchema),
});
type ImpactRecord = z.infer<typeof recordSchema>;
/** What `impact.json` holds: the record, and the hash of its own JSON text. */
const recordFileSchema = z.object({ recordSha256: z.string(), record: recordSchema });

/** Statistics of one matrix: the spread of its impact, and its heterogeneity scores (equation 4) by the three criteria. */
export type ImpactStatistics = z.infer<typeof statisticsSchema>;

/** For each row, columns by descending impact. */
export interface Candidates {
  readonly perRow: number;
  /** [rows, perRow]; two bytes each where the columns allow it. */
  readonly columns: Uint16Array | Uint32Array;
}

/** Some weights of a matrix, spread evenly over it at random; ascending by index. */
export interface ImpactSamples {
  /** Row-major places in the matrix. */
  readonly index: Uint32Array;
  readonly impact: Float32Array;
  readonly magnitude: Float32Array;
}

/** An artifact that has been verified; its tensors are read from the store when they are asked for. */
export interface ImpactArtifact {
  readonly sha256: string;
  readonly windows: number;
  readonly candidateFraction: number;
  /** By full name of each linear layer, in the model's order. */
  readonly matrices: ReadonlyMap<string, ImpactStatistics>;
  candidates(name: string): Promise<Candidates>;
  /** Mean over the rows of the impact of each column, [in]. */
  columnMeans(name: string): Promise<Float32Array>;
  /** Mean magnitude and mean square of each input over all tokens, [in]. */
  activations(name: string): Promise<{ magnitudes: Float32Array; squares: Float32Array }>;
  samples(name: string): Promise<ImpactSamples>;
}

/** What the bytes of an artifact depend on. */
export interface ImpactSource {
  /** Version of the program, and name of the engine: both may change a sum's last bits. */
  readonly version: string;
  readonly engine: string;
  /** Fingerprint of the model's folder. */
  readonly modelFingerprint: string;
  /** Calibration windows, all of one length, in the order in which they are summed. */
  readonly windows: readonly Int32Array[];
}

/** SHA-256, in hexadecimal, over the tokens of windows of one length, and how many they are. */
export function windowsFingerprint(windows: readonly Int32Array[]): string {
  const hash = createHash('sha256').update(`${windows.length} ${windows[0].length}\n`);
  for (const window of windows) hash.update(littleEndian(window));
  return hash.digest('hex');
}

/** SHA-256, in hexadecimal, over what an artifact depends on. */
export function impactIdentity(source: ImpactSource, candidateFraction: number): string {
  const { version, engine, modelFingerprint, windows } = source;
  const all = [version, engine, modelFingerprint, windowsFingerprint(windows), candidateFraction, samplesPerMatrix];
  return sha256(JSON.stringify(all));
}

/** The least of `candidateFractions` that holds enough for a cherry fraction.  @throws RangeError beyond the last */
export function candidateFractionFor(fraction: number): number {
  const found = candidateFractions.find((candidates) => candidates >= fraction);
  if (found === undefined) throw new RangeError(`A cherry fraction of ${fraction} is above ${candidateFractions[2]}.`);
  return found;
}

const tensorsFile = 'impact.safetensors';
const recordFile = 'impact.json';
const folderOf = (tenantPrefix: string, identity: string): string => `${tenantPrefix}impact/${identity}/`;

/**
 * Writes the artifact of finished sums, whose squared gradients are divided in place. One matrix at a time is worked on.
 * @param tenantPrefix ends in a slash
 */
export async function saveImpactArtifact(
  store: Store,
  tenantPrefix: string,
  source: ImpactSource,
  candidateFraction: number,
  sums: ImpactSums,
  weights: WeightSource,
  config: DecoderConfig,
): Promise<void> {
  const identity = impactIdentity(source, candidateFraction);
  const impact = impactFrom(sums);
  const shapes = tensorShapes(config);
  const sequenceLength = source.windows[0].length;
  const tokens = sums.windows * (sequenceLength - 1);
  const matrices: ImpactRecord['matrices'] = {};
  const tensors = [...impact].flatMap(([name, values]) => {
    const [rows, columns] = shapes.get(name) as [number, number];
    let made: Promise<MatrixTensors> | null = null;
    const make = async (): Promise<MatrixTensors> => {
      const inputs = sums.inputs.get(name);
      if (!inputs) throw new Error(`the inputs of ${name} were not observed`);
      const activations = {
        magnitudes: Float32Array.from(inputs.magnitudes, (sum) => sum / tokens),
        squares: Float32Array.from(inputs.squares, (sum) => sum / tokens),
      };
      const weight = await weights.read(name);
      matrices[name] = statisticsOf(values, weight, activations.magnitudes, rows, columns);
      return tensorsOf(values, weight, activations, columns, candidateFraction);
    };
    // Made when the first of them is written, forgotten with the last.
    const parts = partsOf(rows, columns, candidateFraction);
    return parts.map(({ part, dtype, shape }, index): TensorToWrite => {
      const data = async (): Promise<Uint8Array> => {
        const own = await (made ??= make());
        if (index === parts.length - 1) made = null;
        return littleEndian(own[part]);
      };
      return { name: `${part}.${name}`, dtype, shape, data };
    });
  });

  const folder = folderOf(tenantPrefix, identity);
  const hash = createHash('sha256');
  await store.put(folder + tensorsFile, hashed(safetensorsBytes(tensors).chunks, hash));
  const record: ImpactRecord = {
    formatVersion: 1,
    identity,
    sha256: hash.digest('hex'),
    windows: sums.windows,
    sequenceLength,
    candidateFraction,
    matrices,
  };
  const content = { recordSha256: sha256(JSON.stringify(record)), record };
  await store.put(folder + recordFile, new TextEncoder().encode(`${JSON.stringify(content)}\n`));
}

/**
 * The artifact of this identity, its tensors' hash verified; null where there is none.
 * @param onDamage told why one that is there cannot be used
 */
export async function loadImpactArtifact(
  store: Store,
  tenantPrefix: string,
  source: ImpactSource,
  candidateFraction: number,
  onDamage: (message: string) => void,
): Promise<ImpactArtifact | null> {
  const identity = impactIdentity(source, candidateFraction);
  const folder = folderOf(tenantPrefix, identity);
  const json = await store.get(folder + recordFile);
  if (json === null) return null;
  try {
    const { record, recordSha256 } = recordFileSchema.parse(JSON.parse(new TextDecoder().decode(json)));
    if (sha256(JSON.stringify(record)) !== recordSha256) throw new Error(`${recordFile} does not have its own SHA-256`);
    if (record.identity !== identity) throw new Error(`${recordFile} is of another model or text`);
    const bytes = await store.stream(folder + tensorsFile);
    if (bytes === null) throw new Error(`${tensorsFile} is missing`);
    const hash = createHash('sha256');
    for await (const chunk of bytes) hash.update(chunk);
    const found = hash.digest('hex');
    if (found !== record.sha256) throw new Error(`${tensorsFile} has the SHA-256 ${found}, not ${record.sha256}`);
    return await openArtifact(store, folder + tensorsFile, record);
  } catch (error) {
    onDamage(`The stored impact ${folder} cannot be used and is measured again: ${messageOf(error)}.`);
    return null;
  }
}

async function openArtifact(store: Store, key: string, record: ImpactRecord): Promise<ImpactArtifact> {
  const file = await openSafetensors(store, key);
  const infoOf = (part: MatrixPart, name: string) => {
    const info = file.tensors.get(`${part}.${name}`);
    if (!info) throw new Error(`${key} has no "${part}.${name}"`);
    return info;
  };
  const floats = (part: MatrixPart, name: string): Promise<Float32Array> => readTensor(store, infoOf(part, name));
  return {
    sha256: record.sha256,
    windows: record.windows,
    candidateFraction: record.candidateFraction,
    matrices: new Map(Object.entries(record.matrices)),
    async candidates(name) {
      const info = infoOf('candidates', name);
      const { buffer } = (await readTensorBytes(store, info)).slice();
      const columns = info.dtype === 'U16' ? new Uint16Array(buffer) : new Uint32Array(buffer);
      return { perRow: info.shape[1], columns };
    },
    columnMeans: (name) => floats('columnMeans', name),
    async activations(name) {
      return {
        magnitudes: await floats('inputMagnitudes', name),
        squares: await floats('inputSquares', name),
      };
    },
    async samples(name) {
      const index = new Uint32Array((await readTensorBytes(store, infoOf('sampleIndex', name))).slice().buffer);
      return {
        index,
        impact: await floats('sampleImpact', name),
        magnitude: await floats('sampleMagnitude', name),
      };
    },
  };
}

type MatrixPart =
  | 'candidates'
  | 'columnMeans'
  | 'inputMagnitudes'
  | 'inputSquares'
  | 'sampleIndex'
  | 'sampleImpact'
  | 'sampleMagnitude';
type MatrixTensors = Readonly<Record<MatrixPart, Uint16Array | Uint32Array | Float32Array>>;

const candidateCount = (columns: number, fraction: number): number => Math.ceil(columns * fraction);
const fitsTwoBytes = (columns: number): boolean => columns <= 65_536;

function partsOf(
  rows: number,
  columns: number,
  candidateFraction: number,
): { part: MatrixPart; dtype: Dtype; shape: number[] }[] {
  const samples = Math.min(samplesPerMatrix, rows * columns);
  const perRow = candidateCount(columns, candidateFraction);
  return [
    { part: 'candidates', dtype: fitsTwoBytes(columns) ? 'U16' : 'U32', shape: [rows, perRow] },
    { part: 'columnMeans', dtype: 'F32', shape: [columns] },
    { part: 'inputMagnitudes', dtype: 'F32', shape: [columns] },
    { part: 'inputSquares', dtype: 'F32', shape: [columns] },
    { part: 'sampleIndex', dtype: 'U32', shape: [samples] },
    { part: 'sampleImpact', dtype: 'F32', shape: [samples] },
    { part: 'sampleMagnitude', dtype: 'F32', shape: [samples] },
  ];
}

function tensorsOf(
  impact: Float32Array,
  weight: Float32Array,
  activations: { readonly magnitudes: Float32Array; readonly squares: Float32Array },
  columns: number,
  candidateFraction: number,
): MatrixTensors {
  const candidates = topColumns(impact, columns, candidateCount(columns, candidateFraction));
  const index = samplePlaces(impact.length);
  return {
    candidates: fitsTwoBytes(columns) ? Uint16Array.from(candidates) : candidates,
    columnMeans: columnMeans(impact, columns),
    inputMagnitudes: activations.magnitudes,
    inputSquares: activations.squares,
    sampleIndex: index,
    sampleImpact: Float32Array.from(index, (place) => impact[place]),
    sampleMagnitude: Float32Array.from(index, (place) => Math.abs(weight[place])),
  };
}

/** One place at random in each of as many equal parts of the matrix as there are samples. */
function samplePlaces(size: number): Uint32Array {
  const count = Math.min(samplesPerMatrix, size);
  const random = createRandom(sampleSeed);
  return Uint32Array.from({ length: count }, (_, i) => {
    const from = Math.floor((i * size) / count);
    const until = Math.floor(((i + 1) * size) / count);
    return from + Math.floor(random() * (until - from));
  });
}

function statisticsOf(
  impact: Float32Array,
  weight: Float32Array,
  activations: Float32Array,
  rows: number,
  columns: number,
): ImpactStatistics {
  const size = impact.length;
  const counts = Array.from({ length: tailPowers }, (_, i) => Math.floor(size / 2 ** (i + 1))).filter((n) => n > 0);
  const [all, first, ...tail] = largestMagnitudes(impact, [size, 1, ...counts]);
  return {
    shape: [rows, columns],
    meanImpact: all.sum / size,
    maxImpact: first.least,
    tail: tail.map(({ least, sum }, i) => ({
      fraction: counts[i] / size,
      least,
      share: all.sum > 0 ? sum / all.sum : 0,
    })),
    byImpact: heterogeneityScore(impact),
    byWeight: heterogeneityScore(weight),
    byActivation: heterogeneityOfRows(activations, rows),
  };
}

function littleEndian(values: Uint16Array | Uint32Array | Int32Array | Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');

async function* hashed(
  chunks: AsyncIterable<Uint8Array>,
  hash: ReturnType<typeof createHash>,
): AsyncIterable<Uint8Array> {
  for await (const chunk of chunks) {
    hash.update(chunk);
    yield chunk;
  }
}
