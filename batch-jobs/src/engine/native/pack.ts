/**
 * Makes the npm package of an installed engine, the way esbuild and node-llama-cpp ship theirs: one package for each
 * platform, told apart by `os`, `cpu` and `libc`, with files only and no script that runs at install.
 */
import { cpSync, mkdtempSync, mkdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { InputError } from '../../errors.ts';
import { version } from '../../version.ts';
import { lastWords, runProgram } from './command.ts';
import { damagedFiles, engineFolder, engineRoot, manifestFile, readEngineFolder } from './folder.ts';
import { installCommand, platformPackage } from './releases.ts';
import type { EngineKind } from './releases.ts';

export interface PackedEngine {
  readonly name: string;
  readonly version: string;
  /** Path of what `npm install` and `npm publish` take. */
  readonly tarball: string;
  readonly sizeBytes: number;
}

/** @param options.output folder of the tarball   @throws InputError when the engine is not installed or not whole */
export async function packEngine(options: {
  kind?: EngineKind;
  output: string;
  environment?: NodeJS.ProcessEnv;
}): Promise<PackedEngine> {
  const { kind = 'cpu', environment = process.env } = options;
  const folder = engineFolder(engineRoot(environment), kind);
  const found = readEngineFolder(folder, kind);
  if (found.state !== 'whole') {
    const reason = found.state === 'damaged' ? found.reason : `not installed: run \`${installCommand(kind)}\` first`;
    throw new InputError('engine_absent', `The engine that is to be packed is ${reason}.`, 'engine');
  }
  const damaged = await damagedFiles(folder, found.manifest);
  if (damaged.length > 0) {
    const advice = `mend it with \`${installCommand(kind, true)}\``;
    throw new InputError(
      'engine_damaged',
      `${damaged.join(', ')} in ${folder} is not what was installed; ${advice}.`,
      folder,
    );
  }
  const output = resolve(options.output);
  mkdirSync(output, { recursive: true });
  // Beside the tarball: the libraries are large, and the system's own temporary folder may be small.
  const staging = mkdtempSync(join(output, '.engine-pack-'));
  try {
    const files = Object.keys(found.manifest.files);
    for (const file of [...files, manifestFile]) {
      mkdirSync(dirname(join(staging, file)), { recursive: true });
      cpSync(join(folder, file), join(staging, file));
    }
    const name = platformPackage(kind);
    const description = `TensorFlow ${found.manifest.tensorflow} for CherryQ on Linux x64${kind === 'gpu' ? ' with NVIDIA GPUs' : ''}`;
    const packageJson = {
      ...{ name, version, description, license: licenseOf(kind) },
      ...{ os: ['linux'], cpu: ['x64'], libc: ['glibc'] },
      // Names that npm leaves out of packages of itself are named here.
      files: [...files, manifestFile],
    };
    writeFileSync(join(staging, 'package.json'), `${JSON.stringify(packageJson, null, 2)}\n`);
    writeFileSync(join(staging, 'README.md'), readme(name, description, kind));
    const packed = await runProgram('npm', ['pack', '--silent', '--ignore-scripts', '--pack-destination', output], {
      cwd: staging,
      env: environment,
    });
    if (packed.exitCode !== 0)
      throw new InputError(
        'pack_failed',
        `npm pack failed: ${packed.missing ? 'npm is not on the PATH' : lastWords(packed.output)}.`,
        'npm',
      );
    const tarball = join(output, packed.stdout.trim().split('\n').at(-1) ?? '');
    return { name, version, tarball, sizeBytes: statSync(tarball).size };
  } finally {
    rmSync(staging, { recursive: true, force: true });
  }
}

/** NVIDIA's libraries come under its own terms, whose text is in the package. */
const licenseOf = (kind: EngineKind): string => (kind === 'gpu' ? 'SEE LICENSE IN licenses' : 'Apache-2.0');

function readme(name: string, description: string, kind: EngineKind): string {
  const nvidia =
    kind === 'gpu' ? " NVIDIA's libraries are under the terms in the files that are named after them." : '';
  return `# ${name}

${description}. It holds files only; \`@cherryq/batch-jobs\` finds it when it is installed beside it.

\`lib\` has TensorFlow's C library as its wheel on PyPI has it, and the addon compiled from the sources of
@tensorflow/tfjs-node; \`tfjs-node\` has that package's kernels. Both are under the Apache License 2.0: the license and
the notices of what TensorFlow contains are in \`licenses\`.${nvidia}
`;
}
