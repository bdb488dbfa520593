var __defProp = Object.defineProperty;
var __export = (target, all) => {
  for (var name in all)
    __defProp(target, name, { get: all[name], enumerable: true });
};

// ../../tmp/d/rss.ts
import { readFileSync as readFileSync5, writeFileSync } from "node:fs";

// batch-jobs/src/engine/engine.ts
import * as tf8 from "@tensorflow/tfjs-core";

// batch-jobs/src/errors.ts
var InputError = class extends Error {
  constructor(code, message, param = null, options) {
    super(message, options);
    this.code = code;
    this.param = param;
  }
  code;
  param;
  name = "InputError";
};
var DivergedError = class extends InputError {
  constructor(message, step, block, tensor2) {
    super("diverged", message, "training.learningRate");
    this.step = step;
    this.block = block;
    this.tensor = tensor2;
  }
  step;
  block;
  tensor;
};

// batch-jobs/src/engine/composed-kernels.ts
import * as tf2 from "@tensorflow/tfjs-core";

// batch-jobs/src/engine/fused.ts
import * as tf from "@tensorflow/tfjs-core";
var fusedKernels = {
  sumOfProducts: "CherryqSumOfProducts",
  rmsNorm: "CherryqRmsNorm",
  rmsNormBackward: "CherryqRmsNormBackward",
  attention: "CherryqAttention",
  attentionBackward: "CherryqAttentionBackward",
  swiGlu: "CherryqSwiGlu",
  swiGluBackward: "CherryqSwiGluBackward",
  geGlu: "CherryqGeGlu",
  geGluBackward: "CherryqGeGluBackward",
  crossEntropy: "CherryqCrossEntropy",
  distillation: "CherryqDistillation"
};
function sumOfProducts(base, products) {
  const inputs = { base };
  products.forEach(({ a, b }, i) => Object.assign(inputs, { [`a${i}`]: a, [`b${i}`]: b }));
  const transposes = products.map(({ transposeA = false, transposeB = false }) => ({ transposeA, transposeB }));
  return run(fusedKernels.sumOfProducts, inputs, { transposes });
}
function rmsNorm(x, weight, eps) {
  return run(fusedKernels.rmsNorm, { x, weight }, { eps });
}
function rmsNormBackward(x, weight, eps, dy, residual) {
  const [dx, dWeight] = run(fusedKernels.rmsNormBackward, { x, weight, dy, residual }, { eps });
  return { dx, dWeight };
}
function attention(inputs, shape) {
  const [attended, ...saved] = run(fusedKernels.attention, { ...inputs }, shape);
  return { attended, saved };
}
function attentionBackward(inputs, saved, dAttended, shape) {
  const all = { ...inputs, dAttended };
  saved.forEach((tensor2, i) => all[`saved${i}`] = tensor2);
  const [dQueries, dKeys, dValues] = run(fusedKernels.attentionBackward, all, shape);
  return { dQueries, dKeys, dValues };
}
function swiGlu(gate, up) {
  return run(fusedKernels.swiGlu, { gate, up }, {});
}
function swiGluBackward(gate, up, dy) {
  const [dGate, dUp] = run(fusedKernels.swiGluBackward, { gate, up, dy }, {});
  return { dGate, dUp };
}
function geGlu(gate, up) {
  return run(fusedKernels.geGlu, { gate, up }, {});
}
function geGluBackward(gate, up, dy) {
  const [dGate, dUp] = run(fusedKernels.geGluBackward, { gate, up, dy }, {});
  return { dGate, dUp };
}
function crossEntropy(logits, wanted) {
  return loss(logits, wanted, null)[0];
}
function crossEntropyBackward(logits, wanted, scale) {
  const [losses2, dLogits] = loss(logits, wanted, scale);
  return { losses: losses2, dLogits };
}
function loss(logits, wanted, scale) {
  return "ids" in wanted ? run(fusedKernels.crossEntropy, { logits, ids: wanted.ids }, { scale }) : run(fusedKernels.distillation, { logits, wanted: wanted.logits }, { scale });
}
function run(kernel, inputs, attributes) {
  return tf.engine().runKernel(kernel, inputs, attributes);
}

// batch-jobs/src/engine/composed-kernels.ts
var maskedScore = -1e9;
var geluCubic = 0.044715;
var geluSlope = 2 * Math.sqrt(2 / Math.PI);
function registerComposedKernels(backendName2) {
  for (const [kernelName, kernel] of kernels) {
    if (tf2.getKernel(kernelName, backendName2)) continue;
    const kernelFunc = ({ inputs, attrs }) => tf2.tidy(() => kernel(inputs, attrs ?? {}));
    tf2.registerKernel({ kernelName, backendName: backendName2, kernelFunc });
  }
}
var kernels = /* @__PURE__ */ new Map([
  [fusedKernels.sumOfProducts, (inputs, attributes) => sumOfProducts2(inputs, attributes)],
  [
    fusedKernels.rmsNorm,
    ({ x, weight }, attributes) => tf2.mul(tf2.mul(x, inverseRms(x, attributes.eps)), weight)
  ],
  [fusedKernels.rmsNormBackward, (inputs, attributes) => rmsNormBackward2(inputs, attributes.eps)],
  [
    fusedKernels.attention,
    (inputs, attributes) => attention2(inputs, attributes)
  ],
  [fusedKernels.attentionBackward, (inputs, attributes) => attentionBackward2(inputs, attributes)],
  [fusedKernels.swiGlu, ({ gate, up }) => tf2.mul(tf2.mul(gate, tf2.sigmoid(gate)), up)],
  [fusedKernels.swiGluBackward, swiGluBackward2],
  [fusedKernels.geGlu, ({ gate, up }) => tf2.mul(tf2.mul(gate, geluSigmoid(gate)), up)],
  [fusedKernels.geGluBackward, geGluBackward2],
  [
    fusedKernels.crossEntropy,
    ({ logits, ids }, attributes) => {
      const wanted = tf2.cast(tf2.oneHot(ids, logits.shape[1]), "float32");
      return crossEntropy2(logits, wanted, attributes);
    }
  ],
  [
    fusedKernels.distillation,
    ({ logits, wanted }, attributes) => crossEntropy2(logits, tf2.softmax(wanted), attributes)
  ]
]);
function sumOfProducts2(inputs, { transposes }) {
  return transposes.reduce((sum6, { transposeA, transposeB }, i) => {
    const product = tf2.matMul(inputs[`a${i}`], inputs[`b${i}`], transposeA, transposeB);
    return sum6 ? tf2.add(sum6, product) : product;
  }, inputs.base ?? null);
}
function inverseRms(x, eps) {
  const meanSquare = tf2.mean(tf2.square(x), 1, true);
  return tf2.rsqrt(tf2.add(meanSquare, eps));
}
function rmsNormBackward2({ x, weight, dy, residual }, eps) {
  const r = inverseRms(x, eps);
  const normalized = tf2.mul(x, r);
  const scaled = tf2.mul(dy, weight);
  const projection = tf2.mean(tf2.mul(scaled, normalized), 1, true);
  const dx = tf2.mul(tf2.sub(scaled, tf2.mul(normalized, projection)), r);
  return [residual ? tf2.add(residual, dx) : dx, tf2.sum(tf2.mul(dy, normalized), 0)];
}
function attention2(inputs, shape) {
  const { windows: windows2, length, width, heads, keyValueHeads, headDim } = shape;
  const groups = windows2 * keyValueHeads;
  const shared = heads / keyValueHeads;
  const past = width - length;
  const half = headDim / 2;
  const [cos, sin] = [inputs.cos, inputs.sin].map((table) => tf2.slice(table, [past, 0], [length, half]));
  const turnedQueries = rotate(splitHeads(inputs.queries, shape, length, heads), cos, sin, 1);
  const turnedKeys = rotate(splitHeads(inputs.keys, shape, width, keyValueHeads), inputs.cos, inputs.sin, 1);
  const queries = tf2.reshape(turnedQueries, [groups, shared * length, headDim]);
  const keys = tf2.reshape(turnedKeys, [groups, width, headDim]);
  const values = tf2.reshape(splitHeads(inputs.values, shape, width, keyValueHeads), [groups, width, headDim]);
  const products = tf2.mul(tf2.matMul(queries, keys, false, true), 1 / Math.sqrt(headDim));
  const scores = tf2.add(tf2.reshape(products, [groups * shared, length, width]), causalMask(shape));
  const probabilities = tf2.reshape(tf2.softmax(scores), [groups, shared * length, width]);
  const attended = joinHeads(tf2.matMul(probabilities, values), shape, length, heads);
  return [attended, queries, keys, values, probabilities];
}
function causalMask({ length, width, slidingWindow }) {
  const queries = tf2.reshape(tf2.range(width - length, width), [length, 1]);
  const keys = tf2.reshape(tf2.range(0, width), [1, width]);
  const ahead = tf2.greater(keys, queries);
  const hidden = hides(slidingWindow, width) ? tf2.logicalOr(ahead, tf2.lessEqual(keys, tf2.sub(queries, slidingWindow))) : ahead;
  return tf2.mul(tf2.cast(hidden, "float32"), maskedScore);
}
function hides(slidingWindow, width) {
  return slidingWindow !== null && slidingWindow < width;
}
function attentionBackward2(inputs, shape) {
  const { windows: windows2, length, width, heads, keyValueHeads, headDim } = shape;
  const [queries, keys, values, probabilities] = [0, 1, 2, 3].map((i) => inputs[`saved${i}`]);
  const dAttended = tf2.reshape(splitHeads(inputs.dAttended, shape, length, heads), [
    windows2 * keyValueHeads,
    heads / keyValueHeads * length,
    headDim
  ]);
  const dValues = tf2.matMul(probabilities, dAttended, true, false);
  const dProbabilities = tf2.matMul(dAttended, values, false, true);
  const weighted = tf2.mul(dProbabilities, probabilities);
  const dScores = tf2.sub(weighted, tf2.mul(probabilities, tf2.sum(weighted, -1, true)));
  const dProducts = tf2.mul(dScores, 1 / Math.sqrt(headDim));
  const turnBack = (gradient, rows, count) => {
    const [cos, sin] = [inputs.cos, inputs.sin].map((table) => tf2.slice(table, [width - rows, 0], [rows, headDim / 2]));
    const split2 = tf2.reshape(gradient, [windows2, count, rows, headDim]);
    return joinHeads(rotate(split2, cos, sin, -1), shape, rows, count);
  };
  return [
    turnBack(tf2.matMul(dProducts, keys), length, heads),
    turnBack(tf2.matMul(dProducts, queries, true, false), width, keyValueHeads),
    joinHeads(dValues, shape, width, keyValueHeads)
  ];
}
function rotate(x, cos, sin, direction) {
  const [first, second] = tf2.split(x, 2, 3);
  const turn = direction === 1 ? sin : tf2.neg(sin);
  return tf2.concat(
    [
      tf2.sub(tf2.mul(first, cos), tf2.mul(second, turn)),
      tf2.add(tf2.mul(second, cos), tf2.mul(first, turn))
    ],
    3
  );
}
function splitHeads(x, { windows: windows2, headDim }, rows, heads) {
  return tf2.transpose(tf2.reshape(x, [windows2, rows, heads, headDim]), [0, 2, 1, 3]);
}
function joinHeads(x, { windows: windows2, headDim }, rows, heads) {
  const split2 = tf2.reshape(x, [windows2, heads, rows, headDim]);
  return tf2.reshape(tf2.transpose(split2, [0, 2, 1, 3]), [windows2 * rows, heads * headDim]);
}
function swiGluBackward2({ gate, up, dy }) {
  const sigmoid2 = tf2.sigmoid(gate);
  const silu = tf2.mul(gate, sigmoid2);
  const slope = tf2.add(sigmoid2, tf2.mul(silu, tf2.sub(1, sigmoid2)));
  return [tf2.mul(tf2.mul(dy, up), slope), tf2.mul(dy, silu)];
}
function geluSigmoid(x) {
  return tf2.sigmoid(tf2.mul(tf2.mul(x, tf2.add(tf2.mul(tf2.square(x), geluCubic), 1)), geluSlope));
}
function geGluBackward2({ gate, up, dy }) {
  const sigmoid2 = geluSigmoid(gate);
  const gelu = tf2.mul(gate, sigmoid2);
  const inner = tf2.mul(tf2.add(tf2.mul(tf2.square(gate), 3 * geluCubic), 1), geluSlope);
  const slope = tf2.add(sigmoid2, tf2.mul(tf2.mul(gelu, tf2.sub(1, sigmoid2)), inner));
  return [tf2.mul(tf2.mul(dy, up), slope), tf2.mul(dy, gelu)];
}
function crossEntropy2(logits, wanted, { scale }) {
  const probabilities = tf2.softmax(logits);
  const logSumExp2 = tf2.sub(tf2.max(logits, 1), tf2.log(tf2.max(probabilities, 1)));
  const losses2 = tf2.sub(logSumExp2, tf2.sum(tf2.mul(logits, wanted), 1));
  return scale === null ? [losses2] : [losses2, tf2.mul(tf2.sub(probabilities, wanted), scale)];
}

// batch-jobs/src/engine/native-kernels.ts
import * as tf3 from "@tensorflow/tfjs-core";
var dataTypes = { float32: 1, int32: 3 };
function registerNativeKernels() {
  if (tf3.getKernel(fusedKernels.crossEntropy, "tensorflow")) return;
  const stock = tf3.getKernel(tf3.BatchMatMul, "tensorflow").kernelFunc;
  tf3.unregisterKernel(tf3.BatchMatMul, "tensorflow");
  register(tf3.BatchMatMul, (call) => matMul2(call) ?? stock(call));
  register(
    fusedKernels.crossEntropy,
    ({ inputs, attrs }) => tf3.tidy(() => crossEntropy3(inputs.logits, inputs.ids, attrs))
  );
  registerComposedKernels("tensorflow");
}
function register(kernelName, kernelFunc) {
  tf3.registerKernel({ kernelName, backendName: "tensorflow", kernelFunc });
}
function backend2() {
  return tf3.backend();
}
function typeAttribute(name, dtype) {
  return { name, type: backend2().binding.TF_ATTR_TYPE, value: dataTypes[dtype] };
}
function matMul2(call) {
  const { a, b } = call.inputs;
  const { transposeA, transposeB } = call.attrs;
  const leading = [...a.shape.slice(0, -2), ...b.shape.slice(0, -2)];
  if (transposeB || a.dtype !== "float32" || leading.some((size) => size !== 1)) return null;
  const flag = (name, value) => ({
    name,
    type: backend2().binding.TF_ATTR_BOOL,
    value
  });
  const matrixOf = (x) => tf3.reshape(x, x.shape.slice(-2));
  return tf3.tidy(() => {
    const attributes = [typeAttribute("T", "float32"), flag("transpose_a", transposeA), flag("transpose_b", false)];
    const product = backend2().executeSingleOutput("MatMul", attributes, [matrixOf(a), matrixOf(b)]);
    const rank = Math.max(a.shape.length, b.shape.length);
    return rank === 2 ? product : tf3.reshape(product, [...Array(rank - 2).fill(1), ...product.shape]);
  });
}
function crossEntropy3(logits, ids, { scale }) {
  const probabilities = tf3.softmax(logits);
  const logSumExp2 = tf3.sub(tf3.max(logits, 1), tf3.log(tf3.max(probabilities, 1)));
  const indices = tf3.stack([tf3.range(0, ids.shape[0], 1, "int32"), ids], 1);
  const losses2 = tf3.sub(logSumExp2, tf3.gatherND(logits, indices));
  if (scale === null) return [losses2];
  const attributes = [typeAttribute("T", "float32"), typeAttribute("Tindices", "int32")];
  const scaled = tf3.mul(probabilities, scale);
  const steps = tf3.fill(ids.shape, scale);
  return [losses2, backend2().executeSingleOutput("TensorScatterSub", attributes, [scaled, indices, steps])];
}

// batch-jobs/src/engine/native/load.ts
import * as tf4 from "@tensorflow/tfjs-core";
import { existsSync as existsSync3 } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { dirname, join as join2 } from "node:path";

// batch-jobs/src/engine/native/folder.ts
import { createReadStream, existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { z } from "zod";

// batch-jobs/src/engine/native/releases.ts
var tfjsNode = {
  name: "@tensorflow/tfjs-node",
  version: "4.22.0",
  integrity: "sha512-uHrXeUlfgkMxTZqHkESSV7zSdKdV0LlsBeblqkuKU9nnfxB1pC6DtoyYVaLxznzZy7WQSegjcohxxCjAf6Dc7w=="
};
var ofTensorFlow = [
  "tensorflow/libtensorflow_cc.so.2",
  "tensorflow/libtensorflow_framework.so.2",
  "tensorflow/include/tensorflow/c/*.h",
  "tensorflow/include/tensorflow/core/platform/ctstring*.h",
  "tensorflow/include/*tsl/c/*.h",
  "tensorflow/include/*tsl/platform/ctstring*.h",
  "tensorflow/THIRD_PARTY_NOTICES.txt",
  "*.dist-info/LICENSE"
];
var nvidia = (project2, version, sizeBytes, sha256) => ({
  project: project2,
  version,
  sha256,
  sizeBytes,
  wanted: ["nvidia/*/lib/*.so*", "*.dist-info/*License.txt"]
});
var releases = {
  cpu: {
    kind: "cpu",
    tensorflow: "2.15.1",
    wheels: [
      {
        project: "tensorflow_cpu",
        version: "2.15.1",
        sha256: "54660c074d7241a503e81edfd9f5ef5af88f64051b72e2945f26318c790f2d26",
        sizeBytes: 207208420,
        wanted: ofTensorFlow
      }
    ],
    neededBytes: 1e9
  },
  gpu: {
    kind: "gpu",
    // Machine code for 6.0, 7.0, 8.0, 8.9 and 9.0: T4 runs that of 7.0, A10G that of 8.0.
    tensorflow: "2.19.1",
    wheels: [
      {
        project: "tensorflow",
        version: "2.19.1",
        sha256: "8e5524eb492160576e5eeea9bb472ddc653123503f2290f83123d5ac9545750e",
        sizeBytes: 644896980,
        wanted: ofTensorFlow
      },
      // The versions of the wheel's own extra `and-cuda`, less NCCL (several GPUs) and nvcc (compiles at run time for XLA).
      nvidia(
        "nvidia-cublas-cu12",
        "12.5.3.2",
        363313169,
        "ca070ad70e9fa6654084575d01bd001f30cc4665e33d4bb9fc8e0f321caa034b"
      ),
      nvidia(
        "nvidia-cuda-cupti-cu12",
        "12.5.82",
        13811507,
        "bde77a5feb66752ec61db2adfe47f56b941842825b4c7e2068aff27c9d107953"
      ),
      nvidia(
        "nvidia-cuda-nvrtc-cu12",
        "12.5.82",
        24873108,
        "3dbd97b0104b4bfbc3c4f8c79cd2496307c89c43c29a9f83125f1d76296ff3fd"
      ),
      nvidia(
        "nvidia-cuda-runtime-cu12",
        "12.5.82",
        895707,
        "3e79a060e126df40fd3a068f3f787eb000fa51b251ec6cd97d09579632687115"
      ),
      nvidia(
        "nvidia-cudnn-cu12",
        "9.3.0.75",
        577163502,
        "9ad9c6929ebb5295eb4a1728024666d1c88283373e265a0c5c883e6f9d5cd76d"
      ),
      nvidia(
        "nvidia-cufft-cu12",
        "11.2.3.61",
        192524114,
        "9a6e8df162585750f61983a638104a48c756aa13f9f48e19ab079b38e3c828b8"
      ),
      nvidia(
        "nvidia-curand-cu12",
        "10.3.6.82",
        56309107,
        "2823fb27de4e44dbb22394a6adf53aa6e1b013aca0f8c22867d1cfae58405536"
      ),
      nvidia(
        "nvidia-cusolver-cu12",
        "11.6.3.83",
        130341232,
        "93cfafacde4428b71778eeb092ec615a02a3d05404da1bcf91c53e3fa1bce42b"
      ),
      nvidia(
        "nvidia-cusparse-cu12",
        "12.5.1.3",
        217558979,
        "016df8e993c437e8301e62739f01775cba988fd5253cd4c64173f8e8d2f8e752"
      ),
      nvidia(
        "nvidia-nvjitlink-cu12",
        "12.5.82",
        21298879,
        "f9b37bc5c8cf7509665cb6ada5aaa0ce65618f2332b7d3e78e9790511f111212"
      )
    ],
    neededBytes: 75e8
  }
};
var platformPackage = (kind) => `@cherryq/engine-linux-x64${kind === "gpu" ? "-gpu" : ""}`;
var installCommand = (kind, anew = false) => `cherryq engine install${kind === "gpu" ? " --gpu" : ""}${anew ? " --force" : ""}`;

// batch-jobs/src/engine/native/folder.ts
var manifestFile = "engine.json";
var bindingFile = "lib/tfjs_binding.node";
var manifestSchema = z.object({
  format: z.literal(1),
  kind: z.enum(["cpu", "gpu"]),
  tfjs: z.string(),
  tensorflow: z.string(),
  platform: z.literal("linux-x64"),
  files: z.record(z.string(), z.object({ sizeBytes: z.int(), sha256: z.string() }))
});
function engineRoot(environment) {
  if (environment.CHERRYQ_ENGINE_DIR) return resolve(environment.CHERRYQ_ENGINE_DIR);
  return join(environment.XDG_CACHE_HOME || join(homedir(), ".cache"), "cherryq", "engine");
}
function engineFolder(root, kind) {
  return join(root, `${tfjsNode.version}-${releases[kind].tensorflow}-${kind}-linux-x64`);
}
function readEngineFolder(folder2, kind) {
  const file = join(folder2, manifestFile);
  if (!existsSync(folder2)) return { state: "absent" };
  const damaged = (what2) => ({
    state: "damaged",
    reason: `damaged: ${what2}; mend it with \`${installCommand(kind, true)}\``
  });
  let text;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    return damaged(`${file} cannot be read (${error instanceof Error ? error.message : String(error)})`);
  }
  const manifest = parseManifest(text);
  if (manifest === null) return damaged(`${file} is not the list of an engine's files`);
  if (manifest.kind !== kind) return damaged(`${file} is of kind ${manifest.kind}, not ${kind}`);
  for (const [name, { sizeBytes }] of Object.entries(manifest.files)) {
    const found = statSync(join(folder2, name), { throwIfNoEntry: false });
    if (found === void 0) return damaged(`${join(folder2, name)} is missing`);
    if (found.size !== sizeBytes)
      return damaged(`${join(folder2, name)} has ${found.size} bytes, must have ${sizeBytes}`);
  }
  return { state: "whole", manifest };
}
function parseManifest(text) {
  try {
    return manifestSchema.safeParse(JSON.parse(text)).data ?? null;
  } catch {
    return null;
  }
}

// batch-jobs/src/engine/native/platform.ts
import { existsSync as existsSync2, readFileSync as readFileSync2 } from "node:fs";
function unsupportedPlatform(platform = process.platform, architecture = process.arch, glibc = glibcVersion()) {
  const advice = "Here the WebAssembly engine runs, which needs nothing.";
  if (platform !== "linux" || architecture !== "x64")
    return `The native engine is made for Linux on x64, and this is ${platform} on ${architecture}. ${advice}`;
  if (typeof glibc !== "string")
    return `The native engine needs a Linux with glibc, as TensorFlow's wheels do, and this one has another C library (Alpine?). ${advice}`;
  return null;
}
function glibcVersion() {
  if (process.platform !== "linux") return void 0;
  const report = process.report.getReport();
  return report.header?.glibcVersionRuntime;
}
function hardwareFailure(kind, exists = existsSync2, cpuInfo = readText("/proc/cpuinfo")) {
  if (process.platform !== "linux") return null;
  if (process.arch === "x64" && cpuInfo !== "" && !/^flags\s*:.*\bavx\b/m.test(cpuInfo))
    return "the processor has no AVX, which TensorFlow is built for";
  if (kind === "gpu" && !exists("/dev/nvidiactl") && !exists("/dev/dxg"))
    return "no NVIDIA GPU (neither /dev/nvidiactl nor /dev/dxg is there)";
  return null;
}
function readText(path) {
  return existsSync2(path) ? readFileSync2(path, "utf8") : "";
}

