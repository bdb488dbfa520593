/**
 * `cherryq/node`: the client's work with folders and files, on Node. Files are streamed both ways, so that memory does not
 * grow with the model; a download is visible under its name only once its SHA-256 is right.
 */
import { createHash, type Hash } from 'node:crypto';
import { constants, createReadStream, createWriteStream } from 'node:fs';
import {
  access,
  mkdir,
  open,
  readdir,
  readFile,
  realpath,
  rename,
  rm,
  stat,
  statfs,
  writeFile,
} from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { integrityError } from './artifacts.ts';
import type { StreamedAnswer } from './client.ts';
import type {
  AnalysisResult,
  ArtifactFile,
  ArtifactFormat,
  ComparisonResult,
  CreateJob,
  Dataset,
  EvaluationResult,
  Estimate,
  Job,
  JobEvent,
  JobResult,
  Manifest,
  Model,
  UploadFile,
} from './contract/index.ts';
import { ConnectionError, InputError, JobFailedError, PermissionError } from './errors.ts';
import { estimateByConfig } from './estimate-by-config.ts';
import {
  CherryQ as Client,
  openQuantized,
  type QuantizedModel,
  type RequestBody,
  type UploadProgress,
} from './index.ts';
import { delayBeforeRetry, sleep } from './retry.ts';

type FileSource = UploadFile & RequestBody;

export interface TransferOptions {
  signal?: AbortSignal;
  onProgress?: (progress: UploadProgress) => void;
}

export interface DownloadOptions {
  signal?: AbortSignal;
  /** After each part of a file, and once for a file that was there already. */
  onProgress?: (progress: { path: string; receivedBytes: number; totalBytes: number }) => void;
}

export interface CompressOptions {
  /**
   * A Hugging Face folder, the id of a model that the server has, or what the server is to import: `hf://owner/name@revision`,
   * `s3://bucket/prefix`.
   */
  model: string;
  /** Text file, or id of a dataset. Every method but `rtn` needs it. */
  calibration?: string;
  /** Text file, or id of a dataset, to measure perplexity on; must share nothing with `calibration`. */
  evaluation?: string;
  /** Tokens of `evaluation` to measure on; default: all. */
  evaluationTokens?: number;
  /** Also measure the divergence from the original's distribution on `evaluation`. */
  divergence?: boolean;
  /** Multiple-choice tasks to score: files of questions, or ids of datasets; needs `evaluation`. */
  tasks?: readonly string[];
  /** Limits that the result must keep, or the job fails with the code `quality`; needs `evaluation`. */
  limits?: NonNullable<CreateJob['evaluation']>['limits'];
  scheme?: CreateJob['scheme'];
  training?: CreateJob['training'];
  formats?: CreateJob['formats'];
  metadata?: CreateJob['metadata'];
  /** Machine to run on, as an estimate lists them; default: the cheapest that fits. */
  machine?: string;
  /** Folder for the result. */
  out: string;
  /** Called once the job exists: with its id, `jobs.wait` and `downloadArtifacts` go on after an interruption. */
  onJob?: (job: Job) => void;
  onEvent?: (event: JobEvent) => void;
  onUpload?: (progress: UploadProgress) => void;
  onDownload?: DownloadOptions['onProgress'];
  /** Ends the following, not the job. */
  signal?: AbortSignal;
}

export interface Compression {
  job: Job;
  result: JobResult;
  manifest: Manifest;
  /** Absolute path of `out`. */
  folder: string;
}

/**
 * The client of `cherryq` with the work of this module as methods. Elsewhere than on Node.js, take that one.
 * @example
 * const client = new CherryQ();
 * const { result } = await client.compress({ model: './model', scheme: { method: 'rtn', bits: 4 }, out: './compressed' });
 */
export class CherryQ extends Client {
  /** @see compress */
  compress(options: CompressOptions): Promise<Compression> {
    return compress(this, options);
  }

  /** @see analyze */
  analyze(options: AnalyzeOptions): Promise<Analysis> {
    return analyze(this, options);
  }

