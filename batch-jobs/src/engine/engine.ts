/**
 * Picks the TensorFlow.js engine that this machine has: native GPU, native CPU, WebAssembly, plain JavaScript, in this
 * order; `CHERRYQ_ENGINE` forces one. TensorFlow.js is frozen at 4.22, so what is slow or missing in an engine is mended
 * here, and nothing outside this folder knows which engine runs.
 */
import * as tf from '@tensorflow/tfjs-core';
import { InputError } from '../errors.ts';
import { mendWasmKernels } from './wasm-kernels.ts';

export const engineNames = ['gpu', 'native', 'wasm', 'cpu'] as const;
export type EngineName = (typeof engineNames)[number];

export interface Engine {
  readonly name: EngineName;
  /** Why this one: for logs and results. */
  readonly reason: string;
}

/** Opens the engine for the process; tensors live on it from then on.  @throws InputError when a forced one is absent */
export async function openEngine(forced: string | undefined): Promise<Engine> {
  if (forced !== undefined && forced !== '' && !(engineNames as readonly string[]).includes(forced)) {
    throw new InputError(
      'unknown_engine',
      `CHERRYQ_ENGINE is "${forced}"; allowed are ${engineNames.join(', ')}. Leave it unset to take the best one present.`,
      'CHERRYQ_ENGINE',
    );
  }
  const wanted = forced ? [forced as EngineName] : engineNames;
  const failures: string[] = [];
  for (const name of wanted) {
    const failure = await tryEngine(name);
    if (failure === null) {
      await tf.ready();
      const reason = forced
        ? `CHERRYQ_ENGINE=${name}`
        : failures.length === 0
          ? 'the fastest kind'
          : `the best one present (${failures.join('; ')})`;
      return { name, reason };
    }
    failures.push(`${name}: ${failure}`);
  }
  throw new InputError('engine_absent', `No engine could be opened: ${failures.join('; ')}.`, 'CHERRYQ_ENGINE');
}

/** @returns null when the engine is open, else why it is not */
async function tryEngine(name: EngineName): Promise<string | null> {
  switch (name) {
    case 'gpu':
      return tryNative('@tensorflow/tfjs-node-gpu');
    case 'native':
      return tryNative('@tensorflow/tfjs-node');
    case 'wasm':
      return tryWasm();
    case 'cpu':
      await import('@tensorflow/tfjs-backend-cpu');
      return (await tf.setBackend('cpu')) ? null : 'did not start';
  }
}

/** The native packages register a backend called `tensorflow` on the one tfjs-core of the process when imported. */
async function tryNative(packageName: string): Promise<string | null> {
  if (tf.findBackend('tensorflow') === null) {
    try {
      await import(packageName);
    } catch (error) {
      const missing = error instanceof Error && 'code' in error && error.code === 'ERR_MODULE_NOT_FOUND';
      return missing
        ? 'not installed'
        : `does not load (${error instanceof Error ? error.message.split('\n')[0] : String(error)})`;
    }
  } else if (packageName.endsWith('-gpu')) {
    return 'not installed';
  }
  return (await tf.setBackend('tensorflow')) ? null : 'did not start';
}

async function tryWasm(): Promise<string | null> {
  const { setWasmPaths } = await import('@tensorflow/tfjs-backend-wasm');
  const packageFile = new URL(import.meta.resolve('@tensorflow/tfjs-backend-wasm'));
  setWasmPaths(decodeURIComponent(new URL('.', packageFile).pathname));
  if (!(await tf.setBackend('wasm'))) return 'WebAssembly did not start';
  mendWasmKernels();
  return null;
}
