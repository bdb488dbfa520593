/** The API: a function, and before it what checks callers: a function URL, a REST API or an HTTP API. */
import { CfnOutput, Duration, RemovalPolicy, Stack, Validations, type StackProps } from 'aws-cdk-lib';
import {
  AccessLogFormat,
  AuthorizationType,
  EndpointType,
  LambdaIntegration,
  LogGroupLogDestination,
  ResponseTransferMode,
  RestApi,
  SecurityPolicy,
} from 'aws-cdk-lib/aws-apigateway';
import { DomainName, HttpApi, LogGroupLogDestination as HttpLogDestination } from 'aws-cdk-lib/aws-apigatewayv2';
import { HttpJwtAuthorizer } from 'aws-cdk-lib/aws-apigatewayv2-authorizers';
import { HttpLambdaIntegration } from 'aws-cdk-lib/aws-apigatewayv2-integrations';
import { Certificate } from 'aws-cdk-lib/aws-certificatemanager';
import { FunctionUrlAuthType, InvokeMode, type Function } from 'aws-cdk-lib/aws-lambda';
import { LogGroup } from 'aws-cdk-lib/aws-logs';
import { ARecord, HostedZone, RecordTarget } from 'aws-cdk-lib/aws-route53';
import { ApiGatewayv2DomainProperties } from 'aws-cdk-lib/aws-route53-targets';
import { CfnWebACL, CfnWebACLAssociation } from 'aws-cdk-lib/aws-wafv2';
import type { Construct } from 'constructs';
import { createApiFunction } from './api-function.ts';
import type { InstallContext } from './context.ts';
import type { Data } from './permissions.ts';

export interface ApiStackProps extends StackProps {
  readonly context: InstallContext;
  readonly data: Data;
}

export class ApiStack extends Stack {
  readonly http: Function;

  constructor(scope: Construct, id: string, { context, data, ...props }: ApiStackProps) {
    super(scope, id, { description: 'CherryQ: the API', ...props });
    this.http = createApiFunction(this, 'Http', {
      handler: 'http',
      description: 'answers requests',
      context,
      data,
      // Event streams end by themselves after 55 seconds, and the client goes on.
      timeout: Duration.seconds(90),
      memorySize: 1024,
      concurrency: context.apiConcurrency,
    });
    const fronts = { functionUrl: this.functionUrl, restApi: this.restApi, httpApi: this.httpApi };
    new CfnOutput(this, 'Address', {
      value: fronts[context.front].call(this, context),
      description: 'Of the API; what a client takes as its base URL',
    });
    new CfnOutput(this, 'HttpFunction', { value: this.http.functionName, description: 'Answers requests' });
  }

  private functionUrl({ auth }: InstallContext): string {
    const { url } = this.http.addFunctionUrl({
      authType: auth === 'iam' ? FunctionUrlAuthType.AWS_IAM : FunctionUrlAuthType.NONE,
      invokeMode: InvokeMode.RESPONSE_STREAM,
    });
    return url;
  }

  private restApi(context: InstallContext): string {
    const { auth, domainName, certificateArn, requestsPerSecond, logDays, waf } = context;
    const api = new RestApi(this, 'Front', {
      restApiName: `${context.installName}-api`,
      description: 'CherryQ',
      endpointTypes: [EndpointType.REGIONAL],
      cloudWatchRole: false,
      binaryMediaTypes: ['*/*'],
      disableExecuteApiEndpoint: domainName !== '',
      deployOptions: {
        stageName: 'live',
        throttlingRateLimit: requestsPerSecond,
        throttlingBurstLimit: 2 * requestsPerSecond,
        accessLogDestination: new LogGroupLogDestination(this.accessLogs(logDays)),
        accessLogFormat: AccessLogFormat.jsonWithStandardFields(),
      },
      ...(domainName === ''
        ? {}
        : {
            domainName: {
              domainName,
              certificate: Certificate.fromCertificateArn(this, 'Certificate', certificateArn),
              securityPolicy: SecurityPolicy.TLS_1_2,
            },
          }),
    });
    const integration = new LambdaIntegration(this.http, {
      responseTransferMode: ResponseTransferMode.STREAM,
      timeout: Duration.seconds(90),
    });
    const options = { authorizationType: auth === 'iam' ? AuthorizationType.IAM : AuthorizationType.NONE };
    api.root.addMethod('ANY', integration, options);
    api.root.addResource('{path+}').addMethod('ANY', integration, options);
    const checked = auth === 'iam' ? 'IAM checks every caller' : 'the function checks the key of every caller';
    const reasons = {
      'AwsSolutions-APIG2':
        'The function checks every field of a request against the contract, and says what is wrong.',
      'AwsSolutions-APIG6':
        'Access logs say who called what; the function logs errors. Bodies would be models and texts.',
      'AwsSolutions-APIG3': 'A web application firewall is there with cherryq:waf; callers are known without it.',
      'AwsSolutions-APIG4': `The front has no authorizer where ${checked}.`,
      'AwsSolutions-COG4': `No user pool: ${checked}.`,
    };
    for (const [rule, reason] of Object.entries(reasons)) Validations.of(api).acknowledge({ id: rule, reason });
    if (waf) this.firewall(context, api);
    if (api.domainName === undefined) return api.url;
    const { domainNameAliasDomainName, domainNameAliasHostedZoneId } = api.domainName;
    return this.named(context, domainNameAliasDomainName, domainNameAliasHostedZoneId);
  }

