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

const llama: typeof tinyConfig = { ...tinyConfig, model_type: 'llama' };
const phi3 = { architectures: ['Phi3ForCausalLM'], model_type: 'phi3', pad_token_id: null };

/** Every kind of scheme, and what a family may have of its own: a head, fused layers, a width of heads. By what they are. */
export const nativeModels = new Map<string, { settings: Partial<Scheme>; config: typeof tinyConfig }>([
  ...everyKindOfScheme.map((settings) => [JSON.stringify(settings), { settings, config: llama }] as const),
  ['a head of its own', { settings: { bits: 3 }, config: { ...llama, tie_word_embeddings: false } }],
  ['heads of another width', { settings: { bits: 3 }, config: { ...llama, head_dim: 12 } }],
  [
    'fused layers',
    {
      settings: { bits: 4, cherryMode: 'column' },
      config: { ...llama, ...phi3, tie_word_embeddings: false },
    },
  ],
]);

/** The model in the native format.  @param config of a tiny model */
export function compressTiny(
  settings: Partial<Scheme>,
  config: typeof tinyConfig = tinyConfig,
): CompressedModel & { values: Map<string, Float32Array> } {
  const scheme = schemeSchema.parse({ bits: 3, groupSize: 16, ...settings });
  const keepsCherries = scheme.method === 'cherryq';
  const shapes = tensorShapes(parseModelConfig(config));
  const values = tinyWeights(config);
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
  return { configJson: config, scheme, keepsCherries, shapes, weights, ...chosen };
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
