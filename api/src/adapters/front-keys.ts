/** Keys of an install whose front has checked the caller already: IAM or a JWT, before a request reaches the function. */
import { localTenant, type Keys } from '../ports.ts';
import { ProblemError } from '../problems.ts';

/** The parts of what API Gateway and Function URLs say of the caller. */
interface Authorizer {
  readonly iam?: { readonly userArn?: string | null } | null;
  readonly jwt?: { readonly claims?: Readonly<Record<string, unknown>> } | null;
}

/** What REST APIs say of a caller whose signature they have checked. */
interface Identity {
  readonly userArn?: string | null;
}

/** They take nobody whom the front does not name; all callers of an install are one tenant. */
export const frontKeys: Keys = {
  authenticate(_, environment) {
    const { requestContext } = (environment ?? {}) as {
      requestContext?: { authorizer?: Authorizer | null; identity?: Identity | null };
    };
    const { iam, jwt } = requestContext?.authorizer ?? {};
    if (iam?.userArn || requestContext?.identity?.userArn || typeof jwt?.claims?.sub === 'string')
      return Promise.resolve({ tenant: localTenant, scope: 'admin' });
    const detail =
      'the front of this install has not said who is calling; it must be set to IAM or a JWT authorizer, and requests must be signed for it';
    return Promise.reject(new ProblemError('unauthorized', detail));
  },
};
