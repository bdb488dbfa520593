/**
 * `tokenizer.json` through @huggingface/tokenizers: text to token ids and back. Around the library it checks the file
 * before use, finds the ids of BOS and EOS, and makes long texts fast without changing a token (`MergeBoundaries`).
 * Chat templates are applied in chat-template.ts.
 */
import { PreTokenizer, Tokenizer as LibraryTokenizer } from '@huggingface/tokenizers';
import { InputError, messageOf } from '../errors.ts';
import type { ReadableStore } from '../storage/store.ts';
import { describeJson, isJsonObject, readJsonObject } from './json.ts';
import type { JsonObject } from './json.ts';
import { maxTokenizerConfigBytes, readSpecialTokens } from './special-tokens.ts';

export interface Tokenizer {
  /** One more than the largest id; an embedding needs at least so many rows. */
  readonly vocabSize: number;
  /** What a text begins with; null where the model has no such token (Qwen) or says that texts go without (Phi-3). */
  readonly bosTokenId: number | null;
  readonly eosTokenId: number | null;
  /** @param options.addSpecialTokens puts in what the tokenizer's template says, usually one BOS; default true */
  encode(text: string, options?: { addSpecialTokens?: boolean }): Int32Array;
  /** Special tokens are left out.  @throws RangeError for an id outside the vocabulary */
  decode(ids: ArrayLike<number>): string;
  /** The id of a token as it is written in the vocabulary, special ones included. */
  tokenId(token: string): number | null;
}

const tokenizerFile = 'tokenizer.json';
const maxTokenizerBytes = 2 ** 26;
const maxConfigBytes = 2 ** 24;
const maxVocabSize = 2 ** 24;
const modelTypes: readonly unknown[] = ['BPE', 'Unigram', 'WordPiece'];

/**
 * Opens the tokenizer of a model folder. `tokenizer_config.json`, `special_tokens_map.json` and `config.json` are used where
 * they exist.
 * @param prefix ends in a slash, or is empty   @throws InputError when tokenizer.json is missing, damaged or unsupported
 */
export async function openTokenizer(store: ReadableStore, prefix: string): Promise<Tokenizer> {
  const key = prefix + tokenizerFile;
  const json = await readJsonObject(store, key, maxTokenizerBytes);
  if (json === null) throw new InputError('missing_file', `The model folder has no ${tokenizerFile}.`, tokenizerFile);
  const vocabulary = readVocabulary(json, key);
  const tokenizerConfig =
    (await readJsonObject(store, `${prefix}tokenizer_config.json`, maxTokenizerConfigBytes)) ?? {};
  const modelConfig = (await readJsonObject(store, `${prefix}config.json`, maxConfigBytes)) ?? {};
  const specialTokens = await readSpecialTokens(store, prefix, tokenizerConfig);
  const { library, templateBos } = openLibrary(json, tokenizerConfig, key);

  const specialId = (name: 'bos' | 'eos'): number | null => {
    const token = specialTokens.get(`${name}_token`);
    if (token === null || (name === 'bos' && tokenizerConfig.add_bos_token === false)) return null;
    if (token !== undefined) return vocabulary.idOf.get(token) ?? null;
    const configured: unknown = [modelConfig[`${name}_token_id`]].flat()[0];
    if (typeof configured === 'number' && Number.isInteger(configured) && configured >= 0) return configured;
    return name === 'bos' ? templateBos : null;
  };

  return {
    vocabSize: vocabulary.size,
    bosTokenId: specialId('bos'),
    eosTokenId: specialId('eos'),
    encode: (text, { addSpecialTokens = true } = {}) =>
      checkedIds(library.encode(text, { add_special_tokens: addSpecialTokens }).ids, key),
    decode(ids) {
      const wanted = Array.from(ids);
      for (const id of wanted) {
        if (!Number.isInteger(id) || id < 0 || id >= vocabulary.size) {
          throw new RangeError(`Token id ${id} is outside the vocabulary of ${vocabulary.size}.`);
        }
      }
      if (wanted.length === 0) return '';
      return library.decode(wanted, { skip_special_tokens: true, clean_up_tokenization_spaces: false });
    },
    tokenId: (token) => vocabulary.idOf.get(token) ?? null,
  };
}

function openLibrary(
  json: JsonObject,
  config: JsonObject,
  key: string,
): { library: LibraryTokenizer; templateBos: number | null } {
  try {
    const library = new LibraryTokenizer(json, config);
    const merges = splittableMerges(json);
    if (merges !== null) library.pre_tokenizer = new MergeBoundaries(library.pre_tokenizer, merges);
    // An empty text shows what the template adds, and that the parts work together; a letter, what it puts first.
    checkedIds(library.encode('').ids, key);
    const [first] = library.encode('a').ids;
    const [plain] = library.encode('a', { add_special_tokens: false }).ids;
    return { library, templateBos: first === plain ? null : (first ?? null) };
  } catch (cause) {
    if (cause instanceof InputError) throw cause;
    throw invalid(key, `it cannot be used (${messageOf(cause)})`, { cause });
  }
}

