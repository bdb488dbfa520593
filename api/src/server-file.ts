/**
 * `server.json` in the store's folder: who serves it, and where. Written by exclusive creation, so that two servers never
 * work on the same jobs; a file whose process is gone is taken over. A process is known by its id and, where the system
 * tells (Linux), by when it started, because ids come round again.
 */
import { link, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { InputError } from '@cherryq/batch-jobs/storage';

export const serverFileName = 'server.json';

const serverFileSchema = z.object({
  pid: z.int(),
  /** Start of the process in the system's clock ticks; null where that cannot be read. */
  processStart: z.string().nullable(),
  /** Null until it listens. */
  url: z.string().nullable(),
});
type ServerFile = z.infer<typeof serverFileSchema>;

export interface FolderHold {
  /** Makes the address known. */
  announce(url: string): Promise<void>;
  release(): Promise<void>;
}

/** Takes a folder for this process. @throws InputError `folder_in_use` naming who has it */
export async function holdFolder(folder: string): Promise<FolderHold> {
  const path = join(folder, serverFileName);
  const aside = `${path}.${process.pid}`;
  const mine: ServerFile = { pid: process.pid, processStart: await processStart(process.pid), url: null };
  for (;;) {
    try {
      await writeFile(aside, text(mine));
      // A link is made whole or not at all; a file created in place could be read while it is still empty.
      await link(aside, path);
      break;
    } catch (error) {
      if (!hasCode(error, 'EEXIST')) throw error;
      await takeOver(folder, path, aside);
    } finally {
      await rm(aside, { force: true });
    }
  }
  return {
    async announce(url) {
      await writeFile(aside, text({ ...mine, url }));
      await rename(aside, path);
    },
    async release() {
      const holder = await readServerFile(path);
      if (holder?.pid === mine.pid && holder.processStart === mine.processStart) await rm(path, { force: true });
    },
  };
}

/** Removes the file of a process that is gone. Two may try: only what was read is removed, never a newer file. */
async function takeOver(folder: string, path: string, aside: string): Promise<void> {
  const holder = await readServerFile(path);
  if (holder && (await isAlive(holder))) throw inUse(folder, holder);
  try {
    await rename(path, aside);
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return;
    throw error;
  }
  const taken = await readServerFile(aside);
  if (taken && (await isAlive(taken))) {
    await link(aside, path);
    throw inUse(folder, taken);
  }
}

/** Null when it is missing or not one of ours. */
async function readServerFile(path: string): Promise<ServerFile | null> {
  try {
    return serverFileSchema.parse(JSON.parse(await readFile(path, 'utf8')));
  } catch (error) {
    if (hasCode(error, 'ENOENT') || error instanceof SyntaxError || error instanceof z.ZodError) return null;
    throw error;
  }
}

async function isAlive({ pid, processStart: start }: ServerFile): Promise<boolean> {
  try {
    process.kill(pid, 0);
  } catch (error) {
    // Somebody else's process may not be signalled, but it is there.
    if (!hasCode(error, 'EPERM')) return false;
  }
  const present = await processStart(pid);
  return start === null || present === null || start === present;
}

/** Field 22 of /proc/<pid>/stat, counted after the name, which may hold spaces (proc_pid_stat(5)). */
async function processStart(pid: number): Promise<string | null> {
  try {
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? null;
  } catch {
    return null;
  }
}

function inUse(folder: string, { pid, url }: ServerFile): InputError {
  const where = url === null ? 'still starting' : `at ${url}`;
  return new InputError(
    'folder_in_use',
    `another server (process ${pid}, ${where}) works on the store ${folder}; use that one, stop it, or give another folder`,
    'storeFolder',
  );
}

const text = (file: ServerFile): string => `${JSON.stringify(file, null, 1)}\n`;

function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}
