/** One of the three functions of api/src/lambda.ts: the same code and settings, a role and a log group of its own. */
import type { Duration } from 'aws-cdk-lib';
import { RemovalPolicy, Stack } from 'aws-cdk-lib';
import { PolicyStatement, Role, ServicePrincipal } from 'aws-cdk-lib/aws-iam';
import { Architecture, Code, Function, Runtime } from 'aws-cdk-lib/aws-lambda';
import { LogGroup } from 'aws-cdk-lib/aws-logs';
import type { IQueue } from 'aws-cdk-lib/aws-sqs';
import type { Construct } from 'constructs';
import { fileURLToPath } from 'node:url';
import type { InstallContext } from './context.ts';
import { machinesSetting } from './machines.ts';
import { apiDataStatements, batchStatements, hubTokenStatements, sourceStatements, type Data } from './permissions.ts';

export interface ApiFunctionProps {
  readonly handler: 'http' | 'batchEvents' | 'reconcile';
  readonly description: string;
  readonly context: InstallContext;
  readonly data: Data;
  readonly timeout: Duration;
  readonly memorySize: number;
  readonly concurrency?: number;
  /** Where events go that it could not take. */
  readonly deadLetters?: IQueue;
}

/** As `npm run build` leaves it. */
const code = fileURLToPath(new URL('../api/dist/lambda', import.meta.url));

/** It stays outside the network of the machines: it calls AWS and, for webhooks, the internet. */
export function createApiFunction(
  scope: Construct,
  id: string,
  { handler, context, data, deadLetters, concurrency, ...props }: ApiFunctionProps,
): Function {
  const stack = Stack.of(scope);
  const logGroup = new LogGroup(scope, `${id}Logs`, {
    retention: context.logDays,
    removalPolicy: RemovalPolicy.RETAIN,
  });
  const role = new Role(scope, `${id}Role`, {
    description: `CherryQ: ${props.description}`,
    assumedBy: new ServicePrincipal('lambda.amazonaws.com'),
  });
  const statements = [
    ...apiDataStatements(data),
    ...sourceStatements(stack, context.sourceBuckets),
    ...hubTokenStatements(context.hubTokenSecret),
    ...batchStatements(stack, context),
  ];
  for (const statement of statements) role.addToPolicy(statement);
  role.addToPolicy(
    new PolicyStatement({
      sid: 'OwnLogs',
      actions: ['logs:CreateLogStream', 'logs:PutLogEvents'],
      resources: [logGroup.logGroupArn],
    }),
  );
  return new Function(scope, id, {
    ...props,
    code: Code.fromAsset(code),
    handler: `lambda.${handler}`,
    runtime: Runtime.NODEJS_24_X,
    architecture: Architecture.ARM_64,
    role,
    logGroup,
    reservedConcurrentExecutions: concurrency,
    deadLetterQueue: deadLetters,
    environment: {
      CHERRYQ_STORE: `s3://${data.bucket.bucketName}`,
      CHERRYQ_INSTALL: context.installName,
      CHERRYQ_MACHINES: machinesSetting(context),
      CHERRYQ_AUTH: context.auth === 'keys' ? 'keys' : 'front',
      CHERRYQ_LIMITS: JSON.stringify(context.limits),
      CHERRYQ_RETENTION_DAYS: context.retentionDays === 0 ? '' : String(context.retentionDays),
      CHERRYQ_ABANDONED_DAYS: String(context.abandonedDays),
      CHERRYQ_SOURCE_BUCKETS: context.sourceBuckets.join(','),
      CHERRYQ_HUB_TOKEN_SECRET: context.hubTokenSecret,
      CHERRYQ_STREAMING: context.front === 'httpApi' ? 'off' : 'on',
      NODE_OPTIONS: '--enable-source-maps',
    },
  });
}
