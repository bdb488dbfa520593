/**
 * Requests signed for a front that checks AWS identities (function URLs, API Gateway).
 * @source Signature Version 4, docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
 */
import { createHash, createHmac } from 'node:crypto';

export interface AwsCredentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string;
}

/** `region` of a name that does not tell it. */
export function signingFetch(credentials: AwsCredentials, region: string, send: typeof fetch): typeof fetch {
  return async (input, init) => {
    const request = new Request(input, { ...init, duplex: 'half' } as RequestInit);
    const body = new Uint8Array(await request.arrayBuffer());
    const headers = new Headers(request.headers);
    for (const [name, value] of Object.entries(signedHeaders(request, body, credentials, region, new Date())))
      headers.set(name, value);
    const bodied = body.length > 0 ? { body } : {};
    return send(request.url, { method: request.method, headers, ...bodied, signal: request.signal });
  };
}

/** @returns the headers that a request needs beside its own */
export function signedHeaders(
  request: Pick<Request, 'method' | 'url'>,
  body: Uint8Array,
  { accessKeyId, secretAccessKey, sessionToken }: AwsCredentials,
  regionElsewhere: string,
  now: Date,
): Record<string, string> {
  const url = new URL(request.url);
  const [, service, region] = /\.(lambda-url|execute-api)\.([a-z0-9-]+)\./.exec(url.host) ?? [];
  const time = now.toISOString().replaceAll(/[-:]|\.\d{3}/g, '');
  const scope = [time.slice(0, 8), region ?? regionElsewhere, service === 'lambda-url' ? 'lambda' : 'execute-api'];
  const own: Record<string, string> = {
    'x-amz-date': time,
    ...(sessionToken === undefined ? {} : { 'x-amz-security-token': sessionToken }),
  };
  const signed = Object.entries({ host: url.host, ...own }).sort(([a], [b]) => (a < b ? -1 : 1));
  const names = signed.map(([name]) => name).join(';');
  const query = [...url.searchParams].map((pair) => pair.map(encoded).join('=')).sort();
  const canonical = [
    request.method,
    url.pathname.split('/').map(encoded).join('/'),
    query.join('&'),
    ...signed.map(([name, value]) => `${name}:${value}`),
    '',
    names,
    sha256(body),
  ].join('\n');
  const wholeScope = [...scope, 'aws4_request'].join('/');
  const toSign = ['AWS4-HMAC-SHA256', time, wholeScope, sha256(canonical)].join('\n');
  const key = [...scope, 'aws4_request'].reduce<string | Buffer>(
    (secret, part) => createHmac('sha256', secret).update(part).digest(),
    `AWS4${secretAccessKey}`,
  );
  const signature = createHmac('sha256', key).update(toSign).digest('hex');
  const authorization = `AWS4-HMAC-SHA256 Credential=${accessKeyId}/${wholeScope}, SignedHeaders=${names}, Signature=${signature}`;
  return { ...own, authorization };
}

const sha256 = (content: string | Uint8Array): string => createHash('sha256').update(content).digest('hex');
const encoded = (text: string): string =>
  encodeURIComponent(text).replaceAll(/[!'()*]/g, (sign) => `%${sign.charCodeAt(0).toString(16).toUpperCase()}`);
