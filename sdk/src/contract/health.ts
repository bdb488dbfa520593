/** Liveness, readiness and what this installation can do. */
import { z } from 'zod';
import { bitWidths, methodNames } from './schemes.ts';
import { artifactFormats } from './jobs.ts';

export const healthSchema = z.object({ status: z.enum(['ok', 'unavailable']), version: z.string() });

export const capabilitiesSchema = z.object({
  version: z.string(),
  architectures: z.array(z.string()),
  methods: z.array(z.enum(methodNames)),
  bits: z.array(z.union(bitWidths.map((bits) => z.literal(bits)))),
  formats: z.array(z.enum(artifactFormats)),
});
export type Health = z.infer<typeof healthSchema>;
export type Capabilities = z.infer<typeof capabilitiesSchema>;
