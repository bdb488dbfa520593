/**
 * Webhooks: the API tells a server of the user's when a job has ended, signed as Standard Webhooks 1.0.0 says. What is sent is
 * thin; whoever wants more reads the job.
 */
import { z } from 'zod';
import { idSchema, metadataSchema, timestampSchema } from './common.ts';
import { jobKinds, jobStatusSchema } from './jobs.ts';

export const webhookEvents = ['job.succeeded', 'job.failed', 'job.cancelled'] as const;
export type WebhookEvent = (typeof webhookEvents)[number];

const settings = {
  /** Where events are sent, with POST. */
  url: z.url({ protocol: /^https?$/ }).max(2048),
  /** Which events are sent. */
  events: z
    .array(z.enum(webhookEvents))
    .min(1)
    .refine((events) => new Set(events).size === events.length, 'names the same event twice'),
  /** For people: what listens there. */
  description: z.string().max(200),
};

export const createWebhookSchema = z.strictObject({
  url: settings.url,
  events: settings.events.default([...webhookEvents]),
  description: settings.description.default(''),
});

export const updateWebhookSchema = z
  .strictObject({
    ...settings,
    /** While it is false nothing is sent; what waits is sent once it is true again, unless that takes over three days. */
    enabled: z.boolean(),
  })
  .partial()
  .refine((changes) => Object.keys(changes).length > 0, 'names nothing to change');

export const webhookSchema = z.object({
  object: z.literal('webhook'),
  id: idSchema,
  ...settings,
  enabled: z.boolean(),
  /** Why it was disabled, when that was not by request. */
  disabledReason: z.string().nullable(),
  createdAt: timestampSchema,
});

/** The answers to creation and rotation; no other shows the secret. */
export const webhookWithSecretSchema = webhookSchema.extend({
  /** `whsec_` and 32 random bytes in base64. */
  secret: z.string(),
});

export const webhookAttemptSchema = z.object({
  startedAt: timestampSchema,
  /** Asked for by hand: a test, or a replay. */
  manual: z.boolean(),
  /** Null where no answer came. */
  status: z.number().int().nullable(),
  durationMs: z.number().int().nullable(),
  /** Why it does not count as delivered. */
  error: z.string().nullable(),
  /** How the answer's body begins. */
  answer: z.string(),
});

export const webhookDeliverySchema = z.object({
  object: z.literal('webhook_delivery'),
  /** Of the job that it tells of; of a test, its own. */
  id: idSchema,
  webhookId: idSchema,
  type: z.enum([...webhookEvents, 'webhook.test']),
  createdAt: timestampSchema,
  /** `failed`: no attempt is left, unless somebody replays it. */
  status: z.enum(['pending', 'delivered', 'failed']),
  nextAttemptAt: timestampSchema.nullable(),
  /** What is sent, as it is signed. */
  payload: z.string(),
  attempts: z.array(webhookAttemptSchema),
});

/** The body of every call, thin on purpose: some servers refuse large ones. */
export const webhookPayloadSchema = z.discriminatedUnion('type', [
  z.object({
    type: z.enum(webhookEvents),
    timestamp: timestampSchema,
    data: z.object({
      object: z.literal('job'),
      id: idSchema,
      kind: z.enum(jobKinds),
      status: jobStatusSchema,
      modelId: idSchema,
      metadata: metadataSchema,
      /** `code` of the job's error; null unless it has failed. */
      errorCode: z.string().nullable(),
    }),
  }),
  z.object({
    type: z.literal('webhook.test'),
    timestamp: timestampSchema,
    data: z.object({ object: z.literal('webhook'), id: idSchema }),
  }),
]);

export type CreateWebhook = z.input<typeof createWebhookSchema>;
export type UpdateWebhook = z.input<typeof updateWebhookSchema>;
export type Webhook = z.infer<typeof webhookSchema>;
export type WebhookWithSecret = z.infer<typeof webhookWithSecretSchema>;
export type WebhookAttempt = z.infer<typeof webhookAttemptSchema>;
export type WebhookDelivery = z.infer<typeof webhookDeliverySchema>;
export type WebhookPayload = z.infer<typeof webhookPayloadSchema>;
