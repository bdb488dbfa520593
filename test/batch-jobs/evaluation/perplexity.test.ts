import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { schemeSchema } from 'cherryq/contract';
import { beforeAll, describe, expect, it } from 'vitest';
import { openEngine } from '../../../batch-jobs/src/engine/engine.ts';
import { measurePerplexity } from '../../../batch-jobs/src/evaluation/perplexity.ts';
import { exporters } from '../../../batch-jobs/src/exporters/registry.ts';
import { safetensorsBytes } from '../../../batch-jobs/src/formats/safetensors.ts';
import type { OpenedModel } from '../../../batch-jobs/src/model-weights.ts';
import { openModel, weightsInFiles } from '../../../batch-jobs/src/model-weights.ts';
import { isLinear } from '../../../batch-jobs/src/models/decoder-config.ts';
import { Decoder } from '../../../batch-jobs/src/models/decoder.ts';
import { segmentsOf } from '../../../batch-jobs/src/job-inputs.ts';
import { FolderStore } from '../../../batch-jobs/src/storage/index.ts';
import { evaluateFolder } from '../../../batch-jobs/src/tools.ts';
import { golden } from '../../support/golden.ts';
import { temporaryStore } from '../../support/temporary-store.ts';
import { tinyText, writeTinyModel } from '../../support/tiny-model.ts';
import { testEngine } from '../../support/engine.ts';

interface PerplexityGolden {
  modelSha256: string;
  textSha256: string;
  maxTokens: number;
  predictedTokens: number;
  firstIds: number[];
  perplexity: number;
  /** The blocks' matrices of the damaged copy are rounded to multiples of one over this. */
  roundedTo: number;
  roundedPerplexity: number;
  divergence: { mean: number; percentile99: number };
}

const demo = fileURLToPath(new URL('../../../demo/', import.meta.url));
const modelFolder = `${demo}model`;
const textFile = `${demo}test.txt`;
const sha256 = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex');

beforeAll(async () => {
  await openEngine(testEngine);
});

async function segmentsOfText(model: OpenedModel, text: string, maxTokens?: number): Promise<Int32Array[]> {
  const store = await temporaryStore({ 'text.txt': text });
  return segmentsOf(store, 'text.txt', model, { tokenizer: model.tokenizer, template: null }, maxTokens);
}

describe('the perplexity of the shipped model', () => {
  const reference = golden<PerplexityGolden>('perplexity');

  it('has a reference made from the same model and text (npm run golden makes it again)', () => {
    expect(reference.modelSha256).toBe(sha256(`${modelFolder}/model.safetensors`));
    expect(reference.textSha256).toBe(sha256(textFile));
  });

  it('is measured on the tokens that the reference tokenizer makes', async () => {
    const model = await openModel(new FolderStore(modelFolder), '');
    const segments = await segmentsOfText(model, readFileSync(textFile, 'utf8'), reference.maxTokens);
    expect([...segments[0].subarray(0, 64)]).toEqual(reference.firstIds);
    expect(segments.length * (segments[0].length - 1)).toBe(reference.predictedTokens);
  });

  it('equals that of a NumPy forward pass in float64 to 1e-4', async () => {
    const { perplexity, tokens } = await evaluateFolder(modelFolder, textFile, { maxTokens: reference.maxTokens });
    expect(tokens).toBe(reference.predictedTokens);
    expect(Math.abs(perplexity / reference.perplexity - 1)).toBeLessThan(1e-4);
  });

  it('of a damaged copy, and its divergence from the original, equal those of NumPy to 1e-4', async () => {
    const { config, weights, ...model } = await openModel(new FolderStore(modelFolder), '');
    const step = 1 / reference.roundedTo;
    const read = async (name: string): Promise<Float32Array> => {
      const weight = await weights.read(name);
      return isLinear(name) ? weight.map((value) => step * Math.round(value / step)) : weight;
    };
    const text = readFileSync(textFile, 'utf8');
    const segments = await segmentsOfText({ config, weights, ...model }, text, reference.maxTokens);
    const { perplexity, divergence } = await measurePerplexity(config, { read }, segments, { original: weights });
    expect(Math.abs(perplexity / reference.roundedPerplexity - 1)).toBeLessThan(1e-4);
    expect(Math.abs((divergence ?? NaN) / reference.divergence.mean - 1)).toBeLessThan(1e-4);
  });

  it('is the same for both formats of a compressed copy to 1e-3', async () => {
    const original = await openModel(new FolderStore(modelFolder), '');
    const measure = async (model: OpenedModel): Promise<number> => {
      const segments = await segmentsOfText(original, readFileSync(textFile, 'utf8'), 1024);
      return (await measurePerplexity(model.config, model.weights, segments)).perplexity;
    };
    const perplexities = [];
    for (const exporter of [exporters.native, exporters.hf]) {
      const model = {
        configJson: original.folder.configJson,
        scheme: schemeSchema.parse({ method: 'rtn', groupSize: 64 }),
        keepsCherries: false,
        shapes: original.shapes,
        weights: weightsInFiles(new FolderStore(modelFolder), original.folder),
        cherries: new Map(),
        columnScales: new Map(),
        isQuantized: isLinear,
      };
      const store = await temporaryStore({
        'config.json': JSON.stringify(exporter.config(model)),
        'tokenizer.json': readFileSync(`${modelFolder}/tokenizer.json`),
      });
      await store.put('model.safetensors', safetensorsBytes(exporter.tensors(model), exporter.metadata).chunks);
      perplexities.push(await measure(await openModel(store, '')));
    }
    const [native, hf] = perplexities;
    expect(Math.abs(hf / native - 1)).toBeLessThan(1e-3);
    expect(native).toBeGreaterThan(await measure(original));
  });
});

describe('measurePerplexity', () => {
  it('is exp of the mean loss over all predicted tokens, and reports how far it is', async () => {
    const store = await temporaryStore();
    await writeTinyModel(store, '');
    const model = await openModel(store, '');
    const segments = await segmentsOfText(model, tinyText(700, 3));
    expect(segments.length).toBeGreaterThan(3);
    const losses = await new Decoder(model.config, model.weights).losses(segments, segments.length, () => {});
    const mean = losses.reduce((sum, loss) => sum + loss, 0) / losses.length;
    const shares: number[] = [];
    const result = await measurePerplexity(model.config, model.weights, segments, {
      onProgress: (share) => shares.push(share),
    });
    expect(result.perplexity).toBeCloseTo(Math.exp(mean), 3);
    expect(result.tokens).toBe(segments.length * 63);
    expect(shares).toEqual(shares.toSorted((a, b) => a - b));
    expect(shares.at(-1)).toBe(1);
  });

  it('cuts a text into whole segments of the context after one BOS, and a short text into one', async () => {
    const store = await temporaryStore();
    await writeTinyModel(store, '');
    const model = await openModel(store, '');
    const segments = await segmentsOfText(model, tinyText(700, 3), 200);
    expect(segments.map(({ length }) => length)).toEqual([64, 64, 64]);
    expect(segments.map(([first]) => first === model.tokenizer.bosTokenId)).toEqual([true, false, false]);
    const short = await segmentsOfText(model, 'the sea');
    expect(short).toHaveLength(1);
    expect(short[0].length).toBeLessThan(10);
  });
});
