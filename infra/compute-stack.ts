/**
 * Where jobs run: for each machine of the install a queue and a definition for each tenant, over machines that AWS Batch starts when
 * there is a job and ends when there is none. Jobs of a tenant have a role of their own, which reaches its folder alone.
 */
import { Aws, CfnOutput, Duration, RemovalPolicy, Size, Stack, Validations, type StackProps } from 'aws-cdk-lib';
import {
  Action,
  AllocationStrategy,
  EcsEc2ContainerDefinition,
  EcsJobDefinition,
  EcsMachineImageType,
  EcsVolume,
  FairshareSchedulingPolicy,
  JobQueue,
  JobStateTimeLimitActionsAction,
  JobStateTimeLimitActionsReason,
  JobStateTimeLimitActionsState,
  ManagedEc2EcsComputeEnvironment,
  Reason,
  RetryStrategy,
} from 'aws-cdk-lib/aws-batch';
import {
  BlockDeviceVolume,
  EbsDeviceVolumeType,
  InstanceType,
  LaunchTemplate,
  LaunchTemplateHttpTokens,
  MultipartBody,
  MultipartUserData,
  UserData,
} from 'aws-cdk-lib/aws-ec2';
import { Platform } from 'aws-cdk-lib/aws-ecr-assets';
import { ContainerImage, LogDriver } from 'aws-cdk-lib/aws-ecs';
import { ManagedPolicy, PolicyStatement, Role, ServicePrincipal } from 'aws-cdk-lib/aws-iam';
import { LogGroup } from 'aws-cdk-lib/aws-logs';
import type { Construct } from 'constructs';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { exitCodes } from 'cherryq/contract';
import type { InstallContext } from './context.ts';
import { cloudMachine, jobMemoryMiB } from './machines.ts';
import { definitionName, queueName } from './names.ts';
import { createNetwork } from './network.ts';
import { jobDataStatements, type Data } from './permissions.ts';

export interface ComputeStackProps extends StackProps {
  readonly context: InstallContext;
  readonly data: Data;
}

/** Folders of the machine, which its jobs share one after another. */
const [scratch, cudaCache] = ['/scratch', '/var/cache/cuda'];
/** The user of the image. */
const worker = 1000;

/** The first that fits decides; the same as the API gives with each job. */
const retryStrategies = [
  RetryStrategy.of(Action.RETRY, Reason.SPOT_INSTANCE_RECLAIMED),
  RetryStrategy.of(Action.EXIT, Reason.custom({ onReason: 'OutOfMemoryError*' })),
  RetryStrategy.of(Action.RETRY, Reason.custom({ onExitCode: String(exitCodes.interrupted) })),
  RetryStrategy.of(Action.RETRY, Reason.custom({ onExitCode: String(exitCodes.transient) })),
  RetryStrategy.of(Action.EXIT, Reason.custom({ onReason: '*' })),
];

export class ComputeStack extends Stack {
  readonly logGroup: LogGroup;

