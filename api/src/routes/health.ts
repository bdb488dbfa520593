/** Liveness, readiness and what this installation can do. Open to all; nothing secret in them. */
import { createRoute } from '@hono/zod-openapi';
import { supportedArchitectures } from '@cherryq/batch-jobs/planning';
import { artifactFormats, bitWidths, methodNames, type Capabilities } from 'cherryq/contract';
import { jsonContent, problems, schemas, type Api } from '../openapi.ts';
import type { Logger, Queue, Store } from '../ports.ts';

const tags = ['service'];

export function healthRoutes(app: Api, deps: { store: Store; queue: Queue; version: string; logger: Logger }): void {
  const { store, queue, version, logger } = deps;

  app.openapi(
    createRoute({
      method: 'get',
      path: '/healthz',
      tags,
      summary: 'The process runs',
      responses: { 200: jsonContent(schemas.health, 'It runs'), ...problems() },
    }),
    (c) => c.json({ status: 'ok' as const, version }, 200),
  );

  app.openapi(
    createRoute({
      method: 'get',
      path: '/readyz',
      tags,
      summary: 'Store and queue can be reached',
      responses: {
        200: jsonContent(schemas.health, 'It can take requests'),
        503: jsonContent(schemas.health, 'It cannot now'),
        ...problems(),
      },
    }),
    async (c) => {
      try {
        await Promise.all([store.list('tenants/', { limit: 1 }), queue.check()]);
        return c.json({ status: 'ok' as const, version }, 200);
      } catch (error) {
        logger({ level: 'error', message: 'not ready: store or queue cannot be reached', error });
        return c.json({ status: 'unavailable' as const, version }, 503);
      }
    },
  );

  app.openapi(
    createRoute({
      method: 'get',
      path: '/v1/capabilities',
      tags,
      summary: 'What this installation can do',
      responses: { 200: jsonContent(schemas.capabilities, 'Models, methods, widths and formats'), ...problems() },
    }),
    (c) => {
      const capabilities: Capabilities = {
        version,
        architectures: [...supportedArchitectures],
        methods: [...methodNames],
        bits: [...bitWidths],
        formats: [...artifactFormats],
      };
      return c.json(capabilities, 200);
    },
  );
}
