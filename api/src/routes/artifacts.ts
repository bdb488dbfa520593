/**
 * What an ended job left, over HTTP: the list from its manifest and each file, whole or in part, so that a download can
 * go on where it broke off. A file's ETag is its SHA-256, so `If-Range` and `If-None-Match` compare content.
 */
import { createRoute, z } from '@hono/zod-openapi';
import type { Artifact, ArtifactFile, Manifest } from 'cherryq/contract';
import { createHash } from 'node:crypto';
import { jobRef } from '../job-log.ts';
import type { Jobs } from '../jobs.ts';
import { fileParams, filePathPattern, idParams, jsonContent, problems, schemas, type Api } from '../openapi.ts';
import type { JobRef, Store } from '../ports.ts';
import { ProblemError } from '../problems.ts';

const manifestPath = 'manifest.json';
/** Where the store gives files out itself, larger ones are not for a function whose answers are limited to 6 MB, in base64. */
const mostThroughApi = 4 * 2 ** 20;
const tags = ['artifacts'];

/** By the file's ending, of a range too; all else is a stream of bytes. */
const contentTypes: Record<string, string> = {
  json: 'application/json',
  html: 'text/html; charset=utf-8',
  md: 'text/markdown; charset=utf-8',
  txt: 'text/plain; charset=utf-8',
};
const otherType = 'application/octet-stream';
const fileContent = Object.fromEntries(
  [...Object.values(contentTypes), otherType].map((type) => [
    type.replace(/;.*/, ''),
    { schema: z.string().openapi({ format: 'binary' }) },
  ]),
);

export function artifactRoutes(app: Api, { store, jobs }: { store: Store; jobs: Jobs }): void {
  app.openapi(
    createRoute({
      method: 'get',
      path: '/v1/jobs/{id}/artifacts',
      tags,
      summary: 'List the files that a job left: one that has succeeded, or has failed for its quality',
      request: { params: idParams },
      responses: { 200: jsonContent(schemas.artifacts, 'The files'), ...problems('not_found', 'conflict') },
    }),
    async (c) => {
      const { id } = c.req.valid('param');
      const { manifest, folder } = await jobs.manifest(c.var.tenant, id);
      const { prefix } = jobRef(c.var.tenant, id);
      const withUrl = async (file: ArtifactFile): Promise<Artifact> => ({
        ...file,
        url: (await store.direct?.downloadUrl(`${prefix}/${folder}/${file.path}`)) ?? null,
      });
      const data = await Promise.all(manifest.files.map(withUrl));
      return c.json({ object: 'list' as const, data, hasMore: false as const }, 200);
    },
  );

  app.openapi(
    createRoute({
      method: 'get',
      path: `/v1/jobs/{id}/artifacts/${filePathPattern}`,
      tags,
      summary: 'Download a file, or a range of it',
      request: {
        params: fileParams,
        headers: z.object({
          range: z.string().optional(),
          'if-range': z.string().optional(),
          'if-none-match': z.string().optional(),
        }),
      },
      responses: {
        200: { description: 'The file', content: fileContent },
        206: { description: 'The range', content: fileContent },
        304: { description: 'The client has it already' },
        307: { description: 'The file is large, and the store gives it out itself: at Location, for an hour' },
        ...problems('invalid_request', 'not_found', 'conflict', 'range_not_satisfiable'),
      },
    }),
    async (c) => {
      const { id, path } = c.req.valid('param');
      const job = jobRef(c.var.tenant, id);
      const { manifest, folder } = await jobs.manifest(c.var.tenant, id);
      const prefix = `${job.prefix}/${folder}/`;
      const file = await describe(store, job, prefix, manifest, path);
      const etag = `"${file.sha256}"`;
      const headers: Record<string, string> = { ETag: etag, 'Accept-Ranges': 'bytes', ...contentHeaders(path) };
      const asked = c.req.valid('header');
      if (asked['if-none-match']?.includes(etag)) return new Response(null, { status: 304, headers });

      const fresh = asked['if-range'] === undefined || asked['if-range'] === etag;
      const range = fresh && asked.range !== undefined ? parseRange(asked.range, file) : null;
      const { start, end } = range ?? { start: 0, end: file.sizeBytes };
      headers['Content-Length'] = String(end - start);
      if (range) headers['Content-Range'] = `bytes ${start}-${end - 1}/${file.sizeBytes}`;
      const status = range ? 206 : 200;
      if (c.req.method === 'HEAD') return new Response(null, { status, headers });
      if (store.direct !== undefined && end - start > mostThroughApi)
        return c.redirect(await store.direct.downloadUrl(prefix + path), 307);
      const body = await store.stream(prefix + path, { start, end });
      if (body === null) throw new Error(`artifact ${path} of job ${id} is in its manifest but not in the store`);
      return new Response(body, { status, headers });
    },
  );
}

/** The file's entry in the manifest; the manifest itself, which cannot list itself, is measured. */
async function describe(
  store: Store,
  job: JobRef,
  prefix: string,
  manifest: Manifest,
  path: string,
): Promise<ArtifactFile> {
  if (path === manifestPath) {
    const body = (await store.get(prefix + manifestPath)) ?? new Uint8Array();
    return { path, sizeBytes: body.byteLength, sha256: createHash('sha256').update(body).digest('hex') };
  }
  const file = manifest.files.find((candidate) => candidate.path === path);
  if (file === undefined)
    throw new ProblemError(
      'not_found',
      `job ${job.id} left no file ${path}; it left ${[manifestPath, ...manifest.files.map((each) => each.path)].join(', ')}`,
      { param: 'path' },
    );
  return file;
}

/**
 * One `bytes=` range; end exclusive. Null, hence the whole file, for what RFC 9110 (14.2) lets a server ignore: another
 * unit, a malformed value, several ranges.
 * @throws ProblemError (416) when it lies outside the file
 */
function parseRange(header: string, { path, sizeBytes }: ArtifactFile): { start: number; end: number } | null {
  const match = /^bytes=(\d*)-(\d*)$/.exec(header.trim());
  if (!match || (match[1] === '' && match[2] === '')) return null;
  const [first, last] = [match[1] ?? '', match[2] ?? ''];
  const start = first === '' ? Math.max(0, sizeBytes - Number(last)) : Number(first);
  const end = first === '' || last === '' ? sizeBytes : Math.min(sizeBytes, Number(last) + 1);
  if (first !== '' && last !== '' && Number(last) < start) return null;
  if (start >= end)
    throw new ProblemError(
      'range_not_satisfiable',
      `range ${header} lies outside ${path}, which has ${sizeBytes} bytes`,
      {
        param: 'Range',
        headers: { 'Content-Range': `bytes */${sizeBytes}` },
      },
    );
  return { start, end };
}

/** A report opens in a browser, but in a sandbox: its text comes from a model that someone uploaded. */
function contentHeaders(path: string): Record<string, string> {
  const type = contentTypes[path.slice(path.lastIndexOf('.') + 1)] ?? otherType;
  if (!type.startsWith('text/html')) return { 'Content-Type': type };
  const policy =
    "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:";
  return { 'Content-Type': type, 'Content-Security-Policy': policy };
}
