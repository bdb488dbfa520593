/** What a folder store does with the system's files and its errors. */
import type { FileHandle } from 'node:fs/promises';
import { StorageFullError } from './store.ts';

/** Largest single read or write; the system calls take less than 2 GiB. */
export const maxTransferBytes = 2 ** 30;

type SystemError = Error & { code: string; syscall?: string };

export function hasCode(error: unknown, ...codes: string[]): error is SystemError {
  return error instanceof Error && 'code' in error && codes.includes(String(error.code));
}

/** Null in place of "there is no such file" and of the further codes given. */
export async function unlessMissing<Value>(pending: Promise<Value>, ...codes: string[]): Promise<Value | null> {
  try {
    return await pending;
  } catch (error) {
    if (hasCode(error, 'ENOENT', 'ENOTDIR', ...codes)) return null;
    throw error;
  }
}

export async function writeFully(file: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let written = 0; written < bytes.length;) {
    const wanted = Math.min(bytes.length - written, maxTransferBytes);
    written += (await file.write(bytes, written, wanted, position + written)).bytesWritten;
  }
}

/** What a failed write of `size` is thrown as. */
export function writeError(cause: unknown, key: string, size: string): unknown {
  if (!hasCode(cause, 'ENOSPC', 'EDQUOT')) return cause;
  return new StorageFullError(
    `No room on the disk (${cause.code}) to write ${key}, ${size}. ` +
      'Nothing of it was kept. Free some space, or move the store to a larger disk, and try again.',
    { cause },
  );
}
