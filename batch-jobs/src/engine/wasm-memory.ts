/**
 * Bounds the memory of the WebAssembly engine. Its heap has 32-bit addresses, so it ends at 4 GB; as shipped, a tensor that
 * no longer fits is written to address 0, over the engine's own data. Here it is refused, with what to do about it.
 */
import * as tf from '@tensorflow/tfjs-core';
import { InputError } from '../errors.ts';
import type { WasmBackend } from './wasm-backend.ts';

export interface EngineMemory {
  /** Bytes of the tensors held. */
  readonly usedBytes: number;
  /** The most that was held at once since the engine was opened. */
  readonly peakBytes: number;
  /** Bytes that the engine has taken from the system: what is freed stays for later tensors. */
  readonly reservedBytes: number;
  /** What it may take in all. */
  readonly limitBytes: number;
}

/** The largest heap that the package's allocator asks for: 4 GiB less a page of 64 KiB. */
const heapLimitBytes = 4294901760;
/** Room for the package's stack, code data and packed weights, and for gaps between tensors. */
const spareBytes = 128 * 1024 * 1024;

interface Meter {
  used: number;
  peak: number;
  readonly sizes: WeakMap<object, number>;
}

const meters = new WeakMap<WasmBackend, Meter>();

/** Replaces how a backend takes and returns memory; calling it again changes nothing. */
export function boundWasmMemory(backend: WasmBackend): void {
  if (meters.has(backend)) return;
  const meter: Meter = { used: 0, peak: 0, sizes: new WeakMap() };
  meters.set(backend, meter);
  const { move, disposeData } = backend;
  const { malloc } = backend.wasm.asm;
  let asked: readonly number[] = [];
  backend.wasm._malloc = (bytes) => {
    const offset = meter.used + bytes > heapLimitBytes - spareBytes ? 0 : malloc(bytes);
    if (offset === 0 && bytes > 0) throw tooLarge(bytes, asked, meter.used);
    return offset;
  };
  backend.move = (dataId, values, shape, dtype, refCount) => {
    asked = shape;
    move.call(backend, dataId, values, shape, dtype, refCount);
    const bytes = dtype === 'string' ? 0 : tf.util.sizeFromShape(shape) * tf.util.bytesPerElement(dtype);
    meter.sizes.set(dataId, bytes);
    meter.used += bytes;
    meter.peak = Math.max(meter.peak, meter.used);
  };
  backend.disposeData = (dataId, force) => {
    const held = backend.dataIdMap.has(dataId);
    const gone = disposeData.call(backend, dataId, force);
    if (held && gone) meter.used -= meter.sizes.get(dataId) ?? 0;
    return gone;
  };
}

/** @returns null when it has not been bounded, so for other engines */
export function wasmMemory(backend: WasmBackend): EngineMemory | null {
  const meter = meters.get(backend);
  if (!meter) return null;
  return {
    usedBytes: meter.used,
    peakBytes: meter.peak,
    reservedBytes: backend.wasm.asm.memory.buffer.byteLength,
    limitBytes: heapLimitBytes,
  };
}

function tooLarge(bytes: number, shape: readonly number[], used: number): InputError {
  const megabytes = (value: number): string => `${Math.ceil(value / 1e6).toLocaleString('en')} MB`;
  return new InputError(
    'engine_memory',
    `The WebAssembly engine cannot hold ${megabytes(bytes)} more (a tensor of [${shape.join(', ')}]): ` +
      `${megabytes(used)} are in use, and it ends at ${megabytes(heapLimitBytes)} or where this machine's memory does. ` +
      'Use a smaller batch or shorter sequences, or the native engine, which has no such limit (npx cherryq engine install).',
    'CHERRYQ_ENGINE',
  );
}
