/**
 * The chat template of a model: conversations as the text that the model was trained on, as transformers'
 * `apply_chat_template(tokenize=False)` writes it. The Jinja is run by @huggingface/jinja.
 *
 * A template comes with the model and is trusted no more than its other files: it reaches nothing but the conversation, and
 * its work is counted, so a loop without end is an error on every machine alike. It has no clock: a job's result must not
 * depend on the day it runs, so `strftime_now` gives the day that Llama 3's template falls back to.
 */
import { Environment, Interpreter, Template } from '@huggingface/jinja';
import { InputError, messageOf } from '../errors.ts';
import type { Store } from '../storage/store.ts';
import { describeJson, isJsonObject, readJsonObject } from './json.ts';
import type { JsonObject } from './json.ts';
import { maxTokenizerConfigBytes, readSpecialTokens } from './special-tokens.ts';

/** A message in OpenAI's form; other fields are there for templates that read them. */
export interface ChatMessage extends JsonObject {
  readonly role: string;
  readonly content: string;
}

export interface ChatTemplate {
  /**
   * The conversation as text, special tokens included: encode it without adding any.
   * @param place names the conversation in errors, such as `line 3 of chat.jsonl`
   * @throws InputError `chat_template_failed` when the template refuses the conversation, fails, or goes on too long
   */
  render(messages: readonly ChatMessage[], tools: readonly JsonObject[] | null, place: string): string;
}

const templateFile = 'chat_template.jinja';
const namedTemplates = 'additional_chat_templates/';
/** Real ones have up to about 20,000; the lexer's time grows with the square of a run of white space. */
const maxTemplateLength = 2 ** 17;

/**
 * Reads the template from where models keep it: `chat_template.jinja` with `additional_chat_templates/`, else
 * `tokenizer_config.json`, else `chat_template.json`.
 * @param prefix ends in a slash, or is empty   @returns null for a model without one
 * @throws InputError when a file is damaged, or none of several templates is the default
 */
export async function openChatTemplate(store: Store, prefix: string): Promise<ChatTemplate | null> {
  const config = (await readJsonObject(store, `${prefix}tokenizer_config.json`, maxTokenizerConfigBytes)) ?? {};
  const named = await templateFiles(store, prefix);
  let source = prefix + templateFile;
  if (named.size === 0) {
    let found: unknown = config.chat_template;
    source = `${prefix}tokenizer_config.json`;
    if ((found ?? null) === null) {
      source = `${prefix}chat_template.json`;
      found = (await readJsonObject(store, source, maxTokenizerConfigBytes))?.chat_template;
    }
    if ((found ?? null) === null) return null;
    for (const [name, template] of templatesIn(found, source)) named.set(name, template);
  }
  const standard = named.get('default');
  if (standard === undefined) {
    throw invalidTemplate(source, `has the templates ${[...named.keys()].join(', ')}, but none named default`);
  }
  // A token that the model does not have is no variable, as in transformers.
  const given = [...(await readSpecialTokens(store, prefix, config))].filter(([, token]) => token !== null);
  const specialTokens = Object.fromEntries(given);
  const forTools = named.get('tool_use') ?? standard;
  const compiled = new Map<string, Template>();
  return {
    render(messages, tools, place) {
      const text = tools === null ? standard : forTools;
      let template = compiled.get(text);
      if (template === undefined) compiled.set(text, (template = compile(text, source)));
      const shown = text.includes('tool_calls') ? messages : messages.map(withCallsAsText);
      return run(template, { ...specialTokens, messages: shown, tools, documents: null }, place);
    },
  };
}

