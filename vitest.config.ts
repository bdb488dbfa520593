import { defineConfig } from 'vitest/config';

const source = (path: string): string => new URL(path, import.meta.url).pathname;

export default defineConfig({
  resolve: {
    alias: [
      { find: /^cherryq\/contract$/, replacement: source('./sdk/src/contract/index.ts') },
      { find: /^cherryq\/node$/, replacement: source('./sdk/src/node.ts') },
      { find: /^cherryq$/, replacement: source('./sdk/src/index.ts') },
      { find: /^@cherryq\/api\/estimates$/, replacement: source('./api/src/estimates.ts') },
      { find: /^@cherryq\/api\/machines$/, replacement: source('./api/src/machines.ts') },
      { find: /^@cherryq\/api\/serve$/, replacement: source('./api/src/serve.ts') },
      { find: /^@cherryq\/batch-jobs\/planning$/, replacement: source('./batch-jobs/src/planning.ts') },
      { find: /^@cherryq\/batch-jobs\/storage$/, replacement: source('./batch-jobs/src/storage/index.ts') },
      { find: /^@cherryq\/batch-jobs$/, replacement: source('./batch-jobs/src/index.ts') },
    ],
  },
  test: {
    include: ['test/**/*.test.ts'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    maxWorkers: 2,
  },
});
