/**
 * What a job takes of memory by the formula of docs/memory.md, and what one really took:
 * `npm run memory [-- --measure full|small ...] [--engine name] [--folder path] [--training json] [--markdown file]`.
 * Without `--measure` it prints the estimates for Llama-2's two smaller sizes on GPUs. `--measure full` makes a checkpoint of
 * TinyLlama's shape (1.1 billion parameters) with seeded weights, takes it through impact and two training steps, and compares;
 * `small` does it with 140 million. `--markdown` puts the tables into the file, between the lines `<!-- estimates -->` and
 * `<!-- measured -->` and their ends.
 */
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import { schemeSchema, trainingSchema } from 'cherryq/contract';
import type { Training } from 'cherryq/contract';
import type { EngineName } from 'cherryq/contract';
import type { DecoderConfig } from '../src/models/decoder-config.ts';
import { parseModelConfig } from '../src/models/registry.ts';
import { FolderStore } from '../src/storage/index.ts';
import type { PhaseMemory } from '../src/training/memory.ts';
import { memoryNeeded, sumOfParts } from '../src/training/memory.ts';
import { runAsWorkersDo } from './allocator.ts';
import { checkpointShapes, writeCheckpoint } from './checkpoint.ts';
import { markdownTable, putTable } from './markdown.ts';
import type { WorkerResult } from './memory-worker.ts';

const { values } = parseArgs({
  options: {
    measure: { type: 'string', multiple: true, default: [] },
    engine: { type: 'string' },
    folder: { type: 'string', default: tmpdir() },
    training: { type: 'string', default: '{}' },
    markdown: { type: 'string' },
  },
});
const unknown = values.measure.filter((size) => size !== 'full' && size !== 'small');
if (unknown.length > 0) {
  console.error(`--measure is "${unknown[0]}"; allowed are full and small.`);
  process.exit(2);
}
runAsWorkersDo();

const gigabytes = (bytes: number): string => (bytes / 1e9).toFixed(2);
const scheme = schemeSchema.parse({});
const impactWindows = 4;
const steps = 2;

const tables: Record<string, string> = {};
if (values.measure.length === 0) tables.estimates = estimates();
else tables.measured = await measurements();
for (const table of Object.values(tables)) console.log(`\n${table}`);
if (values.markdown !== undefined)
  for (const [name, table] of Object.entries(tables)) await putTable(values.markdown, name, table);

/** Largest of both phases, in bytes. */
function peaks(config: DecoderConfig, training: Training, engine: EngineName): { host: number; device: number } {
  const { impact, training: steps } = memoryNeeded({ config, scheme, training, engine });
  const most = (where: keyof PhaseMemory): number => Math.max(sumOfParts(impact[where]), sumOfParts(steps[where]));
  return { host: most('host'), device: most('device') };
}

function estimates(): string {
  const models = [
    { name: 'Llama-2 7B', config: checkpointShapes.full.config },
    {
      name: 'Llama-2 13B',
      config: {
        ...checkpointShapes.full.config,
        hidden_size: 5120,
        intermediate_size: 13_824,
        num_hidden_layers: 40,
        num_attention_heads: 40,
      },
    },
  ];
  const settings: { name: string; training: Partial<Training> }[] = [
    { name: 'end to end, 128 windows a step', training: { batchSize: 128 } },
    { name: 'the same, moments in bfloat16', training: { batchSize: 128, moments: 'bfloat16' } },
    { name: 'the same, moments in a file', training: { batchSize: 128, moments: 'bfloat16', momentsIn: 'file' } },
    { name: 'the same, 512 tokens a window', training: { batchSize: 128, moments: 'bfloat16', sequenceLength: 512 } },
    { name: 'block by block, 16 windows a step', training: { batchSize: 16, mode: 'blockWise' } },
  ];
  const cards = [24, 40, 80];
  const rows = models.flatMap(({ name, config }) =>
    settings.map((setting) => {
      const training = trainingSchema.parse({ sequenceLength: 2048, tokens: 102_400_000, ...setting.training });
      const parsed = parseModelConfig(config);
      const { host, device } = peaks(parsed, training, 'gpu');
      const { diskBytes } = memoryNeeded({ config: parsed, scheme, training, engine: 'gpu' });
      const fits = cards.map((card) => (device <= card * 1e9 ? 'fits' : 'no'));
      return [name, setting.name, gigabytes(device), ...fits, gigabytes(host), gigabytes(diskBytes)];
    }),
  );
  const head = ['model', 'training', 'GPU, GB', ...cards.map((card) => `${card} GB`), 'main memory, GB', 'file, GB'];
  return markdownTable(head, rows);
}

async function measurements(): Promise<string> {
  const rows: string[][] = [];
  for (const size of values.measure) {
    const shape = checkpointShapes[size === 'full' ? 'billion' : 'small'];
    const training = trainingSchema.parse({
      sequenceLength: 512,
      batchSize: 2,
      tokens: 2 * 2 * 512,
      impactSamples: impactWindows,
      moments: 'bfloat16',
      ...(JSON.parse(values.training) as Partial<Training>),
    });
    const result = await runWorker(shape, training);
    const engine = result.engine as EngineName;
    const needed = memoryNeeded({ config: parseModelConfig(shape.config), scheme, training, engine });
    const { sequenceLength, batchSize, moments, momentsIn } = training;
    for (const phase of ['impact', 'training'] as const) {
      const { peakBytes, seconds, tokens } = result[phase];
      const parts = [...needed[phase].host, ...needed[phase].device];
      console.log(`\n${shape.label}, ${phase} on ${engine}`);
      for (const { part, bytes } of parts) console.log(`  ${gigabytes(bytes).padStart(8)} GB  ${part}`);
      const formula = sumOfParts(parts);
      rows.push([
        shape.label,
        phase === 'impact'
          ? `impact, ${impactWindows} windows of ${sequenceLength}`
          : `${steps} steps, ${batchSize} x ${sequenceLength} tokens, moments in ${moments}${momentsIn === 'file' ? ' in a file' : ''}`,
        engine,
        gigabytes(peakBytes),
        gigabytes(formula),
        (peakBytes / formula).toFixed(2),
        (tokens / seconds).toFixed(1),
      ]);
    }
  }
  const head = ['model', 'phase', 'engine', 'peak, GB', 'formula, GB', 'peak / formula', 'tokens/s'];
  return markdownTable(head, rows);
}

async function runWorker(shape: (typeof checkpointShapes)['full'], training: Training): Promise<WorkerResult> {
  const folder = await mkdtemp(path.join(values.folder, 'cherryq-memory-'));
  try {
    await writeCheckpoint(new FolderStore(folder), 'model/', shape);
    const worker = fileURLToPath(new URL('./memory-worker.js', import.meta.url));
    const options = [worker, folder, String(impactWindows), String(steps), JSON.stringify(training)];
    const env = { ...process.env, ...(values.engine === undefined ? {} : { CHERRYQ_ENGINE: values.engine }) };
    const { stdout, stderr } = await promisify(execFile)(process.execPath, options, { env, maxBuffer: 2 ** 24 });
    process.stderr.write(stderr);
    return JSON.parse(stdout.trim().split('\n').at(-1) as string) as WorkerResult;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
