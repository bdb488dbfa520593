/**
 * Flags made from zod schemas: names in kebab case, defaults and allowed values in the help, values checked by the schema.
 * So what can be set has one definition, the contract's.
 */
import { z } from 'zod';
import type { StringArgDef } from 'citty';
import {
  evaluationSchema,
  jobSettingsSchema,
  schemeSchema,
  trainingSchema,
  type Scheme,
  type Training,
} from 'cherryq/contract';
import { UsageError } from './command.ts';

/** What zod says of a field in JSON Schema, as far as our fields use it. */
interface FieldSchema {
  type?: string;
  format?: string;
  const?: unknown;
  enum?: unknown[];
  anyOf?: FieldSchema[];
  items?: FieldSchema;
  default?: unknown;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
}

/** How a value is shown, by its format or its type. */
const hints: Readonly<Record<string, string>> = { uri: 'URL', string: 'TEXT', boolean: 'true|false' };

type Described<Schema extends z.ZodObject> = Record<keyof z.infer<Schema> & string, string>;

/** A flag, with the words that its value can be, for shells to complete. */
export type SchemaFlag = StringArgDef & { type: 'string'; values: readonly string[] };

/** @param descriptions one sentence per field; a missing one does not compile */
export function flagsOf<Schema extends z.ZodObject>(
  schema: Schema,
  descriptions: Described<Schema>,
): Record<string, SchemaFlag> {
  return Object.fromEntries(
    Object.entries(fieldsOf(schema)).map(([name, field]) => {
      const about = descriptions[name as keyof Described<Schema>];
      const standard = field.default === undefined || field.default === '' ? '' : `; default ${String(field.default)}`;
      return [
        kebabCase(name),
        {
          type: 'string',
          valueHint: hintOf(field),
          description: `${about} (${allowedOf(field)}${standard})`,
          values: valuesOf(field),
        },
      ];
    }),
  );
}

/** All fields of a schema from the flags, defaults filled in.  @throws UsageError naming the flag, the value and what is allowed */
export function parseFlags<Schema extends z.ZodObject>(
  schema: Schema,
  args: Readonly<Record<string, unknown>>,
): z.output<Schema> {
  const fields = fieldsOf(schema);
  const given = Object.keys(fields).flatMap((name) => {
    const text = args[kebabCase(name)];
    if (typeof text !== 'string') return [];
    const { items, type } = fields[name];
    const list = text.split(',').map((item) => valueOf(item.trim(), items));
    return [[name, type === 'array' ? list : valueOf(text, fields[name])] as const];
  });
  const parsed = schema.safeParse(Object.fromEntries(given));
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  if (issue?.path.length === 0) {
    const flags = Object.keys(fields).map((field) => `--${kebabCase(field)}`);
    throw new UsageError(`what was given ${issue.message}; there are ${flags.join(', ')}`);
  }
  const name = String(issue?.path[0]);
  const flag = `--${kebabCase(name)}`;
  const field = fields[name];
  if (field === undefined) throw parsed.error;
  throw new UsageError(`${flag} must be ${allowedOf(field)}; got ${JSON.stringify(args[kebabCase(name)])}`, flag);
}

/** Only the fields whose flag was given: the server fills in the rest.  @throws UsageError */
export function givenFlags<Schema extends z.ZodObject>(
  schema: Schema,
  args: Readonly<Record<string, unknown>>,
): Partial<z.output<Schema>> {
  const all = parseFlags(schema, args);
  const given = Object.entries(all).filter(([name]) => args[kebabCase(name)] !== undefined);
  return Object.fromEntries(given) as Partial<z.output<Schema>>;
}

export const evaluationTokensFlag = flagsOf(z.object({ evaluationTokens: evaluationSchema.shape.maxTokens }), {
  evaluationTokens: 'Tokens to measure on; all when absent',
});

/** Of the evaluation, what is a number on its own; `parseEvaluation` joins them with the rest. */
const evaluationOptions = z.object({
  evaluationTokens: evaluationSchema.shape.maxTokens,
  maxPerplexityRatio: evaluationSchema.shape.limits.unwrap().shape.perplexityRatio,
  maxDivergence: evaluationSchema.shape.limits.unwrap().shape.divergence,
});

/** A model to work on, wherever it is. */
export const modelFlag = {
  type: 'positional',
  required: true,
  description:
    'Model folder in the format of Hugging Face, id of an uploaded model, or hf://owner/name@revision or s3://bucket/prefix for the server to import',
} as const;

const placing = jobSettingsSchema.pick({ machine: true });

/** Of every command that creates a job. */
export const machineFlag = flagsOf(placing, {
  machine: 'Machine to run on, as `cherryq estimate` lists them; the cheapest that fits when absent',
});

/** @throws UsageError */
export const parseMachine = (args: Readonly<Record<string, unknown>>) => givenFlags(placing, args);

export const evaluationFlags = {
  ...flagsOf(evaluationOptions, {
    evaluationTokens: 'Tokens to measure on; all when absent',
    maxPerplexityRatio: "Fail if the result's perplexity over the original's is above this",
    maxDivergence: 'Fail if the divergence from the original, in nats a token, is above this',
  }),
  divergence: { type: 'boolean', description: "Also measure the divergence from the original's distribution" },
  tasks: { type: 'string', valueHint: 'FILE,...', description: 'Multiple-choice tasks to score, by commas' },
} as const;

