/** What the client calls itself, so that a server's log tells programs apart. */

/** That of package.json, which a test compares. */
export const version = '0.1.0';

/** @returns undefined in a browser, which says who it is by itself */
export function userAgent(): string | undefined {
  const runtime = globalThis.navigator?.userAgent;
  if (runtime?.startsWith('Mozilla/')) return undefined;
  // Node.js 20 has no `navigator`.
  const node = (globalThis as { process?: { versions?: { node?: string } } }).process?.versions?.node;
  return [`cherryq/${version}`, runtime ?? (node && `Node.js/${node}`)].filter(Boolean).join(' ');
}
