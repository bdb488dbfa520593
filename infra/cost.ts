/** What an install costs: while idle, counted from its templates, and for each compressed model, from the API's own estimate. */
import { createEstimator } from '@cherryq/api/estimates';
import { machineTable } from '@cherryq/api/machines';
import { FolderStore } from '@cherryq/batch-jobs/storage';
import { createJobSchema, type CreateJob, type Estimate } from 'cherryq/contract';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { jobMachine } from './machines.ts';

export interface TemplateResource {
  readonly Type: string;
  readonly Properties?: Record<string, unknown>;
}

const hoursPerMonth = 730;
/** A run each five minutes, two seconds at 512 MB, three lists. */
const repairs = hoursPerMonth * 12 * (2 * 0.5 * 13.3334e-6 + 2e-7 + 3 * 5e-6);

/** By type of resource: dollars a month while nothing runs. AWS's list prices in us-east-1, as of 2026-09. */
const idlePrices: Readonly<Record<string, { what: string; dollars: (properties: Record<string, unknown>) => number }>> =
  {
    'AWS::EC2::VPCEndpoint': {
      what: 'interface endpoints, $0.01 an hour and zone (that for S3 is free)',
      dollars: ({ VpcEndpointType, SubnetIds }) =>
        VpcEndpointType === 'Interface' ? 0.01 * hoursPerMonth * (SubnetIds as unknown[]).length : 0,
    },
    'AWS::EC2::NatGateway': { what: 'NAT gateway, $0.045 an hour', dollars: () => 0.045 * hoursPerMonth },
    'AWS::EC2::EIP': {
      what: 'public address of the NAT gateway, $0.005 an hour',
      dollars: () => 0.005 * hoursPerMonth,
    },
    'AWS::KMS::Key': { what: "key of the bucket's data", dollars: () => 1 },
    'AWS::CloudWatch::Alarm': { what: 'alarms, $0.10 each', dollars: () => 0.1 },
    'AWS::CloudWatch::Dashboard': { what: 'dashboard', dollars: () => 3 },
    'AWS::Events::Rule': {
      what: 'the run every five minutes, with its requests to S3',
      dollars: ({ ScheduleExpression }) => (ScheduleExpression === undefined ? 0 : repairs),
    },
    'AWS::WAFv2::WebACL': {
      what: 'firewall, $5 and $1 a rule',
      dollars: ({ Rules }) => 5 + (Rules as unknown[]).length,
    },
  };

/** @returns a line for each kind of resource that is billed while idle */
export function idleCosts(resources: readonly TemplateResource[]): { what: string; count: number; dollars: number }[] {
  return Object.entries(idlePrices).flatMap(([type, { what, dollars }]) => {
    const costs = resources
      .filter((resource) => resource.Type === type)
      .map(({ Properties = {} }) => dollars(Properties))
      .filter((each) => each > 0);
    return costs.length === 0
      ? []
      : [{ what, count: costs.length, dollars: costs.reduce((sum, each) => sum + each, 0) }];
  });
}

/** Llama 2, whose sizes most models of that many parameters have. */
const llama = {
  architectures: ['LlamaForCausalLM'],
  vocab_size: 32_000,
  max_position_embeddings: 4096,
  rms_norm_eps: 1e-5,
};
export const models = {
  '7B': { ...llama, hidden_size: 4096, intermediate_size: 11_008, num_hidden_layers: 32, num_attention_heads: 32 },
  '13B': { ...llama, hidden_size: 5120, intermediate_size: 13_824, num_hidden_layers: 40, num_attention_heads: 40 },
} as const;

const id = '01ARZ3NDEKTSV4RRFFQ69G5FAV';
export const settings = {
  'cherryq, as it comes': { modelId: id, calibrationDatasetId: id },
  'cherryq, moments in bfloat16': { modelId: id, calibrationDatasetId: id, training: { moments: 'bfloat16' } },
  'rtn (rounding alone)': { modelId: id, scheme: { method: 'rtn' } },
} satisfies Record<string, CreateJob>;

/** The API's estimate on every machine of the table, before any job has been measured. */
export async function estimateOf(config: object, request: CreateJob): Promise<Estimate> {
  const folder = await mkdtemp(join(tmpdir(), 'cherryq-cost-'));
  try {
    const store = new FolderStore(folder);
    await store.put('model/config.json', new TextEncoder().encode(JSON.stringify(config)));
    const estimator = createEstimator({
      store,
      reader: { read: () => Promise.resolve(null) },
      machines: Object.keys(machineTable).map(jobMachine),
    });
    const parsed = createJobSchema.parse(request);
    return await estimator.estimate('local', {
      request: parsed,
      model: { id: 'model', name: 'the model', prefix: 'model/', fingerprint: null },
      calibration: parsed.calibrationDatasetId === undefined ? null : { sizeBytes: 64e6 },
      evaluation: null,
      tasks: [],
      analysis: [],
    });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
