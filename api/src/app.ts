/**
 * The API as a function from Request to Response: no cloud, no process, no clock of its own. The order of the layers is the
 * order below. Whatever is thrown reaches `onError`, the one place that makes an answer of it.
 */
import { OpenAPIHono } from '@hono/zod-openapi';
import { bodyLimit } from 'hono/body-limit';
import { requestId } from 'hono/request-id';
import { monotonicFactory } from 'ulid';
import type { KeyScope, Problem } from 'cherryq/contract';
import { docsRoutes } from './docs-page.ts';
import { openApiDocument } from './document.ts';
import { checkScope } from './keyring.ts';
import { filePathPattern, maxBodyBytes, type Api, type ApiEnv } from './openapi.ts';
import type { Clock, Keys, Logger, Queue, Store } from './ports.ts';
import { ProblemError, toProblem, validationProblem } from './problems.ts';
import { artifactRoutes } from './routes/artifacts.ts';
import { defaultStreamOptions, eventRoutes, type StreamOptions } from './routes/events.ts';
import { estimateRoutes } from './routes/estimates.ts';
import { healthRoutes } from './routes/health.ts';
import { jobRoutes } from './routes/jobs.ts';
import { keyRoutes } from './routes/keys.ts';
import { uploadRoutes } from './routes/uploads.ts';
import { webhookRoutes } from './routes/webhooks.ts';
import { createServices, type Services } from './services.ts';

export interface AppDeps {
  store: Store;
  queue: Queue;
  clock: Clock;
  keys: Keys;
  /** On the same store, queue and clock; default: made for this app. */
  services?: Services;
  /** Of the running program, semantic. */
  version: string;
  logger: Logger;
  /** Asked first, for every request. @throws ProblemError when the request may not come in at all */
  guard?: (request: Request) => void;
  stream?: Partial<StreamOptions>;
  /** Ends the event streams, which would keep a closing server waiting. */
  signal?: AbortSignal;
}

export function createApp(options: AppDeps): Api {
  const { clock, keys, guard, logger, version } = options;
  const { reader, models, imports, datasets, jobs, keyring, meter, webhooks, machines } =
    options.services ?? createServices(options);
  const nextId = monotonicFactory();
  const deps = { ...options, imports, jobs, meter, machines, newId: (): string => nextId(clock.now()) };

  const app: Api = new OpenAPIHono<ApiEnv>({
    defaultHook: (result, c) => {
      if (result.success) return;
      const part = result.target;
      // zod-validator hands the unparsed value on beside the error; its type does not say so.
      const received: unknown = Reflect.get(result, 'data');
      throw validationProblem(part, result.error.issues, received, schemaOf(app, part, c.req.method, c.req.path));
    },
  });

  app.use(requestId());
  app.use(async (c, next) => {
    await next();
    // Set on the finished answer, since a route may have made its own.
    c.header('X-Request-Id', c.var.requestId);
    c.header('X-Content-Type-Options', 'nosniff');
  });
  app.use(async (c, next) => {
    guard?.(c.req.raw);
    await next();
  });
  app.use('/v1/*', async (c, next) => {
    const caller = await keys.authenticate(c.req.raw, c.env);
    c.set('tenant', caller.tenant);
    const rates = await meter.countRequest(caller.tenant);
    checkScope(caller, neededScope(c.req.method, c.req.path));
    await next();
    for (const [name, value] of Object.entries(rates)) c.header(name, value);
  });
  app.on(['POST', 'PATCH'], '/v1/*', bodyLimit({ maxSize: maxBodyBytes, onError: tooLarge }));

  healthRoutes(app, deps);
  uploadRoutes(app, 'model', { ...deps, uploads: models });
  uploadRoutes(app, 'dataset', { ...deps, uploads: datasets });
  jobRoutes(app, deps);
  eventRoutes(app, {
    ...deps,
    reader,
    stream: { ...defaultStreamOptions, ...options.stream },
    signal: options.signal ?? new AbortController().signal,
  });
  artifactRoutes(app, deps);
  estimateRoutes(app, deps);
  keyRoutes(app, { keyring, meter });
  webhookRoutes(app, { ...deps, webhooks });

  docsRoutes(app);
  app.get('/openapi.json', (c) => c.json(openApiDocument(app, version)));

  app.notFound((c) => {
    const allowed = routesAt(app, c.req.path).map((route) => route.method.toUpperCase());
    const error =
      allowed.length > 0
        ? new ProblemError(
            'method_not_allowed',
            `${c.req.method} is not possible on ${c.req.path}; ${allowed.join(', ')} is`,
            {
              headers: { Allow: allowed.join(', ') },
            },
          )
        : new ProblemError('not_found', `there is nothing at ${c.req.path}; GET /openapi.json lists every address`);
    const { problem, headers } = toProblem(error, c.var.requestId);
    return answer(problem, headers);
  });

  app.onError((error, c) => {
    const { problem, headers } = toProblem(error, c.var.requestId);
    // A client that went away in the middle of its upload is no fault of ours.
    if (problem.code === 'internal' && !c.req.raw.signal.aborted)
      logger({ level: 'error', message: `${c.req.method} ${c.req.path} failed`, requestId: problem.requestId, error });
    return answer(problem, headers);
  });

  return app;
}

/** Keys let others in, webhooks tell others what happens. */
const adminPaths = ['/v1/keys', '/v1/webhooks'];

function neededScope(method: string, path: string): KeyScope {
  if (adminPaths.some((each) => path === each || path.startsWith(`${each}/`))) return 'admin';
  return method === 'GET' || method === 'HEAD' ? 'read' : 'write';
}

function answer(problem: Problem, headers: Record<string, string>): Response {
  return new Response(JSON.stringify(problem), { status: problem.status, headers });
}

function tooLarge(): never {
  throw new ProblemError(
    'payload_too_large',
    `the body has more than ${maxBodyBytes} bytes, which is the most for JSON; files go through PUT, one by one`,
  );
}

type RouteDefinition = Extract<Api['openAPIRegistry']['definitions'][number], { type: 'route' }>['route'];

/** The routes, of any method, whose path matches. */
function routesAt(app: Api, path: string): RouteDefinition[] {
  return app.openAPIRegistry.definitions.flatMap((definition) =>
    definition.type === 'route' && pathPattern(definition.route.path).test(path) ? [definition.route] : [],
  );
}

const pathPattern = (path: string): RegExp =>
  new RegExp(`^${path.replace(filePathPattern, '.+').replaceAll(/\{\w+\}/g, '[^/]+')}$`);

/** What a part of the request was validated against; says which fields are known. */
function schemaOf(app: Api, part: string, method: string, path: string): unknown {
  const request = routesAt(app, path).find((route) => route.method === method.toLowerCase())?.request;
  if (part === 'query') return request?.query;
  const media = request?.body?.content['application/json'];
  return media && 'schema' in media ? media.schema : undefined;
}
