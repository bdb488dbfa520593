/** What the API may know of the trainer beside its storage. Nothing here loads an engine. */
export { supportedArchitectures } from './models/registry.ts';
export { computingPhases, measuresDivergence, planJob } from './plan-job.ts';
export type { JobPlan, KnownFigures, PhaseWork, PlannedJob } from './plan-job.ts';
export { schemeResult } from './scheme-files.ts';
export { checkIncoming, modelProblems } from './check-model.ts';
export type { IncomingCheck } from './check-model.ts';
