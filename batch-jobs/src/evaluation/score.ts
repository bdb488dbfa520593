/**
 * Scores of multiple-choice tasks as lm-evaluation-harness computes them: the log-likelihood of each choice's continuation
 * after its context; `acc` takes the likeliest choice, `acc_norm` the likeliest per character of the choice.
 *
 * The same: how pairs are split into tokens, BOS, contexts that are too long lose their beginning, the first of equals wins,
 * no chat template. Not here: `acc_norm`'s sibling by bytes, and one run for choices of one token after the same context.
 * @source lm_eval 0.4.13: `_encode_pair` of api/model.py, `_loglikelihood_tokens` of models/huggingface.py, `process_results`
 *   of api/task.py, `mean_stderr` of api/metrics.py; its documentation says bytes, its code divides by `len` of the string
 */
import type { TaskScore } from 'cherryq/contract';
import type { DecoderConfig } from '../models/decoder-config.ts';
import { Decoder } from '../models/decoder.ts';
import type { WeightSource } from '../models/decoder.ts';
import { cacheHolds } from '../models/rope.ts';
import type { Tokenizer } from '../formats/tokenizer.ts';
import { refuseLosses, tokensInHost, windowsAtOnce } from './losses.ts';
import type { Question } from './questions.ts';
import { invalidTask, stripEnd } from './questions.ts';
import type { Task } from './tasks.ts';

/** Tokens of questions that are sorted by length together; bounds what is in memory whatever the number of questions. */
const tokensInChunk = 2 ** 20;
/** A pass as large as this costs more time than reading the model's weights once, so what is much shorter gets its own. */
const worthwhilePass = 8192;
/** Of the longest window of a pass. */
const muchShorter = 0.75;

/** A choice in its context. */
interface Window {
  readonly ids: Int32Array;
  /** Tokens at the end that count. */
  readonly scored: number;
  /** Where the log-likelihood belongs. */
  readonly into: number[];
  readonly choice: number;
}

/**
 * @param onProgress share done, 0 to 1
 * @throws InputError `invalid_task` for a question that cannot be scored, `not_finite` when the model's losses are not
 */
export async function scoreTask(
  config: DecoderConfig,
  weights: WeightSource,
  tokenizer: Tokenizer,
  { name, questions }: Task,
  onProgress: (fraction: number) => void = () => {},
): Promise<TaskScore> {
  const all = await choiceLogLikelihoods(config, weights, tokenizer, questions, onProgress);
  const hits = questions.map(({ answer, lengths }, index) => ({
    plain: likeliest(all[index]) === answer,
    byLength: likeliest(all[index].map((value, choice) => value / lengths[choice])) === answer,
  }));
  const count = questions.length;
  const acc = hits.filter(({ plain }) => plain).length / count;
  return {
    name,
    questions: count,
    acc,
    accNorm: hits.filter(({ byLength }) => byLength).length / count,
    // The sample's standard deviation over the root of its size, which for hits and misses comes to this.
    accStderr: Math.sqrt((acc * (1 - acc)) / (count - 1)),
  };
}

/** @returns of each question, of each choice: log p(continuation | context), in nats; throws as `scoreTask` does */
export async function choiceLogLikelihoods(
  config: DecoderConfig,
  weights: WeightSource,
  tokenizer: Tokenizer,
  questions: readonly Question[],
  onProgress: (fraction: number) => void = () => {},
): Promise<number[][]> {
  const decoder = new Decoder(config, weights);
  const results = questions.map(({ requests }) => new Array<number>(requests.length).fill(0));
  for (let from = 0; from < questions.length;) {
    const chunk: Window[] = [];
    let tokens = 0;
    let until = from;
    while (until < questions.length && tokens < tokensInChunk) {
      for (const window of windowsOf(questions[until], tokenizer, config.maxPositionEmbeddings, results[until])) {
        chunk.push(window);
        tokens += window.ids.length;
      }
      until++;
    }
    let done = 0;
    for (const pass of passesOf(chunk, config)) {
      const inPass = pass.reduce((sum, { ids }) => sum + ids.length, 0);
      await scorePass(decoder, pass, (share) =>
        onProgress((from + ((until - from) * (done + inPass * share)) / tokens) / questions.length),
      );
      done += inPass;
    }
    from = until;
  }
  return results;
}

/** @param into where the log-likelihoods of the question's choices go */
function windowsOf(question: Question, tokenizer: Tokenizer, maxPositions: number, into: number[]): Window[] {
  const contexts = new Map<string, Int32Array>();
  return question.requests.map(({ context, continuation }, choice) => {
    // White space at the context's end goes to the continuation, for tokens begin with it.
    const before = stripEnd(context);
    const whole = encode(tokenizer, context + continuation);
    const first = contexts.get(before) ?? encode(tokenizer, before);
    contexts.set(before, first);
    // The context's own tokens, even where the whole text would split differently at the border.
    const scored = whole.length - first.length;
    if (first.length === 0 || scored <= 0 || scored > maxPositions) {
      const allowed = `it must have at least one, and at most the ${maxPositions} of the model's context`;
      throw invalidTask(question.place, `has a choice, number ${choice}, of ${Math.max(0, scored)} tokens; ${allowed}`);
    }
    const ids = new Int32Array(whole.length);
    ids.set(first);
    ids.set(whole.subarray(first.length), first.length);
    // The last token is only predicted, so one more than the model's positions fits.
    return { ids: ids.slice(-(maxPositions + 1)), scored, into, choice };
  });
}

/** With what the tokenizer's template puts before a text; a text that begins with BOS gets no second one. */
function encode(tokenizer: Tokenizer, text: string): Int32Array {
  const { bosTokenId } = tokenizer;
  const ids = tokenizer.encode(text, { addSpecialTokens: bosTokenId !== null });
  return bosTokenId !== null && ids[0] === bosTokenId && ids[1] === bosTokenId ? ids.subarray(1) : ids;
}

/** Windows that go through the model together, the longest first. */
function* passesOf(windows: readonly Window[], config: DecoderConfig): Generator<Window[]> {
  let pass: Window[] = [];
  for (const window of [...windows].sort((a, b) => b.ids.length - a.ids.length)) {
    const longest = (pass[0] ?? window).ids.length;
    const padded = pass.length * longest;
    const full = padded + longest > tokensInHost;
    const uneven = padded >= worthwhilePass && window.ids.length < muchShorter * longest;
    // Some models turn positions by other angles in long texts: padding must not make a long one of a short one.
    const alike = cacheHolds(config, window.ids.length - 1, longest - 1);
    if (pass.length > 0 && (full || uneven || !alike)) {
      yield pass;
      pass = [];
    }
    pass.push(window);
  }
  if (pass.length > 0) yield pass;
}

/** Windows are padded on the right, where nothing that counts can see it. */
async function scorePass(decoder: Decoder, pass: readonly Window[], onShare: (share: number) => void): Promise<void> {
  const { length } = pass[0].ids;
  const padded = pass.map(({ ids }) => {
    const window = new Int32Array(length);
    window.set(ids);
    return window;
  });
  const losses = await decoder.losses(padded, windowsAtOnce(length), (done, total) => onShare(done / total));
  for (const [index, { ids, scored, into, choice }] of pass.entries()) {
    const end = index * (length - 1) + ids.length - 1;
    const sum = losses.subarray(end - scored, end).reduce((total, loss) => total + loss, 0);
    if (!Number.isFinite(sum)) await refuseLosses(decoder, ids);
    into[choice] = -sum;
  }
}

/** The first of equals, as NumPy's argmax. */
function likeliest(values: readonly number[]): number {
  return values.indexOf(Math.max(...values));
}
