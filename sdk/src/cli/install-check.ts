/** Whether a private install works, asked from outside. It starts no job, and takes away what it has put. */
import { createHash, randomBytes } from 'node:crypto';
import { estimateByConfig } from '../estimate-by-config.ts';
import { CherryQ } from '../index.ts';
import { signingFetch, type AwsCredentials } from './sign.ts';

export interface Check {
  readonly name: string;
  readonly passed: boolean;
  /** What was found; of what is wrong, what to do. */
  readonly detail: string;
}

export interface CheckOptions {
  readonly url: string;
  readonly apiKey?: string;
  /** For a front that checks AWS identities. */
  readonly credentials?: AwsCredentials;
  readonly region: string;
  readonly send?: typeof fetch;
}

const sha256 = (content: Uint8Array): string => createHash('sha256').update(content).digest('hex');

/** @returns one after the other; after a check that all others need, none */
export async function checkInstall(options: CheckOptions): Promise<Check[]> {
  const { url, apiKey, credentials, region, send = fetch } = options;
  const base = url.replace(/\/+$/, '');
  const ours: typeof fetch = credentials === undefined ? send : signingFetch(credentials, region, send);
  const client = new CherryQ({
    baseUrl: base,
    apiKey,
    maxRetries: 1,
    // Addresses of the bucket are signed already.
    fetch: (input, init) =>
      new URL(input instanceof Request ? input.url : input).origin === new URL(base).origin
        ? ours(input, init)
        : send(input, init),
  });
  const checks: Check[] = [];
  const check = async (name: string, ask: () => Promise<string>): Promise<boolean> => {
    try {
      checks.push({ name, passed: true, detail: await ask() });
    } catch (error) {
      checks.push({ name, passed: false, detail: error instanceof Error ? error.message : String(error) });
    }
    return checks.at(-1)?.passed === true;
  };
  /** Something that is taken away whatever becomes of it. */
  const lent = async <Made extends { id: string }>(
    uploads: { delete(id: string): Promise<void> },
    made: Made,
    use: (made: Made) => Promise<string>,
  ): Promise<string> => {
    try {
      return await use(made);
    } finally {
      await uploads.delete(made.id);
    }
  };

  await check('closed to strangers', async () => {
    const { status } = await send(`${base}/v1/jobs`);
    if (status === 401 || status === 403) return `without credentials it answers ${status}`;
    throw new Error(
      `GET /v1/jobs without credentials was answered with ${status}; it must be 401 or 403 (cherryq:auth)`,
    );
  });
  const lives = await check('health', async () => `version ${(await client.health.live()).version}`);
  if (!lives) return checks;
  await check('store and queues', async () => {
    await client.health.ready();
    return 'the bucket and every queue can be reached';
  });
  const content = new Uint8Array(
    randomBytes(64)
      .toString('hex')
      .split('')
      .map((letter) => letter.charCodeAt(0)),
  );
  const path = 'check.txt';
  const files = [{ path, sizeBytes: content.length, sha256: sha256(content) }];
  const stored = await check('signed addresses', async () =>
    lent(client.datasets, await client.datasets.create({ name: 'install check', files }), async ({ id }) => {
      const [part] = (
        await client.datasets.requestParts(id, { path, parts: [{ number: 1, sha256: files[0]?.sha256 ?? '' }] })
      ).parts;
      if (part === undefined) throw new Error('the API has given no address');
      const put = (to: string, body: Uint8Array<ArrayBuffer>): Promise<Response> =>
        send(to, { method: 'PUT', headers: part.headers, body });
      const elsewhere = new URL(part.url);
      elsewhere.pathname = elsewhere.pathname.replace(path, 'other.txt');
      const refused = await put(elsewhere.href, content);
      if (refused.ok)
        throw new Error('an address that was changed to another key was taken; the bucket must not be public');
      const sent = await put(part.url, content);
      if (!sent.ok)
        throw new Error(`the bucket answered ${sent.status} to a part: ${(await sent.text()).slice(0, 300)}`);
      const { status } = await client.datasets.complete(id);
      return `a part went to the bucket and the upload is ${status}; another key was refused with ${refused.status}`;
    }),
  );
  if (!stored) return checks;
  await check('estimate', async () => {
    const config = new TextEncoder().encode(JSON.stringify(smallModel));
    const { allowed, reason, machine, machines } = await estimateByConfig(
      client,
      { name: 'install check', config },
      (modelId) => ({ modelId, scheme: { method: 'rtn' } }),
    );
    if (!allowed) throw new Error(reason ?? 'a small job would not be taken');
    return `a small job would run on ${machine}, one of ${machines.map(({ name }) => name).join(', ')}`;
  });
  return checks;
}

const smallModel = {
  architectures: ['LlamaForCausalLM'],
  hidden_size: 64,
  intermediate_size: 128,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  vocab_size: 256,
  max_position_embeddings: 128,
  rms_norm_eps: 1e-5,
};
