import * as tf from '@tensorflow/tfjs-core';
import { describe, expect, it } from 'vitest';
import type { EngineName } from 'cherryq/contract';
import { engineMemory, openEngine } from '../../../batch-jobs/src/engine/engine.ts';
import { tensorShapes } from '../../../batch-jobs/src/models/decoder-config.ts';
import { parseModelConfig } from '../../../batch-jobs/src/models/registry.ts';
import { createRandom } from '../../../batch-jobs/src/numeric/random.ts';
import { Trainer, createTrainState } from '../../../batch-jobs/src/training/train.ts';

const config = parseModelConfig({
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  vocab_size: 512,
  hidden_size: 64,
  intermediate_size: 172,
  num_hidden_layers: 2,
  num_attention_heads: 8,
  num_key_value_heads: 4,
  hidden_act: 'silu',
  max_position_embeddings: 256,
  rope_theta: 10_000,
  rms_norm_eps: 1e-5,
  tie_word_embeddings: true,
});
const random = createRandom(17);

async function createTrainer(): Promise<Trainer> {
  const weights = new Map<string, Float32Array>();
  for (const [name, shape] of tensorShapes(config)) {
    const length = shape.reduce((product, size) => product * size, 1);
    const draw = shape.length === 1 ? () => 1 : () => (random() - 0.5) / 4;
    weights.set(name, Float32Array.from({ length }, draw));
  }
  return new Trainer(
    {
      config,
      quantizer: {
        grid: { bits: 3, groupSize: 64, levels: 'midRise' as const, aligned: false },
        cherries: new Map(),
        columnScales: new Map(),
      },
      teacher: null,
      schedule: { peak: 1e-3, totalSteps: 40, warmupFraction: 0.1, floor: 0.1 },
      adamW: { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0 },
      maxGradNorm: 1,
      batchSize: 8,
      windowAt: () => Int32Array.from({ length: 129 }, () => Math.floor(random() * config.vocabSize)),
    },
    await createTrainState(weights),
  );
}

const engines: EngineName[] = ['wasm'];
try {
  await openEngine('native');
  engines.push('native');
} catch {
  console.log('not tested: memory on the native engine, which is not there (npm run engine)');
}

const residentMegabytes = (): number => process.memoryUsage.rss() / 2 ** 20;

describe.each(engines)('twenty training steps on %s', (engine) => {
  it('leave tensors, data and memory as they were', async () => {
    await openEngine(engine);
    const trainer = await createTrainer();
    for (let i = 0; i < 5; i++) await trainer.advance();
    const held = () => ({
      tensors: tf.memory().numTensors,
      data: tf.backend().numDataIds(),
      reservedBytes: engineMemory()?.reservedBytes,
      usedBytes: engineMemory()?.usedBytes,
    });
    const before = held();
    const resident = residentMegabytes();
    for (let i = 0; i < 20; i++) await trainer.advance();
    expect(held()).toEqual(before);
    // Room for what the collector has not yet taken: less than the activations of two steps.
    expect(residentMegabytes() - resident).toBeLessThan(64);
  });
});
