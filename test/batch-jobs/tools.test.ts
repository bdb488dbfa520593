import { tmpdir } from 'node:os';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeEach, describe, expect, it, vi } from 'vitest';
import { evaluateFolder, generateText, inspectFolder } from '../../batch-jobs/src/index.ts';
import { JobFolder } from '../../batch-jobs/src/job-folder.ts';
import { runJob } from '../../batch-jobs/src/run-job.ts';
import { FolderStore } from '../../batch-jobs/src/storage/index.ts';
import { temporaryFolder } from '../support/temporary-store.ts';
import { tinyModelPrefix, tinyText, tinyWeights, writeTinyJob, writeTinyModel } from '../support/tiny-model.ts';
import { testEngine } from '../support/engine.ts';

let root: string;
let original: string;
beforeEach(async () => {
  vi.stubEnv('CHERRYQ_ENGINE', testEngine);
  root = temporaryFolder();
  original = join(root, 'original');
  await writeTinyModel(new FolderStore(root), 'original/');
});

/** Compresses the model by a job and gives the folder of its artifacts. */
async function compress(): Promise<string> {
  const store = new FolderStore(root);
  await writeTinyModel(store, tinyModelPrefix);
  const prefix = await writeTinyJob(store, { scheme: { method: 'cherryq', bits: 4 }, training: { tokens: 128 } });
  const job = await JobFolder.claim(store, prefix);
  if (job === null) throw new Error('the job has ended');
  await runJob({ store, job, forcedEngine: testEngine, scratchFolder: tmpdir(), stopRequested: () => false });
  return join(root, prefix, 'artifacts');
}

describe('inspectFolder', () => {
  it('lists what is in an original', async () => {
    const inspection = await inspectFolder(original);
    expect(inspection).toMatchObject({
      format: 'original',
      architecture: 'LlamaForCausalLM',
      parameters: [...tinyWeights().values()].reduce((sum, values) => sum + values.length, 0),
      bitsPerWeight: null,
      scheme: null,
    });
    expect(inspection.tensors).toHaveLength(20);
    expect(inspection.tensors[0]).toEqual({
      name: 'model.embed_tokens.weight',
      dtype: 'F32',
      shape: [106, 32],
      sizeBytes: 4 * 106 * 32,
      bitsPerWeight: null,
    });
  });

  it('shows each packed layer of a native folder as one tensor with its cost', async () => {
    const inspection = await inspectFolder(await compress());
    expect(inspection).toMatchObject({
      format: 'native',
      scheme: { method: 'cherryq', bits: 4, groupSize: 16, cherryFraction: 1 / 256 },
    });
    const layer = inspection.tensors.find(({ name }) => name === 'model.layers.0.self_attn.q_proj.weight');
    // 31 packed weights in 16 bytes, two scales, one cherry with its index.
    expect(layer).toEqual({
      name: 'model.layers.0.self_attn.q_proj.weight',
      dtype: '4-bit',
      shape: [32, 32],
      sizeBytes: 32 * (16 + 2 * 2 + 4),
      bitsPerWeight: 6,
    });
    const stored = inspection.tensors.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
    expect(stored).toBeLessThan(inspection.sizeBytes);
    expect(inspection.sizeBytes - stored).toBeLessThan(10_000);
  });
});

describe('evaluateFolder', () => {
  it('measures an original and what a job made of it alike', async () => {
    const text = join(root, 'text.txt');
    await writeFile(text, tinyText(1500, 5));
    const artifacts = await compress();
    const progress: number[] = [];
    const [before, native, hf] = [
      await evaluateFolder(original, text),
      await evaluateFolder(artifacts, text, { onProgress: (done, total) => progress.push(done / total) }),
      await evaluateFolder(join(artifacts, 'hf'), text),
    ];
    expect([before.format, native.format, hf.format]).toEqual(['original', 'native', 'original']);
    expect(before.engine).toBe(testEngine);
    expect(Math.abs(native.perplexity / hf.perplexity - 1)).toBeLessThan(1e-3);
    expect(native.tokens).toBe(before.tokens);
    expect(native.perplexity).not.toBe(before.perplexity);
    expect(progress.at(-1)).toBe(1);
  });

  it('measures the first tokens only where it is told so', async () => {
    const text = join(root, 'text.txt');
    await writeFile(text, tinyText(1500, 5));
    expect((await evaluateFolder(original, text, { maxTokens: 130 })).tokens).toBe(2 * 63);
  });

  it('refuses a text that is missing or empty, and weights that are not numbers', async () => {
    const text = join(root, 'text.txt');
    await expect(evaluateFolder(original, text)).rejects.toMatchObject({ code: 'missing_file', param: text });
    await writeFile(text, '');
    await expect(evaluateFolder(original, text)).rejects.toMatchObject({ code: 'empty_text', param: 'text.txt' });
    await writeFile(text, tinyText(1500, 5));
    const weights = tinyWeights();
    weights.get('model.norm.weight')?.fill(NaN);
    await writeTinyModel(new FolderStore(root), 'original/', { weights });
    await expect(evaluateFolder(original, text)).rejects.toMatchObject({
      code: 'nan_weights',
      param: 'model.norm.weight',
    });
  });
});

describe('generateText', () => {
  const greedy = { maxTokens: 12, temperature: 0, seed: 1 };

  it('continues a prompt the same way each time, from packed weights too', async () => {
    const artifacts = await compress();
    for (const folder of [original, artifacts]) {
      const first = await generateText(folder, 'the sea', greedy);
      const second = await generateText(folder, 'the sea', greedy);
      expect(first.tokens).toBeLessThanOrEqual(12);
      expect(second.text).toBe(first.text);
    }
  });

  it('draws by its seed at a temperature, and hands out the text as it comes', async () => {
    const options = { maxTokens: 20, temperature: 1, seed: 3 };
    const pieces: string[] = [];
    const first = await generateText(original, 'the sea', { ...options, onText: (piece) => pieces.push(piece) });
    expect(pieces.join('')).toBe(first.text);
    expect((await generateText(original, 'the sea', options)).text).toBe(first.text);
    expect((await generateText(original, 'the sea', { ...options, seed: 4 })).text).not.toBe(first.text);
  });

  it('ends at the end of the context', async () => {
    const { tokens } = await generateText(original, 'the sea', { maxTokens: 1000, temperature: 1, seed: 3 });
    expect(tokens).toBeLessThan(64);
  });

  it('refuses a prompt beyond the context', async () => {
    await expect(generateText(original, tinyText(400, 1), greedy)).rejects.toMatchObject({ code: 'prompt_too_long' });
  });
});
