/** Files that reference implementations made; the scripts beside them make them again (`npm run golden`). */
import { readFileSync } from 'node:fs';

const folder = new URL('../golden/', import.meta.url);

export function goldenBytes(name: string): Uint8Array {
  return new Uint8Array(readFileSync(new URL(name, folder)));
}

/** What `make_<name>.py` wrote; its arrays are base64 of their bytes, for `unpack`. */
export function golden<Content>(name: string): Content {
  return JSON.parse(readFileSync(new URL(`${name}.json`, folder), 'utf8'));
}

/** The array that `packed` in golden_file.py wrote, e.g. `unpack(Float32Array, text)`. */
export function unpack<Values>(type: { new (buffer: ArrayBuffer): Values }, base64: string): Values {
  return new type(Uint8Array.from(Buffer.from(base64, 'base64')).buffer);
}

/** What `make_formats.py` writes: reference conversions, and the tensors of `formats.safetensors`. */
export interface FormatsGolden {
  /** Numbers, or the names of those that JSON has not. */
  tensors: Record<string, { shape: number[]; values: (number | string)[] }>;
  float32Bits: number[];
  float16Bits: number[];
  bfloat16Bits: number[];
  doubles: number[];
  doublesAsFloat16: (number | string)[];
}

export function formatsGolden(): FormatsGolden {
  return JSON.parse(readFileSync(new URL('formats.json', folder), 'utf8'));
}

const named: Readonly<Record<string, number>> = { inf: Infinity, '-inf': -Infinity, nan: NaN };

export function goldenNumber(value: number | string): number {
  return typeof value === 'number' ? value : (named[value] ?? NaN);
}
