/** Kinds of installs that between them have every construct. */
const certificateArn = 'arn:aws:acm:eu-central-1:123456789012:certificate/01234567-89ab-cdef-0123-456789abcdef';

export const installs: Readonly<Record<string, Record<string, unknown>>> = {
  'as it comes': {},
  'with keys for two tenants behind a REST API and a firewall': {
    auth: 'keys',
    front: 'restApi',
    waf: true,
    tenants: ['research', 'search'],
    domainName: 'cherryq.example.com',
    certificateArn,
    network: 'nat',
    encryption: 's3',
    browserOrigins: ['https://tools.example.com'],
    alarmEmail: 'ops@example.com',
    monthlyBudgetDollars: 500,
    machines: ['g5.8xlarge'],
    zones: ['eu-central-1a', 'eu-central-1b', 'eu-central-1c'],
  },
  'with JWTs, public addresses and on-demand machines': {
    auth: 'jwt',
    front: 'httpApi',
    jwtIssuer: 'https://login.example.com/',
    jwtAudience: 'cherryq',
    domainName: 'cherryq.example.com',
    certificateArn,
    hostedZoneId: 'Z0123456789ABCDEFGHIJ',
    network: 'public',
    capacity: 'onDemand',
    machines: ['g6e.8xlarge', 'p4d.24xlarge'],
    limits: { openJobs: 4 },
    retentionDays: 90,
    sourceBuckets: ['company-models'],
    hubTokenSecret: 'arn:aws:secretsmanager:eu-central-1:123456789012:secret:hub/token-a1B2c3',
  },
};
