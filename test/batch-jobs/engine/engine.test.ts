import * as tf from '@tensorflow/tfjs-core';
import { describe, expect, it } from 'vitest';
import { openEngine } from '../../../batch-jobs/src/engine/engine.ts';

describe('openEngine', () => {
  it('takes the best engine that npm alone gives, and says what was not there', async () => {
    const engine = await openEngine(undefined);
    expect(['gpu', 'native', 'wasm']).toContain(engine.name);
    if (engine.name === 'wasm') expect(engine.reason).toMatch(/gpu: .+; native: .+/);
  });

  it.each(['wasm', 'cpu'] as const)('opens %s when it is forced', async (name) => {
    expect(await openEngine(name)).toEqual({ name, reason: `CHERRYQ_ENGINE=${name}`, native: null, passedOver: [] });
    expect(tf.getBackend()).toBe(name);
    expect(tf.tidy(() => tf.matMul(tf.ones([2, 3]), tf.ones([3, 2])).dataSync())).toEqual(new Float32Array(4).fill(3));
  });

  it('takes an empty setting as none', async () => {
    expect((await openEngine('')).reason).not.toContain('CHERRYQ_ENGINE');
  });

  it('refuses a name that it does not know, and names those it does', async () => {
    await expect(openEngine('cuda')).rejects.toEqual(
      expect.objectContaining({
        code: 'unknown_engine',
        param: 'CHERRYQ_ENGINE',
        message: expect.stringMatching(/"cuda".*gpu, native, wasm, cpu/),
      }),
    );
  });
});