  /** @see evaluate */
  evaluate(options: EvaluateOptions): Promise<Evaluation> {
    return evaluate(this, options);
  }

  /** @see compare */
  compare(options: CompareOptions): Promise<ComparedSchemes> {
    return compare(this, options);
  }

  /** @see estimate */
  estimate(options: EstimateOptions): Promise<Estimate> {
    return estimate(this, options);
  }
}

/**
 * The whole way: uploads the model and the texts as far as the server lacks them, creates the job, follows it and downloads
 * what it made.
 * @throws InputError for folders and files that cannot be used   @throws JobFailedError when the job does not succeed
 * @example
 * const { result } = await compress(new CherryQ(), {
 *   model: './model', calibration: 'calibration.txt', evaluation: 'test.txt', scheme: { bits: 3 }, out: './compressed' });
 */
export async function compress(client: Client, options: CompressOptions): Promise<Compression> {
  const { signal } = options;
  checkTexts(options);
  await checkOut(options.out, options.model);
  const modelId = await modelOf(client, options.model, { signal, onProgress: options.onUpload });
  const job = await client.jobs.create(await requestOf(client, modelId, options), { signal });
  options.onJob?.(job);
  const ended = await client.jobs.wait(job.id, { onEvent: options.onEvent, signal });
  return downloadResult(client, ended, options.out, { signal, onProgress: options.onDownload });
}

export type EstimateOptions = Omit<CompressOptions, 'out' | 'onJob' | 'onEvent' | 'onDownload'>;

/**
 * What `compress` with these options would need and cost, and whether it would be taken. Of a model in a folder only
 * `config.json` is sent, as the beginning of an upload that is deleted afterwards; texts are uploaded and kept, for `compress` to
 * find.
 * @throws InputError as `compress`, and for a model that is to be imported: an import is no small thing to be done on the way
 */
export async function estimate(client: Client, options: EstimateOptions): Promise<Estimate> {
  const { model, signal } = options;
  checkTexts(options);
  if (await isUploaded(model)) return client.estimates.create(await requestOf(client, model, options), { signal });
  const config = await configOf(model);
  const name = basename(resolve(model));
  return estimateByConfig(client, { name, config }, (id) => requestOf(client, id, options), { signal });
}

async function configOf(model: string): Promise<Uint8Array<ArrayBuffer>> {
  try {
    return new Uint8Array(await readFile(join(model, 'config.json')));
  } catch (cause) {
    throw new InputError(
      'missing_config',
      `${model} has no config.json; give a model folder, or the id of a model (one that is being imported has an estimate as soon as its config.json is there)`,
      'model',
      { cause },
    );
  }
}

/** @throws InputError when a text is missing that the settings need */
function checkTexts(options: EstimateOptions): void {
  const { scheme } = options;
  if (scheme?.method !== 'rtn' && options.calibration === undefined)
    throw new InputError(
      'missing_calibration',
      `method ${scheme?.method ?? 'cherryq'} trains on text: give calibration, a text file or the id of a dataset; only rtn needs none`,
      'calibration',
    );
  const forEvaluation = Object.entries({
    divergence: options.divergence === true,
    tasks: (options.tasks ?? []).length > 0,
    limits: Object.keys(options.limits ?? {}).length > 0,
  }).find(([, isGiven]) => isGiven)?.[0];
  if (options.evaluation === undefined && forEvaluation !== undefined)
    throw new InputError(
      'missing_evaluation',
      `${forEvaluation} is measured with the evaluation: give evaluation, a text file or the id of a dataset`,
      'evaluation',
    );
}

