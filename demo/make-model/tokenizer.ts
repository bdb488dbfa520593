/** A byte-level BPE trainer that writes Hugging Face `tokenizer.json`.
 *  Follows GPT-2's `encoder.py` (byte alphabet, split pattern) and the `BpeTrainer` of Hugging Face `tokenizers` (ids:
 *  special tokens, then the alphabet in code point order, then merges; ties go to the lower pair of ids), so both
 *  trainers learn the same merges. It only trains: encoding is `@huggingface/tokenizers` or Python `tokenizers`. */

/** The special tokens, ids 0 and 1. */
export const BOS_TOKEN = '<|bos|>';
export const EOS_TOKEN = '<|eos|>';
const SPECIAL_TOKENS: readonly string[] = [BOS_TOKEN, EOS_TOKEN];

/** GPT-2's split pattern; the same one `ByteLevel` applies when `use_regex` is true. */
const SPLIT_PATTERN = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly single_word: boolean;
  readonly lstrip: boolean;
  readonly rstrip: boolean;
  readonly normalized: boolean;
  readonly special: boolean;
}

interface ByteLevel {
  readonly type: 'ByteLevel';
  readonly add_prefix_space: boolean;
  readonly trim_offsets: boolean;
  readonly use_regex: boolean;
}

type TemplatePiece =
  | { readonly SpecialToken: { readonly id: string; readonly type_id: number } }
  | { readonly Sequence: { readonly id: 'A' | 'B'; readonly type_id: number } };

/** The part of the `tokenizer.json` format that a byte-level BPE model uses. */
export interface TokenizerJson {
  readonly version: '1.0';
  readonly truncation: null;
  readonly padding: null;
  readonly added_tokens: readonly AddedToken[];
  readonly normalizer: null;
  readonly pre_tokenizer: ByteLevel;
  readonly post_processor: {
    readonly type: 'TemplateProcessing';
    readonly single: readonly TemplatePiece[];
    readonly pair: readonly TemplatePiece[];
    readonly special_tokens: Readonly<
      Record<string, { readonly id: string; readonly ids: readonly number[]; readonly tokens: readonly string[] }>
    >;
  };
  readonly decoder: ByteLevel;
  readonly model: {
    readonly type: 'BPE';
    readonly dropout: null;
    readonly unk_token: null;
    readonly continuing_subword_prefix: null;
    readonly end_of_word_suffix: null;
    readonly fuse_unk: boolean;
    readonly byte_fallback: boolean;
    readonly ignore_merges: boolean;
    readonly vocab: Readonly<Record<string, number>>;
    readonly merges: readonly string[];
  };
}

/** The `tokenizer_config.json` beside it. */
export interface TokenizerConfig {
  readonly tokenizer_class: 'PreTrainedTokenizerFast';
  readonly bos_token: string;
  readonly eos_token: string;
  readonly add_bos_token: boolean;
  readonly add_eos_token: boolean;
  readonly clean_up_tokenization_spaces: boolean;
}

/** Trains byte-level BPE and returns the whole tokenizer, which puts <|bos|> before every text as Llama does.
 *  @param vocabSize tokens in all: 2 special, 256 bytes, the rest merges
 *  @throws RangeError when `vocabSize` is not an integer of at least 258, or `text` has too few pairs to fill it
 *  @source openai/gpt-2 src/encoder.py; huggingface/tokenizers models/bpe/trainer.rs */
export function trainBpe(text: string, vocabSize: number): TokenizerJson {
  const byteSymbols = byteToUnicode();
  const tokens = [...SPECIAL_TOKENS, ...[...byteSymbols].sort()];
  if (!Number.isInteger(vocabSize) || vocabSize < tokens.length) {
    throw new RangeError(
      `vocabSize is ${vocabSize}; it must be an integer of at least ${tokens.length} (special tokens and bytes).`,
    );
  }
  const idOfSymbol = new Map(tokens.map((token, id) => [token, id]));
  const idOfByte = byteSymbols.map((symbol) => idOfSymbol.get(symbol) as number);
  const merges = learnMerges(countWords(text, idOfByte), tokens, vocabSize);
  return tokenizerJson(tokens, merges);
}

/** Returns `tokenizer_config.json` for a tokenizer of `trainBpe`. */
export function tokenizerConfig(): TokenizerConfig {
  return {
    tokenizer_class: 'PreTrainedTokenizerFast',
    bos_token: BOS_TOKEN,
    eos_token: EOS_TOKEN,
    add_bos_token: true,
    add_eos_token: false,
    clean_up_tokenization_spaces: false,
  };
}

/** Returns the printable character that stands for each of the 256 bytes: itself, or 256 upwards for the unprintable ones.
 *  @source openai/gpt-2 src/encoder.py, bytes_to_unicode */
