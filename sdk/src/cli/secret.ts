/** A key, as a person types it or as a program pipes it in: never as an argument, which every process can see. */
import { createInterface } from 'node:readline';
import { Writable } from 'node:stream';
import { InputError } from '../index.ts';
import { Interrupted, type Io } from './io.ts';

/** Of a line that is piped in. */
const mostCharacters = 10_000;

/** One line from stdin; on a terminal it is asked for, and what is typed is not shown.  @throws InputError without one */
export async function readSecret(io: Io, what: string): Promise<string> {
  const line = io.stdin.isTTY === true ? await ask(io, what) : await readLine(io);
  if (line.trim() === '') throw new InputError('no_input', `no ${what} was given on stdin`, 'stdin');
  return line.trim();
}

async function ask(io: Io, what: string): Promise<string> {
  const nowhere = new Writable({ write: (_chunk, _encoding, done) => done() });
  // Of a terminal, readline takes what is typed as it comes, so the terminal itself shows nothing of it.
  const lines = createInterface({ input: io.stdin, output: nowhere, terminal: true, historySize: 0 });
  io.stderr.write(`${what} (not shown): `);
  try {
    return await new Promise<string>((resolve, reject) => {
      lines.once('line', resolve);
      lines.once('SIGINT', () => reject(new Interrupted()));
      lines.once('close', () => resolve(''));
    });
  } finally {
    lines.close();
    io.stderr.write('\n');
  }
}

async function readLine(io: Io): Promise<string> {
  let text = '';
  for await (const chunk of io.stdin) {
    text += String(chunk);
    if (text.includes('\n') || text.length > mostCharacters) break;
  }
  return text.split('\n', 1)[0] ?? '';
}
