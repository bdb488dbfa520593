/**
 * Multiple-choice questions as records of a file have them, turned into what lm-evaluation-harness scores: each choice's
 * continuation after its context. The prompts are those of its tasks `arc_easy`, `piqa`, `winogrande` and `mmlu`.
 * @source lm_eval 0.4.13: tasks/{arc,piqa,winogrande,mmlu}, api/task.py (`target_delimiter` " ", `fewshot_delimiter` "\n\n")
 */
import { InputError } from '../errors.ts';
import { describeJson, isJsonObject } from '../formats/json.ts';
import type { JsonObject } from '../formats/json.ts';

export interface Question {
  /** Of each choice. */
  readonly requests: readonly { readonly context: string; readonly continuation: string }[];
  /** Characters (code points) of each choice, by which `acc_norm` divides. */
  readonly lengths: readonly number[];
  /** Index of the right choice. */
  readonly answer: number;
  readonly place: Place;
}

export interface Place {
  /** Of the file, within its dataset. */
  readonly path: string;
  /** Counted from 1. */
  readonly line: number;
}

/** A kind of record, known by a field that no other kind has. */
interface RecordShape {
  readonly field: string;
  readonly description: string;
  read(record: Fields): Question;
}

const recordShapes: readonly RecordShape[] = [
  {
    field: 'question',
    description: 'question, choices and answer',
    read: (record) => asked(record, questionPrompt(record.text('question')), 'answer'),
  },
  {
    field: 'context',
    description: 'context (taken as it is), choices and answer',
    read: (record) => asked(record, record.text('context'), 'answer'),
  },
  {
    field: 'query',
    description: 'query, choices and gold',
    read: (record) => asked(record, queryPrompt(record.text('query')), 'gold'),
  },
  {
    field: 'context_options',
    description: 'context_options, continuation and gold',
    // Partial evaluation (Trinh & Le 2018): the choice stands in the context, and what follows is the same for all.
    read(record) {
      const contexts = record.texts('context_options');
      const continuation = ` ${strip(record.text('continuation'))}`;
      const requests = contexts.map((context) => ({ context, continuation }));
      return {
        requests,
        lengths: contexts.map(characters),
        answer: record.answer('gold', contexts),
        place: record.place,
      };
    },
  },
];

/** @param record one line of JSON   @throws InputError `invalid_task` naming the field */
export function readQuestion(record: unknown, place: Place): Question {
  if (!isJsonObject(record)) throw invalidTask(place, `is ${describeJson(record)}; it must be a JSON object`);
  const shapes = recordShapes.filter(({ field }) => field in record);
  if (shapes.length === 1) return shapes[0].read(new Fields(record, place));
  const fields = Object.keys(record).slice(0, 8).join(', ') || 'no fields';
  const known = recordShapes.map(({ description }) => description).join('; or ');
  throw invalidTask(place, `has ${fields}. A question has ${known}`);
}

/** The prompt of lm-evaluation-harness's tasks `arc_easy` and `piqa`. */
function questionPrompt(question: string): string {
  return `Question: ${question}\nAnswer:`;
}

/** Published files (llm-foundry's) leave the end of `questionPrompt` to the program that reads them. */
function queryPrompt(query: string): string {
  return query.startsWith('Question: ') && !query.endsWith('Answer:') ? `${query}\nAnswer:` : query;
}

function asked(record: Fields, context: string, answerField: string): Question {
  const choices = record.texts('choices');
  const requests = choices.map((choice) => ({ context, continuation: ` ${choice}` }));
  return {
    requests,
    lengths: choices.map(characters),
    answer: record.answer(answerField, choices),
    place: record.place,
  };
}

const letters = ['A', 'B', 'C', 'D'] as const;

/** A row of one of MMLU's files: a question, four choices, and the right one's letter or index. */
export interface MmluRow {
  readonly question: string;
  readonly choices: readonly string[];
  readonly answer: number;
  readonly place: Place;
}

/** @throws InputError `invalid_task` naming the cell */
export function readMmluRow(cells: readonly string[], place: Place): MmluRow {
  if (cells.length !== 2 + letters.length) {
    throw invalidTask(place, `has ${cells.length} cells; a row of MMLU has 6: the question, four choices, the answer`);
  }
  const [question, ...choices] = cells.slice(0, -1);
  const cell = cells[cells.length - 1];
  const answer = letters.findIndex((letter, index) => cell === letter || cell === String(index));
  if (answer < 0) {
    throw invalidTask(
      place,
      `has the answer ${describeJson(cell)}; it must be a letter from A to D, or an index from 0 to 3`,
    );
  }
  if (strip(question) === '') throw invalidTask(place, 'has no question; its first cell is empty');
  return { question, choices, answer, place };
}

/** @param subject as in the file's name, with underscores   @param examples shown with their answers before the question */
export function mmluQuestion(row: MmluRow, subject: string, examples: readonly MmluRow[]): Question {
  const about = subject.replaceAll('_', ' ');
  const introduction = `The following are multiple choice questions (with answers) about ${about}.\n\n`;
  const shown = examples.map((example) => `${mmluPrompt(example)} ${letters[example.answer]}\n\n`).join('');
  const context = introduction + shown + mmluPrompt(row);
  return {
    requests: letters.map((letter) => ({ context, continuation: ` ${letter}` })),
    lengths: letters.map(characters),
    answer: row.answer,
    place: row.place,
  };
}

function mmluPrompt({ question, choices }: MmluRow): string {
  const lines = choices.map((choice, index) => `${letters[index]}. ${choice}`);
  return [strip(question), ...lines, 'Answer:'].join('\n');
}

/** Reads fields of a record that comes from a user's file. */
class Fields {
  constructor(
    private readonly record: JsonObject,
    readonly place: Place,
  ) {}

  text(name: string): string {
    const value = this.record[name];
    if (typeof value === 'string' && strip(value) !== '') return value;
    throw invalidTask(this.place, `has ${describeJson(value)} as ${name}; it must be a text that is not empty`);
  }

  /** At least two. */
  texts(name: string): string[] {
    const value = this.record[name];
    const isText = (choice: unknown): choice is string => typeof choice === 'string' && choice !== '';
    if (Array.isArray(value) && value.length >= 2 && value.every(isText)) return value;
    throw invalidTask(
      this.place,
      `has ${describeJson(value)} as ${name}; it must be an array of at least two texts, none empty`,
    );
  }

  /** An index into the choices, or the text of one. */
  answer(name: string, choices: readonly string[]): number {
    const value = this.record[name];
    const index = typeof value === 'number' ? value : choices.findIndex((choice) => choice === value);
    if (Number.isInteger(index) && index >= 0 && index < choices.length) return index;
    throw invalidTask(
      this.place,
      `has ${describeJson(value)} as ${name}; it must be the index of a choice, 0 to ${choices.length - 1}, or its text`,
    );
  }
}

export function invalidTask({ path, line }: Place, what: string): InputError {
  return new InputError('invalid_task', `Line ${line} of ${path} ${what}.`, path);
}

function characters(text: string): number {
  return Array.from(text).length;
}

const space = '[\\t-\\r\\u001c- \\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]';
const trailingSpace = new RegExp(`${space}+$`);
const leadingSpace = new RegExp(`^${space}+`);

/** White space as Python's `str.strip` has it, which is not quite what JavaScript's `trim` has. */
export function strip(text: string): string {
  return stripEnd(text).replace(leadingSpace, '');
}

/** Python's `str.rstrip`. */
export function stripEnd(text: string): string {
  return text.replace(trailingSpace, '');
}
