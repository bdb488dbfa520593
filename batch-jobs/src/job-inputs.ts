/** The texts of a job as token ids: windows to learn from, segments to measure on. */
import type { JobSpec } from 'cherryq/contract';
import { encodeText, readText } from './data/text.ts';
import { packWindows } from './data/windows.ts';
import { InputError } from './errors.ts';
import type { OpenedModel } from './model-weights.ts';
import type { Store } from './storage/store.ts';

/** Segments that perplexity is measured on are at most this long, as published. */
const longestSegment = 2048;

export async function calibrationWindows(store: Store, spec: JobSpec, model: OpenedModel): Promise<Int32Array[]> {
  const { sequenceLength } = spec.training;
  if (spec.calibrationPrefix === null) {
    throw new InputError(
      'missing_calibration',
      `The method ${spec.scheme.method} learns from text, but the job has no calibrationDatasetId.`,
      'calibrationDatasetId',
    );
  }
  if (sequenceLength > model.config.maxPositionEmbeddings) {
    throw new InputError(
      'sequence_length',
      `training.sequenceLength is ${sequenceLength}, but the model's context ends at ${model.config.maxPositionEmbeddings} tokens (max_position_embeddings). Use at most that.`,
      'training.sequenceLength',
    );
  }
  const ids = encodeText(await jobText(store, spec.calibrationPrefix, 'calibration'), model.tokenizer);
  return packWindows(ids, sequenceLength, model.tokenizer.bosTokenId);
}

/** The texts of a job may have the same file names, so an error says which of them it is about. */
async function jobText(store: Store, prefix: string, use: 'calibration' | 'evaluation'): Promise<string> {
  try {
    return await readText(store, prefix);
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    throw new InputError(error.code, `The ${use} text: ${error.message}`, error.param, { cause: error });
  }
}

/** Segments of the evaluation text, all of one length; none when the job has no such text. */
export async function evaluationSegments(store: Store, spec: JobSpec, model: OpenedModel): Promise<Int32Array[]> {
  if (!spec.evaluation || spec.evaluationPrefix === null) return [];
  return textSegments(model, await jobText(store, spec.evaluationPrefix, 'evaluation'), spec.evaluation.maxTokens);
}

/** The text as the perplexity protocol cuts it: one BOS at the start, whole segments, the rest left out. */
export function textSegments(model: OpenedModel, text: string, maxTokens: number | undefined): Int32Array[] {
  const ids = encodeText(text, model.tokenizer).subarray(0, maxTokens);
  const longest = Math.min(longestSegment, model.config.maxPositionEmbeddings);
  return packWindows(ids, Math.min(longest, Math.max(2, ids.length)), model.tokenizer.bosTokenId);
}
