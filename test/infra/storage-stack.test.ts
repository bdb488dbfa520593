import { Match, type Template } from 'aws-cdk-lib/assertions';
import { describe, expect, it } from 'vitest';
import { synth } from '../support/synth.ts';

const templateOf = (settings: Record<string, unknown> = {}): Template => synth(settings).template('storage');

const rule = (properties: Record<string, unknown>): Record<string, unknown> => ({
  LifecycleConfiguration: { Rules: Match.arrayWith([Match.objectLike({ Status: 'Enabled', ...properties })]) },
});

describe('the bucket', () => {
  const template = templateOf();

  it('is encrypted with a key of its own that is rotated', () => {
    template.hasResourceProperties('AWS::KMS::Key', { EnableKeyRotation: true });
    template.hasResourceProperties('AWS::S3::Bucket', {
      BucketEncryption: {
        ServerSideEncryptionConfiguration: [
          Match.objectLike({
            BucketKeyEnabled: true,
            ServerSideEncryptionByDefault: {
              SSEAlgorithm: 'aws:kms',
              KMSMasterKeyID: { 'Fn::GetAtt': [Match.stringLikeRegexp('^DataKey'), 'Arn'] },
            },
          }),
        ],
      },
    });
  });

  it('is closed to the public, whatever a policy or a list says', () => {
    template.hasResourceProperties('AWS::S3::Bucket', {
      PublicAccessBlockConfiguration: {
        BlockPublicAcls: true,
        BlockPublicPolicy: true,
        IgnorePublicAcls: true,
        RestrictPublicBuckets: true,
      },
      OwnershipControls: { Rules: [{ ObjectOwnership: 'BucketOwnerEnforced' }] },
    });
  });

  it.each([
    ['plain HTTP', { Bool: { 'aws:SecureTransport': 'false' } }],
    ['TLS below 1.2', { NumericLessThan: { 's3:TlsVersion': 1.2 } }],
  ])('refuses %s', (_, condition) => {
    template.hasResourceProperties('AWS::S3::BucketPolicy', {
      PolicyDocument: {
        Statement: Match.arrayWith([
          Match.objectLike({ Effect: 'Deny', Action: 's3:*', Principal: { AWS: '*' }, Condition: condition }),
        ]),
      },
    });
  });

  it('keeps versions, and replaced ones for 30 days', () => {
    template.hasResourceProperties('AWS::S3::Bucket', { VersioningConfiguration: { Status: 'Enabled' } });
    template.hasResourceProperties(
      'AWS::S3::Bucket',
      rule({ Id: 'NoncurrentVersions', NoncurrentVersionExpiration: { NoncurrentDays: 30 } }),
    );
  });

  it('drops the parts of abandoned uploads', () => {
    template.hasResourceProperties(
      'AWS::S3::Bucket',
      rule({ Id: 'AbandonedUploads', AbortIncompleteMultipartUpload: { DaysAfterInitiation: 7 } }),
    );
  });

  it('drops checkpoints by their tag and nothing else by age', () => {
    const tagged = { TagFilters: [{ Key: 'cherryq-kind', Value: 'checkpoint' }], ExpirationInDays: 14 };
    template.hasResourceProperties('AWS::S3::Bucket', rule({ Id: 'Checkpoints', ...tagged }));
    const [bucket] = Object.values(
      template.findResources('AWS::S3::Bucket', { Properties: { VersioningConfiguration: { Status: 'Enabled' } } }),
    );
    const rules: Record<string, unknown>[] = bucket?.Properties.LifecycleConfiguration.Rules;
    expect(rules.filter((each) => 'ExpirationInDays' in each)).toHaveLength(1);
  });

  it('outlives its stack, as does its key', () => {
    const retained = { DeletionPolicy: 'Retain', UpdateReplacePolicy: 'Retain' };
    template.hasResource('AWS::S3::Bucket', retained);
    template.hasResource('AWS::KMS::Key', retained);
  });
});

describe('settings', () => {
  it('do without a key where S3 manages the encryption', () => {
    const template = templateOf({ encryption: 's3' });
    template.resourceCountIs('AWS::KMS::Key', 0);
    template.hasResourceProperties('AWS::S3::Bucket', {
      BucketEncryption: {
        ServerSideEncryptionConfiguration: [
          Match.objectLike({ ServerSideEncryptionByDefault: { SSEAlgorithm: 'AES256' } }),
        ],
      },
    });
  });

  it('let the bucket go with its stack only when asked to', () => {
    templateOf({ retainData: false }).hasResource('AWS::S3::Bucket', { DeletionPolicy: 'Delete' });
  });

  it('set how long checkpoints live', () => {
    templateOf({ checkpointDays: 3 }).hasResourceProperties(
      'AWS::S3::Bucket',
      rule({ Id: 'Checkpoints', ExpirationInDays: 3 }),
    );
  });
});
