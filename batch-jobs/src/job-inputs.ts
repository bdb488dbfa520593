/** What a job is given, opened and checked: the model, and texts as windows to learn from and segments to measure on. */
import type { JobSpec } from 'cherryq/contract';
import type { Dataset, TextModel } from './data/dataset.ts';
import { readDataset, readTokens } from './data/dataset.ts';
import { evaluationSegments } from './data/windows.ts';
import { InputError } from './errors.ts';
import type { Task } from './evaluation/tasks.ts';
import { openTask } from './evaluation/tasks.ts';
import { openChatTemplate } from './formats/chat-template.ts';
import type { JobFolder } from './job-folder.ts';
import type { OpenedModel } from './model-weights.ts';
import { openModel } from './model-weights.ts';
import { Reporter } from './progress.ts';
import type { RunOptions } from './run-options.ts';
import { folderFingerprint } from './storage/fingerprint.ts';
import type { Store } from './storage/store.ts';

/** Segments that perplexity is measured on are at most this long, as published. */
const longestSegment = 2048;
/** Reading a text says nothing for so long. */
const quietMs = 3000;

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

/** Of the job's model.  @throws InputError when its files are not what was declared when they were uploaded */
export async function modelFingerprintOf(store: Store, { modelPrefix, modelFingerprint }: JobSpec): Promise<string> {
  const found = await folderFingerprint(store, modelPrefix);
  if (modelFingerprint === null || found === modelFingerprint) return found;
  throw new InputError(
    'content_mismatch',
    `The model's files are not those that were declared: their fingerprint is ${found}, declared was ${modelFingerprint}. Upload the model again.`,
    'modelId',
  );
}

/** A text of the job: where it lies, how errors call it, and the field of the request that names it. */
export interface TextSource {
  readonly prefix: string | null;
  readonly use: string;
  readonly param: string;
}

/** @throws InputError when there is no text, or it cannot be cut into windows that the model takes */
export async function windowsOf(
  { store, job }: RunOptions,
  model: OpenedModel,
  { prefix, use, param }: TextSource,
): Promise<Dataset> {
  const { sequenceLength, windows } = job.spec.training;
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
  const loading = new LoadingProgress(job);
  const text = { tokenizer: model.tokenizer, template: await openChatTemplate(store, model.folder.prefix) };
  return named(use, () =>
    readDataset(store, prefix, {
      ...text,
      windows,
      sequenceLength,
      firstToken: model.config.bosPerSegment ? model.tokenizer.bosTokenId : null,
      onProgress: ({ fraction }) => loading.at(fraction),
    }),
  );
}

/** The multiple-choice tasks of the job, in order.  @throws InputError naming file and line */
export async function tasksOf(store: Store, { evaluation, tasks }: JobSpec): Promise<Task[]> {
  const opened: Task[] = [];
  for (const [index, { name, prefix }] of tasks.entries()) {
    const { maxQuestions } = evaluation?.tasks[index] ?? {};
    opened.push(await named(`task ${name}`, () => openTask(store, prefix, name, maxQuestions)));
  }
  return opened;
}

/** Segments of the evaluation text, all of one length; none when the job has no such text. */
export async function evaluationSegmentsOf(store: Store, spec: JobSpec, model: OpenedModel): Promise<Int32Array[]> {
  const { evaluation, evaluationPrefix } = spec;
  if (!evaluation || evaluationPrefix === null) return [];
  const text = { tokenizer: model.tokenizer, template: await openChatTemplate(store, model.folder.prefix) };
  return named('evaluation text', () => segmentsOf(store, evaluationPrefix, model, text, evaluation.maxTokens));
}

/**
 * A text as the perplexity protocol cuts it: one BOS at the start, or at each segment where the family wants it, whole
 * segments, the rest left out.  @param prefix of the text's files, or the key of one
 */
export async function segmentsOf(
  store: Store,
  prefix: string,
  model: OpenedModel,
  text: TextModel,
  maxTokens: number | undefined,
): Promise<Int32Array[]> {
  const { ids } = await readTokens(store, prefix, { ...text, maxTokens });
  const longest = Math.min(longestSegment, model.config.maxPositionEmbeddings);
  const length = Math.min(longest, Math.max(2, ids.length));
  return evaluationSegments(ids, length, model.tokenizer.bosTokenId, model.config.bosPerSegment);
}

/** The texts of a job may have the same file names, so an error says which of them it is about. */
export async function named<Result>(use: string, read: () => Promise<Result> | Result): Promise<Result> {
  try {
    return await read();
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    throw new InputError(error.code, `The ${use}: ${error.message}`, error.param, { cause: error });
  }
}

/** Says how far the reading of a text is, once that takes long enough for somebody to wonder. */
class LoadingProgress {
  private readonly startedAt = performance.now();
  private readonly reporter: Reporter;

  constructor(job: JobFolder) {
    this.reporter = new Reporter(job, [{ phase: 'load', units: 100, unitCost: 1, unitTokens: 0 }]);
  }

  at(fraction: number): void {
    if (performance.now() - this.startedAt > quietMs) this.reporter.at('load', 100 * fraction);
  }
}
