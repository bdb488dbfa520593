/** A job's events for people: one live line on a terminal, else a plain line now and then. */
import type { JobEvent, Progress } from 'cherryq/contract';
import { formatBytes, formatCount, formatSeconds } from './format.ts';
import { note, paintFor, type Io } from './io.ts';

export interface ProgressView {
  event(event: JobEvent): void;
  transfer(what: string, doneBytes: number, totalBytes: number): void;
  /** Of work that reports only how far it is. */
  steps(what: string, done: number, total: number): void;
  /** A line that stays. */
  note(text: string): void;
  /** Leaves no unfinished line. */
  end(): void;
}

const plainIntervalMs = 5000;
const liveIntervalMs = 80;
const barCells = 12;

/** @param enabled false: says nothing, for `--json` */
export function createProgress(io: Io, enabled: boolean, now: () => number = Date.now): ProgressView {
  if (!enabled) {
    const nothing = (): void => undefined;
    return { event: nothing, transfer: nothing, steps: nothing, note: nothing, end: nothing };
  }
  const live = io.stderr.isTTY === true && io.env.TERM !== 'dumb';
  const paint = paintFor(io.stderr, io.env);
  let shownAt = -Infinity;
  let lineOpen = false;
  let transferred: { what: string; fromBytes: number; sinceMs: number } | null = null;

  /** `  12.5 MB/s  40 s left`, once that can be said. */
  function paceOf(from: NonNullable<typeof transferred>, doneBytes: number, totalBytes: number): string {
    const seconds = (now() - from.sinceMs) / 1000;
    const bytesPerSecond = (doneBytes - from.fromBytes) / seconds;
    if (seconds < 1 || !(bytesPerSecond > 0) || doneBytes >= totalBytes) return '';
    const left = formatSeconds((totalBytes - doneBytes) / bytesPerSecond);
    return `  ${formatBytes(bytesPerSecond)}/s  ${left} left`;
  }

  function clear(): void {
    if (lineOpen) io.stderr.write('\r\u001B[2K');
    lineOpen = false;
  }
  function say(text: string): void {
    clear();
    note(io, text);
  }
  /** @param text with or without the bar   @param last shown whenever it comes */
  function show(text: (bar: (fraction: number) => string) => string, last: boolean): void {
    if (!last && now() - shownAt < (live ? liveIntervalMs : plainIntervalMs)) return;
    shownAt = now();
    if (!live) return say(text(() => ''));
    const line = text((fraction) => `${bar(fraction)} `).slice(0, Math.max(20, (io.stderr.columns ?? 80) - 1));
    io.stderr.write(`\r\u001B[2K${line}`);
    lineOpen = true;
  }

  return {
    note: say,
    end: clear,
    transfer(what, doneBytes, totalBytes) {
      const fraction = totalBytes === 0 ? 1 : doneBytes / totalBytes;
      if (transferred?.what !== what || doneBytes < transferred.fromBytes)
        transferred = { what, fromBytes: doneBytes, sinceMs: now() };
      const sizes = `${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}${paceOf(transferred, doneBytes, totalBytes)}`;
      show((drawBar) => `${what.padEnd(8)} ${drawBar(fraction)}${sizes}`, fraction === 1 && !live);
    },
    steps(what, done, total) {
      const fraction = total === 0 ? 1 : done / total;
      const counts = `${percent(fraction)}  ${formatCount(done)}/${formatCount(total)}`;
      show((drawBar) => `${what.padEnd(8)} ${drawBar(fraction)}${counts}`, done === total);
    },
    event(event) {
      if (event.type === 'progress') {
        const { progress } = event;
        const finished = progress.step === progress.totalSteps;
        return show(
          (drawBar) => `${progress.phase.padEnd(8)} ${drawBar(progress.fraction)}${describe(progress)}`,
          finished,
        );
      }
      const text = lineOf(event);
      if (text !== null) say(event.type === 'log' && event.level === 'warning' ? paint.red(text) : paint.dim(text));
    },
  };
}

/** What stays on the screen of an event; null for those that the live line or the end shows. */
function lineOf(event: JobEvent): string | null {
  switch (event.type) {
    case 'job.queued':
      return 'queued';
    case 'job.waiting':
      return `waiting: ${event.reason}`;
    case 'job.started': {
      const resumed = event.resumedFromStep === null ? '' : `, goes on from step ${event.resumedFromStep}`;
      const attempt = event.attempt > 1 ? ` (attempt ${event.attempt}${resumed})` : '';
      return `started${attempt} on ${event.engine}: ${event.engineReason}`;
    }
    case 'job.interrupted':
      return `interrupted: ${event.reason}`;
    case 'impact.ready':
      return event.source === 'stored' ? 'impact: taken from an earlier job on the same model and text' : null;
    case 'log':
      return event.level === 'warning' ? `warning: ${event.message}` : event.message;
    default:
      return null;
  }
}

/** ` 42 %  120/288  loss 3.412  5,200 tok/s  1 m 20 s left` */
export function describe(progress: Progress): string {
  const { fraction, step, totalSteps, loss, tokensPerSecond, secondsLeft, variant } = progress;
  return [
    percent(fraction),
    variant ? `scheme ${variant.number} of ${variant.total}` : '',
    `${formatCount(step)}/${formatCount(totalSteps)}`,
    loss === null ? '' : `loss ${loss.toFixed(3)}`,
    tokensPerSecond === null ? '' : `${formatCount(Math.round(tokensPerSecond))} tok/s`,
    secondsLeft === null ? '' : `${formatSeconds(secondsLeft)} left`,
  ]
    .filter((part) => part !== '')
    .join('  ');
}

const percent = (fraction: number): string => `${String(Math.floor(fraction * 100)).padStart(3)} %`;

function bar(fraction: number): string {
  const full = Math.min(barCells, Math.max(0, Math.round(fraction * barCells)));
  return `${'█'.repeat(full)}${'░'.repeat(barCells - full)}`;
}
