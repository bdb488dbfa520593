/** Models and datasets: sets of files, uploaded once and found again by their content. */
import {
  encodePath,
  sha256Of,
  sha256OfStream,
  type RequestBody,
  type RequestOptions,
  type Transport,
} from './client.ts';
import type { CreateUpload, Dataset, ImportModel, Model, Page, PartUpload, UploadFile } from './contract/index.ts';
import { InputError } from './errors.ts';
import { everyItem } from './pages.ts';
import { sleep } from './retry.ts';

/**
 * A file in memory, or a stream that is read into it, since its hash is declared before it is sent; or a Blob, such as a file of a page,
 * that is read twice, a part at a time; or one that is opened when it is sent and whose hash is known.
 */
export type UploadSource =
  | { path: string; content: Uint8Array | Blob | string | ReadableStream<Uint8Array> }
  | (UploadFile & Pick<RequestBody, 'open'>);

export interface ListUploadsQuery {
  /** 1 to 100, default 20. */
  limit?: number;
  /** Id of the last one seen. */
  after?: string;
  fingerprint?: string;
}

export interface UploadOptions extends RequestOptions {
  onProgress?: (progress: UploadProgress) => void;
}

/** Smaller files take the short way. */
const mostThroughApi = 2 ** 20;
/** Of a Blob: that which comes with the platform is faster, but wants all at once. */
const mostHashedWhole = 32 * 2 ** 20;
/** Each is in memory as a whole. */
const partsAtOnce = 4;
/** Of a part: with their pauses they outlast a restart of the server. */
const partRetries = 6;
/** A server that takes parts itself reads the file once more in the end, for its hash: at least so fast. */
const hashedBytesPerMs = 50_000;

export interface UploadProgress {
  /** The file that is being sent. */
  path: string;
  sentBytes: number;
  /** What the server lacked in the beginning. */
  totalBytes: number;
}

/** `client.models` and `client.datasets`. */
export class Uploads<Upload extends Model | Dataset> {
  readonly #transport: Transport;
  readonly #path: string;

  constructor(transport: Transport, path: '/v1/models' | '/v1/datasets') {
    this.#transport = transport;
    this.#path = path;
  }

  /** Declares the files; each is then put, and `complete` makes the whole usable. `upload` does all of it. */
  create(
    request: Upload extends Model ? CreateUpload | ImportModel : CreateUpload,
    options?: RequestOptions,
  ): Promise<Upload> {
    return this.#transport.json({ method: 'POST', path: this.#path, json: request }, options);
  }

