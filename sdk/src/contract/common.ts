/**
 * Pieces that several resources share. The contract is the one place where a field of CherryQ's wire format is defined:
 * the API validates with these schemas, OpenAPI is made from them and the SDK's types are inferred from them.
 */
import { z } from 'zod';

/** ULID: 26 characters of Crockford base 32; sorts by time of creation. */
export const idSchema = z
  .string()
  .regex(/^[0-9A-HJKMNP-TV-Z]{26}$/, 'is not an id (26 characters, as the API gave it)');

export const sha256Schema = z
  .string()
  .regex(/^[0-9a-f]{64}$/, 'is not a SHA-256 in lower-case hexadecimal (64 digits)');

/** Path of a file inside a model, a dataset or an artifact folder: relative, forward slashes, no dot segments. */
export const filePathSchema = z
  .string()
  .min(1)
  .max(512)
  .regex(
    /^(?!\.{1,2}(\/|$))[A-Za-z0-9_.+-]+(\/(?!\.{1,2}(\/|$))[A-Za-z0-9_.+-]+)*$/,
    'is not a relative path of letters, digits and _ . + - with forward slashes',
  );

export const timestampSchema = z.iso.datetime();

/** Free labels on a job: at most 16 pairs, as OpenAI's jobs allow. */
export const metadataSchema = z
  .record(z.string().max(64), z.string().max(512))
  .refine((value) => Object.keys(value).length <= 16, 'has more than 16 pairs');

/** `key=value`; the value may hold further equals signs. */
export const metadataPairSchema = z
  .string()
  .max(577)
  .regex(/^[^=]+=/, 'is not key=value')
  .transform((pair) => ({ key: pair.slice(0, pair.indexOf('=')), value: pair.slice(pair.indexOf('=') + 1) }));

export const listQuerySchema = z.strictObject({
  limit: z.coerce.number().int().min(1).max(100).default(20),
  after: idSchema.optional(),
});

export const pageOf = <Item extends z.ZodType>(item: Item) =>
  z.object({
    object: z.literal('list'),
    data: z.array(item),
    hasMore: z.boolean(),
    /** What to give as `after` for the next page; null when there is none. */
    next: z.string().nullable(),
  });

export type Page<Item> = { object: 'list'; data: Item[]; hasMore: boolean; next: string | null };