// batch-jobs/src/engine/native/load.ts
var backendName = "tensorflow";
var coreSymbol = /* @__PURE__ */ Symbol.for("cherryq.tfjs-core");
var require2 = createRequire(import.meta.url);
var loaded = null;
async function openNative(kind) {
  if (loaded === null) {
    const absent = hardwareFailure(kind);
    if (absent !== null) return { failure: absent };
    const outcome = await load(kind);
    if ("failure" in outcome) return outcome;
    loaded = outcome.engine;
  }
  if (kind === "gpu" && !loaded.usesGpu)
    return {
      failure: loaded.kind === "gpu" ? noCudaDevice : "the engine without CUDA is already loaded in this process"
    };
  if (kind === "cpu" && loaded.usesGpu) return { failure: "the engine with CUDA is already loaded in this process" };
  return await tf4.setBackend(backendName) ? { engine: loaded } : { failure: "TensorFlow did not start" };
}
var noCudaDevice = "no CUDA device: TensorFlow was loaded and found none it can use (a driver of 525.60 or newer is needed; TF_CPP_MIN_LOG_LEVEL=0 shows why)";
function findNative(kind, environment = process.env) {
  const damages = [];
  for (const build of kind === "gpu" ? ["gpu"] : ["cpu", "gpu"]) {
    const folders = [
      ["package", packageFolder(platformPackage(build))],
      ["cache", engineFolder(engineRoot(environment), build)]
    ];
    for (const [source, folder2] of folders) {
      if (folder2 === null) continue;
      const found = readEngineFolder(folder2, build);
      if (found.state === "whole") return { source, folder: folder2, build };
      if (found.state === "damaged" && build === kind) damages.push(found.reason);
    }
    if (installedPackage(build) !== null) return { source: "tfjs-node", folder: null, build };
  }
  if (damages.length > 0) return { failure: damages.join(", and "), broken: true };
  const advice = unsupportedPlatform() === null ? `; \`${installCommand(kind)}\` makes it` : "";
  return { failure: `not installed${advice}`, broken: false };
}
function packageFolder(name) {
  try {
    return dirname(require2.resolve(`${name}/package.json`));
  } catch {
    return null;
  }
}
function installedPackage(kind) {
  const folder2 = packageFolder(`@tensorflow/tfjs-node${kind === "gpu" ? "-gpu" : ""}`);
  if (folder2 === null) return null;
  return existsSync3(join2(folder2, "lib", "napi-v8", "tfjs_binding.node")) ? folder2 : null;
}
async function load(kind) {
  const found = findNative(kind);
  if ("failure" in found) return { failure: found.failure };
  const { build, folder: folder2 } = found;
  const threads = setThreads(process.env, build);
  if (kind === "cpu" && build === "gpu") process.env.CUDA_VISIBLE_DEVICES = "-1";
  try {
    return folder2 === null ? await loadPackage(build, threads) : { engine: loadFolder(found, folder2, threads) };
  } catch (error) {
    const said = error instanceof Error ? error.message.split("\n")[0] : String(error);
    return { failure: `does not load (${said}); \`${installCommand(build, true)}\` makes it anew` };
  }
}
function setThreads(environment, kind) {
  environment.TF_NUM_INTRAOP_THREADS ||= String(availableParallelism());
  environment.TF_NUM_INTEROP_THREADS ||= String(availableParallelism());
  environment.TF_CPP_MIN_LOG_LEVEL ||= "2";
  if (kind === "gpu") environment.TF_FORCE_GPU_ALLOW_GROWTH ||= "true";
  return Number(environment.TF_NUM_INTRAOP_THREADS);
}
function restoreUtil() {
  const util3 = require2("node:util");
  util3.isNullOrUndefined ??= (value) => value === null || value === void 0;
  util3.isArray ??= Array.isArray;
}
function loadFolder({ source, build: kind }, folder2, threads) {
  const global = globalThis;
  global[coreSymbol] = require2("@tensorflow/tfjs-core");
  try {
    const inFolder = createRequire(join2(folder2, "tfjs-node", "package.json"));
    const binding = inFolder(join2(folder2, bindingFile));
    const { NodeJSKernelBackend } = inFolder("./dist/nodejs_kernel_backend.js");
    inFolder("./dist/register_all_kernels.js");
    const packageName = `@tensorflow/tfjs-node${kind === "gpu" ? "-gpu" : ""}`;
    tf4.registerBackend(backendName, () => new NodeJSKernelBackend(binding, packageName), 3);
    const read = readEngineFolder(folder2, kind);
    return {
      kind,
      source,
      folder: folder2,
      tfjs: read.state === "whole" ? read.manifest.tfjs : "unknown",
      tensorflow: binding.TF_Version,
      threads,
      usesGpu: binding.isUsingGpuDevice()
    };
  } finally {
    delete global[coreSymbol];
  }
}
async function loadPackage(kind, threads) {
  const name = `@tensorflow/tfjs-node${kind === "gpu" ? "-gpu" : ""}`;
  restoreUtil();
  const { version } = await import(name);
  if (tf4.findBackend(backendName) === null)
    return { failure: `${name} brought a tfjs-core of its own; install it at the version ${tf4.version_core}` };
  await tf4.setBackend(backendName);
  const { binding } = tf4.backend();
  return {
    engine: {
      kind,
      source: "tfjs-node",
      folder: null,
      tfjs: version["tfjs-node"],
      tensorflow: binding.TF_Version,
      threads,
      usesGpu: binding.isUsingGpuDevice()
    }
  };
}

// batch-jobs/src/engine/wasm-backend.ts
import * as tf5 from "@tensorflow/tfjs-core";
function wasmBackend() {
  if (tf5.getBackend() !== "wasm") throw new Error(`The WebAssembly engine is not open; ${tf5.getBackend()} is.`);
  return tf5.backend();
}

// batch-jobs/src/engine/wasm-kernels.ts
import * as tf6 from "@tensorflow/tfjs-core";
import { readFileSync as readFileSync3 } from "node:fs";
var floatBytes = 4;
var noTensor = 0;
var Device = class {
  constructor(backend5) {
    this.backend = backend5;
    const file = new URL(import.meta.resolve("@cherryq/batch-jobs/kernels/device.wasm"));
    const module = new WebAssembly.Module(readFileSync3(file));
    const imports = { env: { memory: backend5.wasm.asm.memory }, device: { log: Math.log } };
    this.kernels = new WebAssembly.Instance(module, imports).exports;
    this.ensureWorkspace(this.kernels.leastWorkspaceBytes());
  }
  backend;
  kernels;
  workspace = 0;
  workspaceBytes = 0;
  ensureWorkspace(bytes) {
    if (bytes <= this.workspaceBytes) return;
    this.backend.wasm._free(this.workspace);
    this.workspaceBytes = 0;
    this.workspace = this.backend.wasm._malloc(bytes) >>> 0;
    this.workspaceBytes = bytes;
    this.kernels.useWorkspace(this.workspace);
  }
  /** Byte address of a tensor. */
  at(tensor2) {
    return this.backend.dataIdMap.get(tensor2.dataId).memoryOffset;
  }
  create(...shape) {
    return this.backend.makeOutput(shape, "float32");
  }
  dispose(tensor2) {
    this.backend.disposeData(tensor2.dataId);
  }
  copy(from, to) {
    const bytes = new Uint8Array(this.backend.wasm.asm.memory.buffer);
    const start = this.at(from);
    bytes.copyWithin(this.at(to), start, start + floatBytes * tf6.util.sizeFromShape(from.shape));
  }
};
var device = null;
function registerWasmKernels() {
  if (device !== null) return;
  const opened = new Device(wasmBackend());
  device = opened;
  tf6.unregisterKernel(tf6.BatchMatMul, "wasm");
  for (const [kernelName, kernel] of kernels2) {
    const kernelFunc = ({ inputs, attrs }) => kernel(opened, inputs, attrs ?? {});
    tf6.registerKernel({ kernelName, backendName: "wasm", kernelFunc });
  }
}
var exponentialKernel = "CherryqExponential";
var kernels2 = /* @__PURE__ */ new Map([
  [tf6.BatchMatMul, (device2, inputs, attributes) => batchMatMul(device2, inputs, attributes)],
  [
    tf6.UnsortedSegmentSum,
    (device2, inputs, attributes) => segmentSum(device2, inputs, attributes)
  ],
  [
    fusedKernels.sumOfProducts,
    (device2, inputs, attributes) => sumOfProducts3(device2, inputs, attributes)
  ],
  [
    fusedKernels.rmsNorm,
    (device2, inputs, attributes) => {
      const { x, weight } = required(inputs);
      const [rows, columns] = x.shape;
      const y = device2.create(rows, columns);
      const { eps } = attributes;
      device2.kernels.rmsNorm(device2.at(x), device2.at(weight), device2.at(y), rows, columns, eps);
      return y;
    }
  ],
  [
    fusedKernels.rmsNormBackward,
    (device2, inputs, attributes) => {
      const { x, weight, dy } = required(inputs);
      const residual = inputs.residual ? device2.at(inputs.residual) : noTensor;
      const [rows, columns] = x.shape;
      const dx = device2.create(rows, columns);
      const dWeight = device2.create(columns);
      const { eps } = attributes;
      const [xAt, weightAt, dyAt, dxAt, dWeightAt] = [x, weight, dy, dx, dWeight].map((tensor2) => device2.at(tensor2));
      device2.kernels.rmsNormBackward(xAt, weightAt, dyAt, residual, dxAt, dWeightAt, rows, columns, eps);
      return [dx, dWeight];
    }
  ],
  [fusedKernels.attention, (device2, inputs, attributes) => attention3(device2, inputs, attributes)],
  [
    fusedKernels.attentionBackward,
    (device2, inputs, attributes) => attentionBackward3(device2, inputs, attributes)
  ],
  [fusedKernels.swiGlu, (device2, inputs) => gated(device2, device2.kernels.swiGlu, inputs)],
  [fusedKernels.swiGluBackward, (device2, inputs) => gatedBackward(device2, device2.kernels.swiGluBackward, inputs)],
  [fusedKernels.geGlu, (device2, inputs) => gated(device2, device2.kernels.geGlu, inputs)],
  [fusedKernels.geGluBackward, (device2, inputs) => gatedBackward(device2, device2.kernels.geGluBackward, inputs)],
  [
    fusedKernels.crossEntropy,
    (device2, inputs, attributes) => {
      const { logits, ids } = required(inputs);
      return losses(device2, device2.kernels.crossEntropy, logits, ids, attributes);
    }
  ],
  [
    fusedKernels.distillation,
    (device2, inputs, attributes) => {
      const { logits, wanted } = required(inputs);
      device2.ensureWorkspace(device2.kernels.distillationWorkspaceBytes(logits.shape[1]));
      return losses(device2, device2.kernels.distillation, logits, wanted, attributes);
    }
  ],
  [
    exponentialKernel,
    (device2, inputs) => {
      const { x } = required(inputs);
      const y = device2.create(...x.shape);
      device2.kernels.exponential(device2.at(x), device2.at(y), sizeOf(x), 0);
      return y;
    }
  ]
]);
function batchMatMul(device2, inputs, attributes) {
  const { a, b } = required(inputs);
  const { transposeA, transposeB } = attributes;
  const batchShape = tf6.broadcast_util.assertAndGetBroadcastShape(a.shape.slice(0, -2), b.shape.slice(0, -2));
  const [m, n] = [rowsAndColumns(a, transposeA)[0], rowsAndColumns(b, transposeB)[1]];
  const out = device2.create(...batchShape, m, n);
  const aMatrices = matricesOf(a.shape.slice(0, -2), batchShape);
  const bMatrices = matricesOf(b.shape.slice(0, -2), batchShape);
  aMatrices.forEach((aMatrix, i) => {
    multiply(device2, { a, b, transposeA, transposeB, aMatrix, bMatrix: bMatrices[i] }, out, i, false);
  });
  return out;
}
function multiply(device2, product, out, matrix, add5) {
  const { a, b, transposeA, transposeB } = product;
  const [m, k] = rowsAndColumns(a, transposeA);
  const n = rowsAndColumns(b, transposeB)[1];
  device2.kernels.matMul(
    m,
    n,
    k,
    device2.at(a) + floatBytes * product.aMatrix * m * k,
    floatBytes * (transposeA ? 1 : k),
    floatBytes * (transposeA ? m : 1),
    device2.at(b) + floatBytes * product.bMatrix * k * n,
    floatBytes * (transposeB ? 1 : n),
    floatBytes * (transposeB ? k : 1),
    device2.at(out) + floatBytes * matrix * m * n,
    Number(add5)
  );
}
function rowsAndColumns(tensor2, transposed) {
  const [rows, columns] = tensor2.shape.slice(-2);
  return transposed ? [columns, rows] : [rows, columns];
}
function matricesOf(shape, batchShape) {
  let matrices = [0];
  batchShape.forEach((size, axis) => {
    const own = shape[axis - (batchShape.length - shape.length)] ?? 1;
    matrices = matrices.flatMap((matrix) => Array.from({ length: size }, (_, i) => matrix * own + (own === 1 ? 0 : i)));
  });
  return matrices;
}
function sumOfProducts3(device2, inputs, { transposes }) {
  const all = required(inputs);
  const [rows, columns] = [
    rowsAndColumns(all.a0, transposes[0].transposeA)[0],
    rowsAndColumns(all.b0, transposes[0].transposeB)[1]
  ];
  const out = device2.create(rows, columns);
  if (inputs.base) device2.copy(inputs.base, out);
  transposes.forEach((transpose3, i) => {
    const product = { a: all[`a${i}`], b: all[`b${i}`], ...transpose3, aMatrix: 0, bMatrix: 0 };
    multiply(device2, product, out, 0, i > 0 || inputs.base !== null);
  });
  return out;
}
function segmentSum(device2, inputs, attributes) {
  const { x, segmentIds } = required(inputs);
  const { numSegments } = attributes;
  const rows = sizeOf(segmentIds);
  const rest = x.shape.slice(segmentIds.shape.length);
  const columns = tf6.util.sizeFromShape(rest);
  const out = device2.create(numSegments, ...rest);
  const [xAt, idsAt, outAt] = [x, segmentIds, out].map((tensor2) => device2.at(tensor2));
  const wrong = device2.kernels.segmentSum(xAt, idsAt, outAt, rows, columns, numSegments);
  if (wrong >= 0) {
    device2.dispose(out);
    throw new Error(`UnsortedSegmentSum: the id at ${wrong} is not below the number of segments, ${numSegments}.`);
  }
  return out;
}
function gated(device2, kernel, inputs) {
  const { gate, up } = required(inputs);
  const y = device2.create(...gate.shape);
  kernel(device2.at(gate), device2.at(up), device2.at(y), sizeOf(y));
  return y;
}
function gatedBackward(device2, kernel, inputs) {
  const { gate, up, dy } = required(inputs);
  const gradients = [gate, up].map((tensor2) => device2.create(...tensor2.shape));
  const pointers = [gate, up, dy, ...gradients].map((tensor2) => device2.at(tensor2));
  kernel(...pointers, sizeOf(gate));
  return gradients;
}
function attention3(device2, inputs, shape) {
  const { queries, keys, values, cos, sin } = required(inputs);
  const { windows: windows2, length, width, heads, keyValueHeads, headDim } = shape;
  device2.ensureWorkspace(device2.kernels.attentionWorkspaceBytes(headDim, width));
  const attended = device2.create(...queries.shape);
  const stats = device2.create(windows2, heads, Math.ceil(length / 8), 2, 8);
  const pointers = [queries, keys, values, cos, sin, attended, stats].map((tensor2) => device2.at(tensor2));
  const seen = Math.min(shape.slidingWindow ?? width, width);
  device2.kernels.attention(...pointers, windows2, heads, keyValueHeads, headDim, length, width, seen);
  return [attended, stats];
}
function attentionBackward3(device2, inputs, shape) {
  const { queries, keys, values, cos, sin, saved0, dAttended } = required(inputs);
  const { windows: windows2, length, width, heads, keyValueHeads, headDim } = shape;
  device2.ensureWorkspace(device2.kernels.attentionBackwardWorkspaceBytes(headDim, width));
  const gradients = [queries, keys, values].map((tensor2) => device2.create(...tensor2.shape));
  const read = [queries, keys, values, cos, sin, saved0, dAttended];
  const pointers = [...read, ...gradients].map((tensor2) => device2.at(tensor2));
  const seen = Math.min(shape.slidingWindow ?? width, width);
  device2.kernels.attentionBackward(...pointers, windows2, heads, keyValueHeads, headDim, length, width, seen);
  return gradients;
}
function losses(device2, kernel, logits, wanted, { scale }) {
  const [rows, columns] = logits.shape;
  const result = device2.create(rows);
  const dLogits = scale === null ? null : device2.create(rows, columns);
  const dLogitsAt = dLogits ? device2.at(dLogits) : noTensor;
  kernel(device2.at(logits), device2.at(wanted), device2.at(result), dLogitsAt, rows, columns, scale ?? 0);
  return dLogits ? [result, dLogits] : [result];
}
function required(inputs) {
  return inputs;
}
function sizeOf(tensor2) {
  return tf6.util.sizeFromShape(tensor2.shape);
}

// batch-jobs/src/engine/wasm-memory.ts
import * as tf7 from "@tensorflow/tfjs-core";
var heapLimitBytes = 4294901760;
var spareBytes = 128 * 1024 * 1024;
var meters = /* @__PURE__ */ new WeakMap();
function boundWasmMemory(backend5) {
  if (meters.has(backend5)) return;
  const meter = { used: 0, peak: 0, sizes: /* @__PURE__ */ new WeakMap() };
  meters.set(backend5, meter);
  const { move, disposeData } = backend5;
  const { malloc } = backend5.wasm.asm;
  let asked = [];
  backend5.wasm._malloc = (bytes) => {
    const offset = meter.used + bytes > heapLimitBytes - spareBytes ? 0 : malloc(bytes);
    if (offset === 0 && bytes > 0) throw tooLarge(bytes, asked, meter.used);
    return offset;
  };
  backend5.move = (dataId, values, shape, dtype, refCount) => {
    asked = shape;
    move.call(backend5, dataId, values, shape, dtype, refCount);
    const bytes = dtype === "string" ? 0 : tf7.util.sizeFromShape(shape) * tf7.util.bytesPerElement(dtype);
    meter.sizes.set(dataId, bytes);
    meter.used += bytes;
    meter.peak = Math.max(meter.peak, meter.used);
  };
  backend5.disposeData = (dataId, force) => {
    const held = backend5.dataIdMap.has(dataId);
    const gone = disposeData.call(backend5, dataId, force);
    if (held && gone) meter.used -= meter.sizes.get(dataId) ?? 0;
    return gone;
  };
}
function tooLarge(bytes, shape, used) {
  const megabytes = (value) => `${Math.ceil(value / 1e6).toLocaleString("en")} MB`;
  return new InputError(
    "engine_memory",
    `The WebAssembly engine cannot hold ${megabytes(bytes)} more (a tensor of [${shape.join(", ")}]): ${megabytes(used)} are in use, and it ends at ${megabytes(heapLimitBytes)} or where this machine's memory does. Use a smaller batch or shorter sequences, or the native engine, which has no such limit (npx cherryq engine install).`,
    "CHERRYQ_ENGINE"
  );
}

// batch-jobs/src/engine/engine.ts
var engineNames = ["gpu", "native", "wasm", "cpu"];
async function openEngine(forced) {
  if (forced !== void 0 && forced !== "" && !engineNames.includes(forced)) {
    throw new InputError(
      "unknown_engine",
      `CHERRYQ_ENGINE is "${forced}"; allowed are ${engineNames.join(", ")}. Leave it unset to take the best one present.`,
      "CHERRYQ_ENGINE"
    );
  }
  const wanted = forced ? [forced] : engineNames;
  const passedOver = [];
  for (const name of wanted) {
    const { failure, native } = await tryEngine(name);
    if (failure === null) {
      await tf8.ready();
      registerKernels(name);
      const reason = forced ? `CHERRYQ_ENGINE=${name}` : passedOver.length === 0 ? "the fastest kind" : `the best one present (${listed(passedOver)})`;
      return { name, reason, native, passedOver };
    }
    passedOver.push({ name, failure });
  }
  throw new InputError("engine_absent", `No engine could be opened: ${listed(passedOver)}.`, "CHERRYQ_ENGINE");
}
function registerKernels(name) {
  switch (name) {
    case "gpu":
    case "native":
      return registerNativeKernels();
    case "wasm":
      boundWasmMemory(wasmBackend());
      return registerWasmKernels();
    case "cpu":
      return registerComposedKernels("cpu");
  }
}
function listed(passedOver) {
  return passedOver.map(({ name, failure }) => `${name}: ${failure}`).join("; ");
}
async function tryEngine(name) {
  switch (name) {
    case "gpu":
    case "native": {
      const outcome = await openNative(name === "gpu" ? "gpu" : "cpu");
      return "failure" in outcome ? { failure: outcome.failure, native: null } : { failure: null, native: outcome.engine };
    }
    case "wasm":
      return { failure: await tryWasm(), native: null };
    case "cpu":
      await import("@tensorflow/tfjs-backend-cpu");
      return { failure: await tf8.setBackend("cpu") ? null : "did not start", native: null };
  }
}
async function tryWasm() {
  const { setWasmPaths } = await import("@tensorflow/tfjs-backend-wasm");
  const packageFile = new URL(import.meta.resolve("@tensorflow/tfjs-backend-wasm"));
  setWasmPaths(decodeURIComponent(new URL(".", packageFile).pathname));
  if (!await tf8.setBackend("wasm")) return "WebAssembly did not start";
  return null;
}

// batch-jobs/src/numeric/dtypes.ts
var floatBytes2 = { F32: 4, F16: 2, BF16: 2 };
var float16Max = 65504;
var halfToFloat;
function makeHalfToFloat() {
  const table = new Uint32Array(65536);
  const value = new Float32Array(1);
  const valueBits = new Uint32Array(value.buffer);
  for (let bits = 0; bits < 65536; bits++) {
    const sign = (bits & 32768) << 16;
    const exponent = bits >>> 10 & 31;
    const fraction = bits & 1023;
    if (exponent === 0) {
      value[0] = fraction * 2 ** -24;
      table[bits] = sign | valueBits[0];
    } else {
      const wideExponent = exponent === 31 ? 255 : exponent + 112;
      table[bits] = sign | wideExponent << 23 | fraction << 13;
    }
  }
  return table;
}
function float16ToFloat32(bits) {
  halfToFloat ??= makeHalfToFloat();
  const values = new Float32Array(bits.length);
  const valueBits = new Uint32Array(values.buffer);
  for (let i = 0; i < bits.length; i++) valueBits[i] = halfToFloat[bits[i]];
  return values;
}
function float32ToFloat16(values) {
  const valueBits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const bits = new Uint16Array(values.length);
  for (let i = 0; i < bits.length; i++) bits[i] = halfOf(valueBits[i]);
  return bits;
}
function halfOf(valueBits) {
  const sign = valueBits >>> 16 & 32768;
  const magnitude2 = valueBits & 2147483647;
  if (magnitude2 >= 1199570944) {
    if (magnitude2 <= 2139095040) return sign | 31744;
    return sign | 31744 | (magnitude2 >>> 13 & 1023 || 1);
  }
  if (magnitude2 >= 947912704) {
    return sign | magnitude2 + 4095 + (magnitude2 >>> 13 & 1) - 939524096 >>> 13;
  }
  if (magnitude2 <= 855638016) return sign;
  const shift = 126 - (magnitude2 >>> 23);
  const fraction = magnitude2 & 8388607 | 8388608;
  const odd = fraction >>> shift & 1;
  return sign | fraction + (1 << shift - 1) - 1 + odd >>> shift;
}
function bfloat16ToFloat32(bits) {
  const values = new Float32Array(bits.length);
  const valueBits = new Uint32Array(values.buffer);
  for (let i = 0; i < bits.length; i++) valueBits[i] = bits[i] << 16;
  return values;
}
var scalar = new Float64Array(1);
var scalarWords = new Uint32Array(scalar.buffer);
var roundingConstants = Float64Array.from({ length: 30 }, (_, i) => 1.5 * 2 ** (i - 14 + 42));
function roundToFloat16(x) {
  const magnitude2 = Math.abs(x);
  if (!(magnitude2 < 65520)) return magnitude2 >= 65520 ? Math.sign(x) * Infinity : NaN;
  scalar[0] = magnitude2;
  const exponent = Math.max((scalarWords[1] >>> 20) - 1023, -14);
  const constant = roundingConstants[exponent + 14];
  const rounded = magnitude2 + constant - constant;
  return x < 0 || Object.is(x, -0) ? -rounded : rounded;
}
function toFloat32(bytes, dtype) {
  const { buffer, byteOffset } = bytes.byteOffset % floatBytes2[dtype] === 0 ? bytes : bytes.slice();
  const count = bytes.length / floatBytes2[dtype];
  if (dtype === "F32") return new Float32Array(buffer, byteOffset, count);
  const bits = new Uint16Array(buffer, byteOffset, count);
  return dtype === "F16" ? float16ToFloat32(bits) : bfloat16ToFloat32(bits);
}

// batch-jobs/src/formats/json.ts
function isJsonObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
async function readJsonObject(store, key, maxBytes) {
  const found = await store.head(key);
  if (found === null) return null;
  if (found.sizeBytes > maxBytes) {
    throw new InputError(
      "file_too_large",
      `${key} has ${found.sizeBytes} bytes; at most ${maxBytes} are read of such a file. Is it the right file?`,
      key
    );
  }
  const bytes = await store.get(key, { start: 0, end: maxBytes });
  if (bytes === null) return null;
  const value = parseJson(bytes, key);
  if (!isJsonObject(value)) {
    throw new InputError("invalid_json", `${key} must hold a JSON object; it holds ${describeJson(value)}.`, key);
  }
  return value;
}
function parseJson(bytes, key) {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    throw new InputError(
      "invalid_json",
      `${key} is not valid JSON in UTF-8 (${messageOf(cause)}). It may be cut short or damaged; copy it again.`,
      key,
      { cause }
    );
  }
}
function messageOf(error) {
  return error instanceof Error ? error.message : String(error);
}
function describeJson(value) {
  if (value === void 0) return "nothing";
  if (Array.isArray(value) && value.length > 8) return `an array of ${value.length} values`;
  const text = JSON.stringify(value);
  return text.length <= 80 ? text : `${text.slice(0, 77)}...`;
}

