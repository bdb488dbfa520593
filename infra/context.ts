/**
 * The settings of an install: the `cherryq:` keys of the CDK context, from cdk.json or `cdk ... -c cherryq:KEY=VALUE`.
 * They are checked before any construct is made, so a wrong one is told by its name and not by a failed deployment.
 */
import { z } from 'zod';

const prefix = 'cherryq:';

/** `-c` hands over every value as text. */
const wholeDays = z.coerce.number().int().min(1).max(3650);
const flag = z.union([z.boolean(), z.stringbool({ truthy: ['true'], falsy: ['false'] })]);

const contextSchema = z.strictObject({
  /** Begins the names of the stacks, so that several installs can share an account. */
  installName: z
    .string()
    .regex(/^[a-z][a-z0-9-]{0,30}$/)
    .default('cherryq'),
  /** `kms`: a key of the install's own, rotated every year. `s3`: keys that S3 manages, at no cost. */
  encryption: z.enum(['kms', 's3']).default('kms'),
  /** Keeps the bucket and its key when the stack is deleted. */
  retainData: flag.default(true),
  /** Days after which a checkpoint is deleted: longer than any job may stand still. */
  checkpointDays: wholeDays.default(14),
  /** Days for which a replaced or deleted object can be brought back. */
  noncurrentVersionDays: wholeDays.default(30),
});

export type InstallContext = z.infer<typeof contextSchema>;

const allowed: Record<keyof InstallContext, string> = {
  installName: 'up to 31 lower-case letters, digits and hyphens, a letter first',
  encryption: '"kms" or "s3"',
  retainData: 'true or false',
  checkpointDays: 'a whole number of days from 1 to 3650',
  noncurrentVersionDays: 'a whole number of days from 1 to 3650',
};

/**
 * @param context all of the app's context; keys that do not begin with `cherryq:` are the CDK's own and pass
 * @throws Error that names each wrong or unknown key, the value received and the values allowed
 */
export function parseContext(context: Record<string, unknown>): InstallContext {
  const own = Object.fromEntries(
    Object.entries(context)
      .filter(([key]) => key.startsWith(prefix))
      .map(([key, value]) => [key.slice(prefix.length), value]),
  );
  const parsed = contextSchema.safeParse(own);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map((issue) => {
    if (issue.code === 'unrecognized_keys') {
      const known = Object.keys(allowed).map((key) => prefix + key);
      return `${issue.keys.map((key) => prefix + key).join(', ')}: unknown; known are ${known.join(', ')}`;
    }
    const key = String(issue.path[0]) as keyof InstallContext;
    return `${prefix}${key}: got ${JSON.stringify(own[key])}; allowed: ${allowed[key]}`;
  });
  throw new Error(`The context does not fit (cdk.json, or -c on the command line).\n  ${problems.join('\n  ')}`);
}
