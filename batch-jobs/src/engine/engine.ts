/**
 * Picks the TensorFlow.js engine that this machine has: native GPU, native CPU, WebAssembly, plain JavaScript, in this
 * order; `CHERRYQ_ENGINE` forces one. TensorFlow.js is frozen at 4.22, so what is slow or missing in an engine is mended
 * here, and nothing outside this folder knows which engine runs.
 */
import { engineNames, type EngineName } from 'cherryq/contract';
import * as tf from '@tensorflow/tfjs-core';
import { InputError } from '../errors.ts';
import { registerComposedKernels } from './composed-kernels.ts';
import { registerNativeKernels } from './native-kernels.ts';
import { openNative } from './native/load.ts';
import type { NativeEngine } from './native/load.ts';
import { wasmBackend } from './wasm-backend.ts';
import { registerWasmKernels } from './wasm-kernels.ts';
import type { EngineMemory } from './wasm-memory.ts';
import { boundWasmMemory, wasmMemory } from './wasm-memory.ts';

export interface Engine {
  readonly name: EngineName;
  /** Why this one: for logs and results. */
  readonly reason: string;
  /** What of TensorFlow it is made of; null for `wasm` and `cpu`. */
  readonly native: NativeEngine | null;
  /** The faster kinds, each with what kept it from being taken; empty for a forced one. */
  readonly passedOver: { readonly name: EngineName; readonly failure: string }[];
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
  const passedOver: Engine['passedOver'] = [];
  for (const name of wanted) {
    const { failure, native } = await tryEngine(name);
    if (failure === null) {
      await tf.ready();
      registerKernels(name);
      const reason = forced
        ? `CHERRYQ_ENGINE=${name}`
        : passedOver.length === 0
          ? 'the fastest kind'
          : `the best one present (${listed(passedOver)})`;
      return { name, reason, native, passedOver };
    }
    passedOver.push({ name, failure });
  }
  throw new InputError('engine_absent', `No engine could be opened: ${listed(passedOver)}.`, 'CHERRYQ_ENGINE');
}

/** Memory of the engine that is open; null for those that have no limit of their own. */
export function engineMemory(): EngineMemory | null {
  return tf.getBackend() === 'wasm' ? wasmMemory(wasmBackend()) : null;
}

/** Gives the engine that is open the operations of fused.ts. */
function registerKernels(name: EngineName): void {
  switch (name) {
    case 'gpu':
    case 'native':
      return registerNativeKernels();
    case 'wasm':
      boundWasmMemory(wasmBackend());
      return registerWasmKernels();
    case 'cpu':
      return registerComposedKernels('cpu');
  }
}

function listed(passedOver: Engine['passedOver']): string {
  return passedOver.map(({ name, failure }) => `${name}: ${failure}`).join('; ');
}

/** `failure` is null when the engine is open, else it says why it is not. */
async function tryEngine(name: EngineName): Promise<{ failure: string | null; native: NativeEngine | null }> {
  switch (name) {
    case 'gpu':
    case 'native': {
      const outcome = await openNative(name === 'gpu' ? 'gpu' : 'cpu');
      return 'failure' in outcome
        ? { failure: outcome.failure, native: null }
        : { failure: null, native: outcome.engine };
    }
    case 'wasm':
      return { failure: await tryWasm(), native: null };
    case 'cpu':
      await import('@tensorflow/tfjs-backend-cpu');
      return { failure: (await tf.setBackend('cpu')) ? null : 'did not start', native: null };
  }
}

async function tryWasm(): Promise<string | null> {
  const { setWasmPaths } = await import('@tensorflow/tfjs-backend-wasm');
  const packageFile = new URL(import.meta.resolve('@tensorflow/tfjs-backend-wasm'));
  setWasmPaths(decodeURIComponent(new URL('.', packageFile).pathname));
  if (!(await tf.setBackend('wasm'))) return 'WebAssembly did not start';
  return null;
}
