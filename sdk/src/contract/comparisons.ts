/** A `compare` job: schemes side by side on one model, given one by one or as axes whose every combination is meant. */
import { z } from 'zod';
import { schemeSchema, type Scheme } from './schemes.ts';

/** Schemes that one job compares. */
export const mostSchemes = 24;
const mostCombinations = 20 * mostSchemes;

const { shape } = schemeSchema;
/** The fields of a scheme without their defaults, which come from the job's own `scheme`. */
const fields = {
  method: shape.method.unwrap(),
  bits: shape.bits.unwrap(),
  groupSize: shape.groupSize.unwrap(),
  cherryFraction: shape.cherryFraction.unwrap(),
  criterion: shape.criterion.unwrap(),
  cherryMode: shape.cherryMode.unwrap(),
  quantizer: shape.quantizer.unwrap(),
  groups: shape.groups.unwrap(),
  columnScales: shape.columnScales.unwrap(),
} satisfies Record<keyof Scheme, z.ZodType>;

const axis = <Field extends z.ZodType>(field: Field) =>
  z
    .array(field)
    .min(1)
    .max(mostSchemes)
    .refine((values) => new Set(values).size === values.length, 'names the same value twice')
    .optional();

export const axesSchema = z.strictObject({
  method: axis(fields.method),
  bits: axis(fields.bits),
  groupSize: axis(fields.groupSize),
  cherryFraction: axis(fields.cherryFraction),
  criterion: axis(fields.criterion),
  cherryMode: axis(fields.cherryMode),
  quantizer: axis(fields.quantizer),
  groups: axis(fields.groups),
  columnScales: axis(fields.columnScales),
} satisfies Record<keyof Scheme, z.ZodType>);

/** What a `compare` job compares: `schemes`, or `axes`; what they leave open is as in the job's `scheme`. */
export const comparisonSchema = z
  .strictObject({
    schemes: z.array(z.strictObject(fields).partial()).min(1).max(mostSchemes).optional(),
    axes: axesSchema.optional(),
  })
  .refine(({ schemes, axes }) => (schemes === undefined) !== (axes === undefined), 'must hold either schemes or axes');

export type Axes = z.infer<typeof axesSchema>;
export type Comparison = z.infer<typeof comparisonSchema>;

/**
 * The schemes of a comparison, in order; the last axis changes fastest. Where combinations of axes come to the same, because
 * a method makes no use of a field, the first is kept.
 */
export function schemesOf({ scheme, comparison }: { scheme: Scheme; comparison: Comparison }): Scheme[] {
  if (comparison.schemes) return comparison.schemes.map((own) => inEffect({ ...scheme, ...own }));
  let combined: Scheme[] = [scheme];
  for (const name of Object.keys(fields) as (keyof Scheme)[]) {
    const values = comparison.axes?.[name];
    if (values) combined = combined.flatMap((each) => values.map((value) => ({ ...each, [name]: value })));
  }
  return [...new Map(combined.map(inEffect).map((each) => [JSON.stringify(each), each])).values()];
}

/** What is wrong with a comparison as a whole, and the field that it is about; null when nothing is. */
export function comparisonFault(job: {
  scheme: Scheme;
  comparison: Comparison;
}): { path: (string | number)[]; message: string } | null {
  const combinations = Object.values(job.comparison.axes ?? {}).reduce((count, values) => count * values.length, 1);
  // What comes to the same is found among those that are made, which must not be many.
  const count = combinations > mostCombinations ? combinations : schemesOf(job).length;
  if (count > mostSchemes)
    return { path: ['axes'], message: `gives ${count} schemes; one job compares at most ${mostSchemes}` };
  const schemes = schemesOf(job);
  const texts = schemes.map((scheme) => JSON.stringify(scheme));
  const again = texts.findIndex((text, index) => texts.indexOf(text) < index);
  if (again < 0) return null;
  const first = texts.indexOf(texts[again] ?? '');
  return { path: ['schemes', again], message: `comes to the same as comparison.schemes.${first}; leave it out` };
}

/** With the fields that the method makes no use of as if nobody had named them. */
function inEffect(scheme: Scheme): Scheme {
  const { cherryFraction, criterion, cherryMode, columnScales } = schemeSchema.parse({});
  return {
    ...scheme,
    ...(scheme.method === 'cherryq' ? {} : { cherryFraction, criterion, cherryMode }),
    ...(scheme.method === 'rtn' ? { columnScales } : {}),
  };
}
