import type { Exporter } from './exporter.ts';
import { hf } from './hf.ts';
import { native } from './native.ts';

/** Every artifact format of the contract, in the order in which they are written. */
export const exporters = { native, hf } satisfies Record<'native' | 'hf', Exporter>;
