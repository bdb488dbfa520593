/** What of tfjs-backend-wasm's insides our kernels use: stable, as the package is frozen at 4.22. */
import * as tf from '@tensorflow/tfjs-core';

export interface WasmBackend {
  readonly dataIdMap: {
    /** `memoryOffset` is the byte address in the backend's memory. */
    get(dataId: object): { readonly memoryOffset: number };
    has(dataId: object): boolean;
  };
  makeOutput(shape: number[], dtype: 'float32'): tf.TensorInfo;
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
