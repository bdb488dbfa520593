/** What a job leaves can be used: both formats hold the same model, and every command reads them. */
import { beforeAll, describe, expect, it } from 'vitest';
import { execFileSync } from 'node:child_process';
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { loadQuantized } from 'cherryq/node';
import { manifestSchema, type JobResult, type Manifest } from 'cherryq/contract';
import { openSafetensors, readTensor } from '../../batch-jobs/src/formats/safetensors.ts';
import { float16ToFloat32, float32ToFloat16 } from '../../batch-jobs/src/numeric/dtypes.ts';
import { FolderStore } from '../../batch-jobs/src/storage/index.ts';
import { numpyPython } from '../support/python.ts';
import { fileFolder, writeModelFolder, writeText, type ModelForm } from './folders.ts';
import { cherryq, hashesOf } from './product.ts';

const folder = fileFolder();
let calibration: string;
let evaluation: string;
let compressed: Compressed;

interface Compressed {
  model: string;
  out: string;
  result: JobResult;
  manifest: Manifest;
}

/** Runs `cherryq compress` with a server of its own. */
async function compress(name: string, form: ModelForm, ...flags: string[]): Promise<Compressed> {
  const model = await writeModelFolder(folder, name, form);
  const out = join(folder, `${name}-out`);
  const training = ['--sequence-length', '32', '--tokens', '4096', '--learning-rate', '0.005', '--impact-samples', '4'];
  const texts = ['--calibration', calibration, '--evaluation', evaluation];
  const where = ['--out', out, '--data-dir', join(folder, 'data')];
  const { result, manifest } = await json<Compressed>('compress', model, ...flags, ...training, ...texts, ...where);
  return { model, out, result, manifest };
}

/** Runs a command that must succeed.  @returns what it prints with `--json`, which is all that it prints */
async function json<Value>(...args: string[]): Promise<Value> {
  const { exitCode, stdout, stderr } = await cherryq([...args, '--json']);
  expect(exitCode, stderr).toBe(0);
  return JSON.parse(stdout) as Value;
}

beforeAll(async () => {
  calibration = writeText(folder, 'calibration.txt', 6000, 1);
  evaluation = writeText(folder, 'evaluation.txt', 4000, 2);
  compressed = await compress('model', {}, '--bits', '3', '--group-size', '16');
});

describe('the result of `cherryq compress`', () => {
  it('B12, B13: is the files of the manifest, with their sizes and hashes, and nothing else', () => {
    const manifest = manifestSchema.parse(JSON.parse(readFileSync(join(compressed.out, 'manifest.json'), 'utf8')));
    expect(compressed.manifest).toEqual(manifest);
    const { 'manifest.json': own, ...files } = hashesOf(compressed.out);
    expect(own).toBeDefined();
    expect(files).toEqual(Object.fromEntries(manifest.files.map(({ path, sha256 }) => [path, sha256])));
    for (const { path, sizeBytes } of manifest.files)
      expect(readFileSync(join(compressed.out, path)).length, path).toBe(sizeBytes);
  });

  it('has learned: better than rounding, smaller than the original', () => {
    const { baseline, rounding, compressed: ours } = compressed.result;
    expect(ours.perplexity).toBeLessThan((rounding?.perplexity ?? 0) * 0.8);
    expect(ours.sizeBytes).toBeLessThan(baseline.sizeBytes / 2);
  });

  it('B10: has the perplexity that the job states, in both formats, which agree within 1e-3', async () => {
    const { model, out, result } = compressed;
    const stated = { [model]: result.baseline, [out]: result.compressed, [join(out, 'hf')]: result.hf };
    const measured: number[] = [];
    for (const [path, measurement] of Object.entries(stated)) {
      const { perplexity } = await json<{ perplexity: number }>('eval', path, '--text', evaluation);
      expect(perplexity, path).toBeCloseTo(measurement?.perplexity ?? 0, 9);
      measured.push(perplexity);
    }
    const [, native, hf] = measured;
    expect(Math.abs(hf / native - 1)).toBeLessThan(1e-3);
  });

  it('B6, B7: has the bits that config.json says in each linear layer, none left out, and is not read with others', async () => {
    const { out } = compressed;
    const { quantization, names, read } = await loadQuantized(out);
    const linear = names.filter((name) => /_proj\.weight$/.test(name));
    expect(linear).toHaveLength(7 * 2);
    for (const name of linear) {
      const tensor = await read(name);
      if (tensor.kind !== 'quantized') throw new Error(`${name} is not quantized`);
      const [rows, columns] = tensor.shape;
      const integers = columns - tensor.cherriesPerRow;
      expect(tensor.packed.length, name).toBe(rows * Math.ceil((integers * quantization.bits) / 8));
    }
    const configFile = join(out, 'config.json');
    const config = JSON.parse(readFileSync(configFile, 'utf8')) as { quantization_config: { bits: number } };
    const otherBits = { ...config, quantization_config: { ...config.quantization_config, bits: 4 } };
    const copy = join(folder, 'other-bits');
    cpSync(out, copy, { recursive: true });
    writeFileSync(join(copy, 'config.json'), JSON.stringify(otherBits));
    const { exitCode, stderr } = await cherryq(['eval', copy, '--text', evaluation]);
    expect({ exitCode, stderr }).toEqual({ exitCode: 2, stderr: expect.stringContaining('qweight') });
  });

  it('is told by `cherryq inspect`', async () => {
    const { out, result } = compressed;
    const packed = await json<Record<string, unknown>>('inspect', out);
    expect(packed).toMatchObject({
      format: 'native',
      architecture: 'LlamaForCausalLM',
      parameters: result.parameters,
      sizeBytes: result.compressed.sizeBytes,
      bitsPerWeight: result.compressed.bitsPerWeight,
      scheme: { method: 'cherryq', bits: 3, groupSize: 16 },
    });
    const text = await cherryq(['inspect', join(out, 'hf')]);
    expect(text.stdout).toContain('model.layers.1.mlp.down_proj.weight');
  });

  it('goes on with a prompt, from the packed weights as from the float16 copy', async () => {
    const { out } = compressed;
    const prompt = ['the sea and', '--max-tokens', '12', '--temperature', '0'];
    const packed = await json<{ text: string; tokens: number }>('generate', out, ...prompt);
    expect(packed.tokens).toBe(12);
    expect(packed.text).toMatch(/[a-z ]{8,}/);
    expect(await json('generate', join(out, 'hf'), ...prompt)).toMatchObject({ text: packed.text });
    expect((await cherryq(['generate', out, ...prompt])).stdout).toContain(packed.text);
  });

  it('is not compressed again', async () => {
    const again = ['compress', compressed.out, '--method', 'rtn', '--bits', '2', '--group-size', '16'];
    const where = ['--out', join(folder, 'again'), '--data-dir', join(folder, 'data')];
    const { exitCode, stderr } = await cherryq([...again, ...where]);
    expect({ exitCode, stderr }).toEqual({ exitCode: 2, stderr: expect.stringMatching(/Give the original/) });
  });
});

