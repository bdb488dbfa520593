/** The model shapes that are measured, with seeded weights and tokens made on the spot. */
import { mkdir, open, writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { DecoderConfig } from '../src/models/decoder-config.ts';
import { plainFeatures, tensorShapes } from '../src/models/decoder-config.ts';
import { createRandom } from '../src/numeric/random.ts';

export interface BenchShape {
  readonly label: string;
  readonly config: DecoderConfig;
  readonly batchSize: number;
  /** Tokens of a window. */
  readonly length: number;
}

function llama(shape: Partial<DecoderConfig> & Pick<DecoderConfig, 'hiddenSize' | 'numAttentionHeads'>): DecoderConfig {
  return {
    ...plainFeatures,
    architecture: 'LlamaForCausalLM',
    vocabSize: 512,
    intermediateSize: 4 * shape.hiddenSize,
    numHiddenLayers: 1,
    numKeyValueHeads: shape.numAttentionHeads,
    headDim: shape.hiddenSize / shape.numAttentionHeads,
    maxPositionEmbeddings: 2048,
    ropeTheta: 10_000,
    rmsNormEps: 1e-5,
    tieWordEmbeddings: true,
    slidingWindows: new Array<null>(shape.numHiddenLayers ?? 1).fill(null),
    ...shape,
  };
}

/** The shapes of issue and docs: a 15M Llama (as stories15M), a block of Llama-2-7B's width, a 260K one (as stories260K). */
export const benchShapes = {
  '15m': {
    label: '15M Llama, 8 x 256 tokens',
    config: llama({
      hiddenSize: 288,
      numAttentionHeads: 6,
      intermediateSize: 768,
      numHiddenLayers: 6,
      vocabSize: 32_000,
    }),
    batchSize: 8,
    length: 256,
  },
  '7b-block': {
    label: 'one block of Llama-2-7B width, 512 tokens',
    config: llama({ hiddenSize: 4096, numAttentionHeads: 32, intermediateSize: 11_008 }),
    batchSize: 1,
    length: 512,
  },
  '260k': {
    label: '260K Llama, 8 x 256 tokens',
    config: llama({
      hiddenSize: 64,
      numAttentionHeads: 8,
      numKeyValueHeads: 4,
      intermediateSize: 172,
      numHiddenLayers: 5,
    }),
    batchSize: 8,
    length: 256,
  },
} as const satisfies Record<string, BenchShape>;
export type BenchShapeName = keyof typeof benchShapes;

/** The shape as a suite runs it: impact is measured over several windows at once, as in a job. */
export function shapeFor(suite: string, name: BenchShapeName): BenchShape {
  const shape: BenchShape = benchShapes[name];
  return suite === 'impact' ? { ...shape, batchSize: Math.max(4, shape.batchSize) } : shape;
}

/** Windows that the batches are taken from in turn. */
export const windowCount = 64;

const mostRandom = 1 << 20;

/** Seeded weights: norms 1, the rest near-normal of standard deviation 0.02 / sqrt(in / 4096), clipped to a small range. */
export function seededWeights(config: DecoderConfig): Map<string, Float32Array> {
  const random = createRandom(1);
  // A million draws are repeated at shifting offsets: made in a moment, and no two rows are equal.
  const draws = Float32Array.from({ length: mostRandom }, () => random() + random() + random() - 1.5);
  const weights = new Map<string, Float32Array>();
  let offset = 0;
  for (const [name, shape] of tensorShapes(config)) {
    const length = shape.reduce((product, size) => product * size, 1);
    const values = new Float32Array(length);
    if (shape.length === 1) values.fill(1);
    else {
      const scale = 0.04 * Math.sqrt(4096 / shape[1]) * (shape[1] < 1024 ? 0.5 : 1);
      for (let i = 0; i < length; i++) values[i] = draws[(i + (i >> 20) * 7919 + offset) & (mostRandom - 1)] * scale;
    }
    offset += 104_729;
    weights.set(name, values);
  }
  return weights;
}

/** `count` windows of seeded tokens. */
export function seededWindows(shape: BenchShape, count: number): Int32Array[] {
  const random = createRandom(2);
  return Array.from({ length: count }, () =>
    Int32Array.from({ length: shape.length }, () => Math.floor(random() * shape.config.vocabSize)),
  );
}

/** Writes what a peer in another language reads: `shape.json`, `weights.f32` in the order of `tensors`, `tokens.i32`. */
export async function writeShape(folder: string, shape: BenchShape, windows: readonly Int32Array[]): Promise<void> {
  await mkdir(folder, { recursive: true });
  const tensors = [...tensorShapes(shape.config)].map(([name, size]) => ({ name, shape: size }));
  const { config, batchSize, length } = shape;
  await writeFile(path.join(folder, 'shape.json'), JSON.stringify({ config, batchSize, length, tensors }));
  const file = await open(path.join(folder, 'weights.f32'), 'w');
  for (const values of seededWeights(config).values()) await file.writeFile(new Uint8Array(values.buffer));
  await file.close();
  const tokens = await open(path.join(folder, 'tokens.i32'), 'w');
  for (const window of windows) await tokens.writeFile(new Uint8Array(window.buffer));
  await tokens.close();
}
