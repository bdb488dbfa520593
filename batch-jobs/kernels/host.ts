/**
 * Host kernels in AssemblyScript, compiled to WebAssembly with SIMD by scripts/build.mjs: the arithmetic on weights that
 * never needs a device. They work on chunks that batch-jobs/src/numeric/host-kernels.ts copies into this module's memory;
 * every result is bit for bit that of the plain functions beside it, which tests compare.
 */

/** AdamW in double precision, two weights at a time; see training/adamw.ts. All pointers are float32[length]. */
export function adamW(
  weight: usize,
  gradient: usize,
  first: usize,
  second: usize,
  length: i32,
  gradientScale: f64,
  beta1: f64,
  beta2: f64,
  stepSize: f64,
  decay: f64,
  rootCorrection2: f64,
  epsilon: f64,
): void {
  const scale2 = f64x2.splat(gradientScale);
  const beta1s = f64x2.splat(beta1);
  const beta2s = f64x2.splat(beta2);
  const rest1 = f64x2.splat(1 - beta1);
  const rest2 = f64x2.splat(1 - beta2);
  const stepSizes = f64x2.splat(stepSize);
  const decays = f64x2.splat(decay);
  const roots = f64x2.splat(rootCorrection2);
  const epsilons = f64x2.splat(epsilon);
  for (let i: i32 = 0; i < length; i += 2) {
    const at = (<usize>i) << 2;
    const g = f64x2.mul(promote(gradient + at), scale2);
    const m = demote(f64x2.add(f64x2.mul(beta1s, promote(first + at)), f64x2.mul(rest1, g)));
    const v = demote(f64x2.add(f64x2.mul(beta2s, promote(second + at)), f64x2.mul(f64x2.mul(rest2, g), g)));
    v128.store64_lane(first + at, m, 0);
    v128.store64_lane(second + at, v, 0);
  }
}

function promote(at: usize): v128 {
  return f64x2.promote_low_f32x4(v128.load64_zero(at));
}

function demote(pair: v128): v128 {
  return f32x4.demote_f64x2_zero(pair);
}
