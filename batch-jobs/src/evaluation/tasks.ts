/**
 * Multiple-choice tasks: datasets of questions in JSON lines (`questions.ts` names the fields), or MMLU's files,
 * `<subject>_test.csv`, with `<subject>_dev.csv` as examples where they are there.
 */
import { InputError, messageOf } from '../errors.ts';
import { describeJson } from '../formats/json.ts';
import type { Store, StoredObject } from '../storage/store.ts';
import { csvRows } from './csv.ts';
import type { MmluRow, Question } from './questions.ts';
import { invalidTask, mmluQuestion, readMmluRow, readQuestion } from './questions.ts';

export interface Task {
  readonly name: string;
  readonly questions: readonly Question[];
}

/** Of all files of a task; MMLU has 7 MB. */
const maxTaskBytes = 2 ** 26;
/** A standard error needs two. */
const minQuestions = 2;

/**
 * @param prefix of the dataset's files, ending in a slash   @param maxQuestions taken from the start, files in order of their
 * paths; undefined: all
 * @throws InputError naming file, line and field: `invalid_task`, `invalid_csv`, or that there are no, or too large, files
 */
export async function openTask(
  store: Store,
  prefix: string,
  name: string,
  maxQuestions: number | undefined,
): Promise<Task> {
  const files = await filesUnder(store, prefix);
  const sizeBytes = files.reduce((sum, file) => sum + file.sizeBytes, 0);
  if (sizeBytes > maxTaskBytes) {
    throw new InputError(
      'task_too_large',
      `The task ${name} has ${sizeBytes} bytes; at most ${maxTaskBytes} are read. Give fewer questions.`,
      name,
    );
  }
  const texts = new Map<string, string>();
  for (const { key } of files)
    texts.set(key.slice(prefix.length), await readText(store, key, key.slice(prefix.length)));
  const questions: Question[] = [];
  for (const question of allQuestions(texts)) {
    if (questions.length === maxQuestions) break;
    questions.push(question);
  }
  if (questions.length < minQuestions) {
    throw new InputError(
      'too_few_questions',
      `The task ${name} has ${questions.length} questions${maxQuestions === undefined ? '' : `, of which ${maxQuestions} were asked for`}; ` +
        `a score with its standard error takes at least ${minQuestions}.`,
      name,
    );
  }
  return { name, questions };
}

async function filesUnder(store: Store, prefix: string): Promise<StoredObject[]> {
  const files: StoredObject[] = [];
  for (let after: string | undefined; ;) {
    const page = await store.list(prefix, { after });
    files.push(...page);
    after = page.at(-1)?.key;
    if (after === undefined) return files;
  }
}

async function readText(store: Store, key: string, path: string): Promise<string> {
  const bytes = await store.get(key, { start: 0, end: maxTaskBytes });
  if (bytes === null) throw new Error(`${key} was deleted while its folder was being read.`);
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new InputError('invalid_task', `${path} is not text in UTF-8. It may be damaged; copy it again.`, path, {
      cause,
    });
  }
}

/** @param texts of the files, by path, ascending */
function* allQuestions(texts: ReadonlyMap<string, string>): Generator<Question> {
  const examples = new Map<string, MmluRow[]>();
  for (const [path, text] of texts) {
    const subject = mmluSubject(path, 'dev');
    if (subject !== null) examples.set(subject, [...mmluRows(text, path)]);
  }
  for (const [path, text] of texts) {
    if (/\.(jsonl|ndjson)$/.test(path)) {
      yield* lineQuestions(text, path);
      continue;
    }
    const subject = mmluSubject(path, 'test');
    if (subject !== null) {
      for (const row of mmluRows(text, path)) yield mmluQuestion(row, subject, examples.get(subject) ?? []);
    } else if (mmluSubject(path, 'dev') === null) {
      throw new InputError(
        'unknown_task_file',
        `${path} is no file of a task. Give questions in JSON lines (.jsonl), or MMLU's <subject>_test.csv, if wanted with <subject>_dev.csv.`,
        path,
      );
    }
  }
}

function* lineQuestions(text: string, path: string): Generator<Question> {
  let line = 0;
  for (const content of text.split('\n')) {
    line++;
    if (content.trim() === '') continue;
    let record: unknown;
    try {
      record = JSON.parse(content);
    } catch (cause) {
      throw invalidTask({ path, line }, `is not JSON (${messageOf(cause)}); it is ${describeJson(content.trim())}`);
    }
    yield readQuestion(record, { path, line });
  }
}

/** @returns the subject that a file of MMLU's holds, from its name; null for any other file */
function mmluSubject(path: string, split: 'dev' | 'test'): string | null {
  return new RegExp(`(?:^|/)([^/]+)_${split}\\.csv$`).exec(path)?.[1] ?? null;
}

/** The original files have no header, those from Hugging Face's viewer have one. */
function* mmluRows(text: string, path: string): Generator<MmluRow> {
  for (const { cells, line } of csvRows(text, path)) {
    if (line === 1 && cells[0] === 'question' && cells.at(-1) === 'answer') continue;
    yield readMmluRow(cells, { path, line });
  }
}