  constructor(scope: Construct, id: string, { context, data, ...props }: ComputeStackProps) {
    super(scope, id, { description: 'CherryQ: network and machines of jobs', ...props });
    const { installName, machines, tenants } = context;
    const network = createNetwork(this, context);
    const launchTemplate = this.launchTemplate(context);
    this.logGroup = new LogGroup(this, 'JobLogs', {
      retention: context.logDays,
      removalPolicy: RemovalPolicy.RETAIN,
    });
    const image =
      context.imageUri === ''
        ? ContainerImage.fromAsset(fileURLToPath(new URL('..', import.meta.url)), {
            file: 'batch-jobs/Dockerfile',
            exclude: imageExcludes(),
            platform: Platform.LINUX_AMD64,
          })
        : ContainerImage.fromRegistry(context.imageUri);
    const jobRoles = tenants.map((tenant) => {
      const role = new Role(this, `JobRole-${tenant}`, {
        description: `CherryQ: jobs of tenant ${tenant}`,
        assumedBy: new ServicePrincipal('ecs-tasks.amazonaws.com'),
      });
      for (const statement of jobDataStatements(data, tenant)) role.addToPolicy(statement);
      return { tenant, role };
    });
    const executionRole = new Role(this, 'ExecutionRole', {
      description: 'CherryQ: starts containers, reads their image and writes their logs',
      assumedBy: new ServicePrincipal('ecs-tasks.amazonaws.com'),
    });
    for (const statement of pullStatements(context.imageUri)) executionRole.addToPolicy(statement);
    const instanceRole = new Role(this, 'InstanceRole', {
      description: 'CherryQ: the agent on machines of jobs',
      assumedBy: new ServicePrincipal('ec2.amazonaws.com'),
      managedPolicies: [ManagedPolicy.fromAwsManagedPolicyName('service-role/AmazonEC2ContainerServiceforEC2Role')],
    });
    Validations.of(instanceRole).acknowledge({
      id: 'AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/service-role/AmazonEC2ContainerServiceforEC2Role]',
      reason: 'The agent of ECS needs what AWS says it needs, which changes with it; the policy reaches no data.',
    });

    const scheduling = new FairshareSchedulingPolicy(this, 'FairShare', {
      // A tenant that has used much waits behind one that has used little, for an hour.
      shareDecay: Duration.hours(1),
      computeReservation: 10,
    });

    for (const machine of machines) {
      const name = machine.replaceAll('.', '-');
      const { vcpus, gpus } = cloudMachine(machine);
      const environment = (spot: boolean): ManagedEc2EcsComputeEnvironment =>
        new ManagedEc2EcsComputeEnvironment(this, `${spot ? 'Spot' : 'OnDemand'}-${name}`, {
          vpc: network.vpc,
          vpcSubnets: network.subnets,
          securityGroups: [network.securityGroup],
          instanceTypes: [new InstanceType(machine)],
          useOptimalInstanceClasses: false,
          // Batch's own default for GPUs is Amazon Linux 2, which has ended.
          images: [{ imageType: EcsMachineImageType.ECS_AL2023_NVIDIA }],
          minvCpus: 0,
          maxvCpus: vcpus * context.instancesAtMost,
          spot,
          allocationStrategy: spot
            ? AllocationStrategy.SPOT_PRICE_CAPACITY_OPTIMIZED
            : AllocationStrategy.BEST_FIT_PROGRESSIVE,
          instanceRole,
          launchTemplate,
          updateToLatestImageVersion: true,
        });
      const environments = [
        ...(context.capacity === 'onDemand' ? [] : [environment(true)]),
        ...(context.capacity === 'spot' ? [] : [environment(false)]),
      ];
      new JobQueue(this, `Queue-${name}`, {
        jobQueueName: queueName(installName, machine),
        computeEnvironments: environments.map((computeEnvironment, index) => ({
          computeEnvironment,
          order: index + 1,
        })),
        schedulingPolicy: scheduling,
        jobStateTimeLimitActions: waitingTooLong(context.maxWaitHours),
      });
      for (const { tenant, role } of jobRoles) {
        const container = new EcsEc2ContainerDefinition(this, `Container-${name}-${tenant}`, {
          image,
          cpu: vcpus / gpus,
          gpu: 1,
          memory: Size.mebibytes(jobMemoryMiB(machine)),
          jobRole: role,
          executionRole,
          logging: LogDriver.awsLogs({ logGroup: this.logGroup, streamPrefix: tenant }),
          environment: {
            CHERRYQ_SCRATCH: scratch,
            TMPDIR: scratch,
            CUDA_CACHE_PATH: cudaCache,
            // A machine that may go at any time: what was done since the last checkpoint is lost.
            CHERRYQ_CHECKPOINT_SECONDS: '300',
          },
          volumes: [
            EcsVolume.host({ name: 'scratch', hostPath: scratch, containerPath: scratch }),
            EcsVolume.host({ name: 'cuda-cache', hostPath: cudaCache, containerPath: cudaCache }),
          ],
        });
        new EcsJobDefinition(this, `Definition-${name}-${tenant}`, {
          jobDefinitionName: definitionName(installName, machine, tenant),
          container,
          retryAttempts: 10,
          retryStrategies,
          timeout: Duration.hours(context.maxJobHours),
          propagateTags: true,
        });
      }
    }
    new CfnOutput(this, 'JobLogGroup', { value: this.logGroup.logGroupName, description: 'What workers say' });
    new CfnOutput(this, 'JobQueues', {
      value: machines.map((machine) => queueName(installName, machine)).join(','),
      description: 'One for each machine',
    });
    new CfnOutput(this, 'JobDefinitions', {
      value: machines
        .flatMap((machine) => tenants.map((tenant) => definitionName(installName, machine, tenant)))
        .join(','),
      description: 'One for each machine and tenant',
    });
    Validations.of(executionRole).acknowledge({
      id: 'AwsSolutions-IAM5[Resource::*]',
      reason: 'ecr:GetAuthorizationToken takes no resource; pulling is bounded to the repository.',
    });
  }

