/**
 * WebAssembly modules compiled from batch-jobs/kernels, one instance of each per thread, with a memory that callers lay
 * their arrays out in anew for each call.
 */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

/** Hands out arrays of the module's memory, one after another, each at a multiple of 16 bytes. */
export interface Arena {
  /** An odd length is followed by room for the elements that a vector of four touches. */
  float32(length: number): Float32Array;
  uint32(length: number): Uint32Array;
  bytes(length: number): Uint8Array;
}

interface Loaded {
  readonly memory: WebAssembly.Memory;
  readonly kernels: unknown;
}

const loaded = new Map<string, Loaded>();
const pageBytes = 65_536;

/**
 * The kernels of a module and its memory, empty: arrays of an earlier call are overwritten.
 * @param name of the module, as its source file   @param bytes that the arrays will take in all
 */
export function loadKernels<Kernels>(name: string, bytes: number): { kernels: Kernels; arena: Arena } {
  let module = loaded.get(name);
  if (!module) loaded.set(name, (module = instantiate(name)));
  const { memory } = module;
  // Each array may begin up to 15 bytes later, and a few arrays are the most that a kernel takes.
  const missing = bytes + 16 * pageBytes - memory.buffer.byteLength;
  if (missing > 0) memory.grow(Math.ceil(missing / pageBytes));
  return { kernels: module.kernels as Kernels, arena: arenaOf(memory.buffer) };
}

function instantiate(name: string): Loaded {
  const memory = new WebAssembly.Memory({ initial: 32 });
  const file = createRequire(import.meta.url).resolve(`@cherryq/batch-jobs/kernels/${name}.wasm`);
  const instance = new WebAssembly.Instance(new WebAssembly.Module(readFileSync(file)), { env: { memory } });
  return { memory, kernels: instance.exports };
}

function arenaOf(buffer: ArrayBuffer): Arena {
  let next = 0;
  const take = (bytes: number): number => {
    const at = next;
    next = Math.ceil((next + bytes) / 16) * 16;
    return at;
  };
  return {
    float32: (length) => new Float32Array(buffer, take(4 * length), length),
    uint32: (length) => new Uint32Array(buffer, take(4 * length), length),
    bytes: (length) => new Uint8Array(buffer, take(length), length),
  };
}
