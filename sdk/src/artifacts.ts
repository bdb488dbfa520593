/** `client.artifacts`: the files that a succeeded job left. To a folder: `downloadArtifacts` of `cherryq/node`. */
import { encodePath, sha256Of, type RequestOptions, type StreamedAnswer, type Transport } from './client.ts';
import type { Artifact } from './contract/index.ts';
import { IntegrityError } from './errors.ts';
import { delayBeforeRetry, sleep } from './retry.ts';

export class Artifacts {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** All files but `manifest.json`, which lists them. */
  async list(jobId: string, options?: RequestOptions): Promise<Artifact[]> {
    const path = `/v1/jobs/${encodeURIComponent(jobId)}/artifacts`;
    const { data } = await this.#transport.json<{ data: Artifact[] }>({ method: 'GET', path }, options);
    return data;
  }

  /**
   * One file as it comes, unchecked: its SHA-256 is the ETag, without quotes.
   * @param options.start first byte; status 206 then, or 200 and the whole file if it is no longer the one of `ifSha256`
   * @param options.end byte to stop before; default: the end of the file
   * @param options.url where `list` says that the file is, for servers that leave it to their store; its ETag is another then
   */
  stream(
    jobId: string,
    path: string,
    options: RequestOptions & { start?: number; end?: number; ifSha256?: string; url?: string | null } = {},
  ): Promise<StreamedAnswer> {
    const { start = 0, end, ifSha256, url: elsewhere, ...rest } = options;
    const headers: Record<string, string> = { Accept: '*/*' };
    const isRange = start > 0 || end !== undefined;
    if (isRange) headers['Range'] = `bytes=${start}-${end === undefined ? '' : end - 1}`;
    if (isRange && ifSha256 !== undefined && !elsewhere) headers['If-Range'] = `"${ifSha256}"`;
    const url = `/v1/jobs/${encodeURIComponent(jobId)}/artifacts/${encodePath(path)}`;
    return this.#transport.stream({ method: 'GET', path: url, url: elsewhere ?? undefined, headers }, rest);
  }

  /** One file, whole and checked. For files that fit in memory.  @throws IntegrityError */
  async download(jobId: string, path: string, options: RequestOptions = {}): Promise<Uint8Array<ArrayBuffer>> {
    const maxRetries = options.maxRetries ?? this.#transport.maxRetries;
    for (let attempt = 0; ; attempt++) {
      try {
        const { body, headers } = await this.stream(jobId, path, { ...options, maxRetries: 0 });
        const content = new Uint8Array(await new Response(body).arrayBuffer());
        const etag = headers.get('etag')?.replaceAll('"', '') ?? null;
        // A large file may have come from the server's store, which has its own.
        const expected = /^[0-9a-f]{64}$/.test(etag ?? '') ? etag : await this.#sha256Of(jobId, path, options);
        const actual = await sha256Of(content);
        if (expected === actual) return content;
        throw integrityError(path, expected, actual);
      } catch (error) {
        const delayMs = delayBeforeRetry(error, attempt, maxRetries);
        if (delayMs === null) throw error;
        await sleep(delayMs, options.signal);
      }
    }
  }

  async #sha256Of(jobId: string, path: string, options: RequestOptions): Promise<string | null> {
    return (await this.list(jobId, options)).find((file) => file.path === path)?.sha256 ?? null;
  }
}

export function integrityError(path: string, expected: string | null, actual: string): IntegrityError {
  const message = `${path} has the SHA-256 ${actual}, but ${expected ?? 'none'} was announced; it was damaged on its way`;
  return new IntegrityError(message, { code: 'content_mismatch', param: path, retryable: true });
}
