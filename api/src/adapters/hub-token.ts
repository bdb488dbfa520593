/**
 * The token for the Hub, from a secret of AWS Secrets Manager: read with the first import that asks the Hub, and again after a
 * while, so that a rotated one is taken up. It is nowhere else: not in the environment, the store or a log.
 */
import type { SecretsManagerClientConfig } from '@aws-sdk/client-secrets-manager';
import { InputError, messageOf, TransientError } from '@cherryq/batch-jobs/storage';
import type { Clock } from '../ports.ts';

export interface HubTokenOptions {
  /** ARN of the secret, whose text is the token and nothing else. */
  readonly secretArn: string;
  readonly clock: Clock;
  /** Region, endpoint, credentials; default: the secret's region, and what the environment says. */
  readonly client?: SecretsManagerClientConfig;
}

const keptMs = 300_000;
/** What may pass by itself. */
const passing = /^(InternalServiceError|ThrottlingException|TimeoutError|AbortError)$/;

/** @returns what reads it   @throws InputError when the secret cannot be read or holds no token, TransientError when it may the next time */
export function hubTokenOf({ secretArn, clock, client }: HubTokenOptions): () => Promise<string> {
  let kept: { token: string; time: number } | null = null;
  return async () => {
    if (kept !== null && clock.now() - kept.time < keptMs) return kept.token;
    const sdk = await import('./secrets-sdk.ts');
    const [, , , region] = secretArn.split(':');
    const secrets = new sdk.SecretsManagerClient({ region, ...client });
    const answer = await secrets
      .send(new sdk.GetSecretValueCommand({ SecretId: secretArn }))
      .catch((cause: unknown) => {
        const { name = '', $metadata } = cause as { name?: string; $metadata?: { httpStatusCode?: number } };
        const message = `the secret with the server's token for the Hub cannot be read (${name}: ${messageOf(cause)})`;
        if (passing.test(name) || ($metadata?.httpStatusCode ?? 500) >= 500)
          throw new TransientError(message, { cause });
        throw refused(
          `${message}; cherryq:hubTokenSecret must name one that is there, and its key must let the functions in.`,
        );
      });
    const token = answer.SecretString?.trim() ?? '';
    // The console makes JSON of names and values, unless it is told to keep plain text.
    if (!/^[!-z|~]+$/.test(token))
      throw refused(
        "the secret with the server's token for the Hub must hold the token as plain text, and nothing else.",
      );
    kept = { token, time: clock.now() };
    return token;
  };
}

const refused = (message: string): InputError => new InputError('source_forbidden', message, 'source');