// batch-jobs/src/formats/safetensors.ts
var dtypeBytes = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  F8_E8M0: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8,
  C64: 8
};
var lengthBytes = 8;
var maxHeaderBytes = 1e8;
var metadataName = "__metadata__";
async function openSafetensors(store, key) {
  const found = await store.head(key);
  if (found === null) throw new InputError("missing_file", `There is no file ${key}.`, key);
  const { sizeBytes } = found;
  if (sizeBytes < lengthBytes) {
    throw invalid("safetensors_too_short", key, `it has ${sizeBytes} bytes; the length of the header alone takes 8`);
  }
  const prefix = await readRange(store, key, 0, lengthBytes);
  const claimedBytes = new DataView(prefix.buffer, prefix.byteOffset).getBigUint64(0, true);
  const headerBytes = checkedHeaderBytes(claimedBytes, sizeBytes, key);
  const dataStart = lengthBytes + headerBytes;
  const header = parseHeader(await readRange(store, key, lengthBytes, dataStart), key);
  const { [metadataName]: metadata = {}, ...entries } = header;
  const infos = Object.entries(entries).map(([name, entry]) => checkedTensor(name, entry, key, dataStart, sizeBytes));
  infos.sort((a, b) => a.start - b.start || a.end - b.end);
  checkLayout(infos, key, dataStart, sizeBytes);
  const tensors = new Map(infos.map((info) => [info.name, info]));
  return { key, sizeBytes, metadata: checkedMetadata(metadata, key), tensors };
}
function checkedHeaderBytes(claimed, sizeBytes, key) {
  const available = sizeBytes - lengthBytes;
  if (claimed >= 2n && claimed <= BigInt(Math.min(available, maxHeaderBytes))) return Number(claimed);
  const limit = claimed > BigInt(maxHeaderBytes) ? `the limit is ${maxHeaderBytes}` : `${available} follow in the file`;
  throw invalid("safetensors_header_length", key, `it claims a header of ${claimed} bytes; ${limit}`);
}
function parseHeader(bytes, key) {
  let text;
  let header;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    header = JSON.parse(text);
  } catch (cause) {
    throw invalid("safetensors_header_json", key, `its header is not valid JSON in UTF-8 (${messageOf(cause)})`, {
      cause
    });
  }
  if (!isJsonObject(header) || !text.startsWith("{")) {
    throw invalid("safetensors_header_json", key, `its header must be a JSON object; it is ${describeJson(header)}`);
  }
  const doubled = duplicateName(text);
  if (doubled !== null) {
    throw invalid("safetensors_duplicate_name", key, `its header has "${doubled}" twice in one object`, {}, doubled);
  }
  return header;
}
function duplicateName(json) {
  const scopes = [];
  for (let at2 = 0; at2 < json.length; at2++) {
    const char = json[at2];
    if (char === "{" || char === "[") scopes.push(/* @__PURE__ */ new Set());
    else if (char === "}" || char === "]") scopes.pop();
    else if (char === '"') {
      const begin = at2++;
      while (json[at2] !== '"') at2 += json[at2] === "\\" ? 2 : 1;
      let next = at2 + 1;
      while (" 	\r\n".includes(json[next])) next++;
      if (json[next] !== ":") continue;
      const name = JSON.parse(json.slice(begin, at2 + 1));
      const names = scopes[scopes.length - 1];
      if (names.has(name)) return name;
      names.add(name);
    }
  }
  return null;
}
function checkedMetadata(entry, key) {
  if (isJsonObject(entry) && Object.values(entry).every((value) => typeof value === "string")) {
    return entry;
  }
  throw invalid(
    "safetensors_metadata",
    key,
    `its ${metadataName} must be an object of strings; it is ${describeJson(entry)}`
  );
}
function checkedTensor(name, entry, key, dataStart, sizeBytes) {
  const fail = (code, what2) => {
    throw invalid(code, key, `tensor "${name}" ${what2}`, {}, name);
  };
  if (!isJsonObject(entry)) return fail("safetensors_tensor_entry", `is described by ${describeJson(entry)}`);
  const { dtype, shape, data_offsets: offsets } = entry;
  if (typeof dtype !== "string" || !Object.hasOwn(dtypeBytes, dtype)) {
    const known = Object.keys(dtypeBytes).join(", ");
    return fail("safetensors_dtype", `has the unknown dtype ${describeJson(dtype)}; known are ${known}`);
  }
  if (!isCounts(shape)) {
    return fail(
      "safetensors_shape",
      `has the shape ${describeJson(shape)}; it must be an array of whole numbers from 0`
    );
  }
  if (!isCounts(offsets) || offsets.length !== 2 || offsets[1] < offsets[0]) {
    const allowed = "they must be two whole numbers, begin and end, in that order";
    return fail("safetensors_offsets", `has the data_offsets ${describeJson(offsets)}; ${allowed}`);
  }
  const expectedBytes = shape.reduce((product, size) => product * size, dtypeBytes[dtype]);
  if (!Number.isSafeInteger(expectedBytes)) {
    return fail("safetensors_shape", `has the shape ${describeJson(shape)}, more bytes than any file can have`);
  }
  const [begin, end] = offsets;
  if (end - begin !== expectedBytes) {
    const needed = `${dtype} ${describeJson(shape)} needs ${expectedBytes} bytes`;
    return fail("safetensors_size_mismatch", `has ${end - begin} bytes of data, but ${needed}`);
  }
  const dataBytes = sizeBytes - dataStart;
  if (end > dataBytes) {
    const cut = "The file is probably cut short: copy it again";
    return fail("safetensors_truncated", `ends at byte ${end} of the data, but the file has only ${dataBytes}. ${cut}`);
  }
  return { name, dtype, shape, key, start: dataStart + begin, end: dataStart + end };
}
function isCounts(value) {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && item >= 0);
}
function checkLayout(tensors, key, dataStart, sizeBytes) {
  let position = dataStart;
  let before = "the header";
  for (const { name, start, end } of tensors) {
    if (start < position) {
      throw invalid("safetensors_overlap", key, `tensor "${name}" overlaps ${before}`, {}, name);
    }
    if (start > position) {
      const hole = `${start - position} bytes between ${before} and tensor "${name}" belong to no tensor`;
      throw invalid("safetensors_hole", key, hole, {}, name);
    }
    position = end;
    before = `tensor "${name}"`;
  }
  if (position !== sizeBytes) {
    throw invalid("safetensors_hole", key, `${sizeBytes - position} bytes after ${before} belong to no tensor`);
  }
}
function invalid(code, key, what2, options = {}, tensor2) {
  return new InputError(code, `${key} is not a valid safetensors file: ${what2}.`, tensor2 ?? key, options);
}
async function readRange(store, key, start, end) {
  const bytes = await store.get(key, { start, end });
  if (bytes === null || bytes.length !== end - start) throw fileChanged(key);
  return bytes;
}
function fileChanged(key) {
  return new InputError("file_changed", `${key} became shorter or was deleted while it was being read.`, key);
}
function readTensorBytes(store, info) {
  return readRange(store, info.key, info.start, info.end);
}
async function readTensorInto(store, info, start, into) {
  if (start + into.length > info.end - info.start) {
    throw new RangeError(`Bytes ${start} to ${start + into.length} of "${info.name}" were asked for; it has fewer.`);
  }
  if (await store.read(info.key, info.start + start, into) !== into.length) throw fileChanged(info.key);
}
function floatDtype({ dtype, name, key }) {
  if (dtype === "F32" || dtype === "F16" || dtype === "BF16") return dtype;
  throw new InputError(
    "unsupported_dtype",
    `Tensor "${name}" of ${key} is ${dtype}; weights must be F32, F16 or BF16. Convert the model to one of them first.`,
    name
  );
}
async function readTensor(store, info) {
  const dtype = floatDtype(info);
  return toFloat32(await readTensorBytes(store, info), dtype);
}

// batch-jobs/src/numeric/kernel-module.ts
import { readFileSync as readFileSync4 } from "node:fs";
import { createRequire as createRequire2 } from "node:module";
var loaded2 = /* @__PURE__ */ new Map();
var pageBytes = 65536;
function loadKernels(name, bytes) {
  let module = loaded2.get(name);
  if (!module) loaded2.set(name, module = instantiate(name));
  const { memory } = module;
  const missing2 = bytes + 16 * pageBytes - memory.buffer.byteLength;
  if (missing2 > 0) memory.grow(Math.ceil(missing2 / pageBytes));
  return { kernels: module.kernels, arena: arenaOf(memory.buffer) };
}
function instantiate(name) {
  const memory = new WebAssembly.Memory({ initial: 32 });
  const file = createRequire2(import.meta.url).resolve(`@cherryq/batch-jobs/kernels/${name}.wasm`);
  const instance = new WebAssembly.Instance(new WebAssembly.Module(readFileSync4(file)), { env: { memory } });
  return { memory, kernels: instance.exports };
}
function arenaOf(buffer) {
  let next = 0;
  const take = (bytes) => {
    const at2 = next;
    next = Math.ceil((next + bytes) / 16) * 16;
    return at2;
  };
  return {
    float32: (length) => new Float32Array(buffer, take(4 * length), length),
    uint32: (length) => new Uint32Array(buffer, take(4 * length), length),
    bytes: (length) => new Uint8Array(buffer, take(length), length)
  };
}

// batch-jobs/src/numeric/bit-packing.ts
function packedBytes(count, bits) {
  return Math.ceil(count * bits / 8);
}
function packRows(values, rows, columns, bits, into = new Uint8Array(rows * packedBytes(columns, bits))) {
  checkWidth(bits);
  checkLength("values", values.length, rows * columns);
  checkLength("packed bytes", into.length, rows * packedBytes(columns, bits));
  if (!(values instanceof Uint8Array) || !kernelWidths.has(bits)) packEach(values, rows, columns, bits, into);
  else if (bits === 8) copyBytes(values, into);
  else packByKernel(values, rows, columns, bits, into);
  return into;
}
function unpackRows(packed, rows, columns, bits) {
  checkWidth(bits);
  checkLength("packed bytes", packed.length, rows * packedBytes(columns, bits));
  const values = new Uint8Array(rows * columns);
  if (!kernelWidths.has(bits)) unpackEach(packed, rows, columns, bits, values);
  else if (bits === 8) copyBytes(packed, values);
  else unpackByKernel(packed, rows, columns, bits, values);
  return values;
}
var kernelWidths = /* @__PURE__ */ new Set([2, 3, 4, 8]);
var valuesAtOnce = 131072;
var copiedAtOnce = 262144;
var slack = 64;
function copyBytes(from, into) {
  for (let at2 = 0; at2 < from.length; at2 += copiedAtOnce) into.set(from.subarray(at2, at2 + copiedAtOnce), at2);
}
function* pieces(rows, columns, bits) {
  const isOne = columns * bits % 8 === 0;
  const rowCount = isOne ? 1 : rows;
  const rowLength = isOne ? rows * columns : columns;
  const rowBytes = packedBytes(rowLength, bits);
  const rowsAtOnce = Math.max(1, Math.floor(valuesAtOnce / Math.max(1, rowLength)));
  for (let row = 0; row < rowCount; row += rowsAtOnce) {
    for (let column = 0; column < rowLength; column += valuesAtOnce) {
      yield {
        rows: Math.min(rowsAtOnce, rowCount - row),
        columns: Math.min(valuesAtOnce, rowLength - column),
        from: row * rowLength + column,
        to: row * rowBytes + column * bits / 8
      };
    }
  }
}
function packByKernel(values, rows, columns, bits, into) {
  const { kernels: kernels3, arena } = loadKernels("quantize", 3 * (valuesAtOnce + slack + 16));
  const chunk = arena.bytes(valuesAtOnce + slack);
  const scratch = arena.bytes(valuesAtOnce + slack);
  const packed = arena.bytes(valuesAtOnce + slack);
  for (const piece of pieces(rows, columns, bits)) {
    const count = piece.rows * piece.columns;
    chunk.set(values.subarray(piece.from, piece.from + count));
    chunk.fill(0, count, count + slack);
    const all = kernels3.packRows(
      chunk.byteOffset,
      piece.rows,
      piece.columns,
      bits,
      scratch.byteOffset,
      packed.byteOffset
    );
    if (all >>> bits !== 0) throw misfit(values, piece.from, bits);
    into.set(packed.subarray(0, piece.rows * packedBytes(piece.columns, bits)), piece.to);
  }
}
function unpackByKernel(packed, rows, columns, bits, values) {
  const { kernels: kernels3, arena } = loadKernels("quantize", 2 * (valuesAtOnce + slack + 16));
  const chunk = arena.bytes(valuesAtOnce + slack);
  const unpacked = arena.bytes(valuesAtOnce + slack);
  for (const piece of pieces(rows, columns, bits)) {
    const bytes = piece.rows * packedBytes(piece.columns, bits);
    chunk.set(packed.subarray(piece.to, piece.to + bytes));
    kernels3.unpackRows(chunk.byteOffset, piece.rows, piece.columns, bits, unpacked.byteOffset);
    values.set(unpacked.subarray(0, piece.rows * piece.columns), piece.from);
  }
}
function misfit(values, from, bits) {
  let index = from;
  while (values[index] >>> bits === 0) index++;
  return new RangeError(`Value ${values[index]} at index ${index} does not fit into ${bits} bits.`);
}
function packEach(values, rows, columns, bits, packed) {
  const rowBytes = packedBytes(columns, bits);
  let from = 0;
  for (let row = 0; row < rows; row++) {
    let to = row * rowBytes;
    let pending = 0;
    let pendingBits = 0;
    for (const until = from + columns; from < until; from++) {
      const value = values[from];
      if (value >>> bits !== 0) throw misfit(values, from, bits);
      pending |= value << pendingBits;
      pendingBits += bits;
      if (pendingBits >= 8) {
        packed[to++] = pending;
        pending >>>= 8;
        pendingBits -= 8;
      }
    }
    if (pendingBits > 0) packed[to] = pending;
  }
}
function unpackEach(packed, rows, columns, bits, values) {
  const rowBytes = packedBytes(columns, bits);
  const mask = 2 ** bits - 1;
  let to = 0;
  for (let row = 0; row < rows; row++) {
    let from = row * rowBytes;
    let pending = 0;
    let pendingBits = 0;
    for (const until = to + columns; to < until; to++) {
      if (pendingBits < bits) {
        pending |= packed[from++] << pendingBits;
        pendingBits += 8;
      }
      values[to] = pending & mask;
      pending >>>= bits;
      pendingBits -= bits;
    }
  }
}
function checkWidth(bits) {
  if (!Number.isInteger(bits) || bits < 1 || bits > 8) throw new RangeError(`bits must be 1 to 8; got ${bits}.`);
}
function checkLength(what2, length, expected) {
  if (length !== expected) throw new RangeError(`Expected ${expected} ${what2} for this shape; got ${length}.`);
}

// batch-jobs/src/numeric/pool.ts
import { createRequire as createRequire3 } from "node:module";
import { availableParallelism as availableParallelism2 } from "node:os";
import { Piscina } from "piscina";

// batch-jobs/src/numeric/host-worker.ts
var host_worker_exports = {};
__export(host_worker_exports, {
  compareNumbers: () => compareNumbers,
  compareRows: () => compareRows,
  fakeQuantizeRows: () => fakeQuantizeRows,
  halveNumbers: () => halveNumbers,
  quantizeRows: () => quantizeRows,
  roundMatrices: () => roundMatrices,
  roundRows: () => roundRows,
  squareSums: () => squareSums,
  updateWeights: () => updateWeights
});

// batch-jobs/src/numeric/quantizer.ts
function publishedLevels(bits) {
  return bits <= 4 ? "midRise" : "symmetric";
}
var noCherries = { perRow: 0, columns: new Uint32Array(0), shared: false };
function cherriesOfRows({ perRow, columns, shared }, fromRow, rows) {
  return { perRow, columns: columns.slice(fromRow * perRow, (fromRow + rows) * perRow), shared };
}
var leastScale = 2 ** -24;
function roundHalfEven(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}
function cherryCount(columns, fraction) {
  const wanted = Math.ceil(columns * fraction);
  return Math.floor(wanted / 8) * 8 || wanted;
}
function storedColumns(columns, perRow, { aligned }) {
  return aligned ? columns : columns - perRow;
}
function groupCount(columns, perRow, grid) {
  return grid.groupSize === Infinity ? 1 : Math.ceil(storedColumns(columns, perRow, grid) / grid.groupSize);
}
function levelsOf({ bits, levels }) {
  const half = 2 ** (bits - 1);
  return levels === "midRise" ? { scaleDivisor: half, qMin: -half, offset: 0.5, clip: half - 0.01 } : { scaleDivisor: half - 1, qMin: -half, offset: 0, clip: half - 1 };
}
function groupScale(least, most, grid) {
  if (grid.levels !== "asymmetric") {
    const largest = Math.max(-least, most);
    return { scale: roundToFloat16((largest + 1e-6) / levelsOf(grid).scaleDivisor) || leastScale, zero: 0 };
  }
  const steps = 2 ** grid.bits - 1;
  const [low, high] = [Math.min(least, 0), Math.max(most, 0)];
  const scale = roundToFloat16((high - low) / steps) || leastScale;
  return { scale, zero: clamp(roundHalfEven(-low / scale), 0, steps) };
}
function clamp(value, least, most) {
  return value > most ? most : value < least ? least : value;
}
function integerOf(value, { scale, zero }, grid, levels) {
  if (grid.levels === "asymmetric") return clamp(roundHalfEven(value / scale) + zero, 0, 2 ** grid.bits - 1);
  const clipped = clamp(value / scale, -levels.clip, levels.clip);
  return roundHalfEven(clipped - levels.offset) - levels.qMin;
}
var RowLayout = class {
  constructor(width, cherries, grid) {
    this.width = width;
    this.cherries = cherries;
    this.grid = grid;
    const stored = storedColumns(width, cherries.perRow, grid);
    this.columns = Uint32Array.from({ length: stored }, (_, column) => column);
    this.isSlot = new Uint8Array(stored);
    this.isCherry = new Uint8Array(width);
  }
  width;
  cherries;
  grid;
  /** Column of each stored integer. */
  columns;
  /** 1 for a slot of a cherry. */
  isSlot;
  isCherry;
  /** Sets both to those of a row. */
  enter(row) {
    const { perRow, columns } = this.cherries;
    if (perRow === 0) return;
    const own = columns.subarray(row * perRow, (row + 1) * perRow);
    for (const column of own) this.isCherry[column] = 1;
    if (this.grid.aligned) this.isSlot.set(this.isCherry);
    else
      for (let column = 0, next = 0; column < this.width; column++)
        if (!this.isCherry[column]) this.columns[next++] = column;
    for (const column of own) this.isCherry[column] = 0;
  }
};
function quantizeMatrix(weight, columns, grid, cherries, columnScales = null) {
  const rows = weight.length / columns;
  const levels = levelsOf(grid);
  const stored = storedColumns(columns, cherries.perRow, grid);
  const groupSize = Math.min(grid.groupSize, stored);
  const groups = groupCount(columns, cherries.perRow, grid);
  const layout = new RowLayout(columns, cherries, grid);
  const values = new Float32Array(stored);
  const qweight = new Uint8Array(rows * stored);
  const scales = new Float32Array(rows * groups);
  const zeros = new Uint8Array(grid.levels === "asymmetric" ? rows * groups : 0);
  const cherryWeight = new Float32Array(rows * cherries.perRow);
  for (let row = 0; row < rows; row++) {
    layout.enter(row);
    for (let i = 0; i < stored; i++) {
      const column = layout.columns[i];
      const value = weight[row * columns + column];
      values[i] = columnScales === null ? value : value * columnScales[column];
    }
    for (let group = 0; group < groups; group++) {
      const from = group * groupSize;
      const until = Math.min(from + groupSize, stored);
      const own = scaleOfGroup(values, layout.isSlot, from, until, grid);
      scales[row * groups + group] = own.scale;
      if (grid.levels === "asymmetric") zeros[row * groups + group] = own.zero;
      for (let i = from; i < until; i++) qweight[row * stored + i] = integerOf(values[i], own, grid, levels);
    }
    for (let c = 0; c < cherries.perRow; c++) {
      const at2 = row * cherries.perRow + c;
      cherryWeight[at2] = weight[row * columns + cherries.columns[at2]];
    }
  }
  return {
    rows,
    columns,
    grid,
    cherries,
    columnScales,
    qweight,
    scales: float32ToFloat16(scales),
    zeros,
    cherryWeight: float32ToFloat16(cherryWeight)
  };
}
function scaleOfGroup(values, isSlot, from, until, grid) {
  let least = Infinity;
  let most = -Infinity;
  for (let i = from; i < until; i++) {
    if (isSlot[i]) continue;
    const value = values[i];
    if (value < least) least = value;
    if (value > most) most = value;
  }
  return most === -Infinity ? groupScale(0, 0, grid) : groupScale(least, most, grid);
}
function dequantizeMatrix(matrix) {
  const { rows, columns, grid, cherries, columnScales, qweight, zeros } = matrix;
  const levels = levelsOf(grid);
  const stored = storedColumns(columns, cherries.perRow, grid);
  const groupSize = Math.min(grid.groupSize, stored);
  const groups = groupCount(columns, cherries.perRow, grid);
  const scales = float16ToFloat32(matrix.scales);
  const cherryWeight = float16ToFloat32(matrix.cherryWeight);
  const layout = new RowLayout(columns, cherries, grid);
  const weight = new Float32Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    layout.enter(row);
    for (let group = 0; group < groups; group++) {
      const scale = scales[row * groups + group];
      const shift = grid.levels === "asymmetric" ? -zeros[row * groups + group] : levels.qMin + levels.offset;
      const until = Math.min((group + 1) * groupSize, stored);
      for (let i = group * groupSize; i < until; i++) {
        const column = layout.columns[i];
        const value = Math.fround((qweight[row * stored + i] + shift) * scale);
        weight[row * columns + column] = columnScales === null ? value : value / columnScales[column];
      }
    }
    for (let c = 0; c < cherries.perRow; c++) {
      const at2 = row * cherries.perRow + c;
      weight[row * columns + cherries.columns[at2]] = cherryWeight[at2];
    }
  }
  return weight;
}

// batch-jobs/src/numeric/fake-quantize.ts
var chunkElements = 16384;
function isPublishedGrid({ bits, levels, aligned }, columnScales) {
  return levels === publishedLevels(bits) && !aligned && columnScales === null;
}
function fakeQuantizeRows(args) {
  const { columns, fromRow, untilRow } = args;
  const roundChunk = isPublishedGrid(args.grid, args.columnScales) ? roundByKernel : roundPlainly;
  const rowsAtOnce = Math.max(1, Math.floor(chunkElements / columns));
  for (let row = fromRow; row < untilRow; row += rowsAtOnce) {
    roundChunk(args, row, Math.min(rowsAtOnce, untilRow - row));
  }
}
function roundByKernel({ weight, columns, grid, cherries, into }, row, rows) {
  const { perRow } = cherries;
  const length = rows * columns;
  const from = row * columns;
  const bytes = 4 * (2 * (length + 4) + rows * perRow + columns + 8);
  const { kernels: kernels3, arena } = loadKernels("round", bytes);
  const source = arena.float32(length);
  source.set(weight.subarray(from, from + length));
  const target = arena.float32(length);
  const normals = arena.float32(columns + 1);
  const own = arena.uint32(rows * perRow);
  own.set(cherries.columns.subarray(row * perRow, (row + rows) * perRow));
  const levels = levelsOf(grid);
  kernels3.fakeQuant(
    source.byteOffset,
    rows,
    columns,
    Math.min(grid.groupSize, columns - perRow),
    own.byteOffset,
    perRow,
    levels.scaleDivisor,
    levels.offset,
    levels.clip,
    normals.byteOffset,
    target.byteOffset
  );
  into.set(target, from);
}
function roundPlainly(args, row, rows) {
  const { weight, columns, grid, cherries, columnScales, into } = args;
  const from = row * columns;
  const values = weight.subarray(from, from + rows * columns);
  const own = cherriesOfRows(cherries, row, rows);
  const rounded = dequantizeMatrix(quantizeMatrix(values, columns, grid, own, columnScales));
  own.columns.forEach((column, index) => {
    const at2 = Math.floor(index / own.perRow) * columns + column;
    rounded[at2] = values[at2];
  });
  into.set(rounded, from);
}

// batch-jobs/src/numeric/train-tasks.ts
import { readSync, writeSync } from "node:fs";
function isInFile(moments) {
  return "descriptor" in moments;
}
var chunkElements2 = 16384;
var stretchElements = 16 * chunkElements2;
function updateWeights(args) {
  for (const { tensor: tensor2, from, until } of args.ranges) {
    const { moments } = tensor2;
    if (!isInFile(moments)) {
      updateElements(tensor2, from, until, moments, 0, args.adamW);
      continue;
    }
    for (let start = from; start < until; start += stretchElements) {
      const length = Math.min(stretchElements, until - start);
      const stretch = readMoments(moments, start, length);
      updateElements(tensor2, start, start + length, stretch, start, args.adamW);
      writeMoments(moments, start, stretch);
    }
  }
}
function updateElements(tensor2, from, until, moments, momentsFrom, adamW) {
  for (let start = from; start < until; start += chunkElements2) {
    const end = Math.min(start + chunkElements2, until);
    const length = end - start;
    const { kernels: kernels3, arena } = loadKernels("host", 4 * 6 * (length + 4));
    const weight = arena.float32(length);
    const gradient = arena.float32(length);
    const first = arena.float32(length);
    const second = arena.float32(length);
    weight.set(tensor2.weight.subarray(start, end));
    gradient.set(tensor2.gradient.subarray(start, end));
    const wide = { first, second };
    const narrow = arena.bytes(2 * length);
    const bits = new Uint16Array(narrow.buffer, narrow.byteOffset, length);
    for (const part of ["first", "second"]) {
      const own = moments[part].subarray(start - momentsFrom, end - momentsFrom);
      if (own instanceof Float32Array) wide[part].set(own);
      else {
        bits.set(own);
        kernels3.widenBfloat16(bits.byteOffset, length, wide[part].byteOffset);
      }
    }
    kernels3.adamW(
      weight.byteOffset,
      gradient.byteOffset,
      first.byteOffset,
      second.byteOffset,
      length,
      adamW.gradientScale,
      adamW.beta1,
      adamW.beta2,
      adamW.stepSize,
      adamW.decay,
      adamW.rootCorrection2,
      adamW.epsilon
    );
    tensor2.weight.set(weight, start);
    for (const part of ["first", "second"]) {
      const own = moments[part].subarray(start - momentsFrom, end - momentsFrom);
      if (own instanceof Float32Array) own.set(wide[part]);
      else {
        kernels3.narrowToBfloat16(wide[part].byteOffset, length, bits.byteOffset);
        own.set(bits);
      }
    }
  }
}
var buffers;
function readMoments(file, start, length) {
  buffers ??= { first: new Uint8Array(4 * stretchElements), second: new Uint8Array(4 * stretchElements) };
  const size = file.dtype === "float32" ? 4 : 2;
  const readPart = (buffer, at2) => {
    const bytes = buffer.subarray(0, length * size);
    for (let done = 0; done < bytes.length; ) {
      const count = readSync(file.descriptor, bytes, done, bytes.length - done, at2 + start * size + done);
      if (count === 0) throw new Error("the file of AdamW's moments has become shorter");
      done += count;
    }
    return size === 4 ? new Float32Array(bytes.buffer, 0, length) : new Uint16Array(bytes.buffer, 0, length);
  };
  return { first: readPart(buffers.first, file.firstAt), second: readPart(buffers.second, file.secondAt) };
}
function writeMoments(file, start, moments) {
  for (const [values, at2] of [
    [moments.first, file.firstAt],
    [moments.second, file.secondAt]
  ]) {
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    const from = at2 + start * values.BYTES_PER_ELEMENT;
    for (let done = 0; done < bytes.length; ) {
      done += writeSync(file.descriptor, bytes, done, bytes.length - done, from + done);
    }
  }
}
function roundMatrices(args) {
  for (const { tensor: tensor2, from, until } of args.ranges) {
    fakeQuantizeRows({ ...tensor2, fromRow: from, untilRow: until, grid: args.grid });
  }
}
function squareSums(arrays) {
  return arrays.map((values) => {
    let sum6 = 0;
    for (let from = 0; from < values.length; from += chunkElements2) {
      const length = Math.min(chunkElements2, values.length - from);
      const { kernels: kernels3, arena } = loadKernels("host", 4 * (length + 4));
      const chunk = arena.float32(length);
      chunk.set(values.subarray(from, from + length));
      sum6 += kernels3.squareSum(chunk.byteOffset, length);
    }
    return sum6;
  });
}

