/**
 * The settings of an install: the `cherryq:` keys of the CDK context, from cdk.json or `cdk ... -c cherryq:KEY=VALUE`.
 * They are checked before any construct is made, so a wrong one is told by its name and not by a failed deployment.
 */
import { limitsSchema } from 'cherryq/contract';
import { z } from 'zod';
import { machineTable } from '@cherryq/api/machines';

export const prefix = 'cherryq:';

const machineNames = Object.keys(machineTable);

/** `-c` hands over every value as text. */
const whole = (least: number, most: number) => z.coerce.number().int().min(least).max(most);
const wholeDays = whole(1, 3650);
const flag = z.union([z.boolean(), z.stringbool({ truthy: ['true'], falsy: ['false'] })]);
const fromText = (separator: string | null) => (value: unknown) => {
  if (typeof value !== 'string') return value;
  if (separator !== null && !value.startsWith('[')) return value === '' ? [] : value.split(separator);
  try {
    return JSON.parse(value) as unknown;
  } catch {
    return value;
  }
};
const list = <Item extends z.ZodType>(item: Item) => z.preprocess(fromText(','), z.array(item));
/** What CloudWatch can keep logs for. */
const logDays = [
  1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653,
];

/** Of the limits those that are given: a default would lift what the API limits by itself. */
const givenLimits = z.strictObject(
  Object.fromEntries(Object.entries(limitsSchema.shape).map(([name, limit]) => [name, limit.unwrap().optional()])),
);

const settings = {
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
  /** Pages, by their origin, whose scripts may send and fetch files with signed addresses. */
  browserOrigins: list(z.string().regex(/^https?:\/\/[a-z0-9.-]+(:\d+)?$/)).default([]),

  /**
   * How machines reach AWS. `endpoints`: subnets without internet, and an endpoint for each service; `nat`: out through a NAT gateway;
   * `public`: public addresses that nobody can connect to, at no cost while idle.
   */
  network: z.enum(['endpoints', 'nat', 'public']).default('endpoints'),
  /** Availability zones by name; none: the first two of the region. */
  zones: list(z.string().regex(/^[a-z]{2}(-[a-z]+)+-\d[a-z]$/)).default([]),
  /** Instance types, each with a queue and job definitions of its own, the largest last. */
  machines: list(z.enum(machineNames))
    .refine((names) => names.length > 0 && new Set(names).size === names.length)
    .default(['g4dn.2xlarge', 'g6.8xlarge', 'g5.8xlarge', 'g6e.8xlarge', 'p4d.24xlarge', 'p5.4xlarge']),
  /** Spot machines, with others where there are none; or one kind alone. */
  capacity: z.enum(['spotFirst', 'spot', 'onDemand']).default('spotFirst'),
  /** Instances of each type that may run at the same time, of each kind of capacity. */
  instancesAtMost: whole(1, 100).default(2),
  /** Encrypted disk of each machine, beside what it has of its own. */
  scratchGiB: whole(100, 16_000).default(500),
  /** After which a job's attempt is ended; a retry goes on from its checkpoint. */
  maxJobHours: whole(1, 720).default(72),
  /** After which a job for which there is no machine is cancelled. */
  maxWaitHours: whole(1, 24).default(12),
  /** Tenants that may run jobs; each has a role that reaches its own folder alone. */
  tenants: list(z.string().regex(/^[a-z0-9][a-z0-9-]{0,30}$/))
    .refine((names) => names.length > 0 && new Set(names).size === names.length)
    .default(['local']),
  /** The worker's image by digest; none: built from batch-jobs/Dockerfile when it is deployed. */
  imageUri: z
    .string()
    .regex(/^(|[a-z0-9][a-z0-9.:-]*\/[a-z0-9._/-]+(:[\w.-]+)?@sha256:[0-9a-f]{64})$/)
    .default(''),

  /** Who may call: AWS identities, holders of a JWT, or holders of the API's own keys. */
  auth: z.enum(['iam', 'jwt', 'keys']).default('iam'),
  /** What stands before the function. `functionUrl` and `restApi` stream answers; only `httpApi` checks JWTs. */
  front: z.enum(['functionUrl', 'restApi', 'httpApi']).default('functionUrl'),
  jwtIssuer: z.union([z.literal(''), z.url({ protocol: /^https$/ })]).default(''),
  jwtAudience: z.string().max(256).default(''),
  /** A name of yours for `restApi` or `httpApi`, with a certificate of ACM in the same region. */
  domainName: z
    .string()
    .regex(/^(|([a-z0-9-]+\.)+[a-z]{2,})$/)
    .default(''),
  certificateArn: z
    .string()
    .regex(/^(|arn:aws[a-z-]*:acm:[a-z0-9-]+:\d{12}:certificate\/[0-9a-f-]+)$/)
    .default(''),
  /** Public hosted zone of Route 53 that the name belongs to, which then gets its record; none: you make it. */
  hostedZoneId: z
    .string()
    .regex(/^(|Z[A-Z0-9]{1,31})$/)
    .default(''),
  /** AWS's common rules and a limit by address before `restApi`. */
  waf: flag.default(false),
  /** Requests that the function answers at the same time; more get 429. */
  apiConcurrency: whole(1, 1000).default(20),
  /** Of `restApi` and `httpApi`, all callers together. */
  requestsPerSecond: whole(1, 10_000).default(50),
  /** What each tenant may use, as JSON. */
  limits: z.preprocess(fromText(null), givenLimits).default({}),
  /** Days after which ended jobs are deleted; 0: they are kept. */
  retentionDays: whole(0, 3650).default(0),
  /** Days after which uploads and imports are deleted that never became ready. */
  abandonedDays: wholeDays.default(7),
  /** Buckets that models may be imported from, beside the public Hub; the API's functions may read them. */
  sourceBuckets: list(z.string().regex(/^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/)).default([]),
  /** Secret of Secrets Manager with the token that the API's functions show the Hub; none: only what is public is read. */
  hubTokenSecret: z
    .string()
    .regex(/^(|arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:\d{12}:secret:[\w/+=.@-]+-[A-Za-z0-9]{6})$/)
    .default(''),

  /** Days that logs are kept. */
  logDays: z.coerce
    .number()
    .refine((days) => logDays.includes(days))
    .default(90),
  /** Gets the alarms, once it has confirmed. */
  alarmEmail: z.union([z.literal(''), z.email()]).default(''),
  /** Tells of 80 % and 100 % of this, of what is tagged with the install's name; 0: no budget. */
  monthlyBudgetDollars: whole(0, 10_000_000).default(0),
};
const contextSchema = z.strictObject(settings);

