/** Where a comparison keeps what it has of each scheme, under the job's `checkpoints/` and `scratch/`. */

/** `variants/03`; what the scheme goes on from lies in the folder of this name.  @param number from 1 on */
export const schemeFolder = (number: number): string => `variants/${String(number).padStart(2, '0')}`;
/** In `checkpoints/`: written once, when the scheme has been tried. */
export const schemeResult = (number: number): string => `${schemeFolder(number)}.json`;
/** In `scratch/`: how far its worker is. */
export const schemeShare = (number: number): string => `${schemeFolder(number)}.share`;
