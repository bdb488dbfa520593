import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { openEngine } from '../../../batch-jobs/src/engine/engine.ts';
import type { DecoderConfig } from '../../../batch-jobs/src/models/decoder-config.ts';
import { isLinear, tensorShapes } from '../../../batch-jobs/src/models/decoder-config.ts';
import { Decoder } from '../../../batch-jobs/src/models/decoder.ts';
import { parseModelConfig } from '../../../batch-jobs/src/models/registry.ts';
import { createRandom } from '../../../batch-jobs/src/numeric/random.ts';
import type { ImpactSums } from '../../../batch-jobs/src/training/impact.ts';
import { createImpactSums, measureImpact, sumImpact } from '../../../batch-jobs/src/training/impact.ts';
import { golden, unpack } from '../../support/golden.ts';
import { tinyConfig, tinyWeights } from '../../support/tiny-model.ts';
import { testEngine } from '../../support/engine.ts';

interface ImpactGolden {
  models: Record<
    string,
    {
      config: Record<string, unknown>;
      windows: number[][];
      weights: Record<string, string>;
      impact: Record<string, string>;
    }
  >;
}

const { models } = golden<ImpactGolden>('decoder');
const config = parseModelConfig(tinyConfig);
const weights = tinyWeights();
const source = { read: (name: string) => weights.get(name) as Float32Array };
const windowsOf = (count: number, length: number): Int32Array[] =>
  Array.from({ length: count }, (_, w) => Int32Array.from({ length }, (_, i) => (7 * w + 5 * i + i * i) % 97));

beforeAll(async () => {
  await openEngine(testEngine);
});

describe('measureImpact', () => {
  it.each(Object.entries(models))('is the mean squared gradient that PyTorch has, model %s', async (_, model) => {
    const weights = new Map(Object.entries(model.weights).map(([name, text]) => [name, unpack(Float32Array, text)]));
    const windows = model.windows.map((window) => Int32Array.from(window));
    const done: number[] = [];
    const impact = await measureImpact(parseModelConfig(model.config), weights, windows, async (count) => {
      done.push(count);
    });
    expect(done).toEqual([3]);
    expect([...impact.keys()].sort()).toEqual([...weights.keys()].filter(isLinear).sort());
    for (const [name, text] of Object.entries(model.impact)) {
      const expected = unpack(Float32Array, text);
      const largest = Math.max(...expected);
      impact.get(name)?.forEach((value, i) => {
        expect(value).toBeGreaterThanOrEqual(0);
        expect(Math.abs(value - expected[i]) / largest, name).toBeLessThan(1e-5);
      });
    }
  });

  it('is what finite differences of each window’s loss give', async () => {
    const windows = windowsOf(3, 20);
    const impact = await measureImpact(config, weights, windows);
    const step = 4e-3;
    for (const name of weights.keys()) {
      if (!isLinear(name)) continue;
      const own = impact.get(name) as Float32Array;
      // The weight of highest impact: differences of losses in float32 say least of the small ones.
      const at = own.indexOf(own.reduce((most, value) => Math.max(most, value), 0));
      const lossesWith = async (change: number): Promise<number[]> => {
        const moved = Float32Array.from(weights.get(name) as Float32Array);
        moved[at] += change;
        const decoder = new Decoder(config, { read: (tensor) => (tensor === name ? moved : source.read(tensor)) });
        const losses = await decoder.losses(windows, 3, () => {});
        // Mean over the 19 predicted tokens times the window's length.
        return windows.map((_, w) => (losses.subarray(19 * w, 19 * (w + 1)).reduce((a, b) => a + b, 0) / 19) * 20);
      };
      const [above, below] = [await lossesWith(step), await lossesWith(-step)];
      const expected = above.reduce((sum, loss, w) => sum + ((loss - below[w]) / (2 * step)) ** 2, 0) / 3;
      expect(Math.abs(own[at] / expected - 1), name).toBeLessThan(0.02);
    }
  });
});

/** One block, one query head to a key head, a context of one token: every step can be written down. */
const single: DecoderConfig = { ...config, numHiddenLayers: 1, numKeyValueHeads: 4 };
const singleWeights = tinyWeights({ ...tinyConfig, num_hidden_layers: 1, num_key_value_heads: 4 }, 9);

