/**
 * Puts the native engine under the process's one tfjs-core. tfjs-node's kernels call for `@tensorflow/tfjs`, which would
 * bring a second tfjs-core that knows none of our tensors; in an engine's folder they are given ours (install.ts).
 *
 * TensorFlow is loaded once for a process: two builds of the same library names cannot live in one.
 */
import * as tf from '@tensorflow/tfjs-core';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { bindingFile, engineFolder, engineRoot, readEngineFolder } from './folder.ts';
import { hardwareFailure, unsupportedPlatform } from './platform.ts';
import { installCommand, platformPackage } from './releases.ts';
import type { EngineKind } from './releases.ts';

export interface NativeEngine {
  readonly kind: EngineKind;
  /** Where it came from: the platform package, the cache, or an installed `@tensorflow/tfjs-node` whose download worked. */
  readonly source: 'package' | 'cache' | 'tfjs-node';
  /** Null for `tfjs-node`. */
  readonly folder: string | null;
  readonly tfjs: string;
  readonly tensorflow: string;
  readonly threads: number;
  readonly usesGpu: boolean;
}

export type NativeOutcome = { readonly engine: NativeEngine } | { readonly failure: string };

interface Binding {
  readonly TF_Version: string;
  isUsingGpuDevice(): boolean;
}

const backendName = 'tensorflow';
const coreSymbol = Symbol.for('cherryq.tfjs-core');
const require = createRequire(import.meta.url);
let loaded: NativeEngine | null = null;

/** Makes TensorFlow the process's backend.  @returns the engine, or why there is none of this kind */
export async function openNative(kind: EngineKind): Promise<NativeOutcome> {
  if (loaded === null) {
    const absent = hardwareFailure(kind);
    if (absent !== null) return { failure: absent };
    const outcome = await load(kind);
    if ('failure' in outcome) return outcome;
    loaded = outcome.engine;
  }
  // The GPU build on a machine where CUDA does not start is a CPU engine like the other.
  if (kind === 'gpu' && !loaded.usesGpu)
    return {
      failure: loaded.kind === 'gpu' ? noCudaDevice : 'the engine without CUDA is already loaded in this process',
    };
  if (kind === 'cpu' && loaded.usesGpu) return { failure: 'the engine with CUDA is already loaded in this process' };
  return (await tf.setBackend(backendName)) ? { engine: loaded } : { failure: 'TensorFlow did not start' };
}

const noCudaDevice =
  'no CUDA device: TensorFlow was loaded and found none it can use (a driver of 525.60 or newer is needed; TF_CPP_MIN_LOG_LEVEL=0 shows why)';

/** An engine that could be loaded, and where; or what stands in its way. */
export function findNative(kind: EngineKind, environment: NodeJS.ProcessEnv = process.env): FoundEngine | AbsentEngine {
  const damages: string[] = [];
  // The GPU build calculates on processors too, where it is the one that is installed.
  for (const build of kind === 'gpu' ? (['gpu'] as const) : (['cpu', 'gpu'] as const)) {
    const folders: [FoundEngine['source'], string | null][] = [
      ['package', packageFolder(platformPackage(build))],
      ['cache', engineFolder(engineRoot(environment), build)],
    ];
    for (const [source, folder] of folders) {
      if (folder === null) continue;
      const found = readEngineFolder(folder, build);
      if (found.state === 'whole') return { source, folder, build };
      if (found.state === 'damaged' && build === kind) damages.push(found.reason);
    }
    if (installedPackage(build) !== null) return { source: 'tfjs-node', folder: null, build };
  }
  if (damages.length > 0) return { failure: damages.join(', and '), broken: true };
  const advice = unsupportedPlatform() === null ? `; \`${installCommand(kind)}\` makes it` : '';
  return { failure: `not installed${advice}`, broken: false };
}

export interface FoundEngine {
  readonly source: NativeEngine['source'];
  readonly folder: string | null;
  /** What the engine was built for; `gpu` may be found for `cpu`. */
  readonly build: EngineKind;
}

export interface AbsentEngine {
  readonly failure: string;
  /** It is there, and not whole. */
  readonly broken: boolean;
}

function packageFolder(name: string): string | null {
  try {
    return dirname(require.resolve(`${name}/package.json`));
  } catch {
    return null;
  }
}

