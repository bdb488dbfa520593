/** Whether and when to try again, and a sleep that a signal ends. */
import { CherryQError } from './errors.ts';

/** A longer `Retry-After` is not slept through: the error is thrown and says so. */
const maxRetryAfterMs = 60_000;
const firstDelayMs = 500;
const maxDelayMs = 8000;

/**
 * Exponential back-off with jitter over its upper half: 250-500 ms, 500-1000 ms, ... 4-8 s. What the server asks for is
 * never undercut, and spread by up to a fifth so that clients do not come back together.
 * @param attempt from 0: that many tries came before   @param random in [0, 1)
 */
export function retryDelayMs(attempt: number, retryAfterMs: number | null, random: number = Math.random()): number {
  if (retryAfterMs !== null) return retryAfterMs * (1 + 0.2 * random);
  return Math.min(firstDelayMs * 2 ** attempt, maxDelayMs) * (0.5 + 0.5 * random);
}

/** What to wait before the next try after `error`; null when there is to be none.  @param attempt from 0: the try that failed */
export function delayBeforeRetry(error: unknown, attempt: number, maxRetries: number): number | null {
  if (!(error instanceof CherryQError) || !error.retryable || attempt >= maxRetries) return null;
  if ((error.retryAfterMs ?? 0) > maxRetryAfterMs) return null;
  return retryDelayMs(attempt, error.retryAfterMs);
}

/** Waits. @throws the signal's reason, as soon as it is aborted */
export function sleep(delayMs: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', onAbort);
      resolve();
    }, delayMs);
    const onAbort = (): void => {
      clearTimeout(timer);
      reject(signal?.reason as Error);
    };
    signal?.addEventListener('abort', onAbort, { once: true });
  });
}
