/** What every role of an install may do, read from the templates. */
import { describe, expect, it } from 'vitest';
import { wildcards } from '../../infra/permissions.ts';
import { installs } from './installs.ts';
import { stackNames, synth, type StackName, type Synthesized } from '../support/synth.ts';

interface Statement {
  readonly Effect: string;
  readonly Action: string | string[];
  readonly Resource?: unknown;
  readonly Principal?: unknown;
  readonly Condition?: Record<string, unknown>;
}
interface Found {
  readonly stack: StackName;
  readonly id: string;
  readonly type: string;
  readonly statement: Statement;
}

/** Every statement of every policy, wherever in a template it stands. */
function statementsOf(made: Synthesized): Found[] {
  const found: Found[] = [];
  for (const stack of stackNames)
    for (const [id, { Type: type, Properties = {} }] of Object.entries(made.resources(stack))) {
      const look = (value: unknown): void => {
        if (typeof value !== 'object' || value === null) return;
        if ('Statement' in value)
          for (const statement of [value.Statement].flat() as Statement[]) found.push({ stack, id, type, statement });
        for (const inner of Object.values(value)) look(inner);
      };
      look(Properties);
    }
  return found;
}

/** A resource as text, what CloudFormation fills in by name. */
function textOf(resource: unknown): string {
  if (typeof resource === 'string') return resource;
  const [[name, value]] = Object.entries(resource as Record<string, unknown>) as [[string, unknown]];
  if (name === 'Fn::Join') {
    const [separator, parts] = value as [string, unknown[]];
    return parts.map(textOf).join(separator);
  }
  return `<${name === 'Ref' || name === 'Fn::ImportValue' ? String(value) : (value as string[]).join('.')}>`;
}
const all = (value: unknown): unknown[] => (value === undefined ? [] : [value].flat());
const actionsOf = ({ Action }: Statement): string[] => all(Action) as string[];
const resourcesOf = ({ Resource }: Statement): string[] => all(Resource).map(textOf);

const each = Object.entries(installs).map(([name, settings]) => ({ name, made: synth(settings) }));

/** Each action on each resource with a wildcard. */
const wildIn = (allowing: readonly Found[]) =>
  allowing.flatMap(({ stack, id, statement }) =>
    resourcesOf(statement)
      .filter((resource) => resource.includes('*'))
      .flatMap((resource) => actionsOf(statement).map((action) => ({ stack, id, action, resource }))),
  );

it('no reason for a wildcard is written down without a need', () => {
  const wild = each.flatMap(({ made }) => wildIn(statementsOf(made)));
  const needless = wildcards.filter(
    ({ ending, actions }) => !wild.some(({ resource, action }) => ending.test(resource) && actions.test(action)),
  );
  expect(needless).toEqual([]);
});