  private httpApi(context: InstallContext): string {
    const { jwtIssuer, jwtAudience, domainName, certificateArn, requestsPerSecond, logDays } = context;
    const domain =
      domainName === ''
        ? undefined
        : new DomainName(this, 'Domain', {
            domainName,
            certificate: Certificate.fromCertificateArn(this, 'Certificate', certificateArn),
          });
    const api = new HttpApi(this, 'Front', {
      apiName: `${context.installName}-api`,
      description: 'CherryQ',
      createDefaultStage: false,
      disableExecuteApiEndpoint: domain !== undefined,
      defaultAuthorizer: new HttpJwtAuthorizer('Jwt', jwtIssuer, { jwtAudience: [jwtAudience] }),
      defaultIntegration: new HttpLambdaIntegration('Http', this.http),
    });
    api.addStage('Live', {
      stageName: '$default',
      autoDeploy: true,
      throttle: { rateLimit: requestsPerSecond, burstLimit: 2 * requestsPerSecond },
      accessLogSettings: { destination: new HttpLogDestination(this.accessLogs(logDays)) },
      ...(domain === undefined ? {} : { domainMapping: { domainName: domain } }),
    });
    if (domain === undefined) return api.apiEndpoint;
    return this.named(context, domain.regionalDomainName, domain.regionalHostedZoneId);
  }

  /** @param target of the front, and the zone that AWS has it in   @returns the address */
  private named({ domainName, hostedZoneId }: InstallContext, target: string, targetZoneId: string): string {
    if (hostedZoneId === '')
      new CfnOutput(this, 'DomainTarget', { value: target, description: 'What your DNS name has to point at (CNAME)' });
    else
      new ARecord(this, 'Name', {
        // The record's whole name is given, so that of the zone need not be known.
        zone: HostedZone.fromHostedZoneAttributes(this, 'Zone', { hostedZoneId, zoneName: domainName }),
        recordName: `${domainName}.`,
        target: RecordTarget.fromAlias(new ApiGatewayv2DomainProperties(target, targetZoneId)),
        comment: 'CherryQ: the API',
      });
    return `https://${domainName}/`;
  }

  private accessLogs(retention: number): LogGroup {
    return new LogGroup(this, 'AccessLogs', { retention, removalPolicy: RemovalPolicy.RETAIN });
  }

  /** AWS's common rules, and at most so many requests of one address in five minutes. */
  private firewall({ installName, requestsPerSecond }: InstallContext, api: RestApi): void {
    const visible = (metricName: string): CfnWebACL.VisibilityConfigProperty => ({
      cloudWatchMetricsEnabled: true,
      metricName: `${installName}-${metricName}`,
      sampledRequestsEnabled: true,
    });
    const firewall = new CfnWebACL(this, 'Firewall', {
      scope: 'REGIONAL',
      defaultAction: { allow: {} },
      visibilityConfig: visible('firewall'),
      rules: [
        {
          name: 'by-address',
          priority: 0,
          action: { block: {} },
          statement: { rateBasedStatement: { aggregateKeyType: 'IP', limit: Math.max(100, 300 * requestsPerSecond) } },
          visibilityConfig: visible('by-address'),
        },
        {
          name: 'common',
          priority: 1,
          overrideAction: { none: {} },
          statement: {
            managedRuleGroupStatement: {
              vendorName: 'AWS',
              name: 'AWSManagedRulesCommonRuleSet',
              // Files that are put through the API are larger than the 8 kB that this rule knows.
              ruleActionOverrides: [{ name: 'SizeRestrictions_BODY', actionToUse: { count: {} } }],
            },
          },
          visibilityConfig: visible('common'),
        },
      ],
    });
    new CfnWebACLAssociation(this, 'FirewallOfFront', {
      resourceArn: api.deploymentStage.stageArn,
      webAclArn: firewall.attrArn,
    });
  }
}
