/**
 * What a line of `.jsonl`, an element of a JSON array or a row of Parquet says: a text, or a conversation in one of the
 * layouts that published sets use. A record has the first layout of the table below whose fields it has.
 */
import { InputError } from '../errors.ts';
import type { ChatMessage } from '../formats/chat-template.ts';
import { describeJson, isJsonObject } from '../formats/json.ts';
import type { JsonObject } from '../formats/json.ts';
import { splitDocuments } from './separator.ts';

export type Document = TextDocument | Conversation;

export interface TextDocument {
  readonly kind: 'text';
  readonly text: string;
}

export interface Conversation {
  readonly kind: 'conversation';
  /** At least one. */
  readonly messages: readonly ChatMessage[];
  readonly tools: readonly JsonObject[] | null;
  readonly place: Place;
}

/** Where a record stands, for errors: `line 3 of chat.jsonl`. */
export interface Place {
  readonly path: string;
  readonly unit: 'line' | 'record' | 'row';
  /** From 1 on. */
  readonly number: number;
}

export const describePlace = ({ unit, number, path }: Place): string => `${unit} ${number} of ${path}`;

interface Layout {
  readonly fields: readonly string[];
  readonly optional: readonly string[];
  read(record: JsonObject, place: Place): Document[];
}

const layouts: readonly Layout[] = [
  // OpenAI's and Hugging Face's.
  {
    fields: ['messages'],
    optional: ['tools'],
    read: (record, place) => conversation(messagesOf(record.messages, 'messages', place), record.tools, place),
  },
  // ShareGPT's.
  {
    fields: ['conversations'],
    optional: ['system', 'tools'],
    read: (record, place) => conversation(shareGptMessages(record, place), record.tools, place),
  },
  // MT-bench's: questions without answers, each a conversation of its own, since most templates want turns to alternate.
  {
    fields: ['turns'],
    optional: [],
    read: (record, place) =>
      listOf(record.turns, 'turns', place).flatMap((turn) =>
        conversation([{ role: 'user', content: stringOf(turn, 'turns', place) }], null, place),
      ),
  },
  {
    fields: ['prompt', 'completion'],
    optional: ['tools'],
    read(record, place) {
      const messages = (['prompt', 'completion'] as const).flatMap((field) =>
        Array.isArray(record[field])
          ? messagesOf(record[field], field, place)
          : [{ role: field === 'prompt' ? 'user' : 'assistant', content: stringOf(record[field], field, place) }],
      );
      return conversation(messages, record.tools, place);
    },
  },
  // Alpaca's.
  {
    fields: ['instruction', 'output'],
    optional: ['input', 'system'],
    read(record, place) {
      const input = optionalString(record, 'input', place);
      const instruction = stringOf(record.instruction, 'instruction', place);
      const messages = [
        { role: 'user', content: input === '' ? instruction : `${instruction}\n\n${input}` },
        { role: 'assistant', content: stringOf(record.output, 'output', place) },
      ];
      return conversation([...systemMessage(record, place), ...messages], null, place);
    },
  },
  { fields: ['text'], optional: [], read: (record, place) => texts(stringOf(record.text, 'text', place)) },
  { fields: ['content'], optional: [], read: (record, place) => texts(stringOf(record.content, 'content', place)) },
];

const readableFields = layouts.map(({ fields }) => fields.map((field) => `"${field}"`).join(' with ')).join(', ');

/**
 * The columns of a table to read, required ones first.
 * @param names all of the table's columns   @throws InputError `invalid_record` naming them when none can be read
 */
export function columnsToRead(names: readonly string[], path: string): string[] {
  const layout = layouts.find(({ fields }) => fields.every((field) => names.includes(field)));
  if (layout !== undefined) return [...layout.fields, ...layout.optional.filter((field) => names.includes(field))];
  throw new InputError(
    'invalid_record',
    `${path} has no column to read; it has ${nameSome(names.map(quoted))}. Read are ${readableFields}.`,
    path,
  );
}

/** @throws InputError `invalid_record` or `invalid_conversation` saying where and what the record holds */
export function documentsOf(record: unknown, place: Place): Document[] {
  if (isJsonObject(record)) {
    const layout = layouts.find(({ fields }) => fields.every((field) => (record[field] ?? null) !== null));
    if (layout !== undefined) return layout.read(record, place);
  }
  const found = isJsonObject(record) ? `has ${nameSome(fieldsOf(record))}` : `is ${describeJson(record)}`;
  throw new InputError(
    'invalid_record',
    `A record must be an object with ${readableFields}; ${describePlace(place)} ${found}.`,
    place.path,
  );
}

const fieldsOf = (record: JsonObject): string[] =>
  Object.entries(record).map(([name, value]) => quoted(name) + ((value ?? null) === null ? ' (null)' : ''));

const quoted = (name: string): string => JSON.stringify(name.slice(0, 40));

/** @param names quoted */
function nameSome(names: readonly string[]): string {
  if (names.length === 0) return 'none';
  const some = names.slice(0, 12);
  return some.join(', ') + (names.length > some.length ? ` and ${names.length - some.length} more` : '');
}

const texts = (text: string): TextDocument[] =>
  splitDocuments(text).map((document) => ({ kind: 'text', text: document }));