async function templateFiles(store: Store, prefix: string): Promise<Map<string, string>> {
  const templates = new Map<string, string>();
  const read = async (name: string, key: string): Promise<void> => {
    const bytes = await store.get(key, { start: 0, end: 4 * maxTemplateLength });
    if (bytes === null) return;
    try {
      templates.set(name, checkedLength(new TextDecoder('utf-8', { fatal: true }).decode(bytes), key));
    } catch (cause) {
      if (cause instanceof InputError) throw cause;
      throw invalidTemplate(key, 'is not text in UTF-8', { cause });
    }
  };
  await read('default', prefix + templateFile);
  for (const { key } of await store.list(prefix + namedTemplates)) {
    const name = /^([^/]+)\.jinja$/.exec(key.slice(prefix.length + namedTemplates.length))?.[1];
    if (name !== undefined) await read(name, key);
  }
  return templates;
}

/** One template, or a list of `{name, template}`. */
function templatesIn(found: unknown, source: string): [string, string][] {
  const list = typeof found === 'string' ? [{ name: 'default', template: found }] : found;
  if (Array.isArray(list)) {
    return list.map((entry: unknown) => {
      if (isJsonObject(entry) && typeof entry.name === 'string' && typeof entry.template === 'string') {
        return [entry.name, checkedLength(entry.template, source)];
      }
      throw invalidTemplate(
        source,
        `has ${describeJson(entry)} among its templates; each has a "name" and a "template"`,
      );
    });
  }
  throw invalidTemplate(source, `has ${describeJson(found)} as chat_template; it is a text or a list of named ones`);
}

function checkedLength(template: string, source: string): string {
  if (template.length <= maxTemplateLength) return template;
  throw invalidTemplate(source, `has a template of more than ${maxTemplateLength} characters`);
}

function invalidTemplate(source: string, what: string, options: ErrorOptions = {}): InputError {
  return new InputError(
    'invalid_chat_template',
    `The model's chat template cannot be used: ${source} ${what}. Correct it, or give text in place of conversations.`,
    source,
    options,
  );
}

function compile(text: string, source: string): Template {
  try {
    return new Template(text);
  } catch (cause) {
    throw invalidTemplate(source, `is not valid (${messageOf(cause)})`, { cause });
  }
}

/** For templates that know no tools: calls as the assistant's words, so that they are not lost. */
function withCallsAsText(message: ChatMessage): ChatMessage {
  const { tool_calls: calls, ...rest } = message;
  if (!Array.isArray(calls) || message.content !== '') return message;
  const texts = calls.map((call: unknown) => JSON.stringify(isJsonObject(call) ? (call.function ?? call) : call));
  return { ...rest, role: message.role, content: texts.join('\n') };
}

class Refusal extends Error {}
class Excess extends Error {}

/** Steps of the interpreter, and of a loop, weigh as much as so many characters that pass through it. */
const stepWeight = 32;
const iterationWeight = 128;
const budget = 2 ** 26;
/** Real templates handle each character of a conversation some tens of times. */
const budgetPerCharacter = 256;

function run(template: Template, variables: Record<string, unknown>, place: string): string {
  const environment = new Environment();
  for (const [name, value] of Object.entries({ ...globals, ...variables, add_generation_prompt: false })) {
    environment.set(name, value);
  }
  const size = JSON.stringify(variables).length;
  try {
    return String(new MeteredInterpreter(environment, budget + budgetPerCharacter * size).run(template.parsed).value);
  } catch (cause) {
    let what = `fails on ${place} (${messageOf(cause)})`;
    if (cause instanceof Refusal) what = `refuses ${place}: ${cause.message}`;
    if (cause instanceof Excess) what = `goes on too long on ${place}, and was stopped`;
    throw new InputError(
      'chat_template_failed',
      `The model's chat template ${what}. Change the conversation or take it out, or give text in place of conversations.`,
      place,
      { cause },
    );
  }
}

const maxRange = 100_000;

/** What transformers gives to templates, by the names and with the meaning that they have there. */
const globals = {
  true: true,
  false: false,
  none: null,
  True: true,
  False: false,
  None: null,
  raise_exception(message: unknown): never {
    throw new Refusal(String(message));
  },
  range(first: number, second?: number, step = 1): number[] {
    const [start, stop] = second === undefined ? [0, first] : [first, second];
    const count = Math.max(0, Math.ceil((stop - start) / step));
    if (!(count <= maxRange)) throw new Excess();
    return Array.from({ length: count }, (_, i) => start + i * step);
  },
  strftime_now: (format: string): string => format.replace(/%-?([a-zA-Z%])/g, (_, code: string) => day[code] ?? ''),
};

