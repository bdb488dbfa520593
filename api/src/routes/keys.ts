/** API keys and usage over HTTP. */
import { createRoute } from '@hono/zod-openapi';
import { pageOf } from 'cherryq/contract';
import type { Keyring } from '../keyring.ts';
import type { Meter } from '../limits.ts';
import { idParams, jsonBody, jsonContent, problems, schemas, type Api } from '../openapi.ts';

const tags = ['keys'];
const keyPage = pageOf(schemas.key).meta({ id: 'KeyPage' });

export function keyRoutes(app: Api, { keyring, meter }: { keyring: Keyring; meter: Meter }): void {
  app.openapi(
    createRoute({
      method: 'post',
      path: '/v1/keys',
      tags,
      summary: 'Make an API key; its secret is shown this once',
      request: { body: jsonBody(schemas.createKey) },
      responses: {
        201: jsonContent(schemas.createdKey, 'The key with its secret'),
        ...problems('invalid_request', 'payload_too_large'),
      },
    }),
    async (c) => {
      const key = await keyring.create(c.var.tenant, c.req.valid('json'));
      c.header('Cache-Control', 'no-store');
      return c.json(key, 201);
    },
  );

  app.openapi(
    createRoute({
      method: 'get',
      path: '/v1/keys',
      tags,
      summary: 'List API keys, oldest first, revoked ones too',
      responses: { 200: jsonContent(keyPage, 'All keys'), ...problems() },
    }),
    async (c) => c.json(await keyring.list(c.var.tenant), 200),
  );

  app.openapi(
    createRoute({
      method: 'delete',
      path: '/v1/keys/{id}',
      tags,
      summary: 'Revoke an API key; it is refused within ten seconds. Again is fine',
      request: { params: idParams },
      responses: { 200: jsonContent(schemas.key, 'The key, revoked'), ...problems('not_found') },
    }),
    async (c) => c.json(await keyring.revoke(c.var.tenant, c.req.valid('param').id), 200),
  );

  app.openapi(
    createRoute({
      method: 'get',
      path: '/v1/usage',
      tags,
      summary: 'What the tenant may use, and what it uses',
      responses: { 200: jsonContent(schemas.usage, 'Limits and usage'), ...problems() },
    }),
    async (c) => c.json(await meter.usage(c.var.tenant), 200),
  );
}
