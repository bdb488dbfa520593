/** `cherryq completion`: what Tab offers, in a script for the shell that is made of the commands' own definitions. */
import { z } from 'zod';
import { command, type Command } from './command.ts';
import { flagsOf, parseFlags } from './flags.ts';
import { print, printJson, type Io } from './io.ts';

const shells = ['bash', 'zsh', 'fish'] as const;
const options = z.object({ shell: z.enum(shells) });
const { shell } = flagsOf(options, { shell: 'Which shell' });

/** @param root all commands, known once this one is among them */
export const completionCommand = (io: Io, root: () => Command) =>
  command({
    name: 'cherryq completion',
    summary: 'Print a script that completes commands, flags and their values',
    examples: [
      'cherryq completion bash > ~/.local/share/bash-completion/completions/cherryq',
      'cherryq completion zsh > "${fpath[1]}/_cherryq"',
      'cherryq completion fish > ~/.config/fish/completions/cherryq.fish',
    ],
    args: {
      shell: { ...shell, type: 'positional', required: true },
      json: { type: 'boolean', description: 'Print JSON, nothing else' },
    },
    run(args) {
      const { shell: chosen } = parseFlags(options, args);
      const script = scripts[chosen](placesOf(root()));
      if (args.json) printJson(io, { shell: chosen, script });
      else print(io, script);
      return Promise.resolve();
    },
  });

interface Flag {
  name: string;
  about: string;
  /** What follows: nothing, one of `values`, the path of something, or what nobody can foresee. */
  takes: 'nothing' | 'values' | 'path' | 'text';
  values: readonly string[];
}

/** What may come after the words of a command. */
interface Place {
  /** `cherryq jobs list` */
  at: string;
  children: readonly { name: string; about: string }[];
  flags: readonly Flag[];
  /** Of its first argument. */
  values: readonly string[];
}

function placesOf(root: Command): Place[] {
  const { name, children, args } = root;
  const definitions = Object.entries(args);
  const flags = definitions.flatMap(([flag, { type, ...definition }]): Flag[] => {
    if (type === 'positional') return [];
    const values = valuesOf(definition);
    const hint = 'valueHint' in definition ? (definition.valueHint ?? '') : '';
    const takesText = /^(FILE|DIR|STORE|MODEL)\b/.test(hint) ? 'path' : 'text';
    const takes = type === 'boolean' ? 'nothing' : values.length > 0 ? 'values' : takesText;
    return [{ name: `--${flag}`, about: definition.description ?? '', takes, values }];
  });
  flags.push({ name: '--help', about: 'Show how to use it', takes: 'nothing', values: [] });
  if (name === 'cherryq') flags.push({ name: '--version', about: 'Show the version', takes: 'nothing', values: [] });
  const [first] = definitions.filter(([, { type }]) => type === 'positional');
  const own: Place = {
    at: name,
    children: Object.entries(children).map(([child, { summary }]) => ({ name: child, about: summary })),
    flags,
    values: first === undefined ? [] : valuesOf(first[1]),
  };
  return [own, ...Object.values(children).flatMap(placesOf)];
}

const valuesOf = (definition: object): readonly string[] =>
  'values' in definition && Array.isArray(definition.values) ? (definition.values as string[]) : [];

const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;
const commandsOf = (places: readonly Place[]): string[] => places.slice(1).map(({ at }) => quoted(at));

/** Flags with their commands, together where the same is to be done. */
function cases(places: readonly Place[], actionOf: (flag: Flag) => string | null): [string[], string][] {
  const byAction = new Map<string, string[]>();
  for (const { at, flags } of places)
    for (const flag of flags) {
      const action = actionOf(flag);
      if (action !== null) byAction.set(action, [...(byAction.get(action) ?? []), quoted(`${at} ${flag.name}`)]);
    }
  return [...byAction].map(([action, patterns]) => [patterns, action]);
}

