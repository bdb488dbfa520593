/** The reader in Python that docs/format.md prints, and what transformers computes from what it reads. */
import * as tf from '@tensorflow/tfjs-core';
import { describe, expect, it } from 'vitest';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { loadQuantized } from 'cherryq/node';
import { openEngine } from '../../../batch-jobs/src/engine/engine.ts';
import { openSafetensors, readTensor } from '../../../batch-jobs/src/formats/safetensors.ts';
import { openModel } from '../../../batch-jobs/src/model-weights.ts';
import { Decoder } from '../../../batch-jobs/src/models/decoder.ts';
import type { KeyValueCache } from '../../../batch-jobs/src/models/layers.ts';
import { FolderStore } from '../../../batch-jobs/src/storage/index.ts';
import { testEngine } from '../../support/engine.ts';
import { golden, unpack } from '../../support/golden.ts';
import { compressTiny, nativeModels, writeNativeFolder } from '../../support/native-folder.ts';
import { numpyPython } from '../../support/python.ts';
import { temporaryFolder } from '../../support/temporary-store.ts';

interface NativeGolden {
  tokens: number[];
  /** By the labels of `nativeModels`; logits after the last token. */
  models: Record<string, { sha256: string; logits: string }>;
}

const { tokens, models } = golden<NativeGolden>('native');
const reader = fileURLToPath(new URL('../../../docs/examples/read_native.py', import.meta.url));
const python = await numpyPython('the reader in Python');

async function write(label: string): Promise<string> {
  const folder = temporaryFolder();
  const { settings, config } = nativeModels.get(label) ?? {};
  await writeNativeFolder(folder, compressTiny(settings ?? {}, config));
  return folder;
}

it('covers every model', () => {
  expect(Object.keys(models)).toEqual([...nativeModels.keys()]);
});

it('has under 80 lines', () => {
  expect(readFileSync(reader, 'utf8').trimEnd().split('\n').length).toBeLessThan(80);
});

describe.each([...nativeModels.keys()])('%s', (label) => {
  it.runIf(python !== null)('is read in Python as by our readers, bit for bit', async () => {
    const folder = await write(label);
    execFileSync(python ?? '', [reader, folder, join(folder, 'weights.safetensors')]);
    const store = new FolderStore(folder);
    const { tensors } = await openSafetensors(store, 'weights.safetensors');
    const own = await openModel(store, '');
    const sdk = await loadQuantized(folder);
    expect([...tensors.keys()].toSorted()).toEqual([...own.shapes.keys()].toSorted());
    for (const [name, info] of tensors) {
      expect(info, name).toMatchObject({ dtype: 'F32', shape: own.shapes.get(name) });
      const read = await readTensor(store, info);
      expect(read, name).toEqual(await own.weights.read(name));
      expect(read, name).toEqual(await sdk.dequantize(name));
    }
  });

  it('has the logits that transformers computes from what the reader reads', async () => {
    const folder = await write(label);
    const { sha256, logits } = models[label];
    expect(
      createHash('sha256')
        .update(readFileSync(join(folder, 'model.safetensors')))
        .digest('hex'),
    ).toBe(sha256);
    await openEngine(testEngine);
    const { config, weights } = await openModel(new FolderStore(folder), '');
    const decoder = new Decoder(config, weights);
    const caches = new Array<KeyValueCache | null>(config.numHiddenLayers).fill(null);
    const ours = await decoder.nextLogits(Int32Array.from(tokens), caches, 0);
    tf.dispose(caches.flatMap((cache) => (cache ? [cache.keys, cache.values] : [])));
    unpack(Float32Array, logits).forEach((logit, token) => expect(ours[token], String(token)).toBeCloseTo(logit, 4));
  });
});
