import type { MethodDefinition } from './method.ts';

/**
 * Round to nearest: each weight goes to the closest level of its group; no data. It uses the same levels as `qat` and
 * `cherryq`, so that a comparison shows what training and cherries add and nothing else.
 * @source methods.md 2.1 (with the grid of 1.4)
 */
export const rtn: MethodDefinition = { keepsCherries: false, trains: false };
