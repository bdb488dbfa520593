import { createHash } from 'node:crypto';
import { describe, expect, it, onTestFinished } from 'vitest';
import { contentFingerprint } from '@cherryq/batch-jobs/storage';
import { CherryQ, fingerprintOf, UnprocessableError, type UploadProgress, type UploadSource } from 'cherryq';
import { declarationOf, openTestApi } from '../support/api.ts';
import { listen } from '../support/listen.ts';
import { tinyModelFiles, tinySources } from '../support/tiny-model.ts';
import { clientOf, inTurn, jobId, problem } from './support.ts';

const files: UploadSource[] = await tinySources();
const tiny = await tinyModelFiles();
const bytes = Object.values(tiny)
  .map((content) => content.length)
  .sort((a, b) => a - b);
const totalBytes = bytes.reduce((sum, each) => sum + each, 0);

async function open() {
  const api = await openTestApi();
  onTestFinished(api.close);
  const requests: string[] = [];
  const client = clientOf(api, ({ method, url }) => requests.push(`${method} ${new URL(url).pathname}`));
  return { client, requests };
}

describe('models.upload', () => {
  it('sends every file and returns the model ready', async () => {
    const { client } = await open();
    const progress: UploadProgress[] = [];
    const model = await client.models.upload({ name: 'tiny', files }, { onProgress: (each) => progress.push(each) });
    expect(model).toMatchObject({ object: 'model', name: 'tiny', status: 'ready', sizeBytes: totalBytes });
    expect(model.files.every((file) => file.uploaded)).toBe(true);
    // The small ones first.
    expect(progress.map((each) => each.sentBytes)).toEqual(
      bytes.map((_, index) => bytes.slice(0, index + 1).reduce((sum, each) => sum + each, 0)),
    );
    expect(progress.every((each) => each.totalBytes === totalBytes)).toBe(true);
  });

  it('sends nothing that the server has, whatever it was called', async () => {
    const { client, requests } = await open();
    const first = await client.models.upload({ name: 'tiny', files });
    requests.length = 0;
    expect(await client.models.upload({ name: 'again', files: files.toReversed() })).toEqual(first);
    expect(requests).toEqual(['GET /v1/models']);
  });

  it('takes bytes, text, Blobs, streams and what is opened later, and finds equal content of them all', async () => {
    const { client } = await open();
    const text = 'x'.repeat(9 * 2 ** 20);
    const encoded = new TextEncoder().encode(text);
    const path = 'text.txt';
    const sources: UploadSource[] = [
      { path, content: text },
      { path, content: encoded },
      { path, content: new Blob([text]) },
      { path, content: new Blob([text]).stream() },
      { ...declarationOf({ [path]: text })[0], open: () => new Blob([text]).stream() },
    ];
    for (const [index, source] of sources.entries()) {
      const dataset = await client.datasets.upload({ name: `source ${index}`, files: [source] });
      expect(dataset).toMatchObject({ status: 'ready', files: declarationOf({ [path]: text }) });
      expect((await client.datasets.list()).data.map(({ id }) => id)).toEqual([dataset.id]);
      await client.datasets.delete(dataset.id);
      const again = await client.datasets.upload({ name: 'again', files: [{ path, content: encoded }] });
      expect((await client.datasets.upload({ name: 'once more', files: [{ path, content: text }] })).id).toBe(again.id);
      await client.datasets.delete(again.id);
    }
  });

  it('takes a large Blob a part at a time, and stops reading it with its signal', async () => {
    const { client } = await open();
    const content = new Uint8Array(33 * 2 ** 20 + 5).map((_, index) => (index * 2_654_435_761) >>> 13);
    const blob = new Blob([content]);
    blob.arrayBuffer = () => Promise.reject(new Error('read as a whole'));
    const name = 'large';
    const dataset = await client.datasets.upload({ name, files: [{ path: 'text.txt', content: blob }] });
    expect(dataset).toMatchObject({ status: 'ready', files: declarationOf({ 'text.txt': content }) });
    const same = await client.datasets.upload({ name, files: [{ path: 'text.txt', content }] });
    expect(same.id).toBe(dataset.id);
    const stop = new AbortController();
    blob.stream = () =>
      new ReadableStream({
        pull(controller) {
          stop.abort(new Error('enough'));
          controller.enqueue(new Uint8Array(2 ** 16));
        },
      });
    const files = [{ path: 'text.txt', content: blob }];
    await expect(client.datasets.upload({ name, files }, { signal: stop.signal })).rejects.toThrow('enough');
  });

  it('goes on with an upload that broke off', async () => {
    const { client, requests } = await open();
    const begun = await client.models.create({ name: 'tiny', files: declarationOf(tiny) });
    const config = tiny['config.json'];
    await client.models.putFile(begun.id, 'config.json', { sizeBytes: config.length, open: () => new Blob([config]) });
    requests.length = 0;
    const model = await client.models.upload({ name: 'tiny', files });
    expect(model).toMatchObject({ id: begun.id, status: 'ready' });
    expect(requests.filter((request) => request.startsWith('PUT'))).toEqual([
      `PUT /v1/models/${begun.id}/files/tokenizer_config.json`,
      `PUT /v1/models/${begun.id}/files/tokenizer.json`,
      `PUT /v1/models/${begun.id}/files/model.safetensors`,
    ]);
  });

  it('throws what the server says of a file that is not what was declared', async () => {
    const { client } = await open();
    const wrong = { path: 'config.json', sizeBytes: 2, sha256: '0'.repeat(64), open: () => new Blob(['{}']) };
    const upload = client.models.upload({ name: 'tiny', files: [wrong] });
    await expect(upload).rejects.toThrow(UnprocessableError);
    await expect(upload).rejects.toThrow(/config\.json: SHA-256 0+ was declared/);
  });

  it('opens a file again for the second try', async () => {
    let opened = 0;
    const received: string[] = [];
    const baseUrl = await listen(
      inTurn(
        (_, response) => void response.destroy(),
        (request, response) => {
          request.on('data', (chunk: Buffer) => received.push(chunk.toString()));
          request.on('end', () => response.writeHead(204).end());
        },
      ),
    );
    const body = {
      sizeBytes: 2,
      open: () => {
        opened++;
        return new Blob(['{}']).stream();
      },
    };
    await new CherryQ({ baseUrl }).models.putFile(jobId, 'config.json', body);
    expect(opened).toBe(2);
    expect(received.join('')).toBe('{}');
  });

  it('announces the length of a stream', async () => {
    let length: string | undefined;
    const baseUrl = await listen((request, response) => {
      length = request.headers['content-length'];
      request.resume().on('end', () => response.writeHead(204).end());
    });
    const open = (): ReadableStream<Uint8Array> => new Blob(['x'.repeat(200_000)]).stream();
    await new CherryQ({ baseUrl }).models.putFile(jobId, 'model.safetensors', { sizeBytes: 200_000, open });
    expect(length).toBe('200000');
  });

  it('reports a refusal that comes before the file was taken', async () => {
    const detail = 'model was deleted';
    const baseUrl = await listen((_, response) => {
      response.writeHead(422, { 'content-type': 'application/problem+json' });
      response.end(JSON.stringify(problem({ status: 422, code: 'content_mismatch', detail })));
    });
    const open = (): ReadableStream<Uint8Array> => new Blob([new Uint8Array(8_000_000)]).stream();
    const put = new CherryQ({ baseUrl }).models.putFile(jobId, 'model.safetensors', { sizeBytes: 8_000_000, open });
    await expect(put).rejects.toThrow(detail);
  });
});

describe('models.iterate', () => {
  it('walks over all pages', async () => {
    const { client } = await open();
    for (const name of ['a', 'b', 'c'])
      await client.models.upload({ name, files: [...files, { path: 'LICENSE', content: name }] });
    const names: string[] = [];
    for await (const model of client.models.iterate({ limit: 2 })) names.push(model.name);
    expect(names).toEqual(['c', 'b', 'a']);
  });
});

describe('fingerprintOf', () => {
  it("is the server's, whatever the order", async () => {
    const described = ['tokenizer.json', 'a/b', 'a.b', 'a-b', 'Z'].map((path) => ({
      path,
      sha256: createHash('sha256').update(path).digest('hex'),
    }));
    expect(await fingerprintOf(described)).toBe(contentFingerprint(described));
    expect(await fingerprintOf(described.toReversed())).toBe(contentFingerprint(described));
  });
});
