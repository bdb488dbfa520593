/** The tiny model in the native format, without training: what a reader must be able to read, in every kind. */
import { schemeSchema, type Scheme } from 'cherryq/contract';
import type { CompressedModel } from '../../batch-jobs/src/exporters/exporter.ts';
import { native } from '../../batch-jobs/src/exporters/native.ts';
import { safetensorsBytes } from '../../batch-jobs/src/formats/safetensors.ts';
import { weightsInMemory } from '../../batch-jobs/src/model-weights.ts';
import { isLinear, tensorShapes } from '../../batch-jobs/src/models/decoder-config.ts';
import { parseModelConfig } from '../../batch-jobs/src/models/registry.ts';
import { cherryCount, type Cherries } from '../../batch-jobs/src/numeric/quantizer.ts';
import { FolderStore } from '../../batch-jobs/src/storage/index.ts';
import { topCherries } from './cherries.ts';
import { tinyConfig, tinyTokenizer, tinyWeights } from './tiny-model.ts';

const shapes = tensorShapes(parseModelConfig(tinyConfig));

/** Methods, widths, levels, group modes and cherry modes, each at least once. */
export const everyKindOfScheme: Partial<Scheme>[] = [
  { method: 'rtn', bits: 2 },
  { method: 'rtn', bits: 8, groupSize: 'row' },
  { method: 'qat', bits: 3, groupSize: 7 },
  { method: 'cherryq', bits: 3 },
  { method: 'cherryq', bits: 4, groupSize: 'row', cherryFraction: 0.25 },
  { method: 'cherryq', bits: 2, groupSize: 1 },
  { method: 'rtn', bits: 3, quantizer: 'midRise', groupSize: 7 },
  { method: 'qat', bits: 2, quantizer: 'symmetric', groupSize: 'row' },
  { method: 'cherryq', bits: 3, cherryMode: 'column', cherryFraction: 0.1 },
  { method: 'cherryq', bits: 4, groups: 'aligned', cherryFraction: 0.1, groupSize: 5 },
  { method: 'cherryq', bits: 2, quantizer: 'asymmetric', columnScales: 'searched', cherryMode: 'column' },
  { method: 'cherryq', bits: 8, quantizer: 'midRise', groups: 'aligned', columnScales: 'searched' },
];

export function compressTiny(settings: Partial<Scheme>): CompressedModel & { values: Map<string, Float32Array> } {
  const scheme = schemeSchema.parse({ bits: 3, groupSize: 16, ...settings });
  const keepsCherries = scheme.method === 'cherryq';
  const values = tinyWeights();
  const cherries = new Map<string, Cherries>();
  const columnScales = new Map<string, Float32Array>();
  for (const [name, [, columns]] of shapes) {
    const scores = values.get(name)?.map(Math.abs) as Float32Array;
    if (keepsCherries && isLinear(name)) {
      const own = topCherries(scores, columns, cherryCount(columns, scheme.cherryFraction));
      cherries.set(name, scheme.cherryMode === 'column' ? asColumns(own) : own);
    }
    if (scheme.columnScales === 'searched' && isLinear(name)) {
      columnScales.set(
        name,
        Float32Array.from({ length: columns }, (_, column) => 2 ** ((column % 5) - 2)),
      );
    }
  }
  const weights = weightsInMemory(values);
  const chosen = { values, cherries, columnScales, isQuantized: isLinear };
  return { configJson: tinyConfig, scheme, keepsCherries, shapes, weights, ...chosen };
}

/** Every row's cherries in the columns of the first row's. */
function asColumns({ perRow, columns }: Cherries): Cherries {
  return { perRow, columns: columns.map((_, index) => columns[index % perRow]), shared: true };
}

/** Writes the model as a job would.  @param folder that is there */
export async function writeNativeFolder(folder: string, model: CompressedModel): Promise<void> {
  const store = new FolderStore(folder);
  const json = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value));
  await store.put('config.json', json(native.config(model)));
  await store.put('tokenizer.json', json(tinyTokenizer));
  await store.put('model.safetensors', safetensorsBytes(native.tensors(model)).chunks);
}