/** Friday, 26 July 2024. */
const day: Readonly<Record<string, string>> = {
  ...{ a: 'Fri', A: 'Friday', d: '26', b: 'Jul', B: 'July', m: '07', y: '24', Y: '2024', j: '208' },
  ...{ H: '00', I: '12', M: '00', S: '00', p: 'AM', f: '000000', z: '', Z: '', '%': '%' },
};

type Node = Parameters<Interpreter['evaluate']>[0];
type Scope = Parameters<Interpreter['evaluate']>[1];
type Value = ReturnType<Interpreter['evaluate']>;

/** Counts what passes through the interpreter, and gives `strip` its argument, which the library (0.5) drops. */
class MeteredInterpreter extends Interpreter {
  #left: number;
  /** Expressions that loops go over: an element costs an iteration, even where the loop's body is empty. */
  readonly #iterated = new WeakSet<object>();

  constructor(environment: Environment, limit: number) {
    super(environment);
    this.#left = limit;
  }

  override evaluate(node: Node, scope: Scope): Value {
    if (node !== undefined && isLoop(node)) this.#iterated.add(node.iterable.lhs ?? node.iterable);
    const value = this.#strip(node, scope) ?? super.evaluate(node, scope);
    const elementWeight = node !== undefined && this.#iterated.has(node) ? iterationWeight : 1;
    this.#left -= stepWeight + elementWeight * sizeOf(value.value);
    if (this.#left < 0) throw new Excess();
    return value;
  }

  /** The result of a call `text.strip(...)`, `lstrip` or `rstrip`, as in Python; null for any other node. */
  #strip(node: Node, scope: Scope): Value | null {
    if (node === undefined || !isStripCall(node)) return null;
    const { callee, args } = node;
    const text = this.evaluate(callee.object, scope);
    if (text.type !== 'StringValue') return null;
    const [given] = args.map((argument) => this.evaluate(argument, scope));
    const characters = given?.type === 'StringValue' ? new Set(String(given.value)) : pythonWhiteSpace;
    return scopeless(stripped(String(text.value), characters, callee.property.value));
  }
}

/** Characters of a text, elements of a list or fields of an object. */
function sizeOf(content: unknown): number {
  if (typeof content === 'string' || Array.isArray(content)) return content.length;
  return content instanceof Map ? content.size : 0;
}

interface Loop {
  /** With a condition, `lhs` is what the loop goes over. */
  readonly iterable: { readonly lhs?: object };
}

const isLoop = (node: object): node is Loop => 'type' in node && node.type === 'For';

interface StripCall {
  readonly callee: { readonly object: Node; readonly property: { readonly value: 'strip' | 'lstrip' | 'rstrip' } };
  readonly args: readonly Node[];
}

function isStripCall(node: object): node is StripCall {
  if (!('type' in node) || node.type !== 'CallExpression' || !('callee' in node)) return false;
  const { callee } = node;
  if (!isJsonObject(callee) || callee.type !== 'MemberExpression' || callee.computed === true) return false;
  return isJsonObject(callee.property) && /^[lr]?strip$/.test(String(callee.property.value));
}

/** What `str.strip()` takes away. */
const pythonWhiteSpace = new Set(
  ' \t\n\v\f\r\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000',
);

function stripped(text: string, characters: ReadonlySet<string>, side: 'strip' | 'lstrip' | 'rstrip'): string {
  const all = Array.from(text);
  let [start, end] = [0, all.length];
  if (side !== 'rstrip') while (start < end && characters.has(all[start])) start++;
  if (side !== 'lstrip') while (end > start && characters.has(all[end - 1])) end--;
  return all.slice(start, end).join('');
}

/** A value of the interpreter, whose classes the library keeps to itself. */
const scopeless = (text: string): Value => new Environment().set('text', text);