  #declare(request: CreateUpload, options: RequestOptions): Promise<Upload> {
    return this.#transport.json({ method: 'POST', path: this.#path, json: request }, options);
  }

  /** One page, newest first. */
  list(query: ListUploadsQuery = {}, options?: RequestOptions): Promise<Page<Upload>> {
    return this.#transport.json({ method: 'GET', path: this.#path, query: { ...query } }, options);
  }

  /** All of them, newest first. */
  iterate(query: ListUploadsQuery = {}, options?: RequestOptions): AsyncGenerator<Upload> {
    return everyItem((after = query.after) => this.list({ ...query, after }, options));
  }

  retrieve(id: string, options?: RequestOptions): Promise<Upload> {
    return this.#transport.json({ method: 'GET', path: this.#of(id) }, options);
  }

  delete(id: string, options?: RequestOptions): Promise<void> {
    return this.#transport.json({ method: 'DELETE', path: this.#of(id) }, options);
  }

  /** Sends the content of one declared file. The server checks its SHA-256. */
  putFile(id: string, path: string, body: RequestBody, options?: RequestOptions): Promise<void> {
    return this.#transport.json({ method: 'PUT', path: `${this.#of(id)}/files/${encodePath(path)}`, body }, options);
  }

  /** Where to send parts of a file, for servers whose files have `partBytes`; `putPart` sends one there. */
  requestParts(
    id: string,
    request: { path: string; parts: { number: number; sha256: string }[] },
    options?: RequestOptions,
  ): Promise<PartUpload> {
    return this.#transport.json({ method: 'POST', path: `${this.#of(id)}/parts`, json: request }, options);
  }

  /** Sends a part to where `requestParts` said: to the server, or to its store, which gets no key. Its SHA-256 is checked there. */
  putPart(
    { url, headers }: Pick<PartUpload['parts'][number], 'url' | 'headers'>,
    content: Uint8Array<ArrayBuffer>,
    options?: RequestOptions,
  ): Promise<void> {
    if (!url.startsWith('/')) return this.#transport.putElsewhere(url, headers, content, options);
    const body: RequestBody = { sizeBytes: content.byteLength, open: () => content };
    return this.#transport.json({ method: 'PUT', path: url, headers, body }, options);
  }

  /** Says that every file is there; the server checks that they make a whole.  @throws UnprocessableError for what no job could use */
  complete(id: string, options?: RequestOptions): Promise<Upload> {
    return this.#transport.json({ method: 'POST', path: `${this.#of(id)}/complete` }, options);
  }

  /**
   * Uploads a set of files and returns it ready to use. What the server has is not sent again: equal content is found by
   * its fingerprint, and an upload that broke off goes on.
   * @example await client.datasets.upload({ name: 'notes', files: [{ path: 'text.txt', content: 'Once upon a time.' }] })
   */
  async upload(request: { name: string; files: UploadSource[] }, options: UploadOptions = {}): Promise<Upload> {
    const { onProgress, ...rest } = options;
    const sources = await Promise.all(request.files.map((file) => described(file, rest.signal)));
    const files = sources.map(({ path, sizeBytes, sha256 }) => ({ path, sizeBytes, sha256 }));
    const found = await this.#find(await fingerprintOf(files), request.name, rest);
    if (found?.status === 'ready') return found;
    const upload = found ?? (await this.#declare({ name: request.name, files }, rest));
    const lacking = new Map(upload.files.filter((file) => !file.uploaded).map((file) => [file.path, file.partBytes]));
    // Small ones first: what is wrong with a model shows there, before its weights are sent.
    const toSend = sources.filter((source) => lacking.has(source.path)).sort((a, b) => a.sizeBytes - b.sizeBytes);
    const totalBytes = toSend.reduce((sum, source) => sum + source.sizeBytes, 0);
    let sentBytes = 0;
    for (const source of toSend) {
      const report = (bytes: number): void =>
        onProgress?.({ path: source.path, sentBytes: sentBytes + bytes, totalBytes });
      const partBytes = lacking.get(source.path) ?? null;
      if (partBytes === null || source.sizeBytes <= mostThroughApi)
        await this.putFile(upload.id, source.path, counted(source, report), rest);
      else await this.#sendParts(upload.id, source, partBytes, report, rest);
      sentBytes += source.sizeBytes;
      report(0);
    }
    const timeoutMs = (rest.timeoutMs ?? this.#transport.timeoutMs) + totalBytes / hashedBytesPerMs;
    return this.complete(upload.id, { ...rest, timeoutMs });
  }

  /** A few parts at a time; those that are there already are only read, for their hash. */
  async #sendParts(
    id: string,
    source: UploadFile & RequestBody,
    partBytes: number,
    onBytes: (bytes: number) => void,
    options: RequestOptions,
  ): Promise<void> {
    const sending = new Set<Promise<void>>();
    const { maxRetries } = this.#transport;
    // Who wants no second tries gets none.
    const patient = { maxRetries: maxRetries && Math.max(maxRetries, partRetries), ...options };
    let done = 0;
    const send = async (number: number, content: Uint8Array<ArrayBuffer>): Promise<void> => {
      const sha256 = await sha256Of(content);
      const request = { path: source.path, parts: [{ number, sha256 }] };
      const [part] = (await this.requestParts(id, request, patient)).parts;
      if (part !== undefined && !part.uploaded) await this.putPart(part, content, patient);
      onBytes((done += content.byteLength));
      // Nobody reads it any more.
      if (content.byteLength === partBytes) spare.push(content);
    };
    const spare: Uint8Array<ArrayBuffer>[] = [];
    let number = 0;
    try {
      for await (const content of inParts(source, partBytes, spare)) {
        const sent = send(++number, content).finally(() => sending.delete(sent));
        sending.add(sent);
        // What goes wrong is thrown where it is awaited.
        sent.catch(() => undefined);
        if (sending.size >= partsAtOnce) await Promise.race(sending);
      }
    } finally {
      await Promise.allSettled([...sending]).then((ends) => {
        for (const end of ends) if (end.status === 'rejected') throw end.reason;
      });
    }
  }

  /** Something of equal content: best ready and of the same name. */
  async #find(fingerprint: string, name: string, options: RequestOptions): Promise<Upload | undefined> {
    const { data } = await this.list({ fingerprint, limit: 100 }, options);
    const rank = (upload: Upload): number => (upload.status === 'ready' ? 2 : 0) + (upload.name === name ? 1 : 0);
    return data.sort((a, b) => rank(b) - rank(a))[0];
  }

  #of(id: string): string {
    return `${this.#path}/${encodeURIComponent(id)}`;
  }
}

