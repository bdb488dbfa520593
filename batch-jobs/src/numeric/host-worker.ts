/** What the host threads can run: each export is a task, called by its name with one argument (pool.ts). */
export { fakeQuantizeRows } from './fake-quantize.ts';
export { roundMatrices, squareSums, updateWeights } from './train-tasks.ts';
export { compareNumbers, compareRows, halveNumbers, quantizeRows, roundRows } from './quantize-tasks.ts';
