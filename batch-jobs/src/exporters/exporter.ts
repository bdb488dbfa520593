/** What an output format is written from, and the interface of an exporter: one file each, named in `registry.ts`. */
import type { Scheme } from 'cherryq/contract';
import type { TensorToWrite } from '../formats/safetensors.ts';
import type { Cherries } from '../numeric/quantizer.ts';

export interface CompressedModel {
  /** The original's config.json. */
  readonly configJson: Readonly<Record<string, unknown>>;
  readonly scheme: Scheme;
  readonly keepsCherries: boolean;
  /** Full name and shape of every tensor, in the order in which they are written. */
  readonly shapes: ReadonlyMap<string, number[]>;
  /** Float32 values by full name, trained or as they came. */
  readonly weights: ReadonlyMap<string, Float32Array>;
  /** By full name of each linear layer; absent where there are none. */
  readonly cherries: ReadonlyMap<string, Cherries>;
  readonly isQuantized: (name: string) => boolean;
}

export interface Exporter {
  /** Folder of the artifact, ending in a slash; empty for its root. */
  readonly folder: string;
  readonly metadata: Readonly<Record<string, string>>;
  config(model: CompressedModel): Record<string, unknown>;
  tensors(model: CompressedModel): TensorToWrite[];
}

/** Config fields that name the type of the weights, as they are once written. */
export const halfPrecision = { torch_dtype: 'float16', dtype: undefined };
