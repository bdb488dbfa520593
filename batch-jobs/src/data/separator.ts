/** What parts the documents of a plain text, as many published corpora have it. */
export const documentSeparator = '<|endoftext|>';

/** The documents of a text without the white space around separators; a text without separator is one, left as it is. */
export function splitDocuments(text: string): string[] {
  if (!text.includes(documentSeparator)) return [text];
  return text
    .split(documentSeparator)
    .map((document) => document.trim())
    .filter((document) => document !== '');
}
