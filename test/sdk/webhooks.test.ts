import { describe, expect, it, onTestFinished } from 'vitest';
import { Webhook } from 'standardwebhooks';
import { SignatureError, unwrapWebhook } from 'cherryq';
import { openTestApi } from '../support/api.ts';
import { listen } from '../support/listen.ts';
import { clientOf } from './support.ts';

/** The example of the Standard Webhooks documentation. */
const example = {
  secret: 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw',
  body: '{"test": 2432232314}',
  headers: {
    'webhook-id': 'msg_p5jXN8AQM9LWM0D4loKWxJek',
    'webhook-timestamp': '1614265330',
    'webhook-signature': 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
  },
  now: 1_614_265_330_000,
};
const unwrap = (changes: Partial<typeof example>): Promise<unknown> => {
  const { body, headers, secret, now } = { ...example, ...changes };
  return unwrapWebhook(body, headers, secret, { now });
};
const withSignature = (signature: string) => ({
  headers: { ...example.headers, 'webhook-signature': signature },
});

describe('unwrapWebhook', () => {
  it('gives what was signed, as the published example has it', async () => {
    expect(await unwrap({})).toEqual({ test: 2432232314 });
  });

  it('takes what the reference library signs, from the headers of fetch and of Node alike', async () => {
    const time = new Date(example.now);
    const body = JSON.stringify({ type: 'webhook.test', text: 'ä 漢' });
    const signature = new Webhook(example.secret).sign('msg_1', time, body);
    const headers = { 'Webhook-Id': 'msg_1', 'Webhook-Timestamp': '1614265330', 'Webhook-Signature': signature };
    for (const each of [headers, new Headers(headers), { ...headers, 'Webhook-Id': ['msg_1'] }])
      expect(await unwrapWebhook(body, each, example.secret, { now: example.now })).toEqual(JSON.parse(body));
  });

  it('takes one fitting signature among several, of other versions too', async () => {
    const [fits, other] = [example.headers['webhook-signature'], 'v1,AAAA'];
    expect(await unwrap(withSignature(`${other} v1a,AAAA ${fits}`))).toEqual({ test: 2432232314 });
  });

  it.each([
    ['another body', { body: '{"test":2432232314}' }, 'wrong_signature'],
    ['another secret', { secret: 'whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA' }, 'wrong_signature'],
    ['another id', { headers: { ...example.headers, 'webhook-id': 'msg_2' } }, 'wrong_signature'],
    [
      'no signature of a known version',
      withSignature('v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE='),
      'wrong_signature',
    ],
    ['a signature that is no base64', withSignature('v1,***'), 'wrong_signature'],
    ['a secret that is none', { secret: 'mine' }, 'wrong_secret'],
    ['a missing header', { headers: { ...example.headers, 'webhook-id': '' } }, 'missing_header'],
    ['a time that is none', { headers: { ...example.headers, 'webhook-timestamp': 'now' } }, 'timestamp_out_of_range'],
    ['a call of six minutes ago', { now: example.now + 360_000 }, 'timestamp_out_of_range'],
    ['a clock six minutes behind', { now: example.now - 360_000 }, 'timestamp_out_of_range'],
  ])('refuses %s', async (_, changes, code) => {
    const refused = unwrap(changes);
    await expect(refused).rejects.toBeInstanceOf(SignatureError);
    await expect(refused).rejects.toMatchObject({ code });
  });

  it.each([299_000, -299_000])('bears a clock that is %i ms off', async (off) => {
    expect(await unwrap({ now: example.now + off })).toEqual({ test: 2432232314 });
  });
});

describe('client.webhooks', () => {
  it('makes, tests, changes, replays and deletes a webhook', async () => {
    const api = await openTestApi();
    onTestFinished(api.close);
    const client = clientOf(api);
    const calls: string[] = [];
    const url = await listen((request, response) => {
      calls.push(String(request.headers['webhook-id']));
      response.writeHead(204).end();
    });
    const { secret, ...webhook } = await client.webhooks.create({ url });
    expect(await client.webhooks.retrieve(webhook.id)).toEqual(webhook);
    expect((await client.webhooks.list()).data).toEqual([webhook]);
    const tested = await client.webhooks.test(webhook.id);
    expect(tested.status).toBe('delivered');
    expect((await client.webhooks.replay(webhook.id, tested.id)).attempts).toHaveLength(2);
    expect(calls).toEqual([`msg_${tested.id}`, `msg_${tested.id}`]);
    const ids: string[] = [];
    for await (const { id } of client.webhooks.iterateDeliveries(webhook.id, { limit: 1 })) ids.push(id);
    expect(ids).toEqual([tested.id]);
    expect((await client.webhooks.rotateSecret(webhook.id)).secret).not.toBe(secret);
    expect(await client.webhooks.update(webhook.id, { enabled: false })).toMatchObject({ enabled: false });
    await client.webhooks.delete(webhook.id);
    await expect(client.webhooks.retrieve(webhook.id)).rejects.toMatchObject({ code: 'not_found' });
  });
});
