/** The bucket that holds everything: uploads, jobs, artifacts; key for key the folder of a local install (docs/architecture.md). */
import { CfnOutput, Duration, RemovalPolicy, Stack, type StackProps } from 'aws-cdk-lib';
import { AccountRootPrincipal, PolicyDocument, PolicyStatement } from 'aws-cdk-lib/aws-iam';
import { Key } from 'aws-cdk-lib/aws-kms';
import {
  BlockPublicAccess,
  Bucket,
  BucketEncryption,
  HttpMethods,
  ObjectOwnership,
  StorageClass,
} from 'aws-cdk-lib/aws-s3';
import type { Construct } from 'constructs';
import { checkpointTag } from '@cherryq/batch-jobs/storage';
import type { InstallContext } from './context.ts';

export interface StorageStackProps extends StackProps {
  readonly context: InstallContext;
}

/** Of a key: what its account may delegate by IAM. The list of AWS's default policy, written out. */
const keyActions = [
  ...['CancelKeyDeletion', 'CreateAlias', 'CreateGrant', 'Decrypt', 'DeleteAlias', 'DescribeKey', 'DisableKey'],
  ...['DisableKeyRotation', 'EnableKey', 'EnableKeyRotation', 'Encrypt', 'GenerateDataKey', 'GetKeyPolicy'],
  ...['GetKeyRotationStatus', 'ListGrants', 'ListKeyPolicies', 'ListKeyRotations', 'ListResourceTags', 'PutKeyPolicy'],
  ...['ReEncryptFrom', 'ReEncryptTo', 'RevokeGrant', 'RotateKeyOnDemand', 'ScheduleKeyDeletion', 'TagResource'],
  ...['UntagResource', 'UpdateAlias', 'UpdateKeyDescription'],
].map((action) => `kms:${action}`);

/** Construct ids are a contract: a renamed bucket is a new, empty bucket. */
export class StorageStack extends Stack {
  readonly bucket: Bucket;
  readonly key: Key | undefined;

  constructor(scope: Construct, id: string, { context, ...props }: StorageStackProps) {
    super(scope, id, { description: 'CherryQ: storage of models, jobs and artifacts', ...props });
    const removalPolicy = context.retainData ? RemovalPolicy.RETAIN : RemovalPolicy.DESTROY;
    const ownKey = context.encryption === 'kms';

    const delegated = new PolicyStatement({
      sid: 'AccountDelegatesByIam',
      principals: [new AccountRootPrincipal()],
      actions: keyActions,
      resources: ['*'],
    });
    this.key = ownKey
      ? new Key(this, 'DataKey', {
          description: 'CherryQ data',
          enableKeyRotation: true,
          policy: new PolicyDocument({ statements: [delegated] }),
          removalPolicy,
        })
      : undefined;
    const accessLogs = new Bucket(this, 'AccessLogs', {
      // What S3 itself writes its logs with.
      encryption: BucketEncryption.S3_MANAGED,
      enforceSSL: true,
      minimumTLSVersion: 1.2,
      blockPublicAccess: BlockPublicAccess.BLOCK_ALL,
      objectOwnership: ObjectOwnership.BUCKET_OWNER_ENFORCED,
      removalPolicy,
      lifecycleRules: [{ id: 'Old', expiration: Duration.days(context.logDays) }],
    });
    this.bucket = new Bucket(this, 'Data', {
      serverAccessLogsBucket: accessLogs,
      serverAccessLogsPrefix: 'data/',
      encryption: ownKey ? BucketEncryption.KMS : BucketEncryption.S3_MANAGED,
      encryptionKey: this.key,
      // One data key per bucket instead of one per object: KMS is billed by the request.
      bucketKeyEnabled: ownKey,
      enforceSSL: true,
      minimumTLSVersion: 1.2,
      blockPublicAccess: BlockPublicAccess.BLOCK_ALL,
      objectOwnership: ObjectOwnership.BUCKET_OWNER_ENFORCED,
      versioned: true,
      removalPolicy,
      lifecycleRules: [
        { id: 'AbandonedUploads', abortIncompleteMultipartUploadAfter: Duration.days(7) },
        {
          id: 'Checkpoints',
          tagFilters: { [checkpointTag.key]: checkpointTag.value },
          expiration: Duration.days(context.checkpointDays),
        },
        {
          id: 'RarelyRead',
          prefix: 'tenants/',
          transitions: [{ storageClass: StorageClass.INTELLIGENT_TIERING, transitionAfter: Duration.days(30) }],
        },
        {
          id: 'NoncurrentVersions',
          noncurrentVersionExpiration: Duration.days(context.noncurrentVersionDays),
          expiredObjectDeleteMarker: true,
        },
      ],
      cors:
        context.browserOrigins.length === 0
          ? undefined
          : [
              {
                id: 'SignedAddresses',
                allowedOrigins: context.browserOrigins,
                allowedMethods: [HttpMethods.GET, HttpMethods.HEAD, HttpMethods.PUT],
                allowedHeaders: ['content-type', 'range', 'x-amz-checksum-sha256', 'x-amz-sdk-checksum-algorithm'],
                exposedHeaders: ['ETag', 'x-amz-checksum-sha256', 'Content-Range', 'Content-Length'],
                maxAge: 3600,
              },
            ],
    });

    new CfnOutput(this, 'BucketName', {
      value: this.bucket.bucketName,
      description: 'Holds everything of this install',
    });
  }
}
