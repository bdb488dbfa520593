/** Writes the models of `nativeModels`, each into a folder, for make_native.py: `node --import tsx test/golden/write-native.ts FOLDER`. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { compressTiny, nativeModels, writeNativeFolder } from '../support/native-folder.ts';

const [target = ''] = process.argv.slice(2);
await mkdir(target, { recursive: true });
await writeFile(join(target, 'labels.json'), JSON.stringify([...nativeModels.keys()]));
for (const [index, { settings, config }] of [...nativeModels.values()].entries()) {
  const folder = join(target, String(index));
  await mkdir(folder);
  await writeNativeFolder(folder, compressTiny(settings, config));
}
