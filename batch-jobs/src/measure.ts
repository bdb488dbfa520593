/**
 * Measures models on the evaluation text. What depends on the inputs alone (the original, plain rounding) is kept under the
 * tenant's `measurements/`, so that the next job on the same model and text does not measure it again.
 */
import { createHash } from 'node:crypto';
import type { Measurement } from 'cherryq/contract';
import type { Engine } from './engine/engine.ts';
import { measurePerplexity } from './evaluation/perplexity.ts';
import type { JobFolder } from './job-folder.ts';
import type { OpenedModel } from './model-weights.ts';
import { meanStoredBits } from './model-weights.ts';
import type { Reporter } from './progress.ts';
import type { Store } from './storage/store.ts';
import { version } from './version.ts';

/** A measurement with the mean bits of the quantized layers; null where nothing is quantized. */
export type Measured = Measurement & { readonly bitsPerWeight: number | null };

export function measurer(
  store: Store,
  job: JobFolder,
  engine: Engine,
  segments: readonly Int32Array[],
  textFingerprint: string | null,
  progress: Reporter,
) {
  let measured = 0;
  const now = async (model: OpenedModel): Promise<Measured> => {
    const before = measured++;
    const perplexity =
      segments.length === 0
        ? null
        : (
            await measurePerplexity(model.config, model.weights, segments, (share) =>
              progress.at('evaluate', before + share),
            )
          ).perplexity;
    return {
      perplexity,
      divergence: null,
      tasks: [],
      sizeBytes: model.folder.weightBytes,
      bitsPerWeight: meanStoredBits(model),
    };
  };
  const keyOf = (identity: readonly unknown[]): string => {
    const all = [version, engine.name, textFingerprint, segments.length, segments[0]?.length, ...identity];
    return `${job.tenantPrefix}measurements/${createHash('sha256').update(JSON.stringify(all)).digest('hex')}.json`;
  };
  const keep = async (identity: readonly unknown[], measurement: Measured): Promise<Measured> => {
    await store.put(keyOf(identity), new TextEncoder().encode(JSON.stringify(measurement)));
    return measurement;
  };
  const known = async (identity: readonly unknown[], open: () => Promise<OpenedModel>): Promise<Measured> => {
    const kept = await store.get(keyOf(identity));
    if (kept === null) return keep(identity, await now(await open()));
    measured++;
    return JSON.parse(new TextDecoder().decode(kept)) as Measured;
  };
  return { now, known, keep };
}
