import type { ByteRange } from './store.ts';

/** @throws RangeError unless start and end are whole numbers, 0 <= start <= end */
export function checkByteRange({ start, end }: ByteRange): void {
  if (Number.isSafeInteger(start) && Number.isSafeInteger(end) && start >= 0 && end >= start) return;
  throw new RangeError(`A byte range must have 0 <= start <= end in whole numbers; got ${start} to ${end}.`);
}

/** The part of a range that an object has.  @throws RangeError as `checkByteRange` */
export function rangeWithin(sizeBytes: number, range: ByteRange = { start: 0, end: sizeBytes }): ByteRange {
  checkByteRange(range);
  return { start: Math.min(range.start, sizeBytes), end: Math.min(range.end, sizeBytes) };
}
