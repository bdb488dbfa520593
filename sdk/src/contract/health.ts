/** Liveness, readiness and what this installation can do. */
import { z } from 'zod';
import { machineSchema } from './estimates.ts';
import { artifactFormats, jobKinds } from './jobs.ts';
import { limitsSchema } from './keys.ts';
import { bitWidths, methodNames } from './schemes.ts';

export const healthSchema = z.object({ status: z.enum(['ok', 'unavailable']), version: z.string() });

export const capabilitiesSchema = z.object({
  version: z.string(),
  architectures: z.array(z.string()),
  methods: z.array(z.enum(methodNames)),
  bits: z.array(z.union(bitWidths.map((bits) => z.literal(bits)))),
  formats: z.array(z.enum(artifactFormats)),
  kinds: z.array(z.enum(jobKinds)),
  /** The most that a request may hold, and what the tenant may use. */
  limits: limitsSchema.extend({
    /** Of a JSON body. */
    jsonBytes: z.number().int(),
    filesPerUpload: z.number().int(),
    /** Entries of one page of a list. */
    pageSize: z.number().int(),
  }),
  /** What jobs run on, the one to prefer first. */
  machines: z.array(machineSchema),
});
export type Health = z.infer<typeof healthSchema>;
export type Capabilities = z.infer<typeof capabilitiesSchema>;
