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

/** A model that the server fetches by itself. */
export const importModelSchema = z.strictObject({
  /** `hf://owner/name@revision`, `s3://bucket/prefix`, or, of a server on the same machine, `file:///folder`. */
  source: z
    .string()
    .max(1000)
    .regex(/^(hf|s3|file):\/\/./, 'is not hf://owner/name@revision, s3://bucket/prefix or file:///folder'),
  /** Default: the last part of the source. */
  name: z.string().min(1).max(200).optional(),
});

export const createModelSchema = z.union([createUploadSchema, importModelSchema]);

export const partNumberSchema = z.int().min(1).max(10_000);

export const requestPartsSchema = z.strictObject({
  path: filePathSchema,
  parts: z
    .array(z.strictObject({ number: partNumberSchema, sha256: sha256Schema }))
    .min(1)
    .max(100),
});

/** Of a part that goes through the server. */
export const putPartQuerySchema = z.strictObject({ sha256: sha256Schema });

/** Where to send parts of a file: each with PUT, its bytes as the body, and the headers as given. */
export const partUploadSchema = z.object({
  object: z.literal('part_upload'),
  path: filePathSchema,
  /** Of every part but the last. */
  partBytes: z.number().int(),
  /** Null: the addresses stay good. */
  expiresAt: timestampSchema.nullable(),
  parts: z.array(
    z.object({
      number: z.number().int(),
      /** Of its first byte in the file. */
      start: z.number().int(),
      sizeBytes: z.number().int(),
      /** Whether it is there, and need not be sent. */
      uploaded: z.boolean(),
      /** One that begins with a slash is this server's, and takes the API key; every other is a store's, and takes none. */
      url: z.string(),
      headers: z.record(z.string(), z.string()),
    }),
  ),
});

const uploadFields = {
  id: idSchema,
  name: z.string(),
  createdAt: timestampSchema,
  sizeBytes: z.number().int(),
  files: z.array(
    uploadFileSchema.extend({
      uploaded: z.boolean(),
      /** Size of the parts in which it can be sent; null: it is sent whole, with PUT. */
      partBytes: z.number().int().nullable(),
    }),
  ),
};

/** Where a model was imported from. */
export const modelSourceSchema = z.object({
  url: z.string(),
  /** Commit that a revision of the Hub was pinned to; null elsewhere. */
  revision: z.string().nullable(),
});

export const modelSchema = z.object({
  object: z.literal('model'),
  ...uploadFields,
  /** `importing`: the server fetches it, and `files` are those that it has. */
  status: z.enum(['uploading', 'importing', 'ready', 'failed']),
  /**
   * SHA-256 over the sorted `path sha256` lines: equal for equal content, so a client can find what it uploaded before. Null until
   * an import is ready.
   */
  fingerprint: sha256Schema.nullable(),
  /** Null: it was uploaded. */
  source: modelSourceSchema.nullable(),
  /** Of an import: what is there of `sizeBytes`. */
  importedBytes: z.number().int().nullable(),
  /** Why an import failed. */
  error: z.object({ code: z.string(), message: z.string(), param: z.string().nullable() }).nullable(),
});
export const datasetSchema = z.object({
  object: z.literal('dataset'),
  ...uploadFields,
  status: z.enum(['uploading', 'ready']),
  /** As a model's. */
  fingerprint: sha256Schema,
});

export const listUploadsQuerySchema = z.strictObject({
  limit: z.coerce.number().int().min(1).max(100).default(20),
  after: idSchema.optional(),
  fingerprint: sha256Schema.optional(),
});

export type PartUpload = z.infer<typeof partUploadSchema>;
export type UploadFile = z.infer<typeof uploadFileSchema>;
export type CreateUpload = z.input<typeof createUploadSchema>;
export type ImportModel = z.input<typeof importModelSchema>;
export type ModelSource = z.infer<typeof modelSourceSchema>;
export type Model = z.infer<typeof modelSchema>;
export type Dataset = z.infer<typeof datasetSchema>;