function conversation(messages: readonly ChatMessage[], tools: unknown, place: Place): Conversation[] {
  if (messages.length === 0) throw invalid(place, 'has no messages; it needs at least one');
  return [{ kind: 'conversation', messages, tools: toolsOf(tools, place), place }];
}

/** Messages in OpenAI's form; their other fields stay for templates that read them, null ones apart. */
function messagesOf(value: unknown, field: string, place: Place): ChatMessage[] {
  return listOf(value, field, place).map((message) => {
    if (!isJsonObject(message) || typeof message.role !== 'string') {
      throw invalid(place, `has ${describeJson(message)} among its ${field}; a message has a "role" and a "content"`);
    }
    const given = Object.fromEntries(Object.entries(message).filter(([, part]) => (part ?? null) !== null));
    const toolCalls = Array.isArray(given.tool_calls) ? { tool_calls: given.tool_calls.map(withParsedArguments) } : {};
    return { ...given, ...toolCalls, role: message.role, content: contentOf(message, field, place) };
  });
}

/** Text, or OpenAI's list of parts where all are text; a message that calls tools may have none. */
function contentOf(message: JsonObject, field: string, place: Place): string {
  const { content } = message;
  if (typeof content === 'string') return content;
  if ((content ?? null) === null && Array.isArray(message.tool_calls)) return '';
  if (Array.isArray(content)) {
    const parts = content.map((part: unknown) => (isJsonObject(part) && part.type === 'text' ? part.text : undefined));
    if (parts.every((part) => typeof part === 'string')) return parts.join('');
  }
  throw invalid(place, `has ${describeJson(content)} as a content in its ${field}; it must be text`);
}

/** OpenAI writes the arguments of a call as JSON in a string; templates expect the object. */
function withParsedArguments(call: unknown): unknown {
  if (!isJsonObject(call) || !isJsonObject(call.function)) return call;
  const parsed = parsedObject(call.function.arguments);
  return parsed === null ? call : { ...call, function: { ...call.function, arguments: parsed } };
}

const shareGptRoles: Readonly<Record<string, string>> = {
  human: 'user',
  user: 'user',
  gpt: 'assistant',
  chatgpt: 'assistant',
  assistant: 'assistant',
  function_call: 'assistant',
  system: 'system',
  tool: 'tool',
  function: 'tool',
  function_response: 'tool',
  observation: 'tool',
};

function shareGptMessages(record: JsonObject, place: Place): ChatMessage[] {
  const messages = listOf(record.conversations, 'conversations', place).map((turn): ChatMessage => {
    const [from, value] = isJsonObject(turn) ? [turn.from ?? turn.role, turn.value ?? turn.content] : [];
    if (typeof from !== 'string' || typeof value !== 'string') {
      throw invalid(place, `has ${describeJson(turn)} among its conversations; a turn has a "from" and a "value"`);
    }
    const role = Object.hasOwn(shareGptRoles, from) ? shareGptRoles[from] : undefined;
    if (role === undefined) {
      throw invalid(place, `has a turn from "${from}"; read are ${Object.keys(shareGptRoles).join(', ')}`);
    }
    const call = from === 'function_call' ? parsedObject(value) : null;
    if (call === null) return { role, content: value };
    return { role, content: '', tool_calls: [{ type: 'function', function: call }] };
  });
  return [...systemMessage(record, place), ...messages];
}

function systemMessage(record: JsonObject, place: Place): ChatMessage[] {
  const system = optionalString(record, 'system', place);
  return system === '' ? [] : [{ role: 'system', content: system }];
}

/** Descriptions of tools, as an array or as JSON in a string; a bare function is put in the form that templates expect. */
function toolsOf(value: unknown, place: Place): JsonObject[] | null {
  if ((value ?? null) === null || value === '') return null;
  const tools = typeof value === 'string' ? parsed(value) : value;
  if (!Array.isArray(tools) || !tools.every(isJsonObject)) {
    throw invalid(place, `has ${describeJson(value)} as "tools"; it must be an array of descriptions`);
  }
  if (tools.length === 0) return null;
  return tools.map((tool) => ('function' in tool ? tool : { type: 'function', function: tool }));
}

function parsedObject(value: unknown): JsonObject | null {
  const found = typeof value === 'string' ? parsed(value) : null;
  return isJsonObject(found) ? found : null;
}

/** @returns undefined for what is no JSON */
function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function listOf(value: unknown, field: string, place: Place): unknown[] {
  if (Array.isArray(value)) return value;
  throw invalid(place, `has ${describeJson(value)} as "${field}"; it must be an array`);
}

function stringOf(value: unknown, field: string, place: Place): string {
  if (typeof value === 'string') return value;
  throw new InputError(
    'invalid_record',
    `"${field}" must be a string; in ${describePlace(place)} it is ${describeJson(value)}.`,
    place.path,
  );
}

const optionalString = (record: JsonObject, field: string, place: Place): string =>
  (record[field] ?? null) === null ? '' : stringOf(record[field], field, place);

function invalid(place: Place, what: string): InputError {
  return new InputError(
    'invalid_conversation',
    `The conversation of ${describePlace(place)} ${what}. Correct it or take it out.`,
    place.path,
  );
}