/** The job as it is asked for, its texts uploaded as far as the server lacks them. */
async function requestOf(client: Client, modelId: string, options: EstimateOptions): Promise<CreateJob> {
  const { signal, scheme, training, formats, metadata, machine, evaluationTokens } = options;
  const transfer = { signal, onProgress: options.onUpload };
  const datasetId = (file: string): Promise<string> => datasetOf(client, file, transfer);
  const calibrationDatasetId = options.calibration === undefined ? undefined : await datasetId(options.calibration);
  const evaluation =
    options.evaluation === undefined
      ? undefined
      : {
          datasetId: await datasetId(options.evaluation),
          maxTokens: evaluationTokens,
          divergence: options.divergence,
          tasks: await tasksOf(client, options.tasks, transfer),
          limits: options.limits,
        };
  return { modelId, scheme, training, formats, metadata, machine, calibrationDatasetId, evaluation };
}

/** What jobs of every kind are followed with. */
type FollowOptions = Pick<
  CompressOptions,
  'out' | 'metadata' | 'machine' | 'onJob' | 'onEvent' | 'onUpload' | 'onDownload' | 'signal'
>;

export interface AnalyzeOptions extends FollowOptions, Pick<CompressOptions, 'model' | 'training'> {
  /** Text file, or id of a dataset, to measure impact on. */
  calibration: string;
  /** Further texts, or ids of datasets, whose cherries are compared with those of `calibration`. */
  others?: readonly string[];
  /** Disjoint draws from each text that are compared with each other; default 2. */
  draws?: number;
  /** Share of each row that counts as cherries; default 1/256. */
  cherryFraction?: number;
}

export interface Analysis {
  job: Job;
  result: AnalysisResult;
  manifest: Manifest;
  /** Absolute path of `out`. */
  folder: string;
}

/**
 * Where a model's important weights are: uploads what the server lacks, runs an `analyze` job and downloads `analysis.json`
 * and the report.  @throws InputError, JobFailedError as `compress`
 */
export async function analyze(client: Client, options: AnalyzeOptions): Promise<Analysis> {
  const { signal, training, metadata, machine, draws, cherryFraction } = options;
  const transfer = { signal, onProgress: options.onUpload };
  await checkOut(options.out, options.model);
  const modelId = await modelOf(client, options.model, transfer);
  const calibrationDatasetId = await datasetOf(client, options.calibration, transfer);
  const datasetIds = await inOrder(options.others ?? [], (file) => datasetOf(client, file, transfer));
  const { job, ...downloaded } = await runToEnd(
    client,
    {
      kind: 'analyze',
      modelId,
      calibrationDatasetId,
      scheme: { cherryFraction },
      training,
      metadata,
      machine,
      analysis: { datasetIds, draws },
    },
    options,
  );
  if (job.analysisResult === null) throw new JobFailedError(job);
  return { job, result: job.analysisResult, ...downloaded };
}

export interface EvaluateOptions extends FollowOptions, Pick<CompressOptions, 'evaluationTokens' | 'tasks'> {
  /** A folder of an original or a compressed model, the id of one that the server has, or what an earlier job has made. */
  model: string | { jobId: string; format?: ArtifactFormat };
  /** Text file, or id of a dataset, to measure perplexity on. */
  evaluation: string;
  /** Folder or id of the model to compare with, such as the original. */
  baseline?: string;
}

export interface Evaluation {
  job: Job;
  result: EvaluationResult;
  manifest: Manifest;
  /** Absolute path of `out`. */
  folder: string;
}

/**
 * How good a model is as it is: uploads what the server lacks, runs an `evaluate` job and downloads `evaluation.json` and the
 * report.  @throws InputError, JobFailedError as `compress`
 * @example await evaluate(client, { model: { jobId }, baseline: './model', evaluation: 'test.txt', out: './evaluation' });
 */
export async function evaluate(client: Client, options: EvaluateOptions): Promise<Evaluation> {
  const { model, signal, metadata, machine, evaluationTokens } = options;
  const transfer = { signal, onProgress: options.onUpload };
  await checkOut(options.out, typeof model === 'string' ? model : options.evaluation);
  const measured =
    typeof model === 'string' ? { modelId: await modelOf(client, model, transfer) } : { artifact: model };
  const baselineModelId =
    options.baseline === undefined ? undefined : await modelOf(client, options.baseline, transfer);
  const evaluation = {
    datasetId: await datasetOf(client, options.evaluation, transfer),
    maxTokens: evaluationTokens,
    tasks: await tasksOf(client, options.tasks, transfer),
  };
  const request: CreateJob = { kind: 'evaluate', ...measured, baselineModelId, evaluation, metadata, machine };
  const { job, ...downloaded } = await runToEnd(client, request, options);
  if (job.evaluationResult === null) throw new JobFailedError(job);
  return { job, result: job.evaluationResult, ...downloaded };
}