describe('`cherryq compress` takes', () => {
  const untied = { tie_word_embeddings: false };

  it('shards, with the result of one file', async () => {
    const { out, manifest } = await compress('sharded', { shards: 3 }, '--bits', '3', '--group-size', '16');
    expect(readFileSync(join(out, 'model.safetensors'))).toEqual(
      readFileSync(join(compressed.out, 'model.safetensors')),
    );
    expect(manifest.files.map(({ path }) => path)).not.toContain('model.safetensors.index.json');
  });

  it('B8: a tied head that is stored too, and writes it once, in both formats', async () => {
    const { out } = await compress('repeated-head', { repeatsHead: true }, '--bits', '3', '--group-size', '16');
    for (const folderOf of [out, join(out, 'hf')]) {
      const { tensors } = await json<{ tensors: { name: string }[] }>('inspect', folderOf);
      const ends = tensors.map(({ name }) => name).filter((name) => /embed_tokens|lm_head/.test(name));
      expect(ends).toEqual(['model.embed_tokens.weight']);
      const { tie_word_embeddings: tied } = JSON.parse(readFileSync(join(folderOf, 'config.json'), 'utf8')) as {
        tie_word_embeddings: boolean;
      };
      expect(tied).toBe(true);
    }
    expect(readFileSync(join(out, 'model.safetensors'))).toEqual(
      readFileSync(join(compressed.out, 'model.safetensors')),
    );
  });

  it.each<{ what: string; name: string; form: ModelForm; flags: string[] }>([
    {
      what: 'bfloat16 in shards, by qat',
      name: 'bfloat16',
      form: { dtype: 'BF16', shards: 2 },
      flags: ['--method', 'qat', '--bits', '4', '--group-size', '16'],
    },
    {
      what: 'an untied head, by cherryq at 2 bits',
      name: 'untied',
      form: { config: untied },
      flags: ['--bits', '2', '--group-size', '16'],
    },
    {
      what: 'an untied head in bfloat16, by rtn at 8 bits with a scale per row',
      name: 'untied-bfloat16',
      form: { dtype: 'BF16', config: untied },
      flags: ['--method', 'rtn', '--bits', '8', '--group-size', 'row'],
    },
  ])('$what', async ({ name, form, flags }) => {
    const { out, model, result } = await compress(name, form, ...flags);
    expect(result.baseline.perplexity).toBeGreaterThan(1);
    expect(Math.abs((result.hf?.perplexity ?? 0) / (result.compressed.perplexity ?? 1) - 1)).toBeLessThan(1e-3);
    const original = await json<{ perplexity: number }>('eval', model, '--text', evaluation);
    expect(original.perplexity).toBeCloseTo(result.baseline.perplexity ?? 0, 9);
    const inspected = await json<{ tensors: { name: string }[] }>('inspect', out);
    expect(inspected.tensors.some(({ name: tensor }) => tensor === 'lm_head.weight')).toBe(form.config === untied);
  });
});

const python = await numpyPython('the reader in Python');

describe.runIf(python !== null)('the reader in Python', () => {
  it('reads the packed weights, and the float16 copy holds the same', async () => {
    const reader = fileURLToPath(new URL('../../docs/examples/read_native.py', import.meta.url));
    const read = join(folder, 'read.safetensors');
    execFileSync(python ?? '', [reader, compressed.out, read]);
    const store = new FolderStore(folder);
    const weights = await openSafetensors(store, 'read.safetensors');
    const hf = new FolderStore(join(compressed.out, 'hf'));
    const copy = await openSafetensors(hf, 'model.safetensors');
    expect([...weights.tensors.keys()].toSorted()).toEqual([...copy.tensors.keys()].toSorted());
    for (const [name, info] of copy.tensors) {
      const values = await readTensor(store, weights.tensors.get(name) ?? info);
      expect(float16ToFloat32(float32ToFloat16(values)), name).toEqual(await readTensor(hf, info));
    }
  });
});
