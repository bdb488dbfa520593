/** Jobs over HTTP: create, list, read, stop and go on, delete. */
import { createRoute } from '@hono/zod-openapi';
import { listJobsQuerySchema } from 'cherryq/contract';
import { createdHeaders, idempotently } from '../idempotency.ts';
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
      summary: 'Create a job: compress, analyze, evaluate or compare',
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
        request: { route: 'POST /v1/jobs', body },
        newId,
        create: (id) => jobs.create(tenant, id, body),
        created: (id) => jobs.created(tenant, id),
      });
      return c.json(made.answer, 202, createdHeaders('/v1/jobs', made));
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
      request: { params: idParams, body: { ...jsonBody(schemas.cancelJob), required: false } },
      responses: {
        200: jsonContent(schemas.job, 'The job, cancelled'),
        ...problems('invalid_request', 'not_found', 'conflict', 'payload_too_large'),
      },
    }),
    async (c) => {
      const { keepCheckpoint = false } = c.req.valid('json');
      return c.json(await jobs.cancel(c.var.tenant, c.req.valid('param').id, { keepCheckpoint }), 200);
    },
  );

  app.openapi(
    createRoute({
      method: 'post',
      path: '/v1/jobs/{id}/pause',
      tags,
      summary: 'Stop a job for a while, once it has saved a checkpoint; again is fine',
      request: { params: idParams },
      responses: { 200: jsonContent(schemas.job, 'The job, paused'), ...problems('not_found', 'conflict') },
    }),
    async (c) => c.json(await jobs.pause(c.var.tenant, c.req.valid('param').id), 200),
  );

  app.openapi(
    createRoute({
      method: 'post',
      path: '/v1/jobs/{id}/resume',
      tags,
      summary: 'Go on with a paused job; again is fine',
      request: { params: idParams },
      responses: {
        200: jsonContent(schemas.job, 'The job, queued or running'),
        ...problems('not_found', 'conflict', 'unavailable'),
      },
    }),
    async (c) => c.json(await jobs.resume(c.var.tenant, c.req.valid('param').id), 200),
  );

  app.openapi(
    createRoute({
      method: 'post',
      path: '/v1/jobs/{id}/retry',
      tags,
      summary: 'Repeat a job that failed or was cancelled, from its last checkpoint if it kept one; makes a new job',
      request: { params: idParams, headers: idempotencyHeaders },
      responses: {
        202: jsonContent(schemas.job, 'The new job, queued; its address is in Location'),
        ...problems(
          'invalid_request',
          'not_found',
          'conflict',
          'idempotency_in_flight',
          'idempotency_mismatch',
          'quota_exceeded',
          'unavailable',
        ),
      },
    }),
    async (c) => {
      const { id } = c.req.valid('param');
      const tenant = c.var.tenant;
      const made = await idempotently(deps, {
        tenant,
        key: c.req.valid('header')['idempotency-key'],
        request: { route: `POST /v1/jobs/${id}/retry`, body: null },
        newId,
        create: (other) => jobs.retry(tenant, id, other),
        created: (other) => jobs.created(tenant, other),
      });
      return c.json(made.answer, 202, createdHeaders('/v1/jobs', made));
    },
  );

  app.openapi(
    createRoute({
      method: 'delete',
      path: '/v1/jobs/{id}',
      tags,
      summary: 'Delete a job that has ended, with all that it left',
      request: { params: idParams },
      responses: { 204: { description: 'It is gone' }, ...problems('not_found', 'conflict') },
    }),
    async (c) => {
      await jobs.remove(c.var.tenant, c.req.valid('param').id);
      return c.body(null, 204);
    },
  );
}
