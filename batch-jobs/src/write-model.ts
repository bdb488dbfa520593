/** Writes files of a job, each with its hash taken on the way, and models in an exporter's format among them. */
import { createHash } from 'node:crypto';
import type { Manifest } from 'cherryq/contract';
import type { CompressedModel, Exporter } from './exporters/exporter.ts';
import { safetensorsBytes } from './formats/safetensors.ts';
import type { OpenedModel } from './model-weights.ts';
import { compareKeys } from './storage/keys.ts';
import type { Store } from './storage/store.ts';

/** Weights first, config.json last. */
export async function writeModel(
  store: Store,
  model: OpenedModel,
  compressed: CompressedModel,
  exporter: Exporter,
  files: FileWriter,
): Promise<void> {
  const { folder } = exporter;
  await files.put(
    `${folder}model.safetensors`,
    safetensorsBytes(exporter.tensors(compressed), exporter.metadata).chunks,
  );
  for (const path of model.folder.sideFiles) {
    const bytes = await store.get(model.folder.prefix + path);
    if (bytes !== null) await files.put(folder + path, bytes);
  }
  await files.put(`${folder}config.json`, jsonBytes(exporter.config(compressed)));
}

/** As files hold it: indented, with a line end. */
export function jsonBytes(value: unknown): Uint8Array {
  return new TextEncoder().encode(`${JSON.stringify(value, null, 2)}\n`);
}

/** Writes files under a prefix and keeps the size and hash of each, taken while it is written. */
export class FileWriter {
  private readonly written = new Map<string, Manifest['files'][number]>();

  constructor(
    private readonly store: Store,
    private readonly prefix: string,
  ) {}

  /** @param path relative to the prefix */
  async put(path: string, body: Uint8Array | AsyncIterable<Uint8Array>): Promise<void> {
    const hash = createHash('sha256');
    let sizeBytes = 0;
    async function* hashed(): AsyncGenerator<Uint8Array> {
      for await (const part of body instanceof Uint8Array ? [body] : body) {
        hash.update(part);
        sizeBytes += part.length;
        yield part;
      }
    }
    await this.store.put(this.prefix + path, hashed());
    this.written.set(path, { path, sizeBytes, sha256: hash.digest('hex') });
  }

  /** All of them, by path. */
  files(): Manifest['files'] {
    return [...this.written.values()].sort((a, b) => compareKeys(a.path, b.path));
  }
}
