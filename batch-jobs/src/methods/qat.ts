import type { MethodDefinition } from './method.ts';

/** Plain quantization-aware training: CherryQ without cherries, the baseline of the paper.  @source methods.md 1.4, 2.2 */
export const qat: MethodDefinition = { keepsCherries: false, trains: true };
