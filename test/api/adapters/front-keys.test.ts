import { describe, expect, it } from 'vitest';
import { frontKeys } from '../../../api/src/adapters/front-keys.ts';

const request = new Request('https://install.example/v1/jobs');
const userArn = 'arn:aws:iam::123456789012:user/somebody';
const ask = (requestContext?: object) => frontKeys.authenticate(request, { requestContext });

describe('behind a front that checks callers', () => {
  it.each([
    ['a function URL or HTTP API with IAM', { authorizer: { iam: { userArn } } }],
    ['a REST API with IAM', { identity: { userArn }, authorizer: null }],
    ['an HTTP API with a JWT', { authorizer: { jwt: { claims: { sub: 'somebody' } } } }],
  ])('who comes by %s may do everything', async (_, context) => {
    expect(await ask(context)).toEqual({ tenant: 'local', scope: 'admin' });
  });

  it.each([
    ['nothing', undefined],
    ['nobody', { authorizer: { iam: null }, identity: { userArn: null } }],
    ['an empty name', { authorizer: { iam: { userArn: '' } }, identity: { userArn: '' } }],
    ['a token without a subject', { authorizer: { jwt: { claims: {} } } }],
  ])('who is named by %s may not come in', async (_, context) => {
    await expect(ask(context)).rejects.toMatchObject({ code: 'unauthorized' });
  });
});