const scripts: Record<(typeof shells)[number], (places: readonly Place[]) => string> = {
  bash(places) {
    const words = (list: readonly string[]): string => `words=${quoted(list.join(' '))}`;
    const ofFlags = cases(places, ({ takes, values }) => {
      if (takes === 'nothing') return null;
      if (takes === 'values') return words(values);
      return takes === 'path' ? 'return' : 'compopt +o default 2>/dev/null; return';
    });
    const ofCommands = places.map(({ at, children, flags, values }) => {
      const names = words(flags.map(({ name }) => name));
      const others = children.length > 0 ? children.map(({ name }) => name) : values;
      const else_ = others.length > 0 ? `else ${words(others)}; ` : '';
      return `        ${quoted(at)}) if [[ $cur == -* ]]; then ${names}; ${else_}fi ;;`;
    });
    return `# What Tab offers after cherryq, for bash; made by: cherryq completion bash
_cherryq() {
  local cur=\${COMP_WORDS[COMP_CWORD]} flag=\${COMP_WORDS[COMP_CWORD - 1]} at=cherryq words= i
  COMPREPLY=()
  # Of --bits=3, bash makes three words.
  if [[ $cur == = ]]; then cur=; elif [[ $flag == = ]]; then flag=\${COMP_WORDS[COMP_CWORD - 2]}; fi
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "$at \${COMP_WORDS[i]}" in
      ${commandsOf(places).join(' | ')}) at="$at \${COMP_WORDS[i]}" ;;
      *) break ;;
    esac
  done
  case "$at $flag" in
${ofFlags.map(([patterns, action]) => `    ${patterns.join(' | ')}) ${action} ;;`).join('\n')}
    *)
      case "$at" in
${ofCommands.join('\n')}
      esac ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -o default -F _cherryq cherryq`;
  },

  zsh(places) {
    const offer = (list: readonly string[]): string => `compadd -- ${list.map(quoted).join(' ')}`;
    const ofFlags = cases(places, ({ takes, values }) => {
      if (takes === 'nothing') return null;
      if (takes === 'values') return offer(values);
      return takes === 'path' ? '_files' : '_message value';
    });
    const ofCommands = places.map(({ at, children, flags, values }) => {
      const others = children.length > 0 ? children.map(({ name }) => name) : values;
      const else_ = others.length > 0 ? offer(others) : '_files';
      return `        (${quoted(at)}) if [[ $PREFIX == -* ]]; then ${offer(flags.map(({ name }) => name))}; else ${else_}; fi ;;`;
    });
    return `#compdef cherryq
# What Tab offers after cherryq, for zsh; made by: cherryq completion zsh
_cherryq() {
  local flag=\${words[CURRENT - 1]} at=cherryq i
  if [[ $PREFIX == --*=* ]]; then flag=\${PREFIX%%=*}; compset -P '*='; fi
  for ((i = 2; i < CURRENT; i++)); do
    case "$at \${words[i]}" in
      (${commandsOf(places).join('|')}) at="$at \${words[i]}" ;;
      (*) break ;;
    esac
  done
  case "$at $flag" in
${ofFlags.map(([patterns, action]) => `    (${patterns.join('|')}) ${action} ;;`).join('\n')}
    (*)
      case "$at" in
${ofCommands.join('\n')}
      esac ;;
  esac
}
if [[ \${funcstack[1]} == _cherryq ]]; then _cherryq "$@"; else compdef _cherryq cherryq; fi`;
  },

  fish(places) {
    const fishQuoted = (text: string): string => `'${text.replaceAll(/[\\']/g, '\\$&')}'`;
    const lines = places.flatMap(({ at, children, flags, values }) => {
      const here = `complete -c cherryq -n ${fishQuoted(`__cherryq_at ${fishQuoted(at)}`)}`;
      const takes = (flag: Flag): string =>
        ({
          nothing: '',
          values: ` -x -a ${fishQuoted(flag.values.join(' '))}`,
          path: ' -r -F',
          text: ' -x',
        })[flag.takes];
      return [
        ...children.map(({ name, about }) => `${here} -f -a ${name} -d ${fishQuoted(about)}`),
        ...(values.length > 0 ? [`${here} -f -a ${fishQuoted(values.join(' '))}`] : []),
        ...flags.map((flag) => `${here} -l ${flag.name.slice(2)}${takes(flag)} -d ${fishQuoted(flag.about)}`),
      ];
    });
    return `# What Tab offers after cherryq, for fish; made by: cherryq completion fish
function __cherryq_at
    set -l at cherryq
    set -l given (commandline -opc)
    for word in $given[2..-1]
        switch "$at $word"
            case ${commandsOf(places).join(' ')}
                set at "$at $word"
            case '*'
                break
        end
    end
    test "$at" = "$argv[1]"
end
${lines.join('\n')}`;
  },
};
