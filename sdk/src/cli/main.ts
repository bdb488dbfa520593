/** Entry of `cherryq`: the only file of it that touches the process. The first Ctrl-C stops in good order, the second at once. */
import { nothingStarted } from './failure.ts';
import { Interrupted } from './io.ts';
import { runCli } from './run.ts';

const interrupt = new AbortController();
let catching = false;

/** From the first call on, Ctrl-C is the program's own business. */
function catchInterrupts(): AbortSignal {
  if (!catching)
    for (const signal of ['SIGINT', 'SIGTERM'] as const)
      process.on(signal, () => {
        if (interrupt.signal.aborted) process.exit(nothingStarted);
        interrupt.abort(new Interrupted());
      });
  catching = true;
  return interrupt.signal;
}

// The reader of a pipe has left, as `head` does: nothing more is to be said.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0);
  throw error;
});

process.exitCode = await runCli(process.argv.slice(2), {
  get stdin() {
    return process.stdin;
  },
  stdout: process.stdout,
  stderr: process.stderr,
  env: process.env,
  get interrupted() {
    return catchInterrupts();
  },
});
// An embedded server that would not end must not hold back who asked to stop.
if (interrupt.signal.aborted) process.exit();
