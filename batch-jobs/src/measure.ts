/**
 * Measures models on the evaluation text and the multiple-choice tasks. What depends on the inputs alone (the original, plain
 * rounding) is kept under the tenant's `measurements/`, so that the next job on the same model and text does not measure it again.
 */
import { createHash } from 'node:crypto';
import type { Measurement, TaskScore } from 'cherryq/contract';
import type { Engine } from './engine/engine.ts';
import { measurePerplexity } from './evaluation/perplexity.ts';
import { scoreTask } from './evaluation/score.ts';
import type { Task } from './evaluation/tasks.ts';
import type { JobFolder } from './job-folder.ts';
import type { OpenedModel } from './model-weights.ts';
import { meanStoredBits } from './model-weights.ts';
import type { Reporter } from './progress.ts';
import type { Store } from './storage/store.ts';
import { version } from './version.ts';

/** A measurement with the mean bits of the quantized layers; null where nothing is quantized. */
export type Measured = Measurement & { readonly bitsPerWeight: number | null };

/** Without the bits, which not every kind of result has. */
export function measurementOf({ perplexity, divergence, tasks, sizeBytes }: Measured): Measurement {
  return { perplexity, divergence, tasks, sizeBytes };
}

/** One perplexity over another; null unless both were measured. */
export function ratioOf(perplexity: number | null, baseline: number | null): number | null {
  return perplexity === null || baseline === null ? null : perplexity / baseline;
}

/** What models are measured on. */
export interface MeasureOn {
  /** Segments of the evaluation text; none where there is no such text. */
  readonly segments: readonly Int32Array[];
  /** Fingerprints of the text and of the tasks' files. */
  readonly fingerprints: readonly (string | null)[];
  readonly tasks: readonly Task[];
  /** Whose distribution the divergence is measured from; null where it is not measured. */
  readonly original: OpenedModel | null;
}

export interface MeasureOptions {
  /** Whether the tasks are scored too. */
  readonly scoresTasks: boolean;
  /** Whether this is the original itself. */
  readonly isOriginal?: boolean;
}

export class Measurer {
  private measured = 0;

  constructor(
    private readonly store: Store,
    private readonly job: JobFolder,
    private readonly engine: Engine,
    private readonly on: MeasureOn,
    private readonly progress: Reporter,
  ) {}

  async now(model: OpenedModel, { scoresTasks, isOriginal = false }: MeasureOptions): Promise<Measured> {
    const { segments, tasks, original } = this.on;
    const parts = 1 + (scoresTasks ? tasks.length : 0);
    const before = this.measured++;
    let part = 0;
    const onProgress = (share: number): void => this.progress.at('evaluate', before + (part + share) / parts);
    const found =
      segments.length === 0
        ? { perplexity: null, divergence: null }
        : await measurePerplexity(model.config, model.weights, segments, {
            original: isOriginal ? undefined : original?.weights,
            onProgress,
          });
    const scores: TaskScore[] = [];
    for (const task of scoresTasks ? tasks : []) {
      part++;
      scores.push(await scoreTask(model.config, model.weights, model.tokenizer, task, onProgress));
    }
    return {
      perplexity: found.perplexity,
      divergence: isOriginal && original !== null ? 0 : found.divergence,
      tasks: scores,
      sizeBytes: model.folder.weightBytes,
      bitsPerWeight: meanStoredBits(model),
    };
  }

  /** From an earlier job, or measured now and kept.  @param identity what the figures depend on besides the text */
  async known(
    identity: readonly unknown[],
    open: () => Promise<OpenedModel>,
    options: MeasureOptions,
  ): Promise<Measured> {
    const kept = await this.store.get(this.keyOf(identity));
    if (kept === null) return this.keep(identity, await this.now(await open(), options));
    this.measured++;
    return JSON.parse(new TextDecoder().decode(kept)) as Measured;
  }

  async keep(identity: readonly unknown[], measurement: Measured): Promise<Measured> {
    await this.store.put(this.keyOf(identity), new TextEncoder().encode(JSON.stringify(measurement)));
    return measurement;
  }

  private keyOf(identity: readonly unknown[]): string {
    const { segments, fingerprints, tasks, original } = this.on;
    const questions = tasks.map(({ name, questions }) => [name, questions.length]);
    const text = [segments.length, segments[0]?.length, fingerprints, questions, original !== null];
    const all = [version, this.engine.name, ...text, ...identity];
    const sha256 = createHash('sha256').update(JSON.stringify(all)).digest('hex');
    return `${this.job.tenantPrefix}measurements/${sha256}.json`;
  }
}
