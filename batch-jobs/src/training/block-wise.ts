/**
 * Training block by block, the cheap alternative to training end to end and a deviation from the paper: each block, its
 * matrices through the quantizer, learns to give what the original's block gives.
 *
 *   target   what the original's block makes of the original's hidden states
 *   inputs   what the compressed blocks before it make of the same windows, so that it learns to undo their errors
 *   loss     |output - target|^2 / |target|^2, both summed; the lower sum is that of an average token of all windows
 *
 * AdamW changes the block's linear layers and norms, each block with a schedule of its own. Hidden states wait in main memory
 * for a bounded number of windows, which are gone through again where a block's steps need more. Nothing of them is in a
 * checkpoint: a restart runs the windows through the blocks before its own.
 * @source Chen et al. 2024 (EfficientQAT), Block-AP; differs: the published CherryQ quantizer, no learned scales, the loss
 *   relative to the target, so that it compares between blocks and AdamW's epsilon stays far below the gradients
 */
import { InputError } from '../errors.ts';
import { defaultHiddenBytes, tokensAtOnce } from '../models/budgets.ts';
import type { DecoderConfig } from '../models/decoder-config.ts';
import { blockPrefix, blockTensors, parameterKindOf } from '../models/decoder-config.ts';
import { Decoder } from '../models/decoder.ts';
import type { WeightSource } from '../models/decoder.ts';
import { allFinite } from '../models/not-finite.ts';
import { partsOf } from '../models/parts.ts';
import { sharedFloat32 } from '../numeric/pool.ts';
import type { TrainingArrays } from './host-weights.ts';
import { HostWeights } from './host-weights.ts';
import { clearMoments, createMoments, float32InMemory } from './moments.ts';
import type { CommonTrainOptions, Divergence, StepRecord, TrainState, TrainStateOptions } from './train.ts';
import { divergedError, inSharedMemory, takeStep } from './train.ts';

/** `schedule.totalSteps` is that of each block. */
export interface BlockWiseOptions extends CommonTrainOptions {
  /** The model before compression; may be read from its files. */
  readonly original: WeightSource;
  /** The `index`-th window of the data, as of a block's start; all of one length. */
  readonly windowAt: (index: number) => Int32Array;
  /** For the hidden states of both chains, and of one of them once more while it moves on to the next block. */
  readonly hiddenBytes?: number;
}

/** Names within a block of what is trained, with their lengths. */
function trainedInBlock(
  config: DecoderConfig,
  kinds: TrainStateOptions['trainedParameters'] = ['linears', 'norms'],
): Map<string, number> {
  const trained = blockTensors(config).filter(({ name }) => kinds.includes(parameterKindOf(blockPrefix(0) + name)));
  return new Map(trained.map(({ name, shape }) => [name, shape.reduce((product, size) => product * size, 1)]));
}

/**
 * A state before the first step: moments of one block, which the blocks use one after another.
 * @param weights arrays in shared memory are trained in place, others are copied
 * @throws InputError `nothing_to_train` when neither linear layers nor norms are, StorageFullError as `createMoments`
 */
export async function createBlockWiseState(
  config: DecoderConfig,
  weights: ReadonlyMap<string, Float32Array>,
  { trainedParameters, moments = float32InMemory }: TrainStateOptions = {},
): Promise<TrainState> {
  const trained = trainedInBlock(config, trainedParameters);
  if (trained.size === 0) {
    throw new InputError(
      'nothing_to_train',
      `trainedParameters is ${JSON.stringify(trainedParameters)}, but training block by block changes linear layers and norms alone. ` +
        'Add "linears" or "norms", or set training.mode to "endToEnd".',
      'training.trainedParameters',
    );
  }
  const store = await createMoments(trained, moments);
  return {
    latent: inSharedMemory(weights),
    moments: store.moments,
    changed: new Set(),
    records: [],
    close: store.close,
  };
}

/** Hidden states of all windows before a block; each [windows x length, hidden]. */
interface Chains {
  readonly block: number;
  readonly inputs: Float32Array;
  /** What the original's block makes of its own. */
  readonly targets: Float32Array;
  /** Mean over tokens of the sum of a target's squares. */
  readonly targetSquares: number;
}

export class BlockWiseTrainer {
  private readonly weights: HostWeights;
  private readonly compressed: Decoder;
  private readonly original: Decoder;
  private readonly arrays: ReadonlyMap<string, TrainingArrays>;
  private readonly windows: readonly Int32Array[];
  private chains: Chains | null = null;

  /** @param state new, or restored from a checkpoint of the same training */
  constructor(
    private readonly options: BlockWiseOptions,
    readonly state: TrainState,
  ) {
    const { config, quantizer, original, batchSize, schedule, windowAt, hiddenBytes = defaultHiddenBytes } = options;
    this.weights = new HostWeights(config, state.latent, quantizer, 0);
    this.compressed = new Decoder(config, this.weights);
    this.original = new Decoder(config, original);
    const lengths = trainedInBlock(config);
    this.arrays = new Map(
      [...state.moments].map(([name, moments]) => {
        return [name, { moments, gradient: sharedFloat32(lengths.get(name) as number) }];
      }),
    );
    const first = windowAt(0);
    const room = Math.floor(hiddenBytes / (3 * 4 * config.hiddenSize * first.length));
    const count = Math.max(1, Math.min(schedule.totalSteps * batchSize, room));
    this.windows = Array.from({ length: count }, (_, index) => windowAt(index));
  }

