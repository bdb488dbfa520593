/** What an output format is written from, and the interface of an exporter: one file each, named in `registry.ts`. */
import type { Scheme } from 'cherryq/contract';
import type { TensorToWrite } from '../formats/safetensors.ts';
import type { FloatDtype } from '../numeric/dtypes.ts';
import type { Cherries } from '../numeric/quantizer.ts';

/** A model's values, a part of a tensor at a time, in the type that they have where they come from. */
export interface WeightRanges {
  /** @throws InputError for a tensor that is missing or of a type that is not read */
  dtype(name: string): FloatDtype;
  /** Fills `into` with the tensor's values from the one at `start` on, row-major. */
  read(name: string, start: number, into: Uint8Array): Promise<void>;
}

export interface CompressedModel {
  /** The original's config.json. */
  readonly configJson: Readonly<Record<string, unknown>>;
  readonly scheme: Scheme;
  readonly keepsCherries: boolean;
  /** Full name and shape of every tensor, in the order in which they are written. */
  readonly shapes: ReadonlyMap<string, number[]>;
  /** Values by full name, trained or as they came. */
  readonly weights: WeightRanges;
  /** By full name of each linear layer; absent where there are none. */
  readonly cherries: ReadonlyMap<string, Cherries>;
  /** Scales of the columns, each a float16, by full name of each linear layer; empty where columns are not scaled. */
  readonly columnScales: ReadonlyMap<string, Float32Array>;
  readonly isQuantized: (name: string) => boolean;
}

export interface Exporter {
  /** Folder of the artifact, ending in a slash; empty for its root. */
  readonly folder: string;
  readonly metadata: Readonly<Record<string, string>>;
  config(model: CompressedModel): Record<string, unknown>;
  /** Names, types and shapes at once; the data as it is asked for, a few parts ahead (row-stream.ts). */
  tensors(model: CompressedModel): TensorToWrite[];
}

/** Config fields that name the type of the weights, as they are once written. */
export const halfPrecision = { torch_dtype: 'float16', dtype: undefined };
