/** The errors that a caller can act on. Anything else that is thrown is a bug (exit 1). */

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

/** The result misses a limit that the job was given; its state says so already. Exit 2, never retried. */
export class QualityError extends Error {
  override readonly name = 'QualityError';
}

/** Training met a loss or a gradient that is not finite; its last checkpoint stays good. A lower learning rate mends it. */
export class DivergedError extends InputError {
  constructor(
    message: string,
    /** Counted from 1. */
    readonly step: number,
    /** Where the first value that is not finite was met; null outside the blocks, or where none was found. */
    readonly block: number | null,
    readonly tensor: string | null,
  ) {
    super('diverged', message, 'training.learningRate');
  }
}

/** A checkpoint cannot be gone on from, for other inputs or damage; which of the settings mends it, the message says. */
export class CheckpointError extends InputError {}

/** Try again: the network, a busy disk. Exit 3. */
export class TransientError extends Error {
  override readonly name = 'TransientError';
}

/** Stopped on request or by a reclaimed host, after a checkpoint was written. Exit 75. */
export class InterruptedError extends Error {
  override readonly name = 'InterruptedError';
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
