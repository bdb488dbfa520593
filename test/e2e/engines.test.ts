/** The same job gives the same model, to rounding, on every engine. */
import { describe, expect, it } from 'vitest';
import { join } from 'node:path';
import type { JobResult } from 'cherryq/contract';
import { findNative } from '../../batch-jobs/src/engine/native/load.ts';
import { fileFolder, writeModelFolder, writeText } from './folders.ts';
import { cherryq } from './product.ts';

const folder = fileFolder();
const native = findNative('cpu');
const hasNative = !('failure' in native) || process.env.CHERRYQ_TEST_NATIVE !== undefined;
if (!hasNative && 'failure' in native) console.log(`Engines are compared without the native one: ${native.failure}.`);
const engines = ['wasm', 'cpu', ...(hasNative ? ['native'] : [])];

async function compress(engine: string, model: string, calibration: string, evaluation: string): Promise<JobResult> {
  const flags = ['--bits', '3', '--group-size', '16', '--sequence-length', '32', '--tokens', '1024'];
  const training = ['--learning-rate', '0.001', '--impact-samples', '4'];
  const texts = ['--calibration', calibration, '--evaluation', evaluation];
  const where = ['--out', join(folder, `${engine}-out`), '--data-dir', join(folder, `${engine}-data`)];
  const run = await cherryq(['compress', model, ...flags, ...training, ...texts, ...where, '--json'], {
    env: { CHERRYQ_ENGINE: engine },
  });
  expect(run.exitCode, run.stderr).toBe(0);
  return (JSON.parse(run.stdout) as { result: JobResult }).result;
}

describe(`a job on ${engines.join(', ')}`, () => {
  it('gives perplexities that agree within 1e-3', async () => {
    const model = await writeModelFolder(folder, 'model', {});
    const calibration = writeText(folder, 'calibration.txt', 6000, 1);
    const evaluation = writeText(folder, 'evaluation.txt', 4000, 2);
    const results: JobResult[] = [];
    for (const engine of engines) {
      const result = await compress(engine, model, calibration, evaluation);
      expect(result.engine).toBe(engine);
      results.push(result);
    }
    const [first, ...others] = results;
    // Training has changed the model by far more than engines may differ.
    expect(Math.abs((first.compressed.perplexity ?? 0) / (first.rounding?.perplexity ?? 1) - 1)).toBeGreaterThan(5e-3);
    for (const other of others) {
      for (const measured of ['baseline', 'rounding', 'compressed'] as const) {
        const ratio = (other[measured]?.perplexity ?? NaN) / (first[measured]?.perplexity ?? NaN);
        expect(Math.abs(ratio - 1), `${other.engine}, ${measured}`).toBeLessThan(1e-3);
      }
    }
  }, 120_000);
});
