import { CreateSecretCommand, PutSecretValueCommand, SecretsManagerClient } from '@aws-sdk/client-secrets-manager';
import { afterAll, describe, expect, it } from 'vitest';
import { modelSchema } from 'cherryq/contract';
import { hubTokenOf } from '../../../api/src/adapters/hub-token.ts';
import { jsonRequest, openTestApi, read, until } from '../../support/api.ts';
import { startFaultyProxy } from '../../support/faulty-proxy.ts';
import { openHub } from '../../support/hub.ts';
import { startMoto } from '../../support/moto.ts';
import { tinyModelFiles } from '../../support/tiny-model.ts';

const moto = await startMoto();
afterAll(() => moto?.close());

describe.runIf(moto !== null)('the token for the Hub from Secrets Manager', () => {
  const { url, client } = moto ?? { url: '', client: { region: '' } };
  const secrets = new SecretsManagerClient(client);
  let now = 0;
  const clock = { now: () => now };

  async function secretWith(content: { SecretString?: string; SecretBinary?: Uint8Array }): Promise<string> {
    const { ARN = '' } = await secrets.send(new CreateSecretCommand({ Name: `hub/${Math.random()}`, ...content }));
    return ARN;
  }

  it('is read when the Hub is first asked, and a gated model is imported with it, which nobody is told', async () => {
    const secretArn = await secretWith({ SecretString: 'hf_secret\n' });
    const proxy = await startFaultyProxy(url);
    const { endpoint, requests } = await openHub(await tinyModelFiles(), { token: 'hf_secret' });
    const token = hubTokenOf({ secretArn, clock, client: { ...client, endpoint: proxy.url } });
    const api = await openTestApi({ sources: { allowFolders: false, buckets: [], hub: { endpoint, token } } });
    try {
      expect(proxy.requests).toHaveLength(0);
      const source = jsonRequest('POST', { source: 'hf://acme/tiny' });
      const { id } = await read(await api.app.request('/v1/models', source), 201, modelSchema);
      const model = await until(
        async () => read(await api.app.request(`/v1/models/${id}`), 200, modelSchema),
        ({ status }) => status !== 'importing',
      );
      expect(model.status).toBe('ready');
      expect(proxy.requests).toHaveLength(1);
      expect(requests.at(-1)?.authorization).toBe('Bearer hf_secret');
      for (const { key } of await api.store.list(''))
        expect(new TextDecoder().decode((await api.store.get(key)) ?? undefined), key).not.toContain('hf_secret');
      expect(JSON.stringify(api.log)).not.toContain('hf_secret');
    } finally {
      await api.close();
    }
  });

  it('is taken up anew within five minutes of its rotation', async () => {
    const secretArn = await secretWith({ SecretString: 'hf_old' });
    const token = hubTokenOf({ secretArn, clock, client });
    expect(await token()).toBe('hf_old');
    await secrets.send(new PutSecretValueCommand({ SecretId: secretArn, SecretString: 'hf_new' }));
    expect(await token()).toBe('hf_old');
    now += 300_000;
    expect(await token()).toBe('hf_new');
  });

  it.each([
    ['JSON of names and values', { SecretString: '{"HF_TOKEN": "hf_secret"}' }],
    ['two lines', { SecretString: 'hf_one\nhf_two' }],
    ['nothing but space', { SecretString: ' \n' }],
    ['bytes', { SecretBinary: new Uint8Array([1, 2, 3]) }],
  ])('is not taken from %s, and what is there is not told', async (_, content) => {
    const failure = hubTokenOf({ secretArn: await secretWith(content), clock, client })();
    await expect(failure).rejects.toMatchObject({ name: 'InputError', code: 'source_forbidden', param: 'source' });
    await expect(failure).rejects.toThrow('must hold the token as plain text');
    await expect(failure).rejects.not.toThrow('hf_');
  });

  it('that is not there says which setting names it', async () => {
    const secretArn = 'arn:aws:secretsmanager:eu-central-1:123456789012:secret:none-a1B2c3';
    const failure = hubTokenOf({ secretArn, clock, client })();
    await expect(failure).rejects.toMatchObject({ name: 'InputError', code: 'source_forbidden' });
    await expect(failure).rejects.toThrow(/ResourceNotFoundException.*cherryq:hubTokenSecret/);
  });

  it('may be readable the next time, where Secrets Manager has too much to do', async () => {
    const proxy = await startFaultyProxy(url);
    proxy.fail({ when: () => true, times: 100, kind: { status: 503, code: 'ServiceUnavailable' } });
    const secretArn = await secretWith({ SecretString: 'hf_secret' });
    const token = hubTokenOf({ secretArn, clock, client: { ...client, endpoint: proxy.url, maxAttempts: 1 } });
    await expect(token()).rejects.toMatchObject({ name: 'TransientError' });
  });
});
