/** API keys, and what a tenant may use. */
import { z } from 'zod';
import { idSchema, timestampSchema } from './common.ts';

/** Each may do what those before it may. */
export const keyScopes = ['read', 'write', 'admin'] as const;
export type KeyScope = (typeof keyScopes)[number];

export const createKeySchema = z.strictObject({
  /** For people: where the key is used. */
  name: z.string().min(1).max(100),
  /** `read` looks and downloads, `write` also uploads and runs jobs, `admin` also makes and revokes keys. */
  scope: z.enum(keyScopes).default('write'),
});

export const keySchema = z.object({
  object: z.literal('key'),
  id: idSchema,
  name: z.string(),
  scope: z.enum(keyScopes),
  createdAt: timestampSchema,
  revokedAt: timestampSchema.nullable(),
});

/** The only answer that holds the secret: of it, only a hash is kept. */
export const createdKeySchema = keySchema.extend({ secret: z.string() });

/** What a tenant may use; null: as much as there is. */
export const limitsSchema = z.strictObject({
  requestsPerMinute: z.int().min(1).nullable().default(null),
  /** Jobs that have not ended. */
  openJobs: z.int().min(0).nullable().default(null),
  /** Of models and datasets, as they were declared. */
  storedBytes: z.int().min(0).nullable().default(null),
  /** Hours that workers have run in the present month (UTC). */
  computeHoursPerMonth: z.number().min(0).nullable().default(null),
});

export const usageSchema = z.object({
  object: z.literal('usage'),
  limits: limitsSchema,
  openJobs: z.number().int(),
  storedBytes: z.number().int(),
  /** Of jobs that have ended. */
  computeHoursThisMonth: z.number(),
});

export type CreateKey = z.input<typeof createKeySchema>;
export type Key = z.infer<typeof keySchema>;
export type CreatedKey = z.infer<typeof createdKeySchema>;
export type Limits = z.infer<typeof limitsSchema>;
export type Usage = z.infer<typeof usageSchema>;
