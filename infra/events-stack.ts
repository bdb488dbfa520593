/** What Batch says of jobs comes to the API by events; what got lost, a run every five minutes finds. */
import { CfnOutput, Duration, RemovalPolicy, Stack, type StackProps } from 'aws-cdk-lib';
import { Rule, Schedule } from 'aws-cdk-lib/aws-events';
import { LambdaFunction } from 'aws-cdk-lib/aws-events-targets';
import type { Function } from 'aws-cdk-lib/aws-lambda';
import { Queue, QueueEncryption } from 'aws-cdk-lib/aws-sqs';
import type { Construct } from 'constructs';
import { createApiFunction } from './api-function.ts';
import type { InstallContext } from './context.ts';
import { queueName } from './names.ts';
import type { Data } from './permissions.ts';

export interface EventsStackProps extends StackProps {
  readonly context: InstallContext;
  readonly data: Data;
}

export class EventsStack extends Stack {
  readonly batchEvents: Function;
  readonly reconcile: Function;
  readonly deadLetters: Queue;

  constructor(scope: Construct, id: string, { context, data, ...props }: EventsStackProps) {
    super(scope, id, { description: 'CherryQ: events of jobs, and repairs', ...props });
    this.deadLetters = new Queue(this, 'DeadLetters', {
      encryption: QueueEncryption.SQS_MANAGED,
      enforceSSL: true,
      retentionPeriod: Duration.days(14),
      removalPolicy: RemovalPolicy.DESTROY,
    });
    const shared = { context, data, deadLetters: this.deadLetters };
    this.batchEvents = createApiFunction(this, 'BatchEvents', {
      ...shared,
      handler: 'batchEvents',
      description: 'takes the events of Batch',
      timeout: Duration.minutes(2),
      memorySize: 512,
    });
    this.reconcile = createApiFunction(this, 'Reconcile', {
      ...shared,
      handler: 'reconcile',
      description: 'submits what was lost, deletes what is too old, copies what is imported',
      timeout: Duration.minutes(15),
      memorySize: 1024,
      // A run that copies for long is not to be joined by the next one, which would copy the same.
      concurrency: 1,
    });

    const { installName, machines } = context;
    const toFunction = (handler: Function): LambdaFunction =>
      new LambdaFunction(handler, {
        deadLetterQueue: this.deadLetters,
        retryAttempts: 20,
        maxEventAge: Duration.hours(6),
      });
    const ofBatch = new Rule(this, 'BatchJobs', {
      description: 'CherryQ: a Batch job of ours has changed',
      eventPattern: {
        source: ['aws.batch'],
        detailType: ['Batch Job State Change'],
        detail: {
          jobQueue: machines.map((machine) =>
            this.formatArn({ service: 'batch', resource: 'job-queue', resourceName: queueName(installName, machine) }),
          ),
        },
      },
      targets: [toFunction(this.batchEvents)],
    });
    new Rule(this, 'Regularly', {
      description: 'CherryQ: looks after what no event told of',
      schedule: Schedule.rate(Duration.minutes(5)),
      targets: [toFunction(this.reconcile)],
    });
    new CfnOutput(this, 'BatchRule', { value: ofBatch.ruleName, description: 'Hands on the events of Batch' });
    new CfnOutput(this, 'BatchEventsFunction', { value: this.batchEvents.functionName, description: 'Takes them' });
    new CfnOutput(this, 'ReconcileFunction', { value: this.reconcile.functionName, description: 'Repairs' });
    new CfnOutput(this, 'DeadLetterQueue', {
      value: this.deadLetters.queueUrl,
      description: 'Events that were not taken',
    });
  }
}
