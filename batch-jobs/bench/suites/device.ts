/** The suites step, impact and eval: our trainer's work against the same in PyTorch, in turns, on equal weights and tokens. */
import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { peerEnvironment } from '../allocator.ts';
import { peerPython } from '../peers/environment.ts';
import type { SuiteOptions, SuiteResult, SuiteRow } from '../result.ts';
import { rowOf } from '../result.ts';
import { seededWindows, shapeFor, windowCount, writeShape } from '../shapes.ts';
import type { BenchShapeName } from '../shapes.ts';

export type DeviceSuite = 'step' | 'impact' | 'eval';

/** Both sides' worker threads wait actively for a moment after work; the other side must not be measured meanwhile. */
const settleMs = 400;
/** Losses of the same step must be the same, or the two sides do not do the same work. */
const lossTolerance = 2e-3;

export async function runDeviceSuite(name: DeviceSuite, options: SuiteOptions): Promise<SuiteResult> {
  const python = await peerPython();
  const script = path.resolve('batch-jobs/bench/peers/step_torch.py');
  const shapes: BenchShapeName[] = options.size === 'small' ? ['15m'] : ['15m', '7b-block'];
  const rows: SuiteRow[] = [];
  for (const shapeName of shapes) {
    const shape = shapeFor(name, shapeName);
    const folder = await mkdtemp(path.join(options.folder, 'cherryq-bench-'));
    try {
      await writeShape(folder, shape, seededWindows(shape, windowCount));
      const threads = availableParallelism();
      const ours = await openSide(process.execPath, [workerPath(), name, shapeName], {
        ...process.env,
        ...(options.engine ? { CHERRYQ_ENGINE: options.engine } : {}),
      });
      const device = ours.engine === 'gpu' ? ['cuda'] : [];
      const peer = await openSide(python, [script, name, folder, String(threads), ...device], peerEnvironment());
      const repeats = { ours: [] as number[], peer: [] as number[] };
      // The first round warms both up.
      for (let repeat = -1; repeat < options.repeats; repeat++) {
        const mine = await ours.once();
        await delay(settleMs);
        const theirs = await peer.once();
        await delay(settleMs);
        if (Number.isFinite(mine.loss) && Math.abs(mine.loss / theirs.loss - 1) > lossTolerance) {
          throw new Error(
            `${name}, ${shape.label}, round ${repeat + 1}: our loss is ${mine.loss}, the peer's ${theirs.loss}; they must agree to ${lossTolerance}.`,
          );
        }
        if (repeat < 0) continue;
        repeats.ours.push(mine.tokens / mine.seconds);
        repeats.peer.push(theirs.tokens / theirs.seconds);
      }
      const peakMB = await ours.close();
      await peer.close();
      rows.push(
        rowOf(`${name}: ${shape.label}`, 'tokens/s', repeats, `engine ${ours.engine}, peak ${Math.round(peakMB)} MB`),
      );
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  }
  return { name, peer: `PyTorch eager, ${availableParallelism()} threads`, rows };
}

const workerPath = (): string => new URL('./worker.js', import.meta.url).pathname;

interface Measured {
  readonly seconds: number;
  readonly tokens: number;
  readonly loss: number;
}

interface Side {
  readonly engine: string;
  once(): Promise<Measured>;
  /** @returns peak resident memory in MB, where the side tells it */
  close(): Promise<number>;
}

/** A process that answers each line with one line of JSON. */
export async function openSide(
  command: string,
  args: readonly string[],
  env: Record<string, string | undefined>,
): Promise<Side> {
  const child = spawn(command, args, { env, stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async (): Promise<string> => {
    const { value, done } = (await lines.next()) as IteratorResult<string, undefined>;
    if (done || value === undefined) throw new Error(`${command} ${args.join(' ')} ended before it answered.`);
    return value;
  };
  const ready = await next();
  return {
    engine: ready.startsWith('{') ? (JSON.parse(ready) as { ready: string }).ready : '',
    async once() {
      child.stdin.write('go\n');
      return JSON.parse(await next()) as Measured;
    },
    async close() {
      child.stdin.end();
      const last = (await lines.next()) as IteratorResult<string, undefined>;
      return last.value ? (JSON.parse(last.value) as { peakMB: number }).peakMB : NaN;
    },
  };
}
