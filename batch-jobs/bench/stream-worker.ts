/**
 * Our side of the suite `stream`, in a process of its own: rounds the model under `model/` of a folder once and prints
 * {seconds, peakMB}. `export` reads, rounds, packs and writes; `job` is a whole job with its hashes and report.
 *
 * Usage: stream-worker.js <export|job> <folder>
 */
import { tmpdir } from 'node:os';
import { existsSync, readFileSync } from 'node:fs';
import { jobSpecSchema, schemeSchema } from 'cherryq/contract';
import { native } from '../src/exporters/native.ts';
import { safetensorsBytes } from '../src/formats/safetensors.ts';
import { JobFolder } from '../src/job-folder.ts';
import { openModel, weightsInFiles } from '../src/model-weights.ts';
import { isLinear } from '../src/models/decoder-config.ts';
import { runJob } from '../src/run-job.ts';
import { FolderStore } from '../src/storage/index.ts';

const [, , mode, folder] = process.argv;
const store = new FolderStore(folder);
const scheme = schemeSchema.parse({ method: 'rtn', bits: 3, groupSize: 128 });
const start = performance.now();
await (mode === 'job' ? wholeJob() : exportOnly());
const seconds = (performance.now() - start) / 1000;
console.log(JSON.stringify({ seconds, peakMB: peakMB() }));
process.exit(0);

async function exportOnly(): Promise<void> {
  const model = await openModel(store, 'model/');
  const tensors = native.tensors({
    configJson: model.folder.configJson,
    scheme,
    keepsCherries: false,
    shapes: model.shapes,
    weights: weightsInFiles(store, model.folder),
    cherries: new Map(),
    columnScales: new Map(),
    isQuantized: isLinear,
  });
  await store.put('ours/model.safetensors', safetensorsBytes(tensors, native.metadata).chunks);
}

async function wholeJob(): Promise<void> {
  const id = (letter: string): string => '0'.repeat(25) + letter;
  const prefix = `tenants/local/jobs/${id('J')}/`;
  const spec = jobSpecSchema.parse({
    id: id('J'),
    createdAt: '2026-01-01T00:00:00.000Z',
    modelId: id('M'),
    modelName: 'bench',
    modelPrefix: 'model/',
    calibrationPrefix: null,
    evaluationPrefix: null,
    tasks: [],
    analysisPrefixes: [],
    scheme,
    training: {},
    formats: ['native'],
  });
  await store.put(`${prefix}spec.json`, new TextEncoder().encode(JSON.stringify(spec)));
  const job = await JobFolder.claim(store, prefix);
  if (job === null) throw new Error('The job of this folder has ended already; give a new folder.');
  await runJob({ store, job, forcedEngine: 'cpu', scratchFolder: tmpdir(), stopRequested: () => false });
}

/** Largest resident memory of the process, all its threads included; on Linux without what its parent had when it began. */
function peakMB(): number {
  const status = existsSync('/proc/self/status') ? readFileSync('/proc/self/status', 'utf8') : '';
  const [, kilobytes] = /^VmHWM:\s+(\d+) kB$/m.exec(status) ?? [];
  return Number(kilobytes ?? process.resourceUsage().maxRSS) / 1024;
}
