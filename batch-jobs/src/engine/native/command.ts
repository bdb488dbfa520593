/** Runs a program to its end, keeping what it says. */
import { spawn } from 'node:child_process';

export interface CommandResult {
  /** Null when the program is not there or was killed. */
  readonly exitCode: number | null;
  readonly missing: boolean;
  /** stdout and stderr as they came, without the passwords of registry addresses. */
  readonly output: string;
  readonly stdout: string;
}

export async function runProgram(
  program: string,
  args: readonly string[],
  options: { env?: NodeJS.ProcessEnv; cwd?: string; signal?: AbortSignal } = {},
): Promise<CommandResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { ...options, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    let stdout = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      output += text;
      stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => (output += text));
    child.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') resolve({ exitCode: null, missing: true, output: '', stdout: '' });
      else reject(error);
    });
    child.on('close', (exitCode) => {
      resolve({ exitCode, missing: false, output: output.replaceAll(/\/\/[^/\s@]+@/g, '//'), stdout });
    });
  });
}

/** The end of what a program said, on one line. */
export function lastWords(output: string, lines = 3): string {
  const said = output
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '');
  return said.slice(-lines).join(' / ') || 'it said nothing';
}
