// Compiles the WebAssembly kernels that changed, then bundles every package's entry points from TypeScript into dist/ with
// esbuild (about a second), the workspace's own packages compiled in, everything from node_modules left out; then the SDK's
// type declarations when `--types` is given.
import asc from 'assemblyscript/asc';
import { build } from 'esbuild';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';

await compileKernels('batch-jobs/kernels', 'batch-jobs/kernels/build');

const shared = {
  bundle: true,
  platform: 'node',
  format: 'esm',
  target: 'node20',
  sourcemap: true,
  logLevel: 'warning',
  packages: 'external',
  tsconfig: 'tsconfig.json',
};

// A workspace package imported by its name stays an import between packages, except the contract, which is compiled in.
const ownPackages = [
  '@cherryq/api/estimates',
  '@cherryq/api/machines',
  '@cherryq/api/serve',
  '@cherryq/batch-jobs',
  '@cherryq/batch-jobs/storage',
  '@cherryq/batch-jobs/planning',
  'cherryq',
  'cherryq/node',
];

/** These have no place in the SDK's dependencies (it has none), so it carries them, with their licenses. */
const carried = ['citty', '@noble/hashes'];

const entries = [
  {
    outdir: 'sdk/dist',
    entryPoints: ['sdk/src/index.ts', 'sdk/src/node.ts', 'sdk/src/contract/index.ts', 'sdk/src/cli/main.ts'],
    outbase: 'sdk/src',
  },
  {
    outdir: 'batch-jobs/dist',
    entryPoints: [
      'batch-jobs/src/index.ts',
      'batch-jobs/src/main.ts',
      'batch-jobs/src/storage/index.ts',
      'batch-jobs/src/planning.ts',
      'batch-jobs/src/numeric/host-worker.ts',
    ],
    outbase: 'batch-jobs/src',
  },
  {
    outdir: 'batch-jobs/bench/dist',
    entryPoints: [
      'main.ts',
      'worker.ts',
      'stream-worker.ts',
      'memory.ts',
      'memory-worker.ts',
      'peers/stock-trainer.ts',
    ].map((file) => `batch-jobs/bench/${file}`),
    outbase: 'batch-jobs/bench',
  },
  {
    outdir: 'api/dist',
    entryPoints: ['serve', 'machines', 'estimates'].map((name) => `api/src/${name}.ts`),
    outbase: 'api/src',
  },
  {
    outdir: 'api/bench/dist',
    entryPoints: ['api/bench/load.ts', 'api/bench/load-server.ts', 'api/bench/cold-start.ts'],
    outbase: 'api/bench',
  },
  {
    outdir: 'demo/dist',
    entryPoints: ['demo/run.ts', 'demo/make-model/prepare.ts', 'demo/make-model/make.ts'],
    outbase: 'demo',
  },
  { outdir: 'study/dist', entryPoints: ['study/main.ts'], outbase: 'study' },
];

for (const { outdir, entryPoints, outbase } of entries) {
  const present = entryPoints.filter((entry) => existsSync(entry));
  rmSync(outdir, { recursive: true, force: true });
  if (present.length === 0) continue;
  await build({
    ...shared,
    entryPoints: present,
    outdir,
    outbase,
    splitting: true,
    packages: undefined,
    plugins: [
      {
        name: 'externals',
        setup(builder) {
          // The contract is the workspace's own source; every other bare import is resolved at run time.
          builder.onResolve({ filter: /^[^./]/ }, (args) => {
            if (args.path === 'cherryq/contract' || args.kind === 'entry-point') return undefined;
            if (ownPackages.includes(args.path)) return { path: args.path, external: true };
            if (carried.some((name) => args.path === name || args.path.startsWith(`${name}/`))) return undefined;
            // Not in tfjs-core's bundle for Node.js, and not written as a module that Node.js would load.
            if (args.path === '@tensorflow/tfjs-core/dist/register_all_gradients.js') return undefined;
            return { path: args.path, external: true };
          });
        },
      },
    ],
  });
}

const licenses = carried.map((name) => `${name}\n\n${readFileSync(`node_modules/${name}/LICENSE`, 'utf8')}`);
writeFileSync('sdk/dist/THIRD-PARTY-LICENSES.txt', licenses.join('\n\n'));

// The function carries all that it needs in one file, the SDK of AWS in files of their own that are read when they are needed.
if (existsSync('api/src/lambda.ts'))
  await build({
    ...shared,
    entryPoints: ['api/src/lambda.ts'],
    outdir: 'api/dist/lambda',
    splitting: true,
    minify: true,
    sourcemap: false,
    packages: 'bundle',
    // The SDK of AWS as modules, of which only what is used is taken.
    mainFields: ['module', 'main'],
    outExtension: { '.js': '.mjs' },
    // What is CommonJS among the dependencies asks for Node.js's own modules by `require`.
    banner: {
      js: "import { createRequire as makeRequire } from 'node:module'; const require = makeRequire(import.meta.url);",
    },
  });

if (process.argv.includes('--types'))
  execFileSync(process.execPath, ['scripts/sdk-types.mjs', 'sdk/dist/types'], { stdio: 'inherit' });

/** AssemblyScript to WebAssembly with SIMD, one module per file; a module newer than its source is kept. */
async function compileKernels(folder, outFolder) {
  mkdirSync(outFolder, { recursive: true });
  for (const file of readdirSync(folder).filter((name) => name.endsWith('.ts'))) {
    const source = `${folder}/${file}`;
    const target = `${outFolder}/${file.replace(/\.ts$/, '.wasm')}`;
    if (existsSync(target) && statSync(target).mtimeMs > statSync(source).mtimeMs) continue;
    const partial = `${target}.${process.pid}`;
    const options = ['-O3', '--converge', '--noAssert', '--runtime', 'stub', '--enable', 'simd', '--importMemory'];
    const { error, stderr } = await asc.main([source, '-o', partial, ...options, '--noExportMemory']);
    if (error) throw new Error(`${source}: ${error.message}\n${stderr.toString()}`);
    renameSync(partial, target);
  }
}
