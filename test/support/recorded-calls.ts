/**
 * A `fetch` that holds every request and every answer against the server's own OpenAPI document: path, query, body, status, content
 * type, the answer's body to its end, the code of a problem. What is wrong is kept, and thrown at the end.
 */
import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import formats from 'ajv-formats';

interface Media {
  schema: object;
}
interface Operation {
  operationId: string;
  parameters?: { name: string; in: string; required?: boolean; schema: object }[];
  requestBody?: { required?: boolean; content: Record<string, Media> };
  responses: Record<string, { description: string; headers?: object; content?: Record<string, Media> }>;
}
interface Document {
  paths: Record<string, Record<string, Operation>>;
  components: object;
}

export interface RecordedCalls {
  readonly fetch: typeof fetch;
  /** What is not as the document says, once all answers have been read. */
  faults(): Promise<string[]>;
  /** Operations of the document, by whether any request was answered by them without a problem. */
  operations(): { answered: string[]; never: string[] };
}

/** @param send what asks the server   @param baseUrl whose requests are recorded; others pass */
export async function recordCalls(send: typeof fetch, baseUrl: string): Promise<RecordedCalls> {
  const document = (await (await send(`${baseUrl}/openapi.json`)).json()) as Document;
  const ajv = new Ajv2020({ strict: false, allErrors: true, coerceTypes: 'array' });
  const exact = new Ajv2020({ strict: false, allErrors: true });
  for (const each of [ajv, exact]) {
    formats.default(each);
    each.addFormat('binary', true);
    each.addSchema({ $id: 'api', components: document.components });
  }
  const compiled = new Map<object, ValidateFunction>();
  const check = (schema: object, value: unknown, text = false): string | null => {
    const by = text ? ajv : exact;
    const validate = compiled.get(schema) ?? by.compile(atApi(schema) as object);
    compiled.set(schema, validate);
    return validate(value) ? null : by.errorsText(validate.errors);
  };

  const operations = Object.entries(document.paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, operation]) => ({ method: method.toUpperCase(), path, operation })),
  );
  const faults: string[] = [];
  const reading: Promise<void>[] = [];
  const answered = new Set<string>();

  function checkRequest(operation: Operation, url: URL, params: Record<string, string>, request: Recorded): string[] {
    const wrong: string[] = [];
    const declared = operation.parameters ?? [];
    for (const { name, in: place, required, schema } of declared) {
      const value =
        place === 'path' ? params[name] : place === 'query' ? url.searchParams.get(name) : request.headers.get(name);
      if (value === null || value === undefined) {
        if (required) wrong.push(`lacks ${name}`);
        continue;
      }
      const error = check(schema, value, true);
      if (error !== null) wrong.push(`${name}=${value}: ${error}`);
    }
    for (const name of url.searchParams.keys())
      if (!declared.some((each) => each.in === 'query' && each.name === name)) wrong.push(`unknown ${name}`);
    const type = mediaType(request.headers);
    if (request.json === undefined && type !== 'application/octet-stream') {
      if (operation.requestBody?.required) wrong.push('lacks a body');
      return wrong;
    }
    const media = operation.requestBody?.content[type ?? ''];
    if (media === undefined) wrong.push(`body of type ${type}`);
    else if (request.json !== undefined)
      wrong.push(...[check(media.schema, request.json)].filter((each) => each !== null));
    return wrong;
  }

  function checkAnswer(operation: Operation, { status, headers }: Response, text: string): string[] {
    if (!headers.get('x-request-id')) return ['no X-Request-Id'];
    const declared = operation.responses[status];
    if (declared === undefined) return [`status ${status} is not declared`];
    const type = mediaType(headers);
    const content = declared.content ?? {};
    if (Object.keys(content).length === 0) return text ? ['a body, where none is declared'] : [];
    const media = content[type ?? ''];
    if (media === undefined) return [`type ${type}; declared are ${Object.keys(content).join(', ')}`];
    if (type === 'text/event-stream') return eventFaults(text);
    // A file, of whatever type.
    if (!type?.endsWith('json') || 'format' in media.schema) return [];
    const body: unknown = JSON.parse(text);
    const error = check(media.schema, body);
    if (error !== null) return [error];
    const { code } = body as { code?: string };
    const codes = declared.description.split(', ');
    return type === 'application/problem+json' && !codes.includes(code ?? '') ? [`problem ${code}, not declared`] : [];
  }

  const event = { $ref: '#/components/schemas/JobEvent' };
  const eventFaults = (text: string): string[] =>
    // What the client has left, or was cut on purpose, ends in its midst.
    [...text.matchAll(/^data: (.*)\n\n/gm)].flatMap(([, data = '']) => check(event, JSON.parse(data)) ?? []);

  return {
    async fetch(input, init) {
      const request = new Request(input, { ...init, duplex: 'half' } as RequestInit);
      const url = new URL(request.url);
      if (url.origin !== new URL(baseUrl).origin) return send(request);
      const recorded = { headers: new Headers(request.headers), json: await jsonOf(request) };
      const { method } = request;
      const answer = await send(request);
      const name = `${method} ${url.pathname}`;
      const found = operations.find((each) => each.method === method && matchPath(each.path, url.pathname) !== null);
      if (found === undefined) {
        faults.push(`${name}: not in the document`);
        return answer;
      }
      const { operation } = found;
      const where = `${operation.operationId} (${name}) ${answer.status}`;
      // What was asked wrongly on purpose is refused.
      if (answer.status < 400) {
        answered.add(operation.operationId);
        const params = matchPath(found.path, url.pathname) ?? {};
        faults.push(...checkRequest(operation, url, params, recorded).map((each) => `${where}, request: ${each}`));
      }
      const { body, text } = await tapped(answer);
      const read = text
        .then((whole) => checkAnswer(operation, answer, whole))
        .catch((error: unknown) => [String(error)])
        .then((all) => void faults.push(...all.map((each) => `${where}, answer: ${each}`)));
      reading.push(read);
      return new Response(body, answer);
    },
    async faults() {
      await Promise.all(reading);
      return faults;
    },
    operations() {
      const ids = operations.map(({ operation }) => operation.operationId);
      return { answered: ids.filter((id) => answered.has(id)), never: ids.filter((id) => !answered.has(id)) };
    },
  };
}

