import type { MethodDefinition } from './method.ts';

/** Cherries by impact, chosen once per row and kept in 16 bits, all weights trained together.  @source Cui & Wang 2024, algorithm 1 */
export const cherryq: MethodDefinition = { keepsCherries: true, trains: true };
