/** Where the native engine can be made, and where it can run. */
import { existsSync, readFileSync } from 'node:fs';
import type { EngineKind } from './releases.ts';

/** @returns null where the native engine can be made, else why not */
export function unsupportedPlatform(
  platform: string = process.platform,
  architecture: string = process.arch,
  glibc: unknown = glibcVersion(),
): string | null {
  const advice = 'Here the WebAssembly engine runs, which needs nothing.';
  if (platform !== 'linux' || architecture !== 'x64')
    return `The native engine is made for Linux on x64, and this is ${platform} on ${architecture}. ${advice}`;
  if (typeof glibc !== 'string')
    return `The native engine needs a Linux with glibc, as TensorFlow's wheels do, and this one has another C library (Alpine?). ${advice}`;
  return null;
}

function glibcVersion(): unknown {
  if (process.platform !== 'linux') return undefined;
  const report = process.report.getReport() as { header?: { glibcVersionRuntime?: string } };
  return report.header?.glibcVersionRuntime;
}

/** @returns null where loading an engine can succeed; without AVX, TensorFlow ends the process */
export function hardwareFailure(
  kind: EngineKind,
  exists: (path: string) => boolean = existsSync,
  cpuInfo: string = readText('/proc/cpuinfo'),
): string | null {
  if (process.platform !== 'linux') return null;
  if (process.arch === 'x64' && cpuInfo !== '' && !/^flags\s*:.*\bavx\b/m.test(cpuInfo))
    return 'the processor has no AVX, which TensorFlow is built for';
  if (kind === 'gpu' && !exists('/dev/nvidiactl') && !exists('/dev/dxg'))
    return 'no NVIDIA GPU (neither /dev/nvidiactl nor /dev/dxg is there)';
  return null;
}

function readText(path: string): string {
  return existsSync(path) ? readFileSync(path, 'utf8') : '';
}
