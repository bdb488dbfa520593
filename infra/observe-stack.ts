/** What an operator sees and is told: a dashboard, alarms to one topic, a budget. */
import { CfnOutput, Duration, Stack, type StackProps } from 'aws-cdk-lib';
import { CfnBudget } from 'aws-cdk-lib/aws-budgets';
import {
  Alarm,
  ComparisonOperator,
  Dashboard,
  GraphWidget,
  Metric,
  TreatMissingData,
} from 'aws-cdk-lib/aws-cloudwatch';
import { SnsAction } from 'aws-cdk-lib/aws-cloudwatch-actions';
import { PolicyStatement, ServicePrincipal } from 'aws-cdk-lib/aws-iam';
import type { Function } from 'aws-cdk-lib/aws-lambda';
import { FilterPattern, MetricFilter } from 'aws-cdk-lib/aws-logs';
import { Topic } from 'aws-cdk-lib/aws-sns';
import { EmailSubscription } from 'aws-cdk-lib/aws-sns-subscriptions';
import type { Queue } from 'aws-cdk-lib/aws-sqs';
import type { Construct } from 'constructs';
import type { InstallContext } from './context.ts';
import { installTag } from './names.ts';

export interface ObserveStackProps extends StackProps {
  readonly context: InstallContext;
  readonly http: Function;
  readonly batchEvents: Function;
  readonly reconcile: Function;
  readonly deadLetters: Queue;
}

/** A line of the functions' logs (api/src/lambda.ts, api/src/adapters/batch-queue.ts), and the number in it. */
const lines = {
  failedJobs: { message: 'Batch job failed', value: '1' },
  waitingSeconds: { message: 'a job waits for a machine', value: '$.waitingSeconds' },
  openJobs: { message: 'reconciled', value: '$.open' },
} as const;

export class ObserveStack extends Stack {
  constructor(scope: Construct, id: string, props: ObserveStackProps) {
    const { context, http, batchEvents, reconcile, deadLetters, ...rest } = props;
    super(scope, id, { description: 'CherryQ: dashboard, alarms, budget', ...rest });
    const topic = new Topic(this, 'Alarms', { enforceSSL: true });
    topic.addToResourcePolicy(
      new PolicyStatement({
        sid: 'AlarmsAndBudgets',
        principals: [new ServicePrincipal('cloudwatch.amazonaws.com'), new ServicePrincipal('budgets.amazonaws.com')],
        actions: ['sns:Publish'],
        resources: [topic.topicArn],
        conditions: { StringEquals: { 'aws:SourceAccount': this.account } },
      }),
    );
    if (context.alarmEmail !== '') topic.addSubscription(new EmailSubscription(context.alarmEmail));

    const namespace = `CherryQ/${context.installName}`;
    const fromLogs = (name: keyof typeof lines, of: Function, statistic: string): Metric => {
      const { message, value } = lines[name];
      new MetricFilter(this, `${name}-${of.node.id}`, {
        logGroup: of.logGroup,
        metricNamespace: namespace,
        metricName: name,
        metricValue: value,
        filterPattern: FilterPattern.stringValue('$.message', '=', message),
      });
      return new Metric({ namespace, metricName: name, statistic, period: Duration.minutes(5) });
    };
    const failedJobs = fromLogs('failedJobs', batchEvents, 'Sum');
    const openJobs = fromLogs('openJobs', reconcile, 'Maximum');
    const waiting = fromLogs('waitingSeconds', reconcile, 'Maximum');
    const errors = [http, batchEvents, reconcile].map((each) => each.metricErrors({ period: Duration.minutes(5) }));
    const dead = deadLetters.metricApproximateNumberOfMessagesVisible({ period: Duration.minutes(5) });

    const alarm = (name: string, metric: Metric, threshold: number, alarmDescription: string): void => {
      new Alarm(this, name, {
        metric,
        threshold,
        alarmDescription,
        evaluationPeriods: 1,
        comparisonOperator: ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
        treatMissingData: TreatMissingData.NOT_BREACHING,
      }).addAlarmAction(new SnsAction(topic));
    };
    alarm('JobsFail', failedJobs.with({ period: Duration.hours(1) }), 3, 'Three Batch jobs have failed within an hour');
    alarm(
      'JobsWait',
      waiting,
      3600 * Math.min(2, context.maxWaitHours),
      'A job has waited hours for a machine: quota, capacity, or a limit of the install',
    );
    for (const [index, name] of ['Requests', 'Events', 'Repairs'].entries()) {
      const metric = errors[index];
      if (metric !== undefined) alarm(`${name}Fail`, metric, 1, 'A function of the API has thrown; its log says why');
    }
    alarm('DeadLettersArrive', dead, 1, 'Events could not be taken; the queue has them for two weeks');

    const dashboard = new Dashboard(this, 'Dashboard', { dashboardName: context.installName });
    const widget = (title: string, left: Metric[]): GraphWidget => new GraphWidget({ title, left, width: 12 });
    dashboard.addWidgets(
      widget('Jobs that have not ended', [openJobs]),
      widget('Batch jobs that failed', [failedJobs]),
      widget('Longest wait for a machine (s)', [waiting]),
      widget('Requests', [http.metricInvocations(), http.metricThrottles()]),
      widget('Errors of functions, events not taken', [...errors, dead]),
      widget('Time of requests (ms)', [
        http.metricDuration({ statistic: 'p50' }),
        http.metricDuration({ statistic: 'p99' }),
      ]),
    );

    if (context.monthlyBudgetDollars > 0) {
      const subscribers = [{ subscriptionType: 'SNS', address: topic.topicArn }];
      new CfnBudget(this, 'Budget', {
        budget: {
          budgetType: 'COST',
          timeUnit: 'MONTHLY',
          budgetLimit: { amount: context.monthlyBudgetDollars, unit: 'USD' },
          costFilters: { TagKeyValue: [`user:${installTag}$${context.installName}`] },
        },
        notificationsWithSubscribers: [
          ['ACTUAL', 80],
          ['ACTUAL', 100],
          ['FORECASTED', 100],
        ].map(([notificationType, threshold]) => ({
          notification: {
            notificationType: String(notificationType),
            comparisonOperator: 'GREATER_THAN',
            threshold: Number(threshold),
            thresholdType: 'PERCENTAGE',
          },
          subscribers,
        })),
      });
    }
    new CfnOutput(this, 'AlarmTopic', { value: topic.topicArn, description: 'Subscribe here to be told' });
  }
}
