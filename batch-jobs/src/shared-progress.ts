/**
 * Progress of a comparison whose schemes are tried at once, by a worker each. A worker knows only its own share, so each leaves it in
 * the job's folder now and then, and takes those of the others from there:
 *
 *   scratch/variants/<number>.share    0 to 1; absent until the scheme's worker has begun
 */
import type { Progress } from 'cherryq/contract';
import type { Store } from './storage/store.ts';

const refreshMs = 15_000;

export class SharedProgress {
  private others = 0;
  /** Schemes that no worker has begun with. */
  private waiting = 0;
  private own = 0;
  private lastRefresh = Number.NEGATIVE_INFINITY;

  /** @param keys of all schemes   @param number of the own one, from 1 on */
  constructor(
    private readonly store: Store,
    private readonly keys: readonly string[],
    private readonly number: number,
  ) {}

  /** @param progress of this worker, over its own scheme alone   @returns that of the whole job */
  of(progress: Progress): Progress {
    this.own = progress.fraction;
    if (performance.now() - this.lastRefresh >= refreshMs) {
      this.lastRefresh = performance.now();
      // It is only shown; the job does not fail for it.
      this.refresh().catch(() => undefined);
    }
    const { secondsLeft } = progress;
    // Those that wait are begun with where the first ends, and take about as long.
    const next = this.waiting === 0 || secondsLeft === null ? 0 : secondsLeft / Math.max(1e-3, 1 - this.own);
    return {
      ...progress,
      fraction: Math.min(1, (this.own + this.others) / this.keys.length),
      secondsLeft: secondsLeft === null ? null : secondsLeft + next,
      variant: { number: this.number, total: this.keys.length },
    };
  }

  /** Says that the own scheme is done. */
  async end(): Promise<void> {
    this.own = 1;
    await this.leave();
  }

  private async refresh(): Promise<void> {
    await this.leave();
    const others = this.keys.filter((_, index) => index + 1 !== this.number);
    const shares = await Promise.all(others.map((key) => this.store.get(key)));
    const known = shares.filter((share) => share !== null);
    this.waiting = shares.length - known.length;
    this.others = known.reduce((sum, share) => sum + Number(new TextDecoder().decode(share)), 0);
  }

  private async leave(): Promise<void> {
    const key = this.keys[this.number - 1];
    await this.store.put(key, new TextEncoder().encode(this.own.toFixed(4)), { durable: false });
  }
}
