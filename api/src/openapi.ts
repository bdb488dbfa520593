/**
 * The contract's schemas under the names that OpenAPI gives them, and the pieces that all routes share. The names are
 * made here, not in the contract, which knows nothing of OpenAPI.
 */
import type { OpenAPIHono } from '@hono/zod-openapi';
import { z } from 'zod';
import {
  artifactListSchema,
  cancelJobSchema,
  capabilitiesSchema,
  createJobSchema,
  createKeySchema,
  createdKeySchema,
  keySchema,
  usageSchema,
  createModelSchema,
  createUploadSchema,
  datasetSchema,
  filePathSchema,
  estimateSchema,
  healthSchema,
  idSchema,
  jobEventSchema,
  jobSchema,
  modelSchema,
  pageOf,
  partUploadSchema,
  partNumberSchema,
  requestPartsSchema,
  createWebhookSchema,
  updateWebhookSchema,
  webhookDeliverySchema,
  webhookPayloadSchema,
  webhookSchema,
  webhookWithSecretSchema,
  problemCodes,
  problemSchema,
  type ProblemCode,
} from 'cherryq/contract';

export interface ApiEnv {
  Variables: { requestId: string; tenant: string };
}
export type Api = OpenAPIHono<ApiEnv>;

/** JSON bodies; the longest, a model of 1000 files, has about 700 kB. */
export const maxBodyBytes = 2 * 1024 * 1024;

export const schemas = {
  model: modelSchema.meta({ id: 'Model' }),
  dataset: datasetSchema.meta({ id: 'Dataset' }),
  createUpload: createUploadSchema.meta({ id: 'CreateUpload' }),
  createModel: createModelSchema.meta({ id: 'CreateModel' }),
  requestParts: requestPartsSchema.meta({ id: 'RequestParts' }),
  partUpload: partUploadSchema.meta({ id: 'PartUpload' }),
  createJob: createJobSchema.meta({ id: 'CreateJob' }),
  cancelJob: cancelJobSchema.meta({ id: 'CancelJob' }),
  job: jobSchema.meta({ id: 'Job' }),
  event: jobEventSchema.meta({ id: 'JobEvent' }),
  artifacts: artifactListSchema.meta({ id: 'ArtifactList' }),
  key: keySchema.meta({ id: 'Key' }),
  createKey: createKeySchema.meta({ id: 'CreateKey' }),
  createdKey: createdKeySchema.meta({ id: 'CreatedKey' }),
  webhook: webhookSchema.meta({ id: 'Webhook' }),
  createWebhook: createWebhookSchema.meta({ id: 'CreateWebhook' }),
  updateWebhook: updateWebhookSchema.meta({ id: 'UpdateWebhook' }),
  webhookWithSecret: webhookWithSecretSchema.meta({ id: 'WebhookWithSecret' }),
  webhookDelivery: webhookDeliverySchema.meta({ id: 'WebhookDelivery' }),
  webhookPayload: webhookPayloadSchema.meta({ id: 'WebhookPayload' }),
  estimate: estimateSchema.meta({ id: 'Estimate' }),
  usage: usageSchema.meta({ id: 'Usage' }),
  health: healthSchema.meta({ id: 'Health' }),
  capabilities: capabilitiesSchema.meta({ id: 'Capabilities' }),
  problem: problemSchema.meta({ id: 'Problem' }),
};
export const pages = {
  models: pageOf(schemas.model).meta({ id: 'ModelPage' }),
  datasets: pageOf(schemas.dataset).meta({ id: 'DatasetPage' }),
  jobs: pageOf(schemas.job).meta({ id: 'JobPage' }),
  webhooks: pageOf(schemas.webhook).meta({ id: 'WebhookPage' }),
  webhookDeliveries: pageOf(schemas.webhookDelivery).meta({ id: 'WebhookDeliveryPage' }),
  events: pageOf(schemas.event).meta({ id: 'JobEventPage' }),
};

export const idParams = z.object({ id: idSchema });
export const idempotencyHeaders = z.object({
  'idempotency-key': z
    .string()
    .optional()
    .meta({ description: 'Sent again with the same key, the request is done once.' }),
});
export const fileParams = z.object({ id: idSchema, path: filePathSchema });
export const partParams = z.object({
  id: idSchema,
  number: z.coerce.number().pipe(partNumberSchema),
  path: filePathSchema,
});

/** A path parameter that takes slashes. The router needs its pattern; the document must not show it. */
export const filePathPattern = ':path{.+}';

export const jsonContent = <Schema extends z.ZodType>(schema: Schema, description: string) => ({
  description,
  content: { 'application/json': { schema } },
});

export const jsonBody = <Schema extends z.ZodType>(schema: Schema) => ({
  required: true,
  content: { 'application/json': { schema } },
});

const problem = (codes: ProblemCode[]) => ({
  description: codes.join(', '),
  content: { 'application/problem+json': { schema: schemas.problem } },
});

/** Any request under `/v1` can meet these. */
const common = ['unauthorized', 'forbidden', 'too_many_requests', 'internal', 'storage_full'] as const;

/** Responses for the given problems, and for those that any request can meet. */
export function problems<Code extends ProblemCode = never>(...codes: Code[]): ProblemResponses<Code> {
  const byStatus = new Map<number, ProblemCode[]>();
  for (const code of [...codes, ...common])
    byStatus.set(problemCodes[code], [...(byStatus.get(problemCodes[code]) ?? []), code]);
  return Object.fromEntries([...byStatus].map(([status, list]) => [status, problem(list)])) as ProblemResponses<Code>;
}
type ProblemResponses<Code extends ProblemCode> = {
  [Status in (typeof problemCodes)[Code]]: ReturnType<typeof problem>;
};
