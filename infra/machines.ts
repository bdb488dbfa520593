/** The machines of an install as its API knows them: what the estimate reckons with, and where Batch takes their jobs. */
import { machineTable, type CloudMachine } from '@cherryq/api/machines';
import { machineSchema, type Machine } from 'cherryq/contract';
import type { InstallContext } from './context.ts';
import { definitionName, queueName } from './names.ts';

/** What the system and the agent of ECS keep of a machine's memory. */
const keptShare = 0.06;

/** @throws Error for a name that the table has not; the context has been checked for that */
export function cloudMachine(name: string): CloudMachine {
  const machine = machineTable[name];
  if (machine === undefined) throw new Error(`there is no machine ${name}`);
  return machine;
}

/** Of one job: its GPU's share of the machine. */
export function jobMemoryMiB(name: string): number {
  const { hostBytes, gpus } = cloudMachine(name);
  return Math.floor(((1 - keptShare) * hostBytes) / gpus / 2 ** 20);
}

/** A machine as one job sees it: with the memory that its container gets. */
export function jobMachine(name: string): Machine {
  return machineSchema.strip().parse({ ...cloudMachine(name), hostBytes: jobMemoryMiB(name) * 2 ** 20 });
}

/** Value of `CHERRYQ_MACHINES` (api/src/lambda.ts). */
export function machinesSetting({ installName, machines }: InstallContext): string {
  return JSON.stringify(
    machines.map((name) => ({
      machine: jobMachine(name),
      jobQueue: queueName(installName, name),
      jobDefinition: definitionName(installName, name, '{tenant}'),
    })),
  );
}
