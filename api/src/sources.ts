/**
 * Where models can be imported from: a repository of the Hugging Face Hub, a prefix of a bucket, a folder of this machine. A source
 * is listed once, when the import begins, and then read file by file; what belongs to a model is what an upload of its folder sends.
 *
 *     hf://owner/name@revision   a branch or tag is pinned to its commit (default: main); the server's own token, none of a request's
 *     s3://bucket/prefix         with the server's own role, so only of buckets that are named in its settings
 *     file:///folder             only where whoever asks may read this machine's files anyway
 */
import { createReadStream } from 'node:fs';
import { readdir, realpath, stat } from 'node:fs/promises';
import { join, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { filePathSchema, sha256Schema } from 'cherryq/contract';
import { InputError, messageOf, openStore, TransientError, type Store } from '@cherryq/batch-jobs/storage';
import { z } from 'zod';

export interface SourceFile {
  path: string;
  sizeBytes: number;
  /** As the source says; null where it does not. */
  sha256: string | null;
}

export interface SourceListing {
  url: string;
  revision: string | null;
  /** The smaller ones first. */
  files: SourceFile[];
}

export interface SourceSettings {
  /** Whether folders of this machine may be read. */
  allowFolders: boolean;
  /** Names of the buckets that may be read. */
  buckets: readonly string[];
  hub: {
    endpoint: string;
    /** Asked with each request to the Hub; null: there is none. */
    token: () => string | null | Promise<string | null>;
  };
}

export interface Sources {
  /** @throws InputError when there is no such model, or it may not be read   @throws TransientError when the source does not answer */
  list(url: string): Promise<SourceListing>;
  /** A file from a byte on, until the signal comes.  @throws as `list` */
  open(
    listing: Pick<SourceListing, 'url' | 'revision'>,
    path: string,
    start: number,
    signal: AbortSignal,
  ): Promise<AsyncIterable<Uint8Array>>;
}

/** The same files that an upload of the folder sends (`modelFilePattern` of the SDK). Pickles are never taken. */
const modelFilePattern = /^(?:.+\.safetensors|.+\.json|tokenizer.*|chat_template.*|LICENSE.*)$/;
const mostFiles = 1000;
const publicHub = 'https://huggingface.co';
const answerMs = 30_000;

/** From CHERRYQ_SOURCE_BUCKETS (names with commas), HF_ENDPOINT and HF_TOKEN. */
export function sourceSettings(environment: NodeJS.ProcessEnv, allowFolders: boolean): SourceSettings {
  const { CHERRYQ_SOURCE_BUCKETS: buckets, HF_ENDPOINT: endpoint, HF_TOKEN: token } = environment;
  return {
    allowFolders,
    buckets: (buckets ?? '').split(',').flatMap((name) => name.trim() || []),
    hub: { endpoint: (endpoint || publicHub).replace(/\/+$/, ''), token: () => token || null },
  };
}

interface Source {
  list(): Promise<{ revision: string | null; files: SourceFile[] }>;
  open(path: string, start: number, revision: string | null, signal: AbortSignal): Promise<AsyncIterable<Uint8Array>>;
}

export function createSources(settings: SourceSettings): Sources {
  function sourceAt(url: string): Source {
    if (url.startsWith('hf://')) return hubSource(url, settings.hub);
    if (url.startsWith('s3://')) return bucketSource(url, settings.buckets);
    return folderSource(url, settings.allowFolders);
  }
  return {
    async list(url) {
      const { revision, files } = await sourceAt(url).list();
      return { url, revision, files: checkedFiles(url, files) };
    },
    open: ({ url, revision }, path, start, signal) => sourceAt(url).open(path, start, revision, signal),
  };
}

function checkedFiles(url: string, all: readonly SourceFile[]): SourceFile[] {
  const files = all.filter(({ path }) => isModelFile(path)).sort((a, b) => a.sizeBytes - b.sizeBytes);
  for (const needed of ['config.json', '.safetensors', 'tokenizer.json'])
    if (!files.some(({ path }) => path.endsWith(needed)))
      throw new InputError(
        'missing_file',
        `${url} has no ${needed === '.safetensors' ? '*.safetensors' : needed}; a model needs config.json, weights as safetensors and tokenizer.json. It holds ${nameSome(all)}.`,
        'source',
      );
  if (files.length <= mostFiles) return files;
  throw new InputError(
    'too_many_files',
    `${url} has ${files.length} files; a model has at most ${mostFiles}.`,
    'source',
  );
}

function isModelFile(path: string): boolean {
  const isPlain = !path.includes('/') && !path.startsWith('.') && filePathSchema.safeParse(path).success;
  return isPlain && modelFilePattern.test(path);
}

function nameSome(files: readonly SourceFile[]): string {
  const names = files.slice(0, 10).map(({ path }) => path);
  const more = files.length > names.length ? ` and ${files.length - names.length} more` : '';
  return names.length === 0 ? 'no file' : names.join(', ') + more;
}

function folderSource(url: string, isAllowed: boolean): Source {
  if (!isAllowed)
    throw new InputError(
      'source_forbidden',
      `${url} is a folder of the server, which reads none for its callers; upload the folder, or give hf:// or s3://.`,
      'source',
    );
  const folder = pathOf(url);
  /** Of a file that lies in the folder itself. */
  async function inside(name: string): Promise<string> {
    const [root, target] = await Promise.all([realpath(folder), realpath(join(folder, name))]);
    if (target.startsWith(root + sep)) return target;
    throw new InputError(
      'source_forbidden',
      `${name} of ${url} is a link to a file outside the folder, which is not followed; upload the folder by its path, or copy the file.`,
      'source',
    );
  }
  return {
    async list() {
      const names = await readdir(folder).catch((cause: unknown) => {
        throw new InputError('source_not_found', `${url} is not a folder that can be read.`, 'source', { cause });
      });
      const files: SourceFile[] = [];
      for (const path of names.filter(isModelFile)) {
        const found = await stat(await inside(path));
        if (found.isFile()) files.push({ path, sizeBytes: found.size, sha256: null });
      }
      return { revision: null, files };
    },
    open: async (path, start, _, signal) =>
      createReadStream(await inside(path), { start, signal, highWaterMark: 1 << 20 }),
  };
}

function pathOf(url: string): string {
  try {
    return fileURLToPath(url);
  } catch (cause) {
    throw new InputError('invalid_source', `${url} is not file:/// and an absolute path.`, 'source', { cause });
  }
}

function bucketSource(url: string, buckets: readonly string[]): Source {
  const [, bucket = ''] = /^s3:\/\/([^/]*)/.exec(url) ?? [];
  if (!buckets.includes(bucket))
    throw new InputError(
      'source_forbidden',
      `this server does not read the bucket ${bucket}; its setting CHERRYQ_SOURCE_BUCKETS names those that it does.`,
      'source',
    );
  const store: Store = openStore(url);
  return {
    async list() {
      const files: SourceFile[] = [];
      for (let after: string | undefined; ;) {
        const page = await store.list('', { after });
        for (const { key, sizeBytes } of page) files.push({ path: key, sizeBytes, sha256: null });
        after = page.at(-1)?.key;
        if (after === undefined || files.length > 100 * mostFiles) break;
      }
      if (files.length > 0) return { revision: null, files };
      throw new InputError('source_not_found', `there is nothing under ${url}.`, 'source');
    },
    async open(path, start) {
      const { sizeBytes } = (await store.head(path)) ?? { sizeBytes: 0 };
      const body = await store.stream(path, { start, end: Math.max(start, sizeBytes) });
      if (body !== null) return body;
      throw new InputError('source_changed', `${path} is not in ${url} any more; import it again.`, 'source');
    },
  };
}

const hubAnswer = z.object({
  sha: z.string().regex(/^[0-9a-f]{40,64}$/),
  siblings: z.array(
    z.object({
      rfilename: z.string(),
      size: z.number().int().nonnegative().nullish(),
      lfs: z.object({ sha256: sha256Schema.optional(), size: z.number().int().optional() }).nullish(),
    }),
  ),
});

function hubSource(url: string, { endpoint, token }: SourceSettings['hub']): Source {
  const [, id, revision = 'main'] = /^hf:\/\/([\w.-]+\/[\w.-]+?)(?:@([\w./-]{1,200}))?$/.exec(url) ?? [];
  if (id === undefined || revision.includes('..'))
    throw new InputError('invalid_source', `${url} is not hf://owner/name or hf://owner/name@revision.`, 'source');

  /** @param signal ends the answer's body too */
  async function ask(path: string, headers: Record<string, string> = {}, signal?: AbortSignal): Promise<Response> {
    const bearer = await token();
    const authorization: Record<string, string> = bearer === null ? {} : { authorization: `Bearer ${bearer}` };
    let answer: Response;
    const timeout = new AbortController();
    const timer = setTimeout(() => timeout.abort(), answerMs);
    try {
      answer = await fetch(`${endpoint}/${path}`, {
        headers: { ...headers, ...authorization },
        signal: AbortSignal.any([timeout.signal, ...(signal ? [signal] : [])]),
      });
    } catch (cause) {
      throw new TransientError(`the Hub at ${endpoint} does not answer (${causeOf(cause)})`, { cause });
    } finally {
      clearTimeout(timer);
    }
    if (answer.ok) return answer;
    await answer.body?.cancel();
    throw refusal(answer, bearer !== null);
  }

  function refusal({ status, headers }: Response, hasToken: boolean): Error {
    if (status === 401 || status === 403)
      return new InputError(
        'source_forbidden',
        `the Hub does not show ${url} to this server (${status}): it does not exist, is private, or is gated. ` +
          (hasToken
            ? "The server's token must belong to somebody who may read it and has accepted its terms."
            : 'Set HF_TOKEN of the server, or cherryq:hubTokenSecret of a private install, to a token that may read it.'),
        'source',
      );
    if (status === 404)
      return new InputError('source_not_found', `the Hub has no ${id} at revision ${revision}.`, 'source');
    if (status === 429 || status >= 500) {
      const waitSeconds = Number(headers.get('retry-after')) || null;
      return new SourceBusyError(`the Hub answers ${status}; try again later`, waitSeconds);
    }
    return new InputError('source_refused', `the Hub answers ${status} for ${url}.`, 'source');
  }

  return {
    async list() {
      const answer = await ask(`api/models/${id}/revision/${encodeURIComponent(revision)}?blobs=true`);
      const listed = hubAnswer.safeParse(await answer.json().catch(() => null));
      if (!listed.success)
        throw new TransientError(`the Hub at ${endpoint} answers what is no list of files: ${listed.error.message}`);
      const files = listed.data.siblings.map(({ rfilename, size, lfs }) => ({
        path: rfilename,
        sizeBytes: lfs?.size ?? size ?? 0,
        sha256: lfs?.sha256 ?? null,
      }));
      return { revision: listed.data.sha, files };
    },
    async open(path, start, sha, signal) {
      const range: Record<string, string> = start === 0 ? {} : { range: `bytes=${start}-` };
      const answer = await ask(`${id}/resolve/${sha ?? revision}/${encodeURIComponent(path)}`, range, signal);
      const body = answer.body ?? new Blob([]).stream();
      return answer.status === 206 ? body : skipping(body, start);
    },
  };
}

/** What a source asks for that has too much to do. */
export class SourceBusyError extends Error {
  override readonly name = 'SourceBusyError';

  constructor(
    message: string,
    readonly waitSeconds: number | null,
  ) {
    super(message);
  }
}

/** A body that began at its first byte although another was asked for. */
async function* skipping(body: AsyncIterable<Uint8Array>, bytes: number): AsyncGenerator<Uint8Array> {
  let left = bytes;
  for await (const chunk of body) {
    const skipped = Math.min(left, chunk.byteLength);
    left -= skipped;
    if (skipped < chunk.byteLength) yield chunk.subarray(skipped);
  }
}

const causeOf = (error: unknown): string =>
  error instanceof Error && error.cause instanceof Error ? error.cause.message : messageOf(error);
