/** The OpenAPI document: what the routes declare, and beside it names, examples, headers and keys, which all routes share. */
import { problemCodes, type ProblemCode } from 'cherryq/contract';
import { exampleBody, exampleProblem, operationIds, sdkCalls, tags } from './examples.ts';
import { filePathPattern, type Api } from './openapi.ts';

/** What this file reads and completes of an operation. */
interface Operation {
  operationId?: string;
  'x-sdk'?: string;
  security?: object[];
  parameters?: { in: string; name: string }[];
  requestBody?: { content: Content };
  responses: Record<string, { description: string; headers?: object; content?: Content }>;
}
type Content = Record<string, { schema: { $ref?: string }; examples?: object; example?: unknown }>;

const header = (description: string) => ({ description, schema: { type: 'string' } });
const headers = {
  requestId: { 'X-Request-Id': header("The request's id, which the server's log has too.") },
  rates: {
    'RateLimit-Policy': header(
      'The limit on requests, where the tenant has one (draft-ietf-httpapi-ratelimit-headers).',
    ),
    RateLimit: header('What is left of it, and when it is whole again.'),
  },
  created: {
    Location: header('Address of what was created.'),
    'Idempotent-Replayed': header(
      '`true` when this is the answer to an earlier request with the same Idempotency-Key.',
    ),
  },
  file: {
    ETag: header("The file's SHA-256, in quotes."),
    'Accept-Ranges': header('`bytes`'),
    'Content-Range': header('Which bytes these are, of how many; with 206.'),
  },
  retry: { 'Retry-After': header('Seconds to wait before the request is sent again.') },
  challenge: { 'WWW-Authenticate': header('How to show a key.') },
  elsewhere: { Location: header('Address of the file in the store.') },
  outside: { 'Content-Range': header("`bytes */` and the file's length.") },
} as const;

const headerNames: Readonly<Record<string, string>> = {
  'idempotency-key': 'Idempotency-Key',
  'last-event-id': 'Last-Event-ID',
  range: 'Range',
  'if-range': 'If-Range',
  'if-none-match': 'If-None-Match',
};

export function openApiDocument(app: Api, version: string) {
  const document = app.getOpenAPI31Document({
    openapi: '3.1.0',
    info: {
      title: 'CherryQ',
      version,
      description:
        'Compresses language models to 2, 3, 4 or 8 bits. Errors are RFC 9457 problem details with a stable code.',
      license: { name: 'Apache-2.0' },
    },
    servers: [{ url: '/', description: 'The server that gave this document' }],
    tags: Object.entries(tags).map(([name, description]) => ({ name, description })),
    // On loopback no key is asked for.
    security: [{ bearerKey: [] }, { apiKey: [] }, {}],
  });
  const paths: Record<string, Record<string, Operation>> = {};
  for (const [route, item] of Object.entries(document.paths ?? {})) {
    const path = route.replace(filePathPattern, '{path}');
    paths[path] = item as Record<string, Operation>;
    for (const [method, operation] of Object.entries(paths[path]))
      complete(`${method.toUpperCase()} ${path}`, operation);
  }
  const securitySchemes = {
    bearerKey: { type: 'http', scheme: 'bearer', description: 'An API key: `Authorization: Bearer cq_...`' },
    apiKey: { type: 'apiKey', in: 'header', name: 'X-Api-Key', description: 'The same key in a header of its own.' },
  };
  return { ...document, paths, components: { ...document.components, securitySchemes } };
}

function complete(name: string, operation: Operation): void {
  const isOpen = !name.includes(' /v1/');
  operation.operationId = operationIds[name];
  operation['x-sdk'] = sdkCalls[name];
  if (isOpen) operation.security = [];
  for (const parameter of operation.parameters ?? [])
    if (parameter.in === 'header') parameter.name = headerNames[parameter.name] ?? parameter.name;
  for (const [media, body] of Object.entries(operation.requestBody?.content ?? {}))
    body.example = exampleBody(name, null, media, schemaName(body));
  for (const [status, response] of Object.entries(operation.responses)) {
    response.headers = { ...headers.requestId, ...(isOpen ? {} : headers.rates), ...headersOf(name, status) };
    for (const [media, body] of Object.entries(response.content ?? {}))
      if (media === 'application/problem+json')
        body.examples = Object.fromEntries(
          codesOf(response.description).map((code) => [code, { value: exampleProblem(name, code) }]),
        );
      else body.example = exampleBody(name, status, media, schemaName(body));
  }
}

const schemaName = ({ schema }: Content[string]): string => schema.$ref?.split('/').at(-1) ?? '';

/** `problems` describes a response by its codes. */
const codesOf = (description: string): ProblemCode[] =>
  description.split(', ').filter((word): word is ProblemCode => Object.hasOwn(problemCodes, word));

function headersOf(name: string, status: string): object {
  const isFile = name === 'GET /v1/jobs/{id}/artifacts/{path}';
  switch (status) {
    case '201':
    case '202':
      return name === 'POST /v1/keys' ? {} : headers.created;
    case '200':
    case '206':
    case '304':
      return isFile ? headers.file : {};
    case '307':
      return headers.elsewhere;
    case '401':
      return headers.challenge;
    case '409':
    case '429':
      return headers.retry;
    case '416':
      return headers.outside;
    default:
      return {};
  }
}
