/** The two errors that a caller can act on. Anything else that is thrown is a bug (exit 1). */

/** The caller can fix it: a file, a field, a setting. Exit 2, never retried. Message: what, received, allowed, likely fix. */
export class InputError extends Error {
  override readonly name = 'InputError';
  constructor(
    readonly code: string,
    message: string,
    /** Field, file or tensor that the error is about. */
    readonly param: string | null = null,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** Try again: the network, a busy disk. Exit 3. */
export class TransientError extends Error {
  override readonly name = 'TransientError';
}

/** Stopped on request or by a reclaimed host, after a checkpoint was written. Exit 75. */
export class InterruptedError extends Error {
  override readonly name = 'InterruptedError';
}