/** `client.models`: what can also be fetched by the server itself. */
export class Models extends Uploads<Model> {
  /**
   * Lets the server import a model, and returns it ready to use. Ended by its signal, it goes on: `retrieve` shows how far it is.
   * @throws InputError when it fails
   * @example await client.models.import({ source: 'hf://HuggingFaceTB/SmolLM2-135M@main' })
   */
  async import(request: ImportModel, options: UploadOptions = {}): Promise<Model> {
    const { onProgress, ...rest } = options;
    let model = await this.create(request, rest);
    for (let waitMs = firstPollMs; model.status === 'importing'; waitMs = Math.min(2 * waitMs, longestPollMs)) {
      await sleep(waitMs, rest.signal);
      model = await this.retrieve(model.id, rest);
      onProgress?.({ path: request.source, sentBytes: model.importedBytes ?? 0, totalBytes: model.sizeBytes });
    }
    if (model.error === null) return model;
    throw new InputError(model.error.code, model.error.message, model.error.param);
  }
}
const [firstPollMs, longestPollMs] = [100, 2000];

/**
 * The content of a file, cut; a part is not changed once it is out.
 * @param spare parts that are out of use, to be filled again: left to the garbage collector they would pile up
 */
async function* inParts(
  { open }: RequestBody,
  partBytes: number,
  spare: Uint8Array<ArrayBuffer>[],
): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  const empty = (): Uint8Array<ArrayBuffer> => spare.pop() ?? new Uint8Array(partBytes);
  const content = open();
  const stream = content instanceof ReadableStream ? content : new Blob([content]).stream();
  const reader = stream.getReader();
  let part = empty();
  let length = 0;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      for (let at = 0; at < value.byteLength;) {
        const taken = value.subarray(at, at + partBytes - length);
        part.set(taken, length);
        at += taken.byteLength;
        length += taken.byteLength;
        if (length < partBytes) continue;
        yield part;
        [part, length] = [empty(), 0];
      }
    }
    if (length > 0) yield part.subarray(0, length);
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

async function described(source: UploadSource, signal?: AbortSignal): Promise<UploadFile & RequestBody> {
  if ('open' in source) return source;
  const { path, content } = source;
  if (content instanceof Blob && content.size > mostHashedWhole) {
    const sha256 = await sha256OfStream(content.stream(), signal);
    return { path, sizeBytes: content.size, sha256, open: () => content };
  }
  const body = content instanceof Uint8Array ? new Uint8Array(content) : content;
  const bytes = new Uint8Array(await new Response(body).arrayBuffer());
  return { path, sizeBytes: bytes.byteLength, sha256: await sha256Of(bytes), open: () => bytes };
}

/** Tells, of a stream, how much of it was taken; every try begins from nothing. */
function counted({ sizeBytes, open }: RequestBody, onBytes: (bytes: number) => void): RequestBody {
  const count = (): TransformStream<Uint8Array, Uint8Array> => {
    let bytes = 0;
    return new TransformStream({
      transform(chunk, controller) {
        onBytes((bytes += chunk.byteLength));
        controller.enqueue(chunk);
      },
    });
  };
  return {
    sizeBytes,
    open() {
      const content = open();
      return content instanceof ReadableStream ? content.pipeThrough(count()) : content;
    },
  };
}

/** SHA-256 over the lines `<path> <sha256>\n` in ascending order of path, by UTF-16 code units. */
export async function fingerprintOf(files: readonly Pick<UploadFile, 'path' | 'sha256'>[]): Promise<string> {
  const sorted = [...files].sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0));
  return sha256Of(new TextEncoder().encode(sorted.map(({ path, sha256 }) => `${path} ${sha256}\n`).join('')));
}
