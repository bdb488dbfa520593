/**
 * What the native engine is made of, each part pinned by version and hash. The sources of the addon come from npm, the C
 * library it is linked against from the TensorFlow wheel on PyPI (the way of tensorflow/java, `scripts/dist_download.sh`).
 * docs/engine.md has the table of the versions that were tried.
 */

export const engineKinds = ['cpu', 'gpu'] as const;
export type EngineKind = (typeof engineKinds)[number];

/** A package of the npm registry; `integrity` is the registry's own form, `sha512-<base64>`. */
export interface NpmRelease {
  readonly name: string;
  readonly version: string;
  readonly integrity: string;
}

/** A wheel of PyPI. */
export interface WheelRelease {
  readonly project: string;
  readonly version: string;
  readonly sha256: string;
  readonly sizeBytes: number;
  /** Paths inside the wheel that are unpacked; `*` stands for anything, slashes too. */
  readonly wanted: readonly string[];
}

export interface EngineRelease {
  readonly kind: EngineKind;
  /** The TensorFlow version, as its C library states it. */
  readonly tensorflow: string;
  readonly wheels: readonly WheelRelease[];
  /** Disk taken while it is made: downloads, unpacked files, margin. */
  readonly neededBytes: number;
}

export const tfjsNode: NpmRelease = {
  name: '@tensorflow/tfjs-node',
  version: '4.22.0',
  integrity: 'sha512-uHrXeUlfgkMxTZqHkESSV7zSdKdV0LlsBeblqkuKU9nnfxB1pC6DtoyYVaLxznzZy7WQSegjcohxxCjAf6Dc7w==',
};

/** The C headers of Node-API, which are the same for every Node.js. */
export const nodeHeaders: NpmRelease = {
  name: 'node-api-headers',
  version: '1.9.0',
  integrity: 'sha512-2oNILP4jXwRB4ywnYKjVk1YyJ96n2D4EOVJO6S3oYZ5PtbJrw3Yt9TpAuX3nBLMuzn74rnfGQrv13pS9vC+YiA==',
};

/** The libraries, the headers of the C API (to compile with), the licenses. */
const ofTensorFlow = [
  'tensorflow/libtensorflow_cc.so.2',
  'tensorflow/libtensorflow_framework.so.2',
  'tensorflow/include/tensorflow/c/*.h',
  'tensorflow/include/tensorflow/core/platform/ctstring*.h',
  'tensorflow/include/*tsl/c/*.h',
  'tensorflow/include/*tsl/platform/ctstring*.h',
  'tensorflow/THIRD_PARTY_NOTICES.txt',
  '*.dist-info/LICENSE',
];

const nvidia = (project: string, version: string, sizeBytes: number, sha256: string): WheelRelease => ({
  project,
  version,
  sha256,
  sizeBytes,
  wanted: ['nvidia/*/lib/*.so*', '*.dist-info/*License.txt'],
});

export const releases: Record<EngineKind, EngineRelease> = {
  cpu: {
    kind: 'cpu',
    tensorflow: '2.15.1',
    wheels: [
      {
        project: 'tensorflow_cpu',
        version: '2.15.1',
        sha256: '54660c074d7241a503e81edfd9f5ef5af88f64051b72e2945f26318c790f2d26',
        sizeBytes: 207_208_420,
        wanted: ofTensorFlow,
      },
    ],
    neededBytes: 1_000_000_000,
  },
  gpu: {
    kind: 'gpu',
    // Machine code for 6.0, 7.0, 8.0, 8.9 and 9.0: T4 runs that of 7.0, A10G that of 8.0.
    tensorflow: '2.19.1',
    wheels: [
      {
        project: 'tensorflow',
        version: '2.19.1',
        sha256: '8e5524eb492160576e5eeea9bb472ddc653123503f2290f83123d5ac9545750e',
        sizeBytes: 644_896_980,
        wanted: ofTensorFlow,
      },
      // The versions of the wheel's own extra `and-cuda`, less NCCL (several GPUs) and nvcc (compiles at run time for XLA).
      nvidia(
        'nvidia-cublas-cu12',
        '12.5.3.2',
        363_313_169,
        'ca070ad70e9fa6654084575d01bd001f30cc4665e33d4bb9fc8e0f321caa034b',
      ),
      nvidia(
        'nvidia-cuda-cupti-cu12',
        '12.5.82',
        13_811_507,
        'bde77a5feb66752ec61db2adfe47f56b941842825b4c7e2068aff27c9d107953',
      ),
      nvidia(
        'nvidia-cuda-nvrtc-cu12',
        '12.5.82',
        24_873_108,
        '3dbd97b0104b4bfbc3c4f8c79cd2496307c89c43c29a9f83125f1d76296ff3fd',
      ),
      nvidia(
        'nvidia-cuda-runtime-cu12',
        '12.5.82',
        895_707,
        '3e79a060e126df40fd3a068f3f787eb000fa51b251ec6cd97d09579632687115',
      ),
      nvidia(
        'nvidia-cudnn-cu12',
        '9.3.0.75',
        577_163_502,
        '9ad9c6929ebb5295eb4a1728024666d1c88283373e265a0c5c883e6f9d5cd76d',
      ),
      nvidia(
        'nvidia-cufft-cu12',
        '11.2.3.61',
        192_524_114,
        '9a6e8df162585750f61983a638104a48c756aa13f9f48e19ab079b38e3c828b8',
      ),
      nvidia(
        'nvidia-curand-cu12',
        '10.3.6.82',
        56_309_107,
        '2823fb27de4e44dbb22394a6adf53aa6e1b013aca0f8c22867d1cfae58405536',
      ),
      nvidia(
        'nvidia-cusolver-cu12',
        '11.6.3.83',
        130_341_232,
        '93cfafacde4428b71778eeb092ec615a02a3d05404da1bcf91c53e3fa1bce42b',
      ),
      nvidia(
        'nvidia-cusparse-cu12',
        '12.5.1.3',
        217_558_979,
        '016df8e993c437e8301e62739f01775cba988fd5253cd4c64173f8e8d2f8e752',
      ),
      nvidia(
        'nvidia-nvjitlink-cu12',
        '12.5.82',
        21_298_879,
        'f9b37bc5c8cf7509665cb6ada5aaa0ce65618f2332b7d3e78e9790511f111212',
      ),
    ],
    neededBytes: 7_500_000_000,
  },
};

/** The npm package that brings an engine ready made. */
export const platformPackage = (kind: EngineKind): string => `@cherryq/engine-linux-x64${kind === 'gpu' ? '-gpu' : ''}`;

/** The command that makes an engine, or makes it anew. */
export const installCommand = (kind: EngineKind, anew = false): string =>
  `cherryq engine install${kind === 'gpu' ? ' --gpu' : ''}${anew ? ' --force' : ''}`;
