import * as tf from '@tensorflow/tfjs-core';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { diagnose } from '../../../batch-jobs/src/engine/doctor.ts';
import { openEngine } from '../../../batch-jobs/src/engine/engine.ts';
import { testEngine } from '../../support/engine.ts';
import { temporaryFolder } from '../../support/temporary-store.ts';

const environment = { ...process.env, CHERRYQ_ENGINE: testEngine };

describe('diagnose', () => {
  it('states the machine, every engine, and the one in use with its speed', async () => {
    const storeFolder = join(temporaryFolder(), 'not', 'there', 'yet');
    const steps: number[] = [];
    await openEngine(testEngine);
    const before = tf.memory().numTensors;
    const found = await diagnose({ storeFolder, environment, rounds: 1, onProgress: (done) => steps.push(done) });
    expect(tf.memory().numTensors).toBe(before);
    expect(found).toMatchObject({
      healthy: true,
      faults: [],
      node: { version: process.versions.node, supported: true },
    });
    expect(found.machine.cores).toBe(availableParallelism());
    expect(found.store.folder).toBe(storeFolder);
    expect(found.store.freeBytes).toBeGreaterThan(0);
    expect(found.engine?.name).toBe(testEngine);
    expect(found.engines.map(({ name }) => name)).toEqual(['gpu', 'native', 'wasm', 'cpu']);
    expect(found.engines.filter(({ state }) => state === 'in use').map(({ name }) => name)).toEqual([testEngine]);
    expect(found.speed).toHaveLength(5);
    expect(steps).toEqual([1, 2, 3, 4, 5]);
    for (const { ours, numpy, ratio } of found.speed) {
      expect(ours).toBeGreaterThan(0.01);
      if (numpy !== null) expect(ratio).toBeCloseTo(ours / numpy, 9);
    }
    if ('version' in found.numpy) expect(found.speed.every(({ numpy }) => numpy !== null && numpy > 0)).toBe(true);
    else expect(found.numpy.absent).toContain('CHERRYQ_PYTHON');
  });

  it('does without NumPy, and says so', async () => {
    const storeFolder = temporaryFolder();
    const python = join(temporaryFolder(), 'no-python');
    const found = await diagnose({ storeFolder, environment: { ...environment, CHERRYQ_PYTHON: python }, rounds: 1 });
    expect(found.numpy).toEqual({ absent: expect.stringContaining(python) });
    expect(found.speed.map(({ ratio }) => ratio)).toEqual([null, null, null, null, null]);
    expect(found.healthy).toBe(true);
  });

  it('finds fault with a forced engine that cannot be opened', async () => {
    const storeFolder = temporaryFolder();
    const found = await diagnose({ storeFolder, environment: { ...environment, CHERRYQ_ENGINE: 'cuda' }, rounds: 0 });
    expect(found).toMatchObject({ healthy: false, engine: null, speed: [] });
    expect(found.faults).toEqual([expect.stringContaining('CHERRYQ_ENGINE is "cuda"')]);
  });
});
