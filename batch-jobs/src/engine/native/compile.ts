/** Compiles the addon of an engine: the binding of tfjs-node to TensorFlow's C API. */
import { join } from 'node:path';
import { InputError } from '../../errors.ts';
import { lastWords, runProgram } from './command.ts';
import { bindingFile } from './folder.ts';

export interface CompileStep {
  /** Path of the addon inside the engine's folder. */
  readonly output: string;
  readonly sources: readonly string[];
  readonly includes: readonly string[];
  readonly flags: readonly string[];
}

/** Node-API 8 is what Node.js 12.22 and newer have, so one binary serves them all. */
const addonFlags = ['-std=c++17', '-fPIC', '-shared', '-DNAPI_VERSION=8', '-DBUILDING_NODE_EXTENSION'];
/** Its libraries lie beside it, wherever the folder is moved. */
const linkFlags = (engine: string): string[] => [
  `-L${join(engine, 'lib')}`,
  '-l:libtensorflow_cc.so.2',
  '-l:libtensorflow_framework.so.2',
  '-Wl,-rpath,$ORIGIN',
];

/**
 * @param tfjsSources folder of the unpacked tfjs-node package   @param nodeInclude folder of `node_api.h`
 * @param tensorflowInclude folder of `tensorflow/c`
 */
export function bindingStep(tfjsSources: string, nodeInclude: string, tensorflowInclude: string): CompileStep {
  return {
    output: bindingFile,
    sources: ['tfjs_backend.cc', 'tfjs_binding.cc'].map((name) => join(tfjsSources, 'binding', name)),
    includes: [nodeInclude, tfjsSources, join(tfjsSources, '..'), tensorflowInclude],
    flags: ['-O2', '-fno-exceptions', '-DNODE_GYP_MODULE_NAME=tfjs_binding'],
  };
}

export const compilerOf = (environment: NodeJS.ProcessEnv): string => environment.CXX || 'g++';

/** @throws InputError when there is no C++ compiler */
export async function checkCompiler(environment: NodeJS.ProcessEnv): Promise<void> {
  const compiler = compilerOf(environment);
  const { exitCode } = await runProgram(compiler, ['--version'], { env: environment });
  if (exitCode === 0) return;
  throw new InputError(
    'compiler_absent',
    `A C++ compiler is needed to make the engine's addon, and ${compiler} does not run. Install it (Debian and Ubuntu: ` +
      'apt install g++; Fedora: dnf install gcc-c++), or name another in CXX.',
    'CXX',
  );
}

/** @param engine folder with `lib`; the addon is written there   @throws InputError with the compiler's first error */
export async function compileAddon(step: CompileStep, engine: string, environment: NodeJS.ProcessEnv): Promise<void> {
  const compiler = compilerOf(environment);
  const includes = step.includes.flatMap((folder) => ['-I', folder]);
  const output = join(engine, step.output);
  const args = [...addonFlags, ...step.flags, ...includes, ...step.sources, '-o', output, ...linkFlags(engine)];
  const { exitCode, output: said } = await runProgram(compiler, args, { env: environment });
  if (exitCode === 0) return;
  const firstError = /^.*\berror:.*$/m.exec(said)?.[0] ?? lastWords(said);
  throw new InputError(
    'compile_failed',
    `${compiler} could not compile ${step.output}: ${firstError.trim()}. It needs C++17: g++ 8 or clang 7 and newer; another ` +
      'compiler can be named in CXX.',
    'CXX',
  );
}