// batch-jobs/src/numeric/quantize-tasks.ts
var floatTypes = ["F32", "F16", "BF16"];
var chunkElements3 = 32768;
var kernelRow = 2048;
var slack2 = 64;
function packedSizes(rows, columns, grid, perRow) {
  const groups = groupCount(columns, perRow, grid);
  return {
    packed: rows * packedBytes(storedColumns(columns, perRow, grid), grid.bits),
    scales: 2 * rows * groups,
    zeros: grid.levels === "asymmetric" ? rows * packedBytes(groups, grid.bits) : 0,
    cherryWeight: 2 * rows * perRow
  };
}
function quantizeRows(args) {
  const { columns, grid, cherries, into } = args;
  const { perRow } = cherries;
  let largest = 0;
  if (!isPublishedGrid(grid, args.columnScales)) {
    for (const chunk of chunksOf(args)) {
      const { weight, ...found } = plainRowsOf(args, chunk);
      largest = Math.max(largest, found.largest);
      const matrix = quantizeMatrix(weight, columns, grid, found.cherries, args.columnScales);
      putPacked(matrix, chunk, args.rows, into);
    }
    return largest;
  }
  for (const chunk of chunksOf(args)) {
    const sizes = packedSizes(chunk.rows, columns, grid, perRow);
    const { kernels: kernels3, arena } = openArena(chunk, sizes.packed + sizes.scales + sizes.cherryWeight);
    const scratch = placeRows(arena, args, chunk);
    const packed = room(arena, sizes.packed);
    const scales = room(arena, sizes.scales);
    const cherryWeight = room(arena, sizes.cherryWeight);
    const bits = kernels3.quantizeRows(...scratch, at(packed), at(scales), at(cherryWeight));
    largest = Math.max(largest, magnitudeOf(bits));
    copyOut(packed, sizes.packed, into.packed, chunk.fromRow, args.rows);
    copyOut(scales, sizes.scales, into.scales, chunk.fromRow, args.rows);
    copyOut(cherryWeight, sizes.cherryWeight, into.cherryWeight, chunk.fromRow, args.rows);
  }
  return largest;
}
function roundRows(args) {
  let largest = 0;
  if (!isPublishedGrid(args.grid, args.columnScales)) {
    for (const chunk of chunksOf(args)) {
      const { weight, ...found } = plainRowsOf(args, chunk);
      largest = Math.max(largest, found.largest);
      const matrix = quantizeMatrix(weight, args.columns, args.grid, found.cherries, args.columnScales);
      const halves = float32ToFloat16(dequantizeMatrix(matrix));
      copyOut(new Uint8Array(halves.buffer), halves.byteLength, args.into, chunk.fromRow, args.rows);
    }
    return largest;
  }
  for (const chunk of chunksOf(args)) {
    const bytes = 2 * chunk.rows * args.columns;
    const { kernels: kernels3, arena } = openArena(chunk, bytes);
    const scratch = placeRows(arena, args, chunk);
    const into = room(arena, bytes);
    largest = Math.max(largest, magnitudeOf(kernels3.roundRows(...scratch, at(into))));
    copyOut(into, bytes, args.into, chunk.fromRow, args.rows);
  }
  return largest;
}
function halveNumbers(args) {
  const width = floatBytes2[args.dtype];
  const count = args.source.length / width;
  let largest = 0;
  for (let from = 0; from < count; from += chunkElements3) {
    const length = Math.min(chunkElements3, count - from);
    const { kernels: kernels3, arena } = loadKernels(
      "quantize",
      (width + 2) * length + 4 * kernelRow + 3 * (slack2 + 16)
    );
    const source = room(arena, width * length);
    source.set(args.source.subarray(width * from, width * (from + length)));
    const row = room(arena, 4 * kernelRow);
    const into = room(arena, 2 * length);
    const bits = kernels3.halve(at(source), floatTypes.indexOf(args.dtype), length, at(row), at(into));
    largest = Math.max(largest, magnitudeOf(bits));
    args.into.set(into.subarray(0, 2 * length), 2 * from);
  }
  return largest;
}
function compareRows(args) {
  const { columns, grid, cherries, stored } = args;
  let error = 0;
  let norm = 0;
  if (!isPublishedGrid(grid, args.columnScales)) {
    for (const chunk of chunksOf(args)) {
      const { weight, cherries: own } = plainRowsOf(args, chunk);
      const restored = dequantizeMatrix(takePacked(args, own, chunk, stored));
      for (let i = 0; i < weight.length; i++) {
        error += (restored[i] - weight[i]) ** 2;
        norm += weight[i] ** 2;
      }
    }
    return { error, norm };
  }
  for (const chunk of chunksOf(args)) {
    const sizes = packedSizes(chunk.rows, columns, grid, cherries.perRow);
    const { kernels: kernels3, arena } = openArena(chunk, sizes.packed + sizes.scales + sizes.cherryWeight);
    const scratch = placeRows(arena, args, chunk);
    const packed = room(arena, sizes.packed);
    const scales = room(arena, sizes.scales);
    const cherryWeight = room(arena, sizes.cherryWeight);
    copyIn(stored.packed, sizes.packed, packed, chunk.fromRow, args.rows);
    copyIn(stored.scales, sizes.scales, scales, chunk.fromRow, args.rows);
    copyIn(stored.cherryWeight, sizes.cherryWeight, cherryWeight, chunk.fromRow, args.rows);
    const sums = room(arena, 16);
    sums.fill(0);
    kernels3.compareRows(...scratch, at(packed), at(scales), at(cherryWeight), at(sums));
    const [chunkError, chunkNorm] = new Float64Array(sums.buffer, sums.byteOffset, 2);
    error += chunkError;
    norm += chunkNorm;
  }
  return { error, norm };
}
function compareNumbers(args) {
  const width = floatBytes2[args.dtype];
  const count = args.source.length / width;
  let error = 0;
  let norm = 0;
  for (let from = 0; from < count; from += chunkElements3) {
    const length = Math.min(chunkElements3, count - from);
    const bytes = (width + 2) * length + 8 * kernelRow + 5 * (slack2 + 16);
    const { kernels: kernels3, arena } = loadKernels("quantize", bytes);
    const source = room(arena, width * length);
    const stored = room(arena, 2 * length);
    source.set(args.source.subarray(width * from, width * (from + length)));
    stored.set(args.stored.subarray(2 * from, 2 * (from + length)));
    const row = room(arena, 4 * kernelRow);
    const storedRow = room(arena, 4 * kernelRow);
    const sums = room(arena, 16);
    sums.fill(0);
    const types = [floatTypes.indexOf(args.dtype), floatTypes.indexOf("F16")];
    kernels3.compareNumbers(at(source), types[0], at(stored), types[1], length, at(row), at(storedRow), at(sums));
    const [chunkError, chunkNorm] = new Float64Array(sums.buffer, sums.byteOffset, 2);
    error += chunkError;
    norm += chunkNorm;
  }
  return { error, norm };
}
function plainRowsOf({ source, dtype, columns, cherries }, { fromRow, rows }) {
  const rowBytes = floatBytes2[dtype] * columns;
  const weight = toFloat32(source.slice(fromRow * rowBytes, (fromRow + rows) * rowBytes), dtype);
  let largest = 0;
  for (const value of weight) {
    const magnitude2 = Math.abs(value);
    if (!(magnitude2 <= largest)) largest = Number.isFinite(value) ? magnitude2 : Infinity;
  }
  return { weight, cherries: cherriesOfRows(cherries, fromRow, rows), largest };
}
function putPacked(matrix, chunk, rows, into) {
  const { columns, grid, cherries, qweight, scales, zeros, cherryWeight } = matrix;
  const stored = storedColumns(columns, cherries.perRow, grid);
  const parts = {
    packed: packRows(qweight, chunk.rows, stored, grid.bits),
    scales: bytesOf(scales),
    zeros: zeros.length === 0 ? zeros : packRows(zeros, chunk.rows, zeros.length / chunk.rows, grid.bits),
    cherryWeight: bytesOf(cherryWeight)
  };
  for (const part of ["packed", "scales", "zeros", "cherryWeight"]) {
    copyOut(parts[part], parts[part].length, into[part], chunk.fromRow, rows);
  }
}
function takePacked(args, cherries, chunk, stored) {
  const { columns, grid, columnScales } = args;
  const { rows } = chunk;
  const take = (part) => {
    const rowBytes = stored[part].length / args.rows;
    return stored[part].slice(rowBytes * chunk.fromRow, rowBytes * (chunk.fromRow + rows));
  };
  const groups = groupCount(columns, cherries.perRow, grid);
  return {
    rows,
    columns,
    grid,
    cherries,
    columnScales,
    qweight: unpackRows(take("packed"), rows, storedColumns(columns, cherries.perRow, grid), grid.bits),
    scales: new Uint16Array(take("scales").buffer),
    zeros: grid.levels === "asymmetric" ? unpackRows(take("zeros"), rows, groups, grid.bits) : new Uint8Array(0),
    cherryWeight: new Uint16Array(take("cherryWeight").buffer)
  };
}
function bytesOf(values) {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}
function* chunksOf({ rows, columns, dtype, cherries }) {
  const rowsAtOnce = Math.max(1, Math.floor(chunkElements3 / columns));
  for (let fromRow = 0; fromRow < rows; fromRow += rowsAtOnce) {
    const count = Math.min(rowsAtOnce, rows - fromRow);
    const rowBytes = floatBytes2[dtype] * columns + 4 * cherries.perRow;
    yield { fromRow, rows: count, columns, bytes: count * rowBytes + 13 * columns + 8 * (slack2 + 16) };
  }
}
function openArena(chunk, outBytes) {
  return loadKernels("quantize", chunk.bytes + outBytes + 8 * (slack2 + 16));
}
function placeRows(arena, args, { fromRow, rows }) {
  const { columns, dtype, grid, cherries } = args;
  const { perRow } = cherries;
  const rowBytes = floatBytes2[dtype] * columns;
  const source = room(arena, rows * rowBytes);
  source.set(args.source.subarray(fromRow * rowBytes, (fromRow + rows) * rowBytes));
  const columnsOfCherries = arena.uint32(rows * perRow);
  columnsOfCherries.set(cherries.columns.subarray(fromRow * perRow, (fromRow + rows) * perRow));
  const row = room(arena, 4 * columns);
  const normals = room(arena, 8 * columns + slack2);
  const levels = room(arena, columns);
  return [
    at(source),
    floatTypes.indexOf(dtype),
    rows,
    columns,
    grid.bits,
    Math.min(grid.groupSize, columns - perRow),
    columnsOfCherries.byteOffset,
    perRow,
    at(row),
    at(normals),
    at(levels)
  ];
}
var room = (arena, bytes) => arena.bytes(bytes + slack2);
var at = (array) => array.byteOffset;
function copyOut(from, bytes, into, fromRow, rows) {
  into.set(from.subarray(0, bytes), into.length / rows * fromRow);
}
function copyIn(from, bytes, into, fromRow, rows) {
  const start = from.length / rows * fromRow;
  into.set(from.subarray(start, start + bytes));
}
var magnitudeBits = new Int32Array(1);
var magnitude = new Float32Array(magnitudeBits.buffer);
function magnitudeOf(bits) {
  magnitudeBits[0] = bits;
  return magnitude[0];
}

// batch-jobs/src/numeric/pool.ts
var wantedThreads;
var pool;
function hostPool() {
  return pool ??= createPool(wantedThreads ?? availableParallelism2());
}
function createPool(threads) {
  const file = workerFile();
  if (threads < 2 || file === null) {
    return {
      threads: 1,
      workers: null,
      async run(name, args) {
        const task = host_worker_exports[name];
        return task(args);
      }
    };
  }
  const workers = new Piscina({ filename: file, minThreads: threads, maxThreads: threads, recordTiming: false });
  return { threads, workers, run: (name, args) => workers.run(args, { name }) };
}
function workerFile() {
  const require3 = createRequire3(import.meta.url);
  try {
    return require3.resolve("@cherryq/batch-jobs/host-worker");
  } catch {
    return null;
  }
}
function sharedFloat32(length) {
  return new Float32Array(new SharedArrayBuffer(4 * length));
}
function sharedCopy(values) {
  const copy = sharedFloat32(values.length);
  copy.set(values);
  return copy;
}
function sharedBytes(length) {
  return new Uint8Array(new SharedArrayBuffer(length));
}
function isShared(values) {
  return values.buffer instanceof SharedArrayBuffer;
}

// batch-jobs/src/formats/model-folder.ts
var configFile = "config.json";
var weightsFile = "model.safetensors";
var indexFile = "model.safetensors.index.json";
var tokenizerFile = "tokenizer.json";
var maxConfigBytes = 2 ** 24;
var maxIndexBytes = 2 ** 26;
var maxSideFileBytes = 2 ** 26;
var sideFilePatterns = [
  // tokenizer.json, tokenizer.model, tokenizer.model.v3, tokenizer_config.json; Mistral's tekken.json.
  /^(tokenizer[^/]*|tekken\.json|vocab\.(json|txt)|merges\.txt)$/,
  /^(special_tokens_map|added_tokens|generation_config|(pre|video_pre)?processor_config)\.json$/,
  /^(chat_template[^/]*|additional_chat_templates\/[^/]+\.jinja)$/,
  // Code that config.json's auto_map names.
  /^(configuration|modeling|tokenization|processing)_[^/]*\.py$/,
  /^(LICEN[CS]E|NOTICE|USE_POLICY)[^/]*$/i
];
var foreignWeightsPattern = /(\.(bin|pt|pth|ckpt|h5|msgpack|gguf|onnx)$)/;
async function openModelFolder(store, prefix) {
  const files = await filesUnder(store, prefix);
  const configJson = await readJsonObject(store, prefix + configFile, maxConfigBytes);
  if (configJson === null) throw missing(configFile, files);
  const format = formatOf(configJson);
  const { tensors, weightBytes } = files.has(weightsFile) ? await readWeights(store, prefix, /* @__PURE__ */ new Set([weightsFile])) : await readShards(store, prefix, files);
  if (!files.has(tokenizerFile)) throw missing(tokenizerFile, files);
  const sideFiles = [...files].filter(
    ([path, size]) => size <= maxSideFileBytes && sideFilePatterns.some((pattern) => pattern.test(path))
  );
  return { prefix, configJson, format, tensors, weightBytes, sideFiles: sideFiles.map(([path]) => path) };
}
async function filesUnder(store, prefix) {
  const files = /* @__PURE__ */ new Map();
  for (let after; ; ) {
    const page = await store.list(prefix, { after });
    for (const { key, sizeBytes } of page) files.set(key.slice(prefix.length), sizeBytes);
    after = page.at(-1)?.key;
    if (after === void 0) return files;
  }
}
function formatOf(configJson) {
  const quantization = configJson.quantization_config;
  if (quantization === void 0 || quantization === null) return "original";
  const method = isJsonObject(quantization) ? quantization.quant_method : quantization;
  if (method === "cherryq") return "native";
  throw new InputError(
    "already_quantized",
    `${configFile} says that the model is quantized already (quant_method ${describeJson(method)}). Start from the original model in float32, float16 or bfloat16.`,
    configFile
  );
}
function missing(file, files) {
  const needed = `${configFile}, ${weightsFile} (or shards with ${indexFile}) and ${tokenizerFile}`;
  return new InputError(
    "missing_file",
    `The model folder has no ${file}. A model needs ${needed}; this folder holds ${nameSome(files.keys())}.`,
    file
  );
}
function nameSome(names) {
  const all = [...names];
  if (all.length === 0) return "no file";
  return all.length <= 10 ? all.join(", ") : `${all.slice(0, 10).join(", ")} and ${all.length - 10} more`;
}
async function readShards(store, prefix, files) {
  const index = await readJsonObject(store, prefix + indexFile, maxIndexBytes);
  if (index === null) {
    const foreign = [...files.keys()].filter((path) => foreignWeightsPattern.test(path));
    if (foreign.length === 0) throw missing(weightsFile, files);
    throw new InputError(
      "unsupported_weights",
      `The weights are in ${nameSome(foreign)}; only safetensors is read. Save the model as safetensors first (in Python: model.save_pretrained(folder, safe_serialization=True)).`,
      foreign[0]
    );
  }
  const shardOf = checkedWeightMap(index.weight_map);
  const shards = new Set([...shardOf.values()].sort());
  const absent = [...shards].filter((shard) => !files.has(shard));
  if (absent.length > 0) {
    const present = [...files.keys()].filter((path) => path.endsWith(".safetensors"));
    throw new InputError(
      "missing_shard",
      `${indexFile} names ${shards.size} shards, but ${nameSome(absent)} is not there; the folder holds ${nameSome(present)}. Copy what is missing.`,
      absent[0]
    );
  }
  const { tensors, weightBytes } = await readWeights(store, prefix, shards);
  for (const [name, shard] of shardOf) {
    const key = tensors.get(name)?.key;
    if (key === prefix + shard) continue;
    const where2 = key === void 0 ? "no shard has it" : `it is in ${key.slice(prefix.length)}`;
    throw indexMismatch(name, `${indexFile} says that tensor "${name}" is in ${shard}, but ${where2}`);
  }
  for (const { name, key } of tensors.values()) {
    if (!shardOf.has(name)) {
      throw indexMismatch(name, `${key.slice(prefix.length)} holds tensor "${name}", which ${indexFile} does not name`);
    }
  }
  return { tensors, weightBytes };
}
function indexMismatch(tensor2, what2) {
  return new InputError(
    "index_mismatch",
    `${what2}. Index and shards come from different versions of the model; copy all of them again.`,
    tensor2
  );
}
function checkedWeightMap(value) {
  const entries = isJsonObject(value) ? Object.entries(value) : [];
  if (entries.length === 0) {
    throw new InputError(
      "invalid_index",
      `${indexFile} must have a weight_map from tensor names to shard files; it has ${describeJson(value)}.`,
      indexFile
    );
  }
  const shardOf = /* @__PURE__ */ new Map();
  for (const [name, shard] of entries) {
    if (typeof shard !== "string" || !/^[^/\\]+\.safetensors$/.test(shard)) {
      throw new InputError(
        "invalid_index",
        `${indexFile} puts tensor "${name}" into ${describeJson(shard)}; a shard is a .safetensors file of the same folder.`,
        name
      );
    }
    shardOf.set(name, shard);
  }
  return shardOf;
}
async function readWeights(store, prefix, paths) {
  const tensors = /* @__PURE__ */ new Map();
  let weightBytes = 0;
  for (const path of paths) {
    const file = await openSafetensors(store, prefix + path);
    weightBytes += file.sizeBytes;
    for (const info of file.tensors.values()) {
      const other = tensors.get(info.name);
      if (other !== void 0) {
        throw indexMismatch(
          info.name,
          `Tensor "${info.name}" is in ${path} and also in ${other.key.slice(prefix.length)}`
        );
      }
      tensors.set(info.name, info);
    }
  }
  return { tensors, weightBytes };
}
function assertFloat16(values, tensorName) {
  assertFinite(values, tensorName);
  const beyond = values.find((value) => Math.abs(value) > float16Max);
  if (beyond === void 0) return;
  throw new InputError(
    "float16_overflow",
    `"${tensorName}" holds ${beyond}; the result keeps it in float16, which ends at ${float16Max}.`,
    tensorName
  );
}
function assertFinite(values, tensorName) {
  let count = 0;
  let first = -1;
  for (let i = 0; i < values.length; i++) {
    if (values[i] - values[i] === 0) continue;
    if (count === 0) first = i;
    count++;
  }
  if (count === 0) return;
  throw new InputError(
    "nan_weights",
    `Tensor "${tensorName}" has ${count} of ${values.length} values that are not finite numbers; the first, at index ${first}, is ${values[first]}. The file is damaged or the model's training diverged; use another copy.`,
    tensorName
  );
}

// batch-jobs/src/exporters/row-stream.ts
var partBytes = 2 ** 23;

// batch-jobs/src/exporters/native.ts
var levelKinds = ["midRise", "symmetric", "asymmetric"];
var columnOffset = 32768;
function parseNativeConfig(value) {
  const config = typeof value === "object" && value !== null ? value : {};
  const check = (field, fine, allowed) => {
    if (fine) return;
    const received = JSON.stringify(config[field]) ?? "missing";
    const message = `config.json: quantization_config.${field} is ${received}; this version reads ${allowed}.`;
    throw new InputError("bad_config", message, `quantization_config.${field}`);
  };
  check("format_version", config.format_version === 1, "1");
  check("bits", [2, 3, 4, 8].includes(config.bits), "2, 3, 4 or 8");
  const groupSize = config.group_size;
  check(
    "group_size",
    Number.isInteger(groupSize) && (groupSize > 0 || groupSize === -1),
    "a positive whole number, or -1 for the row"
  );
  const fraction = config.cherry_fraction;
  check(
    "cherry_fraction",
    typeof fraction === "number" && fraction >= 0 && fraction <= 0.25,
    "a number from 0 to 0.25"
  );
  check("method", ["rtn", "qat", "cherryq"].includes(config.method), '"rtn", "qat" or "cherryq"');
  check("levels", levelKinds.includes(config.levels), levelKinds.map((kind) => `"${kind}"`).join(", "));
  check("aligned_groups", typeof config.aligned_groups === "boolean", "true or false");
  check("cherry_mode", ["row", "column"].includes(config.cherry_mode), '"row" or "column"');
  check("column_scales", typeof config.column_scales === "boolean", "true or false");
  return config;
}
function gridOf(config) {
  return {
    bits: config.bits,
    groupSize: config.group_size === -1 ? Infinity : config.group_size,
    levels: config.levels,
    aligned: config.aligned_groups
  };
}
var totalOf = (sizes) => sizes.packed + sizes.scales + sizes.zeros + sizes.cherryWeight;
function packedParts(out, sizes) {
  const scalesAt = sizes.packed;
  const zerosAt = scalesAt + sizes.scales;
  const cherriesAt = zerosAt + sizes.zeros;
  return {
    packed: out.subarray(0, scalesAt),
    scales: out.subarray(scalesAt, zerosAt),
    zeros: out.subarray(zerosAt, cherriesAt),
    cherryWeight: out.subarray(cherriesAt, cherriesAt + sizes.cherryWeight)
  };
}
function nativeWeights(store, tensors, config, shape) {
  const part = (name, suffix) => tensors.get(`${name.slice(0, -".weight".length)}.${suffix}`);
  const open3 = (name) => openLayer(store, name, shape(name), config, (suffix) => part(name, suffix));
  return {
    async read(name) {
      const plain = tensors.get(name);
      if (plain) {
        checkShape(plain, shape(name));
        return readTensor(store, plain);
      }
      return dequantizeMatrix(await readMatrix(store, await open3(name)));
    },
    async storedRows(name) {
      return comparedLayer(store, await open3(name));
    },
    storedBits(name) {
      const wanted = shape(name);
      if (tensors.has(name) || !wanted || wanted.length !== 2) return null;
      const bytes = layerParts.map((suffix) => part(name, suffix)).reduce((sum6, info) => sum6 + (info ? info.end - info.start : 0), 0);
      return 8 * bytes / (wanted[0] * wanted[1]);
    }
  };
}
function checkShape(info, wanted) {
  if (wanted && info.shape.length === wanted.length && wanted.every((size, axis) => size === info.shape[axis])) return;
  throw new InputError(
    "tensor_shape",
    `"${info.name}" has shape [${info.shape.join(", ")}]; config.json asks for ${wanted ? `[${wanted.join(", ")}]` : "none"}. The config is of another file, or the file is damaged.`,
    info.name
  );
}
var layerParts = ["qweight", "scales", "zeros", "column_scales", "cherry_weight", "cherry_indices"];
async function openLayer(store, name, shape, config, part) {
  if (!shape || shape.length !== 2 || !part("qweight")) {
    throw new InputError("missing_tensor", `The weights hold no tensor "${name}", packed or not.`, name);
  }
  const [rows, columns] = shape;
  const grid = gridOf(config);
  const perRow = config.cherry_fraction > 0 ? cherryCount(columns, config.cherry_fraction) : 0;
  const groups = groupCount(columns, perRow, grid);
  const checked = (suffix, dtype, ...wanted) => {
    const info = part(suffix);
    const fits = info?.shape.length === wanted.length && wanted.every((size, axis) => size === info.shape[axis]);
    if (info && info.dtype === dtype && fits) return info;
    const found = info ? `${info.dtype} [${info.shape.join(", ")}]` : "missing";
    throw new InputError(
      "tensor_shape",
      `"${name}": its ${suffix} is ${found}; quantization_config asks for ${dtype} [${wanted.join(", ")}]. The config is of another file, or the file is damaged.`,
      `${name.slice(0, -".weight".length)}.${suffix}`
    );
  };
  const qweight = checked("qweight", "U8", rows, packedBytes(storedColumns(columns, perRow, grid), grid.bits));
  const scales = checked("scales", "F16", rows, groups);
  const zeros = grid.levels === "asymmetric" ? checked("zeros", "U8", rows, packedBytes(groups, grid.bits)) : null;
  const columnScales = config.column_scales ? await readColumnScales(store, name, checked("column_scales", "F16", columns)) : null;
  const cherryWeight = perRow > 0 ? checked("cherry_weight", "F16", rows, perRow) : null;
  const common = { rows, columns, grid, columnScales, qweight, scales, zeros, cherryWeight };
  if (cherryWeight === null) return { ...common, cherries: noCherries };
  const shared = config.cherry_mode === "column";
  const indices = toUint16(await readTensorBytes(store, checked("cherry_indices", "I16", shared ? 1 : rows, perRow)));
  const cherryColumns = Uint32Array.from(indices, (index) => index ^ columnOffset);
  for (let i = 0; i < cherryColumns.length; i++) {
    const ascending = i % perRow === 0 || cherryColumns[i] > cherryColumns[i - 1];
    if (cherryColumns[i] < columns && ascending) continue;
    throw new InputError(
      "bad_cherry_index",
      `"${name}": row ${Math.floor(i / perRow)} has the cherry column ${cherryColumns[i]}; columns must ascend and be below ${columns}. The file is damaged.`,
      name
    );
  }
  const all = shared ? new Uint32Array(rows * perRow) : cherryColumns;
  if (shared) for (let row = 0; row < rows; row++) all.set(cherryColumns, row * perRow);
  return { ...common, cherries: { perRow, columns: all, shared } };
}
async function readColumnScales(store, name, info) {
  const scales = await readTensor(store, info);
  const column = scales.findIndex((scale) => !(scale > 0 && Number.isFinite(scale)));
  if (column < 0) return scales;
  throw new InputError(
    "bad_column_scale",
    `"${name}": the scale of column ${column} is ${scales[column]}; it must be above 0 and finite. The file is damaged.`,
    info.name
  );
}
async function readMatrix(store, layer) {
  const { rows, columns, grid, cherries, columnScales } = layer;
  const packed = await readTensorBytes(store, layer.qweight);
  const scales = toUint16(await readTensorBytes(store, layer.scales));
  const cherryWeight = layer.cherryWeight ? toUint16(await readTensorBytes(store, layer.cherryWeight)) : new Uint16Array(0);
  const qweight = unpackRows(packed, rows, storedColumns(columns, cherries.perRow, grid), grid.bits);
  const groups = groupCount(columns, cherries.perRow, grid);
  const zeros = layer.zeros ? unpackRows(await readTensorBytes(store, layer.zeros), rows, groups, grid.bits) : new Uint8Array(0);
  return { rows, columns, grid, cherries, columnScales, qweight, scales, zeros, cherryWeight };
}
function comparedLayer(store, { columns, grid, cherries, columnScales, ...infos }) {
  const { perRow } = cherries;
  const rowSizes = packedSizes(1, columns, grid, perRow);
  return {
    rowBytes: totalOf(rowSizes),
    async compare({ fromRow, ...chunk }, memory) {
      const stored = packedParts(memory, packedSizes(chunk.rows, columns, grid, perRow));
      await readTensorInto(store, infos.qweight, fromRow * rowSizes.packed, stored.packed);
      await readTensorInto(store, infos.scales, fromRow * rowSizes.scales, stored.scales);
      if (infos.zeros) await readTensorInto(store, infos.zeros, fromRow * rowSizes.zeros, stored.zeros);
      if (infos.cherryWeight) {
        await readTensorInto(store, infos.cherryWeight, fromRow * rowSizes.cherryWeight, stored.cherryWeight);
      }
      const own = cherriesOfRows(cherries, fromRow, chunk.rows);
      return hostPool().run("compareRows", { ...chunk, grid, cherries: own, columnScales, stored });
    }
  };
}
function toUint16(bytes) {
  return new Uint16Array(bytes.slice().buffer);
}