const weightOf = (name: string): Float32Array => singleWeights.get(name) as Float32Array;
const inBlock = (name: string): Float32Array => weightOf(`model.layers.0.${name}.weight`);
const product = (matrix: Float32Array, x: readonly number[]): number[] =>
  Array.from({ length: matrix.length / x.length }, (_, row) =>
    x.reduce((sum, value, column) => sum + matrix[row * x.length + column] * value, 0),
  );
const inverseRms = (x: readonly number[]): number =>
  1 / Math.sqrt(x.reduce((sum, value) => sum + value * value, 0) / x.length + config.rmsNormEps);
const normalized = (x: readonly number[], weight: Float32Array): number[] =>
  x.map((value, i) => value * inverseRms(x) * weight[i]);

/** The block on one token, in double precision: attention to itself alone gives its own value. */
function singleForward(token: number) {
  const embedding = weightOf('model.embed_tokens.weight');
  const x = [...embedding.subarray(32 * token, 32 * (token + 1))];
  const normed = normalized(x, inBlock('input_layernorm'));
  const attended = product(inBlock('self_attn.v_proj'), normed);
  const middle = product(inBlock('self_attn.o_proj'), attended).map((value, i) => value + x[i]);
  const normedMiddle = normalized(middle, inBlock('post_attention_layernorm'));
  const up = product(inBlock('mlp.up_proj'), normedMiddle);
  const gated = product(inBlock('mlp.gate_proj'), normedMiddle).map(
    (gate, i) => (gate / (1 + Math.exp(-gate))) * up[i],
  );
  const y = product(inBlock('mlp.down_proj'), gated).map((value, i) => value + middle[i]);
  return { normed, attended, normedMiddle, gated, y };
}

/** Gradient of the loss with respect to the block's output, by the chain rule through the head and the final norm. */
function singleOutputGradient(y: readonly number[], target: number): number[] {
  const head = weightOf('model.embed_tokens.weight');
  const norm = weightOf('model.norm.weight');
  const logits = product(head, normalized(y, norm));
  const total = logits.reduce((sum, logit) => sum + Math.exp(logit), 0);
  const dLogits = logits.map((logit, id) => Math.exp(logit) / total - (id === target ? 1 : 0));
  const dNormed = y.map((_, i) => dLogits.reduce((sum, value, id) => sum + value * head[32 * id + i] * norm[i], 0));
  const r = inverseRms(y);
  const mean = dNormed.reduce((sum, value, i) => sum + value * y[i], 0) / y.length;
  return y.map((value, i) => r * dNormed[i] - value * r ** 3 * mean);
}

