/**
 * Machines with a GPU that AWS rents out, so that a setting can name one in place of describing it. A job runs on one GPU, so
 * `deviceBytes` is one GPU's memory, in the decimal gigabytes that its maker states, and a job is charged the whole machine.
 * Prices: us-east-1, Linux, on demand, from copies of AWS's list as of 2026-09 at the latest; AWS's own was not asked
 * (aws.amazon.com/ec2/pricing/on-demand). Other regions cost more and Spot less: describe the machine in the setting where that matters.
 */
import { machineSchema, type Machine } from 'cherryq/contract';
import { InputError } from '@cherryq/batch-jobs/storage';

export interface CloudMachine extends Machine {
  /** Model of the GPU. */
  readonly gpu: string;
  readonly gpus: number;
  readonly vcpus: number;
  readonly deviceBytes: number;
  readonly dollarsPerHour: number;
}

/**
 * Tensor TFLOP/s at which each GPU multiplies float32 matrices (TF32, dense; the T4 has none: FP32), by NVIDIA's data sheets.
 * A job is assumed to reach an eighth of it; this is a guess that the tenant's first measured jobs replace.
 */
const gpuModels = {
  T4: { deviceBytes: 16e9, peak: 8.1e12 },
  A10G: { deviceBytes: 24e9, peak: 35e12 },
  L4: { deviceBytes: 24e9, peak: 60e12 },
  L40S: { deviceBytes: 48e9, peak: 183e12 },
  A100: { deviceBytes: 40e9, peak: 156e12 },
  H100: { deviceBytes: 80e9, peak: 495e12 },
} as const;
const assumedShareOfPeak = 1 / 8;
/** To start an instance and to fetch the image, which has 5 GB. */
const startSeconds = 240;

/** Name, GPU, how many, vCPUs, GiB of main memory, dollars an hour; the cheapest first. */
const rows: readonly (readonly [string, keyof typeof gpuModels, number, number, number, number])[] = [
  ['g4dn.xlarge', 'T4', 1, 4, 16, 0.526],
  ['g4dn.2xlarge', 'T4', 1, 8, 32, 0.752],
  ['g6.xlarge', 'L4', 1, 4, 16, 0.8048],
  ['g6.2xlarge', 'L4', 1, 8, 32, 0.9776],
  ['g5.xlarge', 'A10G', 1, 4, 16, 1.006],
  ['g4dn.4xlarge', 'T4', 1, 16, 64, 1.204],
  ['g5.2xlarge', 'A10G', 1, 8, 32, 1.212],
  ['g6.4xlarge', 'L4', 1, 16, 64, 1.3232],
  ['g5.4xlarge', 'A10G', 1, 16, 64, 1.624],
  ['g6e.xlarge', 'L40S', 1, 4, 32, 1.861],
  ['g6.8xlarge', 'L4', 1, 32, 128, 2.0144],
  ['g6e.2xlarge', 'L40S', 1, 8, 64, 2.24208],
  ['g5.8xlarge', 'A10G', 1, 32, 128, 2.448],
  ['g6e.4xlarge', 'L40S', 1, 16, 128, 3.00424],
  ['g6.16xlarge', 'L4', 1, 64, 256, 3.3968],
  ['g5.16xlarge', 'A10G', 1, 64, 256, 4.096],
  ['g6e.8xlarge', 'L40S', 1, 32, 256, 4.52856],
  ['p5.4xlarge', 'H100', 1, 16, 256, 6.88],
  ['g6e.16xlarge', 'L40S', 1, 64, 512, 7.57719],
  ['p4d.24xlarge', 'A100', 8, 96, 1152, 21.957642],
  ['p5.48xlarge', 'H100', 8, 192, 2048, 55.04],
];

export const machineTable: Readonly<Record<string, CloudMachine>> = Object.fromEntries(
  rows.map(([name, gpu, gpus, vcpus, gibibytes, dollarsPerHour]) => [
    name,
    {
      name,
      gpu,
      gpus,
      vcpus,
      engine: 'gpu' as const,
      hostBytes: gibibytes * 2 ** 30,
      deviceBytes: gpuModels[gpu].deviceBytes,
      dollarsPerHour,
      startSeconds,
      operationsPerSecond: gpuModels[gpu].peak * assumedShareOfPeak,
    },
  ]),
);

/** Names replaced by what the table says of them.  @throws InputError for a name that it has not */
export function machinesOf(list: readonly (string | Machine)[]): Machine[] {
  return list.map((entry) => {
    if (typeof entry !== 'string') return entry;
    if (!Object.hasOwn(machineTable, entry))
      throw new InputError(
        'unknown_machine',
        `there is no built-in machine ${JSON.stringify(entry)}; the nearest name is ${nearestName(entry)}. ` +
          `Known are ${Object.keys(machineTable).join(', ')}; describe any other as an object`,
        'machines',
      );
    return machineSchema.strip().parse(machineTable[entry]);
  });
}

function nearestName(name: string): string {
  const all = Object.keys(machineTable).map((known) => ({ known, distance: editDistance(name, known) }));
  return all.reduce((best, each) => (each.distance < best.distance ? each : best)).known;
}

/** Of Levenshtein. */
function editDistance(left: string, right: string): number {
  let row = Array.from({ length: right.length + 1 }, (_, column) => column);
  for (const [i, letter] of [...left].entries()) {
    const next = [i + 1];
    for (const [j, other] of [...right].entries()) {
      const [diagonal = 0, above = 0] = row.slice(j);
      next.push(Math.min(diagonal + (letter === other ? 0 : 1), above + 1, (next.at(-1) ?? 0) + 1));
    }
    row = next;
  }
  return row.at(-1) ?? 0;
}
