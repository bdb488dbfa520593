/** What of tfjs-backend-wasm's insides our kernels use: stable, as the package is frozen at 4.22. */
import * as tf from '@tensorflow/tfjs-core';

export interface WasmTensor {
  /** Byte address in the backend's memory. */
  readonly memoryOffset: number;
}

export interface WasmBackend {
  readonly dataIdMap: {
    get(dataId: object): WasmTensor & { readonly id: number; readonly shape: number[]; readonly dtype: tf.DataType };
    has(dataId: object): boolean;
    set(dataId: object, data: object): void;
  };
  dataIdNextNumber: number;
  makeOutput(shape: number[], dtype: 'float32' | 'int32'): tf.TensorInfo;
  disposeData(dataId: object, force?: boolean): boolean;
  move(dataId: object, values: ArrayBufferView | null, shape: number[], dtype: tf.DataType, refCount: number): void;
  readonly wasm: {
    readonly asm: { readonly memory: WebAssembly.Memory; malloc(bytes: number): number };
    _malloc(bytes: number): number;
    _free(offset: number): void;
  };
}

/** The backend of this process.  @throws Error when another engine is open */
export function wasmBackend(): WasmBackend {
  if (tf.getBackend() !== 'wasm') throw new Error(`The WebAssembly engine is not open; ${tf.getBackend()} is.`);
  return tf.backend() as unknown as WasmBackend;
}
