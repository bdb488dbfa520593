/** What a command speaks to: three streams, the environment and Ctrl-C. `main.ts` gives the real ones, tests their own. */

export interface Output {
  write(text: string): unknown;
  isTTY?: boolean;
  columns?: number;
}

export type Input = NodeJS.ReadableStream & { isTTY?: boolean };

export interface Io {
  readonly stdin: Input;
  /** Results. */
  stdout: Output;
  /** Progress, notes and errors. */
  stderr: Output;
  env: Readonly<Record<string, string | undefined>>;
  /**
   * Aborted by the first Ctrl-C or SIGTERM. Only commands that look at it catch them: a calculation in this process, which
   * lets no signal through, is better ended by the system.
   */
  readonly interrupted: AbortSignal;
}

export const print = (io: Io, text: string): void => void io.stdout.write(`${text}\n`);
export const printJson = (io: Io, value: unknown): void => print(io, JSON.stringify(value, null, 2));
export const note = (io: Io, text: string): void => void io.stderr.write(`${text}\n`);

export interface Paint {
  bold(text: string): string;
  dim(text: string): string;
  red(text: string): string;
  green(text: string): string;
}

/** Colours on a terminal, unless NO_COLOR (no-color.org) is set. */
export function paintFor(output: Output, env: Io['env']): Paint {
  const colored = output.isTTY === true && !env.NO_COLOR && env.TERM !== 'dumb';
  const code =
    (open: number, close: number) =>
    (text: string): string =>
      colored ? `\u001B[${open}m${text}\u001B[${close}m` : text;
  return { bold: code(1, 22), dim: code(2, 22), red: code(31, 39), green: code(32, 39) };
}

/** Ctrl-C was pressed. */
export class Interrupted extends Error {
  override readonly name = 'Interrupted';
  /** @param goOn command that goes on with what was begun; null when nothing was */
  constructor(readonly goOn: string | null = null) {
    super(goOn === null ? 'interrupted; nothing was started' : 'interrupted');
  }
}
