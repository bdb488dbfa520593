/** What a succeeded job leaves: files listed, with their hashes, in `manifest.json`, which is written last. */
import { z } from 'zod';
import { filePathSchema, sha256Schema } from './common.ts';
import { artifactFormats, jobKinds } from './jobs.ts';
import { schemeSchema, trainingSchema } from './schemes.ts';

export const artifactFileSchema = z.object({
  path: filePathSchema,
  sizeBytes: z.number().int(),
  sha256: sha256Schema,
});

/** `artifacts/manifest.json`. Holds nothing that depends on when or how often a job ran, so equal jobs give equal bytes. */
export const manifestSchema = z.object({
  formatVersion: z.literal(1),
  kind: z.enum(jobKinds),
  producer: z.string(),
  modelName: z.string(),
  modelFingerprint: sha256Schema,
  calibrationFingerprint: sha256Schema.nullable(),
  /** Of the token ids that training and impact took from the calibration set, as they were cut into windows. */
  calibrationWindowsSha256: sha256Schema.nullable(),
  /** Of the stored impact that the cherries were chosen by. */
  impactSha256: sha256Schema.nullable(),
  evaluationFingerprint: sha256Schema.nullable(),
  /** Null where the kind of job has none. */
  scheme: schemeSchema.nullable(),
  training: trainingSchema.nullable(),
  engine: z.string(),
  formats: z.array(z.enum(artifactFormats)),
  files: z.array(artifactFileSchema),
});

/** A file of the manifest, and where to fetch it. */
export const artifactSchema = artifactFileSchema.extend({
  /** Address in the store itself, good for an hour and for ranges; null: the file comes from the API. */
  url: z.string().nullable(),
});

export const artifactListSchema = z.object({
  object: z.literal('list'),
  data: z.array(artifactSchema),
  hasMore: z.literal(false),
});

export type Artifact = z.infer<typeof artifactSchema>;
export type ArtifactFile = z.infer<typeof artifactFileSchema>;
export type Manifest = z.infer<typeof manifestSchema>;