describe('sumImpact', () => {
  const windows = [Int32Array.of(3, 40), Int32Array.of(17, 5), Int32Array.of(60, 8)];

  it('is, of the last layer, the outer product of what goes in and what comes back, squared', async () => {
    const { squares } = await sumImpact({ config: single, weights: { read: weightOf }, windows });
    const expected = new Float64Array(32 * 44);
    for (const [token, target] of windows) {
      const { gated, y } = singleForward(token);
      const dy = singleOutputGradient(y, target);
      // Mean loss times the window's length of 2, with one token predicted.
      dy.forEach((d, row) => gated.forEach((g, column) => (expected[row * 44 + column] += (2 * d * g) ** 2)));
    }
    const found = squares.get('model.layers.0.mlp.down_proj.weight') as Float32Array;
    const largest = Math.max(...expected);
    found.forEach((value, i) => expect(Math.abs(value - expected[i]) / largest).toBeLessThan(1e-5));
  });

  it('sums the magnitudes and squares of what each layer is given', async () => {
    const { inputs } = await sumImpact({ config: single, weights: { read: weightOf }, windows });
    const runs = windows.map(([token]) => singleForward(token));
    const given = {
      'self_attn.q_proj': runs.map(({ normed }) => normed),
      'self_attn.k_proj': runs.map(({ normed }) => normed),
      'self_attn.v_proj': runs.map(({ normed }) => normed),
      'self_attn.o_proj': runs.map(({ attended }) => attended),
      'mlp.gate_proj': runs.map(({ normedMiddle }) => normedMiddle),
      'mlp.up_proj': runs.map(({ normedMiddle }) => normedMiddle),
      'mlp.down_proj': runs.map(({ gated }) => gated),
    };
    expect(inputs.size).toBe(7);
    for (const [name, rows] of Object.entries(given)) {
      const own = inputs.get(`model.layers.0.${name}.weight`);
      rows[0].forEach((_, column) => {
        const values = rows.map((row) => row[column]);
        const magnitude = values.reduce((sum, value) => sum + Math.abs(value), 0);
        const square = values.reduce((sum, value) => sum + value * value, 0);
        expect(own?.magnitudes[column], name).toBeCloseTo(magnitude, 5);
        expect(own?.squares[column], name).toBeCloseTo(square, 5);
      });
    }
  });

  it.each(Object.entries(golden<{ models: Record<string, { config: Record<string, unknown> }> }>('families').models))(
    'squares each window’s gradient of every matrix of a family, and sees what it is given, %s',
    async (_, model) => {
      const family = parseModelConfig(model.config);
      const random = createRandom(3);
      const own = new Map(
        [...tensorShapes(family)].map(([name, shape]) => [
          name,
          Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => 0.7 * (random() + random() - 1)),
        ]),
      );
      const read = (name: string): Float32Array => own.get(name) as Float32Array;
      const windows = windowsOf(2, 12).map((window) => window.map((id) => id % family.vocabSize));
      const { squares, inputs } = await sumImpact({ config: family, weights: { read }, windows });
      const expected = new Map<string, Float64Array>();
      for (const window of windows) {
        await new Decoder(family, { read }).lossAndGradients([[window]], {
          gradientScale: 12 / 11,
          reduction: 'sum',
          consume(name, gradient) {
            const sum = expected.get(name) ?? new Float64Array(gradient.length);
            expected.set(
              name,
              sum.map((value, i) => value + gradient[i] ** 2),
            );
          },
        });
      }
      const linears = [...own.keys()].filter(isLinear).sort();
      expect([...squares.keys()].sort()).toEqual(linears);
      for (const name of linears) {
        const wanted = expected.get(name) as Float64Array;
        const largest = Math.max(...wanted);
        expect(largest, name).toBeGreaterThan(0);
        squares.get(name)?.forEach((value, i) => expect(Math.abs(value - wanted[i]) / largest).toBeLessThan(1e-4));
        expect(Math.min(...(inputs.get(name)?.magnitudes ?? [])), name).toBeGreaterThan(0);
      }
    },
  );

  it('goes on from saved sums with the same bits', async () => {
    // 64 windows of 32 tokens share a walk, so these take two.
    const windows = windowsOf(70, 32);
    const whole = await sumImpact({ config, weights: source, windows });
    let saved: ImpactSums | undefined;
    const stopping = sumImpact({
      config,
      weights: source,
      windows,
      async onWalk(sums) {
        saved = structuredClone(sums);
        throw new Error('killed');
      },
    });
    await expect(stopping).rejects.toThrow('killed');
    expect(saved?.windows).toBe(64);
    const resumed = await sumImpact({ config, weights: source, windows, sums: saved });
    expect(resumed.windows).toBe(70);
    expect(resumed).toEqual(whole);
  });

  it('B11: names the tensor and the windows where a gradient is not finite', async () => {
    const name = 'model.layers.0.mlp.up_proj.weight';
    const broken = {
      read: (tensor: string) => (tensor === name ? source.read(name).map(() => 3e38) : source.read(tensor)),
    };
    const measuring = sumImpact({ config, weights: broken, windows: windowsOf(2, 12) });
    await expect(measuring).rejects.toMatchObject({
      code: 'impact_not_finite',
      param: expect.stringMatching(/^model\.layers\.\d\..*_proj\.weight$/) as string,
      message: expect.stringContaining('calibration windows 1 to 2') as string,
    });
  });

  it('leaves no tensor behind', async () => {
    const before = tf.memory().numTensors;
    await sumImpact({ config, weights: source, windows: windowsOf(3, 12), sums: createImpactSums(config) });
    expect(tf.memory().numTensors).toBe(before);
  });
});
