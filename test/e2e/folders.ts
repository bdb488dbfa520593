/** Folders that a test works in: a tiny model as people have it on disk, in its several forms, and texts. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';
import { safetensorsBytes, type TensorToWrite } from '../../batch-jobs/src/formats/safetensors.ts';
import { tensorShapes } from '../../batch-jobs/src/models/decoder-config.ts';
import { parseModelConfig } from '../../batch-jobs/src/models/registry.ts';
import { FolderStore } from '../../batch-jobs/src/storage/index.ts';
import { tinyConfig, tinyText, tinyWeights, writeTinyModel } from '../support/tiny-model.ts';

/** For all tests of a file; removed after the last. */
export function fileFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'cherryq-e2e-'));
  afterAll(() => rmSync(folder, { recursive: true, force: true, maxRetries: 5 }));
  return folder;
}

export interface ModelForm {
  /** Replaces fields of the tiny model's. */
  config?: Readonly<Record<string, unknown>>;
  dtype?: 'F32' | 'BF16';
  /** More than one: shards with an index. */
  shards?: number;
  /** Stores a tied head beside the embedding that it is. */
  repeatsHead?: boolean;
}

/** Writes a model folder.  @returns its path */
export async function writeModelFolder(parent: string, name: string, form: ModelForm = {}): Promise<string> {
  const { dtype = 'F32', shards = 1, repeatsHead = false } = form;
  const folder = join(parent, name);
  const store = new FolderStore(folder);
  const config = { ...tinyConfig, ...form.config };
  const weights = tinyWeights(config);
  await writeTinyModel(store, '', { config, weights });
  if (dtype === 'F32' && shards === 1 && !repeatsHead) return folder;

  const shapes = tensorShapes(parseModelConfig(config));
  const tensors = [...weights].map(([tensor, values]): TensorToWrite => {
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    // The upper half of a float32, little-endian, is a bfloat16.
    const data = dtype === 'F32' ? bytes : bytes.filter((_, index) => index % 4 >= 2);
    return { name: tensor, dtype, shape: shapes.get(tensor) ?? [], data };
  });
  const embedding = tensors.find(({ name: tensor }) => tensor === 'model.embed_tokens.weight');
  if (repeatsHead && embedding) tensors.push({ ...embedding, name: 'lm_head.weight' });
  const perShard = Math.ceil(tensors.length / shards);
  const shardName = (index: number): string =>
    shards === 1 ? 'model.safetensors' : `model-0000${Math.floor(index / perShard) + 1}-of-0000${shards}.safetensors`;
  rmSync(join(folder, 'model.safetensors'));
  for (const shard of new Set(tensors.map((_, index) => shardName(index)))) {
    const held = tensors.filter((_, index) => shardName(index) === shard);
    await store.put(shard, safetensorsBytes(held).chunks);
  }
  if (shards > 1) {
    const weightMap = Object.fromEntries(tensors.map(({ name: tensor }, index) => [tensor, shardName(index)]));
    writeFileSync(join(folder, 'model.safetensors.index.json'), JSON.stringify({ weight_map: weightMap }));
  }
  return folder;
}

/** Writes a text file of so many characters; another seed, another text.  @returns its path */
export function writeText(parent: string, name: string, length: number, seed: number): string {
  const path = join(parent, name);
  writeFileSync(path, tinyText(length, seed));
  return path;
}
