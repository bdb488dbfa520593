/**
 * Imports: models that the server fetches by itself (`sources.ts`). What is to be fetched is fixed when the import is created;
 * then one file after another is copied, hashed on the way, and its hash written down beside it. So an import goes on, wherever it
 * stopped, with the first file that has no hash yet, and whoever runs it needs no lock: a file is stored once. At the end
 * the model is checked and becomes what an upload of the same files would be.
 *
 * On one machine imports run in the background of the server. Where a process does not outlive its requests, the scheduled run
 * copies for as long as it may and leaves the rest to the next one.
 */
import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { UploadFile } from 'cherryq/contract';
import { checkIncoming, modelProblems } from '@cherryq/batch-jobs/planning';
import { InputError, messageOf, TransientError } from '@cherryq/batch-jobs/storage';
import type { Logger, Store } from './ports.ts';
import { modelProblem, ProblemError } from './problems.ts';
import { SourceBusyError, type SourceFile, type SourceListing, type Sources } from './sources.ts';
import { checkedFile, type ImportRecord, type Uploads } from './uploads.ts';

/** A file that breaks off is gone on with so many times, after pauses that double. */
const mostTries = 6;
const longestWaitSeconds = 60;

export interface Imports {
  /** What would be imported.  @throws InputError, ProblemError (503) when the source does not answer */
  plan(url: string): Promise<SourceListing>;
  /** Begins with, or goes on with, an import in the background, where there is one. */
  start(tenant: string, id: string): void;
  /** Goes on with every import that has not ended.  @param until when no other file is begun  @returns how many have ended */
  run(options?: { until?: number }): Promise<number>;
  /** Stops what runs in the background; it goes on with the next start. */
  close(): Promise<void>;
}

export function createImports(deps: {
  store: Store;
  models: Uploads;
  sources: Sources;
  logger: Logger;
  /** Bytes of the file that is being copied, by the model's id. */
  copying: Map<string, number>;
  /** Whether this process outlives its requests. */
  inBackground: boolean;
  firstWaitMs?: number;
}): Imports {
  const { store, models, sources, logger, copying, inBackground, firstWaitMs = 500 } = deps;
  const stop = new AbortController();
  const running = new Map<string, Promise<boolean>>();

  /** The bytes of a file, gone on with where they broke off. */
  async function* read(record: ImportRecord, file: SourceFile): AsyncGenerator<Uint8Array> {
    let position = 0;
    for (let failures = 0; ;) {
      try {
        for await (const chunk of await sources.open(record.source, file.path, position, stop.signal)) {
          stop.signal.throwIfAborted();
          position += chunk.byteLength;
          copying.set(record.id, position);
          yield chunk;
        }
        if (position >= file.sizeBytes) return;
        throw new TransientError(`${file.path} of ${record.source.url} broke off after ${position} bytes`);
      } catch (error) {
        stop.signal.throwIfAborted();
        if (error instanceof InputError || ++failures >= mostTries) throw error;
        const asked = error instanceof SourceBusyError ? error.waitSeconds : null;
        const waitMs = Math.min(1000 * (asked ?? 0) || firstWaitMs * 2 ** failures, 1000 * longestWaitSeconds);
        logger({ level: 'warning', message: `import of ${record.id}: ${messageOf(error)}`, waitMs });
        await sleep(waitMs, undefined, { signal: stop.signal });
      }
    }
  }

  /** @returns its hash; the file is there then */
  async function copy(tenant: string, record: ImportRecord, file: SourceFile): Promise<string> {
    const key = models.filesPrefix(tenant, record.id) + file.path;
    const paths = record.files.map(({ path }) => path);
    if ((await store.head(key)) === null) {
      const check = checkIncoming(file, paths);
      let sha256 = '';
      const content = checkedFile(read(record, file), file, check, (hash) => (sha256 = hash));
      if (await store.put(key, content, { onlyIfAbsent: true })) return sha256;
    }
    // Copied before, by a run that ended before it could write down the hash.
    const hash = createHash('sha256');
    for await (const chunk of (await store.stream(key)) ?? []) hash.update(chunk);
    return hash.digest('hex');
  }

  /** @returns whether it has ended; false: `until` has come */
  async function runOne(tenant: string, id: string, until: number): Promise<boolean> {
    const record = await models.findImport(tenant, id);
    if (record === null) return true;
    try {
      const files: UploadFile[] = [];
      for (const file of record.files) {
        let sha256 = await models.importedHash(tenant, id, file.path);
        if (sha256 === null) {
          if (Date.now() >= until) return false;
          sha256 = await copy(tenant, record, file);
          await models.keepImported(tenant, id, file.path, sha256);
          copying.delete(id);
        }
        files.push({ path: file.path, sizeBytes: file.sizeBytes, sha256 });
      }
      const [first, ...rest] = await modelProblems(store, models.filesPrefix(tenant, id));
      if (first !== undefined) throw modelProblem([first, ...rest], importAnew);
      await models.finishImport(tenant, record, files);
      return true;
    } catch (error) {
      if (stop.signal.aborted) return false;
      // Deleted in the meantime.
      if ((await models.findImport(tenant, id)) === null) {
        await store.deletePrefix(models.filesPrefix(tenant, id));
        return true;
      }
      const isTheirs =
        error instanceof InputError ||
        error instanceof ProblemError ||
        error instanceof TransientError ||
        error instanceof SourceBusyError;
      if (!isTheirs) logger({ level: 'error', message: `import of ${id} failed`, error });
      await models.failImport(tenant, id, {
        code: error instanceof InputError || error instanceof ProblemError ? error.code : 'source_unavailable',
        message: isTheirs ? messageOf(error) : 'The import failed by an error of the server, which is in its log.',
        param: error instanceof InputError || error instanceof ProblemError ? error.param : 'source',
      });
      return true;
    } finally {
      copying.delete(id);
    }
  }

  function runOnce(tenant: string, id: string, until: number): Promise<boolean> {
    const work = running.get(id) ?? runOne(tenant, id, until).finally(() => running.delete(id));
    running.set(id, work);
    return work;
  }

  return {
    async plan(url) {
      try {
        return await sources.list(url);
      } catch (error) {
        if (!(error instanceof TransientError) && !(error instanceof SourceBusyError)) throw error;
        const wait = error instanceof SourceBusyError ? error.waitSeconds : null;
        throw new ProblemError('unavailable', messageOf(error), {
          param: 'source',
          headers: wait === null ? {} : { 'Retry-After': String(wait) },
          cause: error,
        });
      }
    },
    start(tenant, id) {
      if (!inBackground) return;
      runOnce(tenant, id, Infinity).catch((error: unknown) =>
        logger({ level: 'error', message: `import of ${id} stopped; it goes on when the server starts again`, error }),
      );
    },
    async run({ until = Infinity } = {}) {
      let ended = 0;
      for await (const { tenant, id } of models.openImports()) {
        if (stop.signal.aborted || Date.now() >= until) break;
        if (await runOnce(tenant, id, until)) ended++;
      }
      return ended;
    },
    async close() {
      stop.abort();
      await Promise.allSettled(running.values());
    },
  };
}

const importAnew = 'Import it anew once that is mended.';
