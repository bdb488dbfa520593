/** The machines' network: nobody can connect to it, and it reaches AWS as the install says. */
import { RemovalPolicy, type Stack } from 'aws-cdk-lib';
import {
  FlowLogDestination,
  GatewayVpcEndpointAwsService,
  InterfaceVpcEndpointAwsService,
  IpAddresses,
  Peer,
  Port,
  SecurityGroup,
  SubnetType,
  Vpc,
  type SubnetSelection,
} from 'aws-cdk-lib/aws-ec2';
import { LogGroup } from 'aws-cdk-lib/aws-logs';
import type { InstallContext } from './context.ts';

export interface Network {
  readonly vpc: Vpc;
  readonly subnets: SubnetSelection;
  readonly securityGroup: SecurityGroup;
}

/** What the agent of ECS and a container need, beside S3: its queue of work, its image, its logs. */
const services = {
  Ecs: InterfaceVpcEndpointAwsService.ECS,
  EcsAgent: InterfaceVpcEndpointAwsService.ECS_AGENT,
  EcsTelemetry: InterfaceVpcEndpointAwsService.ECS_TELEMETRY,
  EcrApi: InterfaceVpcEndpointAwsService.ECR,
  EcrImages: InterfaceVpcEndpointAwsService.ECR_DOCKER,
  Logs: InterfaceVpcEndpointAwsService.CLOUDWATCH_LOGS,
};

export function createNetwork(stack: Stack, context: InstallContext): Network {
  const { network, zones } = context;
  const type = {
    endpoints: SubnetType.PRIVATE_ISOLATED,
    nat: SubnetType.PRIVATE_WITH_EGRESS,
    public: SubnetType.PUBLIC,
  }[network];
  const outside = {
    name: 'Outside',
    subnetType: SubnetType.PUBLIC,
    cidrMask: 24,
    mapPublicIpOnLaunch: network === 'public',
  };
  const machines = { name: 'Machines', subnetType: type, cidrMask: 20 };
  const vpc = new Vpc(stack, 'Network', {
    ipAddresses: IpAddresses.cidr('10.20.0.0/16'),
    ...(zones.length === 0 ? { maxAzs: 2 } : { availabilityZones: zones }),
    natGateways: network === 'nat' ? 1 : 0,
    subnetConfiguration: { endpoints: [machines], nat: [outside, machines], public: [outside] }[network],
    // What would do it is a function with more permissions than the rest of the install together; no machine uses that group.
    restrictDefaultSecurityGroup: false,
    gatewayEndpoints: { S3: { service: GatewayVpcEndpointAwsService.S3 } },
    flowLogs: {
      Refused: {
        destination: FlowLogDestination.toCloudWatchLogs(
          new LogGroup(stack, 'NetworkLogs', { retention: context.logDays, removalPolicy: RemovalPolicy.DESTROY }),
        ),
      },
    },
  });
  const securityGroup = new SecurityGroup(stack, 'MachinesGroup', {
    vpc,
    description: 'CherryQ machines: nothing comes in, TLS goes out',
    allowAllOutbound: false,
  });
  securityGroup.addEgressRule(Peer.anyIpv4(), Port.tcp(443), 'TLS');
  const subnets: SubnetSelection = { subnetType: type };
  if (network === 'endpoints') {
    const endpoints = new SecurityGroup(stack, 'EndpointsGroup', {
      vpc,
      description: 'CherryQ endpoints: TLS from machines',
      allowAllOutbound: false,
    });
    endpoints.addIngressRule(securityGroup, Port.tcp(443), 'TLS from machines');
    // In one zone, which all machines use: an endpoint is billed by the hour and zone, idle or not.
    const [first] = vpc.isolatedSubnets;
    for (const [id, service] of Object.entries(services))
      vpc.addInterfaceEndpoint(id, {
        service,
        subnets: { subnets: first === undefined ? [] : [first] },
        securityGroups: [endpoints],
        open: false,
      });
  }
  return { vpc, subnets, securityGroup };
}