export interface CompareOptions
  extends FollowOptions, Pick<CompressOptions, 'model' | 'calibration' | 'evaluationTokens' | 'divergence' | 'tasks'> {
  /** Text file, or id of a dataset, to measure perplexity on; must share nothing with `calibration`. */
  evaluation: string;
  /** Schemes to compare, one by one; what one leaves open is as in `scheme`. */
  schemes?: NonNullable<CreateJob['comparison']>['schemes'];
  /** In their place, values of the fields of a scheme, whose every combination is compared. */
  axes?: NonNullable<CreateJob['comparison']>['axes'];
  scheme?: CreateJob['scheme'];
  training?: CreateJob['training'];
}

export interface ComparedSchemes {
  job: Job;
  result: ComparisonResult;
  manifest: Manifest;
  /** Absolute path of `out`. */
  folder: string;
}

/**
 * What schemes cost and give on one model: uploads what the server lacks, runs a `compare` job and downloads
 * `comparison.json` and the report.  @throws InputError, JobFailedError as `compress`
 * @example
 * const { result } = await compare(client, {
 *   model: './model', calibration: 'train.txt', evaluation: 'test.txt', axes: { bits: [2, 3, 4] }, out: './comparison' });
 */
export async function compare(client: Client, options: CompareOptions): Promise<ComparedSchemes> {
  const { signal, scheme, training, schemes, axes, metadata, machine, evaluationTokens, divergence } = options;
  const transfer = { signal, onProgress: options.onUpload };
  await checkOut(options.out, options.model);
  const modelId = await modelOf(client, options.model, transfer);
  const calibrationDatasetId =
    options.calibration === undefined ? undefined : await datasetOf(client, options.calibration, transfer);
  const evaluation = {
    datasetId: await datasetOf(client, options.evaluation, transfer),
    maxTokens: evaluationTokens,
    divergence,
    tasks: await tasksOf(client, options.tasks, transfer),
  };
  const comparison = { schemes, axes };
  const { job, ...downloaded } = await runToEnd(
    client,
    { kind: 'compare', modelId, calibrationDatasetId, evaluation, scheme, training, comparison, metadata, machine },
    options,
  );
  if (job.comparisonResult === null) throw new JobFailedError(job);
  return { job, result: job.comparisonResult, ...downloaded };
}

/** Creates a job, follows it and downloads what it left.  @throws JobFailedError when it does not succeed */
async function runToEnd(
  client: Client,
  request: CreateJob,
  { out, onJob, onEvent, onDownload, signal }: FollowOptions,
): Promise<{ job: Job; folder: string; manifest: Manifest }> {
  const created = await client.jobs.create(request, { signal });
  onJob?.(created);
  const job = await client.jobs.wait(created.id, { onEvent, signal });
  if (job.status !== 'succeeded') throw new JobFailedError(job);
  return { job, ...(await downloadArtifacts(client, job.id, out, { signal, onProgress: onDownload })) };
}

const tasksOf = (
  client: Client,
  tasks: readonly string[] | undefined,
  transfer: TransferOptions,
): Promise<{ datasetId: string }[]> =>
  inOrder(tasks ?? [], async (task) => ({ datasetId: await datasetOf(client, task, transfer) }));

/**
 * Opens the folder of a compressed model, as `compress` leaves it; its tensors are read when they are asked for.
 * @example
 * const model = await loadQuantized('compressed');
 * const weight = await model.dequantize('model.layers.0.self_attn.q_proj.weight');
 * @throws InputError naming the file and the tensor or field that is wrong
 */
