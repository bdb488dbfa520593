/** Liveness, readiness and what this installation can do. Open to all; nothing secret in them. */
import { createRoute } from '@hono/zod-openapi';
import { supportedArchitectures } from '@cherryq/batch-jobs/planning';
import {
  artifactFormats,
  bitWidths,
  createUploadSchema,
  jobKinds,
  listQuerySchema,
  methodNames,
  type Capabilities,
  type Machine,
} from 'cherryq/contract';
import { z } from 'zod';
import type { Meter } from '../limits.ts';
import { jsonContent, maxBodyBytes, problems, schemas, type Api } from '../openapi.ts';
import type { Logger, Queue, Store } from '../ports.ts';

const tags = ['service'];

/** As the contract bounds them. */
const { maxItems: filesPerUpload = 0 } = z.toJSONSchema(createUploadSchema.shape.files, { io: 'input' });
const { maximum: pageSize = 0 } = z.toJSONSchema(listQuerySchema.shape.limit);

export interface HealthDeps {
  store: Store;
  queue: Queue;
  meter: Meter;
  machines: readonly Machine[];
  version: string;
  logger: Logger;
}

export function healthRoutes(app: Api, deps: HealthDeps): void {
  const { store, queue, meter, machines, version, logger } = deps;

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
      responses: {
        200: jsonContent(schemas.capabilities, 'Models, methods, widths, formats, limits and machines'),
        ...problems(),
      },
    }),
    async (c) => {
      const capabilities: Capabilities = {
        version,
        architectures: [...supportedArchitectures],
        methods: [...methodNames],
        bits: [...bitWidths],
        formats: [...artifactFormats],
        kinds: [...jobKinds],
        limits: { ...(await meter.limits(c.var.tenant)), jsonBytes: maxBodyBytes, filesPerUpload, pageSize },
        machines: [...machines],
      };
      return c.json(capabilities, 200);
    },
  );
}
