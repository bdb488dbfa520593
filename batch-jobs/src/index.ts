/** What other packages may use of the trainer in their own process: looking into, measuring and running a model folder. */
export { diagnose } from './engine/doctor.ts';
export type { Diagnosis, DoctorOptions, EngineState, Speed } from './engine/doctor.ts';
export { installEngine } from './engine/native/install.ts';
export type { InstalledEngine, InstallOptions, InstallProgress } from './engine/native/install.ts';
export { packEngine } from './engine/native/pack.ts';
export type { PackedEngine } from './engine/native/pack.ts';
export { InputError } from './errors.ts';
export { evaluateFolder, generateText, inspectFolder } from './tools.ts';
export type { Evaluation, FolderInspection, Generation } from './tools.ts';
