import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { parseContext } from '../../infra/context.ts';

const defaults = {
  installName: 'cherryq',
  encryption: 'kms',
  retainData: true,
  checkpointDays: 14,
  noncurrentVersionDays: 30,
  browserOrigins: [],
  network: 'endpoints',
  zones: [],
  machines: ['g4dn.2xlarge', 'g6.8xlarge', 'g5.8xlarge', 'g6e.8xlarge', 'p4d.24xlarge', 'p5.4xlarge'],
  capacity: 'spotFirst',
  instancesAtMost: 2,
  scratchGiB: 500,
  maxJobHours: 72,
  maxWaitHours: 12,
  tenants: ['local'],
  imageUri: '',
  auth: 'iam',
  front: 'functionUrl',
  jwtIssuer: '',
  jwtAudience: '',
  domainName: '',
  certificateArn: '',
  hostedZoneId: '',
  waf: false,
  apiConcurrency: 20,
  requestsPerSecond: 50,
  limits: {},
  retentionDays: 0,
  abandonedDays: 7,
  sourceBuckets: [],
  hubTokenSecret: '',
  logDays: 90,
  alarmEmail: '',
  monthlyBudgetDollars: 0,
};

/** For each setting values that cannot be, and what the message says is allowed. */
const wrong: Record<keyof typeof defaults, readonly [unknown[], string]> = {
  installName: [['Cherry_Q', '', 'a'.repeat(32)], 'lower-case letters'],
  encryption: [['none'], '"kms" or "s3"'],
  retainData: [['maybe', 1], 'true or false'],
  checkpointDays: [[0, 'soon'], 'from 1 to 3650'],
  noncurrentVersionDays: [['1.5'], 'from 1 to 3650'],
  browserOrigins: [[['*'], 'tools.example.com', ['https://tools.example.com/']], 'https://tools.example.com'],
  network: [['vpc'], '"endpoints", "nat" or "public"'],
  zones: [[['eu-central-1']], 'eu-central-1a'],
  machines: [[[], ['g5.large'], ['g5.8xlarge', 'g5.8xlarge']], 'g5.8xlarge'],
  capacity: [['reserved'], '"spotFirst", "spot" or "onDemand"'],
  instancesAtMost: [[0, 101], 'from 1 to 100'],
  scratchGiB: [[50], 'from 100 to 16000'],
  maxJobHours: [[0, 1000], 'from 1 to 720'],
  maxWaitHours: [[0, 25], 'from 1 to 24'],
  tenants: [[[], ['Research'], ['a', 'a'], ['../a'], ['a*']], 'lower-case letters'],
  imageUri: [['example.com/worker:latest', 'worker'], '@sha256:'],
  auth: [['none', 'public'], '"iam", "jwt" or "keys"'],
  front: [['alb'], '"functionUrl", "restApi" or "httpApi"'],
  jwtIssuer: [['login.example.com', 'http://login.example.com'], 'https://'],
  jwtAudience: [[7], 'up to 256 characters'],
  domainName: [['https://cherryq.example.com', 'cherryq'], 'cherryq.example.com'],
  certificateArn: [['certificate'], 'the ARN of a certificate'],
  hostedZoneId: [['example.com', 'hostedzone/Z01'], 'the id of a hosted zone'],
  waf: [['on'], 'true or false'],
  apiConcurrency: [[0, 1001], 'from 1 to 1000'],
  requestsPerSecond: [[0], 'from 1 to 10000'],
  limits: [['many', { openJobs: -1 }, { jobs: 4 }], 'openJobs'],
  retentionDays: [[-1], 'from 0 to 3650'],
  abandonedDays: [[0], 'from 1 to 3650'],
  sourceBuckets: [[['*'], ['s3://models'], ['a/b']], 'names of buckets'],
  hubTokenSecret: [
    ['hf_token', 'hub-token', 'arn:aws:secretsmanager:eu-central-1:123456789012:secret:*', 7],
    'ARN of a secret of Secrets Manager',
  ],
  logDays: [[2], 'one of 1, 3, 5'],
  alarmEmail: [['ops'], 'an e-mail address'],
  monthlyBudgetDollars: [[-1, 'much'], 'from 0 to 10000000'],
};

