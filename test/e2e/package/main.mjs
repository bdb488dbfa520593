import { use } from './use.mjs';

const environment = globalThis.process.env;
console.log(JSON.stringify(await use({ baseUrl: environment.BASE_URL, modelId: environment.MODEL_ID })));
