import { SignatureV4 } from '@smithy/signature-v4';
import { createHash, createHmac } from 'node:crypto';
import { expect, it } from 'vitest';
import { signedHeaders } from '../../../sdk/src/cli/sign.ts';

/** What AWS's own signer calculates with. */
class Sha256 {
  readonly #hash;
  constructor(secret?: string | ArrayBuffer | ArrayBufferView) {
    this.#hash = secret === undefined ? createHash('sha256') : createHmac('sha256', Buffer.from(secret as Uint8Array));
  }
  update(data: Uint8Array | string): void {
    this.#hash.update(data);
  }
  digest(): Promise<Uint8Array> {
    return Promise.resolve(new Uint8Array(this.#hash.digest()));
  }
  reset(): void {}
}

const now = new Date('2026-11-23T12:34:56.789Z');
const credentials = { accessKeyId: 'AKIDEXAMPLE', secretAccessKey: 'wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY' };

it.each([
  ['GET', 'https://abc.lambda-url.eu-central-1.on.aws/v1/jobs', '', 'lambda', 'eu-central-1', undefined],
  [
    'GET',
    'https://abc.lambda-url.eu-west-1.on.aws/v1/jobs?metadata=a%3Db%20c&limit=3',
    '',
    'lambda',
    'eu-west-1',
    'token==',
  ],
  [
    'POST',
    'https://abc.execute-api.us-east-1.amazonaws.com/live/v1/jobs',
    '{"a":1}',
    'execute-api',
    'us-east-1',
    'token',
  ],
  ['PUT', 'https://cherryq.example.com/v1/models/x/files/a%2Bb.txt', 'text', 'execute-api', 'eu-north-1', undefined],
])("%s %s is signed as AWS's own signer does", async (method, address, body, service, region, sessionToken) => {
  const url = new URL(address);
  const signer = new SignatureV4({
    service,
    region,
    credentials: { ...credentials, sessionToken },
    sha256: Sha256,
    applyChecksum: false,
  });
  const expected = await signer.sign(
    {
      method,
      protocol: 'https:',
      hostname: url.host,
      path: url.pathname,
      query: Object.fromEntries(url.searchParams),
      headers: { host: url.host },
      body,
    },
    { signingDate: now },
  );
  const ours = signedHeaders(
    { method, url: address },
    new TextEncoder().encode(body),
    { ...credentials, sessionToken },
    'eu-north-1',
    now,
  );
  expect(ours.authorization).toBe(expected.headers.authorization);
  expect(ours['x-amz-security-token']).toBe(expected.headers['x-amz-security-token']);
});
