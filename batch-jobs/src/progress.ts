/**
 * Progress of a job over its phases. Each phase is planned with its units and what a unit costs (in tokens through the
 * model, a backward pass counted as two more), so that the share done and the time left are of the whole job.
 */
import type { Phase, Progress } from 'cherryq/contract';
import type { JobFolder } from './job-folder.ts';
import type { SharedProgress } from './shared-progress.ts';

export interface PhasePlan {
  readonly phase: Phase;
  /** Scheme of a comparison that it belongs to, from 1 on. */
  readonly variant?: number;
  readonly units: number;
  /** Cost of one unit, relative to the others. */
  readonly unitCost: number;
  /** Tokens that one unit runs through the model; 0 where a rate in tokens says nothing. */
  readonly unitTokens: number;
}

export class ProgressMeter {
  private readonly startedAt = performance.now();
  private costAtStart: number | null = null;
  private phaseStartedAt = performance.now();
  private phaseStartUnits = 0;
  private planned: PhasePlan | null = null;
  /** Scheme of a comparison that the next phases belong to; null for none. */
  variant: number | null = null;

  /** @param plan in the order in which the phases run; a phase comes once, or once for each scheme */
  constructor(private readonly plan: readonly PhasePlan[]) {}

  /** @param done units of the phase that are done, by this attempt or one before */
  at(phase: Phase, done: number, loss: number | null = null): Progress {
    const now = performance.now();
    const index = this.plan.findIndex((each) => each.phase === phase && (each.variant ?? null) === this.variant);
    const planned = this.plan[index];
    if (this.planned !== planned) {
      this.planned = planned;
      this.phaseStartedAt = now;
      this.phaseStartUnits = done;
    }
    const before = this.plan.slice(0, index).reduce((sum, { units, unitCost }) => sum + units * unitCost, 0);
    const total = this.plan.reduce((sum, { units, unitCost }) => sum + units * unitCost, 0);
    const cost = before + done * planned.unitCost;
    // What was done before this attempt says nothing of its speed.
    this.costAtStart ??= cost;
    const ownCost = cost - this.costAtStart;
    const seconds = (now - this.startedAt) / 1000;
    const phaseSeconds = (now - this.phaseStartedAt) / 1000;
    const phaseUnits = done - this.phaseStartUnits;
    return {
      phase,
      step: Math.floor(done),
      totalSteps: planned.units,
      fraction: total === 0 ? 1 : Math.min(1, cost / total),
      loss,
      tokensPerSecond:
        planned.unitTokens > 0 && phaseUnits > 0 && phaseSeconds > 0
          ? (phaseUnits * planned.unitTokens) / phaseSeconds
          : null,
      secondsLeft: ownCost > 0 ? ((total - cost) * seconds) / ownCost : null,
      variant:
        this.variant === null
          ? null
          : { number: this.variant, total: Math.max(...this.plan.map(({ variant = 0 }) => variant)) },
    };
  }
}

/** Sends progress as events, at most a few a second. */
export class Reporter {
  private readonly meter: ProgressMeter;
  private lastSent = 0;
  private readonly secondsOf = new Map<Phase, number>();
  private phase: Phase = 'load';
  private phaseStartedAt: number;

  constructor(
    private readonly job: JobFolder,
    plan: readonly PhasePlan[],
    /** Where others work on the same job. */
    private readonly shared?: SharedProgress,
  ) {
    this.meter = new ProgressMeter(plan);
    this.phaseStartedAt = job.firstStart.getTime();
  }

  /** How long the job has taken so far, and each of its phases. */
  times(): { seconds: number; phaseSeconds: Record<string, number> } {
    this.enterPhase(this.phase);
    return {
      seconds: (Date.now() - this.job.firstStart.getTime()) / 1000,
      phaseSeconds: this.job.attempt === 1 ? Object.fromEntries(this.secondsOf) : {},
    };
  }

  private enterPhase(phase: Phase): void {
    const now = Date.now();
    this.secondsOf.set(this.phase, (this.secondsOf.get(this.phase) ?? 0) + (now - this.phaseStartedAt) / 1000);
    this.phase = phase;
    this.phaseStartedAt = now;
  }

  /** Says which scheme of a comparison what follows belongs to. */
  enter(variant: number | null): void {
    this.meter.variant = variant;
  }

  start(phase: Phase): void {
    this.enterPhase(phase);
    this.job.emit({ type: 'phase.started', phase });
    this.at(phase, 0);
  }

  at(phase: Phase, done: number, loss: number | null = null): void {
    const own = this.meter.at(phase, done, loss);
    const progress = this.shared ? this.shared.of(own) : own;
    const now = performance.now();
    if (now - this.lastSent < 250 && progress.step !== progress.totalSteps) return;
    this.lastSent = now;
    this.job.emit({ type: 'progress', progress });
  }
}
