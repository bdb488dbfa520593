/**
 * An engine on disk: a folder that is whole or absent, with `engine.json` naming every file in it. The same folder is an
 * entry of the cache and the platform package of npm.
 */
import { messageOf } from '../../errors.ts';
import { createHash } from 'node:crypto';
import { createReadStream, existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { z } from 'zod';
import { installCommand, releases, tfjsNode } from './releases.ts';
import type { EngineKind } from './releases.ts';

export const manifestFile = 'engine.json';
export const bindingFile = 'lib/tfjs_binding.node';
const manifestSchema = z.object({
  format: z.literal(1),
  kind: z.enum(['cpu', 'gpu']),
  tfjs: z.string(),
  tensorflow: z.string(),
  platform: z.literal('linux-x64'),
  files: z.record(z.string(), z.object({ sizeBytes: z.int(), sha256: z.string() })),
});
export type Manifest = z.infer<typeof manifestSchema>;

/** `CHERRYQ_ENGINE_DIR`, else the user's cache folder (XDG base directory specification). */
export function engineRoot(environment: NodeJS.ProcessEnv): string {
  if (environment.CHERRYQ_ENGINE_DIR) return resolve(environment.CHERRYQ_ENGINE_DIR);
  return join(environment.XDG_CACHE_HOME || join(homedir(), '.cache'), 'cherryq', 'engine');
}

/** Where the cache holds an engine of the pinned versions. */
export function engineFolder(root: string, kind: EngineKind): string {
  return join(root, `${tfjsNode.version}-${releases[kind].tensorflow}-${kind}-linux-x64`);
}

export type FolderState =
  { state: 'absent' } | { state: 'damaged'; reason: string } | { state: 'whole'; manifest: Manifest };

/** Looks at every file's size, not at its content: it runs at each start.  @see damagedFiles */
export function readEngineFolder(folder: string, kind: EngineKind): FolderState {
  const file = join(folder, manifestFile);
  if (!existsSync(folder)) return { state: 'absent' };
  const damaged = (what: string): FolderState => ({
    state: 'damaged',
    reason: `damaged: ${what}; mend it with \`${installCommand(kind, true)}\``,
  });
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    return damaged(`${file} cannot be read (${messageOf(error)})`);
  }
  const manifest = parseManifest(text);
  if (manifest === null) return damaged(`${file} is not the list of an engine's files`);
  if (manifest.kind !== kind) return damaged(`${file} is of kind ${manifest.kind}, not ${kind}`);
  for (const [name, { sizeBytes }] of Object.entries(manifest.files)) {
    const found = statSync(join(folder, name), { throwIfNoEntry: false });
    if (found === undefined) return damaged(`${join(folder, name)} is missing`);
    if (found.size !== sizeBytes)
      return damaged(`${join(folder, name)} has ${found.size} bytes, must have ${sizeBytes}`);
  }
  return { state: 'whole', manifest };
}

function parseManifest(text: string): Manifest | null {
  try {
    return manifestSchema.safeParse(JSON.parse(text)).data ?? null;
  } catch {
    return null;
  }
}

/** Reads every file.  @returns those whose content is not what was installed */
export async function damagedFiles(folder: string, manifest: Manifest): Promise<string[]> {
  const damaged: string[] = [];
  for (const [name, { sha256 }] of Object.entries(manifest.files))
    if ((await hashFile(join(folder, name), 'sha256', 'hex').catch(() => null)) !== sha256) damaged.push(name);
  return damaged;
}

/** Describes every file of a folder that is about to become an engine.  @returns paths relative to it, in order */
export async function describeFiles(folder: string): Promise<Manifest['files']> {
  const names = readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1))
    .filter((name) => name !== manifestFile)
    .sort();
  const files: Manifest['files'] = {};
  for (const name of names) {
    const path = join(folder, name);
    files[name] = { sizeBytes: statSync(path).size, sha256: await hashFile(path, 'sha256', 'hex') };
  }
  return files;
}

export async function hashFile(path: string, algorithm: string, encoding: 'hex' | 'base64'): Promise<string> {
  const hash = createHash(algorithm);
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk as Buffer);
  return hash.digest(encoding);
}
