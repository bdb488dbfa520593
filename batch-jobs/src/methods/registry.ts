import type { Method } from 'cherryq/contract';
import { cherryq } from './cherryq.ts';
import type { MethodDefinition } from './method.ts';
import { qat } from './qat.ts';
import { rtn } from './rtn.ts';

/** Every method of the contract; a missing or an unknown name does not compile. */
export const methods = { rtn, qat, cherryq } satisfies Record<Method, MethodDefinition>;
