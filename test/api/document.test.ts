/** The served OpenAPI document: valid, complete, and with examples that its own schemas and the contract take. */
import { Validator } from '@seriousme/openapi-schema-validator';
import { Ajv2020 } from 'ajv/dist/2020.js';
import formats from 'ajv-formats';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { problemSchema } from 'cherryq/contract';
import { pages, schemas } from '../../api/src/openapi.ts';
import { exampleIds } from '../../api/src/examples.ts';
import { jsonRequest, openTestApi, readProblem, uploadModel, type TestApi } from '../support/api.ts';

interface Media {
  schema: { $ref?: string };
  example?: unknown;
  examples?: Record<string, { value: unknown }>;
}
interface Operation {
  operationId: string;
  summary: string;
  tags: string[];
  parameters?: { name: string; in: string }[];
  requestBody?: { content: Record<string, Media> };
  responses: Record<string, { description: string; headers: object; content?: Record<string, Media> }>;
}
interface Document {
  servers: { url: string }[];
  tags: { name: string }[];
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: object; securitySchemes: object };
}

let api: TestApi;
let document: Document;
let operations: { name: string; operation: Operation }[];
let bodies: { where: string; media: Media; example: unknown }[];

beforeAll(async () => {
  api = await openTestApi();
  document = (await (await api.app.request('/openapi.json')).json()) as Document;
  operations = Object.entries(document.paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, operation]) => ({ name: `${method.toUpperCase()} ${path}`, operation })),
  );
  bodies = operations.flatMap(({ name, operation }) =>
    [['request', operation.requestBody] as const, ...Object.entries(operation.responses)].flatMap(([part, of]) =>
      Object.entries(of?.content ?? {}).flatMap(([type, media]) => {
        const examples = media.examples ? Object.values(media.examples).map(({ value }) => value) : [media.example];
        return examples.map((example) => ({ where: `${name} ${part} ${type}`, media, example }));
      }),
    ),
  );
});
afterAll(() => api.close());

describe('the OpenAPI document', () => {
  it('is valid OpenAPI 3.1', async () => {
    expect(await new Validator().validate({ ...document })).toEqual({ valid: true });
  });

  it('names and sorts every operation', () => {
    const ids = operations.map(({ operation }) => operation.operationId);
    expect(operations.filter(({ operation }) => !operation.operationId).map(({ name }) => name)).toEqual([]);
    expect(new Set(ids).size).toBe(ids.length);
    const known = document.tags.map(({ name }) => name);
    for (const { name, operation } of operations) {
      expect(operation.summary, name).toBeTruthy();
      expect(known, name).toEqual(expect.arrayContaining(operation.tags));
      for (const response of Object.values(operation.responses))
        expect(Object.keys(response.headers), name).toContain('X-Request-Id');
    }
  });

  it('has an example of every body, of every code of a problem too', () => {
    expect(bodies.filter(({ example }) => example === undefined).map(({ where }) => where)).toEqual([]);
    for (const { name, operation } of operations)
      for (const [status, { description, content }] of Object.entries(operation.responses))
        if (content?.['application/problem+json'])
          expect(Object.keys(content['application/problem+json'].examples ?? {}), `${name} ${status}`).toEqual(
            description.split(', '),
          );
  });

  it('has examples that its schemas take', () => {
    const ajv = new Ajv2020({ strict: false, allErrors: true });
    formats.default(ajv);
    ajv.addFormat('binary', true);
    ajv.addSchema({ $id: 'api', components: document.components });
    const wrong = bodies.flatMap(({ where, media, example }) => {
      const { $ref } = media.schema;
      const validate = ajv.compile($ref ? { $ref: `api${$ref}` } : media.schema);
      return validate(example) ? [] : [`${where}: ${ajv.errorsText(validate.errors)}`];
    });
    expect(wrong).toEqual([]);
  });

  it('has examples that the contract takes', () => {
    const named = [...Object.values(schemas), ...Object.values(pages)];
    let parsed = 0;
    for (const { where, media, example } of bodies) {
      const name = media.schema.$ref?.split('/').at(-1);
      const schema = named.find((each) => each.meta()?.id === name);
      if (schema === undefined) continue;
      const result = schema.safeParse(example);
      expect(result.error?.issues, where).toBeUndefined();
      parsed++;
    }
    expect(parsed).toBeGreaterThan(200);
  });

  it('says how to show a key, and which headers requests take', () => {
    expect(document.servers[0]?.url).toBe('/');
    expect(document.components.securitySchemes).toMatchObject({ bearerKey: { scheme: 'bearer' } });
    const parametersOf = (id: string) =>
      operations.find(({ operation }) => operation.operationId === id)?.operation.parameters?.map(({ name }) => name);
    expect(parametersOf('createJob')).toEqual(['Idempotency-Key']);
    expect(parametersOf('listEvents')).toContain('Last-Event-ID');
  });
});