// batch-jobs/src/exporters/relative-errors.ts
function plainRows(written, name, columns) {
  return {
    rowBytes: 2 * columns,
    async compare({ source, dtype, fromRow }, memory) {
      await written.read(name, fromRow * columns, memory);
      return hostPool().run("compareNumbers", { source, dtype, stored: memory });
    }
  };
}

// batch-jobs/src/formats/tokenizer.ts
import { PreTokenizer, Tokenizer as LibraryTokenizer } from "@huggingface/tokenizers";

// batch-jobs/src/formats/special-tokens.ts
var maxTokenizerConfigBytes = 2 ** 24;
var roles = ["bos", "eos", "unk", "sep", "pad", "cls", "mask"];
async function readSpecialTokens(store, prefix, tokenizerConfig) {
  const map = await readJsonObject(store, `${prefix}special_tokens_map.json`, maxTokenizerConfigBytes) ?? {};
  const tokens = /* @__PURE__ */ new Map();
  for (const role of roles) {
    const name = `${role}_token`;
    const token = name in tokenizerConfig ? tokenizerConfig[name] : map[name];
    const content = isJsonObject(token) ? token.content : token;
    if (typeof content === "string" || content === null) tokens.set(name, content);
  }
  return tokens;
}

// batch-jobs/src/formats/tokenizer.ts
var tokenizerFile2 = "tokenizer.json";
var maxTokenizerBytes = 2 ** 26;
var maxConfigBytes2 = 2 ** 24;
var maxVocabSize = 2 ** 24;
var modelTypes = ["BPE", "Unigram", "WordPiece"];
async function openTokenizer(store, prefix) {
  const key = prefix + tokenizerFile2;
  const json = await readJsonObject(store, key, maxTokenizerBytes);
  if (json === null) throw new InputError("missing_file", `The model folder has no ${tokenizerFile2}.`, tokenizerFile2);
  const vocabulary = readVocabulary(json, key);
  const tokenizerConfig = await readJsonObject(store, `${prefix}tokenizer_config.json`, maxTokenizerConfigBytes) ?? {};
  const modelConfig = await readJsonObject(store, `${prefix}config.json`, maxConfigBytes2) ?? {};
  const specialTokens = await readSpecialTokens(store, prefix, tokenizerConfig);
  const { library, templateBos } = openLibrary(json, tokenizerConfig, key);
  const specialId = (name) => {
    const token = specialTokens.get(`${name}_token`);
    if (token === null || name === "bos" && tokenizerConfig.add_bos_token === false) return null;
    if (token !== void 0) return vocabulary.idOf.get(token) ?? null;
    const configured = [modelConfig[`${name}_token_id`]].flat()[0];
    if (typeof configured === "number" && Number.isInteger(configured) && configured >= 0) return configured;
    return name === "bos" ? templateBos : null;
  };
  return {
    vocabSize: vocabulary.size,
    bosTokenId: specialId("bos"),
    eosTokenId: specialId("eos"),
    encode: (text, { addSpecialTokens = true } = {}) => checkedIds(library.encode(text, { add_special_tokens: addSpecialTokens }).ids, key),
    decode(ids) {
      const wanted = Array.from(ids);
      for (const id of wanted) {
        if (!Number.isInteger(id) || id < 0 || id >= vocabulary.size) {
          throw new RangeError(`Token id ${id} is outside the vocabulary of ${vocabulary.size}.`);
        }
      }
      if (wanted.length === 0) return "";
      return library.decode(wanted, { skip_special_tokens: true, clean_up_tokenization_spaces: false });
    },
    tokenId: (token) => vocabulary.idOf.get(token) ?? null
  };
}
function openLibrary(json, config, key) {
  try {
    const library = new LibraryTokenizer(json, config);
    const merges = splittableMerges(json);
    if (merges !== null) library.pre_tokenizer = new MergeBoundaries(library.pre_tokenizer, merges);
    checkedIds(library.encode("").ids, key);
    const [first] = library.encode("a").ids;
    const [plain] = library.encode("a", { add_special_tokens: false }).ids;
    return { library, templateBos: first === plain ? null : first ?? null };
  } catch (cause) {
    if (cause instanceof InputError) throw cause;
    throw invalid2(key, `it cannot be used (${messageOf(cause)})`, { cause });
  }
}
function checkedIds(ids, key) {
  const checked = new Int32Array(ids.length);
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i];
    if (id === void 0) throw invalid2(key, "it makes tokens that its vocabulary does not have, and has no unk_token");
    checked[i] = id;
  }
  return checked;
}
function readVocabulary(json, key) {
  const { model: model2, added_tokens: added } = json;
  const { type, vocab } = isJsonObject(model2) ? model2 : {};
  if (type !== void 0 && !modelTypes.includes(type)) {
    throw invalid2(key, `its model is ${describeJson(type)}; read are ${modelTypes.join(", ")}`);
  }
  const idOf = /* @__PURE__ */ new Map();
  let size = 0;
  const add5 = (token, id) => {
    if (typeof token !== "string" || typeof id !== "number" || !Number.isInteger(id) || id < 0 || id >= maxVocabSize) {
      const allowed = `a token is a string with a whole number from 0 to ${maxVocabSize - 1}`;
      throw invalid2(key, `its vocabulary has ${describeJson(token)} with the id ${describeJson(id)}; ${allowed}`);
    }
    idOf.set(token, id);
    size = Math.max(size, id + 1);
  };
  if (Array.isArray(vocab)) vocab.forEach((piece, id) => add5(Array.isArray(piece) ? piece[0] : piece, id));
  else if (isJsonObject(vocab)) for (const [token, id] of Object.entries(vocab)) add5(token, id);
  else throw invalid2(key, `its model must have a vocab; it has ${describeJson(vocab)}`);
  if (!Array.isArray(added)) throw invalid2(key, `added_tokens must be an array; it is ${describeJson(added)}`);
  for (const token of added) {
    if (!isJsonObject(token)) throw invalid2(key, `added_tokens has ${describeJson(token)}, which is no token`);
    add5(token.content, token.id);
  }
  if (size === 0) throw invalid2(key, "its vocabulary is empty");
  return { idOf, size };
}
function invalid2(key, what2, options = {}) {
  return new InputError(
    "invalid_tokenizer",
    `${key} is not a tokenizer that can be read: ${what2}. It must be a tokenizer.json of Hugging Face tokenizers.`,
    tokenizerFile2,
    options
  );
}
function splittableMerges(json) {
  const { model: model2 } = json;
  if (!isJsonObject(model2) || !Array.isArray(model2.merges) || model2.ignore_merges === true) return null;
  if (model2.continuing_subword_prefix || model2.continuing_subword_suffix || model2.end_of_word_suffix) return null;
  return model2.merges.map((merge) => {
    const pair = typeof merge === "string" ? merge.split(" ", 2) : merge;
    if (Array.isArray(pair) && typeof pair[0] === "string" && typeof pair[1] === "string") return [pair[0], pair[1]];
    throw new TypeError(`a merge is ${describeJson(merge)} in place of two tokens`);
  });
}
var longPieceLength = 32;
var MergeBoundaries = class extends PreTokenizer {
  #before;
  #joined;
  constructor(before, merges) {
    super();
    this.#before = before;
    this.#joined = new Set(merges.map(([left, right]) => lastCharacter(left) + firstCharacter(right)));
  }
  pre_tokenize_text(text, options) {
    const pieces2 = this.#before === null ? [text] : this.#before.pre_tokenize(text, options);
    return pieces2.flatMap((piece) => piece.length > longPieceLength ? this.#cut(piece) : piece);
  }
  #cut(piece) {
    const parts = [];
    let start = 0;
    let position = 0;
    let previous = "";
    for (const character of piece) {
      if (position > 0 && !this.#joined.has(previous + character)) {
        parts.push(piece.slice(start, position));
        start = position;
      }
      position += character.length;
      previous = character;
    }
    parts.push(piece.slice(start));
    return parts;
  }
};
function firstCharacter(text) {
  return String.fromCodePoint(text.codePointAt(0) ?? 0);
}
function lastCharacter(text) {
  return Array.from(text).at(-1) ?? "";
}

// batch-jobs/src/models/decoder-config.ts
var plainFeatures = {
  ropeScaling: null,
  activation: "silu",
  biases: [],
  qkNorm: false,
  fusedProjections: false,
  normOffset: 0,
  embeddingScale: 1,
  bosPerSegment: false
};
var embeddingName = "model.embed_tokens.weight";
var finalNormName = "model.norm.weight";
var headName = "lm_head.weight";
var linearNames = [
  "self_attn.q_proj.weight",
  "self_attn.k_proj.weight",
  "self_attn.v_proj.weight",
  "self_attn.o_proj.weight",
  "mlp.gate_proj.weight",
  "mlp.up_proj.weight",
  "mlp.down_proj.weight"
];
var attentionLinears = linearNames.slice(0, 4);
var feedForwardLinears = linearNames.slice(4);
var normNames = ["input_layernorm.weight", "post_attention_layernorm.weight"];
var headNormNames = ["self_attn.q_norm.weight", "self_attn.k_norm.weight"];
var blockPrefix = (block) => `model.layers.${block}.`;
var fusedNames = ["self_attn.qkv_proj.weight", "mlp.gate_up_proj.weight"];
function blockTensors(config) {
  const { hiddenSize, intermediateSize, headDim } = config;
  const queries = config.numAttentionHeads * headDim;
  const keys = config.numKeyValueHeads * headDim;
  const linears = {
    "self_attn.q_proj.weight": [queries, hiddenSize],
    "self_attn.k_proj.weight": [keys, hiddenSize],
    "self_attn.v_proj.weight": [keys, hiddenSize],
    "self_attn.o_proj.weight": [hiddenSize, queries],
    "mlp.gate_proj.weight": [intermediateSize, hiddenSize],
    "mlp.up_proj.weight": [intermediateSize, hiddenSize],
    "mlp.down_proj.weight": [hiddenSize, intermediateSize]
  };
  const vector = (name, size) => ({
    name,
    shape: [size],
    parts: [{ name, rows: size }]
  });
  const matrix = (name, parts) => {
    const rows = parts.map((part) => ({ name: part, rows: linears[part][0] }));
    return { name, shape: [rows.reduce((sum6, part) => sum6 + part.rows, 0), linears[parts[0]][1]], parts: rows };
  };
  const [q, k, v, o, gate, up, down] = linearNames;
  const groups = config.fusedProjections ? [
    [fusedNames[0], [q, k, v]],
    [o, [o]],
    [fusedNames[1], [gate, up]],
    [down, [down]]
  ] : linearNames.map((name) => [name, [name]]);
  return [
    ...normNames.map((name) => vector(name, hiddenSize)),
    ...config.qkNorm ? headNormNames.map((name) => vector(name, headDim)) : [],
    ...groups.map(([name, parts]) => matrix(name, parts)),
    ...config.biases.map((name) => vector(biasOf(name), linears[name][0]))
  ];
}
function biasOf(name) {
  return name.replace(/weight$/, "bias");
}
function tensorShapes(config) {
  const shapes = /* @__PURE__ */ new Map([[embeddingName, [config.vocabSize, config.hiddenSize]]]);
  const inBlock = blockTensors(config);
  for (let block = 0; block < config.numHiddenLayers; block++) {
    for (const { name, shape } of inBlock) shapes.set(blockPrefix(block) + name, [...shape]);
  }
  shapes.set(finalNormName, [config.hiddenSize]);
  if (!config.tieWordEmbeddings) shapes.set(headName, [config.vocabSize, config.hiddenSize]);
  return shapes;
}
function linearTensorNames(config, block) {
  return blockTensors(config).filter(({ shape }) => shape.length === 2).map(({ name }) => blockPrefix(block) + name);
}
var quantizedNames = /* @__PURE__ */ new Set([...linearNames, ...fusedNames]);
function isLinear(name) {
  const [, inBlock] = /^model\.layers\.\d+\.(.*)$/.exec(name) ?? [];
  return inBlock !== void 0 && quantizedNames.has(inBlock);
}
function parameterKindOf(name) {
  if (name === embeddingName) return "embeddings";
  if (name === headName) return "head";
  if (name.endsWith("norm.weight")) return "norms";
  if (isLinear(name) || name.endsWith("_proj.bias")) return "linears";
  throw new Error(`"${name}" is no parameter of a decoder.`);
}

// batch-jobs/src/models/rope.ts
var ropeTypes = ["default", "linear", "llama3", "longrope"];
function rotaryTables(settings, width) {
  const half = settings.headDim / 2;
  const scale = settings.ropeScaling?.type === "longrope" ? settings.ropeScaling.attentionFactor : 1;
  const cos = new Float32Array(width * half);
  const sin = new Float32Array(width * half);
  for (let i = 0; i < half; i++) {
    const frequency = frequencyOf(settings, i, width);
    for (let position = 0; position < width; position++) {
      cos[position * half + i] = scale * Math.cos(position * frequency);
      sin[position * half + i] = scale * Math.sin(position * frequency);
    }
  }
  return { cos, sin };
}
function cacheHolds({ ropeScaling }, past, width) {
  if (past === 0 || ropeScaling?.type !== "longrope") return true;
  const { originalMaxPositionEmbeddings: original } = ropeScaling;
  return past > original === width > original;
}
function frequencyOf({ ropeTheta, ropeScaling: scaling, headDim }, pair, width) {
  const frequency = ropeTheta ** (-2 * pair / headDim);
  switch (scaling?.type) {
    case void 0:
      return frequency;
    case "linear":
      return frequency / scaling.factor;
    case "longrope": {
      const factors = width > scaling.originalMaxPositionEmbeddings ? scaling.longFactors : scaling.shortFactors;
      return frequency / factors[pair];
    }
    case "llama3": {
      const turns = scaling.originalMaxPositionEmbeddings * frequency / (2 * Math.PI);
      const { lowFreqFactor: low, highFreqFactor: high } = scaling;
      const kept = Math.min(1, Math.max(0, (turns - low) / (high - low)));
      return kept * frequency + (1 - kept) * frequency / scaling.factor;
    }
  }
}

// batch-jobs/src/models/config-fields.ts
var mostLayers = 1e4;
function readDecoderConfig(config, architecture, defaults) {
  const hiddenSize = positiveInteger(config, "hidden_size");
  const numAttentionHeads = positiveInteger(config, "num_attention_heads");
  const fewer = config.num_key_value_heads === null ? null : defaults.numKeyValueHeads;
  const numKeyValueHeads = positiveInteger(config, "num_key_value_heads", fewer ?? numAttentionHeads);
  const headDim = positiveInteger(config, "head_dim", defaults.headDim ?? hiddenSize / numAttentionHeads);
  if (numAttentionHeads % numKeyValueHeads !== 0) {
    throw badConfig("num_key_value_heads", numKeyValueHeads, `a divisor of num_attention_heads (${numAttentionHeads})`);
  }
  if (headDim % 2 !== 0)
    throw badConfig("head_dim", headDim, "an even number, as the rotary embedding pairs dimensions");
  const maxPositionEmbeddings = positiveInteger(config, "max_position_embeddings", defaults.maxPositionEmbeddings);
  const numHiddenLayers = positiveInteger(config, "num_hidden_layers", void 0, mostLayers);
  return {
    ...plainFeatures,
    architecture,
    vocabSize: positiveInteger(config, "vocab_size"),
    hiddenSize,
    intermediateSize: positiveInteger(config, "intermediate_size"),
    numHiddenLayers,
    numAttentionHeads,
    numKeyValueHeads,
    headDim,
    maxPositionEmbeddings,
    ...readRope(config, headDim, maxPositionEmbeddings),
    rmsNormEps: positiveNumber(config, "rms_norm_eps", defaults.rmsNormEps),
    tieWordEmbeddings: boolean(config, "tie_word_embeddings", defaults.tieWordEmbeddings),
    slidingWindows: new Array(numHiddenLayers).fill(null)
  };
}
function readRope(config, headDim, maxPositionEmbeddings) {
  requireOneOf(config, "partial_rotary_factor", [1], 1);
  const field = isPresent(config.rope_scaling) ? "rope_scaling" : "rope_parameters";
  const found = config[field];
  if (isPresent(found) && (typeof found !== "object" || Array.isArray(found)))
    throw badConfig(field, found, "an object or null");
  const settings = {};
  for (const [name, value] of Object.entries(found ?? {})) Object.assign(settings, { [`${field}.${name}`]: value });
  const named = (name) => `${field}.${name}`;
  requireOneOf(settings, named("partial_rotary_factor"), [1], 1);
  const typeField = isPresent(settings[named("rope_type")]) ? named("rope_type") : named("type");
  const type = requireOneOf(settings, typeField, ropeTypes, "default");
  const ropeTheta = isPresent(settings[named("rope_theta")]) ? positiveNumber(settings, named("rope_theta")) : positiveNumber(config, "rope_theta", 1e4);
  return { ropeTheta, ropeScaling: type === "default" ? null : scaling(type) };
  function scaling(type2) {
    if (type2 === "linear") return { type: type2, factor: positiveNumber(settings, named("factor")) };
    const originalMaxPositionEmbeddings = isPresent(config.original_max_position_embeddings) ? positiveInteger(config, "original_max_position_embeddings") : positiveInteger(settings, named("original_max_position_embeddings"), maxPositionEmbeddings);
    if (type2 === "llama3") {
      const factor2 = positiveNumber(settings, named("factor"));
      const lowFreqFactor = positiveNumber(settings, named("low_freq_factor"));
      const highFreqFactor = positiveNumber(settings, named("high_freq_factor"));
      if (highFreqFactor <= lowFreqFactor)
        throw badConfig(named("high_freq_factor"), highFreqFactor, `more than low_freq_factor (${lowFreqFactor})`);
      return { type: type2, factor: factor2, lowFreqFactor, highFreqFactor, originalMaxPositionEmbeddings };
    }
    const shortFactors = positiveNumbers(settings, named("short_factor"), headDim / 2);
    const longFactors = positiveNumbers(settings, named("long_factor"), headDim / 2);
    const factor = positiveNumber(settings, named("factor"), maxPositionEmbeddings / originalMaxPositionEmbeddings);
    const usual = factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(originalMaxPositionEmbeddings));
    const attentionFactor = positiveNumber(settings, named("attention_factor"), usual);
    return { type: type2, shortFactors, longFactors, attentionFactor, originalMaxPositionEmbeddings };
  }
}
function readSlidingWindow(config, fallback) {
  const value = config.sliding_window === void 0 ? fallback : config.sliding_window;
  return value === null ? null : positiveInteger({ sliding_window: value }, "sliding_window");
}
function readLayerWindows(config, numHiddenLayers) {
  const window = boolean(config, "use_sliding_window", false) ? readSlidingWindow(config, 4096) : null;
  const slides = layersThatSlide(config, numHiddenLayers, window);
  return slides.map((slide) => slide ? window : null);
}
function layersThatSlide(config, numHiddenLayers, window) {
  const types = config.layer_types;
  if (!isPresent(types)) {
    const full = isPresent(config.max_window_layers) ? wholeNumber(config, "max_window_layers") : 28;
    return Array.from({ length: numHiddenLayers }, (_, layer) => layer >= full);
  }
  if (!Array.isArray(types) || types.length !== numHiddenLayers)
    throw badConfig("layer_types", types, `a list of ${numHiddenLayers}, one for each layer`);
  return types.map((type, layer) => {
    if (type === "full_attention") return false;
    if (type === "sliding_attention" && window !== null) return true;
    const allowed = window === null ? '"full_attention", as use_sliding_window is false' : '"full_attention" or "sliding_attention"';
    throw badConfig(`layer_types[${layer}]`, type, allowed);
  });
}
function positiveInteger(config, field, fallback, largest = 2 ** 31) {
  const value = config[field] ?? fallback;
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 1 || value > largest) {
    throw badConfig(field, value, `a whole number from 1 to ${largest}`);
  }
  return value;
}
function wholeNumber(config, field) {
  return config[field] === 0 ? 0 : positiveInteger(config, field);
}
function positiveNumber(config, field, fallback) {
  const value = config[field] ?? fallback;
  if (!isPositive(value)) throw badConfig(field, value, "a positive number");
  return value;
}
function positiveNumbers(config, field, count) {
  const values = config[field];
  if (!Array.isArray(values) || values.length !== count || !values.every(isPositive))
    throw badConfig(field, values, `a list of ${count} positive numbers, one for each pair of a head's dimensions`);
  return values;
}
function isPositive(value) {
  return typeof value === "number" && Number.isFinite(value) && value > 0;
}
function boolean(config, field, fallback) {
  return requireOneOf(config, field, [true, false], fallback);
}
function requireOneOf(config, field, allowed, fallback) {
  const value = config[field] ?? fallback;
  if (!allowed.includes(value))
    throw badConfig(field, value, allowed.map((one) => JSON.stringify(one)).join(" or "));
  return value;
}
function isPresent(value) {
  return value !== void 0 && value !== null;
}
function badConfig(field, received, allowed) {
  return new InputError(
    "bad_config",
    `config.json: ${field} is ${JSON.stringify(received) ?? "missing"}; it must be ${allowed}.`,
    field
  );
}

// batch-jobs/src/models/gemma.ts
var activations = ["gelu_pytorch_tanh", "gelu"];
var gemma = {
  architecture: "GemmaForCausalLM",
  parseConfig(config) {
    requireOneOf(config, "hidden_act", activations, "gelu_pytorch_tanh");
    requireOneOf(config, "hidden_activation", activations, "gelu_pytorch_tanh");
    requireOneOf(config, "use_bidirectional_attention", [false], false);
    const common = readDecoderConfig(config, gemma.architecture, {
      numKeyValueHeads: 16,
      headDim: 256,
      maxPositionEmbeddings: 8192,
      rmsNormEps: 1e-6,
      tieWordEmbeddings: true
    });
    return {
      ...common,
      activation: "geluTanh",
      biases: boolean(config, "attention_bias", false) ? attentionLinears : [],
      normOffset: 1,
      embeddingScale: Math.sqrt(common.hiddenSize),
      bosPerSegment: true
    };
  }
};

// batch-jobs/src/models/llama.ts
var llama = {
  architecture: "LlamaForCausalLM",
  parseConfig(config) {
    requireOneOf(config, "hidden_act", ["silu", "swish"], "silu");
    return {
      ...readDecoderConfig(config, llama.architecture, {
        numKeyValueHeads: null,
        headDim: null,
        maxPositionEmbeddings: 2048,
        rmsNormEps: 1e-6,
        tieWordEmbeddings: false
      }),
      biases: [
        ...boolean(config, "attention_bias", false) ? attentionLinears : [],
        ...boolean(config, "mlp_bias", false) ? feedForwardLinears : []
      ]
    };
  }
};

// batch-jobs/src/models/mistral.ts
var mistral = {
  architecture: "MistralForCausalLM",
  parseConfig(config) {
    requireOneOf(config, "hidden_act", ["silu", "swish"], "silu");
    const common = readDecoderConfig(config, mistral.architecture, {
      numKeyValueHeads: 8,
      headDim: null,
      maxPositionEmbeddings: 4096 * 32,
      rmsNormEps: 1e-6,
      tieWordEmbeddings: false
    });
    return { ...common, slidingWindows: common.slidingWindows.map(() => readSlidingWindow(config, 4096)) };
  }
};

// batch-jobs/src/models/phi3.ts
var phi3 = {
  architecture: "Phi3ForCausalLM",
  parseConfig(config) {
    requireOneOf(config, "hidden_act", ["silu", "swish"], "silu");
    const common = readDecoderConfig(withCurrentNames(config), phi3.architecture, {
      numKeyValueHeads: null,
      headDim: null,
      maxPositionEmbeddings: 4096,
      rmsNormEps: 1e-5,
      tieWordEmbeddings: false
    });
    return {
      ...common,
      fusedProjections: true,
      slidingWindows: common.slidingWindows.map(() => readSlidingWindow(config, null))
    };
  }
};
function withCurrentNames(config) {
  const scaling = config.rope_scaling;
  const type = scaling?.rope_type ?? scaling?.type;
  const early = type === "su" || type === "yarn";
  return {
    ...config,
    original_max_position_embeddings: config.original_max_position_embeddings ?? 4096,
    ...early ? { rope_scaling: { ...scaling, rope_type: "longrope" } } : {}
  };
}

