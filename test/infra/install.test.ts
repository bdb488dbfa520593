/** What matters of the templates, whatever the settings. */
import { describe, expect, it } from 'vitest';
import { installs } from './installs.ts';
import { stackNames, synth, type Synthesized } from '../support/synth.ts';

type Properties = Record<string, unknown>;

/** Every resource of a type, in all stacks. */
const ofType = (made: Synthesized, type: string): Properties[] =>
  stackNames.flatMap((name) =>
    Object.values(made.resources(name))
      .filter((resource) => resource.Type === type)
      .map(({ Properties: properties = {} }) => properties),
  );

/** Hashes of assets and generated ids of deployments change with every source; nothing else does. */
const withoutHashes = (template: unknown): unknown =>
  JSON.parse(JSON.stringify(template).replaceAll(/[0-9a-f]{64}/g, '<hash>'));

const each = Object.entries(installs).map(([name, settings]) => ({ name, made: synth(settings) }));
const [{ made: usual }] = each;

describe('the templates', () => {
  it.each(stackNames)('of %s are as they were when somebody last looked', (name) => {
    expect(withoutHashes(usual.template(name).toJSON())).toMatchSnapshot();
  });

  it('keep the logical ids of what holds data: a renamed one is a new, empty one', () => {
    const holding = ['AWS::S3::Bucket', 'AWS::KMS::Key', 'AWS::Logs::LogGroup'];
    const ids = stackNames.flatMap((name) =>
      Object.entries(usual.resources(name))
        .filter(([, { Type, DeletionPolicy }]) => holding.includes(Type) && DeletionPolicy === 'Retain')
        .map(([id]) => `${name} ${id}`),
    );
    expect(ids).toEqual([
      'storage DataKey17AFBB84',
      'storage AccessLogs8B620ECA',
      'storage Data666C94C7',
      'compute JobLogs4F84869B',
      'api HttpLogs2035DA0F',
      'events BatchEventsLogs5807D5B6',
      'events ReconcileLogs36C88C19',
    ]);
  });

  it.each(each)('$name: buckets are private, encrypted, and refuse anything but TLS', ({ made }) => {
    const buckets = ofType(made, 'AWS::S3::Bucket');
    expect(buckets).toHaveLength(2);
    for (const bucket of buckets)
      expect(bucket).toMatchObject({
        PublicAccessBlockConfiguration: {
          BlockPublicAcls: true,
          BlockPublicPolicy: true,
          IgnorePublicAcls: true,
          RestrictPublicBuckets: true,
        },
        OwnershipControls: { Rules: [{ ObjectOwnership: 'BucketOwnerEnforced' }] },
        BucketEncryption: { ServerSideEncryptionConfiguration: [{}] },
      });
    const policies = ofType(made, 'AWS::S3::BucketPolicy');
    expect(policies).toHaveLength(2);
    for (const policy of policies) expect(JSON.stringify(policy)).toContain('"aws:SecureTransport":"false"');
    expect(ofType(made, 'AWS::KMS::Key').every(({ EnableKeyRotation }) => EnableKeyRotation === true)).toBe(true);
    expect(ofType(made, 'AWS::KMS::Key')).toHaveLength(made.context.encryption === 'kms' ? 1 : 0);
  });

  it('let browsers of the named origins alone send parts', () => {
    const [, { made }] = each;
    const rules = (of: Synthesized) => ofType(of, 'AWS::S3::Bucket').map(({ CorsConfiguration }) => CorsConfiguration);
    expect(rules(usual).every((rule) => rule === undefined)).toBe(true);
    expect(rules(made).filter((rule) => rule !== undefined)).toEqual([
      {
        CorsRules: [
          expect.objectContaining({
            AllowedOrigins: ['https://tools.example.com'],
            AllowedMethods: ['GET', 'HEAD', 'PUT'],
            ExposedHeaders: expect.arrayContaining(['ETag']),
          }),
        ],
      },
    ]);
  });
});

