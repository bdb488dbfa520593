import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it } from 'vitest';
import type { EngineName } from 'cherryq/contract';
import { engineMemory, openEngine } from '../../../batch-jobs/src/engine/engine.ts';
import { tensorShapes } from '../../../batch-jobs/src/models/decoder-config.ts';
import { Decoder } from '../../../batch-jobs/src/models/decoder.ts';
import { parseModelConfig } from '../../../batch-jobs/src/models/registry.ts';
import { createRandom } from '../../../batch-jobs/src/numeric/random.ts';
import type { Peak } from '../../support/peak.ts';
import { peakOf } from '../../support/peak.ts';

const depths = [4, 8, 32];
const length = 65;
const logits = 64 * 512;

const configOf = (layers: number, width: number) =>
  parseModelConfig({
    architectures: ['LlamaForCausalLM'],
    vocab_size: 512,
    hidden_size: width,
    intermediate_size: 2.75 * width,
    num_hidden_layers: layers,
    num_attention_heads: 8,
    num_key_value_heads: 4,
    max_position_embeddings: 256,
    rms_norm_eps: 1e-5,
    rope_theta: 10_000,
    tie_word_embeddings: false,
  });

/** A model whose blocks are all alike, so that a deep one takes no more of the host than a shallow one. */
function decoderOf(layers: number, { seed = 1, width = 128, keptBytes = 0 } = {}): Decoder {
  const config = configOf(layers, width);
  const shapes = tensorShapes(config);
  const drawn = new Map<string, Float32Array>();
  const read = (name: string): Float32Array => {
    const key = name.replace(/^model\.layers\.\d+\./, 'model.layers.0.');
    const shape = shapes.get(key) as number[];
    const random = createRandom(seed, [...shapes.keys()].indexOf(key));
    const draw = shape.length === 1 ? () => 1 : () => (random() - 0.5) / 8;
    const size = shape.reduce((product, value) => product * value, 1);
    const values = drawn.get(key) ?? Float32Array.from({ length: size }, draw);
    drawn.set(key, values);
    return values;
  };
  return new Decoder(config, { read }, { logits, keptBytes });
}

function windowsOf(count: number): Int32Array[] {
  const random = createRandom(3);
  return Array.from({ length: count }, () => Int32Array.from({ length }, () => Math.floor(random() * 512)));
}

const ignore = (): void => {};

/** Parts of two windows each. */
const batchOf = (parts: number): Int32Array[][] => Array.from({ length: parts }, () => windowsOf(2));

const walks: Record<string, (layers: number) => Promise<unknown>> = {
  'a step of training': (layers) =>
    decoderOf(layers).lossAndGradients(batchOf(3), { gradientScale: 1, reduction: 'sum', consume: ignore }),
  'a step of distillation': (layers) =>
    decoderOf(layers).lossAndGradients(batchOf(3), {
      gradientScale: 1,
      reduction: 'sum',
      consume: ignore,
      teacher: decoderOf(layers, { seed: 2 }),
    }),
  'a walk that measures impact': (layers) =>
    decoderOf(layers).lossAndGradients(batchOf(3), {
      gradientScale: 1,
      reduction: 'sumOfSquares',
      consume: ignore,
      observe: ignore,
    }),
  'losses and divergences': (layers) =>
    decoderOf(layers).divergences(windowsOf(4), 2, decoderOf(layers, { seed: 2 }), ignore),
  'a walk that shows inputs': (layers) => decoderOf(layers).walkBlocks(windowsOf(4), async () => {}),
};

const engines: EngineName[] = ['wasm'];
try {
  await openEngine('native');
  engines.push('native');
} catch {
  console.log('not tested: memory on the native engine, which is not there (npm run engine)');
}

describe('the heap of WebAssembly', () => {
  it('is as large after training steps through 8 and 32 blocks as after one through 4', async () => {
    await openEngine('wasm');
    const heapAfter = async (layers: number) => {
      const decoder = decoderOf(layers, { width: 384 });
      await decoder.lossAndGradients(batchOf(2), { gradientScale: 1, reduction: 'sum', consume: ignore });
      const { peakBytes = 0, reservedBytes = 0 } = engineMemory() ?? {};
      return { peakBytes, reservedBytes };
    };
    const atTheStart = engineMemory()?.reservedBytes ?? 0;
    // It never shrinks: so from few blocks to many.
    const [least, ...deeper] = [await heapAfter(4), await heapAfter(8), await heapAfter(32)];
    expect(least.reservedBytes).toBeGreaterThan(1.5 * atTheStart);
    for (const heap of deeper) expect(heap).toEqual(least);
  });
});

describe.each(engines)('on %s', (engine) => {
  beforeAll(async () => {
    await openEngine(engine);
  });

  it.each(Object.keys(walks))('%s has as many tensors and bytes alive at 4, 8 and 32 blocks', async (name) => {
    const before = tf.memory().numTensors;
    const peaks: Peak[] = [];
    for (const layers of depths) peaks.push(await peakOf(() => walks[name](layers)));
    const [least, ...deeper] = peaks;
    // At least a block's weights, which are 13 width^2.
    expect(least.bytes).toBeGreaterThan(4 * 13 * 128 ** 2);
    for (const peak of deeper) expect(peak).toEqual(least);
    expect(tf.memory().numTensors).toBe(before);
  });

  it('more parts of a batch take no more either', async () => {
    const step = (parts: number) => () =>
      decoderOf(4).lossAndGradients(batchOf(parts), { gradientScale: 1, reduction: 'sum', consume: ignore });
    expect(await peakOf(step(9))).toEqual(await peakOf(step(3)));
  });

  it('activations are kept up to the limit and not beyond', async () => {
    const stepOf = (keptBytes: number) => () =>
      decoderOf(8, { keptBytes }).lossAndGradients(batchOf(3), {
        gradientScale: 1,
        reduction: 'sum',
        consume: ignore,
      });
    const streamedPeak = await peakOf(stepOf(0));
    for (const keptBytes of [3e6, 1e7, 3e7]) {
      const { bytes } = await peakOf(stepOf(keptBytes));
      expect(bytes).toBeGreaterThan(streamedPeak.bytes + keptBytes / 2);
      expect(bytes).toBeLessThanOrEqual(streamedPeak.bytes + keptBytes);
    }
  });
});
