/** Checkpoints of an impact measurement (resume.ts): the sums over the windows so far, bit for bit. */
import { readTensorInto } from '../formats/safetensors.ts';
import type { DecoderConfig } from '../models/decoder-config.ts';
import type { Store } from '../storage/store.ts';
import type { ImpactSums } from './impact.ts';
import { createImpactSums } from './impact.ts';
import type { Identity, ResumePolicy } from './resume.ts';
import { openGeneration, saveGeneration } from './resume.ts';

/** Each array of the sums with its name in a checkpoint. */
function* arraysOf({ squares, inputs }: ImpactSums): Generator<[string, Float32Array | Float64Array]> {
  for (const [name, sum] of squares) yield [`squares.${name}`, sum];
  for (const [name, sum] of inputs) {
    yield [`inputMagnitudes.${name}`, sum.magnitudes];
    yield [`inputSquares.${name}`, sum.squares];
  }
}

const bytesOf = (values: Float32Array | Float64Array): Uint8Array =>
  new Uint8Array(values.buffer, values.byteOffset, values.byteLength);

/** @param attempt number of the worker's attempt */
export async function saveImpactSums(
  store: Store,
  prefix: string,
  identity: Identity,
  attempt: number,
  sums: ImpactSums,
): Promise<void> {
  const tensors = [...arraysOf(sums)].map(([name, values]) => ({
    name,
    dtype: values instanceof Float32Array ? ('F32' as const) : ('F64' as const),
    shape: [values.length],
    data: bytesOf(values),
  }));
  await saveGeneration(store, prefix, { identity, attempt, position: sums.windows, tensors, record: null });
}

/** The sums to go on from, or null.  @throws InputError as `openGeneration` */
export async function loadImpactSums(
  store: Store,
  prefix: string,
  identity: Identity,
  policy: ResumePolicy,
  config: DecoderConfig,
  warn: (message: string) => void,
): Promise<ImpactSums | null> {
  const generation = await openGeneration(store, prefix, identity, policy, warn);
  if (!generation) return null;
  const sums = createImpactSums(config);
  for (const [name, values] of arraysOf(sums)) {
    const info = generation.tensors.get(name);
    if (!info) throw new Error(`checkpoint ${generation.name} has no tensor ${name}`);
    await readTensorInto(store, info, 0, bytesOf(values));
  }
  sums.windows = generation.position;
  return sums;
}
