import { Readable } from 'node:stream';
import type { Input, Io } from '../../../sdk/src/cli/io.ts';

/** Streams that keep what is written, something to read, and a Ctrl-C to press. */
export function memoryIo(options: { isTTY?: boolean; columns?: number; env?: Io['env']; stdin?: string | Input } = {}) {
  const written = { stdout: '', stderr: '' };
  const interrupt = new AbortController();
  const output = (name: 'stdout' | 'stderr') => ({
    write: (text: string) => (written[name] += text),
    isTTY: options.isTTY,
    columns: options.columns,
  });
  const { stdin = '' } = options;
  const io: Io = {
    stdin: typeof stdin === 'string' ? Readable.from([stdin]) : stdin,
    stdout: output('stdout'),
    stderr: output('stderr'),
    env: options.env ?? {},
    interrupted: interrupt.signal,
  };
  return { io, interrupt, stdout: () => written.stdout, stderr: () => written.stderr };
}
