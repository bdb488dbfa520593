/**
 * How far the most important hundredth of a matrix's weights stands out from the rest:
 *   score = mean(top 1 % of f) / max(bottom 99 % of f)
 * @source Cui & Wang 2024, equation 4
 */
export function heterogeneityScore(values: Float32Array): number {
  const sorted = Float32Array.from(values, Math.abs).sort();
  const top = Math.max(1, Math.round(sorted.length / 100));
  const cut = sorted.length - top;
  let sum = 0;
  for (let i = cut; i < sorted.length; i++) sum += sorted[i];
  return sum / top / Math.max(sorted[cut - 1] ?? 0, Number.MIN_VALUE);
}
