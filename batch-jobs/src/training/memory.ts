/**
 * What impact and training take of memory, part by part, known before anything runs: the formula of docs/memory.md. Shapes give
 * most of it exactly; what an engine takes besides is measured, or, for a GPU, assumed (`overheads`). Each part is at its peak,
 * and of what is never there at once, the larger counts. Loading and writing the model, and measuring it, take less.
 */
import type { EngineName, Scheme, Training } from 'cherryq/contract';
import type { GradientReduction } from '../models/budgets.ts';
import {
  defaultHiddenBytes,
  defaultLimits,
  keptQuantizedBytes,
  momentBytes,
  mostWindows,
  walkLength,
  windowsInWalk,
} from '../models/budgets.ts';
import type { DecoderConfig } from '../models/decoder-config.ts';
import { blockPrefix, blockTensors, isLinear, parameterKindOf, tensorShapes } from '../models/decoder-config.ts';
import { cherryCount } from '../numeric/quantizer.ts';

export interface MemoryRequest {
  readonly config: DecoderConfig;
  readonly scheme: Scheme;
  readonly training: Training;
  readonly engine: EngineName;
}

export interface MemoryPart {
  readonly part: string;
  readonly bytes: number;
}

export interface PhaseMemory {
  /** In main memory. */
  readonly host: readonly MemoryPart[];
  /** Where the engine computes: a GPU's memory, or main memory too. */
  readonly device: readonly MemoryPart[];
}

export interface MemoryNeeded {
  readonly impact: PhaseMemory;
  readonly training: PhaseMemory;
  /** Of the moments' file; 0 without one. */
  readonly diskBytes: number;
}

interface Overhead {
  /** Of the process with its engine and threads, before it has done anything. */
  readonly processBytes: number;
  /** Of the device's own libraries. */
  readonly deviceBytes: number;
  /** What the engine's allocator takes over what its tensors need. */
  readonly scattered: number;
}

const mebibyte = 1024 ** 2;

const overheads: Readonly<Record<EngineName, Overhead>> = {
  native: { processBytes: 300 * mebibyte, deviceBytes: 0, scattered: 0.3 },
  wasm: { processBytes: 130 * mebibyte, deviceBytes: 0, scattered: 0.1 },
  cpu: { processBytes: 130 * mebibyte, deviceBytes: 0, scattered: 0.1 },
  // Not measured.
  gpu: { processBytes: 2048 * mebibyte, deviceBytes: 1024 * mebibyte, scattered: 0.15 },
};

/** Everything but tokens is in float32. */
const floatBytes = 4;

export function memoryNeeded({ config, scheme, training, engine }: MemoryRequest): MemoryNeeded {
  const overhead = overheads[engine];
  const sizes = sizesOf(config);
  const { sequenceLength: length, batchSize } = training;
  const blockWise = training.mode === 'blockWise';
  const distills = training.loss === 'distillation' && !blockWise;
  const trained = floatBytes * (blockWise ? trainedInBlock(config, training) : trainedEndToEnd(config, training));
  const moments = (2 * momentBytes[training.moments] * trained) / floatBytes;
  const tokensInPart = Math.min(batchSize, mostWindows(length)) * length;
  const windowsOfStep = Math.min(
    batchSize,
    walkLength(config, tokensInPart) * Math.min(batchSize, mostWindows(length)),
  );

  const windowsOfImpact = Math.min(training.impactSamples, windowsInWalk(config, length));

  const loaded: MemoryPart[] = [
    { part: 'process and engine', bytes: overhead.processBytes },
    { part: 'latent weights', bytes: floatBytes * sizes.parameters },
    { part: 'what reading the largest tensor left', bytes: 2 * floatBytes * sizes.largest },
  ];
  const impact: MemoryPart[] = [
    ...loaded,
    { part: 'impact sums', bytes: floatBytes * sizes.linears },
    {
      part: "blocks' inputs",
      bytes: waitingBytes(config, windowsOfImpact, length),
    },
    { part: 'gradients on their way', bytes: floatBytes * sizes.block },
  ];
  const arriving = blockWise ? sizes.block : (config.tieWordEmbeddings ? 1 : 2) * sizes.embedding;
  const steps: MemoryPart[] = [
    ...loaded,
    { part: 'the original, to learn from', bytes: distills ? floatBytes * sizes.parameters : 0 },
    { part: 'gradients', bytes: trained },
    { part: 'moments', bytes: training.momentsIn === 'memory' ? moments : 0 },
    { part: 'quantized matrices', bytes: quantizedBytes(config, blockWise ? 0 : keptQuantizedBytes) },
    { part: 'cherries', bytes: scheme.method === 'cherryq' ? cherryBytes(config, scheme) : 0 },
    blockWise
      ? { part: 'hidden states', bytes: hiddenBytes(config, training) }
      : { part: "blocks' inputs", bytes: waitingBytes(config, windowsOfStep, length) },
    { part: 'gradients on their way', bytes: floatBytes * arriving },
  ];
  const stage = { config, length, engine, overhead };
  return {
    impact: {
      host: impact,
      device: deviceParts({ ...stage, windows: windowsOfImpact, reduction: 'sumOfSquares' }),
    },
    training: {
      host: steps,
      device: blockWise
        ? deviceParts({ ...stage, windows: Math.min(batchSize, mostWindows(length)), reduction: 'sum', oneBlock: true })
        : deviceParts({ ...stage, windows: windowsOfStep, reduction: 'sum', distills }),
    },
    diskBytes: training.momentsIn === 'file' ? moments : 0,
  };
}

