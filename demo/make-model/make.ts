/**
 * Makes the shipped model again: a Llama of 2 million parameters, trained from nothing by CherryQ's own trainer (the same
 * loop as compression, without a quantizer) on the train split of `corpus.ts`. Run with `npm run model`; it takes about
 * two hours on WebAssembly and half an hour on a native engine, and resumes from demo/.cache/ when it is stopped.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { openEngine } from '../../batch-jobs/src/engine/engine.ts';
import { measurePerplexity } from '../../batch-jobs/src/evaluation/perplexity.ts';
import { safetensorsBytes } from '../../batch-jobs/src/formats/safetensors.ts';
import { openTokenizer } from '../../batch-jobs/src/formats/tokenizer.ts';
import { llama } from '../../batch-jobs/src/models/llama.ts';
import { tensorShapes } from '../../batch-jobs/src/models/decoder-config.ts';
import { float32ToFloat16 } from '../../batch-jobs/src/numeric/dtypes.ts';
import { createRandom } from '../../batch-jobs/src/numeric/random.ts';
import { readDataset } from '../../batch-jobs/src/data/dataset.ts';
import { createSampler } from '../../batch-jobs/src/data/windows.ts';
import { openCheckpoint, saveCheckpoint } from '../../batch-jobs/src/training/checkpoints.ts';
import { flatIdentity } from '../../batch-jobs/src/training/resume.ts';
import { Trainer, createTrainState } from '../../batch-jobs/src/training/train.ts';
import { FolderStore } from '../../batch-jobs/src/storage/index.ts';
import { prepare } from './prepare.ts';

const seed = 42;
const epochs = 2;
const batchSize = 16;
const peak = 3e-3;

const configJson = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  vocab_size: 1024,
  hidden_size: 256,
  intermediate_size: 512,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 64,
  hidden_act: 'silu',
  max_position_embeddings: 256,
  rope_theta: 10000,
  rms_norm_eps: 1e-5,
  tie_word_embeddings: true,
  attention_bias: false,
  mlp_bias: false,
  bos_token_id: 0,
  eos_token_id: 1,
  initializer_range: 0.02,
  torch_dtype: 'float16',
};
const config = llama.parseConfig(configJson);

/** Normal with standard deviation 0.02, the projections into the residual stream smaller by sqrt(2 blocks), norms 1. */
function initialWeights(): Map<string, Float32Array> {
  const random = createRandom(seed);
  const normal = (): number => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  const weights = new Map<string, Float32Array>();
  for (const [name, shape] of tensorShapes(config)) {
    const length = shape.reduce((product, size) => product * size, 1);
    const intoResidual = name.endsWith('o_proj.weight') || name.endsWith('down_proj.weight');
    const deviation = intoResidual ? 0.02 / Math.sqrt(2 * config.numHiddenLayers) : 0.02;
    weights.set(
      name,
      Float32Array.from({ length }, () => (shape.length === 1 ? 1 : deviation * normal())),
    );
  }
  return weights;
}

const store = new FolderStore('demo/.cache');
const identity = flatIdentity({ configJson, seed, epochs, batchSize, peak });
mkdirSync('demo/.cache', { recursive: true });
prepare('demo', (line) => console.error(line));
const engine = await openEngine(process.env.CHERRYQ_ENGINE);
console.error(`engine ${engine.name}: ${engine.reason}`);

const model = new FolderStore('demo/model');
const tokenizer = await openTokenizer(model, '');
const windowsOf = async (file: string): Promise<Int32Array[]> => {
  const options = {
    tokenizer,
    template: null,
    windows: 'packed',
    sequenceLength: config.maxPositionEmbeddings,
  } as const;
  return (await readDataset(store, file, options)).windows;
};
const windows = await windowsOf('train.txt');
const validation = await windowsOf('validation.txt');
const sampler = createSampler({ count: windows.length, seed });
const totalSteps = Math.ceil((epochs * windows.length) / batchSize);

const state = await createTrainState(initialWeights());
const resumed = await openCheckpoint(store, 'model/', identity, 'auto', (message) => console.error(message));
await resumed?.restore(state);
const trainer = new Trainer(
  {
    config,
    quantizer: null,
    teacher: null,
    schedule: { peak, totalSteps, warmupFraction: 0.05, floor: 0.05 },
    adamW: { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.1 },
    maxGradNorm: 1,
    batchSize,
    windowAt: (index) => windows[sampler(index)],
  },
  state,
);
const startStep = trainer.step;
const startTime = performance.now();
let saved = performance.now();
while (trainer.step < totalSteps) {
  const record = await trainer.advance();
  if (record.step % 20 === 0) {
    const secondsPerStep = (performance.now() - startTime) / 1000 / (record.step - startStep);
    const tokensPerSecond = Math.round((batchSize * config.maxPositionEmbeddings) / secondsPerStep);
    const minutesLeft = ((totalSteps - record.step) * secondsPerStep) / 60;
    console.error(
      `step ${record.step}/${totalSteps} loss ${record.loss.toFixed(4)} ${tokensPerSecond} tokens/s ${minutesLeft.toFixed(1)} min left`,
    );
  }
  if (performance.now() - saved > 60_000 || record.step === totalSteps) {
    await saveCheckpoint(store, 'model/', identity, 1, trainer.state);
    saved = performance.now();
  }
}

const tensors = [...tensorShapes(config)].map(([name, shape]) => {
  const values = float32ToFloat16(trainer.state.latent.get(name) as Float32Array);
  return { name, dtype: 'F16' as const, shape, data: new Uint8Array(values.buffer) };
});
await model.put('model.safetensors', safetensorsBytes(tensors, { format: 'pt' }).chunks);
writeFileSync('demo/model/config.json', `${JSON.stringify(configJson, null, 2)}\n`);
const { perplexity, tokens } = await measurePerplexity(
  config,
  { read: (name) => trainer.state.latent.get(name) as Float32Array },
  validation,
);
console.error(`validation perplexity ${perplexity.toFixed(3)} a token over ${tokens} tokens`);
