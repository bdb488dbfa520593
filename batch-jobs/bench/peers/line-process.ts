/** A process that answers every line that it is sent with one line, as the peers do. */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { peerEnvironment } from '../allocator.ts';

export interface LineProcess {
  /** Its next line, after `line` was sent.  @throws Error with what it printed to standard error, should it end instead */
  ask(line?: string): Promise<string>;
  /** A line that it prints by itself. */
  next(): Promise<string>;
  /** Ends its input and waits until it has ended. */
  close(): Promise<void>;
}

export function openLineProcess(
  command: string,
  args: readonly string[],
  env: Record<string, string | undefined> = peerEnvironment(),
): LineProcess {
  const child = spawn(command, args, { env, stdio: ['pipe', 'pipe', 'pipe'] });
  let complaint = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (complaint = (complaint + text).slice(-4000)));
  const ended = new Promise<void>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', () => resolve());
  });
  ended.catch(() => undefined);
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const next = async (): Promise<string> => {
    const { value, done } = await lines.next();
    if (!done) return value;
    await ended;
    throw new Error(`${command} ${args.join(' ')} ended with code ${child.exitCode}. ${complaint}`);
  };
  return {
    next,
    ask(line = '') {
      child.stdin.write(`${line}\n`);
      return next();
    },
    async close() {
      child.stdin.end();
      await ended;
    },
  };
}
