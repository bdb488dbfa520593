/** Estimates over HTTP. */
import { createRoute } from '@hono/zod-openapi';
import type { Jobs } from '../jobs.ts';
import { jsonBody, jsonContent, problems, schemas, type Api } from '../openapi.ts';

export function estimateRoutes(app: Api, { jobs }: { jobs: Jobs }): void {
  app.openapi(
    createRoute({
      method: 'post',
      path: '/v1/estimates',
      tags: ['jobs'],
      summary: 'What a job would need and cost, and whether it would be taken; nothing is started',
      request: { body: jsonBody(schemas.createJob) },
      responses: {
        200: jsonContent(schemas.estimate, 'Memory, disk, output, time and price'),
        ...problems('invalid_request', 'not_found', 'conflict', 'payload_too_large'),
      },
    }),
    async (c) => c.json(await jobs.estimate(c.var.tenant, c.req.valid('json')), 200),
  );
}