describe('parseContext', () => {
  it('has a default for every key, and cdk.json writes them out', () => {
    const cdkJson: { context: Record<string, unknown> } = JSON.parse(
      readFileSync(new URL('../../cdk.json', import.meta.url), 'utf8'),
    );
    expect(parseContext({})).toEqual(defaults);
    expect(parseContext(cdkJson.context)).toEqual(defaults);
    const own = Object.keys(cdkJson.context).filter((key) => key.startsWith('cherryq:'));
    expect(own).toEqual(Object.keys(defaults).map((key) => `cherryq:${key}`));
  });

  it('reads the text that -c hands over', () => {
    expect(parseContext({ 'cherryq:checkpointDays': '3', 'cherryq:retainData': 'false' })).toEqual({
      ...defaults,
      checkpointDays: 3,
      retainData: false,
    });
  });

  it("lets the CDK's own keys pass", () => {
    expect(parseContext({ 'aws:cdk:enable-asset-metadata': true })).toEqual(defaults);
  });

  it('reads lists and JSON from text', () => {
    const given = {
      'cherryq:machines': 'g5.8xlarge,g6e.8xlarge',
      'cherryq:limits': '{"openJobs": 4}',
      'cherryq:tenants': '["a"]',
    };
    expect(parseContext(given)).toMatchObject({
      machines: ['g5.8xlarge', 'g6e.8xlarge'],
      limits: { openJobs: 4 },
      tenants: ['a'],
    });
  });

  const cases = Object.entries(wrong).flatMap(([key, [values, said]]) => values.map((value) => ({ key, value, said })));
  it.each(cases)('$key: $value is refused, with the value received and the values allowed', ({ key, value, said }) => {
    const parse = () => parseContext({ [`cherryq:${key}`]: value });
    expect(parse).toThrow(`cherryq:${key}: got ${JSON.stringify(value)}`);
    expect(parse).toThrow(said);
  });

  it.each([
    [{ auth: 'jwt' }, 'cherryq:front: must be "httpApi"'],
    [{ front: 'httpApi' }, 'cherryq:auth: must be "jwt"'],
    [{ auth: 'jwt', front: 'httpApi', jwtAudience: 'a' }, 'cherryq:jwtIssuer: is needed'],
    [{ auth: 'jwt', front: 'httpApi', jwtIssuer: 'https://a.example' }, 'cherryq:jwtAudience: is needed'],
    [{ domainName: 'a.example.com' }, 'cherryq:domainName: needs cherryq:front'],
    [{ domainName: 'a.example.com', front: 'restApi' }, 'cherryq:certificateArn: and cherryq:domainName'],
    [{ hostedZoneId: 'Z01' }, 'cherryq:hostedZoneId: needs cherryq:domainName'],
    [{ waf: true }, 'cherryq:waf: needs cherryq:front "restApi"'],
  ])('%o do not go together', (settings, message) => {
    const context = Object.fromEntries(Object.entries(settings).map(([key, value]) => [`cherryq:${key}`, value]));
    expect(() => parseContext(context)).toThrow(message);
  });

  it.each([
    ['checkpointDay', 'checkpointDays'],
    ['machine', 'machines'],
    ['Tenants', 'tenants'],
    ['monthlyBudget', 'monthlyBudgetDollars'],
  ])('%s is unknown, and %s is the nearest', (key, name) => {
    expect(() => parseContext({ [`cherryq:${key}`]: 3 })).toThrow(
      `cherryq:${key}: unknown; did you mean cherryq:${name}?`,
    );
  });
});