export function byteToUnicode(): string[] {
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const isPrintable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    return String.fromCodePoint(isPrintable ? byte : next++);
  });
}

/** A distinct piece of the text: how often it occurs, and its ids as merged so far. */
interface Word {
  readonly count: number;
  ids: number[];
}

function countWords(text: string, idOfByte: readonly number[]): Word[] {
  const counts = new Map<string, number>();
  for (const [piece] of text.matchAll(SPLIT_PATTERN)) counts.set(piece, (counts.get(piece) ?? 0) + 1);
  const encoder = new TextEncoder();
  return [...counts].map(([piece, count]) => ({
    count,
    ids: Array.from(encoder.encode(piece), (byte) => idOfByte[byte] as number),
  }));
}

/** An adjacent pair of ids: its number of occurrences, and the words it is or has been in. */
interface Pair {
  readonly left: number;
  readonly right: number;
  count: number;
  readonly words: Set<Word>;
}

/** Merges the most frequent pair until `tokens` holds `vocabSize`; appends to `tokens` and returns the merges in order.
 *  Pair counts are kept up to date by visiting only the words that hold the merged pair. */
function learnMerges(words: readonly Word[], tokens: string[], vocabSize: number): string[] {
  const pairs = new Map<number, Pair>();
  const addCounts = (word: Word, change: number): void => {
    for (let i = 0; i + 1 < word.ids.length; i++) {
      const left = word.ids[i] as number;
      const right = word.ids[i + 1] as number;
      const key = left * vocabSize + right;
      let pair = pairs.get(key);
      if (!pair) pairs.set(key, (pair = { left, right, count: 0, words: new Set() }));
      pair.count += change;
      if (change > 0) pair.words.add(word);
    }
  };
  for (const word of words) addCounts(word, word.count);

  const merges: string[] = [];
  const idOfToken = new Map(tokens.map((token, id) => [token, id]));
  while (tokens.length < vocabSize) {
    const best = mostFrequent(pairs.values());
    if (!best) {
      throw new RangeError(
        `The text fills only ${tokens.length} of ${vocabSize} tokens; give more text or a smaller vocabSize.`,
      );
    }
    const leftToken = tokens[best.left] as string;
    const rightToken = tokens[best.right] as string;
    const merged = leftToken + rightToken;
    const mergedId = idOfToken.get(merged) ?? tokens.push(merged) - 1; // two merges may spell one token
    idOfToken.set(merged, mergedId);
    merges.push(`${leftToken} ${rightToken}`);
    for (const word of best.words) {
      addCounts(word, -word.count);
      word.ids = mergePair(word.ids, best.left, best.right, mergedId);
      addCounts(word, word.count);
    }
    pairs.delete(best.left * vocabSize + best.right);
  }
  return merges;
}

/** Returns the pair with the highest count; the lower left id, then the lower right id, wins a tie. */
function mostFrequent(pairs: Iterable<Pair>): Pair | undefined {
  let best: Pair | undefined;
  for (const pair of pairs) {
    if (pair.count <= 0) continue;
    if (
      !best ||
      pair.count > best.count ||
      (pair.count === best.count && (pair.left < best.left || (pair.left === best.left && pair.right < best.right)))
    ) {
      best = pair;
    }
  }
  return best;
}

/** Replaces each occurrence of the pair, from the left. */
function mergePair(ids: readonly number[], left: number, right: number, mergedId: number): number[] {
  const out: number[] = [];
  for (let i = 0; i < ids.length; i++) {
    if (ids[i] === left && ids[i + 1] === right) {
      out.push(mergedId);
      i++;
    } else {
      out.push(ids[i] as number);
    }
  }
  return out;
}

function tokenizerJson(tokens: readonly string[], merges: readonly string[]): TokenizerJson {
  const byteLevel: ByteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true };
  const bos = (typeId: number): TemplatePiece => ({ SpecialToken: { id: BOS_TOKEN, type_id: typeId } });
  const sequence = (id: 'A' | 'B', typeId: number): TemplatePiece => ({ Sequence: { id, type_id: typeId } });
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: SPECIAL_TOKENS.map((content, id) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: {
      type: 'TemplateProcessing',
      single: [bos(0), sequence('A', 0)],
      pair: [bos(0), sequence('A', 0), bos(1), sequence('B', 1)],
      special_tokens: {
        [BOS_TOKEN]: { id: BOS_TOKEN, ids: [SPECIAL_TOKENS.indexOf(BOS_TOKEN)], tokens: [BOS_TOKEN] },
      },
    },
    decoder: byteLevel,
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges,
    },
  };
}
