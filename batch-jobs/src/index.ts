/** What other packages may use of the trainer in their own process: looking into, measuring and running a model folder. */
export { InputError } from './errors.ts';
export { evaluateFolder, generateText, inspectFolder } from './tools.ts';
export type { Evaluation, FolderInspection, Generation } from './tools.ts';
