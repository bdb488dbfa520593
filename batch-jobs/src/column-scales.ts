/**
 * The column scales of a job: searched (training/column-scales.ts), kept in checkpoints while the search goes on, and read back
 * from there by an attempt that begins later.
 */
import { InterruptedError } from './errors.ts';
import { readTensor } from './formats/safetensors.ts';
import type { Store } from './storage/store.ts';
import type { ColumnScaleChoice, ColumnScaleSearch } from './training/column-scales.ts';
import { searchColumnScales } from './training/column-scales.ts';
import type { Identity, ResumePolicy } from './training/resume.ts';
import { openGeneration, saveGeneration } from './training/resume.ts';

export interface ColumnScalesOptions extends Omit<ColumnScaleSearch, 'known' | 'onBlock'> {
  readonly store: Store;
  /** Where the job keeps its checkpoints, ending in a slash. */
  readonly checkpointPrefix: string;
  /** Number of the worker's attempt. */
  readonly attempt: number;
  /** All that the scales depend on: the model, the windows, the scheme, the engine. */
  readonly identity: Identity;
  readonly resume?: ResumePolicy;
  readonly warn: (message: string) => void;
  /** Called after each block. */
  readonly onBlock?: (done: number, blocks: number) => void;
  /** Asked after each block; a stop saves a checkpoint first. */
  readonly stopRequested?: () => Promise<boolean>;
  /** Called before each write, to find out whether the job is still this attempt's. */
  readonly assertCurrent?: () => Promise<void>;
  /** Time between two checkpoints; default 3 s, or 20 times what the last one took. The last block always makes one. */
  readonly checkpointGapMs?: number;
}

type Figures = Record<string, Omit<ColumnScaleChoice, 'scales'>>;

const defaultCheckpointGapMs = 3000;

/**
 * What was chosen for every linear layer, by its full name.
 * @throws InterruptedError when a stop was requested, InputError as `openGeneration`
 */
export async function columnScalesOf(options: ColumnScalesOptions): Promise<Map<string, ColumnScaleChoice>> {
  const prefix = `${options.checkpointPrefix}column-scales/`;
  const known = await load(options, prefix);
  const blocks = options.config.numHiddenLayers;
  if (known?.blocks === blocks) return known.choices;
  let savedAt = performance.now();
  let saveMs = 0;
  return searchColumnScales({
    ...options,
    known: known?.choices,
    async onBlock(found, done) {
      // The walk goes over known blocks again, to the inputs of the next.
      if (done <= (known?.blocks ?? 0)) return;
      options.onBlock?.(done, blocks);
      const stopping = (await options.stopRequested?.()) ?? false;
      const gapMs = options.checkpointGapMs ?? Math.max(defaultCheckpointGapMs, 20 * saveMs);
      if (stopping || done === blocks || performance.now() - savedAt > gapMs) {
        const started = performance.now();
        await options.assertCurrent?.();
        await save(options, prefix, found, done);
        savedAt = performance.now();
        saveMs = savedAt - started;
      }
      if (stopping) throw new InterruptedError('stopped on request');
    },
  });
}

/** The scales alone, as a quantizer and the exporters take them. */
export function scalesOf(choices: ReadonlyMap<string, ColumnScaleChoice>): Map<string, Float32Array> {
  return new Map([...choices].map(([name, { scales }]) => [name, scales]));
}

async function save(
  { store, identity, attempt }: ColumnScalesOptions,
  prefix: string,
  found: ReadonlyMap<string, ColumnScaleChoice>,
  position: number,
): Promise<void> {
  const tensors = [...found].map(([name, { scales }]) => ({
    name,
    dtype: 'F32' as const,
    shape: [scales.length],
    data: new Uint8Array(scales.buffer, scales.byteOffset, scales.byteLength),
  }));
  const record: Figures = {};
  for (const [name, { alpha, error, errorUnscaled }] of found) record[name] = { alpha, error, errorUnscaled };
  await saveGeneration(store, prefix, { identity, attempt, position, tensors, record });
}

async function load(
  { store, identity, resume = 'auto', warn }: ColumnScalesOptions,
  prefix: string,
): Promise<{ blocks: number; choices: Map<string, ColumnScaleChoice> } | null> {
  const generation = await openGeneration(store, prefix, identity, resume, warn);
  if (!generation) return null;
  const figures = generation.record as Figures;
  const choices = new Map<string, ColumnScaleChoice>();
  for (const [name, info] of generation.tensors) {
    choices.set(name, { scales: await readTensor(store, info), ...figures[name] });
  }
  return { blocks: generation.position, choices };
}
