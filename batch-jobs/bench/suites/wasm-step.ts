/** The suite wasm-step: our trainer on the WebAssembly engine against a straightforward one on the same backend as shipped. */
import { setTimeout as delay } from 'node:timers/promises';
import { peerEnvironment } from '../allocator.ts';
import type { SuiteOptions, SuiteResult, SuiteRow } from '../result.ts';
import { rowOf } from '../result.ts';
import { benchShapes } from '../shapes.ts';
import { openSide } from './device.ts';

const shapeNames = ['260k'] as const;
/** Losses of the same step must be the same, or the two sides do not do the same work. */
const lossTolerance = 1e-4;
/** Our worker threads wait actively for a moment after work; the peer must not be measured meanwhile. */
const settleMs = 400;

/** Each side is a process of its own, and they take turns; the first step of each is not counted. */
export async function runWasmStep({ repeats }: SuiteOptions): Promise<SuiteResult> {
  const rows: SuiteRow[] = [];
  for (const shapeName of shapeNames) {
    const shape = benchShapes[shapeName];
    const ours = await openSide(process.execPath, [script('worker.js'), 'step', shapeName], {
      ...process.env,
      CHERRYQ_ENGINE: 'wasm',
    });
    const peer = await openSide(process.execPath, [script('peers/stock-trainer.js'), shapeName], peerEnvironment());
    const rates = { ours: [] as number[], peer: [] as number[] };
    for (let repeat = -1; repeat < repeats; repeat++) {
      const mine = await ours.once();
      await delay(settleMs);
      const theirs = await peer.once();
      if (!(Math.abs(mine.loss / theirs.loss - 1) <= lossTolerance)) {
        throw new Error(
          `wasm-step, ${shape.label}, step ${repeat + 2}: our loss is ${mine.loss}, the peer's ${theirs.loss}; ` +
            `they must agree to ${lossTolerance}.`,
        );
      }
      if (repeat < 0) continue;
      rates.ours.push(mine.tokens / mine.seconds);
      rates.peer.push(theirs.tokens / theirs.seconds);
    }
    const peaks = [await ours.close(), await peer.close()].map((peak) => Math.round(peak));
    rows.push(
      rowOf(`one QAT step, ${shape.label}`, 'tokens/s', rates, `peak ${peaks[0]} MB, the peer's ${peaks[1]} MB`),
    );
  }
  return { name: 'wasm-step', peer: 'stock TensorFlow.js 4.22 on WebAssembly', rows };
}

const script = (file: string): string => new URL(file, import.meta.url).pathname;