export function sumOfParts(parts: readonly MemoryPart[]): number {
  return parts.reduce((sum, { bytes }) => sum + bytes, 0);
}

const sizeOf = (shape: readonly number[]): number => shape.reduce((product, size) => product * size, 1);

/** Numbers in the model and in its parts. */
function sizesOf(config: DecoderConfig) {
  const shapes = [...tensorShapes(config)];
  const total = (of: typeof shapes): number => of.reduce((sum, [, shape]) => sum + sizeOf(shape), 0);
  return {
    parameters: total(shapes),
    linears: total(shapes.filter(([name]) => isLinear(name))),
    largest: Math.max(...shapes.map(([, shape]) => sizeOf(shape))),
    block: blockTensors(config).reduce((sum, { shape }) => sum + sizeOf(shape), 0),
    embedding: config.vocabSize * config.hiddenSize,
  };
}

function trainedEndToEnd(config: DecoderConfig, { trainedParameters }: Training): number {
  const trained = [...tensorShapes(config)].filter(([name]) => trainedParameters.includes(parameterKindOf(name)));
  return trained.reduce((sum, [, shape]) => sum + sizeOf(shape), 0);
}

function trainedInBlock(config: DecoderConfig, { trainedParameters }: Training): number {
  return blockTensors(config)
    .filter(({ name }) => trainedParameters.includes(parameterKindOf(blockPrefix(0) + name)))
    .reduce((sum, { shape }) => sum + sizeOf(shape), 0);
}

/** Of blocks that keep theirs, and of one that all others share. */
function quantizedBytes(config: DecoderConfig, keptBytes: number): number {
  const matrices = blockTensors(config).filter(({ shape }) => shape.length === 2);
  const block = floatBytes * matrices.reduce((sum, { shape }) => sum + sizeOf(shape), 0);
  const kept = Math.min(config.numHiddenLayers, Math.floor(keptBytes / block));
  return block * (kept + (kept < config.numHiddenLayers ? 1 : 0));
}

/** Their columns, as chosen and as the threads share them. */
function cherryBytes(config: DecoderConfig, { cherryFraction }: Scheme): number {
  const matrices = [...tensorShapes(config)].filter(([name]) => isLinear(name));
  const count = matrices.reduce((sum, [, [rows, columns]]) => sum + rows * cherryCount(columns, cherryFraction), 0);
  return 2 * Uint32Array.BYTES_PER_ELEMENT * count;
}

/** Of the windows of one walk, before each block. */
function waitingBytes(config: DecoderConfig, windows: number, length: number): number {
  return floatBytes * windows * length * config.hiddenSize * config.numHiddenLayers;
}

/** Both chains, and one of them once more while it moves on. */
function hiddenBytes(config: DecoderConfig, { tokens, sequenceLength, batchSize }: Training): number {
  const seen = Math.ceil(tokens / (sequenceLength * batchSize)) * batchSize * sequenceLength;
  return Math.min(defaultHiddenBytes, 3 * floatBytes * seen * config.hiddenSize);
}

