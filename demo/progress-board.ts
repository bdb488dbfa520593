/** The progress of several jobs at once: a line each that is redrawn on a terminal, and a plain line now and then elsewhere. */
import type { JobEvent } from 'cherryq/contract';

const barWidth = 24;
/** Between two plain lines of one job where there is no terminal. */
const plainGapMs = 5000;

export class ProgressBoard {
  private readonly lines: Map<string, string>;
  private readonly plainAt = new Map<string, number>();
  private drawn = false;

  constructor(
    private readonly names: readonly string[],
    private readonly output: NodeJS.WriteStream = process.stdout,
  ) {
    this.lines = new Map(names.map((name) => [name, 'waiting']));
  }

  show(name: string, event: JobEvent): void {
    const text = describe(event);
    if (text === null) return;
    this.lines.set(name, text);
    if (this.output.isTTY) this.draw();
    else this.plain(name, text, event.type !== 'progress');
  }

  close(): void {
    if (this.output.isTTY) this.draw();
  }

  private draw(): void {
    const up = this.drawn ? `\u001b[${this.names.length}A` : '';
    const rows = [...this.lines].map(([name, text]) => `\u001b[2K${name.padEnd(8)} ${text}\n`);
    this.output.write(up + rows.join(''));
    this.drawn = true;
  }

  private plain(name: string, text: string, always: boolean): void {
    const now = performance.now();
    if (!always && now - (this.plainAt.get(name) ?? -Infinity) < plainGapMs) return;
    this.plainAt.set(name, now);
    this.output.write(`${name.padEnd(8)} ${text}\n`);
  }
}

/** @returns null for an event that changes nothing on the board */
function describe(event: JobEvent): string | null {
  switch (event.type) {
    case 'job.started':
      return `started on the ${event.engine} engine${event.resumedFromStep === null ? '' : `, going on from step ${event.resumedFromStep}`}`;
    case 'progress': {
      const { fraction, phase, step, totalSteps, loss, tokensPerSecond, secondsLeft } = event.progress;
      const filled = Math.round(fraction * barWidth);
      const parts = [
        `${'█'.repeat(filled)}${'░'.repeat(barWidth - filled)} ${String(Math.floor(100 * fraction)).padStart(3)} %`,
        `${phase} ${step}/${totalSteps}`,
        loss === null ? '' : `loss ${loss.toFixed(3)}`,
        tokensPerSecond === null ? '' : `${Math.round(tokensPerSecond)} tokens/s`,
        secondsLeft === null ? '' : `${Math.ceil(secondsLeft)} s left`,
      ];
      return parts.filter(Boolean).join('  ');
    }
    case 'job.succeeded':
      return `done: perplexity ${event.result?.compressed.perplexity?.toFixed(3) ?? '-'}, ${event.result?.compressed.sizeBytes ?? '-'} bytes`;
    case 'job.failed':
      return `failed: ${event.error.message}`;
    case 'job.cancelled':
      return 'cancelled';
    case 'log':
      return event.message;
    default:
      return null;
  }
}