export function loadQuantized(folder: string): Promise<QuantizedModel> {
  return openQuantized({
    sizeOf: (path) => sizeOf(join(folder, path)),
    async read(path, start, end) {
      const bytes = new Uint8Array(end - start);
      const file = await open(join(folder, path));
      try {
        for (let at = 0; at < bytes.length;) {
          const { bytesRead } = await file.read(bytes, at, bytes.length - at, start + at);
          if (bytesRead === 0) throw new InputError('damaged_file', `${path} ends before byte ${end}`, path);
          at += bytesRead;
        }
      } finally {
        await file.close();
      }
      return bytes;
    },
  });
}

async function modelOf(client: Client, model: string, transfer: TransferOptions): Promise<string> {
  if (/^(hf|s3|file):\/\//.test(model)) return (await client.models.import({ source: model }, transfer)).id;
  return (await isUploaded(model)) ? model : (await uploadModelFolder(client, model, transfer)).id;
}

async function datasetOf(client: Client, file: string, transfer: TransferOptions): Promise<string> {
  return (await isUploaded(file)) ? file : (await uploadTextFile(client, file, transfer)).id;
}

/** One after another, so that an upload of the same content finds the one before. */
async function inOrder<Item, Result>(items: readonly Item[], work: (item: Item) => Promise<Result>): Promise<Result[]> {
  const results: Result[] = [];
  for (const item of items) results.push(await work(item));
  return results;
}

/** What an ended job made, in a folder.  @throws JobFailedError when it made nothing */
export async function downloadResult(
  client: Client,
  job: Job,
  outFolder: string,
  options: DownloadOptions = {},
): Promise<Compression> {
  if (job.status !== 'succeeded' || job.result === null) throw new JobFailedError(job);
  const { manifest, folder } = await downloadArtifacts(client, job.id, outFolder, options);
  return { job, result: job.result, manifest, folder };
}

/**
 * Uploads what a model consists of: configuration, safetensors, tokenizer, licence. Hidden files, subfolders and all else
 * stay.  @throws InputError before anything is sent
 */
export async function uploadModelFolder(
  client: Client,
  folder: string,
  options: TransferOptions & { /** Default: the folder's. */ name?: string } = {},
): Promise<Model> {
  const names = await modelFiles(folder);
  const files: FileSource[] = [];
  for (const name of names) files.push(await describeFile(join(folder, name), name, options.signal));
  return client.models.upload({ name: options.name ?? nameOf(folder), files }, options);
}

/** What the trainer tells apart; everything else is plain text. */
const datasetEndings = ['.jsonl', '.ndjson', '.json', '.parquet', '.csv', '.txt.gz', '.jsonl.gz'];

/** Uploads a text as a dataset of one file.  @throws InputError when it cannot be read or is empty */
export async function uploadTextFile(client: Client, path: string, options: TransferOptions = {}): Promise<Dataset> {
  await requireFile(path);
  // The ending tells the trainer how to read it.
  const ending = datasetEndings.find((known) => path.toLowerCase().endsWith(known)) ?? '.txt';
  const source = await describeFile(path, `text${ending}`, options.signal);
  if (source.sizeBytes === 0) throw new InputError('empty_text', `${path} is empty; give a file with text`, path);
  return client.datasets.upload({ name: nameOf(path), files: [source] }, options);
}

/**
 * Downloads a job's files. Those that are there and right stay, a part that broke off is continued, and `manifest.json`
 * comes last: where it is, everything is.
 * @throws InputError when the disk lacks room   @throws IntegrityError when a file stays damaged
 */
export async function downloadArtifacts(
  client: Client,
  jobId: string,
  outFolder: string,
  options: DownloadOptions = {},
): Promise<{ folder: string; manifest: Manifest }> {
  const { signal, onProgress } = options;
  const folder = resolve(outFolder);
  const manifestPath = join(folder, 'manifest.json');
  const manifestBytes = await client.artifacts.download(jobId, 'manifest.json', { signal });
  const manifest = JSON.parse(new TextDecoder().decode(manifestBytes)) as Manifest;
  manifest.files.forEach(({ path }) => requireInside(path));
  await mkdir(folder, { recursive: true });

  const missing: ArtifactFile[] = [];
  for (const file of manifest.files) if (!(await isRight(join(folder, file.path), file, signal))) missing.push(file);
  const totalBytes = manifest.files.reduce((sum, file) => sum + file.sizeBytes, 0);
  let receivedBytes = totalBytes - missing.reduce((sum, file) => sum + file.sizeBytes, 0);
  if (missing.length > 0) {
    await requireRoom(folder, totalBytes - receivedBytes);
    await rm(manifestPath, { force: true });
  }
  for (const file of missing) {
    const onBytes = (bytes: number): void =>
      onProgress?.({ path: file.path, receivedBytes: receivedBytes + bytes, totalBytes });
    await downloadFile(client, jobId, file, join(folder, file.path), onBytes, signal);
    receivedBytes += file.sizeBytes;
  }
  await writeFile(`${manifestPath}.part`, manifestBytes);
  await rename(`${manifestPath}.part`, manifestPath);
  onProgress?.({ path: 'manifest.json', receivedBytes, totalBytes });
  return { folder, manifest };
}

/** Into `<target>.part`, from where an earlier try ended; renamed when its hash is right. */
async function downloadFile(
  client: Client,
  jobId: string,
  file: ArtifactFile,
  target: string,
  onBytes: (bytes: number) => void,
  signal?: AbortSignal,
): Promise<void> {
  const part = `${target}.part`;
  await mkdir(dirname(target), { recursive: true });
  let furthest = 0;
  for (let attempt = 0; ; attempt++) {
    const onProgress = (bytes: number): void => {
      // What comes on counts its failures anew.
      if (bytes > furthest) [furthest, attempt] = [bytes, 0];
      onBytes(bytes);
    };
    try {
      const sha256 = await continuePart(client, jobId, file, part, onProgress, signal);
      if (sha256 !== file.sha256) {
        await rm(part);
        throw integrityError(file.path, file.sha256, sha256);
      }
      return await rename(part, target);
    } catch (error) {
      signal?.throwIfAborted();
      const delayMs = delayBeforeRetry(error, attempt, maxDownloadRetries);
      if (delayMs === null) throw error;
      await sleep(delayMs, signal);
    }
  }
}
/** With their pauses they outlast a restart of the server. */
const maxDownloadRetries = 6;

/** A large file may be with the server's store, at an address that is asked for with each try, since it does not last. */
async function urlOf(client: Client, jobId: string, path: string, signal?: AbortSignal): Promise<string | null> {
  return (await client.artifacts.list(jobId, { signal })).find((file) => file.path === path)?.url ?? null;
}
const mostThroughApi = 4 * 2 ** 20;

/** A file that lacks more than one comes in parts of so many bytes, some at once. */
const partBytes = 4 * 2 ** 20;
const partsAtOnce = 4;

/** Fetches what the part lacks.  @returns SHA-256 of the part, then whole */
async function continuePart(
  client: Client,
  jobId: string,
  { path, sizeBytes, sha256 }: ArtifactFile,
  part: string,
  onBytes: (bytes: number) => void,
  signal?: AbortSignal,
): Promise<string> {
  const had = await sizeOf(part);
  let start = had !== null && had < sizeBytes ? had : 0;
  let hash = createHash('sha256');
  if (start > 0) await addFile(hash, part, signal);
  if (sizeBytes === 0) {
    await writeFile(part, '');
    return hash.digest('hex');
  }
  // What is under way ends with the first that fails.
  const stop = new AbortController();
  const either = signal ? AbortSignal.any([signal, stop.signal]) : stop.signal;
  let url = sizeBytes > mostThroughApi ? await urlOf(client, jobId, path, signal) : null;
  const fetchFrom = async (from: number, end?: number): Promise<StreamedAnswer> => {
    const ask = (): Promise<StreamedAnswer> =>
      client.artifacts.stream(jobId, path, { start: from, end, ifSha256: sha256, url, signal: either });
    try {
      return await ask();
    } catch (error) {
      if (url === null || !(error instanceof PermissionError)) throw error;
      // The address has run out, or the credentials that it was signed with.
      url = await urlOf(client, jobId, path, signal);
      return await ask();
    }
  };
  const isLarge = sizeBytes - start > partBytes;
  const answer = await fetchFrom(start, isLarge ? start + partBytes : undefined);
  if (answer.status !== 206) [start, hash] = [0, createHash('sha256')];
  let received = start;
  const counted = async function* ({ body }: StreamedAnswer): AsyncGenerator<Uint8Array> {
    for await (const chunk of Readable.fromWeb(body as Parameters<typeof Readable.fromWeb>[0])) {
      onBytes((received += (chunk as Uint8Array).byteLength));
      yield chunk as Uint8Array;
    }
  };
  const chunks =
    isLarge && answer.status === 206 ? inParts(answer, fetchFrom, counted, { start, sizeBytes }) : counted(answer);
  const hashed = async function* (all: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    for await (const chunk of all) {
      hash.update(chunk);
      yield chunk;
    }
  };
  try {
    await pipeline(chunks, hashed, createWriteStream(part, { flags: start > 0 ? 'a' : 'w' }), { signal });
  } finally {
    stop.abort();
  }
  return hash.digest('hex');
}

/** Parts one after another, while the next ones are on their way.  @param first answer with the first part */
async function* inParts(
  first: StreamedAnswer,
  fetchFrom: (start: number, end: number) => Promise<StreamedAnswer>,
  counted: (answer: StreamedAnswer) => AsyncIterable<Uint8Array>,
  { start, sizeBytes }: { start: number; sizeBytes: number },
): AsyncGenerator<Uint8Array> {
  const read = async (answer: StreamedAnswer | Promise<StreamedAnswer>, bytes: number): Promise<Uint8Array[]> => {
    const { status, headers, body } = await answer;
    // The whole file, where it is another by now: it is begun anew.
    if (status !== 206) {
      await body.cancel();
      throw partError(`status ${status}`);
    }
    const chunks: Uint8Array[] = [];
    let left = bytes;
    for await (const chunk of counted({ status, headers, body })) {
      chunks.push(chunk);
      left -= chunk.byteLength;
    }
    if (left !== 0) throw partError(`${bytes - left} bytes in place of ${bytes}`);
    return chunks;
  };
  const underWay: Promise<Uint8Array[]>[] = [read(first, partBytes)];
  let next = start + partBytes;
  while (underWay.length > 0) {
    while (underWay.length < partsAtOnce && next < sizeBytes) {
      const end = Math.min(next + partBytes, sizeBytes);
      underWay.push(read(fetchFrom(next, end), end - next));
      next = end;
    }
    // Of those behind one that fails nobody hears.
    for (const part of underWay) part.catch(() => undefined);
    const [part] = underWay.splice(0, 1);
    yield* await (part ?? []);
  }
}

function partError(got: string): ConnectionError {
  return new ConnectionError(`a part of a file came with ${got}`, { code: 'connection', retryable: true });
}

async function isRight(path: string, file: ArtifactFile, signal?: AbortSignal): Promise<boolean> {
  if ((await sizeOf(path)) !== file.sizeBytes) return false;
  return (await addFile(createHash('sha256'), path, signal)).digest('hex') === file.sha256;
}

/** @param path name that the file gets on the server */
async function describeFile(file: string, path: string, signal?: AbortSignal): Promise<FileSource> {
  const { size } = await stat(file);
  const sha256 = (await addFile(createHash('sha256'), file, signal)).digest('hex');
  const open = (): ReadableStream<Uint8Array> =>
    Readable.toWeb(createReadStream(file)) as unknown as ReadableStream<Uint8Array>;
  return { path, sizeBytes: size, sha256, open };
}

async function addFile(hash: Hash, path: string, signal?: AbortSignal): Promise<Hash> {
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20, signal })) hash.update(chunk as Buffer);
  return hash;
}