/** The folder of an installed `@tensorflow/tfjs-node` (or `-gpu`) whose own download worked. */
function installedPackage(kind: EngineKind): string | null {
  const folder = packageFolder(`@tensorflow/tfjs-node${kind === 'gpu' ? '-gpu' : ''}`);
  if (folder === null) return null;
  return existsSync(join(folder, 'lib', 'napi-v8', 'tfjs_binding.node')) ? folder : null;
}

async function load(kind: EngineKind): Promise<NativeOutcome> {
  const found = findNative(kind);
  if ('failure' in found) return { failure: found.failure };
  const { build, folder } = found;
  const threads = setThreads(process.env, build);
  if (kind === 'cpu' && build === 'gpu') process.env.CUDA_VISIBLE_DEVICES = '-1';
  try {
    return folder === null ? await loadPackage(build, threads) : { engine: loadFolder(found, folder, threads) };
  } catch (error) {
    const said = error instanceof Error ? error.message.split('\n')[0] : String(error);
    return { failure: `does not load (${said}); \`${installCommand(build, true)}\` makes it anew` };
  }
}

/** What TensorFlow reads when it starts; the user's own settings stay.  @returns threads of one operation */
export function setThreads(environment: NodeJS.ProcessEnv, kind: EngineKind): number {
  environment.TF_NUM_INTRAOP_THREADS ||= String(availableParallelism());
  environment.TF_NUM_INTEROP_THREADS ||= String(availableParallelism());
  environment.TF_CPP_MIN_LOG_LEVEL ||= '2';
  if (kind === 'gpu') environment.TF_FORCE_GPU_ALLOW_GROWTH ||= 'true';
  return Number(environment.TF_NUM_INTRAOP_THREADS);
}

/** tfjs-node 4.22 as installed calls two functions that Node.js 23 removed from `util`; they are given back. */
function restoreUtil(): void {
  const util = require('node:util') as Record<string, unknown>;
  util.isNullOrUndefined ??= (value: unknown): boolean => value === null || value === undefined;
  util.isArray ??= Array.isArray;
}

function loadFolder({ source, build: kind }: FoundEngine, folder: string, threads: number): NativeEngine {
  const global = globalThis as { [coreSymbol]?: unknown };
  // The exports themselves, as the kernels' own require would give them.
  global[coreSymbol] = require('@tensorflow/tfjs-core');
  try {
    const inFolder = createRequire(join(folder, 'tfjs-node', 'package.json'));
    const binding = inFolder(join(folder, bindingFile)) as Binding;
    const { NodeJSKernelBackend } = inFolder('./dist/nodejs_kernel_backend.js') as {
      NodeJSKernelBackend: new (binding: Binding, packageName: string) => tf.KernelBackend;
    };
    inFolder('./dist/register_all_kernels.js');
    const packageName = `@tensorflow/tfjs-node${kind === 'gpu' ? '-gpu' : ''}`;
    tf.registerBackend(backendName, () => new NodeJSKernelBackend(binding, packageName), 3);
    const read = readEngineFolder(folder, kind);
    return {
      kind,
      source,
      folder,
      tfjs: read.state === 'whole' ? read.manifest.tfjs : 'unknown',
      tensorflow: binding.TF_Version,
      threads,
      usesGpu: binding.isUsingGpuDevice(),
    };
  } finally {
    delete global[coreSymbol];
  }
}

/** The package registers its backend when it is imported, on the tfjs-core that it resolves to. */
async function loadPackage(kind: EngineKind, threads: number): Promise<NativeOutcome> {
  const name = `@tensorflow/tfjs-node${kind === 'gpu' ? '-gpu' : ''}`;
  restoreUtil();
  const { version } = (await import(name)) as { version: Record<string, string> };
  if (tf.findBackend(backendName) === null)
    return { failure: `${name} brought a tfjs-core of its own; install it at the version ${tf.version_core}` };
  await tf.setBackend(backendName);
  const { binding } = tf.backend() as tf.KernelBackend & { binding: Binding };
  return {
    engine: {
      kind,
      source: 'tfjs-node',
      folder: null,
      tfjs: version['tfjs-node'],
      tensorflow: binding.TF_Version,
      threads,
      usesGpu: binding.isUsingGpuDevice(),
    },
  };
}
