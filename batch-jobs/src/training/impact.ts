/**
 * Impact of each weight of the linear layers: the mean over calibration windows of its squared gradient, the diagonal of
 * the empirical Fisher information.  H_ii ~ E[g_i^2],  g = gradient of (mean token loss x window length), one window at a time
 * @source Cui & Wang 2024, section 3, and estimate_impact.py of their code; differs: accumulated in float32, where the published code accumulates in bfloat16
 */
import type { DecoderConfig } from '../models/decoder-config.ts';
import { isLinear } from '../models/decoder-config.ts';
import { Decoder } from '../models/decoder.ts';
import { partsOf, tokensAtOnce, walkLength } from './walk.ts';

/** Windows that share a walk over the blocks: a walk is what a stop must wait for. */
const mostWindows = 8;

/** @returns by full tensor name, [out, in] row-major */
export async function measureImpact(
  config: DecoderConfig,
  weights: ReadonlyMap<string, Float32Array>,
  windows: readonly Int32Array[],
  onWindows: (done: number) => Promise<void>,
): Promise<Map<string, Float32Array>> {
  const decoder = new Decoder(config, { read: (name) => weights.get(name) as Float32Array });
  const impact = new Map<string, Float32Array>();
  for (const [name, weight] of weights) if (isLinear(name)) impact.set(name, new Float32Array(weight.length));
  const { length } = windows[0];
  let done = 0;
  const windowsAtOnce = Math.max(1, Math.floor(tokensAtOnce / length));
  const windowsInWalk = Math.max(windowsAtOnce, Math.min(mostWindows, walkLength(config, length)));
  for (const walk of partsOf(windows, windowsInWalk)) {
    await decoder.lossAndGradients(partsOf(walk, windowsAtOnce), {
      gradientScale: length / (length - 1),
      reduction: 'sumOfSquares',
      consume: (name, squares) => {
        const sum = impact.get(name);
        if (sum) for (let i = 0; i < sum.length; i++) sum[i] += squares[i];
      },
    });
    await onWindows((done += walk.length));
  }
  for (const sum of impact.values()) for (let i = 0; i < sum.length; i++) sum[i] /= windows.length;
  return impact;
}
