import { execFile, execFileSync } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { methodNames } from 'cherryq/contract';
import type { Command } from '../../../sdk/src/cli/command.ts';
import { rootCommand } from '../../../sdk/src/cli/run.ts';
import { memoryIo } from './memory-io.ts';
import { cherryq, makeFolder } from './support.ts';

const run = promisify(execFile);

function has(program: string): boolean {
  try {
    execFileSync(program, ['--version'], { stdio: 'ignore' });
    return true;
  } catch {
    process.stderr.write(`${program} is not installed, so its completion is not run here\n`);
    return false;
  }
}

async function scriptOf(shell: string): Promise<{ file: string; script: string; folder: string }> {
  const { exitCode, stdout } = await cherryq(['completion', shell]);
  expect(exitCode).toBe(0);
  const folder = await makeFolder();
  const file = join(folder, 'completion');
  await writeFile(file, stdout);
  return { file, script: stdout, folder };
}

/** What a shell offers after words of which the last is being typed. */
const completers: Record<string, (file: string, words: string[]) => Promise<string[]>> = {
  bash: async (file, words) => {
    const tell = 'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _cherryq; printf "%s\\n" "${COMPREPLY[@]}"';
    const { stdout } = await run('bash', ['--norc', '-c', tell, file, ...words]);
    return stdout.split('\n').filter((line) => line !== '');
  },
  fish: async (file, words) => {
    const line = words.join(' ');
    const { stdout } = await run('fish', ['--no-config', '-c', 'source $argv[1]; complete -C $argv[2]', file, line]);
    return stdout
      .split('\n')
      .map((each) => each.split('\t', 1)[0] ?? '')
      .filter((each) => each !== '');
  },
};

function everyCommand(command: Command): Command[] {
  return [command, ...Object.values(command.children).flatMap(everyCommand)];
}
const root = rootCommand(memoryIo().io);

describe.each(['bash', 'fish'])('cherryq completion %s', (shell) => {
  const installed = has(shell);
  const complete = completers[shell];

  it.runIf(installed)('offers the commands, and those of a group', async () => {
    const { file } = await scriptOf(shell);
    expect((await complete(file, ['cherryq', ''])).sort()).toEqual(Object.keys(root.children).sort());
    expect(await complete(file, ['cherryq', 'comple'])).toEqual(['completion']);
    expect((await complete(file, ['cherryq', 'jobs', 're'])).sort()).toEqual(['resume', 'retry']);
  });

  it.runIf(installed)('offers every flag of every command', { timeout: 120_000 }, async () => {
    const { file } = await scriptOf(shell);
    for (const { name, args } of everyCommand(root)) {
      const flags = Object.entries(args).flatMap(([flag, { type }]) => (type === 'positional' ? [] : [`--${flag}`]));
      const own = name === 'cherryq' ? ['--help', '--version'] : ['--help'];
      expect((await complete(file, [...name.split(' '), '--'])).sort(), name).toEqual([...flags, ...own].sort());
    }
  });

  it.runIf(installed)('offers what a flag or an argument can be', async () => {
    const { file } = await scriptOf(shell);
    expect(await complete(file, ['cherryq', 'compress', './model', '--method', ''])).toEqual(
      shell === 'fish' ? [...methodNames].sort() : methodNames,
    );
    expect((await complete(file, ['cherryq', 'jobs', 'list', '--status', 'pa'])).sort()).toEqual(['paused']);
    expect((await complete(file, ['cherryq', 'completion', ''])).sort()).toEqual(['bash', 'fish', 'zsh']);
    expect(await complete(file, ['cherryq', 'compress', '--bits', '2', '--group-size', ''])).toEqual(['row']);
  });
});

describe('cherryq completion bash', () => {
  it('knows a value after an equals sign, which bash makes a word of its own', async () => {
    const { file } = await scriptOf('bash');
    expect(await completers.bash(file, ['cherryq', 'compress', '--bits', '='])).toEqual(['2', '3', '4', '8']);
    expect(await completers.bash(file, ['cherryq', 'compress', '--method', '=', 'r'])).toEqual(['rtn']);
  });

  it('leaves paths to bash, and offers nothing where nobody can know', async () => {
    const { file } = await scriptOf('bash');
    for (const words of [
      ['cherryq', 'compress', ''],
      ['cherryq', 'compress', '--out', ''],
      ['cherryq', 'login', '--server', ''],
    ])
      expect(await completers.bash(file, words)).toEqual([]);
  });
});

describe('cherryq completion zsh', () => {
  it.runIf(has('zsh'))('offers commands and values on a terminal', async () => {
    const { folder, script } = await scriptOf('zsh');
    await writeFile(join(folder, '_cherryq'), script);
    const tell = `
      zmodload zsh/zpty
      zpty z zsh -f -i
      zpty -w z "PROMPT= ; fpath=(${folder} \\$fpath); autoload -U compinit; compinit -D -u; LISTMAX=0; bindkey '^I' complete-word"
      zpty -w z "print READY"
      zpty -r z output '*READY*READY*'
      zpty -n -w z "cherryq $1"$'\\t\\t'
      zpty -r z output "*$2*"
      print -r -- $output
      zpty -d z`;
    const offered = async (line: string, last: string): Promise<string> => {
      const { stdout } = await run('zsh', ['-f', '-c', tell, 'zsh', line, last], { timeout: 25_000 });
      return stdout;
    };
    expect(await offered('profi', 'profiles')).toContain('profiles');
    expect(await offered('compress --method ', 'rtn')).toMatch(/cherryq\s+qat\s+rtn/);
  });
});

describe('cherryq completion', () => {
  it('prints JSON for --json, and refuses other shells', async () => {
    const { stdout } = await cherryq(['completion', 'fish', '--json']);
    expect(JSON.parse(stdout)).toMatchObject({
      shell: 'fish',
      script: expect.stringContaining('complete -c') as string,
    });
    const { exitCode, stderr } = await cherryq(['completion', 'tcsh']);
    expect(exitCode).toBe(2);
    expect(stderr).toContain('must be bash, zsh or fish; got "tcsh"');
  });
});
