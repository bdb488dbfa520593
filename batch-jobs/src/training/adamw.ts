/**
 * AdamW on host arrays: latent weights and moments never need to be on the device.
 *   m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;  w = w (1 - lr wd) - lr (m / (1-b1^t)) / (sqrt(v / (1-b2^t)) + eps)
 * @source Loshchilov & Hutter 2019, in the form of torch.optim.AdamW
 */
export interface AdamWSettings {
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  readonly weightDecay: number;
}

/** First and second moment of a tensor's gradients, of its length, zero at the start. */
export interface Moments {
  readonly first: Float32Array;
  readonly second: Float32Array;
}

export function createMoments(length: number): Moments {
  return { first: new Float32Array(length), second: new Float32Array(length) };
}

/**
 * Updates `weight` and `moments` in place.
 * @param gradientScale factor on the gradient, from clipping   @param step counted from 1
 */
export function adamWStep(
  weight: Float32Array,
  gradient: Float32Array,
  moments: Moments,
  settings: AdamWSettings,
  learningRate: number,
  gradientScale: number,
  step: number,
): void {
  const { beta1, beta2, epsilon, weightDecay } = settings;
  const { first, second } = moments;
  const correction1 = 1 - beta1 ** step;
  const rootCorrection2 = Math.sqrt(1 - beta2 ** step);
  const stepSize = learningRate / correction1;
  const decay = 1 - learningRate * weightDecay;
  for (let i = 0; i < weight.length; i++) {
    const g = gradient[i] * gradientScale;
    const m = (first[i] = beta1 * first[i] + (1 - beta1) * g);
    const v = (second[i] = beta2 * second[i] + (1 - beta2) * g * g);
    weight[i] = weight[i] * decay - (stepSize * m) / (Math.sqrt(v) / rootCorrection2 + epsilon);
  }
}

/** Factor that brings the global norm of the gradients to `maxNorm` or less.  @source torch.nn.utils.clip_grad_norm_ */
export function clippingScale(gradients: Iterable<Float32Array>, maxNorm: number): { norm: number; scale: number } {
  let squares = 0;
  for (const gradient of gradients) for (let i = 0; i < gradient.length; i++) squares += gradient[i] * gradient[i];
  const norm = Math.sqrt(squares);
  return { norm, scale: Math.min(1, maxNorm / (norm + 1e-6)) };
}