describe.each(each)('$name', ({ made }) => {
  const statements = statementsOf(made);
  const allowing = statements.filter(({ statement }) => statement.Effect === 'Allow');

  it('no statement allows an action by a wildcard', () => {
    expect(allowing.length).toBeGreaterThan(20);
    const wild = allowing.filter(({ statement }) => actionsOf(statement).some((action) => action.includes('*')));
    expect(wild).toEqual([]);
  });

  it('no resource has a wildcard that has no written reason', () => {
    const wild = wildIn(allowing);
    const unexplained = wild.filter(
      ({ action, resource }) => !wildcards.some(({ ending, actions }) => ending.test(resource) && actions.test(action)),
    );
    expect(unexplained).toEqual([]);
  });

  it('nobody outside the account is let in, nor everybody by a policy', () => {
    const open = allowing.filter(({ statement }) => JSON.stringify(statement.Principal ?? {}).includes('*'));
    expect(open).toEqual([]);
    const trusted = allowing.flatMap(({ type, statement }) =>
      type === 'AWS::IAM::Role' && statement.Principal !== undefined ? [JSON.stringify(statement.Principal)] : [],
    );
    const services = [
      'ec2.amazonaws.com',
      'ecs-tasks.amazonaws.com',
      'lambda.amazonaws.com',
      'vpc-flow-logs.amazonaws.com',
    ];
    expect([...new Set(trusted)].sort()).toEqual(services.map((Service) => JSON.stringify({ Service })));
  });

  it("only AWS's policy for the agent of ECS is attached", () => {
    const attached = stackNames.flatMap((stack) =>
      Object.values(made.resources(stack)).flatMap(({ Properties = {} }) => all(Properties.ManagedPolicyArns)),
    );
    expect(attached.map(textOf)).toEqual([
      'arn:<AWS::Partition>:iam::aws:policy/service-role/AmazonEC2ContainerServiceforEC2Role',
    ]);
  });

  it("a job reaches its own tenant's folder, and nothing else of the data", () => {
    for (const tenant of made.context.tenants) {
      const own = allowing.filter(({ type, statement, id }) => {
        const isItsPolicy =
          type === 'AWS::IAM::Policy' && id.startsWith(`JobRole${tenant.replaceAll('-', '')}DefaultPolicy`);
        return isItsPolicy && statement.Principal === undefined;
      });
      const said = own.map(({ statement }) => ({
        actions: actionsOf(statement),
        resources: resourcesOf(statement).map((resource) => resource.replace(/^<[^>]*>/, '<bucket or key>')),
        condition: statement.Condition,
      }));
      const bucket = '<bucket or key>';
      expect(said).toEqual([
        {
          actions: [
            's3:GetObject',
            's3:PutObject',
            's3:DeleteObject',
            's3:PutObjectTagging',
            's3:AbortMultipartUpload',
            's3:ListMultipartUploadParts',
          ],
          resources: [`${bucket}/tenants/${tenant}/*`],
          condition: undefined,
        },
        {
          actions: ['s3:ListBucket'],
          resources: [bucket],
          condition: { StringLike: { 's3:prefix': `tenants/${tenant}/*` } },
        },
        ...(made.context.encryption === 'kms'
          ? [{ actions: ['kms:Decrypt', 'kms:GenerateDataKey'], resources: [bucket], condition: expect.anything() }]
          : []),
      ]);
    }
  });

  it('the API submits to its own queues and definitions, and stops what carries its tag', () => {
    const ofHttp = allowing.filter(({ id, type }) => type === 'AWS::IAM::Policy' && id.startsWith('HttpRole'));
    const by = (action: string) => {
      const found = ofHttp.filter(({ statement }) => actionsOf(statement).includes(action));
      expect(found, action).toHaveLength(1);
      const [{ statement }] = found;
      return {
        resources: resourcesOf(statement).map((resource) => resource.replace(/^.*<AWS::AccountId>:/, '')),
        condition: statement.Condition,
      };
    };
    const { machines, tenants } = made.context;
    const names = machines.map((machine) => `cherryq-${machine.replaceAll('.', '-')}`);
    expect(by('batch:SubmitJob')).toEqual({
      resources: [
        ...names.map((name) => `job-queue/${name}`),
        ...names.flatMap((name) =>
          tenants.flatMap((tenant) => [`job-definition/${name}-${tenant}`, `job-definition/${name}-${tenant}:*`]),
        ),
      ],
      condition: undefined,
    });
    const tagged = (key: string) => ({ StringEquals: { [`aws:${key}/cherryq:install`]: 'cherryq' } });
    expect(by('batch:TerminateJob')).toEqual({ resources: ['job/*'], condition: tagged('ResourceTag') });
    expect(by('batch:TagResource')).toEqual({ resources: ['job/*'], condition: tagged('RequestTag') });
    expect(by('s3:PutObject').resources.map((resource) => resource.replace(/^<[^>]*>/, ''))).toEqual([
      '/tenants/*',
      '/keys/*',
      '/swept/*',
    ]);
    const read = ofHttp.flatMap(({ statement }) =>
      actionsOf(statement).includes('s3:GetObject') ? resourcesOf(statement) : [],
    );
    expect(read.slice(by('s3:PutObject').resources.length)).toEqual(
      made.context.sourceBuckets.map((name) => `arn:<AWS::Partition>:s3:::${name}/*`),
    );
    const services = new Set(
      ofHttp.flatMap(({ statement }) => actionsOf(statement).map((action) => action.split(':')[0])),
    );
    const { encryption, hubTokenSecret } = made.context;
    expect([...services].sort()).toEqual([
      'batch',
      ...(encryption === 'kms' ? ['kms'] : []),
      'logs',
      's3',
      ...(hubTokenSecret === '' ? [] : ['secretsmanager']),
    ]);
    const ofSecrets = ofHttp.filter(({ statement }) => actionsOf(statement).join().includes('secretsmanager'));
    expect(ofSecrets.map(({ statement }) => [actionsOf(statement), resourcesOf(statement)])).toEqual(
      hubTokenSecret === '' ? [] : [[['secretsmanager:GetSecretValue'], [hubTokenSecret]]],
    );
  });
});
