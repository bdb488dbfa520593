/** An install whose parts moto's CloudFormation has made from the synthesized templates, found by the stacks' outputs. */
import { CloudFormationClient, CreateStackCommand, DescribeStacksCommand } from '@aws-sdk/client-cloudformation';
import { GetFunctionConfigurationCommand, LambdaClient } from '@aws-sdk/client-lambda';
import { CreateBucketCommand, PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import type { Moto } from './moto.ts';
import { runInstall, type PrivateInstall } from './private-install.ts';
import { stackNames, synth, type Resource, type StackName } from './synth.ts';

interface Template {
  Resources: Record<string, Resource & { Properties: Record<string, unknown> }>;
  Outputs: Record<string, unknown>;
}

/** What `cdk bootstrap` makes, and functions' code is uploaded to. */
const assets = 'cdk-hnb659fds-assets-123456789012-eu-central-1';
/** Of no use without addresses and networks that answer; moto 5.2.3 breaks off at them. */
const unsupported = ['AWS::Lambda::Url', 'AWS::EC2::FlowLog'];

/** What moto 5.2.3 does not know of templates, said in its words. */
function forMoto(template: object, name: StackName): Template {
  const byReference = JSON.stringify(template).replaceAll(
    /\{"Fn::GetAtt":\["(\w+)","ComputeEnvironmentArn"\]\}/g,
    '{"Ref":"$1"}',
  );
  const { Resources, Outputs } = JSON.parse(byReference) as Template;
  const [instanceRole] = Object.keys(Resources).filter((id) => /^InstanceRole[0-9A-F]{8}$/.test(id));
  for (const [id, { Type, Properties }] of Object.entries(Resources)) {
    if (unsupported.includes(Type)) delete Resources[id];
    if (Type === 'AWS::Batch::JobQueue') delete Properties.SchedulingPolicyArn;
    // AWS has a role for Batch itself; moto asks for one.
    if (Type === 'AWS::Batch::ComputeEnvironment')
      Object.assign(Properties, { Type: 'MANAGED', ServiceRole: { 'Fn::GetAtt': [instanceRole, 'Arn'] } });
  }
  if (name === 'api') delete Outputs.Address;
  return { Resources, Outputs };
}

export interface DeployedInstall extends PrivateInstall {
  /** Of all stacks. */
  readonly outputs: Readonly<Record<string, string>>;
}

export async function deployInstall(moto: Moto): Promise<DeployedInstall> {
  const made = synth({ machines: ['g5.8xlarge'], network: 'public', encryption: 's3' });
  const cloud = new CloudFormationClient({ ...moto.client, maxAttempts: 1 });
  const s3 = new S3Client(moto.client);
  const location = { LocationConstraint: 'eu-central-1' } as const;
  await s3.send(new CreateBucketCommand({ Bucket: assets, CreateBucketConfiguration: location }));
  const outputs: Record<string, string> = {};
  for (const name of stackNames) {
    const template = forMoto(made.template(name).toJSON(), name);
    for (const { Type, Properties } of Object.values(template.Resources)) {
      if (Type !== 'AWS::Lambda::Function') continue;
      const { S3Key: Key } = Properties.Code as { S3Key: string };
      await s3.send(new PutObjectCommand({ Bucket: assets, Key, Body: emptyZip }));
    }
    const StackName = made.install[name].stackName;
    const TemplateBody = JSON.stringify(template);
    await cloud.send(new CreateStackCommand({ StackName, TemplateBody, Capabilities: ['CAPABILITY_IAM'] }));
    const { Stacks: [stack] = [] } = await cloud.send(new DescribeStacksCommand({ StackName }));
    if (stack?.StackStatus !== 'CREATE_COMPLETE') throw new Error(`${StackName} is ${stack?.StackStatus}`);
    for (const { OutputKey = '', OutputValue = '' } of stack.Outputs ?? []) outputs[OutputKey] = OutputValue;
  }
  const config = await new LambdaClient(moto.client).send(
    new GetFunctionConfigurationCommand({ FunctionName: outputs.HttpFunction }),
  );
  const install = await runInstall(moto, {
    bucket: outputs.BucketName ?? '',
    prefix: '',
    jobQueue: outputs.JobQueues ?? '',
    // Event streams are answered whole here, since the test calls the functions itself.
    environment: { ...config.Environment?.Variables, CHERRYQ_STREAMING: 'off' },
  });
  return { ...install, outputs };
}

const emptyZip = Buffer.concat([Buffer.from('PK\x05\x06', 'latin1'), Buffer.alloc(18)]);
