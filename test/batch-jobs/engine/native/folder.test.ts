import { mkdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  damagedFiles,
  describeFiles,
  engineFolder,
  engineRoot,
  readEngineFolder,
} from '../../../../batch-jobs/src/engine/native/folder.ts';
import type { Manifest } from '../../../../batch-jobs/src/engine/native/folder.ts';
import { temporaryFolder } from '../../../support/temporary-store.ts';

async function makeEngine(): Promise<{ folder: string; manifest: Manifest }> {
  const folder = join(temporaryFolder(), 'engine');
  mkdirSync(join(folder, 'lib'), { recursive: true });
  writeFileSync(join(folder, 'lib/tfjs_binding.node'), 'binding');
  writeFileSync(join(folder, 'core.js'), 'core');
  const files = await describeFiles(folder);
  const manifest: Manifest = {
    ...{ format: 1, kind: 'cpu', tfjs: '4.22.0', tensorflow: '2.15.1', platform: 'linux-x64' },
    files,
  };
  writeFileSync(join(folder, 'engine.json'), JSON.stringify(manifest));
  return { folder, manifest };
}

describe('the folder of an engine', () => {
  it('is in CHERRYQ_ENGINE_DIR, else in the cache folder of the user', () => {
    expect(engineRoot({ CHERRYQ_ENGINE_DIR: '/engines', XDG_CACHE_HOME: '/caches' })).toBe('/engines');
    expect(engineRoot({ XDG_CACHE_HOME: '/caches' })).toBe('/caches/cherryq/engine');
    expect(engineRoot({})).toBe(join(homedir(), '.cache/cherryq/engine'));
  });

  it('is named after both versions, the kind and the platform', () => {
    expect(engineFolder('/engines', 'cpu')).toBe('/engines/4.22.0-2.15.1-cpu-linux-x64');
    expect(engineFolder('/engines', 'gpu')).toMatch(/^\/engines\/4\.22\.0-2\.\d+\.\d+-gpu-linux-x64$/);
  });

  it('is whole with every file that its list names', async () => {
    const { folder, manifest } = await makeEngine();
    expect(Object.keys(manifest.files)).toEqual(['core.js', 'lib/tfjs_binding.node']);
    expect(readEngineFolder(folder, 'cpu')).toEqual({ state: 'whole', manifest });
    expect(await damagedFiles(folder, manifest)).toEqual([]);
  });

  it('is absent where there is no folder', () => {
    expect(readEngineFolder(join(temporaryFolder(), 'none'), 'cpu')).toEqual({ state: 'absent' });
  });

  const damages: [string, (folder: string) => void, RegExp][] = [
    [
      'a file that is missing',
      (folder) => rmSync(join(folder, 'lib/tfjs_binding.node')),
      /tfjs_binding\.node is missing/,
    ],
    [
      'a file that is too short',
      (folder) => truncateSync(join(folder, 'core.js'), 2),
      /core\.js has 2 bytes, must have 4/,
    ],
    ['a list that is missing', (folder) => rmSync(join(folder, 'engine.json')), /engine\.json cannot be read/],
    ['a list that is not one', (folder) => writeFileSync(join(folder, 'engine.json'), '{'), /is not the list/],
  ];
  it.each(damages)('with %s is damaged, and the command that mends it is named', async (_, damage, what) => {
    const { folder } = await makeEngine();
    damage(folder);
    const found = readEngineFolder(folder, 'cpu');
    expect(found).toMatchObject({ state: 'damaged', reason: expect.stringMatching(what) });
    expect(found).toMatchObject({ reason: expect.stringContaining('`cherryq engine install --force`') });
  });

  it('of the other kind is damaged', async () => {
    const { folder } = await makeEngine();
    expect(readEngineFolder(folder, 'gpu')).toMatchObject({ reason: expect.stringContaining('of kind cpu, not gpu') });
  });

  it('with other content of the same length is found out when it is read in full', async () => {
    const { folder, manifest } = await makeEngine();
    writeFileSync(join(folder, 'core.js'), 'CORE');
    expect(readEngineFolder(folder, 'cpu').state).toBe('whole');
    expect(await damagedFiles(folder, manifest)).toEqual(['core.js']);
  });
});
