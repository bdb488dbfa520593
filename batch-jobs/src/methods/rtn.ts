import type { MethodDefinition } from './method.ts';

/**
 * Round to nearest: each weight goes to the closest level of its group; no data. It uses the same levels as `qat` and
 * `cherryq`, so that a comparison shows what training and cherries add and nothing else.
 * @source the grid of Cui & Wang 2024, appendix C
 */
export const rtn: MethodDefinition = { keepsCherries: false, trains: false };
