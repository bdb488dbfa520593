/**
 * Impact of each weight of the linear layers: the mean over calibration windows of its squared gradient, the diagonal of
 * the empirical Fisher information.  H_ii ~ E[g_i^2],  g = gradient of (mean token loss x window length), one window at a time
 * @source Cui & Wang 2024, section 3, and estimate_impact.py of their code; differs: accumulated in float32, where the published code accumulates in bfloat16
 */
import type { DecoderConfig } from '../models/decoder-config.ts';
import { isLinear } from '../models/decoder-config.ts';
import { Decoder } from '../models/decoder.ts';

/** @returns by full tensor name, [out, in] row-major */
export async function measureImpact(
  config: DecoderConfig,
  weights: ReadonlyMap<string, Float32Array>,
  windows: readonly Int32Array[],
  onWindow: (done: number) => Promise<void>,
): Promise<Map<string, Float32Array>> {
  const decoder = new Decoder(config, { read: (name) => weights.get(name) as Float32Array });
  const impact = new Map<string, Float32Array>();
  for (const [name, weight] of weights) if (isLinear(name)) impact.set(name, new Float32Array(weight.length));
  for (const [index, window] of windows.entries()) {
    const scale = window.length / (window.length - 1);
    await decoder.lossAndGradients([window], scale, (name, gradient) => {
      const sum = impact.get(name);
      if (sum) for (let i = 0; i < sum.length; i++) sum[i] += gradient[i] * gradient[i];
    });
    await onWindow(index + 1);
  }
  for (const sum of impact.values()) for (let i = 0; i < sum.length; i++) sum[i] /= windows.length;
  return impact;
}
