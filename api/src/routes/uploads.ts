/** Models and datasets over HTTP: the same routes under two names. */
import { createRoute, z } from '@hono/zod-openapi';
import { listUploadsQuerySchema, putPartQuerySchema, type Page } from 'cherryq/contract';
import { createdHeaders, idempotently } from '../idempotency.ts';
import type { Jobs } from '../jobs.ts';
import type { Imports } from '../imports.ts';
import type { Meter } from '../limits.ts';
import {
  fileParams,
  filePathPattern,
  idempotencyHeaders,
  idParams,
  jsonBody,
  jsonContent,
  pages,
  partParams,
  problems,
  schemas,
  type Api,
} from '../openapi.ts';
import type { Clock, Store } from '../ports.ts';
import { ProblemError } from '../problems.ts';
import { sumOf, type Upload, type UploadKind, type Uploads } from '../uploads.ts';

export function uploadRoutes(
  app: Api,
  kind: UploadKind,
  deps: {
    store: Store;
    clock: Clock;
    newId: () => string;
    uploads: Uploads;
    imports: Imports;
    jobs: Jobs;
    meter: Meter;
  },
): void {
  const { uploads, imports, jobs, meter, newId } = deps;
  const base = `/v1/${kind}s`;
  const schema = kind === 'model' ? schemas.model : schemas.dataset;
  const createSchema: z.ZodType<z.output<typeof schemas.createModel>> =
    kind === 'model' ? schemas.createModel : schemas.createUpload;
  const page: z.ZodType<Page<Upload>> = kind === 'model' ? pages.models : pages.datasets;
  const tags = [`${kind}s`];

  app.openapi(
    createRoute({
      method: 'post',
      path: base,
      tags,
      summary:
        kind === 'model'
          ? 'Declare a model and its files, or let the server import it'
          : `Declare a ${kind} and its files`,
      request: { headers: idempotencyHeaders, body: jsonBody(createSchema) },
      responses: {
        201: jsonContent(schema, `The ${kind}, to be filled with its files`),
        ...problems(
          'invalid_request',
          'conflict',
          'idempotency_in_flight',
          'idempotency_mismatch',
          'payload_too_large',
          'does_not_fit',
          'quota_exceeded',
          'unavailable',
        ),
      },
    }),
    async (c) => {
      const body = c.req.valid('json');
      const tenant = c.var.tenant;
      const made = await idempotently(deps, {
        tenant,
        key: c.req.valid('header')['idempotency-key'],
        request: { route: `POST ${base}`, body },
        newId,
        create: async (id) => {
          if (!('source' in body)) {
            await meter.checkUpload(tenant, sumOf(body.files));
            return uploads.create(tenant, id, body);
          }
          const listing = await imports.plan(body.source);
          await meter.checkUpload(tenant, sumOf(listing.files));
          const upload = await uploads.createImport(tenant, id, { name: body.name ?? nameOf(listing.url), listing });
          imports.start(tenant, id);
          return upload;
        },
        created: (id) => uploads.created(tenant, id),
      });
      return c.json(made.answer, 201, createdHeaders(base, made));
    },
  );

  app.openapi(
    createRoute({
      method: 'get',
      path: base,
      tags,
      summary: `List ${kind}s, newest first`,
      request: { query: listUploadsQuerySchema },
      responses: { 200: jsonContent(page, `A page of ${kind}s`), ...problems('invalid_request') },
    }),
    async (c) => c.json(await uploads.list(c.var.tenant, c.req.valid('query')), 200),
  );

  app.openapi(
    createRoute({
      method: 'get',
      path: `${base}/{id}`,
      tags,
      summary: `Read a ${kind}`,
      request: { params: idParams },
      responses: { 200: jsonContent(schema, `The ${kind}`), ...problems('not_found') },
    }),
    async (c) => c.json(await uploads.retrieve(c.var.tenant, c.req.valid('param').id), 200),
  );

  app.openapi(
    createRoute({
      method: 'put',
      path: `${base}/{id}/files/${filePathPattern}`,
      tags,
      summary: 'Upload one declared file; length and SHA-256 are checked',
      request: {
        params: fileParams,
        body: {
          required: true,
          content: { 'application/octet-stream': { schema: z.string().openapi({ format: 'binary' }) } },
        },
      },
      responses: {
        204: { description: 'The file is there' },
        ...problems(
          'invalid_request',
          'not_found',
          'content_mismatch',
          ...(kind === 'model' ? ['invalid_model' as const] : []),
        ),
      },
    }),
    async (c) => {
      const { id, path } = c.req.valid('param');
      await uploads.putFile(c.var.tenant, id, path, c.req.raw.body, c.req.header('content-length'));
      return c.body(null, 204);
    },
  );

  app.openapi(
    createRoute({
      method: 'post',
      path: `${base}/{id}/parts`,
      tags,
      summary: 'Where to send parts of a large file, to the store or to this server; each is checked by its SHA-256',
      request: { params: idParams, body: jsonBody(schemas.requestParts) },
      responses: {
        200: jsonContent(schemas.partUpload, 'An address for each part'),
        ...problems('invalid_request', 'not_found', 'conflict', 'payload_too_large'),
      },
    }),
    async (c) => c.json(await uploads.requestParts(c.var.tenant, c.req.valid('param').id, c.req.valid('json')), 200),
  );

  app.openapi(
    createRoute({
      method: 'put',
      path: `${base}/{id}/parts/{number}/${filePathPattern}`,
      tags,
      summary: 'Upload one part of a declared file, where parts go through the server; length and SHA-256 are checked',
      request: {
        params: partParams,
        query: putPartQuerySchema,
        body: {
          required: true,
          content: { 'application/octet-stream': { schema: z.string().openapi({ format: 'binary' }) } },
        },
      },
      responses: {
        204: { description: 'The part is there' },
        ...problems(
          'invalid_request',
          'not_found',
          'conflict',
          'content_mismatch',
          'unavailable',
          ...(kind === 'model' ? ['invalid_model' as const] : []),
        ),
      },
    }),
    async (c) => {
      const { id, number, path } = c.req.valid('param');
      const part = { path, number, ...c.req.valid('query') };
      await uploads.putPart(c.var.tenant, id, part, c.req.raw.body, c.req.header('content-length'));
      return c.body(null, 204);
    },
  );

  app.openapi(
    createRoute({
      method: 'post',
      path: `${base}/{id}/complete`,
      tags,
      summary: `Make the ${kind} usable, once all its files are there`,
      request: { params: idParams },
      responses: {
        200: jsonContent(schema, `The ${kind}, ready`),
        ...problems(
          'not_found',
          'conflict',
          'content_mismatch',
          ...(kind === 'model' ? ['invalid_model' as const] : []),
        ),
      },
    }),
    async (c) => c.json(await uploads.complete(c.var.tenant, c.req.valid('param').id), 200),
  );

  app.openapi(
    createRoute({
      method: 'delete',
      path: `${base}/{id}`,
      tags,
      summary: `Delete a ${kind} that no unfinished job needs`,
      request: { params: idParams },
      responses: { 204: { description: 'It is gone' }, ...problems('not_found', 'conflict') },
    }),
    async (c) => {
      const { tenant } = c.var;
      const upload = await uploads.retrieve(tenant, c.req.valid('param').id);
      const user = await jobs.findUserOf(tenant, upload);
      if (user !== null)
        throw new ProblemError(
          'conflict',
          `${kind} ${upload.id} is needed by job ${user}; cancel that job or wait for its end`,
        );
      await uploads.remove(tenant, upload.id);
      return c.body(null, 204);
    },
  );
}

/** `hf://owner/name@revision`, `s3://bucket/folder/`: the last part. */
function nameOf(source: string): string {
  const [path = source] = source.replace(/^\w+:\/\//, '').split('@');
  return (
    path
      .split('/')
      .findLast((part) => part !== '')
      ?.slice(0, 200) ?? 'model'
  );
}