/** The library gives no id for a token that it does not know, such as a template's that is missing in the vocabulary. */
function checkedIds(ids: readonly (number | undefined)[], key: string): Int32Array {
  const checked = new Int32Array(ids.length);
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i];
    if (id === undefined) throw invalid(key, 'it makes tokens that its vocabulary does not have, and has no unk_token');
    checked[i] = id;
  }
  return checked;
}

/** All tokens with their ids, from the model's vocabulary (an object, or an array of [token, score]) and those added. */
function readVocabulary(json: JsonObject, key: string): { idOf: Map<string, number>; size: number } {
  const { model, added_tokens: added } = json;
  const { type, vocab } = isJsonObject(model) ? model : {};
  // Older files name no type; a type that the library does not know it would take for another.
  if (type !== undefined && !modelTypes.includes(type)) {
    throw invalid(key, `its model is ${describeJson(type)}; read are ${modelTypes.join(', ')}`);
  }
  const idOf = new Map<string, number>();
  let size = 0;
  const add = (token: unknown, id: unknown): void => {
    if (typeof token !== 'string' || typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id >= maxVocabSize) {
      const allowed = `a token is a string with a whole number from 0 to ${maxVocabSize - 1}`;
      throw invalid(key, `its vocabulary has ${describeJson(token)} with the id ${describeJson(id)}; ${allowed}`);
    }
    idOf.set(token, id);
    size = Math.max(size, id + 1);
  };
  if (Array.isArray(vocab)) vocab.forEach((piece, id) => add(Array.isArray(piece) ? piece[0] : piece, id));
  else if (isJsonObject(vocab)) for (const [token, id] of Object.entries(vocab)) add(token, id);
  else throw invalid(key, `its model must have a vocab; it has ${describeJson(vocab)}`);
  if (!Array.isArray(added)) throw invalid(key, `added_tokens must be an array; it is ${describeJson(added)}`);
  for (const token of added) {
    if (!isJsonObject(token)) throw invalid(key, `added_tokens has ${describeJson(token)}, which is no token`);
    add(token.content, token.id);
  }
  if (size === 0) throw invalid(key, 'its vocabulary is empty');
  return { idOf, size };
}

function invalid(key: string, what: string, options: ErrorOptions = {}): InputError {
  return new InputError(
    'invalid_tokenizer',
    `${key} is not a tokenizer that can be read: ${what}. It must be a tokenizer.json of Hugging Face tokenizers.`,
    tokenizerFile,
    options,
  );
}

/** The merges of a BPE model whose words may be cut where no merge joins; null for any other model. */
function splittableMerges(json: JsonObject): [string, string][] | null {
  const { model } = json;
  if (!isJsonObject(model) || !Array.isArray(model.merges) || model.ignore_merges === true) return null;
  if (model.continuing_subword_prefix || model.continuing_subword_suffix || model.end_of_word_suffix) return null;
  return model.merges.map((merge: unknown) => {
    const pair: unknown = typeof merge === 'string' ? merge.split(' ', 2) : merge;
    if (Array.isArray(pair) && typeof pair[0] === 'string' && typeof pair[1] === 'string') return [pair[0], pair[1]];
    throw new TypeError(`a merge is ${describeJson(merge)} in place of two tokens`);
  });
}

/** Shorter pieces go to the model as they are. */
const longPieceLength = 32;

/**
 * Cuts long pieces of text where no merge can ever join: between two characters that are the last and the first of no
 * merge's halves. Byte-pair encoding never crosses such a place, so the tokens are the same, but tokenizers that have no
 * pre-tokenizer (Llama's) then work word by word, with the library's cache, in place of on a whole book at once.
 */
class MergeBoundaries extends PreTokenizer {
  readonly #before: PreTokenizer | null;
  readonly #joined: ReadonlySet<string>;

  constructor(before: PreTokenizer | null, merges: readonly (readonly [string, string])[]) {
    super();
    this.#before = before;
    this.#joined = new Set(merges.map(([left, right]) => lastCharacter(left) + firstCharacter(right)));
  }

  override pre_tokenize_text(text: string, options?: { section_index?: number }): string[] {
    const pieces = this.#before === null ? [text] : this.#before.pre_tokenize(text, options);
    return pieces.flatMap((piece) => (piece.length > longPieceLength ? this.#cut(piece) : piece));
  }

  #cut(piece: string): string[] {
    const parts: string[] = [];
    let start = 0;
    let position = 0;
    let previous = '';
    for (const character of piece) {
      if (position > 0 && !this.#joined.has(previous + character)) {
        parts.push(piece.slice(start, position));
        start = position;
      }
      position += character.length;
      previous = character;
    }
    parts.push(piece.slice(start));
    return parts;
  }
}

function firstCharacter(text: string): string {
  return String.fromCodePoint(text.codePointAt(0) ?? 0);
}

function lastCharacter(text: string): string {
  return Array.from(text).at(-1) ?? '';
}
