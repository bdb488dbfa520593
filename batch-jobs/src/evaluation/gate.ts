/** The quality gate: limits that a job's result has to keep. */
import type { JobSpec, Measurement } from 'cherryq/contract';

export type QualityLimits = NonNullable<JobSpec['evaluation']>['limits'];

/**
 * What is wrong with a result, for its job's error; null when it keeps its limits.
 * @param original,result measured on the same text
 */
export function missedLimits(
  limits: QualityLimits,
  { original, result }: { readonly original: Measurement; readonly result: Measurement },
): string | null {
  const missed: string[] = [];
  const { perplexityRatio, divergence } = limits;
  if (perplexityRatio !== undefined && original.perplexity !== null && result.perplexity !== null) {
    const ratio = result.perplexity / original.perplexity;
    // A ratio that is not a number keeps no limit.
    if (!(ratio <= perplexityRatio)) {
      missed.push(
        `its perplexity is ${result.perplexity.toPrecision(5)}, ${ratio.toPrecision(4)} times the original's ${original.perplexity.toPrecision(5)}; evaluation.limits.perplexityRatio allows ${perplexityRatio}`,
      );
    }
  }
  if (divergence !== undefined && result.divergence !== null && !(result.divergence <= divergence)) {
    missed.push(
      `its divergence from the original is ${result.divergence.toPrecision(4)} nats a token; evaluation.limits.divergence allows ${divergence}`,
    );
  }
  if (missed.length === 0) return null;
  const advice =
    'Take more bits, smaller groups, more training tokens or a text nearer to the evaluation, or raise the limit. What was made is kept apart and can be downloaded.';
  return `The result misses the quality asked for: ${missed.join('; and ')}. ${advice}`;
}
