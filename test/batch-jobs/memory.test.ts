import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { checkpointShapes, writeCheckpoint } from '../../batch-jobs/bench/checkpoint.ts';
import { openModel } from '../../batch-jobs/src/model-weights.ts';
import { FolderStore } from '../../batch-jobs/src/storage/index.ts';
import { temporaryFolder } from '../support/temporary-store.ts';

const repository = fileURLToPath(new URL('../../', import.meta.url));

/** A whole `rtn` job in a process of its own.  @returns its peak resident memory in bytes */
async function peakBytes(folder: string, layers: number): Promise<{ modelBytes: number; peak: number }> {
  const store = new FolderStore(folder);
  const { config, ...shape } = checkpointShapes.small;
  const sized = { ...shape, config: { ...config, num_hidden_layers: layers, vocab_size: 4000 } };
  const modelBytes = await writeCheckpoint(store, 'model/', sized);
  const worker = 'batch-jobs/bench/stream-worker.ts';
  const { stdout } = await promisify(execFile)(process.execPath, ['--import', 'tsx', worker, 'job', folder], {
    cwd: repository,
  });
  const { peakMB } = JSON.parse(stdout.trim().split('\n').at(-1) as string) as { peakMB: number };
  return { modelBytes, peak: peakMB * 1024 * 1024 };
}

describe('the memory of a job that rounds', () => {
  it('does not grow with the model', async () => {
    const folders = [temporaryFolder(), temporaryFolder()];
    const small = await peakBytes(folders[0], 4);
    const large = await peakBytes(folders[1], 20);
    expect(large.modelBytes).toBeGreaterThan(small.modelBytes + 380e6);
    expect(large.peak).toBeLessThan(small.peak + 100e6);
    expect(large.peak).toBeLessThan(large.modelBytes);
    const written = await openModel(new FolderStore(folders[1]), `tenants/local/jobs/${'0'.repeat(25)}J/artifacts/`);
    expect(written.native?.method).toBe('rtn');
  }, 60_000);
});
