/**
 * Models and datasets: named sets of files that a client uploads once and jobs refer to by id.
 * Life: create with the list of files -> PUT each file -> complete. Until then nothing can use it.
 */
import { z } from 'zod';
import { filePathSchema, idSchema, sha256Schema, timestampSchema } from './common.ts';

export const uploadFileSchema = z.strictObject({
  path: filePathSchema,
  sizeBytes: z.number().int().nonnegative(),
  sha256: sha256Schema,
});

export const createUploadSchema = z.strictObject({
  name: z.string().min(1).max(200),
  files: z
    .array(uploadFileSchema)
    .min(1)
    .max(1000)
    .refine((files) => new Set(files.map((file) => file.path)).size === files.length, 'names the same path twice'),
});

const uploadFields = {
  id: idSchema,
  name: z.string(),
  status: z.enum(['uploading', 'ready']),
  createdAt: timestampSchema,
  /** SHA-256 over the sorted `path sha256` lines: equal for equal content, so a client can find what it uploaded before. */
  fingerprint: sha256Schema,
  sizeBytes: z.number().int(),
  files: z.array(uploadFileSchema.extend({ uploaded: z.boolean() })),
};

export const modelSchema = z.object({ object: z.literal('model'), ...uploadFields });
export const datasetSchema = z.object({ object: z.literal('dataset'), ...uploadFields });

export const listUploadsQuerySchema = z.strictObject({
  limit: z.coerce.number().int().min(1).max(100).default(20),
  after: idSchema.optional(),
  fingerprint: sha256Schema.optional(),
});

export type UploadFile = z.infer<typeof uploadFileSchema>;
export type CreateUpload = z.input<typeof createUploadSchema>;
export type Model = z.infer<typeof modelSchema>;
export type Dataset = z.infer<typeof datasetSchema>;