/** What the evaluation's flags ask for, as `compress` takes it.  @throws UsageError */
export function parseEvaluation(args: Readonly<Record<string, unknown>>) {
  const { evaluationTokens, maxPerplexityRatio, maxDivergence } = givenFlags(evaluationOptions, args);
  const limits = { perplexityRatio: maxPerplexityRatio, divergence: maxDivergence };
  const given = Object.fromEntries(Object.entries(limits).filter(([, limit]) => limit !== undefined));
  return {
    evaluationTokens,
    limits: Object.keys(given).length === 0 ? undefined : given,
    divergence: args.divergence === true ? true : undefined,
    tasks: typeof args.tasks === 'string' ? args.tasks.split(',').map((task) => task.trim()) : undefined,
  };
}

export const schemeFlags = flagsOf(schemeSchema, {
  method: 'How to compress',
  bits: 'Bits per weight',
  groupSize: 'Weights of a row that share one scale',
  cherryFraction: 'Share of each row kept in 16 bits, for cherryq',
  criterion: 'What makes a weight a cherry',
  cherryMode: 'Whether cherries are chosen in each row or as whole columns',
  quantizer: 'Levels of a group',
  groups: 'Whether groups are cut after the cherries are taken out (compacted) or keep their columns (aligned)',
  columnScales: 'Whether columns are scaled before they are rounded',
} satisfies Record<keyof Scheme, string>);

export const trainingFlags = flagsOf(trainingSchema, {
  tokens: 'Tokens to train on',
  sequenceLength: 'Tokens in one window',
  batchSize: 'Windows in one step',
  learningRate: 'Peak learning rate',
  warmupFraction: 'Share of the steps in which the rate rises',
  finalLearningRateFraction: 'Rate at the end over the peak; by the bits when absent',
  beta1: "AdamW's decay of the mean",
  beta2: "AdamW's decay of the variance",
  epsilon: "AdamW's epsilon",
  weightDecay: "AdamW's weight decay",
  maxGradNorm: 'Longest gradient; a longer one is scaled down',
  loss: 'What is learned: the text (crossEntropy) or the original (distillation)',
  mode: 'All blocks together, or one after another',
  trainedParameters: 'What training changes',
  moments: "Type of AdamW's moments",
  momentsIn: "Where AdamW's moments are",
  windows: 'How texts become windows: one after another, or the beginning of each long one',
  resume: 'What a restart does with a checkpoint that does not fit',
  impactSamples: 'Windows that the impact of weights is measured on',
  seed: 'Seed of all chance',
} satisfies Record<keyof Training, string>);

/** `groupSize` -> `group-size` */
export function kebabCase(name: string): string {
  return name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

function fieldsOf(schema: z.ZodObject): Record<string, FieldSchema> {
  return (z.toJSONSchema(schema, { io: 'input' }).properties ?? {}) as Record<string, FieldSchema>;
}

function valueOf(text: string, field: FieldSchema = {}): string | number | boolean {
  if (field.type === 'boolean' && /^(true|false)$/.test(text)) return text === 'true';
  const isNumber = field.type !== 'string' && text.trim() !== '' && Number.isFinite(Number(text));
  return isNumber ? Number(text) : text;
}

/** `2|3|4|8`, `N|row`, `N` */
function hintOf(field: FieldSchema): string {
  if (field.anyOf) return field.anyOf.map(hintOf).join('|');
  if (field.items) return `${hintOf(field.items)},...`;
  if (field.const !== undefined) return String(field.const);
  if (field.enum) return field.enum.join('|');
  return hints[field.format ?? ''] ?? hints[field.type ?? ''] ?? 'N';
}

/** `2`, `3`, `4`, `8`; of a number only the words that it can be instead, such as `row` */
function valuesOf(field: FieldSchema): string[] {
  if (field.anyOf) return field.anyOf.flatMap(valuesOf);
  if (field.items) return valuesOf(field.items);
  if (field.const !== undefined) return [String(field.const)];
  if (field.enum) return field.enum.map(String);
  return field.type === 'boolean' ? ['true', 'false'] : [];
}

/** `2, 3, 4 or 8`; `a whole number of at least 1 or row`; `a number above 0 and at most 0.25` */
function allowedOf(field: FieldSchema): string {
  if (field.anyOf) return listed(field.anyOf.map(allowedOf));
  if (field.items) return `a list, by commas, of ${allowedOf(field.items)}`;
  if (field.const !== undefined) return String(field.const);
  if (field.enum) return listed(field.enum.map(String));
  if (field.format === 'uri') return 'an address';
  if (field.type === 'string') return 'text';
  if (field.type === 'boolean') return 'true or false';
  const { minimum, exclusiveMinimum: above, exclusiveMaximum: below } = field;
  // zod bounds every whole number by what is safe, which tells nobody anything.
  const maximum = field.maximum === Number.MAX_SAFE_INTEGER ? undefined : field.maximum;
  const kind = field.type === 'integer' ? 'a whole number' : 'a number';
  if (minimum !== undefined && maximum !== undefined) return `${kind} from ${minimum} to ${maximum}`;
  const limits = [
    minimum !== undefined && `of at least ${minimum}`,
    above !== undefined && `above ${above}`,
    maximum !== undefined && `at most ${maximum}`,
    below !== undefined && `below ${below}`,
  ].filter((limit) => limit !== false);
  return [kind, limits.join(' and ')].join(' ').trimEnd();
}

function listed(values: string[]): string {
  return values.length < 2 ? values.join('') : `${values.slice(0, -1).join(', ')} or ${values.at(-1)}`;
}