export type InstallContext = z.infer<typeof contextSchema>;

const days = 'a whole number of days from 1 to 3650';
export const allowed: Record<keyof InstallContext, string> = {
  installName: 'up to 31 lower-case letters, digits and hyphens, a letter first',
  encryption: '"kms" or "s3"',
  retainData: 'true or false',
  checkpointDays: days,
  noncurrentVersionDays: days,
  browserOrigins: 'a list of origins such as https://tools.example.com',
  network: '"endpoints", "nat" or "public"',
  zones: 'a list of availability zones such as eu-central-1a',
  machines: `a list of different ones of ${machineNames.join(', ')}`,
  capacity: '"spotFirst", "spot" or "onDemand"',
  instancesAtMost: 'a whole number from 1 to 100',
  scratchGiB: 'a whole number from 100 to 16000',
  maxJobHours: 'a whole number of hours from 1 to 720',
  maxWaitHours: 'a whole number of hours from 1 to 24',
  tenants: 'a list of different names of up to 31 lower-case letters, digits and hyphens',
  imageUri: 'an image by its digest, as registry/name@sha256:..., or nothing',
  auth: '"iam", "jwt" or "keys"',
  front: '"functionUrl", "restApi" or "httpApi"',
  jwtIssuer: 'an https:// address, or nothing',
  jwtAudience: 'up to 256 characters',
  domainName: 'a name such as cherryq.example.com, or nothing',
  certificateArn: 'the ARN of a certificate of ACM, or nothing',
  hostedZoneId: 'the id of a hosted zone of Route 53 such as Z0123456789ABCDEFGHIJ, or nothing',
  waf: 'true or false',
  apiConcurrency: 'a whole number from 1 to 1000',
  requestsPerSecond: 'a whole number from 1 to 10000',
  limits: `JSON with any of ${Object.keys(limitsSchema.shape).join(', ')}`,
  retentionDays: 'a whole number of days from 0 to 3650',
  abandonedDays: days,
  sourceBuckets: 'a list of names of buckets',
  hubTokenSecret: 'the whole ARN of a secret of Secrets Manager, or nothing',
  logDays: `one of ${logDays.join(', ')}`,
  alarmEmail: 'an e-mail address, or nothing',
  monthlyBudgetDollars: 'a whole number of dollars from 0 to 10000000',
};