interface Stage {
  readonly config: DecoderConfig;
  readonly length: number;
  /** Of a walk; they go through a block in parts. */
  readonly windows: number;
  readonly reduction: GradientReduction;
  readonly engine: EngineName;
  readonly overhead: Overhead;
  readonly distills?: boolean;
  /** Training block by block: nothing is kept, and there is no head. */
  readonly oneBlock?: boolean;
}

/** Either at the last backward pass of a block, or at the head. */
function deviceParts({ config, length, windows, reduction, engine, overhead, ...stage }: Stage): MemoryPart[] {
  const sizes = sizesOf(config);
  const atOnce = Math.min(windows, mostWindows(length));
  const parts = Math.ceil(windows / atOnce);
  const { kept, passing } = activationsOf(config, atOnce, length, engine);
  const keptBytes = floatBytes * kept;
  const wanted = stage.oneBlock ? 0 : config.numHiddenLayers * parts;
  const room = Math.min(wanted, Math.floor(defaultLimits.keptBytes / keptBytes));
  const held: MemoryPart[] = [
    { part: 'libraries of the device', bytes: overhead.deviceBytes },
    { part: 'activations kept', bytes: keptBytes * room },
    { part: "a block's weights", bytes: floatBytes * sizes.block },
  ];
  const largestMatrix = Math.max(...blockTensors(config).map(({ shape }) => sizeOf(shape)));
  const gradients = reduction === 'sum' ? (parts > 1 ? 2 : 1) * sizes.block : sizes.block + 3 * largestMatrix;
  const block: MemoryPart[] = [
    ...held,
    { part: 'their gradients', bytes: floatBytes * gradients },
    { part: "a block's activations, made again", bytes: room < wanted || stage.oneBlock ? keptBytes : 0 },
    { part: 'gradients of activations', bytes: floatBytes * passing },
  ];
  const heads = (reduction === 'sum' ? 3 : 1) + (stage.distills ? 1 : 0);
  const head: MemoryPart[] = [
    ...held,
    { part: 'the head and its gradient', bytes: floatBytes * heads * sizes.embedding },
    { part: 'logits', bytes: floatBytes * (stage.distills ? 4 : 3) * logitsAtOnce(config, atOnce * length) },
    { part: 'hidden states', bytes: floatBytes * 4 * atOnce * length * config.hiddenSize },
  ];
  const larger = stage.oneBlock || sumOfParts(block) > sumOfParts(head) ? block : head;
  const tensors = sumOfParts(larger) - overhead.deviceBytes;
  return [...larger, { part: 'scattered by the allocator', bytes: overhead.scattered * tensors }];
}

/** The head goes over tokens in chunks. */
function logitsAtOnce({ vocabSize }: DecoderConfig, tokens: number): number {
  return vocabSize * Math.max(1, Math.min(tokens, Math.floor(defaultLimits.logits / vocabSize)));
}

/** Numbers that windows run at once keep of a block for its backward pass, and that it makes besides. */
function activationsOf(
  config: DecoderConfig,
  windows: number,
  length: number,
  engine: EngineName,
): { kept: number; passing: number } {
  const { hiddenSize, intermediateSize, numAttentionHeads, numKeyValueHeads, headDim, qkNorm } = config;
  const tokens = windows * length;
  const queries = numAttentionHeads * headDim;
  const keys = numKeyValueHeads * headDim;
  // WebAssembly's attention goes through the scores in pieces; TensorFlow's has them whole, with turned queries and keys.
  const scores = engine === 'wasm' ? 0 : windows * numAttentionHeads * length * length;
  const turned = engine === 'wasm' ? 2 * numAttentionHeads : queries + 2 * keys;
  const row = 4 * hiddenSize + 2 * queries + 2 * keys + 3 * intermediateSize + turned + (qkNorm ? queries + keys : 0);
  const passing = 4 * hiddenSize + 2 * queries + 2 * keys + 3 * intermediateSize;
  return { kept: tokens * row + scores, passing: tokens * passing + 3 * scores };
}
