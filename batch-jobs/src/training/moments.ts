/**
 * AdamW's moments: for each trained tensor two numbers a weight, in float32 or bfloat16, in main memory or in a file. The
 * arithmetic is in double precision whatever the type (numeric/train-tasks.ts); what is stored is rounded to nearest, half to
 * even. bfloat16 has 8 significant bits: a second moment follows changes of more than 1 in 512 a step, as beta2 = 0.95
 * makes them, but hardly those of beta2 = 0.999.
 */
import { randomUUID } from 'node:crypto';
import { read as readFile, write as writeFile } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { open, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { momentBytes } from '../models/budgets.ts';
import { isInFile } from '../numeric/train-tasks.ts';
import type { Moments, MomentsDtype } from '../numeric/train-tasks.ts';
import { sharedBytes } from '../numeric/pool.ts';
import { StorageFullError } from '../storage/store.ts';

export interface MomentsSettings {
  readonly dtype: MomentsDtype;
  /** Folder for a file that holds them; null keeps them in memory. */
  readonly folder: string | null;
}

export const float32InMemory: MomentsSettings = { dtype: 'float32', folder: null };

/** The moments of a training run, zero at the start. */
export interface MomentsStore {
  /** By name of their tensor. */
  readonly moments: ReadonlyMap<string, Moments>;
  /** Gives back the file, where there is one; the moments are gone then. */
  close(): Promise<void>;
}

/** Of one tensor. */
export type MomentsPart = 'first' | 'second';

const stretchBytes = 2 ** 22;
const readAt = promisify(readFile);
const writeAt = promisify(writeFile);

/**
 * The file has no name: it is gone when it is closed, or when the process ends in any way. It is written whole at the start,
 * so that no later step can find the disk full.
 * @param lengths of the trained tensors, by name   @throws StorageFullError when the folder has no room
 */
export async function createMoments(
  lengths: ReadonlyMap<string, number>,
  { dtype, folder }: MomentsSettings,
): Promise<MomentsStore> {
  if (folder === null) {
    const moments = new Map([...lengths].map(([name, length]) => [name, momentsInMemory(length, dtype)]));
    return { moments, close: async () => undefined };
  }
  const path = join(folder, `moments-${randomUUID()}`);
  const file = await open(path, 'wx+');
  await unlink(path);
  const moments = new Map<string, Moments>();
  let end = 0;
  for (const [name, length] of lengths) {
    const bytes = length * momentBytes[dtype];
    moments.set(name, { descriptor: file.fd, dtype, firstAt: end, secondAt: end + bytes });
    end += 2 * bytes;
  }
  try {
    await writeZeros(file, end, folder);
  } catch (error) {
    await file.close();
    throw error;
  }
  return { moments, close: () => file.close() };
}

async function writeZeros(file: FileHandle, bytes: number, folder: string): Promise<void> {
  const zeros = new Uint8Array(Math.min(bytes, stretchBytes));
  try {
    for (let at = 0; at < bytes;) {
      at += (await file.write(zeros, 0, Math.min(zeros.length, bytes - at), at)).bytesWritten;
    }
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code !== 'ENOSPC' && code !== 'EDQUOT') throw cause;
    const advice =
      'Free some space, set training.momentsIn to "memory", or training.moments to "bfloat16", which takes half';
    throw new StorageFullError(`No room in ${folder} for AdamW's moments, ${bytes} bytes. ${advice}.`, { cause });
  }
}

export function momentsInMemory(length: number, dtype: MomentsDtype = 'float32'): Moments {
  const zeros = (): Float32Array | Uint16Array => {
    const { buffer } = sharedBytes(length * momentBytes[dtype]);
    return dtype === 'float32' ? new Float32Array(buffer) : new Uint16Array(buffer);
  };
  return { first: zeros(), second: zeros() };
}

/** Sets both moments to zero. */
export async function clearMoments(moments: Moments): Promise<void> {
  if (!isInFile(moments)) {
    moments.first.fill(0);
    moments.second.fill(0);
    return;
  }
  for (const part of ['first', 'second'] as const)
    await setMoments(moments, part, async (_, into) => void into.fill(0));
}

/** Type of the moments, and bytes of each of the two. */
export function momentsSize(moments: Moments): { readonly dtype: MomentsDtype; readonly bytes: number } {
  if (isInFile(moments)) return { dtype: moments.dtype, bytes: moments.secondAt - moments.firstAt };
  const { first } = moments;
  return { dtype: first instanceof Float32Array ? 'float32' : 'bfloat16', bytes: first.byteLength };
}

/** Bytes of one moment of a tensor, row-major and little-endian; a piece may change once the next is asked for. */
export async function* momentsBytes(moments: Moments, part: MomentsPart): AsyncGenerator<Uint8Array> {
  if (!isInFile(moments)) {
    yield bytesOf(moments[part]);
    return;
  }
  const { from, until } = placeOf(moments, part);
  const buffer = new Uint8Array(Math.min(stretchBytes, until - from));
  for (let at = from; at < until;) {
    const { bytesRead } = await readAt(moments.descriptor, buffer, 0, Math.min(buffer.length, until - at), at);
    if (bytesRead === 0) throw new Error("the file of AdamW's moments has become shorter");
    yield buffer.subarray(0, bytesRead);
    at += bytesRead;
  }
}

/** Sets one moment of a tensor.  @param read fills an array with the bytes from `start` on */
export async function setMoments(
  moments: Moments,
  part: MomentsPart,
  read: (start: number, into: Uint8Array) => Promise<void>,
): Promise<void> {
  if (!isInFile(moments)) return read(0, bytesOf(moments[part]));
  const { from, until } = placeOf(moments, part);
  const buffer = new Uint8Array(Math.min(stretchBytes, until - from));
  for (let at = from; at < until;) {
    const piece = buffer.subarray(0, Math.min(buffer.length, until - at));
    await read(at - from, piece);
    for (let done = 0; done < piece.length;) {
      done += (await writeAt(moments.descriptor, piece, done, piece.length - done, at + done)).bytesWritten;
    }
    at += piece.length;
  }
}

function placeOf(
  { firstAt, secondAt }: { firstAt: number; secondAt: number },
  part: MomentsPart,
): { from: number; until: number } {
  const bytes = secondAt - firstAt;
  return part === 'first' ? { from: firstAt, until: secondAt } : { from: secondAt, until: secondAt + bytes };
}

function bytesOf(values: Float32Array | Uint16Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}