// batch-jobs/src/models/qwen2.ts
var qwen2 = {
  architecture: "Qwen2ForCausalLM",
  parseConfig(config) {
    requireOneOf(config, "hidden_act", ["silu", "swish"], "silu");
    const common = readDecoderConfig(config, qwen2.architecture, {
      numKeyValueHeads: 32,
      headDim: null,
      maxPositionEmbeddings: 32768,
      rmsNormEps: 1e-6,
      tieWordEmbeddings: false
    });
    return {
      ...common,
      biases: ["self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"],
      slidingWindows: readLayerWindows(config, common.numHiddenLayers)
    };
  }
};

// batch-jobs/src/models/qwen3.ts
var qwen3 = {
  architecture: "Qwen3ForCausalLM",
  parseConfig(config) {
    requireOneOf(config, "hidden_act", ["silu", "swish"], "silu");
    const common = readDecoderConfig(config, qwen3.architecture, {
      numKeyValueHeads: 32,
      headDim: 128,
      maxPositionEmbeddings: 32768,
      rmsNormEps: 1e-6,
      tieWordEmbeddings: false
    });
    return {
      ...common,
      biases: boolean(config, "attention_bias", false) ? attentionLinears : [],
      qkNorm: true,
      slidingWindows: readLayerWindows(config, common.numHiddenLayers)
    };
  }
};

// batch-jobs/src/models/registry.ts
var families = [llama, mistral, qwen2, qwen3, gemma, phi3];
var supportedArchitectures = families.map((family) => family.architecture);
function parseModelConfig(config) {
  const named = Array.isArray(config.architectures) ? config.architectures : [];
  const family = families.find((candidate) => named.includes(candidate.architecture));
  if (!family) {
    throw new InputError(
      "unknown_architecture",
      `config.json: architectures is ${JSON.stringify(config.architectures) ?? "missing"}; supported are ${supportedArchitectures.join(", ")}. Convert the model to one of these, or ask for its family.`,
      "architectures"
    );
  }
  return family.parseConfig(config);
}
function checkTensors(config, tensors) {
  const wanted = tensorShapes(config);
  for (const [name, shape] of wanted) {
    const found = tensors.get(name);
    if (!found) {
      const hint = name === headName ? ' If the head is tied to the embedding, config.json needs "tie_word_embeddings": true.' : "";
      throw new InputError(
        "missing_tensor",
        `The weights hold no tensor "${name}", which config.json asks for with shape [${shape.join(", ")}].${hint}`,
        name
      );
    }
    if (found.shape.length === shape.length && found.shape.every((size, axis) => size === shape[axis])) continue;
    if ((name === embeddingName || name === headName) && found.shape[0] !== config.vocabSize) {
      throw new InputError(
        "vocab_mismatch",
        `config.json says vocab_size ${config.vocabSize}, but "${name}" has ${found.shape[0]} rows. Set vocab_size to the embedding's rows, or use the weights that belong to this config.`,
        "vocab_size"
      );
    }
    throw new InputError(
      "tensor_shape",
      `"${name}" has shape [${found.shape.join(", ")}]; config.json asks for [${shape.join(", ")}]. The config and the weights are not of the same model.`,
      name
    );
  }
  for (const name of tensors.keys()) {
    if (wanted.has(name) || name.endsWith(".rotary_emb.inv_freq") || name === headName) continue;
    throw new InputError(
      "unexpected_tensor",
      `The weights hold "${name}", which ${config.architecture} does not have. ${isLinear(name) ? "num_hidden_layers may be too low." : "The model may be of another family than config.json says."}`,
      name
    );
  }
}
function checkVocabulary(config, tokenizerSize) {
  if (tokenizerSize <= config.vocabSize) return;
  throw new InputError(
    "vocab_mismatch",
    `tokenizer.json has ${tokenizerSize} tokens, but the embedding only ${config.vocabSize} rows. Use the tokenizer that the model was trained with.`,
    "tokenizer.json"
  );
}

// batch-jobs/src/model-weights.ts
async function openModel(store, prefix) {
  const folder2 = await openModelFolder(store, prefix);
  const config = parseModelConfig(folder2.configJson);
  const shapes = tensorShapes(config);
  const tokenizer = await openTokenizer(store, prefix);
  if (folder2.format !== "native") checkTensors(config, folder2.tensors);
  checkVocabulary(config, tokenizer.vocabSize);
  const parameters = [...shapes.values()].reduce(
    (sum6, shape) => sum6 + shape.reduce((product, size) => product * size, 1),
    0
  );
  const shared = { folder: folder2, config, shapes, parameters, tokenizer };
  if (folder2.format === "native") {
    const native = parseNativeConfig(folder2.configJson.quantization_config);
    const { read: read2, ...stored } = nativeWeights(store, folder2.tensors, native, (name) => shapes.get(name));
    return { ...shared, native, weights: { read: read2 }, ...stored };
  }
  const read = async (name) => {
    const info = folder2.tensors.get(name);
    if (!info) throw missingTensor(name);
    return readTensor(store, info);
  };
  const storedRows = async (name) => plainRows(weightsInFiles(store, folder2), name, (shapes.get(name) ?? [])[1]);
  return { ...shared, native: null, weights: { read }, storedBits: () => null, storedRows };
}
async function readAllWeights(model2) {
  const weights2 = /* @__PURE__ */ new Map();
  for (const name of model2.shapes.keys()) {
    const values = await model2.weights.read(name);
    assertFloat16(values, name);
    weights2.set(name, sharedCopy(values));
  }
  return weights2;
}
function weightsInFiles(store, folder2) {
  const infoOf = (name) => {
    const info = folder2.tensors.get(name);
    if (!info) throw missingTensor(name);
    return info;
  };
  return {
    dtype: (name) => floatDtype(infoOf(name)),
    read(name, start, into) {
      const info = infoOf(name);
      return readTensorInto(store, info, start * floatBytes2[floatDtype(info)], into);
    }
  };
}
function missingTensor(name) {
  return new InputError("missing_tensor", `The weights hold no tensor "${name}".`, name);
}

// batch-jobs/src/storage/folder-store.ts
import { randomUUID } from "node:crypto";
import { constants } from "node:fs";
import { link, lstat, mkdir, open, readdir, realpath, rename, rm, rmdir, stat, unlink } from "node:fs/promises";
import { dirname as dirname2, join as join3, resolve as resolve2 } from "node:path";

// batch-jobs/src/storage/keys.ts
var maxKeyBytes = 1024;
var maxSegmentBytes = 255;
var temporaryFolder = ".tmp";
function segmentFault(segment) {
  if (segment === "") return "it begins or ends with a slash, or has two in a row";
  if (/^\.+$/.test(segment)) return `"${segment}" is not a name`;
  if (/[\\\0]/.test(segment)) return "it holds a backslash or a NUL";
  if (Buffer.byteLength(segment) > maxSegmentBytes) return `a segment has more than ${maxSegmentBytes} bytes`;
  return null;
}
function keyFault(segments, whole) {
  if (segments[0] === temporaryFolder) return `"${temporaryFolder}" is kept for the store's own files`;
  if (Buffer.byteLength(whole) > maxKeyBytes) return `it has more than ${maxKeyBytes} bytes`;
  for (const segment of segments) {
    const fault = segmentFault(segment);
    if (fault !== null) return fault;
  }
  return null;
}
function keySegments(key) {
  const segments = key.split("/");
  const fault = keyFault(segments, key);
  if (fault !== null) throw invalidKey("key", key, fault);
  return segments;
}
function prefixParts(prefix) {
  const folders = prefix.split("/");
  const nameStart = folders.pop() ?? "";
  const fault = folders.length > 0 ? keyFault(folders, prefix) : null;
  if (fault !== null) throw invalidKey("prefix", prefix, fault);
  return { folders, nameStart };
}
function isSegment(name) {
  return segmentFault(name) === null;
}
function invalidKey(what2, value, fault) {
  return new InputError(
    "invalid_key",
    `${JSON.stringify(value.slice(0, 200))} cannot be a ${what2} of the store: ${fault}. Allowed are names joined by single slashes, such as "models/a/config.json".`,
    what2
  );
}
function compareKeys(a, b) {
  const shorter = Math.min(a.length, b.length);
  for (let i = 0; i < shorter; i++) {
    const left = a.charCodeAt(i);
    const right = b.charCodeAt(i);
    if (left !== right) return utf8Rank(left) - utf8Rank(right);
  }
  return a.length - b.length;
}
function utf8Rank(unit) {
  return unit >= 55296 && unit < 57344 ? unit + 65536 : unit;
}

// batch-jobs/src/storage/store.ts
var StorageFullError = class extends Error {
  name = "StorageFullError";
};

// batch-jobs/src/storage/folder-store.ts
var staleAfterMs = 36e5;
var maxTransferBytes = 2 ** 30;
var streamChunkBytes = 2 ** 18;
var flushEveryBytes = 2 ** 26;
var placeAttempts = 10;
var FolderStore = class {
  #root;
  #realRoot;
  #writable;
  /** @param rootFolder made by the first write if it does not exist; reading never changes anything in it */
  constructor(rootFolder) {
    this.#root = resolve2(rootFolder);
  }
  async get(key, range3) {
    const file = await this.#openObject(key);
    if (file === null) return null;
    try {
      const { start, end } = within((await file.stat()).size, range3);
      const bytes = new Uint8Array(end - start);
      const length = await readFully(file, bytes, start);
      return length === bytes.length ? bytes : bytes.slice(0, length);
    } finally {
      await file.close();
    }
  }
  async read(key, start, into) {
    const file = await this.#openObject(key);
    if (file === null) return null;
    try {
      return await readFully(file, into, start);
    } finally {
      await file.close();
    }
  }
  async stream(key, range3) {
    const file = await this.#openObject(key);
    if (file === null) return null;
    let position;
    let end;
    try {
      ({ start: position, end } = within((await file.stat()).size, range3));
    } catch (error) {
      await file.close();
      throw error;
    }
    return new ReadableStream(
      {
        async pull(controller) {
          try {
            const chunk = new Uint8Array(Math.min(streamChunkBytes, end - position));
            const length = await readFully(file, chunk, position);
            position += length;
            if (length > 0) controller.enqueue(chunk.subarray(0, length));
            if (length < chunk.length || position >= end) {
              await file.close();
              controller.close();
            }
          } catch (error) {
            await file.close();
            controller.error(error);
          }
        },
        cancel: () => file.close()
      },
      { highWaterMark: 0 }
    );
  }
  async head(key) {
    const path = await this.#pathOf(key);
    const found = path === null ? null : await unlessMissing(lstat(path));
    return found?.isFile() ? { sizeBytes: found.size } : null;
  }
  async put(key, body, options = {}) {
    const segments = keySegments(key);
    let writtenBytes = 0;
    let flushedBytes = 0;
    let flushing = Promise.resolve();
    try {
      await this.#makeWritable();
      const temporary = join3(this.#root, temporaryFolder, randomUUID());
      try {
        const file = await open(temporary, "wx");
        try {
          for await (const chunk of body instanceof Uint8Array ? [body] : body) {
            await writeFully(file, chunk, writtenBytes);
            writtenBytes += chunk.length;
            if (writtenBytes - flushedBytes < flushEveryBytes) continue;
            await flushing;
            flushedBytes = writtenBytes;
            flushing = file.datasync();
            flushing.catch(() => void 0);
          }
          await flushing;
          await file.sync();
        } finally {
          await flushing.catch(() => void 0);
          await file.close();
        }
        return await this.#place(temporary, segments, options.onlyIfAbsent ?? false);
      } finally {
        await rm(temporary, { force: true });
      }
    } catch (cause) {
      if (!hasCode(cause, "ENOSPC", "EDQUOT")) throw cause;
      const size = body instanceof Uint8Array ? `${body.length} bytes` : `more than ${writtenBytes} bytes`;
      throw new StorageFullError(
        `No room on the disk (${cause.code}) to write ${key}, ${size}. Nothing of it was kept. Free some space, or move the store to a larger disk, and try again.`,
        { cause }
      );
    }
  }
  async list(prefix, options = {}) {
    const { after = "", limit = 1e3 } = options;
    const { folders, nameStart } = prefixParts(prefix);
    const found = [];
    const base = await this.#existingFolder(folders);
    if (base !== null) {
      await this.#collect(base, folders.map((name) => `${name}/`).join(""), nameStart, after, limit, found);
    }
    return found;
  }
  async folders(prefix) {
    const { folders, nameStart } = prefixParts(prefix);
    if (nameStart !== "") {
      throw new InputError("invalid_key", `"${prefix}" does not end in a slash, so it has no folders.`, "prefix");
    }
    const base = await this.#existingFolder(folders);
    if (base === null) return [];
    const names = [];
    for (const { name, isFolder: isFolder2 } of await this.#entries(base)) {
      if (isFolder2 && await this.#holdsObject(join3(base, name))) names.push(name);
    }
    return names.sort(compareKeys);
  }
  async delete(key) {
    const path = await this.#pathOf(key);
    if (path === null) return;
    const found = await unlessMissing(lstat(path));
    if (!found?.isFile()) return;
    await unlessMissing(unlink(path));
    await this.#prune(dirname2(path));
  }
  async deletePrefix(prefix) {
    const { folders, nameStart } = prefixParts(prefix);
    if (prefix === "") throw new InputError("invalid_key", "An empty prefix would delete the whole store.", "prefix");
    const base = await this.#existingFolder(folders);
    if (base === null) return;
    for (const { name } of await this.#entries(base)) {
      if (name.startsWith(nameStart)) await rm(join3(base, name), { recursive: true, force: true, maxRetries: 5 });
    }
    await this.#prune(base);
  }
  /** The path of a folder that exists with no symbolic link in it below the root; else null. */
  async #existingFolder(segments) {
    this.#realRoot ??= await unlessMissing(realpath(this.#root)) ?? void 0;
    if (this.#realRoot === void 0) return null;
    const path = join3(this.#realRoot, ...segments);
    return await unlessMissing(realpath(path)) === path ? path : null;
  }
  /** Where the object of a key is, if there is one; it may still be a link. Null when its folder does not exist. */
  async #pathOf(key) {
    const segments = keySegments(key);
    const folder2 = await this.#existingFolder(segments.slice(0, -1));
    return folder2 === null ? null : join3(folder2, segments[segments.length - 1] ?? "");
  }
  async #openObject(key) {
    const path = await this.#pathOf(key);
    if (path === null) return null;
    const flags = constants.O_RDONLY | (constants.O_NOFOLLOW ?? 0) | (constants.O_NONBLOCK ?? 0);
    const file = await unlessMissing(open(path, flags), "ELOOP", "EMLINK", "ENXIO");
    if (file === null || (await file.stat()).isFile()) return file;
    await file.close();
    return null;
  }
  /** Makes the root and `.tmp/` and removes what crashed writers left there. Once per store, again after a failure. */
  async #makeWritable() {
    this.#writable ??= (async () => {
      const folder2 = join3(this.#root, temporaryFolder);
      await mkdir(folder2, { recursive: true });
      const staleBefore = Date.now() - staleAfterMs;
      for (const name of await readdir(folder2)) {
        const path = join3(folder2, name);
        const found = await unlessMissing(lstat(path));
        if (found !== null && found.mtimeMs < staleBefore) await rm(path, { recursive: true, force: true });
      }
    })();
    try {
      await this.#writable;
    } catch (error) {
      this.#writable = void 0;
      throw error;
    }
  }
  /** Gives a finished temporary file its name.  @returns false when it must not replace and the name is taken */
  async #place(temporary, segments, onlyIfAbsent) {
    const root = this.#realRoot ??= await realpath(this.#root);
    const path = join3(root, ...segments);
    const parent = dirname2(path);
    for (let attempt = 1; ; attempt++) {
      try {
        const firstMade = await mkdir(parent, { recursive: true });
        if (await realpath(parent) !== parent) throw conflict(segments, "a folder above it is a symbolic link");
        if (onlyIfAbsent) await link(temporary, path);
        else await rename(temporary, path);
        await syncFolders(parent, firstMade === void 0 ? parent : dirname2(firstMade));
        return true;
      } catch (error) {
        if (hasCode(error, "ENOENT") && attempt < placeAttempts) continue;
        if (hasCode(error, "EISDIR", "ENOTEMPTY") || hasCode(error, "EEXIST") && await isFolder(path)) {
          throw conflict(segments, "it is already a folder of other keys");
        }
        if (hasCode(error, "ENOTDIR") || hasCode(error, "EEXIST") && error.syscall === "mkdir") {
          throw conflict(segments, "a part of its path is already an object");
        }
        if (hasCode(error, "EEXIST")) return false;
        throw error;
      }
    }
  }
  /** Removes folders that have become empty, from `path` up to below the root: a bucket has no empty folders. */
  async #prune(path) {
    for (let folder2 = path; folder2 !== this.#realRoot; folder2 = dirname2(folder2)) {
      try {
        await rmdir(folder2);
      } catch (error) {
        if (hasCode(error, "ENOTEMPTY", "EEXIST", "ENOENT", "ENOTDIR", "EBUSY", "EPERM", "EACCES")) return;
        throw error;
      }
    }
  }
  /** The files and folders in a folder that can be part of a key, in the order of the keys; none when it is missing. */
  async #entries(path) {
    const all = await unlessMissing(readdir(path, { withFileTypes: true }), "ENOTDIR") ?? [];
    return all.filter((entry) => (entry.isFile() || entry.isDirectory()) && isSegment(entry.name)).filter((entry) => entry.name !== temporaryFolder || path !== this.#realRoot).map((entry) => ({ name: entry.name, isFolder: entry.isDirectory() })).sort((a, b) => compareKeys(a.isFolder ? `${a.name}/` : a.name, b.isFolder ? `${b.name}/` : b.name));
  }
  /** Appends the objects under a folder in the order of their keys, leaving out whole sub-folders before `after`. */
  async #collect(path, keyPrefix, nameStart, after, limit, found) {
    for (const { name, isFolder: isFolder2 } of await this.#entries(path)) {
      if (found.length >= limit) return;
      if (!name.startsWith(nameStart)) continue;
      const key = keyPrefix + name + (isFolder2 ? "/" : "");
      if (compareKeys(key, after) <= 0 && !(isFolder2 && after.startsWith(key))) continue;
      if (isFolder2) {
        await this.#collect(join3(path, name), key, "", after, limit, found);
        continue;
      }
      const status = await unlessMissing(lstat(join3(path, name)));
      if (status !== null) found.push({ key, sizeBytes: status.size });
    }
  }
  async #holdsObject(path) {
    const entries = await this.#entries(path);
    if (entries.some((entry) => !entry.isFolder)) return true;
    for (const { name } of entries) if (await this.#holdsObject(join3(path, name))) return true;
    return false;
  }
};
function hasCode(error, ...codes) {
  return error instanceof Error && "code" in error && codes.includes(String(error.code));
}
async function unlessMissing(pending, ...codes) {
  try {
    return await pending;
  } catch (error) {
    if (hasCode(error, "ENOENT", "ENOTDIR", ...codes)) return null;
    throw error;
  }
}
async function isFolder(path) {
  return (await unlessMissing(stat(path)))?.isDirectory() ?? false;
}
function conflict(segments, reason) {
  const key = segments.join("/");
  return new InputError("invalid_key", `${key} cannot be written: ${reason}. Choose another key.`, "key");
}
function within(sizeBytes, range3 = { start: 0, end: sizeBytes }) {
  const { start, end } = range3;
  if (!Number.isSafeInteger(start) || !Number.isSafeInteger(end) || start < 0 || end < start) {
    throw new RangeError(`A byte range must have 0 <= start <= end in whole numbers; got ${start} to ${end}.`);
  }
  return { start: Math.min(start, sizeBytes), end: Math.min(end, sizeBytes) };
}
async function readFully(file, bytes, position) {
  let length = 0;
  while (length < bytes.length) {
    const wanted = Math.min(bytes.length - length, maxTransferBytes);
    const { bytesRead } = await file.read(bytes, length, wanted, position + length);
    if (bytesRead === 0) break;
    length += bytesRead;
  }
  return length;
}
async function writeFully(file, bytes, position) {
  for (let written = 0; written < bytes.length; ) {
    const wanted = Math.min(bytes.length - written, maxTransferBytes);
    written += (await file.write(bytes, written, wanted, position + written)).bytesWritten;
  }
}
async function syncFolders(lowest, highest) {
  for (let folder2 = lowest; folder2.length >= highest.length; folder2 = dirname2(folder2)) {
    let handle;
    try {
      handle = await open(folder2, "r");
    } catch (error) {
      if (hasCode(error, "EISDIR", "EPERM", "EACCES", "ENOENT")) return;
      throw error;
    }
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  }
}

// batch-jobs/src/models/decoder.ts
import * as tf15 from "@tensorflow/tfjs-core";

// batch-jobs/src/models/block-weights.ts
import * as tf9 from "@tensorflow/tfjs-core";
async function uploadBlock(config, block, source) {
  const weights2 = {};
  for (const { name, shape, parts } of blockTensors(config)) {
    const values = await source.read(blockPrefix(block) + name);
    const columns = shape[1] ?? 1;
    let row = 0;
    for (const part of parts) {
      const own = parts.length === 1 ? values : values.slice(row * columns, (row + part.rows) * columns);
      weights2[part.name] = part.name.endsWith("norm.weight") ? uploadNorm(config, own) : tf9.tensor(own, [part.rows, ...shape.slice(1)]);
      row += part.rows;
    }
  }
  return weights2;
}
async function uploadFinalNorm(config, source) {
  return uploadNorm(config, await source.read(finalNormName));
}
function uploadNorm({ normOffset }, stored) {
  return tf9.tensor1d(normOffset === 0 ? stored : stored.map((value) => value + normOffset));
}
function addGradients(sum6, gradients) {
  const names = Object.keys(sum6);
  const added = names.map((name) => {
    const terms = [sum6[name], gradients[name]];
    const total = tf9.add(terms[0], terms[1]);
    tf9.dispose(terms);
    return [name, total];
  });
  return Object.fromEntries(added);
}
function handOnGradients(config, block, gradients, reduction, consume) {
  for (const { name, shape, parts } of blockTensors(config)) {
    if (reduction === "sumOfSquares" && shape.length !== 2) continue;
    consume(blockPrefix(block) + name, joined(parts.map((part) => gradients[part.name])));
  }
}
function joined(parts) {
  if (parts.length === 1) return parts[0].dataSync();
  const whole = new Float32Array(parts.reduce((size, part) => size + part.size, 0));
  let at2 = 0;
  for (const part of parts) {
    whole.set(part.dataSync(), at2);
    at2 += part.size;
  }
  return whole;
}
var inputsOf = {
  "self_attn.q_proj.weight": "normed",
  "self_attn.k_proj.weight": "normed",
  "self_attn.v_proj.weight": "normed",
  "self_attn.o_proj.weight": "attended",
  "mlp.gate_proj.weight": "normedMiddle",
  "mlp.up_proj.weight": "normedMiddle",
  "mlp.down_proj.weight": "gated"
};
function linearInputs(config, block, kept) {
  return blockTensors(config).filter(({ shape }) => shape.length === 2).map(({ name, parts }) => ({
    name: blockPrefix(block) + name,
    inputs: kept[inputsOf[parts[0].name]]
  }));
}

// batch-jobs/src/models/head.ts
import * as tf13 from "@tensorflow/tfjs-core";

// batch-jobs/src/models/divergence.ts
import * as tf10 from "@tensorflow/tfjs-core";
var seriesUntil = 0.5;
var seriesCoefficients = [2, 6, 24, 120, 720, 5040, 40320].map((factorial) => 1 / factorial);
var largeDivergence = 1;
async function klDivergences(original, other) {
  const terms = tf10.tidy(() => divergenceTerms(original, other));
  const values = await terms.data();
  terms.dispose();
  const rows = original.shape[0];
  return Float32Array.from({ length: rows }, (_, row) => {
    const plain = values[rows + row];
    return plain > largeDivergence ? plain : Math.log1p(values[row]);
  });
}
function divergenceTerms(original, other) {
  const probabilities = tf10.softmax(original);
  const normalizer = tf10.logSumExp(original, 1, true);
  const total = tf10.sum(probabilities, 1, true);
  const differences = tf10.sub(other, original);
  const mean2 = tf10.div(tf10.sum(tf10.mul(probabilities, differences), 1, true), total);
  const e = tf10.sub(differences, mean2);
  const near = tf10.mul(tf10.mul(probabilities, tf10.square(e)), series(e));
  const grown = tf10.exp(tf10.add(tf10.sub(original, normalizer), e));
  const far = tf10.sub(grown, tf10.mul(probabilities, tf10.add(e, 1)));
  const sum6 = tf10.sum(tf10.where(tf10.less(tf10.abs(e), seriesUntil), near, far), 1, true);
  const plain = tf10.sub(tf10.sub(tf10.logSumExp(other, 1, true), normalizer), mean2);
  return tf10.transpose(tf10.concat([tf10.div(sum6, total), plain], 1));
}
function series(x) {
  return seriesCoefficients.reduceRight(
    (sum6, coefficient) => tf10.add(tf10.mul(sum6, x), coefficient),
    tf10.zerosLike(x)
  );
}

