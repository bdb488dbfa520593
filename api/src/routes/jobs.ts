/** Jobs over HTTP: create, list, read, cancel. */
import { createRoute } from '@hono/zod-openapi';
import { listJobsQuerySchema } from 'cherryq/contract';
import { idempotently } from '../idempotency.ts';
import type { Jobs } from '../jobs.ts';
import { idempotencyHeaders, idParams, jsonBody, jsonContent, pages, problems, schemas, type Api } from '../openapi.ts';
import type { Clock, Store } from '../ports.ts';

const tags = ['jobs'];

export function jobRoutes(app: Api, deps: { store: Store; clock: Clock; newId: () => string; jobs: Jobs }): void {
  const { jobs, newId } = deps;

  app.openapi(
    createRoute({
      method: 'post',
      path: '/v1/jobs',
      tags,
      summary: 'Compress a model',
      request: { headers: idempotencyHeaders, body: jsonBody(schemas.createJob) },
      responses: {
        202: jsonContent(schemas.job, 'The job, queued; its address is in Location'),
        ...problems(
          'invalid_request',
          'not_found',
          'conflict',
          'idempotency_in_flight',
          'idempotency_mismatch',
          'payload_too_large',
          'unavailable',
        ),
      },
    }),
    async (c) => {
      const body = c.req.valid('json');
      const tenant = c.var.tenant;
      const { answer, replayed } = await idempotently(deps, {
        tenant,
        key: c.req.valid('header')['idempotency-key'],
        request: { route: 'POST /v1/jobs', body },
        newId,
        create: (id) => jobs.create(tenant, id, body),
      });
      c.header('Location', `/v1/jobs/${answer.id}`);
      if (replayed) c.header('Idempotent-Replayed', 'true');
      return c.json(answer, 202);
    },
  );

  app.openapi(
    createRoute({
      method: 'get',
      path: '/v1/jobs',
      tags,
      summary: 'List jobs, newest first',
      request: { query: listJobsQuerySchema },
      responses: { 200: jsonContent(pages.jobs, 'A page of jobs'), ...problems('invalid_request') },
    }),
    async (c) => c.json(await jobs.list(c.var.tenant, c.req.valid('query')), 200),
  );

  app.openapi(
    createRoute({
      method: 'get',
      path: '/v1/jobs/{id}',
      tags,
      summary: 'Read a job',
      request: { params: idParams },
      responses: { 200: jsonContent(schemas.job, 'The job'), ...problems('not_found') },
    }),
    async (c) => c.json(await jobs.retrieve(c.var.tenant, c.req.valid('param').id), 200),
  );

  app.openapi(
    createRoute({
      method: 'post',
      path: '/v1/jobs/{id}/cancel',
      tags,
      summary: 'Cancel a job; again is fine',
      request: { params: idParams },
      responses: { 200: jsonContent(schemas.job, 'The job, cancelled'), ...problems('not_found', 'conflict') },
    }),
    async (c) => c.json(await jobs.cancel(c.var.tenant, c.req.valid('param').id), 200),
  );
}
