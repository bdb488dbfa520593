/** A server that answers as the Hugging Face Hub does, of one repository. */
import { createHash } from 'node:crypto';
import type { RequestListener } from 'node:http';
import { listen } from './listen.ts';

export const commit = 'c0ffee'.padEnd(40, '0');

export interface HubRequest {
  path: string;
  range: string | undefined;
  authorization: string | undefined;
}

/**
 * Files below 10,000 bytes are as git has them, the others as LFS, which are at another address.
 * @param tokens that may read it; none: everybody may   @param faults called before each answer; true: it has answered
 */
export async function openHub(
  files: Readonly<Record<string, Uint8Array>>,
  { token, fault = () => false }: { token?: string; fault?: (...args: Parameters<RequestListener>) => boolean } = {},
): Promise<{ endpoint: string; requests: HubRequest[] }> {
  const requests: HubRequest[] = [];
  const isLfs = (content: Uint8Array): boolean => content.length >= 10_000;
  const endpoint = await listen((request, response) => {
    const path = decodeURIComponent(request.url ?? '');
    const { range, authorization } = request.headers;
    requests.push({ path, range, authorization });
    if (fault(request, response)) return;
    const end = (status: number, body: unknown): void => {
      response.writeHead(status, { 'content-type': 'application/json' });
      response.end(JSON.stringify(body));
    };
    if (token !== undefined && authorization !== `Bearer ${token}` && !path.startsWith('/lfs/'))
      return end(403, { error: 'Access to model acme/tiny is restricted' });
    if (path === '/api/models/acme/tiny/revision/main?blobs=true') {
      const siblings = Object.entries(files).map(([rfilename, content]) => ({
        rfilename,
        size: content.length,
        blobId: 'b',
        ...(isLfs(content)
          ? { lfs: { sha256: createHash('sha256').update(content).digest('hex'), size: content.length } }
          : {}),
      }));
      return end(200, { id: 'acme/tiny', sha: commit, siblings });
    }
    const [, place, name = ''] = /^\/(acme\/tiny\/resolve\/[^/]+|lfs)\/(.+)$/.exec(path) ?? [];
    const content = files[name];
    if (content === undefined) return end(404, { error: 'Entry not found' });
    if (place !== 'lfs' && isLfs(content)) {
      response.writeHead(302, { location: `/lfs/${name}` });
      return void response.end();
    }
    const start = Number(/^bytes=(\d+)-$/.exec(range ?? '')?.[1] ?? 0);
    response.writeHead(start > 0 ? 206 : 200, { 'content-length': content.length - start });
    response.end(content.subarray(start));
  });
  return { endpoint, requests };
}
