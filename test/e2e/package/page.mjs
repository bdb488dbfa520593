import { use } from './use.mjs';

const modelId = new URLSearchParams(globalThis.location.search).get('model');
const seen = await use({ baseUrl: globalThis.location.origin, modelId }).catch((error) => ({
  failed: String(error?.stack),
}));
await fetch('/seen', { method: 'POST', body: JSON.stringify(seen) });