  /** Disks and folders of a machine, and that only its host may ask the metadata service for credentials. */
  private launchTemplate({ scratchGiB }: InstallContext): LaunchTemplate {
    const commands = UserData.forLinux();
    commands.addCommands(
      `mkdir -p ${scratch} ${cudaCache}`,
      '# NVMe disks of the machine, as one, where it has any; else scratch is on the encrypted volume.',
      "disks=$(lsblk --noheadings --nodeps --output PATH,MODEL | awk '/Instance Storage/ { print $1 }')",
      'if [ -n "$disks" ]; then',
      '  set -- $disks',
      '  if [ $# -gt 1 ]; then',
      '    (command -v mdadm || dnf install --assumeyes mdadm) && mdadm --create /dev/md0 --level=0 --raid-devices=$# "$@" && set -- /dev/md0',
      '  fi',
      `  mkfs.xfs -f "$1" && mount "$1" ${scratch}`,
      'fi',
      `chown ${worker}:${worker} ${scratch} ${cudaCache}`,
      '# When Spot takes the machine back, in two minutes, the worker is told to stop, and has nearly that long to save.',
      'echo ECS_ENABLE_SPOT_INSTANCE_DRAINING=true >> /etc/ecs/ecs.config',
      'echo ECS_CONTAINER_STOP_TIMEOUT=110s >> /etc/ecs/ecs.config',
    );
    const userData = new MultipartUserData();
    userData.addPart(MultipartBody.fromUserData(commands));
    return new LaunchTemplate(this, 'Machines', {
      userData,
      httpTokens: LaunchTemplateHttpTokens.REQUIRED,
      // One hop: containers do not reach it.
      httpPutResponseHopLimit: 1,
      requireImdsv2: true,
      blockDevices: [
        {
          deviceName: '/dev/xvda',
          volume: BlockDeviceVolume.ebs(scratchGiB, {
            encrypted: true,
            volumeType: EbsDeviceVolumeType.GP3,
            deleteOnTermination: true,
          }),
        },
      ],
    });
  }
}

/** For an image in ECR that the setting names; of what is built here, the CDK knows the repository. */
function pullStatements(imageUri: string): PolicyStatement[] {
  const found = /^(\d{12})\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?\/([^:@]+)/.exec(imageUri);
  if (found === null) return [];
  const [, account, region, repository] = found;
  return [
    new PolicyStatement({
      sid: 'PullImage',
      actions: ['ecr:BatchCheckLayerAvailability', 'ecr:GetDownloadUrlForLayer', 'ecr:BatchGetImage'],
      resources: [`arn:${Aws.PARTITION}:ecr:${region}:${account}:repository/${repository}`],
    }),
    new PolicyStatement({ sid: 'RegistryToken', actions: ['ecr:GetAuthorizationToken'], resources: ['*'] }),
  ];
}

/** A job for which there is no machine is not left waiting for good. */
function waitingTooLong(hours: number) {
  const because = {
    [JobStateTimeLimitActionsReason.INSUFFICIENT_INSTANCE_CAPACITY]: 'AWS had no such machine free',
    [JobStateTimeLimitActionsReason.COMPUTE_ENVIRONMENT_MAX_RESOURCE]: 'The machine has fewer vCPUs than may be used',
    [JobStateTimeLimitActionsReason.JOB_RESOURCE_REQUIREMENT]: 'No machine of the queue is large enough',
  };
  return Object.entries(because).map(([state, said]) => ({
    action: JobStateTimeLimitActionsAction.CANCEL,
    state: JobStateTimeLimitActionsState.RUNNABLE,
    reason: state as JobStateTimeLimitActionsReason,
    maxTime: Duration.hours(hours),
    message: said,
  }));
}

/** As for `docker build`, and what the image has no use for, so that a change of it makes no new image. */
function imageExcludes(): string[] {
  const ignore = readFileSync(new URL('../batch-jobs/Dockerfile.dockerignore', import.meta.url), 'utf8');
  return [
    ...ignore.split('\n').filter((line) => line !== ''),
    'docs',
    'test',
    'study',
    'infra/*.ts',
    '*.md',
    '**/*.md',
  ];
}
