/**
 * Impact of each weight of the linear layers: the mean over calibration windows of its squared gradient, the diagonal of
 * the empirical Fisher information.  H_ii ~ E[g_i^2],  g = gradient of (mean token loss x window length), one window at a time
 *
 * The same pass sums the magnitudes and squares of what each layer is given, for the choice of cherries by activation.
 * Sums are whole after every walk over the blocks; going on from them gives the same bits as never having stopped.
 * @source Cui & Wang 2024, section 3, and estimate_impact.py of their code; differs: accumulated in float32, where the published code accumulates in bfloat16
 */
import * as tf from '@tensorflow/tfjs-core';
import type { Tensor2D } from '@tensorflow/tfjs-core';
import { InputError } from '../errors.ts';
import type { DecoderConfig } from '../models/decoder-config.ts';
import { isLinear, tensorShapes } from '../models/decoder-config.ts';
import type { WeightSource } from '../models/decoder.ts';
import { Decoder } from '../models/decoder.ts';
import { tokensAtOnce, windowsInWalk } from '../models/budgets.ts';
import { partsOf } from '../models/parts.ts';

/** Sums over tokens of each input of a layer: of its magnitude and of its square, [in] each. */
export interface InputSums {
  readonly magnitudes: Float64Array;
  readonly squares: Float64Array;
}

/** Sums over the windows so far, by full name of each linear layer; changed in place. */
export interface ImpactSums {
  windows: number;
  /** Of the squared gradients, [out, in] row-major. */
  readonly squares: ReadonlyMap<string, Float32Array>;
  readonly inputs: ReadonlyMap<string, InputSums>;
}

export function createImpactSums(config: DecoderConfig): ImpactSums {
  const squares = new Map<string, Float32Array>();
  const inputs = new Map<string, InputSums>();
  for (const [name, [rows, columns]] of tensorShapes(config)) {
    if (!isLinear(name)) continue;
    squares.set(name, new Float32Array(rows * columns));
    inputs.set(name, { magnitudes: new Float64Array(columns), squares: new Float64Array(columns) });
  }
  return { windows: 0, squares, inputs };
}

export interface ImpactRequest {
  readonly config: DecoderConfig;
  readonly weights: WeightSource;
  /** Calibration windows, all of one length. */
  readonly windows: readonly Int32Array[];
  /** Of the first windows, from an earlier call with the same request; absent: none. */
  readonly sums?: ImpactSums;
  /** Called after each walk with the sums so far; what it throws ends the measurement. */
  readonly onWalk?: (sums: ImpactSums) => Promise<void>;
}

/**
 * Sums the squared gradients and the inputs of all windows.
 * @throws InputError naming the tensor and the windows when a squared gradient is not finite
 */
export async function sumImpact({ config, weights, windows, onWalk, ...from }: ImpactRequest): Promise<ImpactSums> {
  const sums = from.sums ?? createImpactSums(config);
  const decoder = new Decoder(config, weights);
  const { length } = windows[0];
  const windowsAtOnce = Math.max(1, Math.floor(tokensAtOnce / length));
  for (const walk of partsOf(windows.slice(sums.windows), windowsInWalk(config, length))) {
    await decoder.lossAndGradients(partsOf(walk, windowsAtOnce), {
      gradientScale: length / (length - 1),
      reduction: 'sumOfSquares',
      observe: inputObserver(sums.inputs),
      consume: (name, squares) => {
        const sum = sums.squares.get(name);
        if (sum && !addFinite(sum, squares)) throw notFinite(name, sums.windows, sums.windows + walk.length);
      },
    });
    sums.windows += walk.length;
    await onWalk?.(sums);
  }
  return sums;
}

/** @returns false when a value of `squares` is not finite */
function addFinite(sum: Float32Array, squares: Float32Array): boolean {
  let total = 0;
  for (let i = 0; i < sum.length; i++) {
    sum[i] += squares[i];
    total += squares[i];
  }
  return Number.isFinite(total);
}

function notFinite(name: string, from: number, until: number): InputError {
  return new InputError(
    'impact_not_finite',
    `The gradient of "${name}" is not finite on calibration windows ${from + 1} to ${until}: the model overflows float32 ` +
      'there. Check that its weights and config.json belong together and that `cherryq eval` gives it a finite perplexity.',
    name,
  );
}

/** Layers that share their input are given one tensor, one after another: it is summed once. */
function inputObserver(sums: ReadonlyMap<string, InputSums>): (name: string, inputs: Tensor2D) => void {
  let last: { id: number; values: Float32Array } | null = null;
  return (name, inputs) => {
    if (last?.id !== inputs.id) {
      const both = tf.tidy(() => tf.stack([tf.sum(tf.abs(inputs), 0), tf.sum(tf.square(inputs), 0)]));
      last = { id: inputs.id, values: both.dataSync() as Float32Array };
      both.dispose();
    }
    const { values } = last;
    const own = sums.get(name);
    if (!own) return;
    const columns = own.magnitudes.length;
    for (let column = 0; column < columns; column++) {
      own.magnitudes[column] += values[column];
      own.squares[column] += values[columns + column];
    }
  };
}

/** Divides the sums of squared gradients by the windows, in place: they are the impact then.  @returns them */
export function impactFrom(sums: ImpactSums): ReadonlyMap<string, Float32Array> {
  for (const sum of sums.squares.values()) for (let i = 0; i < sum.length; i++) sum[i] /= sums.windows;
  return sums.squares;
}

/** Impact by full name of each linear layer, [out, in] row-major, measured in one go. */
export async function measureImpact(
  config: DecoderConfig,
  weights: ReadonlyMap<string, Float32Array>,
  windows: readonly Int32Array[],
  onWindows?: (done: number) => Promise<void>,
): Promise<ReadonlyMap<string, Float32Array>> {
  const source = { read: (name: string) => weights.get(name) as Float32Array };
  const onWalk = async (sums: ImpactSums): Promise<void> => onWindows?.(sums.windows);
  return impactFrom(await sumImpact({ config, weights: source, windows, onWalk }));
}