interface Recorded {
  readonly headers: Headers;
  readonly json: unknown;
}

async function jsonOf(request: Request): Promise<unknown> {
  if (mediaType(request.headers) !== 'application/json') return undefined;
  const text = await request.clone().text();
  return text === '' ? undefined : (JSON.parse(text) as unknown);
}

const mediaType = (headers: Headers): string | undefined => headers.get('content-type')?.split(';')[0]?.trim();

/** A body to hand on, and what was read of it in the end; only a stream of events is not read beforehand. */
async function tapped(answer: Response): Promise<{ body: BodyInit | null; text: Promise<string> }> {
  if (answer.body === null) return { body: null, text: Promise.resolve('') };
  if (mediaType(answer.headers) !== 'text/event-stream') {
    const bytes = await answer.arrayBuffer();
    return { body: bytes.byteLength === 0 ? null : bytes, text: Promise.resolve(new TextDecoder().decode(bytes)) };
  }
  const reader = answer.body.getReader();
  const decoder = new TextDecoder();
  let read = '';
  let end: (text: string) => void = () => undefined;
  const text = new Promise<string>((resolve) => (end = resolve));
  const body = new ReadableStream<Uint8Array>({
    async pull(controller) {
      try {
        const { done, value } = await reader.read();
        if (!done) {
          read += decoder.decode(value, { stream: true });
          controller.enqueue(value);
          return;
        }
        controller.close();
      } catch (error) {
        controller.error(error);
      }
      end(read);
    },
    async cancel(reason) {
      end(read);
      await reader.cancel(reason);
    },
  });
  return { body, text };
}

/** Its parameters, decoded; `path` is the one that takes slashes. */
function matchPath(path: string, actual: string): Record<string, string> | null {
  const names: string[] = [];
  const pattern = path.replaceAll(/\{(\w+)\}/g, (_, name: string) => {
    names.push(name);
    return name === 'path' ? '(.+)' : '([^/]+)';
  });
  const match = new RegExp(`^${pattern}$`).exec(actual);
  return match && Object.fromEntries(names.map((name, index) => [name, decodeURIComponent(match[index + 1] ?? '')]));
}

/** References within the document are into what was added as `api`. */
function atApi(schema: unknown): unknown {
  if (Array.isArray(schema)) return schema.map(atApi);
  if (typeof schema !== 'object' || schema === null) return schema;
  return Object.fromEntries(
    Object.entries(schema).map(([name, value]) => [
      name,
      name === '$ref' && typeof value === 'string' ? `api${value}` : atApi(value),
    ]),
  );
}