const modelFilePattern = /^(?:.+\.safetensors|.+\.json|tokenizer.*|chat_template.*|LICENSE.*)$/;

/** Names of the files of a folder that belong to its model.  @throws InputError */
async function modelFiles(folder: string): Promise<string[]> {
  const entries = await readdir(folder).catch((cause: unknown) => {
    throw new InputError(
      'missing_folder',
      `${folder} is not a folder that can be read; give a model folder (config.json, model.safetensors, tokenizer.json) or the id of an uploaded model`,
      folder,
      { cause },
    );
  });
  const names: string[] = [];
  for (const name of entries.sort())
    // Links are followed: Hugging Face's cache consists of them.
    if (!name.startsWith('.') && modelFilePattern.test(name) && (await isFile(join(folder, name)))) names.push(name);
  if (!names.includes('config.json'))
    throw new InputError(
      'missing_file',
      `${folder} has no config.json; give a model folder in Hugging Face's format (config.json, model.safetensors, tokenizer.json)`,
      'config.json',
    );
  if (!names.some((name) => name.endsWith('.safetensors')))
    throw new InputError(
      'missing_file',
      `${folder} has no *.safetensors; weights in other formats (.bin, .pth, .gguf) must be saved as safetensors first`,
      'model.safetensors',
    );
  return names;
}

