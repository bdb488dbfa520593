import * as tf from '@tensorflow/tfjs-core';
import { availableParallelism } from 'node:os';
import { describe, expect, it } from 'vitest';
import { openEngine } from '../../../../batch-jobs/src/engine/engine.ts';
import { findNative, openNative, setThreads } from '../../../../batch-jobs/src/engine/native/load.ts';
import { temporaryFolder } from '../../../support/temporary-store.ts';

describe('findNative', () => {
  it('names the command that makes an engine where there is none', () => {
    const found = findNative('cpu', { CHERRYQ_ENGINE_DIR: temporaryFolder() });
    // Where the platform package or tfjs-node is installed, it is found before anything is to be made.
    if ('failure' in found) expect(found.failure).toContain('`cherryq engine install`');
    else expect(found.source).not.toBe('cache');
  });
});

describe('setThreads', () => {
  it('takes all cores, and leaves what the user has set', () => {
    const environment: NodeJS.ProcessEnv = { TF_CPP_MIN_LOG_LEVEL: '0' };
    expect(setThreads(environment, 'cpu')).toBe(availableParallelism());
    expect(environment).toEqual({
      TF_NUM_INTRAOP_THREADS: String(availableParallelism()),
      TF_NUM_INTEROP_THREADS: String(availableParallelism()),
      TF_CPP_MIN_LOG_LEVEL: '0',
    });
    expect(setThreads({ TF_NUM_INTRAOP_THREADS: '3' }, 'cpu')).toBe(3);
  });

  it('lets the GPU keep the memory that no tensor needs', () => {
    const environment: NodeJS.ProcessEnv = {};
    setThreads(environment, 'gpu');
    expect(environment.TF_FORCE_GPU_ALLOW_GROWTH).toBe('true');
  });
});

const found = findNative('cpu');
// In CI the engine is installed, and its absence is a failure (.ci/run sets the variable).
if ('failure' in found && !process.env.CHERRYQ_TEST_NATIVE) {
  describe('the native engine', () => {
    it('is not tested here, and the reason is known', () => {
      console.log(`The native engine is not tested: ${found.failure}.`);
      expect(found.failure).toMatch(/install|AVX/);
    });
  });
} else {
  describe('the native engine', () => {
    it('runs on the one tfjs-core of the process', async () => {
      const engine = await openEngine('native');
      expect(engine).toMatchObject({ name: 'native', reason: 'CHERRYQ_ENGINE=native', native: { tfjs: '4.22.0' } });
      expect(engine.native?.tensorflow).toMatch(/^2\.\d+\.\d+$/);
      expect(tf.getBackend()).toBe('tensorflow');
      const x = tf.tensor2d([1, 2, 3, 4, 5, 6], [2, 3]);
      expect([...tf.tidy(() => tf.matMul(x, x, false, true).dataSync())]).toEqual([14, 32, 32, 77]);
      expect([...tf.tidy(() => tf.matMul(x, x, true, false).dataSync())]).toEqual([17, 22, 27, 22, 29, 36, 27, 36, 45]);
      x.dispose();
    });

    it('keeps tensors when another engine is opened and it is opened again', async () => {
      await openEngine('native');
      const x = tf.tensor1d([1, 2, 3]);
      const y = tf.exp(x);
      await openEngine('wasm');
      await openEngine('native');
      const sum = tf.tidy(() => tf.sum(y).dataSync()[0]);
      expect(sum).toBeCloseTo(Math.E + Math.E ** 2 + Math.E ** 3, 4);
      tf.dispose([x, y]);
    });

    it('leaves no tensor behind', async () => {
      await openEngine('native');
      const before = tf.memory().numTensors;
      for (let i = 0; i < 10; i++) tf.tidy(() => tf.softmax(tf.matMul(tf.ones([4, 4]), tf.ones([4, 4]))).dataSync());
      expect(tf.memory().numTensors).toBe(before);
    });

    it('is not taken for a GPU', async () => {
      await openEngine('native');
      const outcome = await openNative('gpu');
      if ('failure' in outcome) expect(outcome.failure).toMatch(/CUDA/);
      else expect(outcome.engine.usesGpu).toBe(true);
    });
  });
}
