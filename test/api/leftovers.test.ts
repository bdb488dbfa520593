/** What nobody will need any more is removed by whoever looks first on a day. */
import { describe, expect, it, onTestFinished } from 'vitest';
import { modelSchema } from 'cherryq/contract';
import { removeLeftovers } from '../../api/src/services.ts';
import {
  declarationOf,
  jsonRequest,
  openTestApi,
  read,
  readProblem,
  uploadDataset,
  uploadModel,
} from '../support/api.ts';

const dayMs = 86_400_000;
const later = (days: number) => ({ now: () => Date.now() + days * dayMs });

async function open() {
  const api = await openTestApi();
  onTestFinished(api.close);
  const body = { name: 'begun', files: declarationOf({ 'config.json': '{}' }) };
  const declare = async (key: string) =>
    read(await api.app.request('/v1/models', jsonRequest('POST', body, { 'idempotency-key': key })), 201, modelSchema);
  return { api, declare };
}

describe('an upload that was begun and never completed', () => {
  it('is removed after seven days, or as many as are set; what is ready stays', async () => {
    const { api, declare } = await open();
    const [begun, ready, dataset] = [await declare('a'), await uploadModel(api), await uploadDataset(api, 'text')];
    expect(await removeLeftovers(api.services, later(6))).toMatchObject({ uploads: 0 });
    expect(await removeLeftovers(api.services, later(8))).toMatchObject({ uploads: 1 });
    await readProblem(await api.app.request(`/v1/models/${begun.id}`), 'not_found');
    expect((await api.app.request(`/v1/models/${ready.id}`)).status).toBe(200);
    expect((await api.app.request(`/v1/datasets/${dataset.id}`)).status).toBe(200);
    const again = await declare('b');
    expect(await removeLeftovers(api.services, later(4), 3)).toMatchObject({ uploads: 1 });
    await readProblem(await api.app.request(`/v1/models/${again.id}`), 'not_found');
  });

  it('is looked for once a day', async () => {
    const { api, declare } = await open();
    expect(await removeLeftovers(api.services, later(9))).toEqual({ uploads: 0, keys: 0 });
    await declare('a');
    expect(await removeLeftovers(api.services, later(9))).toEqual({ uploads: 0, keys: 0 });
    expect((await removeLeftovers(api.services, later(10))).uploads).toBe(1);
    expect(await api.store.list('swept/')).toHaveLength(1);
  });
});

describe('the record of an idempotency key', () => {
  it('is removed after seven days; until then the request is not done again', async () => {
    const { api, declare } = await open();
    const { id } = await declare('k');
    const records = () => api.store.list('tenants/local/idempotency/');
    expect(await removeLeftovers(api.services, later(6), 100)).toMatchObject({ keys: 0 });
    expect((await declare('k')).id).toBe(id);
    expect(await removeLeftovers(api.services, later(8), 100)).toMatchObject({ keys: 1 });
    expect(await records()).toEqual([]);
    expect((await declare('k')).id).not.toBe(id);
  });
});
