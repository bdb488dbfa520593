/**
 * Learning rate of a step: linear warm-up, then a cosine from the peak to a floor.
 *   after warm-up: rate = peak * (1 - (1 - r) (1 - floor)),  r = (1 + cos(pi * progress)) / 2
 * @source min_warmup_ratio of the published CherryQ trainer, over the cosine schedule of transformers; differs: in the warm-up a
 *   step has the rate (step + 1) / (warmup + 1) of the peak, not step / warmup, so that the first is not lost
 */
export interface ScheduleSettings {
  readonly peak: number;
  readonly totalSteps: number;
  readonly warmupFraction: number;
  /** Rate at the end over the peak. */
  readonly floor: number;
}

/** @param step counted from 0 */
export function learningRateAt(step: number, settings: ScheduleSettings): number {
  const { peak, totalSteps, warmupFraction, floor } = settings;
  const warmup = Math.ceil(totalSteps * warmupFraction);
  if (step < warmup) return (peak * (step + 1)) / (warmup + 1);
  const progress = (step - warmup) / Math.max(1, totalSteps - warmup);
  const cosine = 0.5 * (1 + Math.cos(Math.PI * progress));
  return peak * (1 - (1 - cosine) * (1 - floor));
}

/** Published floor: a quarter of the peak for 2 and 3 bits, a tenth for 4; 8 bits follow 4. */
export function publishedFloor(bits: number): number {
  return bits <= 3 ? 0.25 : 0.1;
}