describe('the examples of problems', () => {
  function shown(operationId: string, code: string): string {
    const operation = operations.find((each) => each.operation.operationId === operationId)?.operation;
    const all = Object.values(operation?.responses ?? {}).map(({ content }) => content?.['application/problem+json']);
    return problemSchema.parse(all.find((media) => media?.examples?.[code])?.examples?.[code]?.value).detail;
  }

  it('are in the words of the server', async () => {
    const { app } = api;
    const ask = async (method: string, path: string, code: Parameters<typeof readProblem>[1], body?: unknown) =>
      (await readProblem(await app.request(path, body === undefined ? { method } : jsonRequest(method, body)), code))
        .detail;
    const badJob = { modelId: exampleIds.model, scheme: { bits: 5 } };
    expect(await ask('POST', '/v1/jobs', 'invalid_request', badJob)).toBe(shown('createJob', 'invalid_request'));
    for (const [path, id, operationId] of [
      ['jobs', exampleIds.job, 'readJob'],
      ['models', exampleIds.model, 'readModel'],
      ['datasets', exampleIds.dataset, 'readDataset'],
    ] as const)
      expect(await ask('GET', `/v1/${path}/${id}`, 'not_found')).toBe(shown(operationId, 'not_found'));
    expect(await ask('DELETE', `/v1/keys/${exampleIds.key}`, 'not_found')).toBe(shown('revokeKey', 'not_found'));
    const large = 'x'.repeat(2_097_153);
    expect(await ask('POST', '/v1/jobs', 'payload_too_large', large)).toBe(shown('createJob', 'payload_too_large'));
    const limited = await openTestApi({ limits: { openJobs: 4 } });
    const { id: modelId } = await uploadModel(limited);
    const job = jsonRequest('POST', { modelId, scheme: { method: 'rtn' } });
    for (let made = 0; made < 4; made++) expect((await limited.app.request('/v1/jobs', job)).status).toBe(202);
    const { detail } = await readProblem(await limited.app.request('/v1/jobs', job), 'quota_exceeded');
    expect(detail).toBe(shown('createJob', 'quota_exceeded'));
    await limited.close();
    expect(await ask('GET', '/v1/jobs?limit=1000', 'invalid_request')).toBe(shown('listJobs', 'invalid_request'));
  });

  it('are in the words of a server with keys', async () => {
    const withKeys = await openTestApi({ withKeys: true });
    const { secret } = await withKeys.keyring.create('acme', { name: 'reader', scope: 'read' });
    const told = async (key: string, code: Parameters<typeof readProblem>[1]) =>
      (
        await readProblem(
          await withKeys.app.request('/v1/jobs', jsonRequest('POST', {}, { authorization: `Bearer ${key}` })),
          code,
        )
      ).detail;
    expect(await told(secret, 'forbidden')).toBe(shown('createJob', 'forbidden'));
    expect(await told(`${secret.slice(0, -1)}${secret.endsWith('0') ? '1' : '0'}`, 'unauthorized')).toBe(
      shown('createJob', 'unauthorized'),
    );
    await withKeys.close();
  });
});
