/**
 * Our side of the suites step, impact and eval, in a process of its own: for each line of standard input it does the work
 * once and prints {seconds, tokens, loss}; on end of input, what memory it took.
 *
 * Usage: worker.js <step|impact|eval> <shape>
 */
import { createInterface } from 'node:readline';
import { openEngine } from '../src/engine/engine.ts';
import { Decoder } from '../src/models/decoder.ts';
import { measureImpact } from '../src/training/impact.ts';
import { Trainer, createTrainState } from '../src/training/train.ts';
import { seededWeights, seededWindows, shapeFor, windowCount } from './shapes.ts';
import type { BenchShapeName } from './shapes.ts';

const [, , mode, shapeName] = process.argv;
const shape = shapeFor(mode, shapeName as BenchShapeName);
const engine = await openEngine(process.env.CHERRYQ_ENGINE);
const weights = seededWeights(shape.config);
const windows = seededWindows(shape, windowCount);
const work = await createWork();
console.log(JSON.stringify({ ready: engine.name }));
let done = 0;
for await (const line of createInterface({ input: process.stdin })) {
  if (line === '') continue;
  const batch = Array.from(
    { length: shape.batchSize },
    (_, i) => windows[(done * shape.batchSize + i) % windows.length],
  );
  done++;
  const start = performance.now();
  const loss = await work(batch);
  const seconds = (performance.now() - start) / 1000;
  console.log(JSON.stringify({ seconds, tokens: shape.batchSize * shape.length, loss }));
}
console.log(JSON.stringify({ peakMB: process.resourceUsage().maxRSS / 1024 }));
process.exit(0);

/** @returns does the work on one batch and gives the mean loss */
async function createWork(): Promise<(batch: Int32Array[]) => Promise<number>> {
  const { config } = shape;
  if (mode === 'step') {
    let next: Int32Array[] = [];
    const trainer = new Trainer(
      {
        config,
        quantizer: {
          grid: { bits: 3, groupSize: 128, levels: 'midRise', aligned: false },
          cherries: new Map(),
          columnScales: new Map(),
        },
        teacher: null,
        schedule: { peak: 1e-4, totalSteps: 1_000_000, warmupFraction: 0, floor: 1 },
        adamW: { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0 },
        maxGradNorm: 1,
        batchSize: shape.batchSize,
        windowAt: (index) => next[index % shape.batchSize],
      },
      await createTrainState(weights),
    );
    return async (batch) => {
      next = batch;
      return (await trainer.advance()).loss;
    };
  }
  if (mode === 'impact') {
    return async (batch) => {
      await measureImpact(config, weights, batch, async () => {});
      return NaN;
    };
  }
  const decoder = new Decoder(config, { read: (name) => weights.get(name) as Float32Array });
  return async (batch) => {
    const losses = await decoder.losses(batch, shape.batchSize, () => {});
    return losses.reduce((sum, loss) => sum + loss, 0) / losses.length;
  };
}
