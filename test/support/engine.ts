/** The engine that tests run on where any will do: `CHERRYQ_ENGINE`, so that CI runs them on two; WebAssembly without it. */
import { engineNames } from 'cherryq/contract';
import type { EngineName } from 'cherryq/contract';

export const testEngine: EngineName = engineNames.find((name) => name === process.env.CHERRYQ_ENGINE) ?? 'wasm';
