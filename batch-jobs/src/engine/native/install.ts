/**
 * Makes the native engine: fetches its parts, compiles the addon, and puts the folder in its place in one rename, so that
 * nothing half-made is ever seen, whatever ends it. Two at once each make their own; the first to finish stays.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { InputError } from '../../errors.ts';
import { lastWords, runProgram } from './command.ts';
import { bindingStep, checkCompiler, compileAddon } from './compile.ts';
import { checkRoom, fetchNpmPackage, fetchWheel, findPip, unpackWheel } from './fetch.ts';
import { bindingFile, describeFiles, engineFolder, engineRoot, manifestFile, readEngineFolder } from './folder.ts';
import type { Manifest } from './folder.ts';
import { unsupportedPlatform } from './platform.ts';
import { nodeHeaders, releases, tfjsNode } from './releases.ts';
import type { EngineKind } from './releases.ts';

export interface InstallOptions {
  readonly kind?: EngineKind;
  /** Makes it anew even when it is there and whole. */
  readonly force?: boolean;
  readonly environment?: NodeJS.ProcessEnv;
  readonly onProgress?: (progress: InstallProgress) => void;
}

export interface InstallProgress {
  readonly step: string;
  /** Null for steps that cannot tell how far they are. */
  readonly doneBytes: number | null;
  readonly totalBytes: number | null;
  readonly bytesPerSecond: number | null;
}

export interface InstalledEngine {
  readonly kind: EngineKind;
  readonly folder: string;
  readonly tfjs: string;
  readonly tensorflow: string;
  readonly sizeBytes: number;
  readonly made: 'nothing' | 'everything';
  readonly seconds: number;
}

/** @throws InputError naming what is missing and how to get it   @throws TransientError without network */
export async function installEngine(options: InstallOptions = {}): Promise<InstalledEngine> {
  const started = performance.now();
  const { kind = 'cpu', force = false, environment = process.env, onProgress = () => undefined } = options;
  const platformFailure = unsupportedPlatform();
  if (platformFailure !== null) throw new InputError('unsupported_platform', platformFailure, 'platform');
  const folder = engineFolder(engineRoot(environment), kind);

  const done = (made: InstalledEngine['made'], { tfjs, tensorflow, files }: Manifest): InstalledEngine => ({
    kind,
    folder,
    tfjs,
    tensorflow,
    sizeBytes: Object.values(files).reduce((sum, file) => sum + file.sizeBytes, 0),
    made,
    seconds: (performance.now() - started) / 1000,
  });

  const found = readEngineFolder(folder, kind);
  if (!force && found.state === 'whole') return done('nothing', found.manifest);
  await checkCompiler(environment);
  const python = await findPip(environment);
  mkdirSync(dirname(folder), { recursive: true });
  removeAbandoned(dirname(folder));
  await checkRoom(dirname(folder), releases[kind].neededBytes);
  const making = join(dirname(folder), `.making-${hostname()}-${process.pid}-${Date.now()}`);
  try {
    const manifest = await makeEngine(kind, making, python, environment, onProgress);
    putInPlace(join(making, 'engine'), folder, making, kind, force);
    return done('everything', manifest);
  } catch (error) {
    throw translated(error);
  } finally {
    rmSync(making, { recursive: true, force: true });
  }
}

async function makeEngine(
  kind: EngineKind,
  making: string,
  python: string,
  environment: NodeJS.ProcessEnv,
  onProgress: NonNullable<InstallOptions['onProgress']>,
): Promise<Manifest> {
  const release = releases[kind];
  const engine = join(making, 'engine');
  const parts = join(making, 'parts');
  for (const path of ['lib', 'licenses', 'tfjs-node/dist/proto']) mkdirSync(join(engine, path), { recursive: true });
  const report = (step: string): void => onProgress({ step, doneBytes: null, totalBytes: null, bytesPerSecond: null });

  report(`fetching ${tfjsNode.name} ${tfjsNode.version} and ${nodeHeaders.name} ${nodeHeaders.version}`);
  const tfjsSources = await fetchNpmPackage(tfjsNode, parts, environment);
  const nodeInclude = join(await fetchNpmPackage(nodeHeaders, parts, environment), 'include');

  for (const wheel of release.wheels) {
    const began = performance.now();
    const file = await fetchWheel(wheel, python, parts, environment, (doneBytes, totalBytes) => {
      const seconds = (performance.now() - began) / 1000;
      const bytesPerSecond = seconds > 0 && doneBytes > 0 ? doneBytes / seconds : null;
      onProgress({ step: `${wheel.project} ${wheel.version}`, doneBytes, totalBytes, bytesPerSecond });
    });
    report(`unpacking ${wheel.project} ${wheel.version}`);
    await unpackWheel(file, wheel, python, join(making, 'unpacked'), environment);
    rmSync(file);
  }
  arrangeWheels(join(making, 'unpacked'), engine);
  arrangeKernels(tfjsSources, join(engine, 'tfjs-node'));

  report('compiling the addon');
  const tensorflowInclude = join(making, 'unpacked', 'tensorflow', 'include');
  await compileAddon(bindingStep(tfjsSources, nodeInclude, tensorflowInclude), engine, environment);
  report('checking that it loads');
  const tensorflow = await loadedVersion(join(engine, bindingFile), environment);
  if (tensorflow !== release.tensorflow)
    throw new Error(`the library states TensorFlow ${tensorflow}, and ${release.tensorflow} was pinned`);
  const manifest: Manifest = {
    format: 1,
    kind,
    tfjs: tfjsNode.version,
    tensorflow,
    platform: 'linux-x64',
    files: await describeFiles(engine),
  };
  writeManifest(engine, manifest);
  return manifest;
}

