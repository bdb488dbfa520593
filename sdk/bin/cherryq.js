#!/usr/bin/env node
const main = new URL('../dist/cli/main.js', import.meta.url);
try {
  await import(main.href);
} catch (error) {
  if (error?.code !== 'ERR_MODULE_NOT_FOUND') throw error;
  const missing = /'([^']+)'/.exec(error.message)?.[1] ?? 'a module';
  const advice = missing.endsWith('dist/cli/main.js') ? 'run npm run build first' : 'install it beside cherryq';
  console.error(`cherryq: ${missing} is not there; ${advice}`);
  process.exitCode = 1;
}
