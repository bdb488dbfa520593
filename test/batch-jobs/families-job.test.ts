/** A whole job on a tiny model of each family: from the upload to packed and float16 copies that measure alike. */
import { describe, expect, it } from 'vitest';
import type { JobResult } from 'cherryq/contract';
import { openModel } from '../../batch-jobs/src/model-weights.ts';
import { supportedArchitectures } from '../../batch-jobs/src/models/registry.ts';
import { attempt, eventsOf, lastState, prepare, resultOf, textOf } from '../support/tiny-run.ts';
import { temporaryStore } from '../support/temporary-store.ts';
import { tinyConfig, tinyModelPrefix, writeTinyJob, writeTinyModel } from '../support/tiny-model.ts';

const families: Record<string, Record<string, unknown>> = {
  'Llama 3': {
    tie_word_embeddings: true,
    rope_scaling: {
      rope_type: 'llama3',
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 32,
    },
  },
  'Llama with biases': { attention_bias: true, mlp_bias: true, tie_word_embeddings: false },
  Mistral: { architectures: ['MistralForCausalLM'], sliding_window: 12, tie_word_embeddings: false },
  Qwen2: { architectures: ['Qwen2ForCausalLM'], hidden_act: 'silu' },
  Qwen3: { architectures: ['Qwen3ForCausalLM'], head_dim: 12, tie_word_embeddings: false },
  Gemma: {
    architectures: ['GemmaForCausalLM'],
    head_dim: 8,
    hidden_act: 'gelu_pytorch_tanh',
    num_key_value_heads: 1,
  },
  'Phi-3': { architectures: ['Phi3ForCausalLM'], tie_word_embeddings: false, sliding_window: null },
};

const sideFiles = {
  'generation_config.json': '{"temperature": 0.6}',
  'special_tokens_map.json': '{"bos_token": "<s>"}',
  'chat_template.jinja': '{% for m in messages %}{{ m.content }}{% endfor %}',
  'tokenizer.model': 'not read, carried along',
  LICENSE: 'Whatever the model is under.',
};

it('the families of this test are all that are supported', () => {
  const named = Object.values(families).map(({ architectures }) => architectures ?? tinyConfig.architectures);
  expect(new Set(named.flat())).toEqual(new Set(supportedArchitectures));
});

describe.each(Object.entries(families))('a job on %s', (_, changes) => {
  it('trains through the rounding, and leaves two copies that measure alike with every side file', async () => {
    const store = await temporaryStore();
    for (const [path, text] of Object.entries(sideFiles)) {
      await store.put(tinyModelPrefix + path, new TextEncoder().encode(text));
    }
    const config = { ...tinyConfig, ...changes };
    const { prefix } = await prepare({ training: { tokens: 512 } }, { config }, store);
    await attempt(store, prefix);

    const { baseline, compressed, hf, trainedTokens }: JobResult = await resultOf(store, prefix);
    expect(trainedTokens).toBe(512);
    expect(compressed.perplexity).not.toBe(baseline.perplexity);
    expect(Math.abs((hf?.perplexity ?? 0) / (compressed.perplexity ?? 1) - 1)).toBeLessThan(1e-3);
    const records = JSON.parse(await textOf(store, `${prefix}artifacts/losses.json`)) as { loss: number }[];
    expect(records.at(-1)?.loss).toBeLessThan(records[0].loss);

    for (const copy of ['', 'hf/']) {
      const opened = await openModel(store, `${prefix}artifacts/${copy}`);
      expect(opened.folder.configJson).toMatchObject({ ...changes, hidden_size: 32, num_hidden_layers: 2 });
      for (const path of [...Object.keys(sideFiles), 'tokenizer.json', 'tokenizer_config.json']) {
        expect(await store.get(`${prefix}artifacts/${copy}${path}`), path).toEqual(
          await store.get(tinyModelPrefix + path),
        );
      }
    }
  });
});

describe('an architecture that is not supported', () => {
  it('is refused before any work, naming those that are', async () => {
    const store = await temporaryStore();
    await writeTinyModel(store, tinyModelPrefix);
    const config = { ...tinyConfig, architectures: ['MambaForCausalLM'] };
    await store.put(`${tinyModelPrefix}config.json`, new TextEncoder().encode(JSON.stringify(config)));
    const prefix = await writeTinyJob(store);
    const error: unknown = await attempt(store, prefix).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ name: 'InputError', code: 'unknown_architecture' });
    for (const architecture of supportedArchitectures) expect((error as Error).message).toContain(architecture);
    expect((error as Error).message).toContain('MambaForCausalLM');
    expect(await eventsOf(store, prefix)).toEqual([]);
    expect((await lastState(store, prefix)).status).toBe('running');
  });
});