/** Moves what was unpacked to where the libraries' own search paths expect each other: `lib` and `nvidia` side by side. */
function arrangeWheels(unpacked: string, engine: string): void {
  const tensorflow = join(unpacked, 'tensorflow');
  for (const name of readdirSync(tensorflow).filter((file) => file.includes('.so')))
    renameSync(join(tensorflow, name), join(engine, 'lib', name));
  renameSync(
    join(tensorflow, 'THIRD_PARTY_NOTICES.txt'),
    join(engine, 'licenses', 'TENSORFLOW_THIRD_PARTY_NOTICES.txt'),
  );
  if (existsSync(join(unpacked, 'nvidia'))) renameSync(join(unpacked, 'nvidia'), join(engine, 'nvidia'));
  for (const entry of readdirSync(unpacked, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile() || !/licen[cs]e(\.txt)?$/i.test(entry.name)) continue;
    const project = basename(entry.parentPath.replace(/\.dist-info.*$/, ''));
    renameSync(join(entry.parentPath, entry.name), join(engine, 'licenses', `${project}.txt`));
  }
}

/**
 * Copies tfjs-node's kernels and its backend, nothing else, with two changes: what they take from `@tensorflow/tfjs` and
 * `tfjs-core` they take from the tfjs-core that the process already has (load.ts), and the two functions of `util` that
 * Node.js 23 removed are given to them. The schemas of TensorBoard's files, which need a library more, stay out.
 */
function arrangeKernels(tfjsSources: string, target: string): void {
  const dist = join(tfjsSources, 'dist');
  const kernels = readdirSync(join(dist, 'kernels')).filter(
    (name) => name.endsWith('.js') && !name.endsWith('_test.js'),
  );
  const files = [
    'nodejs_kernel_backend.js',
    'register_all_kernels.js',
    'int64_tensors.js',
    ...kernels.map((name) => `kernels/${name}`),
  ];
  mkdirSync(join(target, 'dist', 'kernels'), { recursive: true });
  for (const file of files) {
    const up = '../'.repeat(file.split('/').length);
    const source = readFileSync(join(dist, file), 'utf8')
      .replaceAll(/require\("@tensorflow\/tfjs(-core)?"\)/g, `require("${up}core.js")`)
      .replaceAll('require("util")', `require("${up}util.js")`);
    writeFileSync(join(target, 'dist', file), source);
  }
  writeFileSync(join(target, 'dist', 'proto', 'api_pb.js'), 'module.exports = {};\n');
  writeFileSync(join(target, 'core.js'), `module.exports = globalThis[Symbol.for("cherryq.tfjs-core")];\n`);
  writeFileSync(
    join(target, 'util.js'),
    'module.exports = { isNullOrUndefined: (value) => value == null, isArray: Array.isArray };\n',
  );
  const { name, version, license } = JSON.parse(readFileSync(join(tfjsSources, 'package.json'), 'utf8')) as Record<
    string,
    string
  >;
  writeFileSync(
    join(target, 'package.json'),
    `${JSON.stringify({ name, version, license, type: 'commonjs' }, null, 2)}\n`,
  );
}

/** @returns the version that the C library states, loaded in a process of its own: a crash must not end this one */
async function loadedVersion(binding: string, environment: NodeJS.ProcessEnv): Promise<string> {
  const program = 'process.stdout.write(`<${require(process.argv[1]).TF_Version}>`)';
  const { stdout, output } = await runProgram(process.execPath, ['-e', program, binding], {
    env: { ...environment, NODE_OPTIONS: '', TF_CPP_MIN_LOG_LEVEL: '3' },
  });
  const version = /<(.+)>$/.exec(stdout)?.[1];
  if (version !== undefined) return version;
  throw new InputError(
    'engine_does_not_load',
    `The engine was made and does not load: ${lastWords(output)}. It needs glibc 2.17 or newer and a processor with AVX.`,
    'platform',
  );
}

function writeManifest(folder: string, manifest: Manifest): void {
  const partial = join(folder, `${manifestFile}.${process.pid}`);
  writeFileSync(partial, `${JSON.stringify(manifest, null, 1)}\n`);
  renameSync(partial, join(folder, manifestFile));
}

/** A whole engine that another process has just put there stays, unless it is to be replaced; a damaged one makes way. */
function putInPlace(made: string, folder: string, making: string, kind: EngineKind, force: boolean): void {
  if (!force && readEngineFolder(folder, kind).state === 'whole') return;
  if (existsSync(folder)) renameSync(folder, join(making, 'replaced'));
  try {
    renameSync(made, folder);
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : null;
    if (code !== 'ENOTEMPTY' && code !== 'EEXIST') throw error;
  }
}

/** Deletes what earlier runs on this machine left when they were killed. */
function removeAbandoned(root: string): void {
  const prefix = `.making-${hostname()}-`;
  for (const name of readdirSync(root).filter((entry) => entry.startsWith(prefix)))
    if (!isRunning(Number(name.slice(prefix.length).split('-')[0])))
      rmSync(join(root, name), { recursive: true, force: true });
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM';
  }
}

/** Errors of the file system that the user can mend. */
function translated(error: unknown): unknown {
  const code = error instanceof Error && 'code' in error ? error.code : null;
  if (code !== 'ENOSPC' && code !== 'EDQUOT' && code !== 'EACCES' && code !== 'EROFS') return error;
  const message = `The engine could not be written: ${(error as Error).message}. Make room or allow writing, or choose another folder with CHERRYQ_ENGINE_DIR.`;
  return new InputError('engine_not_written', message, 'CHERRYQ_ENGINE_DIR', { cause: error });
}
