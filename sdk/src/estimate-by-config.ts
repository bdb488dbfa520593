/** An estimate of a model of which the server has nothing yet. */
import { createHash } from 'node:crypto';
import type { RequestOptions } from './client.ts';
import type { CreateJob, Estimate } from './contract/index.ts';
import type { CherryQ } from './index.ts';

/** Sends `config.json` alone, as the beginning of an upload that is deleted afterwards. */
export async function estimateByConfig(
  client: CherryQ,
  { name, config }: { name: string; config: Uint8Array<ArrayBuffer> },
  requestFor: (modelId: string) => CreateJob | Promise<CreateJob>,
  options: RequestOptions = {},
): Promise<Estimate> {
  const path = 'config.json';
  const sizeBytes = config.byteLength;
  const sha256 = createHash('sha256').update(config).digest('hex');
  // Not `upload`, which would take a model that is there already, and that is not to be deleted.
  const { id } = await client.models.create({ name, files: [{ path, sizeBytes, sha256 }] }, options);
  try {
    await client.models.putFile(id, path, { sizeBytes, open: () => config }, options);
    return await client.estimates.create(await requestFor(id), options);
  } finally {
    await client.models.delete(id);
  }
}