// batch-jobs/src/models/layers.ts
import * as tf11 from "@tensorflow/tfjs-core";
function createPositions(config, windows2, length, start = 0) {
  const half = config.headDim / 2;
  const width = start + length;
  const { cos, sin } = rotaryTables(config, width);
  return { windows: windows2, length, width, cos: tf11.tensor2d(cos, [width, half]), sin: tf11.tensor2d(sin, [width, half]) };
}
function disposePositions(positions) {
  tf11.dispose([positions.cos, positions.sin]);
}
function linear(x, weight) {
  return tf11.matMul(x, weight, false, true);
}
function project(weights2, name, x, residual = null) {
  const weight = weights2[name];
  const y = residual ? sumOfProducts(residual, [{ a: x, b: weight, transposeB: true }]) : linear(x, weight);
  const bias = weights2[biasOf(name)];
  if (!bias) return y;
  const sum6 = tf11.add(y, bias);
  y.dispose();
  return sum6;
}
function headNorm(x, weight, { headDim, rmsNormEps }) {
  return tf11.reshape(rmsNorm(tf11.reshape(x, [-1, headDim]), weight, rmsNormEps), x.shape);
}
function headNormBackward(x, weight, { headDim, rmsNormEps }, dy) {
  const rows = [x.size / headDim, headDim];
  const { dx, dWeight } = rmsNormBackward(tf11.reshape(x, rows), weight, rmsNormEps, tf11.reshape(dy, rows), null);
  return { dx: tf11.reshape(dx, x.shape), dWeight };
}
function inputGradient(...layers) {
  return sumOfProducts(
    null,
    layers.map(({ dy, weight }) => ({ a: dy, b: weight }))
  );
}
function weightGradient(x, dy, windows2, reduction) {
  if (reduction === "sum") return tf11.matMul(dy, x, true, false);
  const length = x.shape[0] / windows2;
  const squares = (window) => {
    const own = (rows) => tf11.slice(rows, [window * length, 0], [length, rows.shape[1]]);
    return tf11.tidy(() => {
      const gradient = tf11.matMul(own(dy), own(x), true, false);
      return tf11.square(gradient);
    });
  };
  let sum6 = squares(0);
  for (let window = 1; window < windows2; window++) {
    const next = squares(window);
    const both = tf11.add(sum6, next);
    tf11.dispose([sum6, next]);
    sum6 = both;
  }
  return sum6;
}
function blockForward(config, block, weights2, x, positions, cache = null) {
  const normed = rmsNorm(x, weights2["input_layernorm.weight"], config.rmsNormEps);
  const [queryNorm, keyNorm] = [weights2["self_attn.q_norm.weight"], weights2["self_attn.k_norm.weight"]];
  const projectedQueries = project(weights2, "self_attn.q_proj.weight", normed);
  const projectedKeys = project(weights2, "self_attn.k_proj.weight", normed);
  const queries = queryNorm ? headNorm(projectedQueries, queryNorm, config) : projectedQueries;
  const newKeys = keyNorm ? headNorm(projectedKeys, keyNorm, config) : projectedKeys;
  const newValues = project(weights2, "self_attn.v_proj.weight", normed);
  const extended = extendCache(config, cache, newKeys, newValues, positions);
  const keys = cache ? tf11.reshape(extended.keys, [-1, newKeys.shape[1]]) : newKeys;
  const values = cache ? tf11.reshape(extended.values, [-1, newValues.shape[1]]) : newValues;
  const inputs = { queries, keys, values, cos: positions.cos, sin: positions.sin };
  const { attended, saved } = attention(inputs, attentionShape(config, block, positions));
  const middle = project(weights2, "self_attn.o_proj.weight", attended, x);
  const normedMiddle = rmsNorm(middle, weights2["post_attention_layernorm.weight"], config.rmsNormEps);
  const gate = project(weights2, "mlp.gate_proj.weight", normedMiddle);
  const up = project(weights2, "mlp.up_proj.weight", normedMiddle);
  const gated2 = config.activation === "silu" ? swiGlu(gate, up) : geGlu(gate, up);
  const y = project(weights2, "mlp.down_proj.weight", gated2, middle);
  const beforeNorms = config.qkNorm ? [projectedQueries, projectedKeys] : [];
  const attentionKept = { normed, beforeNorms, queries, keys, values, attended, attentionSaved: saved };
  return { y, kept: { x, ...attentionKept, middle, normedMiddle, gate, up, gated: gated2 }, cache: extended };
}
function extendCache(config, cache, newKeys, newValues, { windows: windows2, length }) {
  const shape = [windows2, length, config.numKeyValueHeads * config.headDim];
  const keys = tf11.reshape(newKeys, shape);
  const values = tf11.reshape(newValues, shape);
  return cache ? { keys: tf11.concat([cache.keys, keys], 1), values: tf11.concat([cache.values, values], 1) } : { keys, values };
}
function attentionShape(config, block, { windows: windows2, length, width }) {
  const { numAttentionHeads: heads, numKeyValueHeads: keyValueHeads, headDim } = config;
  return { windows: windows2, length, width, heads, keyValueHeads, headDim, slidingWindow: config.slidingWindows[block] };
}
function blockBackward(config, block, weights2, kept, positions, dy, reduction = "sum") {
  const { normed, normedMiddle } = kept;
  const ofWeight = (x, dOutput) => weightGradient(x, dOutput, positions.windows, reduction);
  const dGated = inputGradient({ dy, weight: weights2["mlp.down_proj.weight"] });
  const gatedBackward2 = config.activation === "silu" ? swiGluBackward : geGluBackward;
  const { dGate, dUp } = gatedBackward2(kept.gate, kept.up, dGated);
  const lowerNorm = rmsNormBackward(
    kept.middle,
    weights2["post_attention_layernorm.weight"],
    config.rmsNormEps,
    inputGradient(
      { dy: dGate, weight: weights2["mlp.gate_proj.weight"] },
      { dy: dUp, weight: weights2["mlp.up_proj.weight"] }
    ),
    dy
  );
  const dMiddle = lowerNorm.dx;
  const { queries, keys, values } = kept;
  const inputs = { queries, keys, values, cos: positions.cos, sin: positions.sin };
  const attentionGradients = attentionBackward(
    inputs,
    kept.attentionSaved,
    inputGradient({ dy: dMiddle, weight: weights2["self_attn.o_proj.weight"] }),
    attentionShape(config, block, positions)
  );
  const { dValues } = attentionGradients;
  const headNorms = headNormsBackward(config, weights2, kept, attentionGradients);
  const { dQueries, dKeys } = headNorms;
  const upperNorm = rmsNormBackward(
    kept.x,
    weights2["input_layernorm.weight"],
    config.rmsNormEps,
    inputGradient(
      { dy: dQueries, weight: weights2["self_attn.q_proj.weight"] },
      { dy: dKeys, weight: weights2["self_attn.k_proj.weight"] },
      { dy: dValues, weight: weights2["self_attn.v_proj.weight"] }
    ),
    dMiddle
  );
  const outputs = {
    "self_attn.q_proj.weight": [normed, dQueries],
    "self_attn.k_proj.weight": [normed, dKeys],
    "self_attn.v_proj.weight": [normed, dValues],
    "self_attn.o_proj.weight": [kept.attended, dMiddle],
    "mlp.gate_proj.weight": [normedMiddle, dGate],
    "mlp.up_proj.weight": [normedMiddle, dUp],
    "mlp.down_proj.weight": [kept.gated, dy]
  };
  const linears = Object.entries(outputs).map(([name, [x, dOutput]]) => [name, ofWeight(x, dOutput)]);
  const biases = config.biases.map((name) => [biasOf(name), tf11.sum(outputs[name][1], 0)]);
  return {
    dx: upperNorm.dx,
    gradients: {
      "input_layernorm.weight": upperNorm.dWeight,
      "post_attention_layernorm.weight": lowerNorm.dWeight,
      ...headNorms.gradients,
      ...Object.fromEntries([...linears, ...biases])
    }
  };
}
function headNormsBackward(config, weights2, { beforeNorms }, { dQueries, dKeys }) {
  const [queryNorm, keyNorm] = [weights2["self_attn.q_norm.weight"], weights2["self_attn.k_norm.weight"]];
  if (!queryNorm || !keyNorm) return { dQueries, dKeys, gradients: {} };
  const ofQueries = headNormBackward(beforeNorms[0], queryNorm, config, dQueries);
  const ofKeys = headNormBackward(beforeNorms[1], keyNorm, config, dKeys);
  return {
    dQueries: ofQueries.dx,
    dKeys: ofKeys.dx,
    gradients: { "self_attn.q_norm.weight": ofQueries.dWeight, "self_attn.k_norm.weight": ofKeys.dWeight }
  };
}
function headLoss(x, head, wanted) {
  return tf11.tidy(() => crossEntropy(linear(x, head), wanted));
}
function headLossBackward(x, head, wanted, scale, wantsHead, dHeadSoFar) {
  return tf11.tidy(() => {
    const { losses: losses2, dLogits } = crossEntropyBackward(linear(x, head), wanted, scale);
    const product = { a: dLogits, b: x, transposeA: true };
    const dHead = wantsHead ? sumOfProducts(dHeadSoFar ?? null, [product]) : void 0;
    return { losses: losses2, dx: inputGradient({ dy: dLogits, weight: head }), dHead };
  });
}

// batch-jobs/src/models/parts.ts
import * as tf12 from "@tensorflow/tfjs-core";
var tokensAtOnce = 2048;
function mostWindows(length) {
  return Math.max(1, Math.floor(tokensAtOnce / length));
}
function partsOf(items, size) {
  return Array.from({ length: Math.ceil(items.length / size) }, (_, i) => items.slice(i * size, (i + 1) * size));
}
async function withParts(config, batch, use) {
  const positions = /* @__PURE__ */ new Map();
  const parts = batch.map((windows2) => {
    const length = windows2[0].length - 1;
    const own = positions.get(windows2.length) ?? createPositions(config, windows2.length, length);
    positions.set(windows2.length, own);
    return { inputs: joinTokens(windows2, 0, length), targets: joinTokens(windows2, 1, length + 1), positions: own };
  });
  try {
    return await use(parts);
  } finally {
    positions.forEach(disposePositions);
  }
}
function joinTokens(windows2, from, until) {
  const joined3 = new Int32Array(windows2.length * (until - from));
  windows2.forEach((window, index) => joined3.set(window.subarray(from, until), index * (until - from)));
  return joined3;
}
function embedRows(config, embedding, tokens) {
  const { hiddenSize, embeddingScale } = config;
  const rows = new Float32Array(tokens.length * hiddenSize);
  for (let row = 0; row < tokens.length; row++) {
    const from = tokens[row] * hiddenSize;
    rows.set(embedding.subarray(from, from + hiddenSize), row * hiddenSize);
  }
  if (embeddingScale !== 1) for (let i = 0; i < rows.length; i++) rows[i] *= embeddingScale;
  return rows;
}
function addRowsByToken(config, into, rows, tokens) {
  const { hiddenSize, embeddingScale } = config;
  for (let row = 0, from = 0; row < tokens.length; row++, from += hiddenSize) {
    const at2 = tokens[row] * hiddenSize;
    for (let i = 0; i < hiddenSize; i++) into[at2 + i] += embeddingScale * rows[from + i];
  }
}
function onDevice({ hiddenSize }, rows) {
  return rows instanceof Float32Array ? tf12.tensor2d(rows, [rows.length / hiddenSize, hiddenSize]) : rows;
}
async function toHost(tensor2) {
  const values = await tensor2.data();
  tensor2.dispose();
  return values;
}
function rowsOf(x, from, until) {
  return tf12.slice(x, [from, 0], [until - from, x.shape[1]]);
}

// batch-jobs/src/models/head.ts
var Head = class _Head {
  /** @param weight [vocabSize, hiddenSize]   @param logits held at once */
  constructor(config, norm, weight, logits) {
    this.config = config;
    this.norm = norm;
    this.weight = weight;
    this.logits = logits;
  }
  config;
  norm;
  weight;
  logits;
  /** @param tied the embedding, when it is the head's weight as well; else null   @param logits held at once */
  static async upload(config, source, tied, logits) {
    const weight = tf13.tensor2d(tied ?? await source.read(headName), [config.vocabSize, config.hiddenSize]);
    return new _Head(config, await uploadFinalNorm(config, source), weight, logits);
  }
  dispose() {
    tf13.dispose([this.norm, this.weight]);
  }
  /** Logits of the token after the last of `x`, [1, vocabSize]. */
  nextLogits(x) {
    const [tokens] = x.shape;
    return tf13.tidy(() => linear(this.normed(rowsOf(x, tokens - 1, tokens)), this.weight));
  }
  /** Cross-entropy of each token, in nats.  @param hidden [tokens, hiddenSize] */
  async losses(hidden, targets) {
    const normed = this.normedRows(hidden);
    const result = new Float32Array(targets.length);
    for (const { from, until } of this.chunks(targets.length)) {
      const losses2 = tf13.tidy(() => headLoss(rowsOf(normed, from, until), this.weight, wantedIds(targets, from, until)));
      result.set(await toHost(losses2), from);
    }
    normed.dispose();
    return result;
  }
  /**
   * How far the distribution after each token is from the original's, KL(original || this), in nats.
   * @param hidden,originalHidden [tokens, hiddenSize] of each model
   */
  async divergences(hidden, original, originalHidden) {
    const normed = this.normedRows(hidden);
    const originalNormed = original.normedRows(originalHidden);
    const [tokens] = normed.shape;
    const result = new Float32Array(tokens);
    for (const { from, until } of this.chunks(tokens)) {
      const [expected, actual] = tf13.tidy(() => [
        linear(rowsOf(originalNormed, from, until), original.weight),
        linear(rowsOf(normed, from, until), this.weight)
      ]);
      result.set(await klDivergences(expected, actual), from);
      tf13.dispose([expected, actual]);
    }
    tf13.dispose([normed, originalNormed]);
    return result;
  }
  /**
   * Loss of a batch and its gradients.
   * @param hidden of each part, after the last block; those on the device are disposed of
   * @param scale factor on the sum of the losses before it is differentiated   @param wantsWeight whether dWeight is needed
   * @param teacher whose distribution is wanted in place of the text's next tokens
   * @returns `dx` of each part lies where its `hidden` lay
   */
  async backward(batch, hidden, scale, wantsWeight, teacher) {
    const { config } = this;
    let loss2 = 0;
    let dWeight;
    const dNorm = new Float32Array(config.hiddenSize);
    const dx = [];
    for (const [part, { targets }] of batch.entries()) {
      const x = onDevice(config, hidden[part]);
      const normed = this.normed(x);
      const taught = teacher && teacher.head.normedRows(teacher.hidden[part]);
      const dNormedChunks = [];
      for (const { from, until } of this.chunks(targets.length)) {
        const soFar = dWeight;
        const chunk = tf13.tidy(() => {
          const wanted = teacher && taught ? { logits: linear(rowsOf(taught, from, until), teacher.head.weight) } : wantedIds(targets, from, until);
          return headLossBackward(rowsOf(normed, from, until), this.weight, wanted, scale, wantsWeight, soFar);
        });
        for (const value of chunk.losses.dataSync()) loss2 += value;
        tf13.dispose([soFar ?? [], chunk.losses]);
        dWeight = chunk.dHead;
        dNormedChunks.push(chunk.dx);
      }
      tf13.dispose([normed, taught ?? []]);
      const own = tf13.tidy(() => rmsNormBackward(x, this.norm, config.rmsNormEps, tf13.concat(dNormedChunks, 0), null));
      tf13.dispose([x, dNormedChunks]);
      (await toHost(own.dWeight)).forEach((value, i) => dNorm[i] += value);
      dx.push(hidden[part] instanceof Float32Array ? await toHost(own.dx) : own.dx);
    }
    return { loss: loss2, dx, dNorm, dWeight: dWeight ? await toHost(dWeight) : null };
  }
  normed(x) {
    return rmsNorm(x, this.norm, this.config.rmsNormEps);
  }
  normedRows(hidden) {
    return tf13.tidy(() => this.normed(onDevice(this.config, hidden)));
  }
  chunks(tokens) {
    const size = Math.max(1, Math.min(tokens, Math.floor(this.logits / this.config.vocabSize)));
    const chunks = [];
    for (let from = 0; from < tokens; from += size) chunks.push({ from, until: Math.min(from + size, tokens) });
    return chunks;
  }
};
function wantedIds(targets, from, until) {
  return { ids: tf13.tensor1d(targets.subarray(from, until), "int32") };
}

// batch-jobs/src/models/not-finite.ts
import * as tf14 from "@tensorflow/tfjs-core";
function allFinite(values) {
  for (const value of values) if (!Number.isFinite(value)) return false;
  return true;
}
async function notFiniteInBlock(config, block, source, hidden, positions) {
  const tensors = blockTensors(config).map(({ name, parts }) => ({ name: blockPrefix(block) + name, parts }));
  for (const { name } of tensors) {
    if (!allFinite(await source.read(name))) return { block, tensor: name, what: "values" };
  }
  const fullName = (weight2) => tensors.find(({ parts }) => parts.some(({ name }) => name === weight2))?.name ?? blockPrefix(block) + weight2;
  const weights2 = await uploadBlock(config, block, source);
  const steps = tf14.tidy(() => forwardSteps(config, block, weights2, hidden, positions));
  const last = steps[steps.length - 1];
  const { weight, what: what2 } = steps.find(({ values }) => !allFinite(values.dataSync())) ?? last;
  tf14.dispose([steps.map(({ values }) => values), Object.values(weights2)]);
  return { block, tensor: fullName(weight), what: what2 };
}
async function notFiniteInHead(config, source, batch, hidden, logits) {
  const weightName = config.tieWordEmbeddings ? embeddingName : headName;
  const weight = await source.read(weightName);
  for (const name of [finalNormName, weightName]) {
    if (!allFinite(name === weightName ? weight : await source.read(name)))
      return { block: null, tensor: name, what: "values" };
  }
  const head = await Head.upload(config, source, weight, logits);
  let finite = true;
  for (const [part, { targets }] of batch.entries()) finite &&= allFinite(await head.losses(hidden[part], targets));
  head.dispose();
  return finite ? null : { block: null, tensor: weightName, what: "output" };
}
function forwardSteps(config, block, weights2, hidden, positions) {
  const { y, kept } = blockForward(config, block, weights2, onDevice(config, hidden), positions);
  const step = (weight, what2, values) => ({
    weight,
    what: what2,
    values
  });
  const [queries, keys] = kept.beforeNorms;
  return [
    step("input_layernorm.weight", "output", kept.normed),
    step("self_attn.q_proj.weight", "output", queries ?? kept.queries),
    step("self_attn.k_proj.weight", "output", keys ?? kept.keys),
    step("self_attn.v_proj.weight", "output", kept.values),
    ...config.qkNorm ? [step("self_attn.q_norm.weight", "output", kept.queries), step("self_attn.k_norm.weight", "output", kept.keys)] : [],
    step("self_attn.o_proj.weight", "input", kept.attended),
    step("self_attn.o_proj.weight", "output", kept.middle),
    step("post_attention_layernorm.weight", "output", kept.normedMiddle),
    step("mlp.gate_proj.weight", "output", kept.gate),
    step("mlp.up_proj.weight", "output", kept.up),
    step("mlp.down_proj.weight", "input", kept.gated),
    step("mlp.down_proj.weight", "output", y)
  ];
}

// batch-jobs/src/models/decoder.ts
var defaultLimits = { logits: 4 * 1024 * 1024, keptBytes: 512 * 1024 * 1024 };
var Decoder = class {
  constructor(config, weights2, limits = defaultLimits) {
    this.config = config;
    this.weights = weights2;
    this.limits = limits;
  }
  config;
  weights;
  limits;
  /**
   * Loss of a batch and its gradients, block by block from the last to the first. A block's weights are on the device once
   * for all parts of the batch, and its gradients leave it once.
   * @param parts of token ids, run one after another, all windows of one length; each token but a window's first is
   * predicted from those before it
   * @returns sum of the cross-entropies, in nats, over all windows x (length - 1) tokens
   */
  async lossAndGradients(parts, { gradientScale, reduction, consume, teacher = null, observe }) {
    const { config } = this;
    return withParts(config, parts, async (batch) => {
      const taught = teacher && await teacher.ending(batch);
      const embedding = await this.weights.read(embeddingName);
      const { steps, hidden, lastBlock } = await this.forward(batch, embedding, observe);
      const tied = config.tieWordEmbeddings ? embedding : null;
      const head = await this.uploadHead(tied);
      const ending = await head.backward(batch, hidden, gradientScale, reduction === "sum", taught);
      head.dispose();
      taught?.head.dispose();
      const dy = ending.dx;
      await this.backward(batch, steps, dy, lastBlock, reduction, consume);
      if (reduction === "sum") {
        consume(finalNormName, ending.dNorm);
        if (ending.dWeight && !tied) consume(headName, ending.dWeight);
        const dEmbedding = (tied && ending.dWeight) ?? new Float32Array(embedding.length);
        for (const [part, { inputs }] of batch.entries()) {
          const rows = dy[part];
          const values = rows instanceof Float32Array ? rows : rows.dataSync();
          addRowsByToken(config, dEmbedding, values, inputs);
        }
        consume(embeddingName, dEmbedding);
      }
      tf15.dispose(dy.filter((rows) => rows instanceof tf15.Tensor));
      return ending.loss;
    });
  }
  /**
   * Negative log-likelihood, in nats, of each predicted token: windows.length rows of length - 1.
   * Each block is uploaded once for all windows, which wait in host memory between blocks.
   */
  async losses(windows2, windowsAtOnce, onBlock) {
    return withParts(this.config, partsOf(windows2, windowsAtOnce), async (batch) => {
      const { head, hidden } = await this.ending(batch, onBlock);
      const losses2 = [];
      for (const [part, { targets }] of batch.entries()) losses2.push(await head.losses(hidden[part], targets));
      head.dispose();
      onBlock(this.config.numHiddenLayers + 1, this.config.numHiddenLayers + 1);
      return joined2(losses2);
    });
  }
  /**
   * The same, and beside it how far the distribution over each predicted token is from another model's: KL(original || this),
   * in nats. Both models' hidden states wait in host memory.
   * @param original of the same shape
   */
  async divergences(windows2, windowsAtOnce, original, onBlock) {
    const blocks = this.config.numHiddenLayers;
    const total = 2 * blocks + 1;
    return withParts(this.config, partsOf(windows2, windowsAtOnce), async (batch) => {
      const expected = await original.ending(batch, (done) => onBlock(done, total));
      const { head, hidden } = await this.ending(batch, (done) => onBlock(blocks + done, total));
      const losses2 = [];
      const divergences = [];
      for (const [part, { targets }] of batch.entries()) {
        losses2.push(await head.losses(hidden[part], targets));
        divergences.push(await head.divergences(hidden[part], expected.head, expected.hidden[part]));
      }
      head.dispose();
      expected.head.dispose();
      onBlock(total, total);
      return { losses: joined2(losses2), divergences: joined2(divergences) };
    });
  }
  /**
   * Walks forward and shows each block's matrices what they are multiplied with.
   * @param windows all of one length; their last tokens, which nothing follows, are left out
   * @param visit called once for each block with its matrices' inputs on all windows, which are the decoder's
   */
  async walkBlocks(windows2, visit) {
    const { config } = this;
    await withParts(config, partsOf(windows2, mostWindows(windows2[0].length)), async (batch) => {
      const hidden = await this.embedParts(batch);
      for (let block = 0; block < config.numHiddenLayers; block++) {
        const weights2 = await uploadBlock(config, block, this.weights);
        const inputs = [];
        for (const [part, { positions }] of batch.entries()) {
          const { y, layers: layers2 } = tf15.tidy(() => {
            const { y: y2, kept } = blockForward(config, block, weights2, onDevice(config, hidden[part]), positions);
            return { y: y2, layers: linearInputs(config, block, kept) };
          });
          hidden[part] = await toHost(y);
          inputs.push(layers2);
        }
        tf15.dispose(Object.values(weights2));
        const layers = inputs.length === 1 ? inputs[0] : joinedInputs(inputs);
        try {
          await visit(block, layers);
        } finally {
          tf15.dispose(layers.map(({ inputs: inputs2 }) => inputs2));
        }
      }
    });
  }
  /** What goes into the first block: [windows x (length - 1), hiddenSize] of all tokens but the windows' last. */
  async embedded(windows2) {
    return withParts(this.config, [windows2], async (batch) => (await this.embedParts(batch))[0]);
  }
  /** What a block makes of hidden states.  @param hidden [windows x length, hiddenSize], left as it is   @returns the same shape */
  async blockOutputs(block, hidden, windows2, length) {
    const { config } = this;
    const outputs = new Float32Array(hidden.length);
    const size = length * config.hiddenSize;
    const weights2 = await uploadBlock(config, block, this.weights);
    const atOnce = Math.min(windows2, mostWindows(length));
    for (let from = 0; from < windows2; from += atOnce) {
      const until = Math.min(from + atOnce, windows2);
      const positions = createPositions(config, until - from, length);
      const rows = hidden.subarray(from * size, until * size);
      const y = tf15.tidy(() => blockForward(config, block, weights2, onDevice(config, rows), positions).y);
      outputs.set(await toHost(y), from * size);
      disposePositions(positions);
    }
    tf15.dispose(Object.values(weights2));
    return outputs;
  }
  /**
   * A block against what it should make of some windows, which run at once.
   * @returns sum of the squared differences; its gradients, times `gradientScale`, go to `consume` for each of the block's tensors
   */
  async blockLossAndGradients(block, { hidden, target, windows: windows2, length }, { gradientScale, consume }) {
    const { config } = this;
    const weights2 = await uploadBlock(config, block, this.weights);
    const positions = createPositions(config, windows2, length);
    const { squares, gradients } = tf15.tidy(() => {
      const { y, kept } = blockForward(config, block, weights2, onDevice(config, hidden), positions);
      const difference = tf15.sub(y, onDevice(config, target));
      const dy = tf15.mul(difference, 2 * gradientScale);
      const { gradients: gradients2 } = blockBackward(config, block, weights2, kept, positions, dy);
      return { squares: tf15.sum(tf15.square(difference), 1), gradients: gradients2 };
    });
    disposePositions(positions);
    tf15.dispose(Object.values(weights2));
    handOnGradients(config, block, gradients, "sum", consume);
    tf15.dispose(Object.values(gradients));
    let loss2 = 0;
    for (const square6 of await toHost(squares)) loss2 += square6;
    return loss2;
  }
  /**
   * Where the forward pass first gives a value that is not finite: to be called once a loss is not, so that its error can say
   * where from. Null when all values are finite, as when only a gradient overflows.
   * @param parts as of `lossAndGradients`
   */
  async firstNotFinite(parts) {
    const { config } = this;
    return withParts(config, parts, async (batch) => {
      const hidden = await this.embedParts(batch);
      if (!hidden.every(allFinite)) return { block: null, tensor: embeddingName, what: "values" };
      for (let block = 0; block < config.numHiddenLayers; block++) {
        const outputs = [...hidden];
        await this.runBlock(block, batch, outputs);
        const part = outputs.findIndex((rows) => !allFinite(rows));
        if (part >= 0) return notFiniteInBlock(config, block, this.weights, hidden[part], batch[part].positions);
        hidden.splice(0, hidden.length, ...outputs);
      }
      return notFiniteInHead(config, this.weights, batch, hidden, this.limits.logits);
    });
  }
  /**
   * Logits of the token that follows `tokens`, with the keys and values of earlier tokens kept in `caches` (one per block,
   * replaced in place; null at the start).
   * @throws Error when the caches do not hold for a text as long as it becomes (`cacheHolds` in rope.ts)
   */
  async nextLogits(tokens, caches, pastLength) {
    const { config } = this;
    if (!cacheHolds(config, pastLength, pastLength + tokens.length))
      throw new Error(
        `The text passes the model's original length after ${pastLength} tokens: begin again without caches.`
      );
    const embedding = await this.weights.read(embeddingName);
    const positions = createPositions(config, 1, tokens.length, pastLength);
    let x = onDevice(config, embedRows(config, embedding, tokens));
    for (let block = 0; block < config.numHiddenLayers; block++) {
      const weights2 = await uploadBlock(config, block, this.weights);
      const past = caches[block];
      const { y, cache } = tf15.tidy(() => {
        const { y: y2, cache: cache2 } = blockForward(config, block, weights2, x, positions, past);
        return { y: y2, cache: cache2 };
      });
      tf15.dispose([Object.values(weights2), x, past ? [past.keys, past.values] : []]);
      caches[block] = cache;
      x = y;
    }
    disposePositions(positions);
    const head = await this.uploadHead(config.tieWordEmbeddings ? embedding : null);
    const logits = head.nextLogits(x);
    head.dispose();
    x.dispose();
    return toHost(logits);
  }
  /**
   * Forward to the last block, whose weights stay on the device. Of each block and part it keeps all that the backward pass
   * needs as long as there is room, else the input, in host memory; its output then waits there as well.
   */
  async forward(batch, embedding, observe) {
    const { config } = this;
    const hidden = batch.map(({ inputs }) => embedRows(config, embedding, inputs));
    const steps = [];
    let room2 = this.limits.keptBytes;
    let weights2 = null;
    for (let block = 0; block < config.numHiddenLayers; block++) {
      tf15.dispose(Object.values(weights2 ?? {}));
      const own = weights2 = await uploadBlock(config, block, this.weights);
      const ofBlock = [];
      for (const [part, { positions }] of batch.entries()) {
        const input = hidden[part];
        const x = onDevice(config, input);
        const { y, step } = tf15.tidy(() => {
          const { y: y2, kept } = blockForward(config, block, own, x, positions);
          if (observe) for (const { name, inputs } of linearInputs(config, block, kept)) observe(name, inputs);
          return { y: y2, step: bytesOf2(kept) <= room2 ? kept : x };
        });
        if (step instanceof tf15.Tensor) {
          ofBlock.push(input instanceof Float32Array ? input : await x.data());
          x.dispose();
          hidden[part] = await toHost(y);
        } else {
          ofBlock.push(step);
          room2 -= bytesOf2(step);
          hidden[part] = y;
        }
      }
      steps.push(ofBlock);
    }
    return { steps, hidden, lastBlock: weights2 };
  }
  /**
   * Backward through all blocks, each gradient handed on at once; disposes of the last block's weights and of all steps.
   * @param dy of the last block's output, replaced by that of the first block's input; waits where the steps do
   */
  async backward(batch, steps, dy, lastBlock, reduction, consume) {
    const { config } = this;
    let weights2 = lastBlock;
    for (let block = config.numHiddenLayers - 1; block >= 0; block--) {
      const own = weights2 ??= await uploadBlock(config, block, this.weights);
      const ofBlock = steps.pop();
      let sum6 = null;
      for (const [part, { positions }] of batch.entries()) {
        const step = ofBlock[part];
        const dOutput = onDevice(config, dy[part]);
        const { dx, gradients: gradients2 } = tf15.tidy(() => {
          const kept = step instanceof Float32Array ? blockForward(config, block, own, onDevice(config, step), positions).kept : step;
          return blockBackward(config, block, own, kept, positions, dOutput, reduction);
        });
        tf15.dispose([dOutput, step instanceof Float32Array ? [] : Object.values(step)]);
        dy[part] = step instanceof Float32Array ? await toHost(dx) : dx;
        sum6 = sum6 ? addGradients(sum6, gradients2) : gradients2;
      }
      tf15.dispose(Object.values(own));
      weights2 = null;
      const gradients = sum6;
      handOnGradients(config, block, gradients, reduction, consume);
      tf15.dispose(Object.values(gradients));
    }
  }
  /** Forward through all blocks, each uploaded once for all parts, which wait in host memory between blocks. */
  async ending(batch, onBlock = () => {
  }) {
    const { config } = this;
    const embedding = await this.weights.read(embeddingName);
    const hidden = batch.map(({ inputs }) => embedRows(config, embedding, inputs));
    for (let block = 0; block < config.numHiddenLayers; block++) {
      await this.runBlock(block, batch, hidden);
      onBlock(block + 1, config.numHiddenLayers + 1);
    }
    return { head: await this.uploadHead(config.tieWordEmbeddings ? embedding : null), hidden };
  }
  /** Replaces each part's hidden states by what a block makes of them. */
  async runBlock(block, batch, hidden) {
    const { config } = this;
    const weights2 = await uploadBlock(config, block, this.weights);
    for (const [part, { positions }] of batch.entries()) {
      const y = tf15.tidy(() => blockForward(config, block, weights2, onDevice(config, hidden[part]), positions).y);
      hidden[part] = await toHost(y);
    }
    tf15.dispose(Object.values(weights2));
  }
  async embedParts(batch) {
    const embedding = await this.weights.read(embeddingName);
    return batch.map(({ inputs }) => embedRows(this.config, embedding, inputs));
  }
  uploadHead(tied) {
    return Head.upload(this.config, this.weights, tied, this.limits.logits);
  }
};
function bytesOf2(activations2) {
  return 4 * Object.values(activations2).flat().reduce((sum6, { size }) => sum6 + size, 0);
}
function joined2(parts) {
  const whole = new Float32Array(parts.reduce((size, part) => size + part.length, 0));
  let at2 = 0;
  for (const part of parts) {
    whole.set(part, at2);
    at2 += part.length;
  }
  return whole;
}
function joinedInputs(parts) {
  const whole = /* @__PURE__ */ new Map();
  return parts[0].map(({ name, inputs: { id } }, layer) => {
    const inputs = whole.get(id) ?? tf15.concat2d(
      parts.map((layers) => layers[layer].inputs),
      0
    );
    if (!whole.has(id)) tf15.dispose(parts.map((layers) => layers[layer].inputs));
    whole.set(id, inputs);
    return { name, inputs };
  });
}

