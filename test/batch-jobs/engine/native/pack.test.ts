import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { describeFiles, engineFolder, readEngineFolder } from '../../../../batch-jobs/src/engine/native/folder.ts';
import type { Manifest } from '../../../../batch-jobs/src/engine/native/folder.ts';
import { packEngine } from '../../../../batch-jobs/src/engine/native/pack.ts';
import { temporaryFolder } from '../../../support/temporary-store.ts';

/** A folder with the shape of an engine, without its 600 MB. */
async function makeEngine(): Promise<{ root: string; folder: string; manifest: Manifest }> {
  const root = temporaryFolder();
  const folder = engineFolder(root, 'cpu');
  for (const file of [
    'lib/tfjs_binding.node',
    'tfjs-node/package.json',
    'tfjs-node/core.js',
    'licenses/tensorflow.txt',
  ]) {
    mkdirSync(dirname(join(folder, file)), { recursive: true });
    writeFileSync(join(folder, file), file === 'tfjs-node/package.json' ? '{}' : file);
  }
  const manifest: Manifest = {
    ...{ format: 1, kind: 'cpu', tfjs: '4.22.0', tensorflow: '2.15.1', platform: 'linux-x64' },
    files: await describeFiles(folder),
  };
  writeFileSync(join(folder, 'engine.json'), JSON.stringify(manifest));
  return { root, folder, manifest };
}

describe('packEngine', () => {
  it('makes a tarball that unpacks to a whole engine for its platform, with its licenses and no script', async () => {
    const { root, manifest } = await makeEngine();
    const output = temporaryFolder();
    const packed = await packEngine({ output, environment: { ...process.env, CHERRYQ_ENGINE_DIR: root } });
    expect(packed).toMatchObject({ name: '@cherryq/engine-linux-x64', tarball: expect.stringMatching(/\.tgz$/) });
    execFileSync('tar', ['-xzf', packed.tarball, '-C', output]);
    const unpacked = join(output, 'package');
    expect(readEngineFolder(unpacked, 'cpu')).toEqual({ state: 'whole', manifest });
    expect(readFileSync(join(unpacked, 'licenses/tensorflow.txt'), 'utf8')).toBe('licenses/tensorflow.txt');
    const packageJson = JSON.parse(readFileSync(join(unpacked, 'package.json'), 'utf8')) as Record<string, unknown>;
    expect(packageJson).toMatchObject({ os: ['linux'], cpu: ['x64'], libc: ['glibc'], license: 'Apache-2.0' });
    expect(packageJson.scripts).toBeUndefined();
  });

  it('refuses an engine that is absent, and one whose content is not what was installed', async () => {
    const output = temporaryFolder();
    await expect(packEngine({ output, environment: { CHERRYQ_ENGINE_DIR: output } })).rejects.toMatchObject({
      code: 'engine_absent',
      message: expect.stringContaining('`cherryq engine install`'),
    });
    const { root, folder } = await makeEngine();
    writeFileSync(join(folder, 'tfjs-node/core.js'), 'TFJS-NODE/CORE.JS');
    await expect(packEngine({ output, environment: { CHERRYQ_ENGINE_DIR: root } })).rejects.toMatchObject({
      code: 'engine_damaged',
      message: expect.stringMatching(/tfjs-node\/core\.js.*cherryq engine install --force/),
    });
  });
});
