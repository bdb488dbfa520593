// Uploads what an <input type="file" multiple> has, in a page or wherever else there are Blobs. Nothing here needs Node.js.
import type { CherryQ, Model } from 'cherryq';

/** @param files config.json, *.safetensors, tokenizer.json and what belongs to them; each is read for its hash and then as it is sent, a part at a time */
export async function uploadBlobs(
  client: CherryQ,
  files: Iterable<File>,
  onShare: (share: number) => void,
): Promise<Model> {
  return client.models.upload(
    { name: 'from a page', files: Array.from(files, (file) => ({ path: file.name, content: file })) },
    { onProgress: ({ sentBytes, totalBytes }) => onShare(sentBytes / totalBytes) },
  );
}

/** Begins a job and shows it as it goes. @param show called with a line at a time */
export async function compressUpload(client: CherryQ, modelId: string, show: (line: string) => void): Promise<Blob> {
  const job = await client.jobs.create({ modelId, scheme: { method: 'rtn', bits: 4, groupSize: 64 } });
  const { status } = await client.jobs.wait(job.id, { onEvent: ({ type }) => show(type) });
  if (status !== 'succeeded') throw new Error(`the job ended as ${status}`);
  const weights = await client.artifacts.download(job.id, 'model.safetensors');
  return new Blob([weights]);
}
