/** A command line, from arguments to exit code. Nothing here touches `process`, so tests run it as it is. */
import { runCommand } from 'citty';
import { exitCodes } from 'cherryq/contract';
import packageJson from '../../package.json' with { type: 'json' };
import { checkArguments, group, helpOf, UsageError, type Command } from './command.ts';
import { analyzeCommand } from './analyze.ts';
import { capabilitiesCommand } from './capabilities.ts';
import { compareCommand } from './compare.ts';
import { compressCommand } from './compress.ts';
import { completionCommand } from './completion.ts';
import { datasetsCommand } from './datasets.ts';
import { doctorCommand } from './doctor.ts';
import { engineCommand } from './engine.ts';
import { estimateCommand } from './estimate.ts';
import { evalCommand } from './eval.ts';
import { evaluateCommand } from './evaluate.ts';
import { failureOf } from './failure.ts';
import { generateCommand } from './generate.ts';
import { inspectCommand } from './inspect.ts';
import { installCommand } from './install.ts';
import { Interrupted, note, paintFor, print, printJson, type Io } from './io.ts';
import { jobsCommand } from './jobs.ts';
import { keysCommand } from './keys.ts';
import { loginCommand } from './login.ts';
import { logoutCommand } from './logout.ts';
import { modelsCommand } from './models.ts';
import { openCommand } from './open.ts';
import { profilesCommand } from './profiles.ts';
import { usageCommand } from './usage.ts';
import { webhooksCommand } from './webhooks.ts';
import { serveCommand } from './serve.ts';

const { version } = packageJson;

export function rootCommand(io: Io): Command {
  const root: Command = group({
    name: 'cherryq',
    summary: 'Compress language models to 2, 3, 4 or 8 bits',
    version,
    children: {
      compress: compressCommand(io),
      estimate: estimateCommand(io),
      analyze: analyzeCommand(io),
      evaluate: evaluateCommand(io),
      compare: compareCommand(io),
      jobs: jobsCommand(io),
      open: openCommand(io),
      models: modelsCommand(io),
      datasets: datasetsCommand(io),
      capabilities: capabilitiesCommand(io),
      serve: serveCommand(io),
      login: loginCommand(io),
      logout: logoutCommand(io),
      profiles: profilesCommand(io),
      usage: usageCommand(io),
      keys: keysCommand(io),
      webhooks: webhooksCommand(io),
      inspect: inspectCommand(io),
      eval: evalCommand(io),
      generate: generateCommand(io),
      engine: engineCommand(io),
      install: installCommand(io),
      doctor: doctorCommand(io),
      completion: completionCommand(io, () => root),
    },
  });
  return root;
}

/** @returns exit code (contract: `exitCodes`; 130 when Ctrl-C ended it before anything began) */
export async function runCli(args: string[], io: Io): Promise<number> {
  const root = rootCommand(io);
  const { found, rest } = findCommand(root, args);
  try {
    const flags = rest.includes('--') ? rest.slice(0, rest.indexOf('--')) : rest;
    if (flags.includes('--help') || flags.includes('-h') || (found === root && args.length === 0)) {
      print(io, await helpOf(found, paintFor(io.stdout, io.env).bold('') !== ''));
      return exitCodes.ok;
    }
    if (found === root && (flags.includes('--version') || flags.includes('-v'))) {
      print(io, version);
      return exitCodes.ok;
    }
    refuseGroup(found, rest);
    checkArguments(rest, found);
    const { result } = await runCommand(found.definition, { rawArgs: rest });
    return typeof result === 'number' ? result : exitCodes.ok;
  } catch (error) {
    return report(error, found, args.includes('--json'), io);
  }
}

function findCommand(root: Command, args: string[]): { found: Command; rest: string[] } {
  let found = root;
  let rest = args;
  for (;;) {
    const child = Object.hasOwn(found.children, rest[0] ?? '') ? found.children[rest[0]] : undefined;
    if (child === undefined) return { found, rest };
    found = child;
    rest = rest.slice(1);
  }
}

/** @throws UsageError when a command with sub-commands got none that it knows */
function refuseGroup({ name, children }: Command, rest: string[]): void {
  const known = Object.keys(children);
  if (known.length === 0) return;
  const [given] = rest;
  const what = given === undefined ? `${name} needs a command` : `${JSON.stringify(given)} is not a command of ${name}`;
  throw new UsageError(`${what}; it has ${known.join(', ')}`);
}

function report(error: unknown, { name }: Command, json: boolean, io: Io): number {
  const thrown = io.interrupted.aborted && !(error instanceof Interrupted) ? new Interrupted() : error;
  const { exitCode, ...failure } = failureOf(thrown);
  const paint = paintFor(io.stderr, io.env);
  const request = failure.requestId === null ? '' : paint.dim(` (request ${failure.requestId})`);
  note(io, `${paint.red('cherryq:')} ${failure.message}${exitCode === exitCodes.bug ? request : ''}`);
  if (thrown instanceof UsageError) note(io, `Usage: ${name} --help`);
  if (failure.goOn !== null) note(io, `Go on with: ${failure.goOn}`);
  if (json) printJson(io, { error: { ...failure, exitCode } });
  return exitCode;
}
