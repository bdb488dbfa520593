/** What a job is given, opened and checked: the model, and texts as windows to learn from and segments to measure on. */
import { createHash } from 'node:crypto';
import type { JobSpec, Training } from 'cherryq/contract';
import { encodeText, readText } from './data/text.ts';
import { packWindows } from './data/windows.ts';
import { InputError } from './errors.ts';
import type { OpenedModel } from './model-weights.ts';
import { openModel } from './model-weights.ts';
import type { Store } from './storage/store.ts';

/** Segments that perplexity is measured on are at most this long, as published. */
const longestSegment = 2048;

/** The job's model, which must not be compressed already.  @throws InputError as `openModel`, and `already_quantized` */
export async function openOriginal(store: Store, spec: JobSpec): Promise<OpenedModel> {
  const model = await openModel(store, spec.modelPrefix);
  if (!model.native) return model;
  throw new InputError(
    'already_quantized',
    `The model "${spec.modelName}" is in CherryQ's own format already. Give the original instead.`,
    'modelId',
  );
}

/** A text of the job: where it lies, how errors call it, and the field of the request that names it. */
export interface TextSource {
  readonly prefix: string | null;
  readonly use: string;
  readonly param: string;
}

export interface Windows {
  /** Token ids, all of `training.sequenceLength`. */
  readonly windows: Int32Array[];
  /** Over the ids of all windows, in order, as little-endian int32. */
  readonly sha256: string;
}

/** @throws InputError when there is no text, or it cannot be cut into windows that the model takes */
export async function windowsOf(
  store: Store,
  model: OpenedModel,
  { prefix, use, param }: TextSource,
  training: Training,
): Promise<Windows> {
  const { sequenceLength } = training;
  if (prefix === null) {
    throw new InputError('missing_calibration', `The job learns from text, but has no ${param}.`, param);
  }
  if (sequenceLength > model.config.maxPositionEmbeddings) {
    throw new InputError(
      'sequence_length',
      `training.sequenceLength is ${sequenceLength}, but the model's context ends at ${model.config.maxPositionEmbeddings} tokens (max_position_embeddings). Use at most that.`,
      'training.sequenceLength',
    );
  }
  const ids = encodeText(await jobText(store, prefix, use), model.tokenizer);
  const windows = packWindows(ids, sequenceLength, model.tokenizer.bosTokenId);
  const hash = createHash('sha256');
  for (const window of windows) hash.update(new Uint8Array(window.buffer, window.byteOffset, window.byteLength));
  return { windows, sha256: hash.digest('hex') };
}

/** The texts of a job may have the same file names, so an error says which of them it is about. */
async function jobText(store: Store, prefix: string, use: string): Promise<string> {
  try {
    return await readText(store, prefix);
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    throw new InputError(error.code, `The ${use}: ${error.message}`, error.param, { cause: error });
  }
}

/** Segments of the evaluation text, all of one length; none when the job has no such text. */
export async function evaluationSegments(store: Store, spec: JobSpec, model: OpenedModel): Promise<Int32Array[]> {
  if (!spec.evaluation || spec.evaluationPrefix === null) return [];
  return textSegments(model, await jobText(store, spec.evaluationPrefix, 'evaluation text'), spec.evaluation.maxTokens);
}

/** The text as the perplexity protocol cuts it: one BOS at the start, whole segments, the rest left out. */
export function textSegments(model: OpenedModel, text: string, maxTokens: number | undefined): Int32Array[] {
  const ids = encodeText(text, model.tokenizer).subarray(0, maxTokens);
  const longest = Math.min(longestSegment, model.config.maxPositionEmbeddings);
  return packWindows(ids, Math.min(longest, Math.max(2, ids.length)), model.tokenizer.bosTokenId);
}
