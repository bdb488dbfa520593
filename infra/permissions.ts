/**
 * What each role may do, statement by statement. No action has a wildcard; a resource has one only where `wildcards` below says why.
 * Nothing has all data: the API reaches the folders of the bucket that are its own, a job its tenant's folder.
 */
import { ArnFormat, Stack } from 'aws-cdk-lib';
import { PolicyStatement } from 'aws-cdk-lib/aws-iam';
import type { IKey } from 'aws-cdk-lib/aws-kms';
import type { IBucket } from 'aws-cdk-lib/aws-s3';
import type { InstallContext } from './context.ts';
import { definitionName, queueName } from './names.ts';

export interface Data {
  readonly bucket: IBucket;
  readonly key: IKey | undefined;
}

const objectActions = ['s3:GetObject', 's3:PutObject', 's3:DeleteObject', 's3:PutObjectTagging'];
const partActions = ['s3:AbortMultipartUpload', 's3:ListMultipartUploadParts'];

/** Uploads, jobs and results of all tenants, the keys of the API, and notes of when it last swept. */
export function apiDataStatements({ bucket, key }: Data): PolicyStatement[] {
  return [
    new PolicyStatement({
      sid: 'OwnFolders',
      actions: [...objectActions, ...partActions],
      resources: ['tenants/*', 'keys/*', 'swept/*'].map((objects) => bucket.arnForObjects(objects)),
    }),
    // Of the whole bucket, which holds nothing else; it also makes what is missing answer 404 and not 403.
    new PolicyStatement({ sid: 'ListOwnBucket', actions: ['s3:ListBucket'], resources: [bucket.bucketArn] }),
    ...keyStatements(key),
  ];
}

/** What models may be imported from. */
export function sourceStatements(stack: Stack, buckets: readonly string[]): PolicyStatement[] {
  if (buckets.length === 0) return [];
  const arn = (resource: string): string =>
    stack.formatArn({ service: 's3', account: '', region: '', resource, arnFormat: ArnFormat.NO_RESOURCE_NAME });
  return [
    new PolicyStatement({
      sid: 'ReadSources',
      actions: ['s3:GetObject'],
      resources: buckets.map((bucket) => `${arn(bucket)}/*`),
    }),
    new PolicyStatement({ sid: 'ListSources', actions: ['s3:ListBucket'], resources: buckets.map(arn) }),
  ];
}

/** The token for the Hub, and no other secret. */
export function hubTokenStatements(secretArn: string): PolicyStatement[] {
  if (secretArn === '') return [];
  return [new PolicyStatement({ sid: 'HubToken', actions: ['secretsmanager:GetSecretValue'], resources: [secretArn] })];
}

/** A job's container: its tenant's folder and no other's. */
export function jobDataStatements({ bucket, key }: Data, tenant: string): PolicyStatement[] {
  return [
    new PolicyStatement({
      sid: 'TenantFolder',
      actions: [...objectActions, ...partActions],
      resources: [bucket.arnForObjects(`tenants/${tenant}/*`)],
    }),
    new PolicyStatement({
      sid: 'ListTenantFolder',
      actions: ['s3:ListBucket'],
      resources: [bucket.bucketArn],
      conditions: { StringLike: { 's3:prefix': `tenants/${tenant}/*` } },
    }),
    ...keyStatements(key),
  ];
}

/** By way of S3 alone. */
function keyStatements(key: IKey | undefined): PolicyStatement[] {
  if (key === undefined) return [];
  const stack = Stack.of(key);
  return [
    new PolicyStatement({
      sid: 'DataKey',
      actions: ['kms:Decrypt', 'kms:GenerateDataKey'],
      resources: [key.keyArn],
      conditions: { StringEquals: { 'kms:ViaService': `s3.${stack.region}.${stack.urlSuffix}` } },
    }),
  ];
}

/** Submits to our queues with our definitions, looks, and stops what is ours. */
export function batchStatements(stack: Stack, context: InstallContext): PolicyStatement[] {
  const arn = (resource: string, resourceName: string): string =>
    stack.formatArn({ service: 'batch', resource, resourceName });
  const { installName, machines, tenants } = context;
  const definitions = machines.flatMap((machine) =>
    tenants.flatMap((tenant) => {
      const name = definitionName(installName, machine, tenant);
      return [arn('job-definition', name), arn('job-definition', `${name}:*`)];
    }),
  );
  return [
    new PolicyStatement({
      sid: 'SubmitOurs',
      actions: ['batch:SubmitJob'],
      resources: [...machines.map((machine) => arn('job-queue', queueName(installName, machine))), ...definitions],
    }),
    new PolicyStatement({
      sid: 'TagOurs',
      actions: ['batch:TagResource'],
      resources: [arn('job', '*')],
      conditions: { StringEquals: { 'aws:RequestTag/cherryq:install': installName } },
    }),
    new PolicyStatement({
      sid: 'StopOurs',
      actions: ['batch:TerminateJob'],
      resources: [arn('job', '*')],
      conditions: { StringEquals: { 'aws:ResourceTag/cherryq:install': installName } },
    }),
    new PolicyStatement({
      sid: 'Look',
      actions: ['batch:DescribeJobs', 'batch:ListJobs', 'batch:DescribeJobQueues'],
      resources: ['*'],
    }),
  ];
}

/** Every wildcard in a resource, as it ends, with the actions it is for and the reason. The tests know no others. */
export const wildcards: readonly { readonly ending: RegExp; readonly actions: RegExp; readonly reason: string }[] = [
  {
    ending: /\/(tenants|keys|swept)\/\*$|\/tenants\/[a-z0-9-]+\/\*$/,
    actions: /^s3:(GetObject|PutObject|DeleteObject|PutObjectTagging|AbortMultipartUpload|ListMultipartUploadParts)$/,
    reason: 'Objects are named by the job; the folder bounds them.',
  },
  {
    ending: /:s3:::[a-z0-9.-]+\/\*$/,
    actions: /^s3:GetObject$/,
    reason: 'A bucket that the install names as a source of models (cherryq:sourceBuckets) is read, not written.',
  },
  {
    ending: /:job-definition\/[a-z0-9-]+:\*$/,
    actions: /^batch:SubmitJob$/,
    reason: 'A definition has a new revision with each deployment; its name is exact.',
  },
  {
    ending: /:job\/\*$/,
    actions: /^batch:(TagResource|TerminateJob)$/,
    reason: "Batch names jobs by random ids; the condition on the tag cherryq:install leaves only this install's.",
  },
  {
    ending: /^\*$/,
    actions: /^batch:(DescribeJobs|ListJobs|DescribeJobQueues)$/,
    reason: 'AWS Batch does not take resources for these; they read no data.',
  },
  {
    ending: /^\*$/,
    actions: /^ecr:GetAuthorizationToken$/,
    reason: 'A token is for the registry; what may be pulled is bounded to the repository by the statement beside it.',
  },
  {
    ending: /\/data\/\*$/,
    actions: /^s3:PutObject$/,
    reason: 'S3 itself writes its access logs, under names of its own.',
  },
  {
    ending: /^\*$/,
    actions: /^kms:/,
    reason: "In a key's own policy, * is that key.",
  },
];
