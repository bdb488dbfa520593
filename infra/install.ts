/** All stacks of one install, and what ties them together. */
import { Tags, type App, type Stack } from 'aws-cdk-lib';
import { ApiStack } from './api-stack.ts';
import { ComputeStack } from './compute-stack.ts';
import type { InstallContext } from './context.ts';
import { EventsStack } from './events-stack.ts';
import { installTag } from './names.ts';
import { ObserveStack } from './observe-stack.ts';
import { StorageStack } from './storage-stack.ts';

export interface Install {
  readonly storage: StorageStack;
  readonly compute: ComputeStack;
  readonly api: ApiStack;
  readonly events: EventsStack;
  readonly observe: ObserveStack;
}

export function createInstall(app: App, context: InstallContext): Install {
  const id = (name: string): string => `${context.installName}-${name}`;
  const storage = new StorageStack(app, id('storage'), { context });
  const data = { bucket: storage.bucket, key: storage.key };
  const compute = new ComputeStack(app, id('compute'), { context, data });
  const api = new ApiStack(app, id('api'), { context, data });
  const events = new EventsStack(app, id('events'), { context, data });
  const { http } = api;
  const { batchEvents, reconcile, deadLetters } = events;
  const observe = new ObserveStack(app, id('observe'), { context, http, batchEvents, reconcile, deadLetters });
  // They know its queues by name alone.
  for (const stack of [api, events] satisfies Stack[]) stack.addStackDependency(compute);
  Tags.of(app).add(installTag, context.installName);
  return { storage, compute, api, events, observe };
}
