/**
 * Ways past whoever holds the credentials: signed addresses by which a client sends the parts of a large object to S3 itself,
 * and fetches one from there. S3 checks each part against the SHA-256 that its address was signed with.
 */
import type { CompletedPart, S3Client } from '@aws-sdk/client-s3';
import type * as S3Sdk from './s3-sdk.ts';
import type { DirectAccess, DirectRequest, StoredPart } from './store.ts';

export interface S3DirectOptions {
  /** Client and module of the SDK, loaded when they are first needed. */
  readonly sdk: () => Promise<{ sdk: typeof S3Sdk; client: S3Client }>;
  readonly place: (key: string) => { Bucket: string; Key: string };
  /** @throws errors that say what people can do */
  readonly asking: <Answer>(key: string, ask: () => Promise<Answer>) => Promise<Answer>;
}

/** Long enough for a part on a slow line, short enough that a leaked address is soon worth nothing. */
export const directSeconds = 3600;

export function createS3Direct({ sdk: load, place, asking }: S3DirectOptions): DirectAccess {
  return {
    expiresInSeconds: directSeconds,

    async begin(key) {
      const { sdk, client } = await load();
      const command = new sdk.CreateMultipartUploadCommand({ ...place(key), ChecksumAlgorithm: 'SHA256' });
      const { UploadId } = await asking(key, () => client.send(command));
      if (UploadId === undefined) throw new Error(`S3 gave no id for the upload of ${key}`);
      return UploadId;
    },

    async partRequest(key, uploadId, { number, sizeBytes, sha256 }): Promise<DirectRequest> {
      const { sdk, client } = await load();
      const ChecksumSHA256 = Buffer.from(sha256, 'hex').toString('base64');
      const command = new sdk.UploadPartCommand({
        ...place(key),
        UploadId: uploadId,
        PartNumber: number,
        ContentLength: sizeBytes,
        ChecksumSHA256,
      });
      const url = await sdk.getSignedUrl(client, command, {
        expiresIn: directSeconds,
        // Signed, but sent as headers: a client cannot send other bytes under this address.
        unhoistableHeaders: new Set(['x-amz-checksum-sha256']),
        signableHeaders: new Set(['host', 'content-length', 'x-amz-checksum-sha256']),
      });
      return { url, headers: { 'x-amz-checksum-sha256': ChecksumSHA256 } };
    },

    async parts(key, uploadId) {
      const { sdk, client } = await load();
      const parts: StoredPart[] = [];
      let PartNumberMarker: string | undefined;
      do {
        const command = new sdk.ListPartsCommand({ ...place(key), UploadId: uploadId, PartNumberMarker });
        const page = await asking(key, () =>
          client.send(command).catch((error: unknown) => {
            if (error instanceof Error && error.name === 'NoSuchUpload') return null;
            throw error;
          }),
        );
        if (page === null) return null;
        for (const { PartNumber = 0, Size = 0, ETag = '', ChecksumSHA256 } of page.Parts ?? []) {
          const sha256 = ChecksumSHA256 === undefined ? null : Buffer.from(ChecksumSHA256, 'base64').toString('hex');
          parts.push({ number: PartNumber, sizeBytes: Size, sha256, etag: ETag });
        }
        PartNumberMarker = page.IsTruncated ? page.NextPartNumberMarker : undefined;
      } while (PartNumberMarker !== undefined);
      return parts;
    },

    async finish(key, uploadId, parts) {
      const { sdk, client } = await load();
      const Parts = parts.map(({ number, etag, sha256 }): CompletedPart => ({
        PartNumber: number,
        ETag: etag,
        ...(sha256 === null ? {} : { ChecksumSHA256: Buffer.from(sha256, 'hex').toString('base64') }),
      }));
      const command = new sdk.CompleteMultipartUploadCommand({
        ...place(key),
        UploadId: uploadId,
        MultipartUpload: { Parts },
        IfNoneMatch: '*',
      });
      await asking(key, () =>
        client.send(command).catch((error: unknown) => {
          // It is there: by an earlier try whose answer was lost, or by another way.
          if (error instanceof Error && ['PreconditionFailed', 'NoSuchUpload'].includes(error.name)) return;
          throw error;
        }),
      );
      return true;
    },

    async abort(key, uploadId) {
      const { sdk, client } = await load();
      const command = new sdk.AbortMultipartUploadCommand({ ...place(key), UploadId: uploadId });
      await asking(key, () =>
        client.send(command).catch((error: unknown) => {
          if (error instanceof Error && error.name === 'NoSuchUpload') return;
          throw error;
        }),
      );
    },

    async downloadUrl(key) {
      const { sdk, client } = await load();
      return sdk.getSignedUrl(client, new sdk.GetObjectCommand(place(key)), { expiresIn: directSeconds });
    },
  };
}
