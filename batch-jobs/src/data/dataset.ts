/**
 * A dataset as token ids: windows to learn from, or one stream to measure on. Documents are tokenized one by one as they are
 * read; only the ids are kept. A text begins with the tokenizer's BOS, where it has one; a conversation is what the model's
 * own chat template makes of it, and no token is added to that.
 */
import { createHash } from 'node:crypto';
import { InputError } from '../errors.ts';
import type { ChatTemplate } from '../formats/chat-template.ts';
import type { Tokenizer } from '../formats/tokenizer.ts';
import type { Store } from '../storage/store.ts';
import { listFiles, readDocuments } from './documents.ts';
import { describePlace } from './records.ts';
import type { Document } from './records.ts';
import { documentSeparator } from './separator.ts';
import { WindowPacker } from './windows.ts';

export interface TextModel {
  readonly tokenizer: Tokenizer;
  /** The model's chat template; null where it has none, and then conversations are refused. */
  readonly template: ChatTemplate | null;
}

export interface DatasetProgress {
  readonly documents: number;
  readonly tokens: number;
  readonly tokensPerSecond: number;
  /** Share of the files' bytes that have been read, 0 to 1. */
  readonly fraction: number;
}

export interface DatasetOptions extends TextModel {
  /**
   * `packed`: documents one after another, cut into windows, the rest at the end left out. `documents`, as published: of each
   * document that has at least one window of tokens, BOS included, the first window; nothing is packed.
   */
  readonly windows: 'packed' | 'documents';
  /** Tokens in a window. */
  readonly sequenceLength: number;
  /** Token that every window of a packed stream begins with, for models that want BOS there; default: none. */
  readonly firstToken?: number | null;
  /** Reading ends once there are so many windows, so that they come from the first documents; default: all are read. */
  readonly maxWindows?: number;
  /** Called a few times a second. */
  readonly onProgress?: (progress: DatasetProgress) => void;
}

export interface Dataset {
  /** Each of exactly `sequenceLength` ids. */
  readonly windows: Int32Array[];
  /** Of the windows' ids in order, as little-endian int32. */
  readonly sha256: string;
  /** Documents that were read. */
  readonly documents: number;
  /** Documents that gave a window; with `packed`, all. */
  readonly usedDocuments: number;
  /** Tokens of all documents that were read. */
  readonly tokens: number;
}

/** Of all windows together: 512 MiB. */
const maxKeptTokens = 2 ** 27;

/**
 * @param prefix of the dataset's files in the store; ends in a slash, or is one file's key
 * @throws InputError as `readDocuments`, `no_chat_template`, `chat_template_failed`, `text_too_short` or `text_too_large`
 */
export async function readDataset(store: Store, prefix: string, options: DatasetOptions): Promise<Dataset> {
  const { windows, sequenceLength, maxWindows = Infinity, onProgress = () => undefined } = options;
  const packer = new WindowPacker(sequenceLength, windows === 'packed' ? (options.firstToken ?? null) : null);
  const stream = windows === 'packed' ? new StreamMaker(options.tokenizer) : null;
  let [usedDocuments, longest] = [0, 0];
  const read = new Reading(store, prefix, options, onProgress);
  for await (const { document, ids } of read.documents()) {
    if (stream !== null) {
      usedDocuments++;
      for (const part of stream.append(document, ids)) packer.append(part);
    } else {
      const whole = document.kind === 'text' ? withBos(ids, options.tokenizer.bosTokenId) : ids;
      longest = Math.max(longest, whole.length);
      if (whole.length < sequenceLength) continue;
      usedDocuments++;
      packer.append(whole.subarray(0, sequenceLength));
    }
    if (packer.windows.length >= maxWindows) break;
    if (packer.windows.length * sequenceLength > maxKeptTokens) throw tooLarge(prefix);
  }
  const kept = packer.windows.slice(0, maxWindows);
  if (kept.length === 0) {
    const found =
      stream === null
        ? `None of the ${read.documentCount} documents has the ${sequenceLength} tokens of a window; the longest has ${longest}`
        : `The text has ${packer.length} tokens; one window needs ${sequenceLength}`;
    const otherwise = stream === null ? ', or windows: packed' : '';
    throw new InputError(
      'text_too_short',
      `${found}. Give a longer text or a smaller sequenceLength${otherwise}.`,
      'sequenceLength',
    );
  }
  const hash = createHash('sha256');
  for (const window of kept) hash.update(littleEndian(window));
  return {
    windows: kept,
    sha256: hash.digest('hex'),
    documents: read.documentCount,
    usedDocuments,
    tokens: read.tokenCount,
  };
}

