/**
 * `cherryq doctor`: what this machine gives the trainer, which engine it takes and why, how fast that is, and what to do
 * about what is missing. Speed is stated beside NumPy's on the same threads, where a Python with NumPy is at hand: the two
 * take turns, so that a machine whose speed changes changes both.
 */
import * as tf from '@tensorflow/tfjs-core';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { availableParallelism, cpus, freemem, totalmem } from 'node:os';
import { dirname, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { InputError } from '../errors.ts';
import { openEngine } from './engine.ts';
import type { EngineName } from 'cherryq/contract';
import type { Engine } from './engine.ts';
import { runProgram } from './native/command.ts';
import { damagedFiles, readEngineFolder } from './native/folder.ts';
import { findNative } from './native/load.ts';
import { hardwareFailure } from './native/platform.ts';
import { installCommand } from './native/releases.ts';
import type { EngineKind } from './native/releases.ts';

export interface Diagnosis {
  /** False when something is there and does not work; an engine that is not installed is no fault. */
  readonly healthy: boolean;
  /** One sentence for each fault, with what mends it. */
  readonly faults: string[];
  readonly node: { version: string; supported: boolean };
  readonly machine: {
    platform: string;
    processor: string;
    /** Cores that this process may use. */
    cores: number;
    /** Of those that engines make use of. */
    instructionSets: string[];
    memoryBytes: number;
    freeMemoryBytes: number;
  };
  /** Where models and jobs are kept. */
  readonly store: { folder: string; freeBytes: number };
  readonly gpus: { name: string; driver: string; memoryBytes: number; computeCapability: string }[];
  readonly engines: EngineState[];
  /** The one that jobs are run on; null when none can be opened. */
  readonly engine: Engine | null;
  readonly speed: Speed[];
  /** The peer, or why there is none. */
  readonly numpy: { version: string; threads: number } | { absent: string };
}

export interface EngineState {
  readonly name: EngineName;
  readonly state: 'in use' | 'present' | 'absent' | 'broken';
  readonly detail: string;
  /** Command that makes or mends it; null when nothing is to be done, or nothing can be. */
  readonly mend: string | null;
}

export interface Speed {
  readonly name: string;
  readonly unit: 'GFLOP/s' | 'GB/s';
  /** Medians of the rounds. */
  readonly ours: number;
  readonly numpy: number | null;
  /** ours / numpy, the median over the rounds, in each of which both were measured. */
  readonly ratio: number | null;
}

export interface DoctorOptions {
  readonly storeFolder: string;
  readonly environment?: NodeJS.ProcessEnv;
  /** Each case is measured that often; 0 measures nothing. */
  readonly rounds?: number;
  readonly onProgress?: (done: number, total: number) => void;
}

const instructionSets = ['avx', 'avx2', 'fma', 'avx512f', 'avx512_vnni', 'amx_tile'];
const minimalNode = [20, 19] as const;

export async function diagnose(options: DoctorOptions): Promise<Diagnosis> {
  const { environment = process.env, rounds = 5, onProgress = () => undefined } = options;
  const faults: string[] = [];
  const [major, minor] = process.versions.node.split('.').map(Number);
  const supported = major > minimalNode[0] || (major === minimalNode[0] && minor >= minimalNode[1]);
  if (!supported)
    faults.push(`Node.js ${process.versions.node} is too old: install ${minimalNode.join('.')} or newer.`);
  const gpus = await findGpus();
  let engine: Engine | null = null;
  try {
    engine = await openEngine(environment.CHERRYQ_ENGINE);
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    faults.push(error.message);
  }
  const engines: EngineState[] = [
    await nativeState('gpu', engine),
    await nativeState('native', engine),
    wasmState(engine),
    { name: 'cpu', state: stateOf('cpu', engine), detail: 'plain JavaScript, comes with npm', mend: null },
  ];
  for (const { name, state, detail } of engines)
    if (state === 'broken' && !faults.some((fault) => fault.includes(detail)))
      faults.push(`The engine ${name} is broken: ${detail}.`);

  const threads = engine?.native?.threads ?? availableParallelism();
  const peer =
    engine === null || rounds === 0 ? { absent: 'nothing was measured' } : await openNumpy(environment, threads);
  const speed = engine === null ? [] : await measure('absent' in peer ? null : peer, rounds, onProgress);
  if (!('absent' in peer)) await peer.close();
  return {
    healthy: faults.length === 0,
    faults,
    node: { version: process.versions.node, supported },
    machine: {
      platform: `${process.platform} ${process.arch}`,
      processor: cpus()[0]?.model ?? 'unknown',
      cores: availableParallelism(),
      instructionSets: presentInstructionSets(),
      memoryBytes: totalmem(),
      freeMemoryBytes: freemem(),
    },
    store: await freeSpace(options.storeFolder),
    gpus,
    engines,
    engine,
    speed,
    numpy: 'absent' in peer ? peer : { version: peer.version, threads },
  };
}

function stateOf(name: EngineName, engine: Engine | null): EngineState['state'] {
  return engine?.name === name ? 'in use' : 'present';
}

async function nativeState(name: 'gpu' | 'native', engine: Engine | null): Promise<EngineState> {
  const kind: EngineKind = name === 'gpu' ? 'gpu' : 'cpu';
  const hardware = hardwareFailure(kind);
  const found = findNative(kind);
  const broken = (detail: string): EngineState => ({ name, state: 'broken', detail, mend: installCommand(kind, true) });
  if ('failure' in found) {
    if (found.broken) return broken(found.failure);
    const can = hardware === null && found.failure.includes(installCommand(kind));
    return { name, state: 'absent', detail: hardware ?? found.failure, mend: can ? installCommand(kind) : null };
  }
  if (found.folder !== null) {
    const read = readEngineFolder(found.folder, found.build);
    const damaged = read.state === 'whole' ? await damagedFiles(found.folder, read.manifest) : [];
    if (damaged.length > 0)
      return broken(
        `${damaged.join(', ')} in ${found.folder} is not what was installed; mend it with \`${installCommand(kind, true)}\``,
      );
  }
  const where = found.folder ?? 'the installed @tensorflow/tfjs-node';
  if (engine?.name === name) return { name, state: 'in use', detail: where, mend: null };
  if (hardware !== null) return { name, state: 'absent', detail: hardware, mend: null };
  const passedOver = engine?.passedOver.find((each) => each.name === name);
  return passedOver ? broken(passedOver.failure) : { name, state: 'present', detail: where, mend: null };
}

/** The smallest module with an instruction of WebAssembly SIMD (github.com/GoogleChromeLabs/wasm-feature-detect). */
const simdModule = Uint8Array.of(
  ...[0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11],
);

function wasmState(engine: Engine | null): EngineState {
  const simd = WebAssembly.validate(simdModule) ? 'with SIMD' : 'without SIMD';
  return { name: 'wasm', state: stateOf('wasm', engine), detail: `WebAssembly ${simd}, comes with npm`, mend: null };
}

function presentInstructionSets(): string[] {
  const info = existsSync('/proc/cpuinfo') ? readFileSync('/proc/cpuinfo', 'utf8') : '';
  const flags = new Set(/^flags\s*:(.*)$/m.exec(info)?.[1].split(/\s+/));
  return instructionSets.filter((name) => flags.has(name));
}

async function freeSpace(folder: string): Promise<Diagnosis['store']> {
  const wanted = resolve(folder);
  let existing = wanted;
  while (!existsSync(existing)) existing = dirname(existing);
  const { bavail, bsize } = await statfs(existing);
  return { folder: wanted, freeBytes: bavail * bsize };
}

async function findGpus(): Promise<Diagnosis['gpus']> {
  const query = ['--query-gpu=name,driver_version,memory.total,compute_cap', '--format=csv,noheader,nounits'];
  const { exitCode, stdout } = await runProgram('nvidia-smi', query);
  if (exitCode !== 0) return [];
  return stdout
    .trim()
    .split('\n')
    .map((line) => {
      const [name, driver, mebibytes, computeCapability] = line.split(',').map((cell) => cell.trim());
      return { name, driver, memoryBytes: Number(mebibytes) * 2 ** 20, computeCapability };
    });
}

interface Case {
  readonly name: string;
  readonly unit: Speed['unit'];
  /** Floating-point operations, or bytes moved. */
  readonly amount: number;
  readonly a: number[];
  readonly b: number[];
  run(a: tf.Tensor, b: tf.Tensor): tf.Tensor;
  /** The same in Python, on arrays `a` and `b` and into `c`. */
  readonly python: string;
}

const side = 1024;
const product = (name: string, transposeA: boolean, transposeB: boolean): Case => ({
  name,
  unit: 'GFLOP/s',
  amount: 2 * side ** 3,
  a: [side, side],
  b: [side, side],
  run: (a, b) => tf.matMul(a, b, transposeA, transposeB),
  python: `numpy.matmul(a${transposeA ? '.T' : ''}, b${transposeB ? '.T' : ''})`,
});

const cases: readonly Case[] = [
  product('product of 1024 x 1024', false, false),
  product('first operand transposed', true, false),
  product('second operand transposed', false, true),
  {
    name: '64 products [256, 64] x [64, 256]',
    unit: 'GFLOP/s',
    amount: 64 * 2 * 256 * 64 * 256,
    a: [64, 256, 64],
    b: [64, 64, 256],
    run: (a, b) => tf.matMul(a, b),
    python: 'numpy.matmul(a, b)',
  },
  {
    name: 'addition of 16 million',
    unit: 'GB/s',
    amount: 3 * 4 * 2 ** 24,
    a: [2 ** 24],
    b: [2 ** 24],
    run: (a, b) => tf.add(a, b),
    python: 'numpy.add(a, b)',
  },
];

const sampleMs = 200;
/** A case that takes longer than this, all rounds together, is cut short. */
const caseMs = 4000;
/** After a product, the threads of both engines wait busily for the next for a while, and would slow the other's. */
const pauseMs = 60;

async function measure(
  peer: NumpyPeer | null,
  rounds: number,
  onProgress: (done: number, total: number) => void,
): Promise<Speed[]> {
  const results: Speed[] = [];
  for (const [index, each] of cases.entries()) {
    if (rounds === 0) break;
    const a = tf.randomUniform(each.a, -1, 1);
    const b = tf.randomUniform(each.b, -1, 1);
    const ours: number[] = [];
    const theirs: number[] = [];
    const began = performance.now();
    await peer?.prepare(index);
    timeOnce(each, a, b, 1);
    for (let round = 0; round < rounds && (round === 0 || performance.now() - began < caseMs); round++) {
      ours.push(rateOf(each, a, b));
      await sleep(pauseMs);
      if (peer) theirs.push(each.amount / (await peer.seconds(index)) / 1e9);
      await sleep(pauseMs);
      onProgress(index * rounds + round + 1, cases.length * rounds);
    }
    tf.dispose([a, b]);
    results.push({
      name: each.name,
      unit: each.unit,
      ours: median(ours),
      numpy: peer ? median(theirs) : null,
      ratio: peer ? median(ours.map((rate, i) => rate / theirs[i])) : null,
    });
  }
  return results;
}

/** Repeats a case for about `sampleMs`.  @returns 1e9 operations or bytes a second */
function rateOf(each: Case, a: tf.Tensor, b: tf.Tensor): number {
  const once = timeOnce(each, a, b, 1);
  const repeats = Math.max(1, Math.ceil(sampleMs / 1000 / once));
  return (each.amount * repeats) / timeOnce(each, a, b, repeats) / 1e9;
}

/** @returns seconds of that many repeats, until the last result is there: a GPU works behind the program's back */
function timeOnce(each: Case, a: tf.Tensor, b: tf.Tensor, repeats: number): number {
  const began = performance.now();
  for (let i = 0; i < repeats; i++) {
    const result = each.run(a, b);
    if (i === repeats - 1) tf.tidy(() => tf.slice(tf.reshape(result, [-1]), 0, 1).dataSync());
    result.dispose();
  }
  return (performance.now() - began) / 1000;
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((x, y) => x - y);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

interface NumpyPeer {
  readonly version: string;
  prepare(index: number): Promise<void>;
  /** Of one run of a case. */
  seconds(index: number): Promise<number>;
  close(): Promise<void>;
}

/** Answers one line for each line it reads, so that it works only when asked. */
const numpyProgram = `
import sys, time, numpy
random = numpy.random.default_rng(7)
draw = lambda *shape: random.uniform(-1, 1, shape).astype(numpy.float32)
cases = [
${cases.map(({ a, b, python }) => `    (${pythonTuple(a)}, ${pythonTuple(b)}, lambda a, b: ${python}),`).join('\n')}
]
print(numpy.__version__, flush=True)
for line in sys.stdin:
    command, index = line.split()
    shape_a, shape_b, run = cases[int(index)]
    if command == 'prepare':
        a, b = draw(*shape_a), draw(*shape_b)
        run(a, b)
        print('ready', flush=True)
        continue
    began = time.perf_counter()
    run(a, b)
    repeats = max(1, int(${sampleMs / 1000} / (time.perf_counter() - began)))
    began = time.perf_counter()
    for _ in range(repeats):
        run(a, b)
    print((time.perf_counter() - began) / repeats, flush=True)
`;

function pythonTuple(shape: readonly number[]): string {
  return `(${shape.join(', ')},)`;
}

async function openNumpy(environment: NodeJS.ProcessEnv, threads: number): Promise<NumpyPeer | { absent: string }> {
  const candidates = environment.CHERRYQ_PYTHON ? [environment.CHERRYQ_PYTHON] : ['python3', 'python'];
  for (const python of candidates) {
    const { exitCode } = await runProgram(python, ['-c', 'import numpy'], { env: environment });
    if (exitCode === 0) return startNumpy(python, environment, threads);
  }
  return { absent: `no Python with NumPy (looked for ${candidates.join(', ')}; CHERRYQ_PYTHON names another)` };
}

async function startNumpy(python: string, environment: NodeJS.ProcessEnv, threads: number): Promise<NumpyPeer> {
  const names = ['OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS', 'BLIS_NUM_THREADS'];
  const limits = Object.fromEntries(names.map((name) => [name, String(threads)]));
  const child = spawn(python, ['-u', '-c', numpyProgram], {
    env: { ...environment, ...limits },
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const answer = async (): Promise<string> => {
    const { value, done } = await lines.next();
    if (done) throw new Error(`${python} ended while NumPy was measured`);
    return value;
  };
  const ask = (command: string): Promise<string> => {
    child.stdin.write(`${command}\n`);
    return answer();
  };
  return {
    version: await answer(),
    prepare: async (index) => void (await ask(`prepare ${index}`)),
    seconds: async (index) => Number(await ask(`measure ${index}`)),
    async close() {
      const exit = once(child, 'exit');
      child.stdin.end();
      await exit;
    },
  };
}
