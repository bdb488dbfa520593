import type { MethodDefinition } from './method.ts';

/** Plain quantization-aware training: CherryQ without cherries, the baseline of the paper.  @source Cui & Wang 2024, section 6 */
export const qat: MethodDefinition = { keepsCherries: false, trains: true };
