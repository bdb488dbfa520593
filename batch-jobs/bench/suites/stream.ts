/**
 * Rounding a sharded bfloat16 checkpoint to 3 bits in groups of 128, from files to file, against PyTorch with as many
 * threads; both results are compared bit for bit. `cp` of the same files stands beside as the limit. Ours ends with its file
 * safely on the disk, as a job needs it; PyTorch and `cp` end when the system has taken theirs.
 */
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { FolderStore } from '../../src/storage/index.ts';
import { peerEnvironment } from '../allocator.ts';
import { checkpointShapes, writeCheckpoint } from '../checkpoint.ts';
import { peerPackages, peerPython } from '../peers/environment.ts';
import type { SuiteOptions, SuiteResult } from '../result.ts';
import { rowOf } from '../result.ts';

const runFile = promisify(execFile);

/** @throws Error when the two sides' tensors differ */
export async function runStreamSuite({ repeats, size, folder: parent }: SuiteOptions): Promise<SuiteResult> {
  const python = await peerPython();
  const script = path.resolve('batch-jobs/bench/peers/stream_torch.py');
  const worker = fileURLToPath(new URL('./stream-worker.js', import.meta.url));
  const threads = availableParallelism();
  const folder = await mkdtemp(path.join(parent, 'cherryq-bench-'));
  const at = (name: string): string => path.join(folder, name);
  const drop = async (name: string): Promise<void> => {
    await rm(at(name), { recursive: true, force: true });
    await settle();
  };
  try {
    const shape = checkpointShapes[size];
    const megabytes = (await writeCheckpoint(new FolderStore(folder), 'model/', shape)) / 1e6;
    await settle();
    const each = { ours: [] as number[], peer: [] as number[] };
    let peakMB = 0;
    for (let repeat = 0; repeat < repeats; repeat++) {
      const ours = await runWorker(worker, 'export', folder);
      each.ours.push(megabytes / ours.seconds);
      peakMB = Math.max(peakMB, ours.peakMB);
      await settle();
      const check = repeat === 0 ? [at('ours/model.safetensors')] : [];
      const { stdout } = await runFile(python, [script, at('model'), at('theirs'), String(threads), ...check], {
        env: peerEnvironment(),
      });
      each.peer.push(megabytes / Number(stdout));
      await drop('theirs');
      await drop('ours');
    }
    const copyStart = performance.now();
    await runFile('cp', ['-r', at('model'), at('copy')]);
    const copyRate = (megabytes * 1000) / (performance.now() - copyStart);
    await drop('copy');
    const job = await runWorker(worker, 'job', folder);
    const note = [
      `peak memory ${Math.round(peakMB)} MB`,
      `cp ${Math.round(copyRate)} MB/s`,
      `a whole job, with hashes and report, ${Math.round(megabytes / job.seconds)} MB/s and ${Math.round(job.peakMB)} MB`,
    ].join('; ');
    const what = `RTN of a ${shape.label}, ${(megabytes / 1000).toFixed(2)} GB`;
    const peer = `PyTorch ${peerPackages.torch.split('==')[1]}, ${threads} threads`;
    return { name: 'stream', peer, rows: [rowOf(what, 'MB/s', each, note)] };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function runWorker(worker: string, mode: string, folder: string): Promise<{ seconds: number; peakMB: number }> {
  const { stdout } = await runFile(process.execPath, [worker, mode, folder], { maxBuffer: 2 ** 24 });
  return JSON.parse(stdout.trim().split('\n').at(-1) as string);
}

/** Waits until what was written is on the disk, so that it does not slow what is measured next. */
async function settle(): Promise<void> {
  await runFile('sync');
}
