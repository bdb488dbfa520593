/**
 * AdamW's settings and the constants of one step. The arithmetic is the kernel `adamW` of batch-jobs/kernels/host.ts, which
 * runs on weights in main memory: latent weights and moments (moments.ts) never need to be on the device.
 *   m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;  w = w (1 - lr wd) - lr (m / (1-b1^t)) / (sqrt(v / (1-b2^t)) + eps)
 * @source Loshchilov & Hutter 2019, in the form of torch.optim.AdamW
 */
import type { AdamWConstants } from '../numeric/train-tasks.ts';

export interface AdamWSettings {
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  readonly weightDecay: number;
}

/** @param gradientScale factor on the gradient, from clipping   @param step counted from 1 */
export function adamWConstants(
  settings: AdamWSettings,
  learningRate: number,
  gradientScale: number,
  step: number,
): AdamWConstants {
  const { beta1, beta2, epsilon, weightDecay } = settings;
  return {
    gradientScale,
    beta1,
    beta2,
    epsilon,
    stepSize: learningRate / (1 - beta1 ** step),
    decay: 1 - learningRate * weightDecay,
    rootCorrection2: Math.sqrt(1 - beta2 ** step),
  };
}

/** Factor that brings gradients of this global norm to `maxNorm` or less.  @source torch.nn.utils.clip_grad_norm_ */
export function clippingScale(norm: number, maxNorm: number): number {
  return Math.min(1, maxNorm / (norm + 1e-6));
}
