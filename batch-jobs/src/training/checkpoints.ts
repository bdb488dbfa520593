/**
 * Checkpoints of training under `<job>/checkpoints/`: a generation is a folder, written whole before `CURRENT` names it.
 * Two generations are kept, so that a damaged one falls back to the one before. Each is verified by hash when read.
 */
import { createHash } from 'node:crypto';
import { openSafetensors, readTensor, safetensorsBytes } from '../formats/safetensors.ts';
import type { Store } from '../storage/store.ts';
import type { StepRecord, TrainState } from './train.ts';
import { createTrainState } from './train.ts';

/** `<generation>/checkpoint.json`, written after the tensors. */
interface CheckpointRecord {
  readonly identity: string;
  readonly step: number;
  readonly sha256: string;
  readonly records: StepRecord[];
}

const keptGenerations = 2;
/** `<attempt>-<step>`: in the order of their names, generations stand in the order in which they were written. */
const generationName = /^\d{6}-\d{8}$/;

/**
 * @param prefix of the job's checkpoints, ending in a slash
 * @param identity hash over everything that the result depends on: a checkpoint of another identity is never used
 * @param attempt number of the worker's attempt, so that two workers never write the same generation
 */
export async function saveCheckpoint(
  store: Store,
  prefix: string,
  identity: string,
  attempt: number,
  state: TrainState,
): Promise<void> {
  const step = state.records.length;
  const generation = `${String(attempt).padStart(6, '0')}-${String(step).padStart(8, '0')}`;
  const tensors = [...state.latent].flatMap(([name, latent]) => {
    const moments = state.moments.get(name);
    if (!moments) throw new Error(`no moments of ${name}`);
    const parts = { latent, first: moments.first, second: moments.second };
    return Object.entries(parts).map(([part, values]) => ({
      name: `${part}.${name}`,
      dtype: 'F32' as const,
      shape: [values.length],
      data: new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
    }));
  });
  const hash = createHash('sha256');
  const { chunks } = safetensorsBytes(tensors, {});
  await store.put(`${prefix}${generation}/state.safetensors`, hashed(chunks, hash));
  const record: CheckpointRecord = { identity, step, sha256: hash.digest('hex'), records: state.records };
  await store.put(`${prefix}${generation}/checkpoint.json`, new TextEncoder().encode(JSON.stringify(record)));
  await store.put(`${prefix}CURRENT`, new TextEncoder().encode(generation));
  const generations = (await store.folders(prefix)).filter((name) => generationName.test(name));
  for (const old of generations.slice(0, -keptGenerations)) await store.deletePrefix(`${prefix}${old}/`);
}

async function* hashed(
  chunks: AsyncIterable<Uint8Array>,
  hash: ReturnType<typeof createHash>,
): AsyncIterable<Uint8Array> {
  for await (const chunk of chunks) {
    hash.update(chunk);
    yield chunk;
  }
}

/**
 * The newest checkpoint that is whole and of this identity, or null.
 * @param onDamage told about each generation that could not be used
 */
export async function loadCheckpoint(
  store: Store,
  prefix: string,
  identity: string,
  onDamage: (message: string) => void,
): Promise<TrainState | null> {
  const current = await store.get(`${prefix}CURRENT`);
  if (current === null) return null;
  const named = new TextDecoder().decode(current);
  const others = (await store.folders(prefix)).filter((name) => generationName.test(name) && name !== named).reverse();
  for (const generation of [named, ...others]) {
    try {
      return await loadGeneration(store, `${prefix}${generation}/`, identity);
    } catch (error) {
      onDamage(`Checkpoint ${generation} cannot be used: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  return null;
}

async function loadGeneration(store: Store, folder: string, identity: string): Promise<TrainState> {
  const json = await store.get(`${folder}checkpoint.json`);
  if (json === null) throw new Error('it has no checkpoint.json');
  const record = JSON.parse(new TextDecoder().decode(json)) as CheckpointRecord;
  if (record.identity !== identity)
    throw new Error('it is of another job: the model, the data, the scheme or the engine differ');
  const key = `${folder}state.safetensors`;
  const bytes = await store.stream(key);
  if (bytes === null) throw new Error('its tensors are missing');
  const hash = createHash('sha256');
  for await (const chunk of bytes) hash.update(chunk);
  if (hash.digest('hex') !== record.sha256) throw new Error('its tensors do not have the hash that was recorded');

  const file = await openSafetensors(store, key);
  const latent = new Map<string, Float32Array>();
  for (const info of file.tensors.values()) {
    if (info.name.startsWith('latent.')) latent.set(info.name.slice('latent.'.length), await readTensor(store, info));
  }
  const state = createTrainState(latent);
  for (const info of file.tensors.values()) {
    const [part] = info.name.split('.', 1);
    const moments = state.moments.get(info.name.slice(part.length + 1));
    if (moments && part === 'first') moments.first.set(await readTensor(store, info));
    if (moments && part === 'second') moments.second.set(await readTensor(store, info));
  }
  state.records.push(...record.records);
  return state;
}
