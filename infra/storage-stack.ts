/** The bucket that holds everything: uploads, jobs, artifacts; key for key the folder of a local install (docs/architecture.md). */
import { CfnOutput, Duration, RemovalPolicy, Stack, type StackProps } from 'aws-cdk-lib';
import { Key } from 'aws-cdk-lib/aws-kms';
import { BlockPublicAccess, Bucket, BucketEncryption, ObjectOwnership } from 'aws-cdk-lib/aws-s3';
import type { Construct } from 'constructs';
import { checkpointTag } from '@cherryq/batch-jobs/storage';
import type { InstallContext } from './context.ts';

export interface StorageStackProps extends StackProps {
  readonly context: InstallContext;
}

/** Construct ids are a contract: a renamed bucket is a new, empty bucket. */
export class StorageStack extends Stack {
  readonly bucket: Bucket;

  constructor(scope: Construct, id: string, { context, ...props }: StorageStackProps) {
    super(scope, id, { description: 'CherryQ: storage of models, jobs and artifacts', ...props });
    const removalPolicy = context.retainData ? RemovalPolicy.RETAIN : RemovalPolicy.DESTROY;
    const ownKey = context.encryption === 'kms';

    this.bucket = new Bucket(this, 'Data', {
      encryption: ownKey ? BucketEncryption.KMS : BucketEncryption.S3_MANAGED,
      encryptionKey: ownKey
        ? new Key(this, 'DataKey', { description: 'CherryQ data', enableKeyRotation: true, removalPolicy })
        : undefined,
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
          id: 'NoncurrentVersions',
          noncurrentVersionExpiration: Duration.days(context.noncurrentVersionDays),
          expiredObjectDeleteMarker: true,
        },
      ],
    });

    new CfnOutput(this, 'BucketName', {
      value: this.bucket.bucketName,
      description: 'Holds everything of this install',
    });
  }
}
