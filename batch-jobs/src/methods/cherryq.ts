import type { MethodDefinition } from './method.ts';

/** Cherries by impact, chosen once per row and kept in 16 bits, all weights trained together.  @source methods.md 1.4 */
export const cherryq: MethodDefinition = { keepsCherries: true, trains: true };