// batch-jobs/src/training/adamw.ts
function adamWConstants(settings, learningRate, gradientScale, step) {
  const { beta1, beta2, epsilon, weightDecay } = settings;
  return {
    gradientScale,
    beta1,
    beta2,
    epsilon,
    stepSize: learningRate / (1 - beta1 ** step),
    decay: 1 - learningRate * weightDecay,
    rootCorrection2: Math.sqrt(1 - beta2 ** step)
  };
}
function clippingScale(norm, maxNorm) {
  return Math.min(1, maxNorm / (norm + 1e-6));
}

// batch-jobs/src/training/ranges.ts
function rangesOf(tensors, count) {
  const total = tensors.reduce((sum6, { units, size }) => sum6 + units * size, 0);
  const shares = Array.from({ length: count }, () => []);
  let before = 0;
  for (const { tensor: tensor2, units, size } of tensors) {
    for (let from = 0; from < units; ) {
      const share = Math.min(count - 1, Math.floor((before + from * size) * count / total));
      const end = share === count - 1 ? Infinity : total * (share + 1) / count;
      const until = Math.min(units, Math.max(from + 1, Math.ceil((end - before) / size)));
      shares[share].push({ tensor: tensor2, from, until });
      from = until;
    }
    before += units * size;
  }
  return shares.filter((share) => share.length > 0);
}
function divide(items, count) {
  const shares = Array.from({ length: count }, () => ({ items: [], size: 0 }));
  for (const { item, size } of [...items].sort((a, b) => b.size - a.size)) {
    const least = shares.reduce((best, share) => share.size < best.size ? share : best);
    least.items.push(item);
    least.size += size;
  }
  return shares.filter((share) => share.items.length > 0).map((share) => share.items);
}

// batch-jobs/src/training/quantized-blocks.ts
var QuantizedBlocks = class {
  /** @param latent in shared memory   @param keptBytes for the blocks that keep theirs */
  constructor(config, latent, quantizer, keptBytes) {
    this.quantizer = quantizer;
    const shared = /* @__PURE__ */ new Map();
    const shapes = tensorShapes(config);
    let room2 = keptBytes;
    this.blocks = Array.from({ length: config.numHiddenLayers }, (_, block) => {
      const weights2 = linearTensorNames(config, block).map((name) => [name, latent.get(name)]);
      const bytes = weights2.reduce((sum6, [, weight]) => sum6 + weight.byteLength, 0);
      const isKept = bytes <= room2;
      if (isKept) room2 -= bytes;
      const matrices = weights2.map(([name, weight]) => {
        this.blockOf.set(name, block);
        const inBlock = name.slice(blockPrefix(block).length);
        const into = (isKept ? void 0 : shared.get(inBlock)) ?? sharedFloat32(weight.length);
        if (!isKept) shared.set(inBlock, into);
        const columns = shapes.get(name)[1];
        const { cherries = noCherries, scales = null } = inSharedMemory(quantizer, name);
        return [name, { weight, columns, cherries, columnScales: scales, into }];
      });
      return { matrices: new Map(matrices), isKept };
    });
  }
  quantizer;
  blocks;
  blockOf = /* @__PURE__ */ new Map();
  /** Blocks whose arrays hold what their weights become, or will once the promise is kept. */
  ready = /* @__PURE__ */ new Map();
  /**
   * A matrix once quantized, or null for a tensor that is not. The array holds it until a matrix of another block is read, or
   * the weights change.
   */
  async read(name) {
    const block = this.blockOf.get(name);
    if (block === void 0) return null;
    let ready2 = this.ready.get(block);
    if (!ready2) {
      const { matrices, isKept } = this.blocks[block];
      if (!isKept) {
        for (const other of this.ready.keys()) if (!this.blocks[other].isKept) this.ready.delete(other);
      }
      this.ready.set(block, ready2 = this.quantize([...matrices.values()]));
    }
    await ready2;
    return this.blocks[block].matrices.get(name).into;
  }
  /** To be called when the weights have changed. */
  forget() {
    this.ready.clear();
  }
  async quantize(matrices) {
    const pool2 = hostPool();
    const units = matrices.map((tensor2) => ({
      tensor: tensor2,
      units: tensor2.weight.length / tensor2.columns,
      size: tensor2.columns
    }));
    const { grid } = this.quantizer;
    await Promise.all(rangesOf(units, pool2.threads).map((ranges) => pool2.run("roundMatrices", { ranges, grid })));
  }
};
function inSharedMemory({ cherries, columnScales }, name) {
  const own = cherries.get(name);
  const scales = columnScales.get(name);
  if (!own) return { scales: scales && sharedCopy(scales) };
  const columns = new Uint32Array(sharedBytes(own.columns.byteLength).buffer);
  columns.set(own.columns);
  return { cherries: { ...own, columns }, scales: scales && sharedCopy(scales) };
}

// batch-jobs/src/training/host-weights.ts
var keptQuantizedBytes = 512 * 1024 * 1024;
var HostWeights = class {
  /** @param latent in shared memory; those that are trained are changed in place by `update` */
  constructor(config, latent, quantizer, keptBytes = keptQuantizedBytes) {
    this.latent = latent;
    this.quantized = quantizer && new QuantizedBlocks(config, latent, quantizer, keptBytes);
  }
  latent;
  trained = /* @__PURE__ */ new Map();
  quantized;
  /** Gradients that this step has brought so far: the first sets the sum, the others are added. */
  brought = /* @__PURE__ */ new Set();
  /** Sets which tensors are trained, by name, and begins a step; gradients of others are passed over. */
  train(tensors) {
    this.trained = new Map([...tensors].map(([name, own]) => [name, { ...own, weight: this.weight(name) }]));
    this.brought.clear();
  }
  /** A tensor as the forward pass sees it; a quantized one stays as it is until a matrix of another block is read. */
  async read(name) {
    return await this.quantized?.read(name) ?? this.weight(name);
  }
  addGradient(name, gradient) {
    const sum6 = this.trained.get(name)?.gradient;
    if (!sum6) return;
    if (!this.brought.has(name)) {
      sum6.set(gradient);
      this.brought.add(name);
    } else for (let i = 0; i < sum6.length; i++) sum6[i] += gradient[i];
  }
  /** Forgets the gradients brought so far. */
  discardGradients() {
    this.brought.clear();
  }
  /** Norm of all gradients of the step together.  @throws Error when a trained tensor has none */
  async gradientNorm() {
    for (const name of this.trained.keys()) if (!this.brought.has(name)) throw new Error(`no gradient of ${name}`);
    const arrays = [...this.trained.values()].map(({ gradient }) => gradient);
    const pool2 = hostPool();
    const shares = divide(
      arrays.map((array) => ({ item: array, size: array.length })),
      pool2.threads
    );
    const sums = /* @__PURE__ */ new Map();
    await Promise.all(
      shares.map(async (share) => {
        const part = await pool2.run("squareSums", share);
        share.forEach((array, index) => sums.set(array, part[index]));
      })
    );
    return Math.sqrt(arrays.reduce((sum6, array) => sum6 + sums.get(array), 0));
  }
  /** Takes an AdamW step with the gradients brought, and begins the next step. */
  async update(adamW) {
    const pool2 = hostPool();
    const units = [...this.trained.values()].map((tensor2) => ({ tensor: tensor2, units: tensor2.weight.length, size: 1 }));
    await Promise.all(rangesOf(units, pool2.threads).map((ranges) => pool2.run("updateWeights", { ranges, adamW })));
    this.quantized?.forget();
    this.brought.clear();
  }
  /** The first tensor, in the order of the backward pass, whose gradient has a value that is not finite. */
  firstNotFinite() {
    const isNotFinite = (value) => !Number.isFinite(value);
    const tensor2 = [...this.brought].find((name) => this.trained.get(name)?.gradient.some(isNotFinite));
    if (tensor2 === void 0) return void 0;
    const [, block] = /^model\.layers\.(\d+)\./.exec(tensor2) ?? [];
    return { block: block === void 0 ? null : Number(block), tensor: tensor2, what: "gradient" };
  }
  weight(name) {
    const weight = this.latent.get(name);
    if (!weight) throw new Error(`the model has no tensor ${name}`);
    return weight;
  }
};

// batch-jobs/src/training/moments.ts
import { randomUUID as randomUUID2 } from "node:crypto";
import { read as readFile, write as writeFile } from "node:fs";
import { open as open2, unlink as unlink2 } from "node:fs/promises";
import { join as join4 } from "node:path";
import { promisify } from "node:util";
var float32InMemory = { dtype: "float32", folder: null };
var momentBytes = { float32: 4, bfloat16: 2 };
var stretchBytes = 2 ** 22;
var readAt = promisify(readFile);
var writeAt = promisify(writeFile);
async function createMoments(lengths, { dtype, folder: folder2 }) {
  if (folder2 === null) {
    const moments2 = new Map([...lengths].map(([name, length]) => [name, momentsInMemory(length, dtype)]));
    return { moments: moments2, close: async () => void 0 };
  }
  const path = join4(folder2, `moments-${randomUUID2()}`);
  const file = await open2(path, "wx+");
  await unlink2(path);
  const moments = /* @__PURE__ */ new Map();
  let end = 0;
  for (const [name, length] of lengths) {
    const bytes = length * momentBytes[dtype];
    moments.set(name, { descriptor: file.fd, dtype, firstAt: end, secondAt: end + bytes });
    end += 2 * bytes;
  }
  try {
    await writeZeros(file, end, folder2);
  } catch (error) {
    await file.close();
    throw error;
  }
  return { moments, close: () => file.close() };
}
async function writeZeros(file, bytes, folder2) {
  const zeros = new Uint8Array(Math.min(bytes, stretchBytes));
  try {
    for (let at2 = 0; at2 < bytes; ) {
      at2 += (await file.write(zeros, 0, Math.min(zeros.length, bytes - at2), at2)).bytesWritten;
    }
  } catch (cause) {
    const { code } = cause;
    if (code !== "ENOSPC" && code !== "EDQUOT") throw cause;
    const advice = 'Free some space, set training.momentsIn to "memory", or training.moments to "bfloat16", which takes half';
    throw new StorageFullError(`No room in ${folder2} for AdamW's moments, ${bytes} bytes. ${advice}.`, { cause });
  }
}
function momentsInMemory(length, dtype = "float32") {
  const zeros = () => {
    const { buffer } = sharedBytes(length * momentBytes[dtype]);
    return dtype === "float32" ? new Float32Array(buffer) : new Uint16Array(buffer);
  };
  return { first: zeros(), second: zeros() };
}

// batch-jobs/src/training/schedule.ts
function learningRateAt(step, settings) {
  const { peak, totalSteps, warmupFraction, floor } = settings;
  const warmup = Math.ceil(totalSteps * warmupFraction);
  if (step < warmup) return peak * (step + 1) / (warmup + 1);
  const progress = (step - warmup) / Math.max(1, totalSteps - warmup);
  const cosine = 0.5 * (1 + Math.cos(Math.PI * progress));
  return peak * (1 - (1 - cosine) * (1 - floor));
}

// batch-jobs/src/training/walk.ts
var leastWalkBytes = 1024 ** 3;
function walkBytes(config) {
  let parameters = 0;
  for (const shape of tensorShapes(config).values()) parameters += shape.reduce((product, size) => product * size, 1);
  return Math.max(leastWalkBytes, parameters);
}
function walkLength(config, tokens) {
  return Math.max(1, Math.floor(walkBytes(config) / (4 * config.numHiddenLayers * config.hiddenSize * tokens)));
}

// batch-jobs/src/training/train.ts
async function createTrainState(weights2, { trainedParameters, moments = float32InMemory } = {}) {
  const isTrained = (name) => trainedParameters?.includes(parameterKindOf(name)) ?? true;
  const trained = [...weights2].filter(([name]) => isTrained(name));
  const store = await createMoments(new Map(trained.map(([name, { length }]) => [name, length])), moments);
  const changed = new Set(trained.map(([name]) => name));
  return { latent: inSharedMemory2(weights2), moments: store.moments, changed, records: [], close: store.close };
}
function inSharedMemory2(weights2) {
  return new Map([...weights2].map(([name, weight]) => [name, isShared(weight) ? weight : sharedCopy(weight)]));
}
var Trainer = class {
  constructor(options, state2) {
    this.options = options;
    this.state = state2;
    this.weights = new HostWeights(options.config, state2.latent, options.quantizer);
    const arrays = [...state2.moments].map(([name, moments]) => {
      const { length } = state2.latent.get(name);
      return [name, { moments, gradient: sharedFloat32(length) }];
    });
    this.weights.train(new Map(arrays));
    this.decoder = new Decoder(options.config, this.weights);
    this.teacher = options.teacher && new Decoder(options.config, options.teacher);
  }
  options;
  state;
  weights;
  decoder;
  teacher;
  /** Steps done so far. */
  get step() {
    return this.state.records.length;
  }
  /**
   * One optimizer step.  @throws DivergedError when the loss or the gradient is not finite; the state is then as it was
   * before the step
   */
  async advance() {
    const { options, step } = this;
    const { batchSize } = options;
    const windows2 = Array.from({ length: batchSize }, (_, i) => options.windowAt(step * batchSize + i));
    const length = windows2[0].length;
    const predicted = batchSize * (length - 1);
    const parts = partsOf(windows2, Math.max(1, Math.floor(tokensAtOnce / length)));
    this.weights.discardGradients();
    let loss2 = 0;
    for (const walk of partsOf(parts, walkLength(options.config, parts[0].length * length))) {
      loss2 += await this.decoder.lossAndGradients(walk, {
        gradientScale: 1 / predicted,
        reduction: "sum",
        consume: (name, gradient) => this.weights.addGradient(name, gradient),
        teacher: this.teacher
      });
    }
    loss2 /= predicted;
    const norm = await this.weights.gradientNorm();
    if (!Number.isFinite(loss2) || !Number.isFinite(norm)) throw await this.divergence(loss2, norm, parts);
    const record = { step: step + 1, loss: loss2, ...await takeStep(this.weights, options, norm, step) };
    this.state.records.push(record);
    return record;
  }
  async divergence(loss2, norm, parts) {
    const found = await this.decoder.firstNotFinite(parts) ?? this.weights.firstNotFinite() ?? null;
    return divergedError(found, this.step + 1, loss2, norm, this.options.schedule.peak);
  }
};
function divergedError(found, step, loss2, norm, peak) {
  const block = found === null || found.block === null ? "" : ` in block ${found.block}`;
  const place = found === null ? "" : `${block}: the ${found.what} of ${found.tensor} is not finite`;
  const message = `Training diverged at step ${step}${place} (loss ${loss2}, gradient norm ${norm}). The checkpoint before is kept. A lower training.learningRate than ${peak} usually mends this.`;
  return new DivergedError(message, step, found?.block ?? null, found?.tensor ?? null);
}
async function takeStep(weights2, { schedule, adamW, maxGradNorm }, gradientNorm, step) {
  const learningRate = learningRateAt(step, schedule);
  await weights2.update(adamWConstants(adamW, learningRate, clippingScale(gradientNorm, maxGradNorm), step + 1));
  return { learningRate, gradientNorm };
}

// batch-jobs/src/training/impact.ts
import * as tf16 from "@tensorflow/tfjs-core";
var mostWindows2 = 8;
function createImpactSums(config) {
  const squares = /* @__PURE__ */ new Map();
  const inputs = /* @__PURE__ */ new Map();
  for (const [name, [rows, columns]] of tensorShapes(config)) {
    if (!isLinear(name)) continue;
    squares.set(name, new Float32Array(rows * columns));
    inputs.set(name, { magnitudes: new Float64Array(columns), squares: new Float64Array(columns) });
  }
  return { windows: 0, squares, inputs };
}
async function sumImpact({ config, weights: weights2, windows: windows2, onWalk, ...from }) {
  const sums = from.sums ?? createImpactSums(config);
  const decoder = new Decoder(config, weights2);
  const { length } = windows2[0];
  const windowsAtOnce = Math.max(1, Math.floor(tokensAtOnce / length));
  const windowsInWalk = Math.max(windowsAtOnce, Math.min(mostWindows2, walkLength(config, length)));
  for (const walk of partsOf(windows2.slice(sums.windows), windowsInWalk)) {
    await decoder.lossAndGradients(partsOf(walk, windowsAtOnce), {
      gradientScale: length / (length - 1),
      reduction: "sumOfSquares",
      observe: inputObserver(sums.inputs),
      consume: (name, squares) => {
        const sum6 = sums.squares.get(name);
        if (sum6 && !addFinite(sum6, squares)) throw notFinite(name, sums.windows, sums.windows + walk.length);
      }
    });
    sums.windows += walk.length;
    await onWalk?.(sums);
  }
  return sums;
}
function addFinite(sum6, squares) {
  let total = 0;
  for (let i = 0; i < sum6.length; i++) {
    sum6[i] += squares[i];
    total += squares[i];
  }
  return Number.isFinite(total);
}
function notFinite(name, from, until) {
  return new InputError(
    "impact_not_finite",
    `The gradient of "${name}" is not finite on calibration windows ${from + 1} to ${until}: the model overflows float32 there. Check that its weights and config.json belong together and that \`cherryq eval\` gives it a finite perplexity.`,
    name
  );
}
function inputObserver(sums) {
  let last = null;
  return (name, inputs) => {
    if (last?.id !== inputs.id) {
      const both = tf16.tidy(() => tf16.stack([tf16.sum(tf16.abs(inputs), 0), tf16.sum(tf16.square(inputs), 0)]));
      last = { id: inputs.id, values: both.dataSync() };
      both.dispose();
    }
    const { values } = last;
    const own = sums.get(name);
    if (!own) return;
    const columns = own.magnitudes.length;
    for (let column = 0; column < columns; column++) {
      own.magnitudes[column] += values[column];
      own.squares[column] += values[columns + column];
    }
  };
}

// ../../tmp/d/rss.ts
var get = (k) => Math.round(Number(new RegExp(`^${k}:\\s+(\\d+) kB`, "m").exec(readFileSync5("/proc/self/status", "utf8"))[1]) / 1024);
var say = (w) => {
  const m = process.memoryUsage();
  console.log(w.padEnd(28), "rss", get("VmRSS"), "peak", get("VmHWM"), "heap", m.heapTotal >> 20, "ab", m.arrayBuffers >> 20, "ext", m.external >> 20);
  writeFileSync("/proc/self/clear_refs", "5");
};
var [, , folder, what] = process.argv;
say("start");
await openEngine(process.env.CHERRYQ_ENGINE);
say("engine");
hostPool();
await hostPool().run("squareSums", [new Float32Array(3)]);
say("pool");
var model = await openModel(new FolderStore(folder), "model/");
var weights = await readAllWeights(model);
say("weights");
var windows = Array.from({ length: 8 }, (_, k) => Int32Array.from({ length: 256 }, (_2, i) => (i * 7919 + k * 131) % model.config.vocabSize));
if (what !== "steps") {
  await sumImpact({ config: model.config, weights: { read: (n) => weights.get(n) }, windows });
  say("impact");
  globalThis.gc?.();
  say("gc");
}
if (what === "impact") process.exit(0);
var state = await createTrainState(weights);
say("state");
var tr = new Trainer({ config: model.config, quantizer: { grid: { bits: 3, groupSize: 128, levels: "midRise", aligned: false }, cherries: /* @__PURE__ */ new Map(), columnScales: /* @__PURE__ */ new Map() }, teacher: null, schedule: { peak: 1e-4, totalSteps: 10, warmupFraction: 0, floor: 1 }, adamW: { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0 }, maxGradNorm: 1, batchSize: 8, windowAt: (i) => windows[i % 8] }, state);
say("trainer");
for (let i = 0; i < 3; i++) {
  await tr.advance();
  say("step");
}
globalThis.gc?.();
say("gc");
process.exit(0);
