import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { bindingStep, compileAddon } from '../../../../batch-jobs/src/engine/native/compile.ts';
import { checkHash, checkRoom, fetchWheel, findPip } from '../../../../batch-jobs/src/engine/native/fetch.ts';
import { installEngine } from '../../../../batch-jobs/src/engine/native/install.ts';
import { hardwareFailure, unsupportedPlatform } from '../../../../batch-jobs/src/engine/native/platform.ts';
import { releases } from '../../../../batch-jobs/src/engine/native/releases.ts';
import { temporaryFolder } from '../../../support/temporary-store.ts';

/** A folder of programs to be the whole PATH. */
function programs(scripts: Record<string, string>): string {
  const folder = temporaryFolder();
  for (const [name, script] of Object.entries(scripts))
    writeFileSync(join(folder, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  return folder;
}

describe('installEngine', () => {
  it('says how to get a compiler where there is none, and leaves nothing', async () => {
    const root = temporaryFolder();
    const environment = { ...process.env, CXX: 'no-such-compiler', CHERRYQ_ENGINE_DIR: root };
    await expect(installEngine({ environment })).rejects.toMatchObject({
      code: 'compiler_absent',
      message: expect.stringMatching(/no-such-compiler does not run.*apt install g\+\+.*CXX/),
    });
    expect(readdirSync(root)).toEqual([]);
  });

  it('says how to get Python or its pip', async () => {
    const environment = (path: string) => ({ PATH: path, CHERRYQ_PYTHON: undefined });
    await expect(findPip(environment(programs({})))).rejects.toMatchObject({
      code: 'python_absent',
      message: expect.stringContaining('apt install python3 python3-pip'),
    });
    await expect(findPip(environment(programs({ python3: 'exit 1' })))).rejects.toMatchObject({
      code: 'pip_absent',
      message: expect.stringMatching(/python3 has no pip.*CHERRYQ_PYTHON/),
    });
    expect(await findPip(environment(programs({ python3: 'exit 1', python: 'exit 0' })))).toBe('python');
  });

  it('refuses a wheel whose hash is not the pinned one', async () => {
    const folder = temporaryFolder();
    const python = join(
      programs({ python3: 'while [ "$1" != --dest ]; do shift; done; echo other > "$2/a.whl"' }),
      'python3',
    );
    await expect(fetchWheel(releases.cpu.wheels[0], python, folder, process.env)).rejects.toMatchObject({
      code: 'wrong_hash',
      message: expect.stringMatching(/tensorflow_cpu 2\.15\.1 has the sha256 \w{64}, and must have 54660c07.*not used/),
    });
  });

  it('tells a network that is down, which may pass, from a registry without the file', async () => {
    const pipSaying = (text: string) => join(programs({ python3: `echo '${text}' >&2; exit 1` }), 'python3');
    const fetching = (text: string) =>
      fetchWheel(releases.cpu.wheels[0], pipSaying(text), temporaryFolder(), process.env);
    await expect(fetching('NewConnectionError: Network is unreachable')).rejects.toMatchObject({
      name: 'TransientError',
      message: expect.stringContaining('pip could not reach its registry for tensorflow_cpu 2.15.1'),
    });
    await expect(fetching('No matching distribution at https://me:secret@host/simple')).rejects.toMatchObject({
      code: 'download_failed',
      message: expect.not.stringContaining('secret'),
    });
    await expect(fetching('OSError: No space left on device')).rejects.toMatchObject({ code: 'disk_full' });
  });

  it('accepts the hash of npm and of PyPI', async () => {
    const file = join(temporaryFolder(), 'file');
    writeFileSync(file, 'abc');
    const sha256 = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad';
    const sha512 = 'sha512-3a81oZNherrMQXNJriBBMRLm+k6JqX6iCp7u5ktV05ohkpkqJ0/BqDa6PCOj/uu9RU1EI2Q86A4qmslPpUyknw==';
    await checkHash(file, 'file', sha256);
    await checkHash(file, 'file', sha512);
    await expect(checkHash(file, 'file', sha256.replace('b', 'a'))).rejects.toMatchObject({ code: 'wrong_hash' });
    await expect(checkHash(file, 'file', sha512.replace('3a', '4a'))).rejects.toMatchObject({ code: 'wrong_hash' });
  });

  it('asks for room before it downloads', async () => {
    await expect(checkRoom(temporaryFolder(), 1e18)).rejects.toMatchObject({
      code: 'disk_full',
      message: expect.stringContaining('CHERRYQ_ENGINE_DIR'),
    });
    await checkRoom(temporaryFolder(), 1);
  });

  it('leaves no trace of a run that failed, and removes what a killed one left', async () => {
    const root = temporaryFolder();
    const dead = join(root, `.making-${hostname()}-999999999-1`);
    const ofAnotherMachine = join(root, '.making-elsewhere.invalid-1-1');
    for (const folder of [dead, ofAnotherMachine]) mkdirSync(folder);
    const path = programs({ npm: 'echo ENOTFOUND >&2; exit 1', 'g++': 'exit 0', python3: 'exit 0' });
    const environment = { PATH: path, CHERRYQ_ENGINE_DIR: root };
    await expect(installEngine({ environment })).rejects.toMatchObject({ name: 'TransientError' });
    expect(existsSync(dead)).toBe(false);
    expect(readdirSync(root)).toEqual(['.making-elsewhere.invalid-1-1']);
  });
});

describe('compileAddon', () => {
  it("names the compiler's first error", async () => {
    const engine = temporaryFolder();
    mkdirSync(join(engine, 'lib'));
    mkdirSync(join(engine, 'binding'));
    for (const name of ['tfjs_backend.cc', 'tfjs_binding.cc'])
      writeFileSync(join(engine, 'binding', name), 'int main( {');
    await expect(compileAddon(bindingStep(engine, engine, engine), engine, process.env)).rejects.toMatchObject({
      code: 'compile_failed',
      message: expect.stringMatching(/tfjs_binding\.node: .*tfjs_backend\.cc:1:.*error:/),
    });
  });
});

describe('unsupportedPlatform', () => {
  it('is null for Linux with glibc on x64 alone', () => {
    expect(unsupportedPlatform('linux', 'x64', '2.36')).toBeNull();
    expect(unsupportedPlatform('darwin', 'arm64', null)).toMatch(/this is darwin on arm64.*WebAssembly/);
    expect(unsupportedPlatform('linux', 'arm64', '2.36')).toMatch(/linux on arm64/);
    expect(unsupportedPlatform('linux', 'x64', null)).toMatch(/glibc.*Alpine/);
  });
});

describe('hardwareFailure', () => {
  const avx = 'flags\t\t: fpu sse2 avx avx2\n';
  it('asks for AVX, without which TensorFlow ends the process', () => {
    expect(hardwareFailure('cpu', () => true, avx)).toBeNull();
    expect(hardwareFailure('cpu', () => true, 'flags\t\t: fpu sse2\n')).toMatch(/no AVX/);
  });

  it('asks for an NVIDIA device before the GPU engine is loaded', () => {
    expect(hardwareFailure('gpu', () => false, avx)).toMatch(/no NVIDIA GPU/);
    expect(hardwareFailure('gpu', (path) => path === '/dev/nvidiactl', avx)).toBeNull();
    expect(hardwareFailure('gpu', (path) => path === '/dev/dxg', avx)).toBeNull();
  });
});
