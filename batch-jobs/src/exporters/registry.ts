import type { ArtifactFormat } from 'cherryq/contract';
import type { Exporter } from './exporter.ts';
import { hf } from './hf.ts';
import { native } from './native.ts';

/** Every artifact format of the contract; a missing or an unknown name does not compile. */
export const exporters = { native, hf } satisfies Record<ArtifactFormat, Exporter>;
