/** The API over the queue of a private install, in front of a small Batch that can fail. */
import type { Store } from '@cherryq/batch-jobs/storage';
import type { BatchQueue } from '../../api/src/adapters/batch-queue.ts';
import { createBatchQueue } from '../../api/src/adapters/batch-queue.ts';
import { createApp } from '../../api/src/app.ts';
import type { Clock } from '../../api/src/ports.ts';
import { localKeys } from '../../api/src/ports.ts';
import type { BatchServer } from './batch-server.ts';
import { startBatchServer } from './batch-server.ts';
import type { FaultyProxy } from './faulty-proxy.ts';
import { startFaultyProxy } from './faulty-proxy.ts';
import { temporaryStore } from './temporary-store.ts';

export const gpus = [{ machine: 'this machine', jobQueue: 'gpus', jobDefinition: 'worker-{tenant}' }];

export interface BatchSetup {
  readonly batch: BatchServer;
  readonly proxy: FaultyProxy;
  readonly store: Store;
  readonly clock: Clock;
  readonly queue: BatchQueue;
  readonly app: ReturnType<typeof createApp>;
  /** Milliseconds that the clock is ahead. */
  wait(ms: number): void;
  /** A queue in another process. */
  another(): BatchQueue;
}

export async function openBatch(): Promise<BatchSetup> {
  const batch = await startBatchServer();
  const proxy = await startFaultyProxy(batch.url);
  const store = await temporaryStore();
  let ahead = 0;
  const clock = { now: () => Date.now() + ahead };
  const another = (): BatchQueue =>
    createBatchQueue({
      store,
      storeUrl: 's3://bucket/prefix',
      clock,
      logger: () => undefined,
      targets: gpus,
      installName: 'research',
      client: { ...batch.client, endpoint: proxy.url },
    });
  const queue = another();
  const app = createApp({ store, queue, clock, logger: () => undefined, keys: localKeys, version: '1.2.3' });
  return { batch, proxy, store, clock, queue, app, another, wait: (ms) => void (ahead += ms) };
}