/** An id, and not a file or folder that happens to be called so. */
async function isUploaded(text: string): Promise<boolean> {
  return /^[0-9A-HJKMNP-TV-Z]{26}$/.test(text) && (await stat(text).catch(() => null)) === null;
}

async function requireFile(path: string): Promise<void> {
  if (await isFile(path)) return;
  throw new InputError(
    'missing_file',
    `${path} is not a file that can be read; give a text file or the id of a dataset`,
    path,
  );
}

/** Found before an hour of training, not after it.  @throws InputError */
async function checkOut(out: string, model: string): Promise<void> {
  const folder = resolve(out);
  const [outPath, modelPath] = await Promise.all([folder, model].map((path) => realpath(path).catch(() => null)));
  if (outPath !== null && outPath === modelPath)
    throw new InputError(
      'out_is_model',
      `out is the model's own folder ${out}, whose files would be replaced; give another`,
      'out',
    );
  for (let at = folder; ; at = dirname(at)) {
    const found = await stat(at).catch(() => null);
    if (found === null && at !== dirname(at)) continue;
    const usable =
      found?.isDirectory() &&
      (await access(at, constants.W_OK).then(
        () => true,
        () => false,
      ));
    if (usable) return;
    throw new InputError(
      'out_not_writable',
      `${at} is not a folder that can be written to, so ${out} cannot be made; give another`,
      'out',
    );
  }
}

async function requireRoom(folder: string, neededBytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(folder);
  if (bavail * bsize >= neededBytes) return;
  throw new InputError(
    'disk_full',
    `${folder} has room for ${bavail * bsize} bytes, ${neededBytes} are needed; make room or choose another folder, and nothing is lost`,
    'out',
  );
}

/** A server cannot write outside the folder.  @throws InputError */
function requireInside(path: string): void {
  const safe = path
    .split('/')
    .every((segment) => /^[A-Za-z0-9_.+-]+$/.test(segment) && segment !== '.' && segment !== '..');
  if (!safe)
    throw new InputError(
      'unsafe_path',
      `the manifest names ${JSON.stringify(path)}, which is not a path within a folder`,
      path,
    );
}

async function isFile(path: string): Promise<boolean> {
  return (await stat(path).catch(() => null))?.isFile() ?? false;
}

async function sizeOf(path: string): Promise<number | null> {
  const found = await stat(path).catch(() => null);
  return found?.isFile() ? found.size : null;
}

const nameOf = (path: string): string => basename(resolve(path)) || 'model';
