import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { engineMemory, openEngine } from '../../../batch-jobs/src/engine/engine.ts';
import type { EngineMemory } from '../../../batch-jobs/src/engine/wasm-memory.ts';
import { InputError } from '../../../batch-jobs/src/errors.ts';

const memory = (): EngineMemory => engineMemory() as EngineMemory;

describe('the memory of the WebAssembly engine', () => {
  beforeAll(async () => {
    await openEngine('wasm');
  });

  it('counts the bytes of tensors, now and at most', () => {
    const before = memory().usedBytes;
    const x = tf.fill([1000, 1000], 1);
    expect(memory().usedBytes).toBe(before + 4_000_000);
    const view = tf.reshape(x, [1_000_000]);
    expect(memory().usedBytes).toBe(before + 4_000_000);
    tf.dispose([x, view]);
    expect(memory().usedBytes).toBe(before);
    expect(memory().peakBytes).toBeGreaterThanOrEqual(before + 4_000_000);
    expect(memory().reservedBytes).toBeGreaterThanOrEqual(memory().peakBytes);
    expect(memory().limitBytes).toBeLessThan(2 ** 32);
  });

  it('refuses a tensor that does not fit, says what to do, and works on', () => {
    const before = { used: memory().usedBytes, tensors: tf.memory().numTensors };
    const tooLarge = (): unknown => tf.tidy(() => tf.fill([65_536, 16_383], 1));
    expect(tooLarge).toThrow(InputError);
    expect(tooLarge).toThrow(
      /4,295 MB more \(a tensor of \[65536, 16383\]\): \d+ MB are in use.*smaller batch.*cherryq engine install/,
    );
    expect({ used: memory().usedBytes, tensors: tf.memory().numTensors }).toEqual(before);
    expect([...tf.tidy(() => tf.matMul(tf.ones([2, 2]), tf.ones([2, 2])).dataSync())]).toEqual([2, 2, 2, 2]);
  });

  it('refuses it too when it is what earlier ones leave no room for', () => {
    const held: tf.Tensor[] = [];
    const before = memory().usedBytes;
    // 512 MiB each: nothing is written to them, so no more than addresses are taken.
    const hold = (): void => void held.push(tf.engine().makeTensorFromTensorInfo(unwritten()));
    expect(() => {
      for (let i = 0; i < 9; i++) hold();
    }).toThrow(/cannot hold 537 MB more/);
    expect(held.length).toBeGreaterThanOrEqual(6);
    tf.dispose(held);
    expect(memory().usedBytes).toBe(before);
  });

  it('is not counted on an engine that has no limit of its own', async () => {
    await openEngine('cpu');
    expect(engineMemory()).toBeNull();
    await openEngine('wasm');
  });
});

function unwritten(): tf.TensorInfo {
  const backend = tf.backend() as unknown as { makeOutput(shape: number[], dtype: 'float32'): tf.TensorInfo };
  return backend.makeOutput([2 ** 27], 'float32');
}