/** What two settings say together.  @returns the setting that has to change, and why */
function conflicts(context: InstallContext): [keyof InstallContext, string][] {
  const { auth, front, jwtIssuer, jwtAudience, domainName, certificateArn, hostedZoneId, waf } = context;
  const found: [keyof InstallContext, string | false][] = [
    [
      'front',
      auth === 'jwt' && front !== 'httpApi' && 'must be "httpApi" with cherryq:auth "jwt": no other checks JWTs',
    ],
    ['auth', auth !== 'jwt' && front === 'httpApi' && 'must be "jwt" with cherryq:front "httpApi"'],
    ['jwtIssuer', auth === 'jwt' && jwtIssuer === '' && 'is needed with cherryq:auth "jwt"'],
    ['jwtAudience', auth === 'jwt' && jwtAudience === '' && 'is needed with cherryq:auth "jwt"'],
    ['domainName', domainName !== '' && front === 'functionUrl' && 'needs cherryq:front "restApi" or "httpApi"'],
    ['certificateArn', (domainName === '') !== (certificateArn === '') && 'and cherryq:domainName need each other'],
    ['hostedZoneId', hostedZoneId !== '' && domainName === '' && 'needs cherryq:domainName'],
    ['waf', waf && front !== 'restApi' && 'needs cherryq:front "restApi"'],
  ];
  return found.filter((each): each is [keyof InstallContext, string] => each[1] !== false);
}

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
  if (parsed.success) {
    const problems = conflicts(parsed.data).map(
      ([key, why]) => `${prefix}${key}: ${why}; got ${JSON.stringify(parsed.data[key])}`,
    );
    if (problems.length > 0) throw misfit(problems);
    return parsed.data;
  }
  const wrong = parsed.error.issues.flatMap((issue) =>
    issue.code === 'unrecognized_keys' && issue.path.length === 0
      ? issue.keys.map((key) => `${prefix}${key}: unknown; did you mean ${prefix}${nearest(key)}?`)
      : [keyOf(issue)].map((key) => `${prefix}${key}: got ${JSON.stringify(own[key])}; allowed: ${allowed[key]}`),
  );
  throw misfit([...new Set(wrong)]);
}

const keyOf = (issue: z.core.$ZodIssue): keyof InstallContext => String(issue.path[0]) as keyof InstallContext;

function misfit(problems: readonly string[]): Error {
  return new Error(`The context does not fit (cdk.json, or -c on the command line).\n  ${problems.join('\n  ')}`);
}

/** The known key that takes the fewest insertions, deletions and replacements. */
function nearest(key: string): string {
  const distance = (a: string, b: string): number => {
    let row = Array.from({ length: b.length + 1 }, (_, index) => index);
    for (const letter of a) {
      const next = [(row[0] ?? 0) + 1];
      for (const [index, other] of [...b].entries())
        next.push(
          Math.min((row[index] ?? 0) + (letter === other ? 0 : 1), (row[index + 1] ?? 0) + 1, (next[index] ?? 0) + 1),
        );
      row = next;
    }
    return row.at(-1) ?? 0;
  };
  const known = Object.keys(settings).map((name) => ({ name, away: distance(key.toLowerCase(), name.toLowerCase()) }));
  return known.sort((a, b) => a.away - b.away)[0]?.name ?? '';
}