/**
 * The dataset as one stream of tokens, as perplexity is measured on it: BOS at the start, and between texts the tokenizer's
 * own `<|endoftext|>`, else BOS, else EOS.
 * @param options.maxTokens reading ends there; default: all
 * @throws InputError as `readDataset`, except that a stream may be short
 */
export async function readTokens(
  store: Store,
  prefix: string,
  options: TextModel & { maxTokens?: number; onProgress?: (progress: DatasetProgress) => void },
): Promise<{ ids: Int32Array; sha256: string; documents: number }> {
  const { maxTokens = maxKeptTokens, onProgress = () => undefined } = options;
  const stream = new StreamMaker(options.tokenizer);
  const read = new Reading(store, prefix, options, onProgress);
  const kept: Int32Array[] = [];
  let length = 0;
  for await (const { document, ids } of read.documents()) {
    for (const part of stream.append(document, ids)) {
      kept.push(part);
      length += part.length;
    }
    if (length >= maxTokens) break;
  }
  if (options.maxTokens === undefined && length > maxKeptTokens) throw tooLarge(prefix);
  const all = new Int32Array(length);
  let position = 0;
  for (const part of kept) {
    all.set(part, position);
    position += part.length;
  }
  const ids = all.subarray(0, maxTokens);
  return { ids, sha256: createHash('sha256').update(littleEndian(ids)).digest('hex'), documents: read.documentCount };
}

/** Tokenizes the documents of a dataset, counts them, and lets the event loop turn now and then. */
class Reading {
  documentCount = 0;
  tokenCount = 0;

  constructor(
    private readonly store: Store,
    private readonly prefix: string,
    private readonly model: TextModel,
    private readonly onProgress: (progress: DatasetProgress) => void,
  ) {}

  async *documents(): AsyncGenerator<{ document: Document; ids: Int32Array }> {
    const files = await listFiles(this.store, this.prefix);
    const totalBytes = files.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
    const startMs = performance.now();
    let [readBytes, reportedMs] = [0, startMs];
    for await (const document of readDocuments(this.store, this.prefix, (bytes) => (readBytes += bytes))) {
      const ids = encodeDocument(document, this.model);
      this.documentCount++;
      this.tokenCount += ids.length;
      yield { document, ids };
      const nowMs = performance.now();
      if (nowMs - reportedMs < 250) continue;
      reportedMs = nowMs;
      this.onProgress({
        documents: this.documentCount,
        tokens: this.tokenCount,
        tokensPerSecond: (this.tokenCount / (nowMs - startMs)) * 1000,
        fraction: totalBytes === 0 ? 1 : readBytes / totalBytes,
      });
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
}

/** A text's own tokens, without BOS; a conversation's with whatever the template writes. */
function encodeDocument(document: Document, { tokenizer, template }: TextModel): Int32Array {
  if (document.kind === 'text') return tokenizer.encode(document.text, { addSpecialTokens: false });
  const place = describePlace(document.place);
  if (template === null) {
    throw new InputError(
      'no_chat_template',
      `There is a conversation in ${place}, but the model has no chat template to write it as text. Add the ` +
        'chat_template.jinja that the model was trained with to its folder, or give text.',
      document.place.path,
    );
  }
  return tokenizer.encode(template.render(document.messages, document.tools, place), { addSpecialTokens: false });
}

/** Documents one after another: what stands before and between texts. Templates part conversations by themselves. */
class StreamMaker {
  readonly #first: number | null;
  readonly #between: number | null;
  #isEmpty = true;

  constructor(tokenizer: Tokenizer) {
    this.#first = tokenizer.bosTokenId;
    this.#between = tokenizer.tokenId(documentSeparator) ?? tokenizer.bosTokenId ?? tokenizer.eosTokenId;
  }

  append(document: Document, ids: Int32Array): Int32Array[] {
    const lead = document.kind === 'conversation' ? null : this.#isEmpty ? this.#first : this.#between;
    this.#isEmpty = false;
    return lead === null ? [ids] : [Int32Array.of(lead), ids];
  }
}

function withBos(ids: Int32Array, bosTokenId: number | null): Int32Array {
  if (bosTokenId === null || ids[0] === bosTokenId) return ids;
  const whole = new Int32Array(ids.length + 1);
  whole[0] = bosTokenId;
  whole.set(ids, 1);
  return whole;
}

function littleEndian(ids: Int32Array): Uint8Array {
  return new Uint8Array(ids.buffer, ids.byteOffset, ids.byteLength);
}

function tooLarge(prefix: string): InputError {
  return new InputError(
    'text_too_large',
    `The files under ${prefix} have more than ${maxKeptTokens} tokens in windows. Give a part of them.`,
    prefix,
  );
}
