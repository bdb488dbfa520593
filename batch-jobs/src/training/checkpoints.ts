/**
 * Checkpoints of training: the tensors that it has changed, the moments, whatever their type and place, and the loss curve.
 * How generations are kept, verified and refused is in resume.ts.
 */
import type { TensorInfo } from '../formats/safetensors.ts';
import { readTensorInto } from '../formats/safetensors.ts';
import type { Store } from '../storage/store.ts';
import { momentBytes } from '../models/budgets.ts';
import { momentsBytes, momentsSize, setMoments } from './moments.ts';
import type { Identity, ResumePolicy } from './resume.ts';
import { openGeneration, saveGeneration } from './resume.ts';
import type { StepRecord, TrainState } from './train.ts';

/** A checkpoint that has been verified; nothing of it is in memory yet. */
export interface Checkpoint {
  readonly step: number;
  /**
   * Sets a state that was created for the same job to what was saved; its arrays keep their places.
   * @throws Error when the state has other tensors
   */
  restore(state: TrainState): Promise<void>;
}

const parts = ['first', 'second'] as const;

/**
 * @param prefix of the job's checkpoints, ending in a slash
 * @param attempt number of the worker's attempt, so that two workers never write the same generation
 */
export async function saveCheckpoint(
  store: Store,
  prefix: string,
  identity: Identity,
  attempt: number,
  state: TrainState,
): Promise<void> {
  const latent = [...state.changed].map((name) => {
    const values = latentOf(state, name);
    return { name: `latent.${name}`, dtype: 'F32' as const, shape: [values.length], data: bytesOf(values) };
  });
  const moments = [...state.moments].flatMap(([name, own]) => {
    const { dtype: momentsDtype, bytes } = momentsSize(own);
    const dtype = momentsDtype === 'float32' ? ('F32' as const) : ('BF16' as const);
    const shape = [bytes / momentBytes[momentsDtype]];
    return parts.map((part) => ({ name: `${part}.${name}`, dtype, shape, data: () => momentsBytes(own, part) }));
  });
  const position = state.records.length;
  const tensors = [...latent, ...moments];
  await saveGeneration(store, prefix, { identity, attempt, position, tensors, record: state.records });
}

/**
 * The newest checkpoint that is whole, or null where there is none to go on from.
 * @param warn told about each generation that is damaged   @throws InputError as `openGeneration`
 */
export async function openCheckpoint(
  store: Store,
  prefix: string,
  identity: Identity,
  policy: ResumePolicy,
  warn: (message: string) => void,
): Promise<Checkpoint | null> {
  const generation = await openGeneration(store, prefix, identity, policy, warn);
  if (generation === null) return null;
  const { tensors } = generation;
  const records = generation.record as StepRecord[];
  const take = (name: string, bytes: number): TensorInfo => {
    const info = tensors.get(name);
    if (info?.end === undefined || info.end - info.start !== bytes) {
      throw new Error(`checkpoint ${generation.name} has no ${name} of ${bytes} bytes`);
    }
    return info;
  };
  return {
    step: records.length,
    async restore(state) {
      for (const key of tensors.keys()) {
        if (!key.startsWith('latent.')) continue;
        const name = key.slice('latent.'.length);
        const values = latentOf(state, name);
        await readTensorInto(store, take(key, values.byteLength), 0, bytesOf(values));
        state.changed.add(name);
      }
      for (const [name, own] of state.moments) {
        for (const part of parts) {
          const info = take(`${part}.${name}`, momentsSize(own).bytes);
          await setMoments(own, part, (start, into) => readTensorInto(store, info, start, into));
        }
      }
      state.records.splice(0, state.records.length, ...records);
    },
  };
}

function latentOf(state: TrainState, name: string): Float32Array {
  const values = state.latent.get(name);
  if (!values) throw new Error(`the model has no tensor ${name}`);
  return values;
}

function bytesOf(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}
