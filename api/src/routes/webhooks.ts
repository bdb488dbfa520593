/** Webhooks over HTTP. */
import { createRoute } from '@hono/zod-openapi';
import { idSchema, listQuerySchema } from 'cherryq/contract';
import { createdHeaders, idempotently } from '../idempotency.ts';
import { idempotencyHeaders, idParams, jsonBody, jsonContent, pages, problems, schemas, type Api } from '../openapi.ts';
import type { Clock, Store } from '../ports.ts';
import type { Webhooks } from '../webhooks.ts';

const tags = ['webhooks'];
const deliveryParams = idParams.extend({ deliveryId: idSchema });

export function webhookRoutes(
  app: Api,
  deps: { store: Store; clock: Clock; newId: () => string; webhooks: Webhooks },
): void {
  const { webhooks, newId } = deps;

  app.openAPIRegistry.registerWebhook({
    method: 'post',
    path: 'job.ended',
    tags,
    summary: 'What a webhook is sent when a job has ended, or as a test',
    request: { body: jsonBody(schemas.webhookPayload) },
    responses: { 204: { description: 'Taken; anything else but 2xx is sent again' } },
  });

  app.openapi(
    createRoute({
      method: 'post',
      path: '/v1/webhooks',
      tags,
      summary: 'Ask to be told when jobs end; the secret that signs is in the answer',
      request: { headers: idempotencyHeaders, body: jsonBody(schemas.createWebhook) },
      responses: {
        201: jsonContent(schemas.webhookWithSecret, 'The webhook with its secret; its address is in Location'),
        ...problems(
          'invalid_request',
          'idempotency_in_flight',
          'idempotency_mismatch',
          'payload_too_large',
          'quota_exceeded',
        ),
      },
    }),
    async (c) => {
      const body = c.req.valid('json');
      const tenant = c.var.tenant;
      const made = await idempotently(deps, {
        tenant,
        key: c.req.valid('header')['idempotency-key'],
        request: { route: 'POST /v1/webhooks', body },
        newId,
        create: (id) => webhooks.create(tenant, id, body),
        created: (id) => webhooks.created(tenant, id),
      });
      c.header('Cache-Control', 'no-store');
      return c.json(made.answer, 201, createdHeaders('/v1/webhooks', made));
    },
  );

  app.openapi(
    createRoute({
      method: 'get',
      path: '/v1/webhooks',
      tags,
      summary: 'List webhooks, oldest first',
      responses: { 200: jsonContent(pages.webhooks, 'All webhooks'), ...problems() },
    }),
    async (c) => c.json(await webhooks.list(c.var.tenant), 200),
  );

  app.openapi(
    createRoute({
      method: 'get',
      path: '/v1/webhooks/{id}',
      tags,
      summary: 'Read a webhook',
      request: { params: idParams },
      responses: { 200: jsonContent(schemas.webhook, 'The webhook'), ...problems('not_found') },
    }),
    async (c) => c.json(await webhooks.retrieve(c.var.tenant, c.req.valid('param').id), 200),
  );

  app.openapi(
    createRoute({
      method: 'patch',
      path: '/v1/webhooks/{id}',
      tags,
      summary: 'Change a webhook, disable or enable it',
      request: { params: idParams, body: jsonBody(schemas.updateWebhook) },
      responses: {
        200: jsonContent(schemas.webhook, 'The webhook as it is now'),
        ...problems('invalid_request', 'not_found', 'payload_too_large'),
      },
    }),
    async (c) => c.json(await webhooks.update(c.var.tenant, c.req.valid('param').id, c.req.valid('json')), 200),
  );

  app.openapi(
    createRoute({
      method: 'delete',
      path: '/v1/webhooks/{id}',
      tags,
      summary: 'Delete a webhook with its deliveries; nothing more is sent to it',
      request: { params: idParams },
      responses: { 204: { description: 'It is gone' }, ...problems('not_found') },
    }),
    async (c) => {
      await webhooks.remove(c.var.tenant, c.req.valid('param').id);
      return c.body(null, 204);
    },
  );

  app.openapi(
    createRoute({
      method: 'post',
      path: '/v1/webhooks/{id}/rotate-secret',
      tags,
      summary: 'Make a new secret; for a day the old one signs as well',
      request: { params: idParams },
      responses: {
        200: jsonContent(schemas.webhookWithSecret, 'The webhook with its new secret'),
        ...problems('not_found'),
      },
    }),
    async (c) => {
      const webhook = await webhooks.rotateSecret(c.var.tenant, c.req.valid('param').id);
      c.header('Cache-Control', 'no-store');
      return c.json(webhook, 200);
    },
  );

  app.openapi(
    createRoute({
      method: 'post',
      path: '/v1/webhooks/{id}/test',
      tags,
      summary: 'Send an event of the type webhook.test now',
      request: { params: idParams },
      responses: {
        200: jsonContent(schemas.webhookDelivery, 'What came of it'),
        ...problems('not_found', 'conflict'),
      },
    }),
    async (c) => c.json(await webhooks.test(c.var.tenant, c.req.valid('param').id), 200),
  );

  app.openapi(
    createRoute({
      method: 'get',
      path: '/v1/webhooks/{id}/deliveries',
      tags,
      summary: 'List what was sent to a webhook in the last 30 days, the newest job first',
      request: { params: idParams, query: listQuerySchema },
      responses: {
        200: jsonContent(pages.webhookDeliveries, 'A page of deliveries with every attempt'),
        ...problems('invalid_request', 'not_found'),
      },
    }),
    async (c) => c.json(await webhooks.deliveries(c.var.tenant, c.req.valid('param').id, c.req.valid('query')), 200),
  );

  app.openapi(
    createRoute({
      method: 'post',
      path: '/v1/webhooks/{id}/deliveries/{deliveryId}/replay',
      tags,
      summary: 'Send a delivery once more, now',
      request: { params: deliveryParams },
      responses: {
        200: jsonContent(schemas.webhookDelivery, 'What came of it'),
        ...problems('not_found', 'conflict'),
      },
    }),
    async (c) => {
      const { id, deliveryId } = c.req.valid('param');
      return c.json(await webhooks.replay(c.var.tenant, id, deliveryId), 200);
    },
  );
}