describe('the machines', () => {
  const capacity = { spotFirst: ['SPOT', 'EC2'], spot: ['SPOT'], onDemand: ['EC2'] };

  it.each(each)(
    '$name: run on the image of Amazon Linux 2023 with NVIDIA drivers, and none is kept idle',
    ({ made }) => {
      const environments = ofType(made, 'AWS::Batch::ComputeEnvironment');
      const { context } = made;
      expect(environments.map(({ ComputeResources }) => (ComputeResources as { Type: string }).Type).sort()).toEqual(
        context.machines.flatMap(() => capacity[context.capacity]).sort(),
      );
      for (const { ComputeResources: resources, State, Type } of environments) {
        expect({ State, Type }).toEqual({ State: 'ENABLED', Type: 'managed' });
        expect(resources).toMatchObject({
          MinvCpus: 0,
          Ec2Configuration: [{ ImageType: 'ECS_AL2023_NVIDIA' }],
          InstanceTypes: [expect.stringMatching(/^(g4dn|g5|g6|g6e|p4d|p5)\./)],
        });
        expect(resources).not.toHaveProperty('DesiredvCpus');
      }
      const [{ LaunchTemplateData: machine }] = ofType(made, 'AWS::EC2::LaunchTemplate');
      expect(machine).toMatchObject({
        MetadataOptions: { HttpTokens: 'required', HttpPutResponseHopLimit: 1 },
        BlockDeviceMappings: [{ Ebs: { Encrypted: true, DeleteOnTermination: true } }],
      });
    },
  );

  it('have a queue each: Spot first, fair to tenants, and nothing waits in it for good', () => {
    const queues = ofType(usual, 'AWS::Batch::JobQueue');
    expect(queues.map(({ JobQueueName }) => JobQueueName)).toEqual([
      'cherryq-g4dn-2xlarge',
      'cherryq-g6-8xlarge',
      'cherryq-g5-8xlarge',
      'cherryq-g6e-8xlarge',
      'cherryq-p4d-24xlarge',
      'cherryq-p5-4xlarge',
    ]);
    for (const queue of queues) {
      expect(queue.ComputeEnvironmentOrder).toEqual([
        { Order: 1, ComputeEnvironment: { 'Fn::GetAtt': [expect.stringMatching(/^Spot/), expect.any(String)] } },
        { Order: 2, ComputeEnvironment: { 'Fn::GetAtt': [expect.stringMatching(/^OnDemand/), expect.any(String)] } },
      ]);
      expect(queue.SchedulingPolicyArn).toBeDefined();
      expect(
        (queue.JobStateTimeLimitActions as Properties[]).map(({ Action, State, MaxTimeSeconds }) => [
          Action,
          State,
          MaxTimeSeconds,
        ]),
      ).toEqual(Array.from({ length: 3 }, () => ['CANCEL', 'RUNNABLE', 12 * 3600]));
    }
  });

  it.each(each)('$name: start a job again by the cause of its end, the first rule that fits', ({ made }) => {
    const definitions = ofType(made, 'AWS::Batch::JobDefinition');
    expect(definitions).toHaveLength(made.context.machines.length * made.context.tenants.length);
    for (const definition of definitions) {
      expect(definition.RetryStrategy).toEqual({
        Attempts: 10,
        EvaluateOnExit: [
          { OnStatusReason: 'Host EC2*', Action: 'RETRY' },
          { OnReason: 'OutOfMemoryError*', Action: 'EXIT' },
          { OnExitCode: '75', Action: 'RETRY' },
          { OnExitCode: '3', Action: 'RETRY' },
          { OnReason: '*', Action: 'EXIT' },
        ],
      });
      expect(definition).toMatchObject({
        Type: 'container',
        PlatformCapabilities: ['EC2'],
        PropagateTags: true,
        Timeout: { AttemptDurationSeconds: 72 * 3600 },
        ContainerProperties: {
          ResourceRequirements: expect.arrayContaining([{ Type: 'GPU', Value: '1' }]),
          LogConfiguration: { LogDriver: 'awslogs' },
          Environment: expect.arrayContaining([
            { Name: 'CHERRYQ_SCRATCH', Value: '/scratch' },
            { Name: 'CUDA_CACHE_PATH', Value: '/var/cache/cuda' },
          ]),
          Volumes: [
            { Name: 'scratch', Host: { SourcePath: '/scratch' } },
            { Name: 'cuda-cache', Host: { SourcePath: '/var/cache/cuda' } },
          ],
        },
      });
      expect(definition.ContainerProperties).not.toHaveProperty('Privileged', true);
    }
  });

  it('have one definition for each tenant, with the role of that tenant', () => {
    const [, { made }] = each;
    const definitions = ofType(made, 'AWS::Batch::JobDefinition').map(({ JobDefinitionName, ContainerProperties }) => {
      const { JobRoleArn } = ContainerProperties as { JobRoleArn: { 'Fn::GetAtt': [string, string] } };
      return [JobDefinitionName, JobRoleArn['Fn::GetAtt'][0].replace(/[0-9A-F]{8}$/, '')];
    });
    expect(definitions).toEqual([
      ['cherryq-g5-8xlarge-research', 'JobRoleresearch'],
      ['cherryq-g5-8xlarge-search', 'JobRolesearch'],
    ]);
  });

  it('take nobody in, and reach AWS by endpoints', () => {
    const endpoints = ofType(usual, 'AWS::EC2::VPCEndpoint');
    // Of ECR, the last part of its names: ecr.api, ecr.dkr.
    const services = endpoints.map(({ ServiceName }) => /([\w-]+)"\]?\]?\}?$/.exec(JSON.stringify(ServiceName))?.[1]);
    expect(services.sort()).toEqual(['api', 'dkr', 'ecs', 'ecs-agent', 'ecs-telemetry', 'logs', 's3']);
    expect(ofType(usual, 'AWS::EC2::NatGateway')).toEqual([]);
    expect(ofType(usual, 'AWS::EC2::InternetGateway')).toEqual([]);
    for (const { made } of each)
      for (const { SecurityGroupIngress: into = [] } of ofType(made, 'AWS::EC2::SecurityGroup'))
        expect(into).toEqual([]);
    expect(each.map(({ made }) => ofType(made, 'AWS::EC2::NatGateway').length)).toEqual([0, 1, 0]);
    expect(each.map(({ made }) => ofType(made, 'AWS::EC2::VPCEndpoint').length)).toEqual([7, 1, 1]);
  });
});

describe('the API', () => {
  it.each(each)('$name: nobody gets in unknown', ({ made }) => {
    const { auth, front } = made.context;
    const urls = ofType(made, 'AWS::Lambda::Url').map(({ AuthType, InvokeMode }) => [AuthType, InvokeMode]);
    expect(urls).toEqual(front === 'functionUrl' ? [[auth === 'iam' ? 'AWS_IAM' : 'NONE', 'RESPONSE_STREAM']] : []);
    const settings = ofType(made, 'AWS::Lambda::Function').map(
      ({ Environment }) => (Environment as { Variables: Record<string, string> }).Variables,
    );
    expect(settings).toHaveLength(3);
    for (const variables of settings) {
      expect(variables.CHERRYQ_AUTH).toBe(auth === 'keys' ? 'keys' : 'front');
      expect(variables.CHERRYQ_STREAMING).toBe(front === 'httpApi' ? 'off' : 'on');
      // Lambda takes 4 kB; the bucket's name is not known yet.
      expect(JSON.stringify(variables).length).toBeLessThan(3500);
    }
    for (const { AuthorizationType } of ofType(made, 'AWS::ApiGatewayV2::Route')) expect(AuthorizationType).toBe('JWT');
    for (const { AuthorizationType, Integration } of ofType(made, 'AWS::ApiGateway::Method')) {
      expect(AuthorizationType).toBe(auth === 'iam' ? 'AWS_IAM' : 'NONE');
      expect(Integration).toMatchObject({ ResponseTransferMode: 'STREAM' });
    }
  });

  it('gets the record of its name where the zone is given; else the target is among the outputs', () => {
    const [, behindRest, behindHttp] = each.map(({ made }) => made);
    const restZone = synth({ ...installs[each[1]?.name ?? ''], hostedZoneId: 'Z0123456789ABCDEFGHIJ' });
    for (const made of [behindHttp, restZone]) {
      expect(made && ofType(made, 'AWS::Route53::RecordSet')).toEqual([
        expect.objectContaining({
          Type: 'A',
          Name: 'cherryq.example.com.',
          HostedZoneId: 'Z0123456789ABCDEFGHIJ',
          AliasTarget: {
            DNSName: expect.objectContaining({}) as object,
            HostedZoneId: expect.objectContaining({}) as object,
          },
        }),
      ]);
      expect(made?.template('api').toJSON().Outputs).not.toHaveProperty('DomainTarget');
    }
    expect(behindRest && ofType(behindRest, 'AWS::Route53::RecordSet')).toEqual([]);
    expect(behindRest?.template('api').toJSON().Outputs).toHaveProperty('DomainTarget');
  });

  it('hears of the jobs of its own queues, and keeps what it could not take', () => {
    const rules = ofType(usual, 'AWS::Events::Rule');
    expect(rules).toHaveLength(2);
    for (const { Targets } of rules)
      expect(Targets).toEqual([expect.objectContaining({ DeadLetterConfig: expect.anything() })]);
    const [pattern] = rules.flatMap(({ EventPattern }) => EventPattern ?? []);
    expect(pattern).toMatchObject({ source: ['aws.batch'], 'detail-type': ['Batch Job State Change'] });
    expect(JSON.stringify(pattern).match(/job-queue\/cherryq-/g)).toHaveLength(6);
    expect(rules.map(({ ScheduleExpression }) => ScheduleExpression)).toContain('rate(5 minutes)');
  });

  it('is watched: each alarm goes to the topic, and the budget to the same', () => {
    const [, { made }] = each;
    const alarms = ofType(made, 'AWS::CloudWatch::Alarm');
    expect(alarms).toHaveLength(6);
    for (const { AlarmActions } of alarms) expect(AlarmActions).toEqual([{ Ref: expect.stringMatching(/^Alarms/) }]);
    expect(ofType(made, 'AWS::Budgets::Budget')).toEqual([
      expect.objectContaining({
        Budget: expect.objectContaining({
          BudgetLimit: { Amount: 500, Unit: 'USD' },
          CostFilters: { TagKeyValue: ['user:cherryq:install$cherryq'] },
        }),
      }),
    ]);
    expect(ofType(usual, 'AWS::Budgets::Budget')).toEqual([]);
  });
});
