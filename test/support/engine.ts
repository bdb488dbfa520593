/** The engine that tests run on where any will do: `CHERRYQ_ENGINE`, so that CI runs them on two; WebAssembly without it. */
import { engineNames } from '../../batch-jobs/src/engine/engine.ts';
import type { EngineName } from '../../batch-jobs/src/engine/engine.ts';

export const testEngine: EngineName = engineNames.find((name) => name === process.env.CHERRYQ_ENGINE) ?? 'wasm';
