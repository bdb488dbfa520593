/** One form for every sub-command on top of citty: its help with an example, and flags that must be known and complete. */
import { defineCommand, renderUsage, type ArgsDef, type CommandDef, type ParsedArgs } from 'citty';
import { parseArgs } from 'node:util';

export interface CommandSpec<Args extends ArgsDef> {
  /** With its parents: `cherryq jobs wait`. */
  name: string;
  summary: string;
  examples: readonly string[];
  args: Args;
  /** @returns an exit code, for a command whose answer is one; else nothing */
  run(args: ParsedArgs<Args>): Promise<number | void>;
}

export interface Command {
  name: string;
  summary: string;
  examples: readonly string[];
  args: ArgsDef;
  definition: CommandDef;
  children: Readonly<Record<string, Command>>;
}

export function command<const Args extends ArgsDef>(spec: CommandSpec<Args>): Command {
  const { name, summary, examples, args, run } = spec;
  const definition = defineCommand({
    meta: { name, description: summary },
    args: args as ArgsDef,
    run: (context) => run(context.args as ParsedArgs<Args>),
  });
  return { name, summary, examples, args, definition, children: {} };
}

/** A command that only has sub-commands. */
export function group(spec: {
  name: string;
  summary: string;
  version?: string;
  children: Record<string, Command>;
}): Command {
  const { name, summary, version, children } = spec;
  const subCommands = Object.fromEntries(Object.entries(children).map(([key, child]) => [key, child.definition]));
  const definition = defineCommand({ meta: { name, description: summary, version }, subCommands });
  const examples = Object.values(children).flatMap((child) => child.examples.slice(0, 1));
  return { name, summary, examples, args: {}, definition, children };
}

/** The command line itself is wrong. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
  constructor(
    message: string,
    readonly param: string | null = null,
  ) {
    super(message);
  }
}

/** Text of `--help`. Colours are citty's, and are taken out where there are to be none. */
export async function helpOf({ definition, name, examples }: Command, colored: boolean): Promise<string> {
  const usage = await renderUsage(definition);
  const flags = name === 'cherryq' ? '\n\nFlags of every command: --help, --json. Of this one: --version.' : '';
  const text = `${usage.trimEnd()}${flags}\n\nEXAMPLES\n\n${examples.map((example) => `  ${example}`).join('\n')}`;
  return colored ? text : text.replaceAll(/\u001B\[\d+m/g, '');
}

/** Checks what citty lets pass.  @throws UsageError for an unknown flag, a flag without its value, one argument too many or too few */
export function checkArguments(rawArgs: string[], { args, name }: Command): void {
  const definitions = Object.entries(args);
  const flags = new Map(definitions.filter(([, definition]) => definition.type !== 'positional'));
  const options = Object.fromEntries(
    [...flags].map(([flag, { type }]) => [
      flag,
      { type: type === 'boolean' ? ('boolean' as const) : ('string' as const) },
    ]),
  );
  const { tokens } = parseArgs({ args: rawArgs, options, allowPositionals: true, strict: false, tokens: true });
  const given: string[] = [];
  for (const token of tokens) {
    if (token.kind === 'positional') given.push(token.value);
    if (token.kind !== 'option') continue;
    const definition = flags.get(token.name);
    if (definition === undefined || !token.rawName.startsWith('--'))
      throw new UsageError(`unknown flag ${token.rawName}`, token.rawName);
    if (definition.type === 'boolean') {
      if (token.value !== undefined) throw new UsageError(`${token.rawName} takes no value`, token.rawName);
    } else if (token.value === undefined || token.value === '' || (!token.inlineValue && token.value.startsWith('--')))
      throw new UsageError(`${token.rawName} needs a value`, token.rawName);
  }
  const positional = definitions.filter(([, definition]) => definition.type === 'positional');
  const excess = given[positional.length];
  if (excess !== undefined) throw new UsageError(`unexpected argument ${JSON.stringify(excess)} for ${name}`);
  const missing = positional.slice(given.length).find(([, definition]) => definition.required !== false);
  if (missing) throw new UsageError(`missing <${missing[0]}>`, missing[0]);
  const present = new Set(tokens.flatMap((token) => (token.kind === 'option' ? [token.name] : [])));
  const required = [...flags].find(([flag, definition]) => definition.required === true && !present.has(flag));
  if (required) throw new UsageError(`--${required[0]} is required`, `--${required[0]}`);
}
