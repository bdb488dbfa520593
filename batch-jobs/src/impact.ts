/**
 * The impact of a model's weights on a calibration set: from the tenant's artifact where there is one, measured and stored
 * where there is not. A measurement that was stopped or killed goes on from its last checkpoint, with the same result to the bit.
 */
import { InterruptedError } from './errors.ts';
import type { ImpactArtifact, ImpactSource } from './impact-artifact.ts';
import {
  candidateFractionFor,
  candidateFractions,
  loadImpactArtifact,
  saveImpactArtifact,
  windowsFingerprint,
} from './impact-artifact.ts';
import type { DecoderConfig } from './models/decoder-config.ts';
import type { WeightSource } from './models/decoder.ts';
import type { Store } from './storage/store.ts';
import type { ImpactSums } from './training/impact.ts';
import { sumImpact } from './training/impact.ts';
import { loadImpactSums, saveImpactSums } from './training/impact-checkpoints.ts';
import type { ResumePolicy } from './training/resume.ts';
import { flatIdentity } from './training/resume.ts';

export interface ImpactOptions extends ImpactSource {
  readonly store: Store;
  /** Where the tenant's artifacts are shared, ending in a slash. */
  readonly tenantPrefix: string;
  /** Where checkpoints of this measurement, and of no other, are kept; ends in a slash. */
  readonly checkpointPrefix: string;
  /** Whether a checkpoint may be gone on from; default `auto`. */
  readonly resume?: ResumePolicy;
  /** Number of the worker's attempt. */
  readonly attempt: number;
  readonly config: DecoderConfig;
  readonly weights: WeightSource;
  /** Largest share of a row that cherries will be chosen from. */
  readonly cherryFraction: number;
  /** Told about an artifact or a checkpoint that is damaged. */
  readonly warn: (message: string) => void;
  /** Called with the windows done, from a checkpoint or by this call, before the first walk and after each. */
  readonly onWindows?: (done: number) => void;
  /** Asked after each walk; a stop saves a checkpoint first. */
  readonly stopRequested?: () => Promise<boolean>;
  /** Called before the first walk and before each write, to find out whether the job is still this attempt's. */
  readonly assertCurrent?: () => Promise<void>;
  /** Time between two checkpoints; default 3 s, or 20 times what the last one took. */
  readonly checkpointGapMs?: number;
}

const defaultCheckpointGapMs = 3000;

/**
 * @returns the artifact, read back from the store, and whether it was there already
 * @throws InputError when the model's gradients are not finite or a checkpoint does not fit, InterruptedError when a stop
 * was requested
 */
export async function impactOf(
  options: ImpactOptions,
): Promise<{ artifact: ImpactArtifact; source: 'measured' | 'stored' }> {
  const { store, tenantPrefix, config, weights, warn } = options;
  const wanted = candidateFractionFor(options.cherryFraction);
  for (const fraction of candidateFractions.filter((candidates) => candidates >= wanted)) {
    const artifact = await loadImpactArtifact(store, tenantPrefix, options, fraction, warn);
    if (!artifact) continue;
    await store.deletePrefix(checkpointsOf(options));
    return { artifact, source: 'stored' };
  }

  const sums = await sumWithCheckpoints(options);
  await options.assertCurrent?.();
  await saveImpactArtifact(store, tenantPrefix, options, wanted, sums, weights, config);
  const artifact = await loadImpactArtifact(store, tenantPrefix, options, wanted, (message) => {
    throw new Error(message);
  });
  if (!artifact) throw new Error('the impact that was just written is not there');
  await store.deletePrefix(checkpointsOf(options));
  return { artifact, source: 'measured' };
}

const checkpointsOf = ({ checkpointPrefix }: ImpactOptions): string => `${checkpointPrefix}impact/`;

async function sumWithCheckpoints(options: ImpactOptions): Promise<ImpactSums> {
  const { store, config, weights, windows, attempt, warn, onWindows } = options;
  const prefix = checkpointsOf(options);
  const identity = flatIdentity({
    version: options.version,
    engine: options.engine,
    model: options.modelFingerprint,
    impactWindows: windowsFingerprint(windows),
  });
  const sums = (await loadImpactSums(store, prefix, identity, options.resume ?? 'auto', config, warn)) ?? undefined;
  onWindows?.(sums?.windows ?? 0);
  let savedAt = performance.now();
  let saveMs = 0;
  return sumImpact({
    config,
    weights,
    windows,
    sums,
    async onWalk(soFar) {
      onWindows?.(soFar.windows);
      const stopping = (await options.stopRequested?.()) ?? false;
      const gapMs = options.checkpointGapMs ?? Math.max(defaultCheckpointGapMs, 20 * saveMs);
      const isLast = soFar.windows === windows.length;
      if (stopping || (!isLast && performance.now() - savedAt > gapMs)) {
        const started = performance.now();
        await options.assertCurrent?.();
        await saveImpactSums(store, prefix, identity, attempt, soFar);
        savedAt = performance.now();
        saveMs = savedAt - started;
      }
      if (stopping) throw new InterruptedError('stopped on request');
    },
  });
}