  /** Steps done so far, of all blocks. */
  get step(): number {
    return this.state.records.length;
  }

  /**
   * One optimizer step of the block whose turn it is; a block's first also runs all windows through the block before.
   * @throws DivergedError when the loss or the gradient is not finite; the state is then as it was before the step
   */
  async advance(): Promise<StepRecord> {
    const { options, state, step } = this;
    const { schedule, batchSize } = options;
    const block = Math.floor(step / schedule.totalSteps);
    const inBlock = step % schedule.totalSteps;
    const chains = await this.begin(block);
    const tokens = chains.inputs.length / options.config.hiddenSize;
    const length = tokens / this.windows.length;

    this.weights.discardGradients();
    const lossScale = 1 / (batchSize * length * chains.targetSquares);
    const batch = Array.from({ length: batchSize }, (_, i) => (inBlock * batchSize + i) % this.windows.length);
    let loss = 0;
    for (const part of partsOf(batch, Math.max(1, Math.floor(tokensAtOnce / length)))) {
      const request = {
        hidden: this.rowsOf(chains.inputs, part),
        target: this.rowsOf(chains.targets, part),
        windows: part.length,
        length,
      };
      loss += await this.compressed.blockLossAndGradients(block, request, {
        gradientScale: lossScale,
        consume: (name, gradient) => this.weights.addGradient(name, gradient),
      });
    }
    loss *= lossScale;
    const norm = await this.weights.gradientNorm();
    if (!Number.isFinite(loss) || !Number.isFinite(norm)) {
      const examples = this.rowsOf(chains.inputs, batch);
      const found = await this.divergence(block, examples, batchSize, loss);
      throw divergedError(found, step + 1, loss, norm, schedule.peak);
    }
    for (const name of this.namesIn(block)) state.changed.add(name);
    if (inBlock === 0) for (const { moments } of this.arrays.values()) await clearMoments(moments);
    const record = { step: step + 1, block, loss, ...(await takeStep(this.weights, options, norm, inBlock)) };
    state.records.push(record);
    return record;
  }

  /** Sets what is trained to the block, and its hidden states where they are not there yet. */
  private async begin(block: number): Promise<Chains> {
    if (this.chains?.block === block) return this.chains;
    this.chains = await this.advanceChains(block);
    const names = this.namesIn(block);
    this.weights.train(new Map([...this.arrays.values()].map((arrays, i) => [names[i], arrays])));
    return this.chains;
  }

  /** Full names of what is trained of a block, in the order of `arrays`. */
  private namesIn(block: number): string[] {
    return [...this.arrays.keys()].map((name) => blockPrefix(block) + name);
  }

  /** Where a block's loss or gradient first has a value that is not finite.  @param inputs of so many windows */
  private async divergence(
    block: number,
    inputs: Float32Array,
    windows: number,
    loss: number,
  ): Promise<Divergence | null> {
    const length = inputs.length / windows / this.options.config.hiddenSize;
    const found = await this.compressed.firstNotFiniteInBlock(block, inputs, windows, length);
    if (found !== null) return found;
    if (Number.isFinite(loss)) return this.weights.firstNotFinite() ?? null;
    return { block, tensor: `${blockPrefix(block)}mlp.down_proj.weight`, what: 'squared error' };
  }

  /** Runs the windows on, the compressed chain up to a block's inputs, the original one through the block. */
  private async advanceChains(until: number): Promise<Chains> {
    let block = this.chains?.block ?? -1;
    let inputs = this.chains?.inputs ?? (await this.original.embedded(this.windows));
    let targets = this.chains?.targets ?? inputs;
    const { length } = this.windows;
    while (block < until) {
      const tokens = inputs.length / this.options.config.hiddenSize / length;
      if (block >= 0) {
        const outputs = await this.compressed.blockOutputs(block, inputs, length, tokens);
        if (!allFinite(outputs)) {
          // The block's last step did it, and no loss has seen its weights since.
          const found = await this.compressed.firstNotFiniteInBlock(block, inputs, length, tokens);
          throw divergedError(found, this.step + 1, NaN, NaN, this.options.schedule.peak);
        }
        inputs = outputs;
      }
      block++;
      targets = await this.original.blockOutputs(block, targets, length, tokens);
    }
    const squares = sumOfSquares(targets) / (inputs.length / this.options.config.hiddenSize);
    if (!Number.isFinite(squares)) throw notFinite(block);
    return { block, inputs, targets, targetSquares: squares || 1 };
  }

  /** Rows of some windows, one window after another. */
  private rowsOf(hidden: Float32Array, windows: readonly number[]): Float32Array {
    const size = hidden.length / this.windows.length;
    const rows = new Float32Array(windows.length * size);
    windows.forEach((window, i) => rows.set(hidden.subarray(window * size, (window + 1) * size), i * size));
    return rows;
  }
}

function sumOfSquares(values: Float32Array): number {
  let sum = 0;
  for (const value of values) sum += value * value;
  return sum;
}

function notFinite(block: number): InputError {
  return new InputError(
    'model_not_finite',
    `Block ${block} of the original gives values that are not finite on the calibration windows. ` +
      'Check that its weights and config.json belong together and that `cherryq eval` gives it a finite perplexity.',
    `model.layers.${block}`,
  );
}
